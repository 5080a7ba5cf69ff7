"""What the intrinsics of a depth camera (JSON) say for one depth image -> `Lens`.

`fx fy cx cy` (or `ppx ppy`) in pixels of an image of `width` x `height`; metres of one count as `depth_scale`, `depth_units`
or `units`; `device` (`truedepth`, `iPhone`, `iPad`, `realsense` or any other); `rotate` in degrees clockwise that bring the
image upright. Apple's own `intrinsicMatrix` with `intrinsicMatrixReferenceDimensions` is read as well.
Lens distortion (Apple's lookup tables, RealSense `coeffs`) is ignored: unless the device rectified the image, points far
from its middle lie a little off.
Sources: librealsense projection and `get_units`; Apple AVCameraCalibrationData, datasets.md section 10.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

FURTHEST = 1.5  # metres at which a depth camera can see a face
FURTHEST_PHONE = 0.8  # a phone is held in the hand
SAME_ASPECT = 0.02
_TRUEDEPTH_REFERENCE = (3088.0, 2316.0)  # pixels that the intrinsics of a TrueDepth camera refer to
_PHONES = ("truedepth", "iphone", "ipad")
_SCALES = ("depth_scale", "depth_units", "units")
_REALSENSE_SCALE = 0.001  # metres a count, unless the file says otherwise
_MATRIX, _SIZE = "intrinsicMatrix", "intrinsicMatrixReferenceDimensions"
_LARGEST = 1 << 20  # bytes


@dataclass(frozen=True)
class Lens:
    """Where a pixel looks, in pixels of the depth image."""

    fx: float
    fy: float
    cx: float
    cy: float
    scale: float | None  # metres a count
    turns: int  # quarter turns clockwise that bring the image upright
    furthest: float  # metres


def read(path: Path, *, rows: int, columns: int) -> Lens:
    """The lens for a depth image of this size; ValueError where a value is missing or makes no sense."""
    values = _values(path)
    device = str(values.get("device", "")).lower().replace(" ", "").replace("_", "")
    phone = any(name in device for name in _PHONES) or _SIZE.lower() in values
    fx, fy = _number(values, "fx", f"{_MATRIX} fx"), _number(values, "fy", f"{_MATRIX} fy")
    cx, cy = (_number(values, f"c{axis}", f"pp{axis}", f"{_MATRIX} c{axis}") for axis in "xy")
    reference = _TRUEDEPTH_REFERENCE if phone else (float(columns), float(rows))
    if phone and cx < cy:  # said of the upright image
        reference = reference[::-1]
    width, height = (
        _number(values, name, f"{_SIZE} {name}", default=reference[k])
        for k, name in enumerate(("width", "height"))
    )
    if not (width > 0 and height > 0):
        raise ValueError(f"width {width:g} and height {height:g} are no size of an image: correct them")
    if phone and columns < rows and width > height:  # the image was turned upright, its intrinsics were not
        fx, fy, cx, cy, width, height = fy, fx, height - 1 - cy, cx, height, width
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
    rotate = _number(values, "rotate", default=90.0 if phone and columns > rows else 0.0)
    if rotate not in (0, 90, 180, 270):
        raise ValueError(
            f"rotate {rotate:g} is none of 0, 90, 180, 270: give the degrees clockwise that bring the face upright"
        )
    # The middle of the first pixel is 0, so half a pixel stays half a pixel when the image is made smaller.
    cx, cy = (cx + 0.5) * zoom - 0.5, (cy + 0.5) * zoom - 0.5
    scale = _scale(values, default=_REALSENSE_SCALE if "realsense" in device else None)
    furthest = FURTHEST_PHONE if phone else FURTHEST
    return Lens(fx * zoom, fy * zoom, cx, cy, scale, int(rotate) // 90, furthest)


def _values(path: Path) -> dict[str, object]:
    """The values by lower-case name; those of Apple's matrix and size as `intrinsicMatrix fx` and so on."""
    if path.stat().st_size > _LARGEST:
        raise ValueError("it is too large for intrinsics: give a JSON with fx, fy, cx, cy")
    try:
        written = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error}): correct it") from error
    if not isinstance(written, dict):
        raise ValueError("it is no JSON object: give fx, fy, cx, cy, width, height and depth_scale")
    values: dict[str, object] = {str(key).lower(): value for key, value in written.items()}
    if isinstance(values.get("units"), str):  # the name of a unit, of whatever
        del values["units"]
    said: dict[str, object] = {}
    if _MATRIX.lower() in values:
        said |= _matrix(values[_MATRIX.lower()])
    if _SIZE.lower() in values:
        size = values[_SIZE.lower()]
        if not isinstance(size, list) or len(size) != 2:
            raise ValueError(f"{_SIZE} is no [width, height]: correct it")
        said |= {f"{_SIZE} width": size[0], f"{_SIZE} height": size[1]}
    return values | {name.lower(): value for name, value in said.items()}


def _matrix(written: object) -> dict[str, object]:
    """fx, fy, cx, cy of a 3 x 3 matrix by rows or, as Apple keeps it, by columns: the zeros below the diagonal tell."""
    match written:
        case [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] | [[fx, 0, 0], [0, fy, 0], [cx, cy, 1]]:
            pass
        case [fx, 0, cx, 0, fy, cy, 0, 0, 1] | [fx, 0, 0, 0, fy, 0, cx, cy, 1]:
            pass
        case _:
            raise ValueError(
                f"{_MATRIX} is no matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]: correct it, or give fx, fy, cx, cy"
            )
    return {f"{_MATRIX} {name}": value for name, value in (("fx", fx), ("fy", fy), ("cx", cx), ("cy", cy))}


def _scale(values: dict[str, object], *, default: float | None) -> float | None:
    if default is None and not any(name in values for name in _SCALES):
        return None
    scale = _number(values, *_SCALES, default=default)
    if not 1e-6 <= scale <= 1.0:
        name = next(name for name in _SCALES if name in values)
        raise ValueError(f"{name} {scale:g} is not the metres of one count: give a value such as 0.001")
    return scale


def _number(values: dict[str, object], *names: str, default: float | None = None) -> float:
    """The value that goes by one of the names. Raises ValueError where it is missing, no number, or said in two ways."""
    said: dict[str, float] = {}
    for name in names:
        value = values.get(name.lower())
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is {str(value)[:40]!r} and no number: correct it")
        said[name] = float(value)
    if not said and default is not None:
        return default
    if not said:
        raise ValueError(f"{names[0]} is missing: give fx, fy, cx, cy, width, height and depth_scale")
    (first, number), *others = said.items()
    for other, again in others:
        if not math.isclose(again, number, rel_tol=1e-6):
            raise ValueError(f"{first} {number:g} and {other} {again:g} differ: keep the one that is right")
    return number
