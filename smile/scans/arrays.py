"""Numbers out of text in bulk, polygons into triangles, and the checks every reader ends with.

Real scans hold half a million numbers, so nothing here loops over them in Python.
Arrays: v vertices, f triangles, n corners in the file's own list of corners.
"""

import warnings

import numpy as np

from .scan import Scan, Texture

SMALLEST = 100  # vertices and faces; the coarsest real scan has thousands
LARGEST_COORDINATE = 1e5  # mm; beyond 100 m nothing is a face
AGAIN = "copy or export the scan again"
_DIGITS = 18  # that an int64 holds for certain
_EXACT = 2**53  # a float64 holds every integer up to this
_POWERS = 10.0 ** np.arange(_DIGITS + 2)  # exact up to 22
NO_TEXTURE = "or prepare without texture (--modalities depth,normals)"


def numbers(text: bytes, dtype: type, *, what: str) -> np.ndarray:
    """White-space separated numbers as a flat array; `what` names them in the message.

    Raises ValueError where something is not a number. `nan` and `inf` are numbers here; `checked` counts them.
    """
    values = _decimals(text) if dtype is float else None
    if values is not None:
        return values
    values = _parsed(text, dtype)
    # The count is compared because numpy takes "1.5.3" for two numbers and blanks alone for one.
    count = np.count_nonzero(token_starts(text))
    if count == 0:
        return np.zeros(0, dtype)
    if values is None or len(values) != count:
        raise ValueError(f"{what}: {_first_bad(text, dtype)!r} is not a number (damaged file?): {AGAIN}")
    return values


def _parsed(text: bytes, dtype: type) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy 1.26 only warns where numpy 2 raises
        try:
            return np.fromstring(text, dtype, sep=" ")
        except (ValueError, DeprecationWarning):
            return None


def _decimals(text: bytes) -> np.ndarray | None:
    """The numbers of a text in which each is written as `-12.345`; None for any other text.

    A third of the time of numpy's parser, to the same bits (but for -0.0, which becomes 0.0): without their points they are
    integers, which it reads ten times as fast, and one division by an exact power of ten rounds as the standard asks
    (Clinger 1990, the fast path).
    """
    solid = np.concatenate([[False], np.frombuffer(text, np.uint8) > 32, [False]])
    starts, ends = np.flatnonzero(solid[1:] != solid[:-1]).reshape(-1, 2).T
    points = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("."))
    if len(points) != len(starts) or not len(points) or (ends - starts).max() > _DIGITS + 1:
        return None
    if ((points < starts) | (points >= ends)).any():
        return None
    whole = _parsed(text.replace(b".", b""), np.int64)
    if whole is None or len(whole) != len(starts) or np.abs(whole).max() > _EXACT:
        return None
    return whole / _POWERS.take(ends - 1 - points)


def token_starts(text: bytes) -> np.ndarray:
    """(bytes,) bool: where a word begins."""
    solid = np.frombuffer(text, np.uint8) > 32
    starts = solid.copy()
    starts[1:] = solid[1:] > solid[:-1]
    return starts


def _first_bad(text: bytes, dtype: type) -> str:
    for word in text.split():
        try:
            (float if dtype is float else int)(word)
        except ValueError:
            return word[:40].decode("latin-1")
    return "a word"


def holds_pair(text: bytes, pair: bytes) -> bool:
    """`pair in text` for two bytes, in a tenth of the time where the first of them is common."""
    codes = np.frombuffer(text, np.uint8)
    return bool(((codes[:-1] == pair[0]) & (codes[1:] == pair[1])).any())


def words_per_line(text: bytes) -> np.ndarray:
    """(lines,) int: how many words each line holds; every line ends with a line feed."""
    return up_to(
        np.flatnonzero(token_starts(text)), np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    )


