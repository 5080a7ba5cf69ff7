"""Simulated faces made strange: what `landmark_net` learns on must vary more than the scans of the world do.

Legend: B pictures of a batch, H W rows and columns of the whole picture, N points. Lengths in pixels unless they say mm.
"""

from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional

from smile.face_landmarks import PITCH, SIZE, channels

NO_COLOUR = 0.5  # share of the pictures whose colour is dropped


def varied(
    data: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator, *, swap: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """depth (B, H, W) mm with NaN, colour (B, H, W, 3), points (B, N, 2) -> what the network sees (B, C, h, w) float32 and
    the points (B, N, 2) float32 in it. `swap`: the order of the points in a mirrored face.
    """
    depth, colour, points = data[0].astype(np.float32), data[1].astype(np.float32), data[2].astype(np.float32)
    mirrored = rng.uniform(size=len(depth)) < 0.5
    depth[mirrored], colour[mirrored] = depth[mirrored, :, ::-1], colour[mirrored, :, ::-1]
    points[mirrored] = (points[mirrored] * [-1, 1] + [SIZE - 1, 0])[:, swap]
    depth, colour, points = _warped(depth, colour, points, rng)
    depth = _scanned(depth, rng)
    bright = _lit(depth, colour, rng)
    depth = _holed(depth, bright, rng)
    seen = [channels(d, None if rng.uniform() < NO_COLOUR else b) for d, b in zip(depth, bright, strict=True)]
    return np.stack(seen), points.astype(np.float32)


@lru_cache(maxsize=8)
def _hills(cells: int) -> np.ndarray:
    """(SIZE, cells) float32: overlapping hills whose random mixtures are smooth; the squares of a row sum to 1."""
    middles = (np.arange(cells) + 0.5) / cells * SIZE
    hills = np.exp(-0.5 * ((np.arange(SIZE)[:, None] - middles) / (0.6 * SIZE / cells)) ** 2)
    return (hills / np.sqrt((hills**2).sum(axis=1, keepdims=True))).astype(np.float32)


def _smooth_field(rng: np.random.Generator, cells: int, size: np.ndarray) -> np.ndarray:
    """(B, H, W) float32 random fields that bend `cells` times across the picture, with deviations of `size` (B,)."""
    rough = size[:, None, None] * rng.normal(0, 1, (len(size), cells, cells))
    return _hills(cells) @ rough.astype(np.float32) @ _hills(cells).T


def _warped(
    depth: np.ndarray, colour: np.ndarray, points: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Other proportions and another place: a turn in the picture, stretches, a shift, and smooth random fields."""
    batch = len(depth)
    angle = np.radians(rng.normal(0, 3.0, batch))
    stretch = 1 / rng.uniform(0.9, 1.12, (batch, 1)) / rng.uniform(0.93, 1.07, (batch, 2))
    middle = (SIZE - 1) / 2
    grid = torch.from_numpy(np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)))).float()  # (2, H, W)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(batch, 2, 2)
    linear = torch.from_numpy((turn * stretch[:, :, None]).astype(np.float32))
    source = torch.einsum("bij,jhw->bihw", linear, grid - middle) + middle
    shift = np.clip(rng.normal(0, 1.6, (batch, 2)), -3, 3).astype(np.float32)
    source += torch.from_numpy(shift)[:, :, None, None]
    for cells, most in ((5, 2.6), (11, 0.9)):
        size = rng.uniform(0, most, batch)
        bent = np.stack([_smooth_field(rng, cells, size) for _ in range(2)], axis=1)
        source += torch.from_numpy(bent)
    # A place q of the face is seen where source(p) = q.
    target, place = torch.from_numpy(points), torch.from_numpy(points).clone()
    for _ in range(12):
        place = place + 0.8 * (target - _at(source, place))
    known = np.isfinite(depth)
    layers = [np.where(known, depth, 0)[:, None], known[:, None], colour.transpose(0, 3, 1, 2)]
    stack = torch.from_numpy(np.concatenate(layers, axis=1).astype(np.float32))
    moved = functional.grid_sample(stack, _unit(source), align_corners=False).numpy()
    share = moved[:, 1]
    depth = np.where(share > 0.6, moved[:, 0] / np.maximum(share, 0.6), np.nan)
    return depth, moved[:, 2:].transpose(0, 2, 3, 1), place.numpy()


def _unit(source: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 2, ...) -> what `grid_sample` takes, (B, ..., 2)."""
    return (source.movedim(1, -1) + 0.5) * (2 / SIZE) - 1


def _at(field: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """field (B, 2, H, W) at place (B, N, 2) -> (B, N, 2)."""
    where = ((place + 0.5) * (2 / SIZE) - 1)[:, :, None]
    return functional.grid_sample(field, where, align_corners=False, padding_mode="border")[..., 0].transpose(
        1, 2
    )


def _scanned(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another head's depth, another scanner's grid: stretched, tilted and bent in z; roughened and smoothed."""
    batch = len(depth)
    slope = rng.normal(0, 0.04, (batch, 2, 1, 1)).astype(np.float32)
    x = (np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2) * np.float32(PITCH)
    depth = depth * rng.uniform(0.85, 1.15, (batch, 1, 1)).astype(np.float32)
    depth = depth + slope[:, 0] * x[None, None, :] + slope[:, 1] * x[None, :, None]
    depth += _smooth_field(rng, 6, rng.uniform(0, 2.0, batch))
    depth += rng.normal(0, 1.5, (batch, 1, 1)).astype(np.float32)
    rough = rng.uniform(0, 0.7, (batch, 1, 1)) * (rng.uniform(size=(batch, 1, 1)) < 0.7)
    depth += (rough * rng.standard_normal(depth.shape, dtype=np.float32)).astype(np.float32)
    # In groups: one coarseness and one smoothing each.
    for rows in np.array_split(rng.permutation(batch), 4):
        known = np.isfinite(depth[rows])
        pair = torch.from_numpy(np.stack([np.where(known, depth[rows], 0), known], 1).astype(np.float32))
        if rng.uniform() < 0.6:
            pair = _blurred(pair, float(rng.uniform(0.4, 1.5)))
        if rng.uniform() < 0.6:
            few = int(SIZE / rng.uniform(1.2, 2.3))
            pair = functional.interpolate(pair, size=(few, few), mode="bilinear", align_corners=False)
            pair = functional.interpolate(pair, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        whole, share = pair.numpy()[:, 0], pair.numpy()[:, 1]
        depth[rows] = np.where(share > 0.6, whole / np.maximum(share, 0.6), np.nan)
    return depth


def _blurred(pictures: torch.Tensor, width: float) -> torch.Tensor:
    """(B, C, H, W) -> the same, smoothed by a Gaussian."""
    steps = torch.arange(-4, 5).float()
    bell = torch.exp(-0.5 * (steps / width) ** 2)
    bell = bell / bell.sum()
    count = pictures.shape[1]
    across = functional.conv2d(
        pictures, bell.view(1, 1, 1, 9).expand(count, 1, 1, 9), padding=(0, 4), groups=count
    )
    return functional.conv2d(
        across, bell.view(1, 1, 9, 1).expand(count, 1, 9, 1), padding=(4, 0), groups=count
    )


def _lit(depth: np.ndarray, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, H, W) brightness 0 to 255: any lamp, any sensor, spots and stains of skin."""
    batch = len(depth)
    weights = rng.dirichlet([2.0, 2.0, 2.0], batch).astype(np.float32)
    bright = np.einsum("bhwc,bc->bhw", colour, weights) / 255
    down, across = np.gradient(np.nan_to_num(depth), PITCH, axis=(1, 2))
    lamp = rng.normal(0, 1, (batch, 3)) * [0.6, 0.6, 0.3] + [0, 0.2, 1]
    lamp = (lamp / np.linalg.norm(lamp, axis=1, keepdims=True)).astype(np.float32)[:, :, None, None]
    length = np.sqrt(1 + down**2 + across**2)
    facing = np.clip((-across * lamp[:, 0] + down * lamp[:, 1] + lamp[:, 2]) / length, 0, 1)
    ambient = rng.uniform(0.3, 1.0, (batch, 1, 1))
    bright = bright * (ambient + (1 - ambient) * facing)
    bright = np.clip(bright, 0, 1) ** rng.uniform(0.6, 1.6, (batch, 1, 1))
    bright = bright * (1 + _smooth_field(rng, 4, rng.uniform(0, 0.25, batch)))
    bright = bright + _smooth_field(rng, 24, rng.uniform(0, 0.05, batch))
    bright = bright + rng.uniform(0, 0.05, (batch, 1, 1)) * rng.standard_normal(
        bright.shape, dtype=np.float32
    )
    for rows in np.array_split(rng.permutation(batch), 4):
        if rng.uniform() < 0.5:
            picture = torch.from_numpy(bright[rows, None].astype(np.float32))
            bright[rows] = _blurred(picture, float(rng.uniform(0.4, 1.5))).numpy()[:, 0]
    return (255 * np.clip(bright, 0, 1)).astype(np.float32)


def _holed(depth: np.ndarray, bright: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Round holes, lost pixels, dark places that the scanner missed, and the far side of a turned head."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    for one, light in zip(depth, bright, strict=True):
        for _ in range(rng.poisson(1.2)):
            row, column, radius = *rng.uniform(16, 112, 2), rng.uniform(1.5, 7.0)
            one[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = np.nan
        if rng.uniform() < 0.3:
            one[rng.uniform(size=one.shape) < rng.uniform(0, 0.08)] = np.nan
        if rng.uniform() < 0.15:
            dark = light < rng.uniform(0.4, 0.7) * np.median(light[np.isfinite(one)])
            one[dark & (rng.uniform(size=one.shape) < rng.uniform(0.1, 0.8))] = np.nan
        if rng.uniform() < 0.2:  # what lies beyond a line on one side of the head
            angle, far = rng.choice([0, np.pi]) + rng.normal(0, 0.3), rng.uniform(18, 50)
            middle = (SIZE - 1) / 2
            one[(columns - middle) * np.cos(angle) + (rows - middle) * np.sin(angle) > far] = np.nan
    return depth
