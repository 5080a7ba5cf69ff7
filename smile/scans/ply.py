"""Stanford PLY meshes and point clouds of scanners -> one `Scan`, through trimesh.

trimesh splits vertices where texture places differ, so vertices, colours and texture places are taken from
the elements as trimesh read them, in the order of the file.
Arrays: v vertices, f triangles, n polygon corners.
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from . import cloud, images
from .arrays import AGAIN, NO_TEXTURE, checked, fan, in_range, to_uint8
from .scan import Scan, Texture

_SIZES = {  # bytes; anything else counts as one
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
_INDICES = ("vertex_indices", "vertex_index")
_LONGEST_HEADER = 65536  # bytes


def read(path: Path, *, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in mm, vertices in the order of the file, with vertex colours or the image of a TextureFile comment.

    Raises ValueError (without the file's name) for a damaged file, and for missing colour if `need_texture`.
    """
    data = path.read_bytes()
    image_name = _check_header(data)
    elements = _elements(data)
    vertex, face = elements["vertex"], elements.get("face", {})
    vertices = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1)
    if not set(_INDICES) & set(face):
        return cloud.surface(vertices, _colors(vertex), normals=_normals(vertex), need_texture=need_texture)
    flat, corners = _triangles(next(face[name] for name in _INDICES if name in face))
    faces = in_range(flat[corners], len(vertices), what="face index", of="vertices")
    colors = _colors(vertex)
    scan = checked(vertices, faces, colors=colors)
    if not need_texture or (image_name is None and colors is not None):
        return scan
    corner_uv = _corner_uv(vertex, face, faces, corners, flat)
    if corner_uv is None and colors is not None:
        return scan
    if corner_uv is None:
        raise ValueError(
            "it holds neither vertex colours nor texture coordinates: export it with colour, " + NO_TEXTURE
        )
    image = images.load(images.find(path, named=image_name, given=texture))
    return checked(vertices, faces, colors=colors, texture=Texture(image, corner_uv))


def _check_header(data: bytes) -> str | None:
    """The name of the texture image, if any; counts are held against the file's size before memory is taken."""
    if not data.startswith((b"ply\n", b"ply\r", b"ply ")):
        start = data[:20].decode("latin-1")
        raise ValueError(
            f"it starts with {start!r} and not with 'ply' (another format renamed?): export the scan as PLY"
        )
    end = re.search(rb"^end_header\s*?$", data[:_LONGEST_HEADER], re.MULTILINE)
    if end is None:
        raise ValueError(f"its header has no end_header (a truncated file?): {AGAIN}")
    header = data[: end.start()].decode("latin-1")
    ascii_file = re.search(r"^format\s+ascii", header, re.MULTILINE) is not None
    needed, count, name = 0, 0, ""
    held: dict[str, set[str]] = {"vertex": set(), "face": set()}
    for line in header.splitlines():
        words = line.split()
        if words[:1] == ["element"]:
            if len(words) != 3 or not words[2].isdecimal():
                raise ValueError(f"header line {line[:60]!r} states no count: {AGAIN}")
            name, count = words[1], int(words[2])
        elif words[:1] == ["property"]:
            kind = (words[2:3] if words[1:2] == ["list"] else words[1:2]) or [""]
            least = 2 if ascii_file else _SIZES.get(kind[0], 1)  # in text a digit and a blank
            needed += count * least
            if count:
                held.setdefault(name, set()).add(words[-1])
    follow = len(data) - end.end()
    if needed > follow + 2:
        raise ValueError(
            f"its header announces at least {needed} bytes and {follow} follow (a truncated file?): {AGAIN}"
        )
    if not {"x", "y", "z"} <= held["vertex"]:
        raise ValueError(f"it holds no vertices with x, y and z: {AGAIN}")
    if held["face"] and not held["face"] & set(_INDICES):
        raise ValueError("it holds points but no faces: export the scan as a mesh")
    names = set(re.findall(r"(?im)^(?:comment|obj_info)\s+texturefile\s+(.+?)\s*$", header))
    if len(names) > 1:
        raise ValueError(
            f"it names {len(names)} texture images ({', '.join(map(repr, sorted(names)))}): export it with one"
        )
    return names.pop() if names else None


