"""STL, GLB, glTF and OFF meshes of scanners -> one `Scan`, through trimesh.

None of these formats carries landmarks by vertex number, so vertices in the same place are made one: STL repeats
every corner and glTF every seam, and normals need the neighbours.
Arrays: v vertices, f triangles.
"""

import io
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from . import gltf, images
from .arrays import AGAIN, NO_TEXTURE, checked, in_range, plausible, to_uint8
from .scan import Scan, Texture

_Part = tuple[np.ndarray, np.ndarray, Any]  # vertices (v, 3), faces (f, 3), trimesh's visual


def read(path: Path, *, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in the units of the file; the meshes of a scene are merged where its nodes put them.

    `texture` is not asked for: these formats hold or name their own. Raises ValueError (without the file's name) for a
    damaged file, and for missing colour if `need_texture`.
    """
    data = path.read_bytes()
    kind = path.suffix.lower()[1:]
    _checks[kind](path, data)
    if kind == "off":
        data = re.sub(rb"#[^\n]*", b"", data)  # trimesh loses the line after a comment
    if need_texture and b'"images"' in data:
        import PIL.Image  # noqa: F401  where it is missing, trimesh passes over the images
    beside = gltf.Beside(path)
    parts = _parts(_load(data, kind, beside))
    if not parts:
        raise ValueError(f"it holds no triangles (truncated, or another format renamed?): {AGAIN}")
    vertices = plausible(np.concatenate([part[0] for part in parts]))
    firsts = np.cumsum([0, *(len(part[0]) for part in parts)])
    faces = np.concatenate([part[1] + first for part, first in zip(parts, firsts, strict=False)])
    in_range(faces, len(vertices), what="face index", of="vertices")
    first, place = weld(vertices)
    corners = place[faces]
    solid = ~(corners == np.roll(corners, 1, axis=1)).any(axis=1)  # triangles of no area have no normal
    scan = checked(vertices[first], corners[solid])
    if not need_texture:
        return scan
    if beside.missing:
        raise images.missing(beside.missing[0])
    colors, skin = _colors(parts), _texture(parts)
    if skin is None and colors is None:
        raise ValueError(
            f"it holds no colour{' (an STL never does)' if kind == 'stl' else ''}: export OBJ, PLY or GLB with colour, "
            + NO_TEXTURE
        )
    return checked(
        scan.vertices,
        scan.faces,
        colors=None if colors is None else colors[first],
        texture=None if skin is None else Texture(skin.image, skin.corner_uv[solid]),
    )


def weld(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(v, 3) -> ((w,) a vertex of each different place, in order, (v,) place of each vertex)."""
    order = np.lexsort(vertices.T)
    new = np.ones(len(vertices), bool)
    new[1:] = (np.diff(vertices[order], axis=0) != 0).any(axis=1)
    group = np.empty(len(vertices), np.int64)
    group[order] = np.cumsum(new) - 1
    first = np.full(int(new.sum()), len(vertices))
    np.minimum.at(first, group, np.arange(len(vertices)))
    rank = np.argsort(first)  # places in the order of the file
    place = np.empty(len(first), np.int64)
    place[rank] = np.arange(len(first))
    return first[rank], place[group]


def _check_stl(path: Path, data: bytes) -> None:
    """Binary: the count against the size. Text: no facet without three corners."""
    if len(data) >= 84 and len(data) == 84 + 50 * struct.unpack_from("<I", data, 80)[0]:
        return
    if not re.match(rb"\s*solid\b", data[:256], re.IGNORECASE) or b"\0" in data[:4096]:
        count = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else 0
        raise ValueError(
            f"{len(data)} bytes, but a binary STL of {count} triangles has {84 + 50 * count} (truncated, or no STL?): {AGAIN}"
        )
    text = data.lower()
    facets, ends, corners = (text.count(word) for word in (b"facet normal", b"endfacet", b"vertex"))
    if not (facets == ends and corners == 3 * facets and b"endsolid" in text):
        raise ValueError(
            f"{facets} facets begin, {ends} end and {corners} corners are there (truncated, or no STL?): {AGAIN}"
        )


def _check_off(path: Path, data: bytes) -> None:
    """The counts against the number of lines."""
    lines = re.sub(rb"#[^\n]*", b"", data).replace(b"\r", b"\n")
    found = re.match(rb"\s*(?:ST)?C?N?OFF\s+(\d+)\s+(\d+)\b", lines)
    if found is None:
        start = data[:20].decode("latin-1")
        raise ValueError(f"it starts with {start!r} and not with OFF and its counts: export the scan as PLY")
    announced, follow = int(found[1]) + int(found[2]), lines.count(b"\n") + 1
    if announced > follow:
        raise ValueError(
            f"it announces {announced} vertices and faces in {follow} lines (truncated?): {AGAIN}"
        )


_checks = {"stl": _check_stl, "off": _check_off, "glb": gltf.check, "gltf": gltf.check}


def _load(data: bytes, kind: str, beside: Any) -> Any:
    import trimesh

    log = trimesh.util.log  # its warnings of damaged files come with a traceback
    quiet, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return trimesh.load_scene(
                io.BytesIO(data), file_type=kind, resolver=beside, process=False, validate=False
            )
    except Exception as error:  # its readers trip over damaged files in many ways
        why = " ".join((str(error) or type(error).__name__).split())[:120]
        raise ValueError(f"trimesh cannot read it ({why}; damaged or truncated?): {AGAIN}") from error
    finally:
        log.disabled = quiet


def _parts(scene: Any) -> list[_Part]:
    """The meshes where the nodes of the scene put them; a mirrored node keeps its outside outside."""
    out, total = [], 0
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        mesh = scene.geometry.get(name)
        faces = getattr(mesh, "faces", None)  # points and lines have none
        if faces is None or not len(faces):
            continue
        total += len(mesh.vertices) + len(faces)
        if total > gltf.LARGEST:
            raise ValueError(
                f"its parts hold more than {gltf.LARGEST:,} vertices and faces: export the face alone"
            )
        matrix = np.asarray(matrix, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by `plausible`
            vertices = np.asarray(mesh.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        faces = np.asarray(faces, np.int64)
        mirrored = np.linalg.det(matrix[:3, :3]) < 0
        out.append((vertices, faces[:, ::-1] if mirrored else faces, mesh.visual))
    return out


def _colors(parts: list[_Part]) -> np.ndarray | None:
    """(v, 3) uint8, or None unless every part has a colour a vertex."""
    found = []
    for vertices, _, visual in parts:
        if visual.kind == "vertex":
            colors = np.asarray(visual.vertex_colors)
        else:
            colors = np.asarray(getattr(visual, "vertex_attributes", {}).get("color", ()))
        if colors.ndim != 2 or len(colors) != len(vertices) or colors.shape[1] < 3:
            return None
        floating, wide = colors.dtype.kind == "f", colors.dtype == np.uint16
        found.append(to_uint8(colors[:, :3] / (257.0 if wide else 1.0), unit=floating))
    return np.concatenate(found)


def _texture(parts: list[_Part]) -> Texture | None:
    """The textures of the parts side by side; a part without one gets a patch of its colour. None where none has one."""
    loaded, corner_uv, which = [], [], []
    if not any(_image(visual) is not None for _, _, visual in parts):
        return None
    for number, (vertices, faces, visual) in enumerate(parts):
        image, uv = _image(visual), getattr(visual, "uv", None)
        if image is not None and uv is not None and uv.shape == (len(vertices), 2):
            loaded.append(_pixels(image))
            corner_uv.append(np.asarray(uv, np.float64)[faces])
        else:
            loaded.append(np.tile(_plain(visual), (4, 4, 1)))
            corner_uv.append(np.full((len(faces), 3, 2), 0.5))
        which.append(np.full(len(faces), number))
    corners = np.concatenate(corner_uv)
    if not np.isfinite(corners).all():
        raise ValueError(f"some texture coordinates are not finite numbers: {AGAIN}, {NO_TEXTURE}")
    return images.side_by_side(loaded, corners, np.concatenate(which))


def _image(visual: Any) -> Any:
    """The unread base colour image of a material, or None."""
    material = getattr(visual, "material", None)
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)


def _pixels(image: Any) -> np.ndarray:
    """(H, W, 3) uint8 of an image inside the file, row 0 at the top."""
    if image.format not in ("PNG", "JPEG", "WEBP"):
        raise ValueError(
            f"its texture is a {image.format} image and no PNG, JPEG or WebP: {AGAIN}, {NO_TEXTURE}"
        )
    if image.width * image.height > images.LARGEST:
        raise ValueError(
            f"its texture of {image.width} x {image.height} pixels is too large: export a smaller one"
        )
    try:
        return np.array(image.convert("RGB"), np.uint8)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ValueError(f"its texture cannot be read ({error}): {AGAIN}, {NO_TEXTURE}") from error


def _plain(visual: Any) -> np.ndarray:
    """(3,) uint8 colour of a part without an image."""
    factor = getattr(getattr(visual, "material", None), "baseColorFactor", None)
    colors = np.asarray((128, 128, 128) if factor is None else factor)
    return to_uint8(colors[:3], unit=colors.dtype.kind == "f")
