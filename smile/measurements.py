"""What a face does, in mm: heights, widths and openings between the named points of an aligned face.

They are what FACS describes by eye (Ekman, Friesen & Hager 2002): AU1 raises `inner_brow_height`, AU12 widens the mouth and
lifts its corners, AU26 drops the jaw. Anatomy is in them too, so they speak only against the same face at rest.
"""

import numpy as np

# name -> what it is; left is the subject's. Heights are along +y, depths along z, the others straight lines.
DESCRIPTIONS = {
    "inner_brow_height": "inner end of the brow above the inner corner of the eye, mean of both sides",
    "outer_brow_height": "outer end of the brow above the outer corner of the eye, mean of both sides",
    "brow_gap": "between the inner ends of the brows",
    "eye_opening": "upper lid above lower lid at mid-eye, mean of both eyes",
    "mouth_opening": "inner edge of the upper lip above that of the lower lip",
    "mouth_width": "between the corners of the mouth",
    "lip_corner_height": "corners of the mouth above the line between the lips at its middle",
    "lip_corner_depth": "corners of the mouth behind the upper lip: more when they are drawn back",
    "upper_lip_height": "upper edge of the upper lip below the base of the nose: less when the lip is raised",
    "lip_thickness": "height of the red of the upper and of the lower lip together: less when they are pressed",
    "jaw_drop": "chin below the base of the nose",
    "nose_length": "bridge of the nose to its wings: less when the nose is wrinkled",
    "cheek_raise": "cheek below the eye in front of the eye's corners, mean of both sides: more when it is raised",
    "asymmetry": "left corner of the mouth above the right one",
}
MEASUREMENTS = tuple(DESCRIPTIONS)


def measure(points: dict[str, np.ndarray]) -> dict[str, float]:
    """points: name -> (3,) mm in the project frame (`face_landmarks.find`) -> every measurement in mm, NaN where a point of
    it is missing."""
    missing = np.full(3, np.nan)

    def at(name: str) -> np.ndarray:
        return points.get(name, missing)

    def both(name: str) -> np.ndarray:
        """(2, 3) the right and the left one; `?` stands for the side."""
        return np.stack([at(name.replace("?", side)) for side in ("right", "left")])

    inner, outer, corners = both("?_eye_inner"), both("?_eye_outer"), both("?_mouth_corner")
    brows, wings, nose = both("inner_?_eyebrow"), both("?_nose_peak"), at("subnasale")
    upper, lower = at("upper_lip_outer_middle"), at("lower_lip_outer_middle")
    above, below = at("upper_lip_inner_middle"), at("lower_lip_inner_middle")
    figures = {
        "inner_brow_height": (brows - inner)[:, 1].mean(),
        "outer_brow_height": (both("outer_?_eyebrow") - outer)[:, 1].mean(),
        "brow_gap": _length(brows[1] - brows[0]),
        "eye_opening": (both("?_upper_lid") - both("?_lower_lid"))[:, 1].mean(),
        "mouth_opening": (above - below)[1],
        "mouth_width": _length(corners[1] - corners[0]),
        "lip_corner_height": corners[:, 1].mean() - (above + below)[1] / 2,
        "lip_corner_depth": upper[2] - corners[:, 2].mean(),
        "upper_lip_height": (nose - upper)[1],
        # Not along z: behind the inner edge of an open lip the picture sees the mouth.
        "lip_thickness": (upper - above + below - lower)[1],
        "jaw_drop": (nose - at("chin"))[1],
        "nose_length": _length(at("nose_bridge") - wings.mean(axis=0)),
        "cheek_raise": (both("?_cheek")[:, 2] - (inner + outer)[:, 2] / 2).mean(),
        "asymmetry": (corners[1] - corners[0])[1],
    }
    return {name: float(figures[name]) for name in MEASUREMENTS}


def _length(line: np.ndarray) -> float:
    return float(np.linalg.norm(line))
