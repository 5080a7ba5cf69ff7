"""Figures that tell how good a scan of a face is, after alignment: for thresholds, lists and plots.

numpy only: the edge bundle carries this file. Legend: v vertices, f faces, k cells. All lengths in mm.
"""

import numpy as np

from .face_model import BOTTOM, HALF_WIDTH, TOP, compare, outline

QUALITY = {
    "coverage": "share of the outline of the face where there is surface, 0 to 1",
    "holes": "share of the outline of the face that is missing with surface all round it, 0 to 1",
    "noise": "roughness against a smooth surface through the skin near by, mm (standard deviation)",
    "yaw": "degrees that the head looked towards +x, its own left, as captured",
    "pitch": "degrees that the head looked down as captured",
    "roll": "degrees that the head leaned towards its own right as captured, 180 upside down",
    "fit": "distance to a mean face, mm (median)",
    "spacing": "distance between neighbouring vertices, mm (median)",
}
CELL = 4.0  # mm; wider where the scan is coarse
PATCH = 12.0  # mm, side of the patches of skin whose roughness is taken
DEEP = 25.0  # mm from the mean face beyond which surface is not the face


def measure(
    vertices: np.ndarray, faces: np.ndarray, rotation: np.ndarray, *, size: float = 1.0
) -> dict[str, float]:
    """The figures of QUALITY.

    vertices (v, 3) in the project frame, faces (f, 3), rotation (3, 3) from the scan to that frame, size of the head against an
    adult's. The outline is the ellipse of the mean face, 124 by 160 mm from brow to chin for an adult. A figure that cannot be
    told is NaN: `noise` where there are too few vertices.
    """
    corners = vertices[faces[:: max(1, len(faces) // 4000)]]
    spacing = float(np.median(np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=2)))
    scaled = vertices / size
    above, _, weight = compare(scaled.T)
    face = (weight > 0) & (np.abs(above) < DEEP)
    skin = scaled[face]
    if spacing > CELL / 2:  # too coarse for every cell to hold a vertex
        skin = np.concatenate([skin, scaled[faces[face[faces].all(1)]].mean(1)])
    coverage, holes = _there(skin, max(CELL, 1.5 * spacing / size))
    yaw, pitch, roll = head_angles(rotation)
    return {
        "coverage": coverage,
        "holes": holes,
        "noise": _roughness(vertices[face], max(PATCH, 4.5 * spacing)),
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "fit": float(np.median(np.abs(above[face]))) if face.any() else float("nan"),
        "spacing": spacing,
    }


def head_angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """rotation (3, 3) from the scan to the project frame -> yaw, pitch, roll of the head in the scan, degrees.

    The head rolls, nods, then turns: rotation.T = Y(yaw) X(pitch) Z(roll).
    """
    captured = rotation.T
    yaw = np.arctan2(captured[0, 2], captured[2, 2])
    pitch = np.arcsin(np.clip(-captured[1, 2], -1, 1))
    roll = np.arctan2(captured[1, 0], captured[1, 1])
    return float(np.rad2deg(yaw)), float(np.rad2deg(pitch)), float(np.rad2deg(roll))


def _there(points: np.ndarray, cell: float) -> tuple[float, float]:
    """points (n, 3) of the face -> share of the outline's cells with points, share enclosed by such cells."""
    x = np.arange(-HALF_WIDTH + cell / 2, HALF_WIDTH, cell)
    y = np.arange(BOTTOM + cell / 2, TOP, cell)
    inside = outline(x[:, None], y[None, :])
    full = np.zeros(inside.shape, dtype=bool)
    i = ((points[:, 0] + HALF_WIDTH) / cell).astype(np.intp).clip(0, len(x) - 1)
    j = ((points[:, 1] - BOTTOM) / cell).astype(np.intp).clip(0, len(y) - 1)
    full[i, j] = True
    empty = np.pad(inside & ~full, 1)
    outside = np.pad(~inside, 1, constant_values=True)
    open_to = outside
    while True:  # the emptiness outside flows in
        grown = open_to.copy()
        for axis in (0, 1):
            grown |= np.roll(open_to, 1, axis) | np.roll(open_to, -1, axis)
        grown = outside | (grown & empty)
        if (grown == open_to).all():
            break
        open_to = grown
    count = inside.sum()
    return float((inside & full).sum() / count), float((empty & ~open_to).sum() / count)


def _roughness(points: np.ndarray, patch: float) -> float:
    """points (n, 3) -> what a quadratic surface leaves over of the heights in each patch, mm: the median of all patches."""
    column, row = np.floor(points[:, :2].T / patch).astype(np.intp)
    cell = (column - column.min(initial=0)) * 512 + row - row.min(initial=0)
    count = np.bincount(cell, minlength=1)
    enough = count >= 12
    if enough.sum() < 5:
        return float("nan")
    keep = enough[cell]
    cell, points = (np.cumsum(enough) - 1)[cell[keep]], points[keep]
    count = count[enough]

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(cell, values, minlength=len(count))

    x, y, z = ((axis - (sums(axis) / count)[cell]) / patch for axis in points.T)
    terms = (np.ones_like(x), x, y, x * x, x * y, y * y)
    left = np.empty((len(count), 6, 6))
    right = np.stack([sums(term * z) for term in terms], axis=1)[..., None]
    for i, one in enumerate(terms):
        for j, other in enumerate(terms[: i + 1]):
            left[:, i, j] = left[:, j, i] = sums(one * other)
    surface = np.linalg.solve(left + 1e-6 * np.eye(6), right)[..., 0]
    rest = sums((z - sum(surface[cell, k] * term for k, term in enumerate(terms))) ** 2) / (count - 6)
    slope = 1 + surface[:, 1] ** 2 + surface[:, 2] ** 2  # heights are along z, roughness is across the skin
    return float(np.median(np.sqrt(rest / slope))) * patch
