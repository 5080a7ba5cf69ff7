"""The sculpted average face as a surface: a lofted head and the heights of the features on it.

All of it is drawn here from rounded textbook proportions of adult heads; no scan or face model went into it.
Frame: mm, +y up, +z out of the face, origin near the nose tip, the subject's left at +x.

The head is lofted from one row after another (a vertical profile and a plan ellipse each), then features are added as
heights over (|x|, y): sockets, nose, lips, chin. The flat coordinates (u, v) are the unrolled head: near the middle of
the face they equal (x, y).
"""

import numpy as np

EYE = np.array([31.5, 36.5, -46.5])  # centre of the left eyeball
EYE_RADII = np.array([17.0, 15.0, 14.5])  # an ellipsoid, so that both canthi touch it
EYE_SHEAR = -0.13  # z per mm of x outwards: the outer canthus lies deeper than the inner one
MOUTH_Y, MOUTH_HALF = -32.5, 25.0  # the mouth line and half its length
FLAT = 70.0  # mm of flat width for one radian of plan angle

# fmt: off
# One row a line: flat v, y and z on the midline, half width, rise of y at the side, z at the side, plan exponent.
_ROWS = np.array([
    [132, 122, -56, 56, 0, -104, 2.1],
    [116, 111, -39.5, 63, 0, -101, 2.2],
    [100, 98.5, -28.5, 67.5, 0, -98, 2.35],
    [80, 80, -21.5, 70, 0, -96, 2.45],
    [62, 62, -19, 70, 0, -95, 2.5],
    [45, 45, -21.5, 70, 0, -95, 2.4],
    [30, 30, -25.5, 71, 0, -95, 2.25],
    [15, 15, -26.5, 71, 0, -95, 2.1],
    [0, 0, -24, 69.5, 0, -95, 2.0],
    [-15, -15, -20.5, 65, 1, -95, 1.95],
    [-30, -30, -18.5, 59.5, 4, -95, 1.9],
    [-45, -45, -19, 54.5, 9, -95, 1.9],
    [-58, -58, -18.5, 51.5, 15, -95, 1.9],
    [-68, -68, -20, 49.5, 20, -95, 1.95],
    [-76, -74.5, -27, 49, 24, -95, 2.0],
    [-85, -78.5, -40, 49, 25, -96, 2.0],
    [-95, -81, -54, 50, 22, -98, 2.1],
    [-106, -86, -67, 49, 15, -101, 2.1],
    [-120, -99, -73, 50, 5, -104, 2.1],
    [-136, -116, -75, 51, 0, -106, 2.1],
])
# fmt: on


