"""Organised RGB-D frames: a depth image with its intrinsics (JSON) and, beside it, a colour image -> one `Scan`.

Names: `P001_happy_0_depth.png` (or `.depth.png`, `depth_0001.png`, `depth/000.png`) with `P001_happy_0_color.jpg`
(`color_0001.png`, `color/000.jpg`) and `P001_happy_0.json` (see `intrinsics`), or one `intrinsics.json` or `camera.json` for
all frames in the folder or above it.
Depth: 16-bit PNG or TIFF of counts, or 32-bit TIFF or `.npy` of metres (of counts, where they are too large for metres).
Arrays: R rows, C columns of the depth image.
"""

import re
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import TypeVar

import numpy as np

from . import images, intrinsics
from .arrays import AGAIN, NO_TEXTURE, checked
from .folders import by_lower_name
from .grid import triangulate
from .intrinsics import SAME_ASPECT, Lens
from .scan import Frame, Scan, Texture

NEAREST = 0.15  # metres at which a depth camera can see a face; 0 and 9999 mean "nothing seen"
FURTHEST_METRES = 20.0  # larger numbers are millimetres or counts
SMALLEST_PIECE = 6000.0  # mm2 of surface; a nearer but smaller piece is no face (which has about 20,000)
_P = TypeVar("_P", bound=PurePath)
_MARK = re.compile(r"(?P<stem>.+)[_.-]depth|depth[_-](?P<rest>.+)", re.IGNORECASE)
_COLORS = ("color", "colour", "rgb")
_SUFFIXES = (".png", ".npy", ".tif", ".tiff")
_ALL = ("intrinsics.json", "camera.json")
_LARGEST = 4_000_000  # pixels; depth cameras have a million, and each becomes a vertex and two faces


def stem_of(path: PurePath) -> str | None:
    """The name of a capture without what marks it as depth; None where `path` is not named like a depth image."""
    if path.suffix.lower() not in _SUFFIXES:
        return None
    if mark := _MARK.fullmatch(path.stem):
        return mark["stem"] or mark["rest"]
    return path.stem if path.parent.name.lower() == "depth" else None


def home_of(path: _P) -> _P:
    """The folder of the capture, which may keep its depth images in a folder `depth` of their own."""
    return path.parent.parent if path.parent.name.lower() == "depth" else path.parent


def look(folder: Path) -> dict[str, Path]:
    """What a folder holds, by lower-case name."""
    return by_lower_name(folder.iterdir())


def frame(path: Path, *, top: Path, number: int = 0, look: Callable[[Path], dict[str, Path]] = look) -> Frame:
    """The depth image at `path` with the colour and intrinsics that belong to it, looked for as far up as `top`.

    `look` may remember what it saw. Raises ValueError where there are no intrinsics.
    """
    stem = stem_of(path)
    assert stem is not None, path
    folder, home, name = path.parent, home_of(path), stem.lower()
    around = look(home)
    colors = next((around[word] for word in _COLORS if word in around and around[word].is_dir()), None)
    files = look(colors if folder != home and colors else folder)
    names = [
        mark for word in _COLORS for sep in "_.-" for mark in (f"{name}{sep}{word}", f"{word}{sep}{name}")
    ]
    if folder == home or colors:  # else it is another depth image
        names.append(name)
    found = (files[mark + e] for mark in names for e in images.EXTENSIONS if mark + e in files)
    color = next((file for file in found if file != path), None)
    camera = next(
        (around[file] for file in (f"{name}.json", f"{path.stem.lower()}.json") if file in around),
        None,
    )
    places = [folder, *folder.parents]
    places = [*places[: places.index(top) + 1], home]
    for place in places if camera is None else ():
        camera = camera or next((look(place)[name] for name in _ALL if name in look(place)), None)
    if camera is None:
        raise ValueError(
            f"depth image {path.name!r} has no intrinsics: put {stem}.json or camera.json with fx, fy, cx, cy, width, height "
            "and depth_scale beside it"
        )
    return Frame(path, number, texture=color, camera=camera)


