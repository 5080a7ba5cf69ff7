"""Writers of the file formats that face scanners and data sets really use; the grammars are on the data sets' page.

Each function writes one capture. Text is formatted in bulk, because a sequence has many frames.
Legend: R C rows and columns of a range image, v vertices, f faces.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from smile.scans.scan import Scan

from .face_landmarks import BOSPHORUS22, BU83
from .scanners import Capture

BACKGROUND = -1e9  # of a .bnt: what stands where nothing was measured


def save_image(path: Path, image: np.ndarray) -> None:
    """(H, W, 3) uint8 -> .jpg, .png or .bmp."""
    from PIL import Image

    options: dict[str, Any] = {".jpg": {"quality": 90}, ".png": {"compress_level": 3}}.get(path.suffix, {})
    Image.fromarray(image).save(path, **options)


def write_vrml(path: Path, scan: Scan, *, texture: str) -> None:
    """VRML 2.0 as in BU-3DFE and BU-4DFE: one IndexedFaceSet with texture coordinates of its own order.

    `texture`: name of the image beside the file.
    """
    uv, uv_faces = _vertex_uv(scan)
    uv, uv_faces = uv[::-1], len(uv) - 1 - uv_faces  # another order than the points, as real files may have
    parts = [
        '#VRML V2.0 utf8\n# a simulated face\nShape {\n appearance Appearance {\n  texture ImageTexture { url "',
        texture,
        '" }\n }\n geometry IndexedFaceSet {\n  ccw TRUE solid FALSE\n  coord Coordinate {\n   point [\n',
        _rows("%.4f %.4f %.4f,\n", scan.vertices),
        "   ]\n  }\n  coordIndex [\n",
        _rows("%d, %d, %d, -1,\n", scan.faces),
        "  ]\n  texCoord TextureCoordinate {\n   point [\n",
        _rows("%.6f %.6f,\n", uv),
        "   ]\n  }\n  texCoordIndex [\n",
        _rows("%d, %d, %d, -1,\n", uv_faces),
        "  ]\n }\n}\n",
    ]
    path.write_text("".join(parts), newline="\n")


def write_bnd(path: Path, scan: Scan) -> None:
    """BU landmarks: 83 rows `index x y z`, the index 0-based, the point that of the mesh's nearest vertex.

    A landmark out of sight is put on the nearest vertex too, because the format has no gaps.
    """
    known = {name: scan.landmarks[name] for name in BU83 if name in scan.landmarks}
    assert known, "a face without any landmark in sight"
    lines = []
    for name in BU83:
        point = known.get(name)
        if point is None:  # between its neighbours in the list
            row = BU83.index(name)
            point = known[min(known, key=lambda other: abs(BU83.index(other) - row))]
        index = int(((scan.vertices - point) ** 2).sum(1).argmin())
        x, y, z = scan.vertices[index]
        lines.append(f"{index}\t{x:.4f}\t{y:.4f}\t{z:.4f}\n")
    path.write_text("".join(lines), newline="\n")


def write_bnt(path: Path, shot: Capture, *, image: str) -> None:
    """Bosphorus range image: five columns x, y, z, a, b over a grid whose first row is the chin.

    `image`: the name of the picture, as in the header; (a, b) is the place in it, b from the top.
    """
    valid = np.isfinite(shot.points[..., 2])
    rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    height, width = shot.photo.shape[:2]
    place = (shot.pixels[box] + 0.5) / [width, height]
    grid = np.concatenate([np.round(shot.points[box], 4), place], axis=-1)
    grid[~valid[box]] = BACKGROUND
    grid = grid[::-1]
    name = image.encode("ascii")
    header = struct.pack("<HHdH", grid.shape[0], grid.shape[1], BACKGROUND, len(name)) + name
    columns_first = np.ascontiguousarray(np.moveaxis(grid, -1, 0), dtype="<f8")
    path.write_bytes(header + struct.pack("<I", columns_first.size) + columns_first.tobytes())


def write_lm3(path: Path, landmarks: dict[str, np.ndarray]) -> None:
    """Bosphorus landmarks: label and point in turn, CRLF; those out of sight are absent."""
    seen = [(label, landmarks[name]) for label, name in BOSPHORUS22.items() if name in landmarks]
    lines = ["# 3D landmarks", f"{len(seen)} landmarks:", ""]
    for label, point in seen:
        lines += [label, "{:.4f} {:.4f} {:.4f}".format(*point)]
    path.write_text("\r\n".join(lines) + "\r\n", newline="")


def write_obj(path: Path, scan: Scan) -> None:
    """OBJ + MTL + PNG of the same stem, as a scanner exports them."""
    assert scan.texture is not None
    uv, uv_faces = _vertex_uv(scan)
    corners = np.stack([scan.faces + 1, uv_faces + 1], -1).reshape(-1, 6)
    path.write_text(
        "".join(
            [
                f"# a simulated face\nmtllib {path.stem}.mtl\nusemtl skin\n",
                _rows("v %.4f %.4f %.4f\n", scan.vertices),
                _rows("vt %.6f %.6f\n", uv),
                _rows("f %d/%d %d/%d %d/%d\n", corners),
            ]
        ),
        newline="\n",
    )
    path.with_suffix(".mtl").write_text(
        f"newmtl skin\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nmap_Kd {path.stem}.png\n", newline="\n"
    )
    save_image(path.with_suffix(".png"), scan.texture.image)


def write_ply(path: Path, scan: Scan) -> None:
    """Binary PLY with a colour for each vertex."""
    assert scan.vertex_colors is not None
    points = np.empty(len(scan.vertices), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    points["xyz"], points["rgb"] = scan.vertices, scan.vertex_colors
    faces = np.empty(len(scan.faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, scan.faces
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment a simulated face\n"
        f"element vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    path.write_bytes(header.encode("ascii") + points.tobytes() + faces.tobytes())


def _vertex_uv(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """(v, 2) and (f, 3): scans of a grid have one texture place a vertex."""
    assert scan.texture is not None
    uv = np.zeros((len(scan.vertices), 2))
    uv[scan.faces] = scan.texture.corner_uv
    return uv, scan.faces


def _rows(form: str, table: np.ndarray) -> str:
    """One line a row; a single `%` is some ten times faster than a loop or `np.savetxt`."""
    return (form * len(table)) % tuple(table.ravel().tolist())
