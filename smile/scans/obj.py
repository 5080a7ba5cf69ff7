"""Wavefront OBJ meshes of scanners -> one `Scan`.

trimesh reads OBJ too, but it either splits vertices at texture seams and drops unreferenced ones, or keeps the
order and gives seam faces a wrong texture place (measured with 5.2). Landmarks need the order of the file and
colours need the seams, so the `v`, `vt`, `f` and `usemtl` lines are read here, in bulk.
Arrays: v vertices, f triangles, n face corners.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import cloud, images
from .arrays import (
    AGAIN,
    NO_TEXTURE,
    checked,
    fan,
    holds_pair,
    in_range,
    numbers,
    table,
    to_uint8,
    token_starts,
    up_to,
)
from .scan import Scan, Texture

_Material = tuple[str | None, tuple[float, ...]]  # image as written after map_Kd, diffuse colour
_GREY = (0.5, 0.5, 0.5)


def read(path: Path, *, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in mm, vertices in the order of the `v` lines; several materials become one texture, side by side.

    Raises ValueError (without the file's name) for a damaged file, and for missing colour if `need_texture`.
    """
    where, lines = _by_head(path.read_bytes())
    vertices, colors = _vertices(lines[b"v "])
    if not len(where[b"f "]):
        if len(where[b"vt"]) or len(where[b"us"]):
            raise ValueError(
                f"it holds {len(vertices)} points but no faces (a truncated file?): export the scan as a mesh"
            )
        return cloud.surface(vertices, colors, need_texture=need_texture)
    corners, line_of, index = _faces(lines[b"f "])

    def before(head: bytes) -> np.ndarray:  # (f lines,) how many such lines came before each
        return np.searchsorted(where[head], where[b"f "])

    v = _absolute(index[:, 0], lambda: before(b"v ")[line_of])
    faces = in_range(v.take(corners), len(vertices), what="face index", of="vertices")
    scan = checked(vertices, faces, colors=colors)
    libraries = _names(lines[b"mt"])
    if not need_texture or (
        colors is not None and not (lines[b"vt"] and (libraries or images.of_stem(path)))
    ):
        return scan
    if not lines[b"vt"]:
        raise ValueError(
            "it holds neither texture coordinates nor vertex colours: export it with its texture, "
            + NO_TEXTURE
        )
    uv = table(lines[b"vt"], what="vt")
    if uv.shape[1] < 2:
        raise ValueError(f"its vt lines hold one number where 2 are needed: {AGAIN}, {NO_TEXTURE}")
    vt = _absolute(index[:, 1], lambda: before(b"vt")[line_of]).take(corners)
    material = before(b"us").take(line_of.take(corners[:, 0]))  # (f,)
    merged = _texture(path, uv[:, :2], vt, ["", *_names(lines[b"us"])], material, libraries, given=texture)
    return checked(vertices, faces, colors=colors, texture=merged)


def _by_head(text: bytes) -> tuple[dict[bytes, np.ndarray], dict[bytes, bytes]]:
    """(first two letters of a line -> which lines begin with them, the same -> these lines without the two letters)."""
    if b"\\" in text:  # it continues the line; a look first spares a search of many milliseconds
        text = re.sub(rb"\\\r?\n", b" ", text)
    text = text.replace(b"\t", b" ")
    text = text.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, in front of the first vertex
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = text.lstrip(b" ") + b"\n\n"
    if holds_pair(text, b" #"):  # a comment after the numbers; material names may hold such a sign
        text = re.sub(rb"(?m)^( *(?:v|vt|f) [^#\n]*)#[^\n]*", rb"\1", text)
    if holds_pair(text, b"\n "):
        text = re.sub(rb"\n +", b"\n", text)
    codes = np.frombuffer(bytearray(text), np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))[:-1] + 1
    starts = np.append(0, ends[:-1])
    heads = codes[starts] * np.uint16(256) + codes[starts + 1]
    where, lines = {}, {}
    for head in (b"v ", b"vt", b"f ", b"us", b"mt"):
        own = np.flatnonzero(heads == head[0] * 256 + head[1])
        if head == b"us":
            own = np.array([i for i in own if text.startswith(b"usemtl", starts[i])], np.int64)
        where[head] = own
        first = np.append(True, np.diff(own) > 1)[: len(own)]  # of a run of such lines
        runs = zip(starts[own[first]].tolist(), ends[own[np.roll(first, -1)]].tolist(), strict=True)
        codes[starts[own]] = codes[starts[own] + 1] = ord(" ")
        lines[head] = b"".join(codes[start:stop].tobytes() for start, stop in runs)
    return where, lines