def read(path: Path, *, camera: Path, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in mm of the piece of surface in front, seen by a camera at the origin that looks along -z.

    Vertices: x right, y up, z towards the camera, without mirroring. The colour image keeps its own resolution.
    Raises ValueError (without the file's name) for what is no depth image, and for missing colour if `need_texture`.
    """
    depth, whole = _depth(path)
    try:
        lens = intrinsics.read(camera, rows=depth.shape[0], columns=depth.shape[1])
    except ValueError as error:
        raise ValueError(f"intrinsics {camera.name}: {error}") from error
    counts = whole or _too_far(depth)
    if counts and lens.scale is None:
        raise ValueError(
            f"intrinsics {camera.name}: depth_scale is missing: give the metres of one count, such as 0.001"
        )
    points = _points(depth * lens.scale if counts and lens.scale else depth, lens)
    vertices, faces, place = triangulate(points)
    if not len(faces):
        raise ValueError(
            f"nothing lies {NEAREST:g} to {lens.furthest:g} m from the camera: check depth_scale in {camera.name}, or scan again"
        )
    kept = _in_front(vertices, faces)
    renumbered = np.cumsum(kept) - 1
    vertices, faces, place = vertices[kept], renumbered[faces[kept[faces].all(axis=1)]], place[kept]
    scan = checked(vertices, faces)
    if not need_texture:
        return scan
    if texture is None:
        wanted = re.sub("depth", "color", path.stem, flags=re.IGNORECASE)
        wanted += "_color" if wanted == path.stem else ""
        raise ValueError(f"no colour image lies beside it: restore {wanted}.png, {NO_TEXTURE}")
    image = images.load(texture)
    rows, columns = depth.shape
    if abs(image.shape[1] * rows / (image.shape[0] * columns) - 1) > SAME_ASPECT:
        raise ValueError(
            f"colour image {texture.name} of {image.shape[1]} x {image.shape[0]} pixels does not cover the depth image of "
            f"{columns} x {rows}: export colour aligned to depth, {NO_TEXTURE}"
        )
    uv = np.stack([(place[:, 1] + 0.5) / columns, 1.0 - (place[:, 0] + 0.5) / rows], axis=1)
    return checked(vertices, faces, texture=Texture(image, uv.astype(np.float32)[faces]))


def _depth(path: Path) -> tuple[np.ndarray, bool]:
    """((R, C) float64 as stored, whether it is counts and not metres)."""
    if path.suffix.lower() == ".npy":
        return _numpy(path)
    from PIL import Image

    try:
        with Image.open(images.stored(path), formats=("PNG", "TIFF")) as image:
            if image.width * image.height > _LARGEST:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {_LARGEST:,} of depth")
            if not image.mode.startswith(("I", "F")):
                raise ValueError(
                    f"it holds 8-bit colours or greys ({image.mode}) and no depth (colourised for the eye?): "
                    "export 16-bit depth"
                )
            with np.errstate(invalid="ignore"):  # some kinds of NaN
                return np.array(image, np.float64), not image.mode.startswith("F")
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        why = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"the depth image cannot be read ({why}): {AGAIN}") from error


def _too_far(depth: np.ndarray) -> bool:
    """Whether numbers with a fraction cannot be metres, because most would lie out of any camera's sight."""
    seen = depth[(depth > 0) & (depth < 9999.0)]  # also without NaN
    return len(seen) > 0 and float(np.median(seen)) > FURTHEST_METRES


def _numpy(path: Path) -> tuple[np.ndarray, bool]:
    try:
        stored = np.load(
            path, mmap_mode="r", allow_pickle=False
        )  # mapped: a huge announced size takes no memory
    except Exception as error:  # any of a dozen kinds on damaged files
        raise ValueError(f"the depth array cannot be read ({error}; damaged file?): {AGAIN}") from error
    if (
        not isinstance(stored, np.ndarray)
        or stored.ndim != 2
        or not stored.size
        or stored.dtype.kind not in "fui"
    ):
        raise ValueError(
            f"it holds no rows and columns of numbers: save depth as a two-dimensional array, {AGAIN}"
        )
    if stored.size > _LARGEST:
        raise ValueError(f"{stored.shape[1]} x {stored.shape[0]} pixels are more than {_LARGEST:,} of depth")
    with np.errstate(invalid="ignore"):  # some kinds of NaN
        return np.array(stored, np.float64), stored.dtype.kind != "f"


def _points(metres: np.ndarray, lens: Lens) -> np.ndarray:
    """(R, C, 3) mm, NaN where nothing was seen: the camera's x right, y down, z forward, turned by half about x.

    A turn of the image by 90 degrees clockwise brings what is on its left to the top.
    """
    seen = (metres >= NEAREST) & (metres <= lens.furthest)  # also false for NaN
    z = np.where(seen, metres * 1000.0, np.nan)
    row, column = np.indices(metres.shape)
    right, down = (column - lens.cx) * z / lens.fx, (row - lens.cy) * z / lens.fy
    for _ in range(lens.turns):
        right, down = -down, right
    return np.stack([right, -down, -z], axis=-1)


def _in_front(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(v,) bool: the nearest of the large connected pieces of the surface, so that walls and chairs stay away."""
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    piece = np.arange(len(vertices))
    while True:  # each vertex takes the smallest number around, then that one's own
        smallest = piece.copy()
        np.minimum.at(smallest, edges[:, 0], piece[edges[:, 1]])
        np.minimum.at(smallest, edges[:, 1], piece[edges[:, 0]])
        np.minimum.at(smallest, piece, smallest.copy())
        smallest = smallest[smallest]
        if (smallest == piece).all():
            break
        piece = smallest
    _, place, count = np.unique(piece, return_inverse=True, return_counts=True)
    (ax, ay, az), (bx, by, bz) = ((vertices[faces[:, k]] - vertices[faces[:, 0]]).T for k in (1, 2))
    doubled = np.sqrt((ay * bz - az * by) ** 2 + (az * bx - ax * bz) ** 2 + (ax * by - ay * bx) ** 2)
    area = np.bincount(place[faces[:, 0]], doubled / 2, len(count))
    depth = np.bincount(place, vertices[:, 2]) / count
    depth[area < min(SMALLEST_PIECE, area.max())] = -np.inf
    return place == int(np.argmax(depth))