def bump(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    """A Gaussian hill of height 1."""
    return np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high` (which may be the smaller one), smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def smooth_max(a: np.ndarray, b: np.ndarray, k: float | np.ndarray) -> np.ndarray:
    """max(a, b) with a fillet of about k mm."""
    h = np.maximum(k - np.abs(a - b), 0) / k
    return np.maximum(a, b) + h * h * k / 4


def curve(x: np.ndarray, points: list[tuple[float, float]]) -> np.ndarray:
    """A smooth line through (x, y) points, constant beyond its ends."""
    from scipy.interpolate import PchipInterpolator

    xs, ys = np.array(points, dtype=float).T
    return PchipInterpolator(xs, ys)(np.clip(x, xs[0], xs[-1]))


# --- curves of the features, all over |x| ---------------------------------------------------------------------------
def upper_lid(x: np.ndarray) -> np.ndarray:
    """y of the upper lid's margin in the open eye."""
    t = np.clip((np.abs(x) - 17.2) / 29.0, 0, 1)
    return 34.6 + 1.9 * t + 6.6 * np.abs(np.sin(np.pi * t**0.86)) ** 0.8


def lower_lid(x: np.ndarray) -> np.ndarray:
    """y of the lower lid's margin."""
    t = np.clip((np.abs(x) - 17.2) / 29.0, 0, 1)
    return 34.6 + 1.9 * t - 4.6 * np.abs(np.sin(np.pi * t**1.12)) ** 0.85


def brow_line(x: np.ndarray) -> np.ndarray:
    """y of the middle of the brow."""
    return curve(np.abs(x), [(8, 52.5), (14, 53.5), (26, 56.5), (36, 58.3), (44, 56.8), (54, 51.5)])


def upper_border(x: np.ndarray) -> np.ndarray:
    """y of the upper edge of the lip red: the Cupid's bow."""
    s = np.abs(x)
    return curve(
        s, [(0, -26.2), (2.5, -25.7), (6, -24.6), (12, -26.3), (19, -29.4), (25, -32.2), (27, -32.9)]
    )


def lower_border(x: np.ndarray) -> np.ndarray:
    """y of the lower edge of the lip red."""
    return curve(np.abs(x), [(0, -42.6), (6, -42.3), (12, -40.8), (19, -37.4), (25, -33.4), (27, -32.9)])


def mouth_line(x: np.ndarray) -> np.ndarray:
    """y where the lips meet."""
    return MOUTH_Y + curve(np.abs(x), [(0, -0.4), (5, 0.3), (12, 0.5), (20, -0.1), (26, -0.6)])


def fold_line(y: np.ndarray) -> np.ndarray:
    """|x| of the fold from the wing of the nose to beside the mouth corner."""
    return curve(y, [(-48, 33.5), (-40, 34), (-32, 33), (-22, 29.5), (-12, 25), (-4, 21), (2, 18.5)])


# --- the surface ----------------------------------------------------------------------------------------------------
def loft(flat: np.ndarray) -> np.ndarray:
    """Flat skin coordinates (n, 2) -> the featureless head (n, 3)."""
    from scipy.interpolate import CubicSpline

    rows = CubicSpline(_ROWS[::-1, 0], _ROWS[::-1, 1:])(flat[:, 1])
    yc, zc, width, rise, zs, power = rows.T
    s = np.sin(np.clip(flat[:, 0] / FLAT, -np.pi / 2, np.pi / 2))
    depth = np.maximum(1 - np.abs(s) ** power, 0) ** (1 / power)
    return np.stack([width * s, yc + rise * s**2, zs + (zc - zs) * depth], axis=1)


def unroll(xy: np.ndarray) -> np.ndarray:
    """Frontal (x, y) of the front of the face -> flat coordinates, by fixed-point iteration on `loft`."""
    flat = xy.astype(float).copy()
    for _ in range(40):
        miss = xy - loft(flat)[:, :2]
        flat += 0.8 * miss
        if np.abs(miss).max() < 1e-6:
            break
    return flat


def _ellipsoid(
    x: np.ndarray, y: np.ndarray, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> np.ndarray:
    """Front height of an ellipsoid, a steep cliff beyond its rim."""
    q2 = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2
    return centre[2] + radii[2] * np.sqrt(np.maximum(1 - q2, 0)) - 16 * np.maximum(np.sqrt(q2) - 1, 0)


def eye_height(x: np.ndarray, y: np.ndarray, grow: float) -> np.ndarray:
    """z of the eyeball, grown by a factor, over |x|, y."""
    q2 = ((x - EYE[0]) / (EYE_RADII[0] * grow)) ** 2 + ((y - EYE[1]) / (EYE_RADII[1] * grow)) ** 2
    cliff = 25 * np.maximum(np.sqrt(q2) - 1, 0)
    return EYE[2] + EYE_SHEAR * (x - EYE[0]) + EYE_RADII[2] * grow * np.sqrt(np.maximum(1 - q2, 0)) - cliff


def sculpt(base: np.ndarray) -> np.ndarray:
    """Featureless head (n, 3) -> z with all features, as a height over (|x|, y)."""
    x, y, z = np.abs(base[:, 0]), base[:, 1], base[:, 2].copy()
    front = smoothstep(z, -95, -70)
    z = z + front * _masses(np.sqrt(x**2 + 6.0), y)
    z = smooth_max(z, eye_height(x, y, 1.10), 4.0)  # lids lie on the eyeball
    crease = y - (upper_lid(x) + 3.6)
    along = smoothstep(x, 17, 23) * smoothstep(x, 49, 43)
    z -= along * 1.3 * np.exp(-0.5 * (crease / 1.1) ** 2)
    z += along * 0.9 * np.exp(-0.5 * ((crease - 3.2) / 2.0) ** 2)  # the fold of skin above the crease
    z -= bump(x, y, 33, 26.5, 10, 1.8) * 0.7  # below the lower lid
    z = _nose(x, y, z)
    return _lips(x, y, z)


def _masses(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The soft masses of the face: sockets, brow ridge, cheekbones, muzzle, chin."""
    dz = -9.5 * bump(x, y, 29, 38, 14, 9.5) - 5.5 * bump(x, y, 14.5, 37, 5.5, 9)
    brow = y - brow_line(x)
    dz += 3.4 * np.exp(-0.5 * (brow / 6.0) ** 2 - 0.5 * ((x - 27) / 17) ** 2)  # brow ridge
    dz += (
        0.8 * np.exp(-0.5 * (brow / 2.6) ** 2) * smoothstep(x, 8, 14) * smoothstep(x, 54, 46)
    )  # the hair itself
    dz += 1.5 * bump(x, y, 46, 50, 7, 8) + 1.2 * bump(x, y, 0, 54, 9, 7)
    dz += 2.4 * bump(x, y, 28, 78, 20, 15)  # frontal eminence
    dz -= 4.0 * bump(x, y, 64, 58, 9, 17)  # temple
    dz += 6.5 * bump(x, y, 45, 17, 14, 11) + 3.0 * bump(x, y, 58, 18, 9, 10)  # cheekbone
    dz -= 3.2 * bump(x, y, 44, -20, 11, 15)  # hollow under it
    dz -= 2.0 * bump(x, y, 20, 12, 7, 10)  # beside the nose
    dz += 5.0 * bump(x, y, 0, -30, 21, 13)  # muzzle
    dz -= 1.1 * bump(x, y, 0, -19, 2.2, 4.5)  # philtrum and its ridges
    dz += 0.6 * bump(x, y, 4.2, -20, 1.8, 4.5)
    dz -= 3.0 * bump(x, y, 0, -49.5, 17, 3.8) - 1.0 * bump(x, y, 24, -44, 7, 6)
    dz += 6.0 * bump(x, y, 0, -62, 13, 8)
    dz -= 1.8 * bump(x, y, 31, -36, 4, 6)  # behind the mouth corner
    fold = x - fold_line(y)
    dz += (
        1.1
        * smoothstep(y, -44, -34)
        * smoothstep(y, 4, -6)
        * np.where(fold > 0, np.exp(-0.5 * (fold / 7.0) ** 2), np.exp(-0.5 * (fold / 3.6) ** 2))
    )
    return dz


def _nose(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    ridge = curve(
        y,
        [
            (-6, -1.5),
            (0, -0.4),
            (5, -1.4),
            (10, -3.6),
            (20, -8.2),
            (30, -12.9),
            (38, -16.6),
            (44, -18.4),
            (52, -19.5),
            (60, -24),
        ],
    )
    rounding = curve(y, [(0, 5.0), (12, 4.8), (25, 4.2), (38, 4.6), (50, 9)])
    slope = curve(y, [(-2, 2.2), (4, 1.75), (12, 1.45), (30, 1.25), (42, 0.95), (52, 0.7)])
    bridge = ridge - slope * (np.sqrt(x**2 + rounding**2) - rounding) - 0.012 * x**2
    bridge -= 22 * smoothstep(y, 5, -12) + 60 * smoothstep(y, -14, -40) + 60 * smoothstep(y, 44, 72)
    tip = _ellipsoid(x, y, (0, 0.4, -10.4), (10.6, 9.4, 10.4))
    wing = _ellipsoid(x, y, (11.0, -3.2, -19.8), (7.2, 7.8, 10.4))
    columella = _ellipsoid(x, y, (0, -6.5, -15.5), (5.2, 6.5, 10.0))
    nose = smooth_max(smooth_max(bridge, tip, 7.0), columella, 4.0)
    nose = smooth_max(nose, wing, 6.5)
    z = smooth_max(z, nose, curve(y, [(-12, 3.5), (-2, 3.5), (8, 7), (20, 11), (40, 11)]))
    return z - 3.8 * bump(x, y, 6.6, -8.0, 2.6, 1.8)


def _lips(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    line = mouth_line(x)
    up = (y - line) / np.maximum(upper_border(x) - line, 0.8)
    low = (line - y) / np.maximum(line - lower_border(x), 0.8)
    taper = np.sqrt(np.maximum(1 - (x / 27.5) ** 2, 0))
    upper = curve(
        up, [(-0.6, 0), (0, -1.6), (0.25, 0.6), (0.55, 1.7), (0.85, 1.9), (1.05, 1.7), (1.5, 0.5), (2.2, 0)]
    )
    lower = curve(
        low, [(-0.6, 0), (0, -1.6), (0.2, 0.8), (0.5, 2.7), (0.8, 2.4), (1.0, 1.4), (1.3, 0.2), (1.7, 0)]
    )
    return z + taper * np.where(y > line, upper, lower)
