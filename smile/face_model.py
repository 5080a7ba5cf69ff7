"""The mean face: a smooth analytic height map, and how far a surface lies above it.

A height map makes the closest surface a table look-up and needs no search tree (numpy only: the edge bundle carries this file).
Frame: mm, the nose tip at the origin, the face looks along +z, +y up, the subject's left at +x.
"""

from functools import lru_cache

import numpy as np

STEP = 2.0  # mm, grid of the mean face
HALF_WIDTH, BOTTOM, TOP = 62.0, -78.0, 82.0  # mm, the ellipse of the mean face that is compared

# Gaussian bumps of the mean face on a smooth head, all in mm: height, x (both sides when not 0), y, width in x, in y.
BUMPS = (
    *(
        (22, 0, 0, 11, 13),
        (11, 0, 13, 8, 12),
        (6, 0, 26, 8, 12),
        (7, 13, -4, 6, 7),
    ),  # nose: tip, ridge, wings
    *((-9, 31, 36, 14, 10), (-5, 15, 36, 6, 8), (4, 31, 35, 10, 6)),  # eyes: socket, inner corner, ball
    *((5, 28, 53, 22, 9), (4, 0, 55, 14, 14), (6, 42, 8, 18, 20)),  # brows, glabella, cheeks
    *((7, 0, -25, 24, 14), (4, 0, -28, 18, 5), (4, 0, -38, 15, 5), (-3, 0, -33, 22, 3)),  # muzzle, lips
    *((-3, 0, -50, 22, 7), (6, 0, -63, 20, 12)),  # the fold below the lip, chin
)


def mean_face(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height z (mm) of an average adult face over (x, y) mm, nose tip at the origin; made of smooth functions.

    The numbers are ours: round figures near the averages of classical anthropometry (eye corners 32 and 90 mm apart, nose
    50 mm long and 20 mm deep, mouth 52 mm wide, lower face 70 mm, face 138 mm wide). No scan and no data set went into them.
    """
    y = y + 3.0  # the sum below peaks at y = 3
    z = 75.0 * np.sqrt(np.clip(1 - (x / 74) ** 2, 0.02, None)) - 97.0  # the head from ear to ear
    z = z - np.clip(y - 40, 0, None) ** 2 / 150 - np.clip(-60 - y, 0, None) ** 2 / 60
    for height, at_x, at_y, width_x, width_y in BUMPS:
        for side in (1, -1) if at_x else (1,):
            z = z + height * np.exp(-(((x - side * at_x) / width_x) ** 2) - ((y - at_y) / width_y) ** 2)
    return z - 4.7  # so that the peak is at z = 0


def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether (x, y) mm lies in the ellipse from brow to chin that counts as the face; bool of the same shape."""
    middle, half_height = (TOP + BOTTOM) / 2, (TOP - BOTTOM) / 2
    return (x / HALF_WIDTH) ** 2 + ((y - middle) / half_height) ** 2 <= 1


def compare(q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q (3, ...) mm -> distance above the mean face (...), its normal there (3, ...), weight (...), 0 beside the face."""
    table, columns, rows = _table()
    x, y, z = q
    i = np.rint((x + (HALF_WIDTH + STEP)) / STEP).clip(0, columns - 1)
    j = np.rint((y - (BOTTOM - STEP)) / STEP).clip(0, rows - 1)
    there = table.take((i * rows + j).astype(np.intp), axis=1)
    level, normal, weight = there[0], there[1:4], there[4]
    off_x, off_y = x - (i * STEP - HALF_WIDTH - STEP), y - (j * STEP + BOTTOM - STEP)
    above = (z - level) * normal[2] + off_x * normal[0] + off_y * normal[1]
    return above, normal, weight


@lru_cache(maxsize=1)
def area() -> float:
    """Area of the mean face seen from the front, mm2, each place counted by its weight."""
    return float(_table()[0][4].sum() * STEP**2)


@lru_cache(maxsize=1)
def _table() -> tuple[np.ndarray, int, int]:
    """The mean face on a grid: height, normal (3) and weight as (5, columns * rows), columns, rows.

    The weight is 0 outside the compared ellipse, and so all along the border.
    """
    x = np.arange(-HALF_WIDTH - STEP, HALF_WIDTH + 2 * STEP, STEP)[:, None]
    y = np.arange(BOTTOM - STEP, TOP + 2 * STEP, STEP)[None, :]
    z = mean_face(x, y)
    slope_x, slope_y = np.gradient(z, STEP)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(z)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    weight = outline(x, y) * np.where(y < -22, 0.5, 1.0)  # mouth and jaw move with the expression
    return np.stack([z, *np.moveaxis(normal, -1, 0), weight]).reshape(5, -1), *z.shape
