"""Point Cloud Library files (`.pcd`), ascii and binary -> points, colours and the grid of an organised cloud.

Source: the PCD v0.7 description of the Point Cloud Library. Arrays: R rows, C columns, n = R x C points.
"""

import re

import numpy as np

from .arrays import AGAIN, NO_TEXTURE, checked, rows
from .grid import triangulate
from .scan import Scan

LARGEST = 50_000_000  # points
_LONGEST_HEADER = 4096  # bytes
_KINDS = {
    "F": {"4": "<f4", "8": "<f8"},
    "U": {"1": "u1", "2": "<u2", "4": "<u4"},
    "I": {"1": "i1", "2": "<i2", "4": "<i4"},
}


def points(data: bytes) -> tuple[np.ndarray, np.ndarray | None, tuple[int, int]]:
    """((n, 3) float64 points with NaN where nothing was seen, (n, 3) uint8 colours or None, (R, C)).

    Raises ValueError for a damaged or compressed file.
    """
    header, body = _header(data)
    layout = _layout(header)
    width, height = _count(header, "WIDTH"), _count(header, "HEIGHT")
    total = width * height
    if total > LARGEST:
        raise ValueError(f"its header announces {total:,} points: export the face alone")
    names = layout.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise ValueError(f"its fields are {' '.join(header.get('FIELDS', []))!r} and not x y z: {AGAIN}")
    kind = " ".join(header.get("DATA", [])).lower()
    if kind == "binary":
        if len(body) < total * layout.itemsize:
            raise ValueError(
                f"its header announces {total * layout.itemsize} bytes and {len(body)} follow (a truncated file?): {AGAIN}"
            )
        table = np.frombuffer(body, layout, total)
        columns = {name: table[name] for name in names if table[name].ndim == 1}
    elif kind == "ascii":
        columns = _text(body, layout, total)
    else:
        raise ValueError(
            f"its data are {kind or 'of no kind'!r} and not ascii or binary: save it uncompressed"
        )
    if not {"x", "y", "z"} <= set(columns):
        raise ValueError(f"its x, y or z hold several numbers a point: {AGAIN}")
    xyz = np.stack([columns[axis].astype(np.float64) for axis in "xyz"], axis=1)
    return xyz, _colors(columns), (height, width)


def organised(grid: np.ndarray, colors: np.ndarray | None, *, need_texture: bool) -> Scan:
    """`Scan` of an organised cloud: (R, C, 3) points, (R * C, 3) uint8 colours.

    A cloud in the frame of its camera (x right, y down, z forward) is turned to look at the scanner.
    """
    if need_texture and colors is None:
        raise ValueError(f"its points have no colours: export it with colour, {NO_TEXTURE}")
    seen = np.isfinite(grid).all(axis=2) & (grid[..., 2] != 0)
    grid = np.where(seen[..., None], grid, np.nan)
    row = np.nonzero(seen)[0]
    y = grid[..., 1][seen]
    if (
        len(y)
        and (grid[..., 2][seen] > 0).all()
        and y[row >= np.median(row)].mean() > y[row <= np.median(row)].mean()
    ):
        grid = grid * [1.0, -1.0, -1.0]
    size = np.nanmax(np.abs(grid)) if len(y) else 1.0
    unit = 1000.0 if size < 10 else 1.0  # metres; `triangulate` knows how long an edge in mm may be
    vertices, faces, place = triangulate(grid * unit)
    kept = None if colors is None else colors.reshape(*grid.shape)[place[:, 0], place[:, 1]]
    return checked(vertices, faces, colors=kept)


def _header(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    found = re.search(rb"(?m)^DATA[ \t]+\S+[ \t]*\r?\n", data[:_LONGEST_HEADER])
    if found is None:
        raise ValueError(f"it has no PCD header with a DATA line (truncated, or another format?): {AGAIN}")
    lines = data[: found.end()].decode("latin-1").splitlines()
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {line[0].upper(): line[1:] for line in words}, data[found.end() :]


def _count(header: dict[str, list[str]], name: str) -> int:
    value = " ".join(header.get(name, []))
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"its header gives {value[:40]!r} for {name}: {AGAIN}")
    return int(value)


def _layout(header: dict[str, list[str]]) -> np.dtype:
    """The fields of a row; padding `_` and repeated names get names of their own."""
    fields = header.get("FIELDS", header.get("COLUMNS", []))
    counts = header.get("COUNT", ["1"] * len(fields))
    parts: list[tuple[str, str, tuple[int, ...]]] = []
    try:
        for place, (name, size, kind, count) in enumerate(
            zip(fields, header.get("SIZE", []), header.get("TYPE", []), counts, strict=True)
        ):
            known = [part[0] for part in parts]
            own = f"{name}{place}" if name == "_" or name in known else name
            shape = () if count == "1" else (int(count),)
            if shape and not 0 < shape[0] < 1000:
                raise ValueError(count)
            parts.append((own, _KINDS[kind.upper()][size], shape))
    except (KeyError, ValueError) as error:
        raise ValueError(f"its FIELDS, SIZE, TYPE and COUNT do not fit together: {AGAIN}") from error
    return np.dtype(parts)


def _text(body: bytes, layout: np.dtype, total: int) -> dict[str, np.ndarray]:
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) != total:
        raise ValueError(
            f"its header announces {total} points and {len(lines)} follow (a truncated file?): {AGAIN}"
        )
    table = rows(lines, what="points")
    out, column = {}, 0
    for name in layout.names or ():
        width = int(np.prod(layout[name].shape, dtype=int))
        if width == 1 and column < table.shape[1]:
            out[name] = table[:, column]
            if name in (
                "rgb",
                "rgba",
            ):  # three bytes, printed as one whole number or as the float of its bits
                whole = layout[name].base.kind in "ui"
                out[name] = out[name].astype(np.uint32) if whole else out[name].astype(np.float32)
        column += width
    if column != table.shape[1]:
        raise ValueError(f"its lines hold {table.shape[1]} numbers and its FIELDS {column}: {AGAIN}")
    return out


def _colors(columns: dict[str, np.ndarray]) -> np.ndarray | None:
    """(n, 3) uint8 of `rgb` (packed) or `r g b`."""
    packed = columns.get("rgb", columns.get("rgba"))
    if packed is not None and packed.dtype.itemsize == 4:
        bits = np.ascontiguousarray(packed).view(np.uint32)
        return np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=1).astype(np.uint8)
    if {"r", "g", "b"} <= set(columns):
        return np.stack([columns[c] for c in "rgb"], axis=1).clip(0, 255).astype(np.uint8)
    return None
