"""Organised RGB-D frames: a depth image with its intrinsics (JSON) and, beside it, a colour image -> one `Scan`.

Names: `P001_happy_0_depth.png` (or `.depth.png`, or `depth/000.png`) with `P001_happy_0_color.jpg` (`color/000.jpg`)
and `P001_happy_0.json`, or one `intrinsics.json` or `camera.json` for all frames in the folder or above it.
Depth: 16-bit PNG or TIFF of counts, or 32-bit TIFF or `.npy` of metres (of counts, where they are too large for metres).
The JSON: `fx fy cx cy` (or `ppx ppy`) in pixels of an image of `width` x `height`, `depth_scale` in metres a count, `device`
(`truedepth`, `realsense` or any other), `rotate` in degrees clockwise that bring the image upright.
Sources: librealsense projection and `get_units`; Apple AVCameraCalibrationData (reference size), datasets.md section 10.
Arrays: R rows, C columns of the depth image.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import images
from .arrays import AGAIN, NO_TEXTURE, checked
from .folders import by_lower_name
from .grid import triangulate
from .scan import Frame, Scan, Texture

NEAREST, FURTHEST = 0.15, 1.5  # metres at which a depth camera can see a face; 0 and 9999 mean "nothing seen"
FURTHEST_METRES = 20.0  # larger numbers are millimetres or counts
TRUEDEPTH_REFERENCE = (3088, 2316)  # pixels that the intrinsics of a TrueDepth camera refer to
REALSENSE_SCALE = 0.001  # metres a count, unless the device says otherwise
SAME_ASPECT = 0.02
SMALLEST_PIECE = 6000.0  # mm2 of surface; a nearer but smaller piece is no face (which has about 20,000)
_MARKS = ("_depth", ".depth", "-depth")
_COLORS = ("_color", ".color", "-color", "_rgb", "")
_SUFFIXES = (".png", ".npy", ".tif", ".tiff")
_ALL = ("intrinsics.json", "camera.json")
_LARGEST_JSON = 1 << 20  # bytes


@dataclass(frozen=True)
class Camera:
    """Where a pixel looks, in pixels of the depth image."""

    fx: float
    fy: float
    cx: float
    cy: float
    scale: float | None  # metres a count
    turns: int  # quarter turns clockwise that bring the image upright


def stem_of(path: Path) -> str | None:
    """The name of a capture without what marks it as depth; None where `path` is not named like a depth image."""
    if path.suffix.lower() not in _SUFFIXES:
        return None
    stem = path.stem
    mark = next((m for m in _MARKS if stem.lower().endswith(m) and len(stem) > len(m)), None)
    if mark:
        return stem[: -len(mark)]
    return stem if path.parent.name.lower() == "depth" else None


def look(folder: Path) -> dict[str, Path]:
    """What a folder holds, by lower-case name."""
    return by_lower_name(folder.iterdir())


def frame(path: Path, *, top: Path, number: int = 0, look: Callable[[Path], dict[str, Path]] = look) -> Frame:
    """The depth image at `path` with the colour and intrinsics that belong to it, looked for as far up as `top`.

    `look` may remember what it saw. Raises ValueError where there are no intrinsics.
    """
    stem = stem_of(path)
    assert stem is not None, path
    folder = path.parent
    inside = folder.name.lower() == "depth" and stem == path.stem
    home = folder.parent if inside else folder
    around = look(home)
    colors = next((p for n, p in around.items() if n in ("color", "colour", "rgb") and p.is_dir()), None)
    files = look(colors if inside and colors else folder)
    names = [
        stem.lower() + mark + e for mark in _COLORS for e in images.EXTENSIONS if not (inside and not colors)
    ]
    color = next((files[name] for name in names if name in files and files[name] != path), None)
    camera = next(
        (around[name] for name in (f"{stem.lower()}.json", f"{path.stem.lower()}.json") if name in around),
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
        lens = _camera(camera, rows=depth.shape[0], columns=depth.shape[1])
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
            f"nothing lies {NEAREST:g} to {FURTHEST:g} m from the camera: check depth_scale in {camera.name}, or scan again"
        )
    kept = _in_front(vertices, faces)
    renumbered = np.cumsum(kept) - 1
    vertices, faces, place = vertices[kept], renumbered[faces[kept[faces].all(axis=1)]], place[kept]
    scan = checked(vertices, faces)
    if not need_texture:
        return scan
    if texture is None:
        raise ValueError(
            f"no colour image lies beside it: restore {stem_of(path) or path.stem}_color.png, {NO_TEXTURE}"
        )
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
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            if image.width * image.height > images.LARGEST:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {images.LARGEST:,}")
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
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind not in "fui":
        raise ValueError(
            f"it holds no rows and columns of numbers: save depth as a two-dimensional array, {AGAIN}"
        )
    if stored.size > images.LARGEST:
        raise ValueError(f"{stored.shape[1]} x {stored.shape[0]} pixels are more than {images.LARGEST:,}")
    with np.errstate(invalid="ignore"):  # some kinds of NaN
        return np.array(stored, np.float64), stored.dtype.kind != "f"


def _camera(path: Path, *, rows: int, columns: int) -> Camera:
    """The intrinsics for a depth image of this size; ValueError where a value is missing or makes no sense."""
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError("it is too large for intrinsics: give a JSON with fx, fy, cx, cy")
    try:
        written = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error}): correct it") from error
    if not isinstance(written, dict):
        raise ValueError("it is no JSON object: give fx, fy, cx, cy, width, height and depth_scale")
    values = {str(key).lower(): value for key, value in written.items()}
    device = str(values.get("device", "")).lower().replace(" ", "").replace("_", "")
    phone = "truedepth" in device
    fx, fy = _number(values, "fx"), _number(values, "fy")
    cx, cy = _number(values, "cx", "ppx"), _number(values, "cy", "ppy")
    reference = TRUEDEPTH_REFERENCE if phone else (columns, rows)
    width, height = (
        _number(values, key, default=float(reference[k])) for k, key in enumerate(("width", "height"))
    )
    zoom = columns / width
    if not (fx > 0 and fy > 0 and abs(width * rows / (height * columns) - 1) <= SAME_ASPECT):
        raise ValueError(
            f"fx {fx:g}, fy {fy:g} for {width:g} x {height:g} pixels do not fit a depth image of {columns} x {rows}: "
            "give the width and height that the intrinsics refer to"
        )
    if not (0.2 < cx / width < 0.8 and 0.2 < cy / height < 0.8 and 0.2 < fx / width < 10):
        raise ValueError(
            f"fx {fx:g}, cx {cx:g}, cy {cy:g} do not fit {width:g} x {height:g} pixels: give the width and height that they refer to"
        )
    scale = None
    if "depth_scale" in values or "realsense" in device:
        scale = _number(values, "depth_scale", default=REALSENSE_SCALE)
        if not 1e-6 <= scale <= 1.0:
            raise ValueError(
                f"depth_scale {scale:g} is not the metres of one count: give a value such as 0.001"
            )
    rotate = _number(values, "rotate", default=90.0 if phone and columns > rows else 0.0)
    if rotate not in (0, 90, 180, 270):
        raise ValueError(
            f"rotate {rotate:g} is none of 0, 90, 180, 270: give the degrees clockwise that bring the face upright"
        )
    # The middle of the first pixel is 0, so half a pixel stays half a pixel when the image is made smaller.
    return Camera(
        fx * zoom, fy * zoom, (cx + 0.5) * zoom - 0.5, (cy + 0.5) * zoom - 0.5, scale, int(rotate) // 90
    )


def _number(values: dict[str, object], *names: str, default: float | None = None) -> float:
    value = next((values[name] for name in names if name in values), default)
    if value is None:
        raise ValueError(
            f"{' or '.join(names)} is missing: give fx, fy, cx, cy, width, height and depth_scale"
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{names[0]} is {str(value)[:40]!r} and no number: correct it")
    return float(value)


def _points(metres: np.ndarray, lens: Camera) -> np.ndarray:
    """(R, C, 3) mm, NaN where nothing was seen: the camera's x right, y down, z forward, turned by half about x.

    A turn of the image by 90 degrees clockwise brings what is on its left to the top.
    """
    seen = (metres >= NEAREST) & (metres <= FURTHEST)  # also false for NaN
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
