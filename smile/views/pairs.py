"""A picture of two cameras side by side (4DMR) -> views: the views that no camera saw and the shape stay missing.

Legend: V views, C channels, H W image rows and columns.
"""

from pathlib import Path

import numpy as np

from ..config import ViewConfig
from ..scans import images


def pair_views(path: Path, config: ViewConfig) -> np.ndarray:
    """(V, C, H, W) uint8: the left half of the picture becomes the view of the greatest yaw, the right half of the least.

    The left view is taken for the picture of the camera on the left, as the cameras look at the face, which sees more of the
    subject's right side (to be confirmed with the owner of the data). Each half is cropped to the square in its middle
    and resized. A texture that is there is 1 to 255, so only a missing view is 0 throughout; depth and normals are 0.
    Raises ValueError for a picture that cannot be read or is no pair, and where `config` has no place for two textures.
    """
    from PIL import Image

    if len(config.yaws) < 2 or "texture" not in config.modalities:
        yaws = ", ".join(f"{yaw:g}" for yaw in config.yaws)
        raise ValueError(
            f"{path}: a picture of two views needs two yaws and texture, but the yaws are {yaws} and the modalities "
            f"{', '.join(config.modalities)}: prepare with --yaws and --modalities that have them"
        )
    try:
        picture = images.load(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    height, width = picture.shape[:2]
    if width < height or width < 32:
        raise ValueError(
            f"{path}: {width} x {height} pixels are not two views side by side: give the left one and the right one in one picture"
        )
    out = np.zeros((len(config.yaws), config.channels, config.size, config.size), np.uint8)
    halves = {
        int(np.argmax(config.yaws)): picture[:, : width // 2],
        int(np.argmin(config.yaws)): picture[:, width - width // 2 :],
    }
    for view, half in halves.items():
        square = Image.fromarray(_middle(half)).resize((config.size, config.size), Image.Resampling.BILINEAR)
        out[view, config.channel_slices()["texture"]] = np.maximum(np.asarray(square), 1).transpose(2, 0, 1)
    return out


def _middle(picture: np.ndarray) -> np.ndarray:
    """The largest square in the middle of (H, W, 3)."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]
