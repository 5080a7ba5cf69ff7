"""A small orthographic z-buffer in numpy: which triangle, how deep and where in it, for each pixel.

Legend: v vertices, f faces, H W rows and columns. Pixels are squares of `pitch` mm; row 0 is the highest y.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """The rectangle of the (x, y) plane that is seen, pixel centres at its corners."""

    left: float  # x of the first column, mm
    top: float  # y of the first row, mm
    pitch: float  # mm between pixels
    rows: int
    columns: int

    def x(self) -> np.ndarray:
        return self.left + self.pitch * np.arange(self.columns)

    def y(self) -> np.ndarray:
        return self.top - self.pitch * np.arange(self.rows)


@dataclass(frozen=True, eq=False)
class Hits:
    """What the camera at z = +infinity sees."""

    depth: np.ndarray  # (H, W) float64, z in mm, NaN where nothing is
    face: np.ndarray  # (H, W) int64, -1 where nothing is
    bary: np.ndarray  # (H, W, 3) float64, weights of the face's three corners


def rasterise(vertices: np.ndarray, faces: np.ndarray, window: Window) -> Hits:
    """The nearest surface (largest z) under each pixel centre.

    vertices: (v, 3) float, mm; faces: (f, 3) int. Triangles are handled in groups of equal bounding box, so that
    the work is a few array operations a group; both sides of a triangle are seen.
    """
    columns = (vertices[:, 0] - window.left) / window.pitch
    rows = (window.top - vertices[:, 1]) / window.pitch
    c, r, z = columns[faces], rows[faces], vertices[:, 2][faces]
    c0, c1 = _span(c, window.columns)
    r0, r1 = _span(r, window.rows)
    e1c, e1r = c[:, 1] - c[:, 0], r[:, 1] - r[:, 0]
    e2c, e2r = c[:, 2] - c[:, 0], r[:, 2] - r[:, 0]
    area = e1c * e2r - e2c * e1r
    keep = np.flatnonzero((c1 >= c0) & (r1 >= r0) & (np.abs(area) > 1e-9))
    box_w, box_h = (c1 - c0)[keep] + 1, (r1 - r0)[keep] + 1
    # Bounding boxes are grouped by their size rounded up, a handful of groups for a regular mesh.
    group = _ceil_size(box_h) * 4096 + _ceil_size(box_w)
    order = np.argsort(group, kind="stable")
    keep, group = keep[order], group[order]
    pixels, depths, owners, w1s, w2s = [], [], [], [], []
    for start, stop in _runs(group):
        chosen = keep[start:stop]
        height, width = divmod(int(group[start]), 4096)
        cc = (c0[chosen, None] + np.arange(width))[:, None, :]
        rr = (r0[chosen, None] + np.arange(height))[:, :, None]
        dc, dr = cc - c[chosen, 0][:, None, None], rr - r[chosen, 0][:, None, None]
        inverse = 1.0 / area[chosen]
        w1 = (dc * (e2r[chosen] * inverse)[:, None, None]) - (dr * (e2c[chosen] * inverse)[:, None, None])
        w2 = (dr * (e1c[chosen] * inverse)[:, None, None]) - (dc * (e1r[chosen] * inverse)[:, None, None])
        inside = (w1 >= -1e-9) & (w2 >= -1e-9) & (w1 + w2 <= 1 + 1e-9)
        inside &= (cc < window.columns) & (rr < window.rows)
        t, i, j = np.nonzero(inside)
        w1, w2 = w1[t, i, j], w2[t, i, j]
        f = chosen[t]
        pixels.append((r0[f] + i) * window.columns + c0[f] + j)
        depths.append(z[f, 0] + w1 * (z[f, 1] - z[f, 0]) + w2 * (z[f, 2] - z[f, 0]))
        owners.append(f)
        w1s.append(w1)
        w2s.append(w2)
    return _resolve(pixels, depths, owners, w1s, w2s, window)


def _span(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """corners (f, 3) in pixels -> (f,) first and last pixel centre within reach, cut to 0..size - 1."""
    a, b, c = corners.T  # column by column: a reduction along an axis of three is slow
    low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    first = np.maximum(np.ceil(low), 0).astype(np.int64)
    return first, np.minimum(np.floor(high), size - 1).astype(np.int64)


def _resolve(pixels: list, depths: list, owners: list, w1s: list, w2s: list, window: Window) -> Hits:
    """Keep the nearest candidate of each pixel."""
    size = window.rows * window.columns
    depth, face = np.full(size, np.nan), np.full(size, -1, dtype=np.int64)
    bary = np.zeros((size, 3))
    if pixels:
        pixel, z, owner = np.concatenate(pixels), np.concatenate(depths), np.concatenate(owners)
        best = np.full(size, -np.inf)
        np.maximum.at(best, pixel, z)
        won = np.flatnonzero(z >= best[pixel])
        at = pixel[won]
        w1, w2 = np.concatenate(w1s)[won], np.concatenate(w2s)[won]
        depth[at], face[at] = z[won], owner[won]
        bary[at, 0], bary[at, 1], bary[at, 2] = 1 - w1 - w2, w1, w2
    shape = (window.rows, window.columns)
    return Hits(depth.reshape(shape), face.reshape(shape), bary.reshape(*shape, 3))


def _ceil_size(size: np.ndarray) -> np.ndarray:
    """1, 2, 3, 4, 6, 8, 12, 16, 24 ...: few distinct sizes, little waste."""
    steps = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048])
    return steps[np.searchsorted(steps, size)]


def _runs(sorted_values: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each run of equal values."""
    if len(sorted_values) == 0:
        return []
    cuts = np.flatnonzero(np.diff(sorted_values)) + 1
    return list(zip([0, *cuts.tolist()], [*cuts.tolist(), len(sorted_values)], strict=True))
