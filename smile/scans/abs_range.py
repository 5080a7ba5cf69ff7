"""FRGC range images (`.abs`, packed or not): a grid of points as text -> one `Scan`.

Grammar (public readers agree): `480 rows`, `640 columns`, `pixels (flag X Y Z):`, then all flags, all X, all Y and all
Z, each row by row with the first row on top; a point that was not measured has the flag 0 and -999999 three times.
The colour image has the scanner's own grid, so the place of a point in it is its row and column.
Arrays: R rows, C columns.
"""

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from . import images
from .arrays import AGAIN, NO_TEXTURE, checked, numbers
from .grid import triangulate
from .scan import Scan, Texture

LARGEST = (
    1 << 26
)  # bytes of text; 480 x 640 points take 10 MB, and a packed file can hold a thousand times its size
_HEAD = re.compile(
    rb"\s*(\d{1,6})\s+rows\s+(\d{1,6})\s+columns\s+pixels\s*\(\s*flag\s+X\s+Y\s+Z\s*\)\s*:", re.IGNORECASE
)
_BACKGROUND = -999999.0


def read(path: Path, *, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in mm of the measured points. `texture`: the colour image that the data set keeps, else `<stem>.ppm`.

    Raises ValueError (without the file's name) where counts disagree or, if `need_texture`, the image is missing or
    of other proportions than the grid.
    """
    points = _grid(_text(path))
    vertices, faces, place = triangulate(points)
    scan = checked(vertices, faces)
    if not need_texture:
        return scan
    stem = re.sub(r"\.abs(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    image = images.load(images.find(path, named=stem + ".ppm", given=texture))
    rows, columns = points.shape[:2]
    if abs(image.shape[0] * columns - image.shape[1] * rows) > max(image.shape):
        raise ValueError(
            f"its colour image of {image.shape[0]} x {image.shape[1]} pixels has other proportions than its "
            f"{rows} x {columns} points: restore the image of this scan, {NO_TEXTURE}"
        )
    row, column = (place + 0.5).T
    uv = np.stack([column / columns, 1.0 - row / rows], axis=1).astype(np.float32)
    return checked(vertices, faces, texture=Texture(image, uv[faces]))


def _text(path: Path) -> bytes:
    """The bytes of the file, unpacked, and never more than LARGEST of them."""
    packed = path.name.lower().endswith(".gz")
    if packed and not path.name.lower().endswith(".abs.gz"):
        raise ValueError("only .abs.gz is read packed: unpack it first")
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"it cannot be unpacked ({error}): copy the file again") from error
    if len(text) > LARGEST:
        raise ValueError(
            f"more than {LARGEST:,} bytes of text are too many for one scan: export the face alone"
        )
    return text


def _grid(text: bytes) -> np.ndarray:
    """(R, C, 3) float64 with NaN where nothing was measured."""
    head = _HEAD.match(text)
    if head is None:
        start = text[:30].decode("latin-1")
        raise ValueError(
            f"it starts with {start!r} and not with rows, columns and pixels (flag X Y Z): {AGAIN}"
        )
    rows, columns = int(head[1]), int(head[2])
    expected, body = 4 * rows * columns, text[head.end() :]
    # Asked before anything of the announced size is made: a number and its blank take two bytes.
    if len(body) + 1 < 2 * expected:
        raise ValueError(f"{len(body)} bytes cannot hold its {rows} x {columns} points (truncated?): {AGAIN}")
    values = numbers(body, float, what="pixels")
    if len(values) != expected:
        raise ValueError(
            f"it holds {len(values)} numbers, but {rows} x {columns} points have {expected} (truncated?): {AGAIN}"
        )
    flag, xyz = values[: rows * columns], values[rows * columns :].reshape(3, rows, columns)
    valid = (flag.reshape(rows, columns) != 0) & (xyz != _BACKGROUND).all(axis=0)
    if not valid.any():
        raise ValueError(f"none of its {rows * columns} points was measured: {AGAIN}")
    bad = int((valid & ~np.isfinite(xyz).all(axis=0)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {int(valid.sum())} points are not finite numbers (NaN or infinite): {AGAIN}"
        )
    return np.where(valid[..., None], np.moveaxis(xyz, 0, -1), np.nan)
