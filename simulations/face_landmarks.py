"""Named points of the face, by where they lie on the average face.

Names are those of `smile.scans.landmarks`: points that several formats share, the 22 of Bosphorus, and `bu83_NN` for
the rows of a BU `.bnd` without a shared name. Left is the subject's, at +x. Legend: (x, y) mm on the average face.
"""

from functools import lru_cache

import numpy as np

from .face_mesh import template
from .face_surface import brow_line, lower_border, lower_lid, mouth_line, upper_border, upper_lid

# Points on the midline and on the left half; a name with "left" has a mirrored partner.
_POINTS = {
    "nose_tip": (0.0, 0.5),
    "nose_bridge": (0.0, 43.0),
    "subnasale": (0.0, -13.5),
    "chin": (0.0, -63.0),
    "left_eye_inner": (17.2, 34.6),
    "left_eye_outer": (46.2, 36.5),
    "left_mouth_corner": (25.0, -32.9),
    "inner_left_eyebrow": (13.0, 53.4),
    "middle_left_eyebrow": (31.0, 57.6),
    "outer_left_eyebrow": (51.0, 53.2),
    "nose_saddle_left": (9.0, 37.0),
    "left_nose_peak": (17.5, -4.0),
    "upper_lip_outer_middle": (0.0, -26.2),
    "upper_lip_inner_middle": (0.0, -32.5),
    "lower_lip_inner_middle": (0.0, -33.3),
    "lower_lip_outer_middle": (0.0, -42.6),
}
# Rows of a BU `.bnd` that have a shared name.
_SHARED = {
    0: "right_eye_inner",
    4: "right_eye_outer",
    8: "left_eye_inner",
    12: "left_eye_outer",
    48: "right_mouth_corner",
    54: "left_mouth_corner",
    75: "chin",
}
BU83 = tuple(_SHARED.get(row, f"bu83_{row:02d}") for row in range(83))
BOSPHORUS22 = {  # label in a .lm3 -> name
    label: label.lower().replace(" ", "_")
    for label in (
        "Outer left eyebrow",
        "Middle left eyebrow",
        "Inner left eyebrow",
        "Inner right eyebrow",
        "Middle right eyebrow",
        "Outer right eyebrow",
        "Outer left eye corner",
        "Inner left eye corner",
        "Inner right eye corner",
        "Outer right eye corner",
        "Nose saddle left",
        "Nose saddle right",
        "Left nose peak",
        "Nose tip",
        "Right nose peak",
        "Left mouth corner",
        "Upper lip outer middle",
        "Right mouth corner",
        "Upper lip inner middle",
        "Lower lip inner middle",
        "Lower lip outer middle",
        "Chin middle",
    )
} | {
    "Outer left eye corner": "left_eye_outer",
    "Inner left eye corner": "left_eye_inner",
    "Inner right eye corner": "right_eye_inner",
    "Outer right eye corner": "right_eye_outer",
    "Chin middle": "chin",
}


def _left_eye() -> list[tuple[float, float]]:
    """Eight points: inner corner, upper lid, outer corner, lower lid."""
    x = np.array([24.5, 31.7, 39.0])
    above, below = list(zip(x, upper_lid(x), strict=True)), list(zip(x, lower_lid(x), strict=True))
    return [(17.2, 34.6), *above, (46.2, 36.5), *below[::-1]]


def _left_brow() -> list[tuple[float, float]]:
    """Ten points: upper edge outwards, lower edge back."""
    x = np.linspace(13, 51, 5)
    half = np.array([2.6, 3.0, 2.6, 2.0, 1.0])
    upper, lower = brow_line(x) + half, brow_line(x) - half
    return [*zip(x, upper, strict=True), *zip(x[::-1], lower[::-1], strict=True)]


def _bu83() -> np.ndarray:
    """(83, 2) after the groups of the BU scheme: eyes, brows, nose, lips outside and inside, contour."""

    def mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(-x, y) for x, y in points]

    nose = [(9.0, 37.0), (12.0, 15.0), (15.5, 2.0), (17.5, -4.0), (9.0, -11.0), (4.0, -13.0)]
    outer = np.array([-18.0, -6.0, 0.0, 6.0, 18.0])
    inner = np.array([-9.0, 0.0, 9.0])
    contour = [
        (63.0, 30.0),
        (62.0, 12.0),
        (59.5, -6.0),
        (55.5, -24.0),
        (48.0, -40.0),
        (36.0, -54.0),
        (20.0, -65.0),
    ]
    points = [
        *mirrored(_left_eye()),
        *_left_eye(),
        *mirrored(_left_brow()),
        *_left_brow(),
        *mirrored(nose[:5]),
        (-4.0, -13.0),
        (0.0, -13.5),
        (9.0, -11.0),
        nose[3],
        nose[2],
        nose[1],
        nose[0],
        (-25.0, -32.9),
        *zip(outer, upper_border(outer), strict=True),
        (25.0, -32.9),
        *zip(outer[::-1], lower_border(outer)[::-1], strict=True),
        (-22.0, -32.8),
        *zip(inner, mouth_line(inner) + 0.2, strict=True),
        (22.0, -32.8),
        *zip(inner[::-1], mouth_line(inner)[::-1] - 0.2, strict=True),
        *mirrored(contour),
        (0.0, -63.0),
        *contour[::-1],
    ]
    return np.array(points, dtype=float)


@lru_cache(maxsize=1)
def landmark_vertices() -> dict[str, int]:
    """Name -> index of the vertex that stands for it on every face."""
    points = dict(_POINTS)
    for name, (x, y) in _POINTS.items():
        if "left" in name:
            points[name.replace("left", "right")] = (-x, y)
    rows = _bu83()
    assert rows.shape == (83, 2), rows.shape
    points |= {BU83[row]: (float(x), float(y)) for row, (x, y) in enumerate(rows) if row not in _SHARED}
    t = template()
    own = (t.part == 0) & (t.margin == np.arange(len(t.part)))
    lower = {"lower_lip_inner_middle", "bu83_65", "bu83_66", "bu83_67"}
    upper = {"upper_lip_inner_middle", "bu83_61", "bu83_62", "bu83_63"}
    found = {}
    for name, point in points.items():
        allowed = own & t.upper if name in upper else own & ~t.upper if name in lower else own
        candidates = np.flatnonzero(allowed)
        found[name] = int(candidates[((t.vertices[candidates, :2] - point) ** 2).sum(1).argmin()])
    return found
