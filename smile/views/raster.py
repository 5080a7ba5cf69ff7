"""Which face each pixel sees, by a z-buffer in numpy: any processor, no driver, nothing to install or to start.

A scan has more faces than a picture has pixels, so most faces lie between the pixel centres and drop out at once; the few
(face, pixel) pairs that are left are tested in bulk. Runs on one core, as the workers of `smile prepare` expect.

Legend: V views, H W image rows and columns, v vertices, f faces, n (face, pixel) pairs.
"""

import numpy as np

from ..config import ViewConfig
from .cameras import to_view

MOST_PAIRS = 1 << 20  # looked at in one go: large faces must not fill the memory
EDGE = 1e-9  # of a face's size; a centre on the edge between two faces belongs to both, so none slips through


def visible_faces(vertices: np.ndarray, faces: np.ndarray, config: ViewConfig) -> np.ndarray:
    """vertices (v, 3) mm in the project frame, faces (f, 3) -> (V, H, W) int32 face numbers, -1 where nothing is.

    Both sides of a face are seen.
    """
    points, corners = np.ascontiguousarray(vertices.T), np.ascontiguousarray(faces.T)
    return np.stack([_view(to_view(points, yaw), corners, config) for yaw in config.yaws])


def _view(vertices: np.ndarray, corners: np.ndarray, config: ViewConfig) -> np.ndarray:
    """vertices (3, v) in the view frame, corners (3, f) -> (H, W) int32."""
    size, step = config.size, 2 * config.radius / config.size
    column = ((vertices[0] + config.radius) / step - 0.5).take(corners)  # pixel centres at whole numbers
    row = ((config.radius - vertices[1]) / step - 0.5).take(corners)
    left, right = _span(column, size)
    top, bottom = _span(row, size)
    hit = np.flatnonzero((left <= right) & (top <= bottom))
    column, row, depth = column.take(hit, 1), row.take(hit, 1), vertices[2].take(corners.take(hit, 1))
    left, top = left[hit], top[hit]
    width, height = right[hit] - left + 1, bottom[hit] - top + 1
    seen, nearest = np.full(size * size, -1, np.int32), np.full(size * size, -np.inf)
    ends = np.cumsum(width * height)
    start = 0
    while start < len(hit):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + MOST_PAIRS, side="right")), start + 1)
        part = slice(start, stop)
        # Every pixel of a face's bounding box, row by row.
        face = np.repeat(np.arange(start, stop), width[part] * height[part])
        down, across = np.divmod(np.arange(len(face)) + before - (ends - width * height)[face], width[face])
        down, across = down + top[face], across + left[face]
        inside, z = _depth_at(across, down, column.take(face, 1), row.take(face, 1), depth.take(face, 1))
        pixel, z, face = (down * size + across)[inside], z[inside], face[inside]
        order = np.argsort(z)  # of the faces over one pixel the nearest is written last
        order = order[z[order] > nearest[pixel[order]]]
        seen[pixel[order]], nearest[pixel[order]] = hit[face[order]], z[order]
        start = stop
    return seen.reshape(size, size)


def _span(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """corners (3, f) in pixels -> the first and the last pixel centre between them, within 0..size-1; (f,) each."""
    a, b, c = corners
    low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    first, last = np.ceil(np.maximum(low, 0)), np.floor(np.minimum(high, size - 1))
    return first.astype(np.int64), last.astype(np.int64)


def _depth_at(
    across: np.ndarray, down: np.ndarray, column: np.ndarray, row: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n,), their faces' corners (3, n) -> which pixels lie inside (n,) bool, and z there (n,)."""
    e1c, e1r, e2c, e2r = column[1] - column[0], row[1] - row[0], column[2] - column[0], row[2] - row[0]
    dc, dr = across - column[0], down - row[0]
    area = e1c * e2r - e2c * e1r
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # a face seen along its edge has no area: nothing is inside
        second = (dc * e2r - dr * e2c) / area
        third = (dr * e1c - dc * e1r) / area
        inside = (second >= -EDGE) & (third >= -EDGE) & (second + third <= 1 + EDGE)
    return inside, depth[0] + second * (depth[1] - depth[0]) + third * (depth[2] - depth[0])
