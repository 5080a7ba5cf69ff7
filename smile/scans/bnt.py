"""Bosphorus range images (`.bnt`): a grid of points -> one `Scan`.

Byte layout (on which three independent public readers agree): little-endian uint16 rows, uint16 columns, float64
background value, uint16 length and bytes of an image name, uint32 count of the numbers that follow, then the five
columns x, y, z, a, b one after another, each row by row. (a, b) is the place in the image, b from the TOP.
Arrays: R rows, C columns.
"""

import struct
from pathlib import Path

import numpy as np

from . import images
from .arrays import AGAIN, NO_TEXTURE, checked, plausible
from .grid import triangulate
from .scan import Scan, Texture


def read(path: Path, *, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in mm of the valid points, first row at the forehead. `texture`: the `.png` beside the file.

    Raises ValueError (without the file's name) where sizes disagree or, if `need_texture`, an image is missing.
    """
    grid, valid, name = _grid(path.read_bytes())
    points = np.where(valid[..., None], np.moveaxis(grid[:3], 0, -1), np.nan)
    plausible(points[valid])
    _check_upright(grid[1], valid)
    vertices, faces, _ = triangulate(points)
    scan = checked(vertices, faces)
    if not need_texture:
        return scan
    uv = _places(grid, valid) * (1, -1) + (0, 1)  # b counts from the top
    image = images.load(_image(path, name, given=texture))
    return checked(vertices, faces, texture=Texture(image, uv.astype(np.float32)[faces]))


def pixels(path: Path) -> np.ndarray:
    """(v, 2) float64: x to the right and y down, in pixels of the image beside the file, of each vertex of `read`.

    Raises ValueError (without the file's name) as `read` does.
    """
    grid, valid, name = _grid(path.read_bytes())
    height, width = images.load(_image(path, name, given=None)).shape[:2]
    return _places(grid, valid) * (width, height)


def _image(path: Path, name: str, *, given: Path | None) -> Path:
    """The image of the stem counts more than the name in the header, which may be an older one."""
    return images.find(path, named=name or path.stem + ".png", given=given or images.of_stem(path))


def _places(grid: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(v, 2) float64: a, b of the valid points."""
    places = grid[3:, valid].T
    if not (np.isfinite(places).all() and places.min() >= -0.01 and places.max() <= 1.01):
        raise ValueError(f"its image places a, b leave 0..1 (damaged file?): restore the .bnt, {NO_TEXTURE}")
    return places


def _grid(data: bytes) -> tuple[np.ndarray, np.ndarray, str]:
    """The file's bytes -> ((5, R, C) float64 with the forehead first, (R, C) bool valid, image name)."""
    remedy = "copy the file again"
    if len(data) < 18:
        raise ValueError(f"{len(data)} bytes are too short for a .bnt header (a truncated file?): {remedy}")
    rows, columns, background, length = struct.unpack_from("<HHdH", data)
    expected = 18 + length + 40 * rows * columns
    if len(data) != expected:
        raise ValueError(
            f"{len(data)} bytes, but its header of {rows} x {columns} points and a name of {length} "
            f"letters makes {expected} (truncated, or not a .bnt file?): {remedy}"
        )
    (count,) = struct.unpack_from("<I", data, 14 + length)
    if count != 5 * rows * columns:
        raise ValueError(
            f"it announces {count} numbers, but {rows} x {columns} points have {5 * rows * columns}: {remedy}"
        )
    grid = np.frombuffer(data, "<f8", offset=18 + length).reshape(5, rows, columns)
    grid = grid[:, ::-1]  # stored chin first
    valid = grid[2] != background
    if not valid.any():
        raise ValueError(f"all {rows * columns} points are background: {AGAIN}")
    return grid, valid, data[14 : 14 + length].decode("latin-1").strip("\0 ")


def _check_upright(y: np.ndarray, valid: np.ndarray) -> None:
    """After the flip y must fall from row to row, else the columns are not what we take them for."""
    row = np.nonzero(valid)[0]
    upper, lower = y[valid][row <= np.median(row)], y[valid][row > np.median(row)]
    if len(upper) and len(lower) and upper.mean() <= lower.mean():
        raise ValueError(
            "y does not fall from the first to the last row of the grid (stored the other way up, or "
            f"its columns are not x, y, z?): {AGAIN}"
        )
