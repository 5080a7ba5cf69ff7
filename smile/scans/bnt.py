"""Bosphorus range images (`.bnt`): a grid of points -> one `Scan`.

Byte layout (on which three independent public readers agree): little-endian uint16 rows, uint16 columns, float64
background value, uint16 length and bytes of an image name, uint32 count of the numbers that follow, then the five
columns x, y, z, a, b one after another, each row by row. (a, b) is the place in the image, b from the TOP.
Arrays: R rows, C columns, v valid points, f triangles.
"""

import struct
from pathlib import Path

import numpy as np

from . import images
from .arrays import AGAIN, NO_TEXTURE, checked, plausible
from .scan import Scan, Texture

JUMP = 5.0  # grid steps; a longer edge (steeper than 78 degrees) bridges a depth jump, as from nose to cheek
SMALLEST_JUMP = 4.0  # mm, so that noise does not tear a fine grid


def read(path: Path, *, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in mm of the valid points, first row at the forehead. `texture`: the `.png` beside the file.

    Raises ValueError (without the file's name) where sizes disagree or, if `need_texture`, an image is missing.
    """
    grid, valid, name = _grid(path.read_bytes())
    points = np.full(valid.shape, -1)
    points[valid] = np.arange(int(valid.sum()))
    vertices = plausible(np.stack([grid[axis][valid] for axis in range(3)], axis=1))
    _check_upright(grid[1], valid)
    faces = _faces(points, vertices)
    scan = checked(vertices, faces)
    if not need_texture:
        return scan
    a, b = grid[3][valid], grid[4][valid]
    if not (
        np.isfinite(a).all()
        and np.isfinite(b).all()
        and min(a.min(), b.min()) >= -0.01
        and max(a.max(), b.max()) <= 1.01
    ):
        raise ValueError(f"its image places a, b leave 0..1 (damaged file?): restore the .bnt, {NO_TEXTURE}")
    uv = np.stack([a, 1.0 - b], axis=1).astype(np.float32)
    # The image of the stem counts more than the name in the header, which may be an older one.
    own = texture or images.of_stem(path)
    image = images.load(images.find(path, named=name or path.stem + ".png", given=own))
    return checked(vertices, faces, texture=Texture(image, uv[faces]))


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


def _faces(points: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """(f, 3): two triangles a cell where all corners are valid, without the edges that bridge a depth jump.

    `points`: (R, C) vertex number or -1.
    """
    a, b, c, d = points[:-1, :-1], points[:-1, 1:], points[1:, :-1], points[1:, 1:]
    faces = np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], axis=1).reshape(-1, 3)
    faces = faces[(faces >= 0).all(axis=1)]
    if not len(faces):
        return faces
    corners = vertices[faces]  # (f, 3, 3)
    edges = np.roll(corners, -1, axis=1) - corners
    step = np.median(np.abs(edges[..., :2]).max(axis=2))  # mm between neighbours, seen from the front
    short = np.linalg.norm(edges, axis=2).max(axis=1) <= max(JUMP * step, SMALLEST_JUMP)
    faces = faces[short]
    # Which way the columns run is not stated anywhere; a face seen by its scanner has its normals along +z.
    return faces if _signed_area(edges[short]) >= 0 else faces[:, ::-1]


def _signed_area(edges: np.ndarray) -> float:
    """Sum over the triangles of twice the area seen from +z; positive where they run counter-clockwise."""
    return float((edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]).sum())
