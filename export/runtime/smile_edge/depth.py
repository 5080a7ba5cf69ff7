"""A frame of a depth camera, with its intrinsics and its colour, -> the views that a scan gives. Needs pillow for images."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .views import attempt, reader_module, scan_modules, scan_views

_MILLIMETRES = 0.001  # metres of one count of a 16-bit image, unless the intrinsics say otherwise
_SCALES = {"depth_scale", "depth_units", "units"}


def read_depth(
    path: Path, bundle: Path, spec: dict[str, Any], *, intrinsics: Path, colour: Path | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """One depth image -> views (1, V, C, H, W) as the model takes them, and the milliseconds for `read` and `views`.

    path: 16-bit PNG or TIFF in mm, or (R, C) float metres as .npy or TIFF; 0 or NaN where nothing was seen.
    intrinsics: JSON with fx, fy, cx, cy in pixels, and what else `reader/scans/intrinsics.py` knows. colour: an image aligned
    to the depth, for models that see texture. spec: `preprocessing` of the manifest. Raises ValueError, one sentence.
    """
    if spec["motion"] != "frames" or spec["magnify"] != 1:
        raise ValueError(
            f"{path} is a single frame and this bundle reads motion: give its frames with --stream"
        )
    textured = "texture" in spec["modalities"]
    for given in (path, intrinsics, *([colour] if colour else [])):
        if not given.is_file():
            raise ValueError(
                f"{given} is not there: give the depth image, --intrinsics and --colour as files"
            )
    if textured and colour is None:
        raise ValueError(f"{path} has no colours and this model sees texture: give them with --colour FILE")
    modules, rgbd = scan_modules(bundle), reader_module(bundle, "scans.rgbd")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        camera = attempt(intrinsics, lambda: _in_millimetres(intrinsics, Path(folder)))
        scan = attempt(path, lambda: rgbd.read(path, camera=camera, texture=colour, need_texture=textured))
    read = time.perf_counter()
    views = scan_views(path, scan, modules, spec)
    return views, {"read": 1e3 * (read - start), "views": 1e3 * (time.perf_counter() - read)}


def _in_millimetres(intrinsics: Path, folder: Path) -> Path:
    """The intrinsics, or where they do not say what a count is, a copy in `folder` that does."""
    try:
        values = json.loads(intrinsics.read_bytes())
    except ValueError:
        return intrinsics  # the reader says what is wrong with it
    if not isinstance(values, dict) or _SCALES & {str(key).lower() for key in values}:
        return intrinsics
    copy = folder / intrinsics.name
    copy.write_text(json.dumps({**values, "depth_scale": _MILLIMETRES}), encoding="utf-8")
    return copy
