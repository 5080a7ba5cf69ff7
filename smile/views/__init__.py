"""An aligned scan -> pictures from several angles: colour, depth and normals, and their 8-bit form on disk.

Legend: V views, C channels, H W image rows and columns.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import ViewConfig
from ..scans.scan import Scan
from .shading import shade

RENDERERS = ("numpy", "pyrender")
FAR, NEAR = -120.0, 40.0  # mm, depths written as 1 and 255
SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swiftshader")  # OpenGL devices that are a CPU


@dataclass(frozen=True, eq=False)
class Maps:
    """What the cameras see, in real units."""

    depth: np.ndarray  # (V, H, W) float32 mm, z in the view frame: larger is nearer; NaN where nothing is
    normals: np.ndarray  # (V, H, W, 3) float32 unit vectors in the view frame; 0 where nothing is
    colour: np.ndarray | None  # (V, H, W, 3) uint8 RGB, unlit; None when texture is not asked for


def render(scan: Scan, config: ViewConfig, *, renderer: str = "auto") -> Maps:
    """Draws an aligned scan (`geometry.align`) from every yaw of `config`.

    Raises ValueError when the renderer is not there, or when texture is asked for and the scan has no colours.
    """
    chosen, _ = choose_renderer(renderer)
    if chosen == "numpy":
        from . import raster

        seen = raster.visible_faces(scan.vertices, scan.faces, config)
    else:
        from . import egl

        seen = egl.visible_faces(scan.vertices, scan.faces, config)
    return Maps(*shade(scan, seen, config))


def choose_renderer(name: str = "auto") -> tuple[str, str]:
    """The renderer to use for `auto`, `numpy` or `pyrender`, and one sentence why. ValueError: what to install.

    Measured on two CPU cores without a GPU, 29,000 vertices and three views at 64 and 224 pixels, which face each pixel sees:
    numpy 7 and 25 ms, pyrender on Mesa's software OpenGL 45 and 41 ms. So `auto` takes OpenGL only where EGL offers a GPU.
    """
    if name not in ("auto", *RENDERERS):
        raise ValueError(f"renderer {name!r} is unknown: choose auto, {' or '.join(RENDERERS)}")
    if name == "numpy":
        return "numpy", "numpy was asked for and works everywhere."
    if name == "pyrender":
        device, problem = _egl()
        if problem:
            raise ValueError(
                f"pyrender cannot be used ({problem}): pip install pyrender and a driver with EGL "
                "(Debian and Ubuntu: apt install libegl1 libgl1-mesa-dri), or choose numpy"
            )
        return "pyrender", f"pyrender was asked for and works, on {device}."
    return _automatic()


def _automatic() -> tuple[str, str]:
    if not _gpu_in_sight():
        return "numpy", "numpy: no GPU is visible, and on a CPU it is the fastest and needs no driver."
    device, problem = _egl()
    if device and not any(word in device.lower() for word in SOFTWARE):
        return "pyrender", f"pyrender: EGL offers a GPU, {device}."
    return "numpy", f"numpy: EGL offers no GPU ({problem or device})."


def _egl() -> tuple[str, str]:
    from . import egl

    return egl.probe(os.getpid())


def _gpu_in_sight() -> bool:
    """A cheap look before the costly one: starting OpenGL takes seconds, and most sites have no GPU."""
    device_nodes = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dri/renderD*")
    return any(next(Path("/dev").glob(pattern), None) is not None for pattern in device_nodes)


def encode(maps: Maps, config: ViewConfig) -> np.ndarray:
    """Maps -> (V, C, H, W) uint8, channels in the order of `config.channel_slices()`; 0 in every channel where nothing is.

    depth:   round((z - FAR) / (NEAR - FAR) * 254) + 1, clipped to 1..255; `depth_mm` is the inverse, exact to 0.32 mm
    normals: round((n + 1) / 2 * 254) + 1, so -1, 0, 1 become 1, 128, 255; inverse n = (code - 1) / 127 - 1
    texture: the colour as it is
    """
    nothing = np.isnan(maps.depth)
    views, height, width = maps.depth.shape
    out = np.zeros((views, config.channels, height, width), dtype=np.uint8)
    slices = config.channel_slices()
    if "texture" in slices:
        assert maps.colour is not None, "render() raises when texture is asked for and the scan has none"
        out[:, slices["texture"]] = np.where(nothing[..., None], 0, maps.colour).transpose(0, 3, 1, 2)
    if "depth" in slices:
        share = np.clip((np.where(nothing, FAR, maps.depth) - FAR) / (NEAR - FAR), 0, 1)
        out[:, slices["depth"]] = np.where(nothing, 0, np.rint(share * 254) + 1)[:, None]
    if "normals" in slices:
        code = np.rint((np.clip(maps.normals, -1, 1) + 1) * 127) + 1
        out[:, slices["normals"]] = np.where(nothing[..., None], 0, code).transpose(0, 3, 1, 2)
    return out


def depth_mm(code: np.ndarray) -> np.ndarray:
    """Depth channel (any shape) uint8 -> float32 mm, NaN where nothing is: the inverse of `encode`."""
    z = (code.astype(np.float32) - 1) / 254 * (NEAR - FAR) + FAR
    return np.where(code == 0, np.float32(np.nan), z).astype(np.float32)