def _vertices(lines: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """`x y z`, `x y z w` or `x y z r g b` -> (v, 3) and (v, 3) uint8 or None."""
    values = table(lines, what="v")
    if not len(values):
        raise ValueError(f"it holds no vertices (damaged, or not an OBJ file?): {AGAIN}")
    if values.shape[1] < 3:
        raise ValueError(f"its v lines hold {values.shape[1]} numbers where 3 are needed: {AGAIN}")
    colors = None
    if values.shape[1] >= 6:
        finite = np.nan_to_num(values[:, 3:6])
        colors = to_uint8(finite, unit=bool(finite.max() <= 1.0))
    return values[:, :3], colors


def _faces(lines: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`f` lines -> ((f, 3) corner numbers, (n,) line of each corner, (n, 2) v and vt as written, 0 for none)."""
    text = lines.replace(b"//", b"/0/") if holds_pair(lines, b"//") else lines
    corner_starts = np.flatnonzero(token_starts(text))
    lengths = up_to(corner_starts, np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")))
    if (lengths < 3).any():
        short = lines.split(b"\n")[int(np.argmin(lengths))].strip()[:60].decode("latin-1")
        raise ValueError(f"face {short!r} has fewer than three corners (a truncated file?): {AGAIN}")
    slash_places = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("/"))
    slashes = up_to(slash_places, np.append(corner_starts[1:], len(text)))  # 0, 1 or 2 a corner
    flat = numbers(text.replace(b"/", b" "), np.int64, what="f")
    if slashes.max() > 2 or len(flat) != len(slashes) + slashes.sum():
        raise ValueError(f"a face corner is not of the form v, v/vt, v//vn or v/vt/vn (truncated?): {AGAIN}")
    first = np.cumsum(slashes + 1) - (slashes + 1)
    index = np.zeros((len(slashes), 2), np.int64)
    index[:, 0] = flat[first]
    has = slashes > 0
    index[has, 1] = flat[first[has] + 1]
    starts = np.cumsum(lengths) - lengths
    corners, _ = fan(starts, lengths)
    return corners, np.repeat(np.arange(len(lengths)), lengths), index


def _absolute(index: np.ndarray, before: Callable[[], np.ndarray]) -> np.ndarray:
    """1-based or, where negative, counted back from the lines before -> 0-based; negative where there is none."""
    if index.min(initial=0) >= 0:
        return index - 1
    return np.where(index < 0, np.maximum(before() + index, -2), index - 1)


def _names(lines: bytes) -> list[str]:
    """`emtl name`, `llib name` a line -> the names, which may hold blanks."""
    return [
        line.strip().partition(" ")[2].strip() for line in lines.decode("utf-8", "replace").split("\n")[:-1]
    ]


def _texture(
    path: Path,
    uv: np.ndarray,
    uv_index: np.ndarray,
    names: list[str],
    material: np.ndarray,
    libraries: list[str],
    *,
    given: Path | None,
) -> Texture:
    """One texture out of the materials in use.

    `uv`: (vt, 2); `uv_index`: (f, 3) into it, negative for none; `material`: (f,) into `names`, where "" is none.
    """
    materials: dict[str, _Material] = {}
    for library in libraries:
        file = images.beside(path, library)
        if file is not None:
            materials |= _materials(file.read_bytes())
    looks = [materials.get(name, (None, _GREY)) for name in names]
    own = [(image or "", () if image else color) for image, color in looks]
    used = {own[number] for number in np.flatnonzero(np.bincount(material))}
    if any(image for image, _ in used):
        sources = sorted(used)  # each image once
        number = {look: place for place, look in enumerate(sources)}
        place = np.array([number.get(look, 0) for look in own]).take(material)
        loaded = [_image(path, image) if image else _patch(color) for image, color in sources]
        textured = np.array([bool(image) for image, _ in sources])[place]
    else:
        lost = [name for name in libraries if images.beside(path, name) is None]
        if lost and given is None and not images.of_stem(path):
            raise ValueError(
                f"material file {lost[0]!r}, which names the texture, is missing beside the mesh: restore it, {NO_TEXTURE}"
            )
        loaded = [images.load(images.find(path, named=None, given=given))]
        place, textured = np.zeros(len(material), np.int64), np.ones(len(material), bool)
    bare = np.count_nonzero((uv_index < 0).any(axis=1) & textured)
    if bare:
        raise ValueError(
            f"{bare} of {len(material)} faces have no texture coordinates: export it with its texture, "
            + NO_TEXTURE
        )
    inside = np.where(textured[:, None], uv_index, 0)
    in_range(inside, len(uv), what="texture index", of="vt lines")
    corner_uv = uv.astype(np.float32).take(inside, axis=0)
    corner_uv[~textured] = 0.5  # the middle of a plain patch of colour
    return images.side_by_side(loaded, corner_uv, place)


def _image(path: Path, name: str) -> np.ndarray:
    """The image of a material; options such as `-s 1 1 1` may stand before its name."""
    file = images.beside(path, name) or images.beside(path, name.split()[-1])
    if file is None:
        raise images.missing(name.split()[-1])
    return images.load(file)


def _patch(color: tuple[float, ...]) -> np.ndarray:
    """(4, 4, 3) uint8 of a material without an image."""
    return np.tile(to_uint8(np.array(color), unit=True), (4, 4, 1))


def _materials(text: bytes) -> dict[str, _Material]:
    """A `.mtl` file -> name of each material: itself."""
    out: dict[str, _Material] = {}
    name = None
    for line in text.decode("utf-8", "replace").splitlines():
        key, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if key == "newmtl":
            name = rest
            out[name] = (None, _GREY)
        elif key.lower() == "map_kd" and name is not None and rest:
            out[name] = (rest, out[name][1])
        elif key == "Kd" and name is not None:
            try:
                color = tuple(float(word) for word in rest.split()[:3])
            except ValueError:
                continue
            out[name] = (out[name][0], color if len(color) == 3 else _GREY)
    return out