def up_to(places: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(ends,) int: how many of the sorted `places` lie before each of the sorted `ends`, and after the one before it."""
    each, rest = divmod(len(places), max(len(ends), 1))
    if each and not rest:  # equally many in each, as in nearly every file: seen without a search
        groups = places.reshape(-1, each)
        if (groups[:, -1] < ends).all() and (groups[1:, 0] >= ends[:-1]).all():
            return np.full(len(ends), each)
    return np.diff(np.searchsorted(places, ends), prepend=0)


def rows(lines: list[bytes], *, what: str) -> np.ndarray:
    """(lines, columns) float64; ValueError where a line does not hold as many numbers as the first."""
    return table(b"".join(line + b"\n" for line in lines), what=what)


def table(text: bytes, *, what: str) -> np.ndarray:
    """`rows` of a text whose every line ends with a line feed."""
    if not text:
        return np.zeros((0, 0))
    counts = words_per_line(text)
    odd = np.flatnonzero(counts != counts[0])
    if len(odd):
        line = text.split(b"\n")[odd[0]].strip()[:60].decode("latin-1")
        raise ValueError(
            f"{what}: line {line!r} has {counts[odd[0]]} numbers and the first line {counts[0]} "
            f"(truncated or damaged?): {AGAIN}"
        )
    return numbers(text, float, what=what).reshape(len(counts), counts[0])


def fan(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Polygons into triangles as a fan round their first corner.

    `starts`, `lengths`: (polygons,) places in a flat list of corners. Returns ((f, 3) places in that list,
    (f,) polygon of each triangle). Polygons of fewer than three corners have no area and vanish.
    """
    triangles = np.maximum(lengths - 2, 0)
    polygon = np.repeat(np.arange(len(lengths)), triangles)
    step = np.arange(len(polygon)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    first = starts[polygon]
    return np.stack([first, first + step + 1, first + step + 2], axis=1), polygon


def in_range(index: np.ndarray, size: int, *, what: str, of: str) -> np.ndarray:
    """`index` itself; ValueError where an entry points outside 0..size-1."""
    if index.size and (index.min() < 0 or index.max() >= size):
        worst = index.max() if index.max() >= size else index.min()
        raise ValueError(f"{what} {worst} is outside the {size} {of} (damaged file?): {AGAIN}")
    return index


def plausible(vertices: np.ndarray) -> np.ndarray:
    """`vertices` themselves; ValueError saying how many are NaN or infinite, or that one lies absurdly far out."""
    bad = int((~np.isfinite(vertices).all(axis=1)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(vertices)} vertices are not finite numbers (NaN or infinite): clean the mesh and export it again"
        )
    furthest = np.abs(vertices).max(initial=0)
    if furthest > LARGEST_COORDINATE:
        raise ValueError(f"a coordinate of {furthest:g} mm cannot belong to a face: export it in millimetres")
    return vertices


def checked(
    vertices: np.ndarray,
    faces: np.ndarray,
    *,
    colors: np.ndarray | None = None,
    texture: Texture | None = None,
) -> Scan:
    """A `Scan` of plausible arrays; ValueError for NaN, stray indices or next to no geometry."""
    plausible(vertices)
    if len(vertices) < SMALLEST or len(faces) < SMALLEST:
        raise ValueError(
            f"{len(vertices)} vertices and {len(faces)} faces are too few for a face (at least {SMALLEST} of each): {AGAIN}"
        )
    in_range(faces, len(vertices), what="face index", of="vertices")
    if texture is not None and not np.isfinite(texture.corner_uv).all():
        raise ValueError(f"some texture coordinates are not finite numbers: {AGAIN}, {NO_TEXTURE}")
    vertices = np.ascontiguousarray(vertices, np.float64)
    return Scan(vertices, np.ascontiguousarray(faces, np.int64), colors, texture)


def to_uint8(colors: np.ndarray, *, unit: bool) -> np.ndarray:
    """RGB in 0..1 (`unit`) or 0..255 -> uint8; what is not finite becomes 0."""
    scaled = np.nan_to_num(np.asarray(colors, np.float64)) * (255.0 if unit else 1.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
