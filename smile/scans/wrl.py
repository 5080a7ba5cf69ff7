"""VRML 2.0 face meshes (BU-3DFE, BU-4DFE): the IndexedFaceSets of a file -> one `Scan`.

Vertices keep the order of the file, because `.bnd` landmarks count in it; texture coordinates stay per corner, so
no vertex is split. Follows ISO/IEC 14772-1 (IndexedFaceSet, Transform).
Arrays: v vertices, f triangles, n entries of coordIndex.
"""

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import images
from .arrays import AGAIN, NO_TEXTURE, checked, fan, in_range, to_uint8
from .scan import Scan, Texture
from .vrml import Node, parse

_MESH = re.compile(r"_(F3D|RAW)\.wrl$", re.IGNORECASE)
_MOST_NODES = 10_000  # a few lines of DEF and USE can ask for billions


@dataclass(frozen=True, eq=False)
class _Part:
    """One IndexedFaceSet, its Transforms applied."""

    vertices: np.ndarray  # (v, 3)
    faces: np.ndarray  # (f, 3)
    corner_uv: np.ndarray | None  # (f, 3, 2)
    colors: np.ndarray | None  # (v, 3) uint8
    url: str | None


def read(path: Path, *, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in mm. `texture`: the image that the data set keeps, which counts more than the URL in the file.

    Raises ValueError (without the file's name) for a damaged file or one without faces, and for a missing
    texture if `need_texture`.
    """
    parts, others = [], set()
    for shape, matrix in _shapes(parse(path.read_bytes())):
        geometry = shape.node("geometry")
        if geometry is not None and geometry.kind == "IndexedFaceSet":
            parts.append(_part(geometry, shape, matrix, need_texture=need_texture))
        elif geometry is not None:
            others.add(geometry.kind)
    if not parts:
        held = f" but {', '.join(sorted(others))}" if others else ""
        raise ValueError(f"it holds no IndexedFaceSet{held}, so no surface: export the scan as a mesh")
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts])
    faces = np.concatenate([p.faces + offset for p, offset in zip(parts, offsets, strict=False)])
    known = [p.colors for p in parts if p.colors is not None]
    colors = np.concatenate(known) if len(known) == len(parts) else None
    scan = checked(np.concatenate([p.vertices for p in parts]), faces, colors=colors)
    if not need_texture:
        return scan
    image = _texture(path, parts, given=texture, colored=colors is not None)
    return checked(scan.vertices, scan.faces, colors=colors, texture=image)


def own_points(path: Path) -> np.ndarray:
    """(v, 3) the vertices of `read` in the coordinates of the file, before its Transforms; a `.bnd` may be written in them."""
    shapes = (shape.node("geometry") for shape, _ in _shapes(parse(path.read_bytes())))
    return np.concatenate(
        [
            _tuples(g.node("coord", "Coordinate"), "point", 3)
            for g in shapes
            if g and g.kind == "IndexedFaceSet"
        ]
    )


def _shapes(nodes: list[Node]) -> Iterator[tuple[Node, np.ndarray]]:
    """Each Shape below `nodes` in the order of the file, with the (4, 4) of the Transforms around it."""
    waiting, seen = [(node, np.eye(4)) for node in reversed(nodes)], 0
    while waiting:
        node, matrix = waiting.pop()
        seen += 1
        if seen > _MOST_NODES:
            raise ValueError(f"it holds more than {_MOST_NODES} nodes: export the face alone")
        if node.kind == "Shape":
            yield node, matrix
            continue
        inner = matrix @ _local(node) if node.kind == "Transform" else matrix
        waiting += [(child, inner) for child in reversed(node.nodes("children"))]


def _local(node: Node) -> np.ndarray:
    """(4, 4) of a Transform: translation, centre, rotation and scale in the order of the standard."""

    def vector(name: str, default: tuple[float, ...]) -> np.ndarray:
        values = node.numbers(name)
        if not len(values):
            return np.array(default)
        if len(values) != len(default) or not np.isfinite(values).all():
            raise ValueError(f"Transform.{name} needs {len(default)} numbers: {AGAIN}")
        return values

    translation, scale = vector("translation", (0, 0, 0)), vector("scale", (1, 1, 1))
    center = vector("center", (0, 0, 0))
    turn = _rotation(vector("rotation", (0, 0, 1, 0)))
    tilt = _rotation(vector("scaleOrientation", (0, 0, 1, 0)))
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ tilt @ np.diag(scale) @ tilt.T
    matrix[:3, 3] = translation + center - matrix[:3, :3] @ center
    return matrix


def _rotation(axis_angle: np.ndarray) -> np.ndarray:
    """(3, 3) of an axis and an angle in radians (Rodrigues)."""
    length = float(np.linalg.norm(axis_angle[:3]))
    if length == 0 or axis_angle[3] == 0:
        return np.eye(3)
    x, y, z = axis_angle[:3] / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(axis_angle[3]) * cross + (1 - math.cos(axis_angle[3])) * cross @ cross


def _part(face_set: Node, shape: Node, matrix: np.ndarray, *, need_texture: bool) -> _Part:
    vertices = _tuples(face_set.node("coord", "Coordinate"), "point", 3)
    index = face_set.numbers("coordIndex", np.int64)
    if not len(index):
        raise ValueError("coordIndex is missing or empty, so there are no faces: export the scan as a mesh")
    corners, index = _triangles(index)
    faces = in_range(index.take(corners), len(vertices), what="coordIndex", of="points")
    if face_set.false("ccw") != bool(np.linalg.det(matrix[:3, :3]) < 0):  # a mirror turns the faces over
        corners, faces = corners[:, ::-1], faces[:, ::-1]
    if not np.array_equal(matrix, np.eye(4)):
        # No file name in it: Python then says it once and not for each of a million frames.
        warnings.warn(
            "a .wrl holds a Transform that moves, turns or scales the face; it was applied", stacklevel=2
        )
        vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    appearance = shape.node("appearance")
    image = appearance.node("texture", "ImageTexture") if appearance is not None else None
    return _Part(
        vertices,
        faces,
        _corner_uv(face_set, corners, index) if need_texture else None,
        _colors(face_set, corners, index, len(vertices)),
        image.string("url") if image is not None else None,
    )


def _tuples(node: Node | None, name: str, width: int) -> np.ndarray:
    """(n, width) float64 of a node's list of points; empty where there is none."""
    values = node.numbers(name) if node is not None else np.zeros(0)
    if len(values) % width:
        raise ValueError(
            f"{node.kind if node else ''}.{name} holds {len(values)} numbers, not a multiple of "
            f"{width} (a truncated file?): {AGAIN}"
        )
    return values.reshape(-1, width)


def _triangles(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """coordIndex -> ((f, 3) places in it, the index closed by a last -1, which files may leave out)."""
    if index[-1] != -1:
        index = np.append(index, -1)
    if (index < -1).any():
        raise ValueError(f"coordIndex {index.min()} is no vertex (damaged file?): {AGAIN}")
    ends = np.flatnonzero(index == -1)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return fan(starts, ends - starts)[0], index


def _corner_uv(face_set: Node, corners: np.ndarray, index: np.ndarray) -> np.ndarray | None:
    """(f, 3, 2) float32; without texCoordIndex the coordIndex counts, which is the VRML rule."""
    uv = _tuples(face_set.node("texCoord", "TextureCoordinate"), "point", 2)
    if not len(uv):
        return None
    uv_index = _like(face_set.numbers("texCoordIndex", np.int64), index, name="texCoordIndex")
    places = in_range(uv_index.take(corners), len(uv), what="texCoordIndex", of="texture coordinates")
    return uv.astype(np.float32).take(places, axis=0)


def _like(own: np.ndarray, index: np.ndarray, *, name: str) -> np.ndarray:
    """An optional second index: the coordIndex where it is absent, else it must hold the same polygons."""
    if not len(own):
        return index
    if own[-1] != -1:
        own = np.append(own, -1)
    if len(own) != len(index) or not np.array_equal(own == -1, index == -1):
        raise ValueError(f"{name} holds other polygons than coordIndex (damaged file?): {AGAIN}")
    return own


def _colors(face_set: Node, corners: np.ndarray, index: np.ndarray, size: int) -> np.ndarray | None:
    """(v, 3) uint8 of a Color node per vertex; colours per face are left out."""
    colors = _tuples(face_set.node("color", "Color"), "color", 3)
    if not len(colors) or face_set.false("colorPerVertex"):
        return None
    color_index = _like(face_set.numbers("colorIndex", np.int64), index, name="colorIndex")
    in_range(color_index[corners], len(colors), what="colorIndex", of="colours")
    out = np.zeros((size, 3), np.uint8)
    out[index[corners]] = to_uint8(colors, unit=True)[color_index[corners]]
    return out


def _texture(path: Path, parts: list[_Part], *, given: Path | None, colored: bool) -> Texture | None:
    urls = sorted({p.url for p in parts if p.url})
    if not urls and colored:
        return None
    if any(p.corner_uv is None for p in parts):
        raise ValueError(
            "it holds no texture coordinates (TextureCoordinate): export it with its texture, " + NO_TEXTURE
        )
    if len(urls) > 1:  # several atlases: each shape to its own
        if any(not p.url for p in parts):
            raise ValueError(
                "some of its shapes name a texture image and some do not: export it with one, " + NO_TEXTURE
            )
        files = []
        for url in urls:
            file = images.beside(path, url)
            if file is None:
                raise images.missing(url)
            files.append(file)
    else:
        files = [_image(path, named=urls[0] if urls else None, given=given)]
    own = [urls.index(p.url) if len(urls) > 1 and p.url else 0 for p in parts]
    which = np.repeat(own, [len(p.faces) for p in parts])
    corner_uv = np.concatenate([p.corner_uv for p in parts if p.corner_uv is not None])
    return images.side_by_side([images.load(file) for file in files], corner_uv, which)


def _image(path: Path, *, named: str | None, given: Path | None) -> Path:
    """`images.find`, and for BU-3DFE last the `_F2D` picture, of which some copies keep no other."""
    try:
        return images.find(path, named=named, given=given)
    except ValueError:
        picture = images.of_stem(path.with_name(_MESH.sub("_F2D.wrl", path.name)))
        if picture is None:
            raise
        return picture
