"""Small files in the exact grammars of the data sets, written independently of the readers."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 12  # grid points a side of the test surface


def bump(side: int = SIDE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bulge like a face: ((v, 3) mm row by row from the forehead, (f, 3), (v, 2) u right, v up)."""
    x, y = np.meshgrid(np.linspace(-60, 60, side), np.linspace(60, -60, side))
    vertices = np.stack([x, y, 100 - (x**2 + y**2) / 80], axis=-1).reshape(-1, 3).round(4)
    number = np.arange(side * side).reshape(side, side)
    a, b, c, d = (n.ravel() for n in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
    faces = np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)])
    return vertices, faces, ((vertices[:, :2] + 60) / 120).round(6)


def joined(rows: np.ndarray, separator: str = ", ") -> str:
    return separator.join(" ".join(f"{value:.10g}" for value in row) for row in rows)


def indices(polygons: list[list[int]] | np.ndarray, *, last: bool = True) -> str:
    text = ", ".join(", ".join(map(str, polygon)) + ", -1" for polygon in polygons)
    return text if last else text.removesuffix(", -1")


def wrl(
    *, vertices: str, coord: str, uv: str = "", uv_index: str = "", url: str = "000.jpg", extra: str = ""
) -> str:
    """A VRML 2.0 file out of ready-made number lists."""
    texture = f'texture ImageTexture {{ url "{url}" }}' if url else ""
    tex_coord = f"texCoord TextureCoordinate {{ point [ {uv} ] }}" if uv else ""
    tex_index = f"texCoordIndex [ {uv_index} ]" if uv_index else ""
    return (
        '#VRML V2.0 utf8\n# made by a test { [ "\n'
        f"Shape {{ appearance Appearance {{ material Material {{ diffuseColor 0.9 0.9 0.9 }} {texture} }}\n"
        f"geometry IndexedFaceSet {{ ccw TRUE solid FALSE coord Coordinate {{ point [ {vertices} ] }}\n"
        f"coordIndex [ {coord} ] {tex_coord} {tex_index} {extra} }} }}\n"
    )


def bump_wrl(**changes: str) -> str:
    vertices, faces, uv = bump()
    parts = {
        "vertices": joined(vertices),
        "coord": indices(faces),
        "uv": joined(uv),
        "uv_index": indices(faces),
    }
    return wrl(**(parts | changes))


def image(path: Path, *, height: int = 40, width: int = 30) -> np.ndarray:
    """Four plain quarters: red and green above, blue and yellow below."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 10, 10)
    pixels[: height // 2, width // 2 :] = (10, 250, 10)
    pixels[height // 2 :, : width // 2] = (10, 10, 250)
    pixels[height // 2 :, width // 2 :] = (250, 250, 10)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def bump_grid() -> np.ndarray:
    """(5, R, C) x, y, z, a, b of the bulge, forehead first; b counts from the top. One hole, one far point."""
    vertices, _, uv = bump()
    return np.concatenate([vertices.T, uv[:, :1].T, 1 - uv[:, 1:].T]).reshape(5, SIDE, SIDE)


def bnt(
    grid: np.ndarray,
    *,
    background: float = -1e9,
    name: bytes = b"bs000_E_ANGER_0.png",
    count: int | None = None,
) -> bytes:
    """The bytes of a Bosphorus range image; `grid` (5, R, C) has the forehead first, the file the chin."""
    rows, columns = grid.shape[1:]
    head = struct.pack("<HHdH", rows, columns, background, len(name)) + name
    return (
        head
        + struct.pack("<I", 5 * rows * columns if count is None else count)
        + grid[:, ::-1].astype("<f8").tobytes()
    )


def lm3(
    points: dict[str, tuple[float, float, float]], *, star: bool = True, count: int | None = None
) -> bytes:
    """A `.lm3` with CRLF line ends, as in the Bosphorus set."""
    lines = ["3D landmarks", *(["*", "scanned somewhere", "marked by somebody", ""] if star else [])]
    lines.append(str(len(points) if count is None else count))
    for label, point in points.items():
        lines += [label, " ".join(f"{value:.4f}" for value in point)]
    return "".join(line + "\r\n" for line in lines).encode()


def bnd(vertices: np.ndarray, chosen: list[int], *, base: int, separator: str = "\t", tail: str = "") -> str:
    """A `.bnd`: `index x y z` rows for the chosen vertices."""
    rows = [separator.join([str(i + base), *(f"{value:.6f}" for value in vertices[i])]) for i in chosen]
    return "\n".join(rows) + "\n" + tail


def obj(
    *, lines: list[str] | None = None, library: str = "face.mtl", material: str = "skin", colors: bool = False
) -> str:
    """The bulge as OBJ, one vt a vertex; `lines` replaces the faces."""
    vertices, faces, uv = bump()
    tail = " 0.5 0.25 1" if colors else ""
    out = [f"mtllib {library}"] if library else []
    out += [f"v {x:.4f} {y:.4f} {z:.4f}{tail}" for x, y, z in vertices]
    out += [f"vt {u:.6f} {v:.6f}" for u, v in uv]
    out += [f"usemtl {material}"] if material else []
    return (
        "\n".join(out + (lines or [" ".join(["f", *(f"{i + 1}/{i + 1}" for i in face)]) for face in faces]))
        + "\n"
    )


def ply(
    vertices: np.ndarray,
    faces: np.ndarray | list[list[int]],
    *,
    color: tuple[int, int, int] | None,
    vertex_count: int | None = None,
) -> bytes:
    """Text PLY with or without vertex colours."""
    properties = ["property float x", "property float y", "property float z"]
    properties += [f"property uchar {name}" for name in ("red", "green", "blue")] if color else []
    head = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(vertices) if vertex_count is None else vertex_count}",
        *properties,
    ]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    body = [
        " ".join([f"{x:.4f} {y:.4f} {z:.4f}", *(map(str, color) if color else [])]) for x, y, z in vertices
    ]
    body += [" ".join(map(str, [len(face), *face])) for face in faces]
    return ("\n".join(head + body) + "\n").encode()


def color_at(texture_image: np.ndarray, corner_uv: np.ndarray) -> np.ndarray:
    """(f, 3) colour under the middle of each face: row = H - v * H."""
    height, width = texture_image.shape[:2]
    u, v = corner_uv.mean(axis=1).T
    row, column = ((1 - v) * height).astype(int), (u * width).astype(int)
    return texture_image[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)].astype(int)
