"""Frames of a sequence -> one picture of their motion: dynamic images, differences to the onset, magnification.

All work on views as `views.encode` writes them, uint8 with 0 = nothing there. In depth and normals a code is 0 only where
nothing is; a colour may be black, so a pixel's colour is missing where all channels of the pixel are 0.

Legend: T frames, V views, C channels, H W image rows and columns. `colour` is the slice of the colour channels on C.
"""

import numpy as np

from .config import ViewConfig

STILL = 128  # the code of "no motion" in signed channels
_NONE = slice(0, 0)


def of_frames(stack: np.ndarray, config: ViewConfig) -> np.ndarray:
    """What a study with `config.motion` and `config.magnify` sees of the frames of one sample.

    stack: (T, V, C, H, W) uint8. `frames` and `difference` show the last frame against the first, the onset; `dynamic`
    pools all of them in time order. Returns (V, C, H, W) uint8.
    """
    colour = config.channel_slices().get("texture", _NONE)
    if config.motion == "dynamic":
        return dynamic_image(stack, factor=config.magnify, colour=colour)
    if config.motion == "difference":
        return difference(stack[-1], stack[0], factor=config.magnify, colour=colour)
    return stack[-1] if config.magnify == 1 else magnify(stack[[0, -1]], config.magnify, colour=colour)[-1]


def rank_pooling_weights(frames: int) -> np.ndarray:
    """Weights (T,) float64 of approximate rank pooling (Bilen et al., "Dynamic image networks", CVPR 2016).

    a_t = sum over j = t..T of (2j - T - 1) / j, which sums to 0 over t. One frame gets the weight 1: it is its own picture.
    Raises ValueError for fewer than one frame.
    """
    if frames < 1:
        raise ValueError(f"rank pooling over {frames} frames: give one or more")
    if frames == 1:
        return np.ones(1)
    j = np.arange(1, frames + 1)
    return np.cumsum(((2 * j - frames - 1) / j)[::-1])[::-1]


def dynamic_image(stack: np.ndarray, *, factor: float = 1.0, colour: slice = _NONE) -> np.ndarray:
    """Frames in time order (T, V, C, H, W) uint8 -> their dynamic image (V, C, H, W) uint8, 0 where any frame has nothing.

    Colour is spread over 1..255 channel by channel. Depth and normals stay signed and in their own unit: 128 is no change, and
    the weights are scaled so that late frames count 1 and early ones -1 in sum, times `factor`; two frames give `difference`.
    One frame is returned as it is.
    """
    if len(stack) == 1:
        return stack[0].copy()
    weights = rank_pooling_weights(len(stack))
    pooled = np.zeros(stack.shape[1:])
    for weight, frame in zip(weights * 2 / np.abs(weights).sum(), stack, strict=True):
        pooled += weight * frame
    there = np.logical_and.reduce(present(stack, colour=colour))
    out = STILL + factor * pooled
    for channel in range(*colour.indices(stack.shape[2])):
        out[:, channel] = _spread(pooled[:, channel], there[:, channel])
    return _codes(out, there)


def difference(
    frame: np.ndarray, onset: np.ndarray, *, factor: float = 1.0, colour: slice = _NONE
) -> np.ndarray:
    """128 + factor * (frame - onset), clipped to 1..255; 0 where either has nothing. All (V, C, H, W) uint8."""
    there = present(frame, colour=colour) & present(onset, colour=colour)
    return _codes(STILL + factor * (frame.astype(np.float64) - onset), there)


def magnify(stack: np.ndarray, factor: float, *, colour: slice = _NONE) -> np.ndarray:
    """x_0 + factor * (x_t - x_0) for the frames (T, V, C, H, W) uint8, clipped to 1..255; 0 where x_t or x_0 has nothing."""
    there = present(stack, colour=colour)
    return _codes(stack[0] + factor * (stack.astype(np.float64) - stack[0]), there & there[0])


def present(views: np.ndarray, *, colour: slice = _NONE) -> np.ndarray:
    """Where something is: (..., C, H, W) uint8 -> bool of the same shape."""
    there = views != 0
    there[..., colour, :, :] = there.any(axis=-3, keepdims=True)
    return there


def _spread(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Values where `there` -> 1..255 from the least to the greatest; one level alone is no change."""
    if not there.any():
        return values
    low, high = values[there].min(), values[there].max()
    if high - low < 1e-6:  # rounding of weights that sum to 0 must not be spread
        return np.full_like(values, STILL)
    return 1 + 254 * (values - low) / (high - low)


def _codes(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.where(there, np.clip(np.rint(values), 1, 255), 0).astype(np.uint8)
