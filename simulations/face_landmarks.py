"""Named points of the face, by where they lie on the average face.

Names are those of `smile.scans.landmarks`: the points that several formats share, the 22 of Bosphorus, and `bu83_NN`
for the rows of a BU `.bnd` that have no shared name. Left is the subject's, at +x.
"""

from functools import lru_cache

import numpy as np

from .face_mesh import template
from .face_surface import brow_line, lower_border, lower_lid, mouth_line, upper_border, upper_lid

# Left half or middle: name -> (x, y) on the average face; names with "left" are mirrored.
_POINTS = {
    "nose_tip": (0.0, 0.5), "nose_bridge": (0.0, 43.0), "subnasale": (0.0, -13.5), "chin": (0.0, -63.0),
    "left_eye_inner": (17.2, 34.6), "left_eye_outer": (46.2, 36.5), "left_mouth_corner": (25.2, -32.9),
    "inner_left_eyebrow": (13.0, 53.4), "middle_left_eyebrow": (31.0, 57.6), "outer_left_eyebrow": (51.0, 53.2),
    "nose_saddle_left": (9.0, 37.0), "left_nose_peak": (18.0, -4.0),
    "upper_lip_outer_middle": (0.0, -26.2), "upper_lip_inner_middle": (0.0, -32.2),
    "lower_lip_inner_middle": (0.0, -33.6), "lower_lip_outer_middle": (0.0, -42.6),
}