def _elements(data: bytes) -> dict[str, dict[str, Any]]:
    """Element name -> property name -> array of the file's rows; lists are (rows, n) or an array of arrays."""
    from trimesh.exchange.ply import load_ply

    head, end, body = data.partition(b"end_header")
    head = re.sub(
        rb"(?m)^(?:comment|obj_info)\b.*\n", b"", head
    )  # trimesh takes the second line for the format
    try:
        raw = load_ply(io.BytesIO(head + end + body), skip_materials=True, fix_texture=False)["metadata"][
            "_ply_raw"
        ]
    except Exception as error:  # its parser trips over damaged files in many ways
        why = str(error) or type(error).__name__
        raise ValueError(
            f"trimesh cannot read it ({why}; truncated, or binary with triangles and quads mixed?): "
            "copy it again or export triangles"
        ) from error
    elements = {
        name: _columns(element["data"]) for name, element in raw.items() if element.get("data") is not None
    }
    for name, columns in elements.items():
        held = min(map(len, columns.values()))
        if held != raw[name]["length"]:  # trimesh takes a text file that stops early for a short one
            raise ValueError(
                f"its header announces {raw[name]['length']} of {name!r} and {held} follow "
                f"(a truncated file?): {AGAIN}"
            )
    if any(column.dtype == object for column in elements["vertex"].values()):
        raise ValueError(f"the rows of its vertices differ in length (damaged file?): {AGAIN}")
    return elements


def _columns(rows: Any) -> dict[str, Any]:
    """trimesh hands out a dict (text) or a structured array (binary) whose lists are (count, items) pairs."""
    if isinstance(rows, dict):
        return {
            name: column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
            for name, column in rows.items()
        }
    out: dict[str, Any] = {}
    for name in rows.dtype.names:
        column = rows[name]
        if column.dtype.names:
            if not (column["f0"] == column["f0"][0]).all():
                raise ValueError("triangles and quads are mixed in a binary file: export triangles")
            column = column["f1"]
        out[name] = column
    return out


def _triangles(indices: Any) -> tuple[np.ndarray, np.ndarray]:
    """The polygons -> ((n,) flat vertex numbers, (f, 3) places in them)."""
    if isinstance(indices, np.ndarray) and indices.dtype != object:
        indices = indices.reshape(len(indices), -1)
        lengths, flat = np.full(len(indices), indices.shape[1]), indices.reshape(-1)
    else:
        lengths, flat = np.array([len(row) for row in indices]), np.concatenate(list(indices))
    return flat.astype(np.int64), fan(np.cumsum(lengths) - lengths, lengths)[0]


def _colors(vertex: dict[str, Any]) -> np.ndarray | None:
    """(v, 3) uint8 of red, green, blue; floats count from 0 to 1, 16 bits to 65535."""
    for names in (
        ("red", "green", "blue"),
        ("r", "g", "b"),
        ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ):
        if set(names) <= set(vertex):
            channels = np.stack([np.asarray(vertex[n]) for n in names], axis=1)
            if channels.dtype.kind == "f":
                return to_uint8(channels, unit=bool(np.nan_to_num(channels).max(initial=0) <= 1.0))
            if channels.dtype.itemsize == 2:
                return to_uint8(channels / 257.0, unit=False)
            return to_uint8(channels, unit=False)
    return None


def _normals(vertex: dict[str, Any]) -> np.ndarray | None:
    """(v, 3) of a point cloud, whose outside they tell."""
    names = ("nx", "ny", "nz")
    return (
        np.stack([np.asarray(vertex[n], np.float64) for n in names], axis=1)
        if set(names) <= set(vertex)
        else None
    )


def _corner_uv(
    vertex: dict[str, Any], face: dict[str, Any], faces: np.ndarray, corners: np.ndarray, flat: np.ndarray
) -> np.ndarray | None:
    """(f, 3, 2) float32 from a face's `texcoord` list or the vertices' u, v; None where there is neither."""
    if "texcoord" in face:
        listed = face["texcoord"]
        pairs = (
            np.concatenate([np.asarray(row, np.float32).reshape(-1) for row in listed]).reshape(-1, 2)
            if listed.dtype == object
            else np.asarray(listed, np.float32).reshape(-1, 2)
        )
        if len(pairs) != len(flat):
            raise ValueError(f"its texcoord lists do not hold one pair a corner: {AGAIN}, {NO_TEXTURE}")
        return pairs[corners]
    for u, v in (("texture_u", "texture_v"), ("u", "v"), ("s", "t")):
        if u in vertex and v in vertex:
            return np.stack([vertex[u], vertex[v]], axis=1).astype(np.float32)[faces]
    return None
