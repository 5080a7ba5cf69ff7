"""How a face departs from the average one: displacement fields of identities and of FACS action units.

A field is a (v, 3) displacement in mm at full strength, built from pushes (Gaussian regions of the skin that move
together) and creases (furrows along a line). Everything is stated for the left half and mirrored.
Frame and legend as in `face_surface.py`. Action units after Ekman, Friesen & Hager, FACS (2002).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .face_mesh import MOUTH_COUNT, Template, template
from .face_surface import EYE, MOUTH_HALF, bump, lower_lid, mouth_line, smoothstep, upper_lid


class Push(NamedTuple):
    """A region round (x, y) with spreads (sx, sy) that moves by (dx outward, dy, dz)."""

    x: float
    y: float
    sx: float
    sy: float
    dx: float
    dy: float
    dz: float
    where: str = "skin"  # one of `_masks`


class Crease(NamedTuple):
    """A furrow along a line of (x, y) points: `depth` mm deep, `width` mm wide, a bulge of the same size beside it."""

    points: tuple[tuple[float, float], ...]
    depth: float
    width: float = 1.5


def _forehead(y: float, start: int, stop: int) -> tuple[tuple[float, float], ...]:
    """A line across the forehead that rises over the brows' arch."""
    return tuple((float(x), y + 0.16 * x - 0.0042 * x * x) for x in range(start, stop + 1, 6))


_LINES = (69.5, 76.5, 84.5)  # heights of three forehead lines, mm
_FOLD = ((19.0, 2.0), (21.5, -5.0), (26.0, -14.0), (30.0, -24.0), (33.0, -33.0))
_CROW = (((49.0, 37.5), (60.0, 42.0)), ((49.5, 35.5), (61.0, 35.5)), ((49.0, 33.0), (59.0, 28.5)))

# fmt: off
# Action units at full intensity. Jaw and eyelids turn rather than slide and are in JAW and LIDS.
PUSHES: dict[str, tuple[Push, ...]] = {
    "AU1": (Push(10, 57, 11, 12, 0.3, 7.0, 1.0, "brow"), Push(12, 74, 16, 11, 0, 3.0, 0, "brow")),
    "AU2": (Push(43, 57, 11, 12, 0.3, 7.5, 0.8, "brow"), Push(40, 74, 14, 11, 0, 3.0, 0, "brow"),
            Push(27, 57, 9, 10, 0, 2.5, 0, "brow")),
    "AU4": (Push(12, 54, 9, 9, -2.8, -5.0, 1.8, "brow"), Push(28, 57, 12, 8, -1.8, -4.2, 1.0, "brow"),
            Push(7, 50, 4, 6, -1.0, -1.5, 1.8), Push(42, 56, 9, 8, -0.5, -1.5, 0, "brow")),
    "AU6": (Push(37, 13, 14, 9, 0, 5.0, 3.6, "cheek"), Push(50, 22, 8, 9, -1.0, 3.0, 1.5),
            Push(46, 54, 8, 6, 0, -2.0, 0.3, "brow")),
    "AU7": (Push(33, 27, 11, 4, 0, 1.5, 0.8, "cheek"),),
    "AU9": (Push(8, 20, 6, 9, 0, 3.0, 1.0), Push(13, -3, 6, 6, 1.2, 4.5, 0.3), Push(0, 0, 6, 6, 0, 1.5, -0.8),
            Push(9, -26, 11, 6, 0, 4.5, 1.5, "upper"), Push(22, 12, 9, 10, -0.5, 4.5, 3.0, "cheek"),
            Push(11, 53, 9, 8, -2.0, -4.5, 1.2, "brow")),
    "AU10": (Push(12, -26, 10, 6, 0, 6.0, 1.5, "upper"), Push(21, -5, 8, 9, 0.5, 4.0, 2.5),
             Push(13, -3, 5, 5, 1.0, 2.0, 0)),
    "AU12": (Push(26, -32, 9, 8, 8.0, 8.0, -5.0), Push(0, -28, 13, 6, 0, 1.8, -1.0, "upper"),
             Push(38, 1, 12, 11, 1.5, 6.0, 6.0, "cheek"),
             Push(33, -16, 9, 9, 2.5, 3.0, 2.0), Push(13, -38, 9, 6, 2.0, 2.0, -1.5, "lower"),
             Push(12, -27, 8, 5, 2.0, 1.0, -2.0, "upper"), Push(14, -4, 5, 5, 1.5, 0.5, 0)),
    "AU14": (Push(27, -32, 7, 7, 4.0, 1.0, -3.5), Push(35, -30, 5, 8, 0.5, 0, 1.8)),
    "AU15": (Push(26, -33, 8, 7, 1.0, -8.5, -1.0), Push(31, -46, 7, 8, 0, -3.5, 2.0),
             Push(0, -36, 10, 5, 0, 1.0, 0.8, "lower")),
    "AU16": (Push(9, -39, 11, 7, 0, -6.0, 1.0, "lower"),),
    "AU17": (Push(0, -60, 14, 9, 0, 5.0, 2.0), Push(0, -40, 15, 6, 0, 4.5, 3.0, "lower"),
             Push(0, -28, 14, 6, 0, 1.8, 1.0, "upper")),
    "AU20": (Push(27, -33, 9, 9, 9.0, -2.5, -3.5), Push(13, -33, 9, 9, 4.0, 0, -1.5),
             Push(40, -36, 9, 12, 3.0, -1.0, 1.5), Push(9, -40, 11, 6, 0, -2.0, 0, "lower")),
    "AU23": (Push(0, -25, 19, 3.5, 0, -2.4, -1.8, "upper"), Push(0, -41, 17, 4, 0, 3.4, -1.8, "lower"),
             Push(27, -33, 7, 7, -3.0, 0, 0.8)),
    "AU24": (Push(0, -25, 20, 3.5, 0, -2.6, -2.0, "upper"), Push(0, -41, 18, 4, 0, 3.8, -2.0, "lower"),
             Push(0, -19, 16, 4, 0, 0, 1.6), Push(0, -49, 16, 4, 0, 0.5, 2.0), Push(27, -33, 6, 6, -1.5, 0, -1.0)),
    "AU25": (Push(0, -29, 16, 8, 0, 1.6, 0.3, "upper"), Push(0, -37, 16, 8, 0, -3.6, 0.3, "lower")),
    "AU26": (),
    "AU27": (Push(26, -33, 9, 10, -5.0, 0, 1.0), Push(42, -18, 12, 16, -1.5, 0, -2.5),
             Push(0, -27, 13, 6, 0, 1.5, 0, "upper")),
    "AU5": (), "AU43": (),
    # Raised together with AU4 the inner brow ends stay up: the oblique brows of sadness and fear.
    "AU1+4": (Push(11, 55, 9, 9, 0.5, 4.5, 0.8, "brow"), Push(40, 56, 12, 8, 0, -2.0, 0, "brow")),
}
CREASES: dict[str, tuple[Crease, ...]] = {
    "AU1": tuple(Crease(_forehead(y, 0, 30), 0.9, 1.9) for y in _LINES),
    "AU2": tuple(Crease(_forehead(y + 0.6, 12, 54), 0.8, 1.9) for y in _LINES),
    "AU4": (Crease(((6.0, 66), (5.2, 57), (6.8, 45)), 1.9, 1.7), Crease(((0, 44), (10, 43)), 1.0, 1.3)),
    "AU6": (*(Crease(line, 0.9, 1.2) for line in _CROW), Crease(((16, 29), (24, 25), (33, 23.5), (45, 27)), 1.0)),
    "AU7": (Crease(((22, 28.5), (32, 26.5), (42, 29.5)), 0.8, 1.2),),
    "AU9": (Crease(((1, 39), (9, 33), (17, 27)), 1.3, 1.4), Crease(((2, 32), (9, 26.5), (17, 20)), 1.3, 1.4),
            Crease(((0, 44), (11, 42.5)), 1.4), Crease(_FOLD[:4], 1.7, 2.2)),
    "AU10": (Crease(_FOLD, 2.0, 2.4),),
    "AU12": (Crease(((18, 3), (24, -6), (31, -16), (36.5, -27), (38, -42)), 2.4, 2.4),),
    "AU14": (Crease(((30, -22), (32.5, -32), (31, -42)), 2.4, 1.7),),
    "AU15": (Crease(((25, -31), (31, -42), (33, -56)), 1.8, 2.2),),
    "AU17": (Crease(((0, -50), (10, -50), (24, -55)), 1.6, 2.4),),
    "AU20": (Crease(((35, -18), (38, -33), (36, -48)), 1.5, 2.4),),
}
# Lines that stay with the years, at age 1.
AGE: tuple[Crease, ...] = (
    Crease(((18, 3), (22, -6), (28, -17), (33, -29), (36, -44)), 1.9, 2.6), Crease(((22, 27), (30, 24), (42, 28)), 0.9, 1.6),
    *(Crease(_forehead(y, 0, 42), 0.5, 1.7) for y in _LINES), *(Crease(line, 0.5, 1.2) for line in _CROW),
    Crease(((6.0, 66), (5.2, 57), (6.8, 45)), 0.7, 1.7), Crease(((27, -34), (31, -45), (32, -58)), 1.2, 2.2),
)
JAW = {"AU26": 10.5, "AU27": 19.5}  # degrees the jaw turns about its hinge
HINGE = np.array([0.0, 8.0, -85.0])
# mm by which the margins of (upper, lower) lid rise at mid-eye; AU43 closes the eye whatever its size.
LIDS = {"AU5": (3.4, -0.8), "AU6": (-1.0, 2.0), "AU7": (-1.8, 2.4), "AU9": (-1.2, 1.8), "AU12": (-0.4, 0.8),
        "AU4": (-0.7, 0.2), "AU1": (0.5, 0.0), "AU2": (0.7, 0.0), "AU27": (0.3, -0.3)}

# Identities: one unit is one standard deviation.
SHAPES: dict[str, tuple[Push, ...]] = {
    "chin_forward": (Push(0, -62, 20, 13, 0, 0, 3.6),),
    "cheekbones": (Push(48, 17, 13, 11, 2.2, 0, 2.6),),
    "cheek_fullness": (Push(44, -24, 17, 20, 1.6, 0, 3.0), Push(22, -48, 14, 14, 0, 0, 1.0)),
    "temples": (Push(63, 58, 12, 20, 2.6, 0, 0),),
    "brow_ridge": (Push(26, 55, 17, 6, 0, 0, 1.9), Push(0, 53, 9, 6, 0, 0, 1.0)),
    "brow_height": (Push(27, 57, 22, 8, 0, 2.0, 0, "brow"),),
    "brow_slant": (Push(46, 56, 11, 8, 0, 1.9, 0, "brow"), Push(12, 54, 8, 8, 0, -1.2, 0, "brow")),
    "lid_hood": (Push(36, 47, 10, 4, 0, -2.0, 1.0, "brow"),),
    "nose_bridge": (Push(0, 26, 7, 14, 0, 0, 2.0),),
    "nose_hump": (Push(0, 22, 5, 6.5, 0, 0, 1.2),),
    "nose_tip": (Push(0, -1, 10, 9, 0, 0, 2.0),),
    "nose_upturn": (Push(0, -3, 9, 7, 0, 1.7, 0),),
    "upper_lip": (Push(0, -25, 17, 3.5, 0, 1.0, 0.8, "upper_red"),),
    "lower_lip": (Push(0, -41, 16, 4.5, 0, -1.3, 1.0, "lower_red"),),
    "mouth_height": (Push(0, -33, 30, 12, 0, 1.5, 0),),
    "mouth_corners": (Push(26, -33, 8, 8, 0, 1.0, 0),),
    "muzzle": (Push(0, -31, 22, 14, 0, 0, 1.8),),
    "eye_bags": (Push(32, 25, 10, 3.5, 0, 0, 0.9, "cheek"),),
}
# A region round (x, y) with spreads (sx, sy) whose x is stretched by the last number.
STRETCHES = {"nose_width": (0, -4, 22, 9, 0.11), "nose_tip_width": (0, 0, 9, 8, 0.12), "mouth_width": (0, -33, 38, 11, 0.09),
             "chin_width": (0, -66, 30, 11, 0.12), "bridge_width": (0, 30, 13, 14, 0.11)}
WHOLE_SHAPES = (*STRETCHES, "head_width", "face_length", "jaw_width", "chin_length", "forehead_slope", "forehead_height",
                "flatness", "nose_length", "eye_size", "eye_distance", "eye_slant", "eye_depth")
# fmt: on
SHAPE_NAMES = (*SHAPES, *WHOLE_SHAPES)
ACTION_NAMES = tuple(PUSHES)


def _masks(t: Template) -> dict[str, np.ndarray]:
    """Where a push may act: brows and cheeks leave the lids alone, a lip leaves the other one alone."""
    x, y = np.abs(t.vertices[:, 0]), t.vertices[:, 1]
    skin = (t.part == 0).astype(float)
    taper = np.sqrt(np.maximum(1 - (x / (MOUTH_HALF + 12)) ** 2, 0))
    lens = np.maximum(1 - (x / MOUTH_HALF) ** 2, 0) ** 0.6
    line = mouth_line(x)
    depth = np.clip(
        np.abs(y - line) / 5.0, 0, 1
    )  # at the slit only the lens moves, so that corners stay joined
    beside = lens + (taper - lens) * depth
    return {
        "skin": skin,
        "brow": skin * smoothstep(y - upper_lid(x), 2.5, 13.0),
        "cheek": skin * smoothstep(lower_lid(x) - y, 1.0, 9.0),
        "upper": skin * np.where(t.upper, beside, 0.0),
        "lower": skin * np.where(t.upper, 0.0, beside),
        "upper_red": skin * np.where(t.upper, beside, 0.0) * depth,  # fuller lips still meet
        "lower_red": skin * np.where(t.upper, 0.0, beside) * depth,
    }


def _push_field(t: Template, pushes: tuple[Push, ...], masks: dict[str, np.ndarray]) -> np.ndarray:
    y, side = t.vertices[:, 1], np.tanh(t.vertices[:, 0] / 5)
    x = np.sqrt(t.vertices[:, 0] ** 2 + 9)  # |x| without its kink on the midline
    field = np.zeros_like(t.vertices)
    for p in pushes:
        weight = masks[p.where] * bump(x, y, p.x, p.y, p.sx, p.sy)
        field += weight[:, None] * np.stack([side * p.dx, np.full_like(x, p.dy), np.full_like(x, p.dz)], 1)
    return field


def crease_profile(x: np.ndarray, y: np.ndarray, crease: Crease) -> np.ndarray:
    """Height over (|x|, y): a furrow of depth 1 with softer bulges on both sides, running out at its ends."""
    points = np.array(crease.points, dtype=float)
    lengths = np.hypot(*np.diff(points, axis=0).T)
    best, along = np.full(x.shape, np.inf), np.zeros(x.shape)
    for i, length in enumerate(lengths):
        (ax, ay), (dx, dy) = points[i], points[i + 1] - points[i]
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / length**2, 0, 1)
        d = np.hypot(x - ax - t * dx, y - ay - t * dy)
        nearer = d < best
        best, along = np.where(nearer, d, best), np.where(nearer, lengths[:i].sum() + t * length, along)
    s = along / lengths.sum()
    taper = smoothstep(s, 1.0, 0.6) * (1.0 if points[0, 0] == 0 else smoothstep(s, 0.0, 0.4))
    d = best / crease.width
    return taper * (0.45 * np.exp(-0.5 * ((d - 2.2) / 1.1) ** 2) - np.exp(-0.5 * d**2))


def _crease_field(t: Template, creases: tuple[Crease, ...]) -> np.ndarray:
    x, y = np.abs(t.vertices[:, 0]), t.vertices[:, 1]
    field = np.zeros_like(t.vertices)
    for crease in creases:
        field[:, 2] += (t.part == 0) * crease.depth * crease_profile(x, y, crease)
    return field


def eye_mask(t: Template) -> np.ndarray:
    """(v,) 1 on and round the eyes, 0 elsewhere: what moves with the eyeball of its side."""
    x, y = np.abs(t.vertices[:, 0]), t.vertices[:, 1]
    r = np.hypot((x - EYE[0]) / 1.15, y - EYE[1])
    mask = smoothstep(r, 27.0, 15.0) * smoothstep(x, 2.0, 14.0)
    return np.where((t.part == 1) | (t.part == 2), 1.0, np.where(t.part == 0, mask, 0.0))


def _whole_field(t: Template, name: str) -> np.ndarray:
    """Fields that are more than a push."""
    v, field = t.vertices, np.zeros_like(t.vertices)
    x, y, side = np.abs(v[:, 0]), v[:, 1], np.sign(v[:, 0])
    eye, lever = eye_mask(t), np.stack([np.abs(v[:, 0]) - EYE[0], v[:, 1] - EYE[1]], 1)
    if name in STRETCHES:
        cx, cy, sx, sy, stretch = STRETCHES[name]
        field[:, 0] = stretch * v[:, 0] * bump(x, y, cx, cy, sx, sy)
    elif name == "head_width":
        field[:, 0] = 0.035 * v[:, 0]
    elif name == "face_length":
        field[:, 1] = 0.035 * v[:, 1]
    elif name == "jaw_width":
        field[:, 0] = 3.0 * side * smoothstep(x, 8, 50) * smoothstep(y, 5, -45)
    elif name == "chin_length":
        field[:, 1] = -3.2 * smoothstep(y, -42, -64)
    elif name == "forehead_slope":
        field[:, 2] = -4.0 * smoothstep(y, 58, 105)
    elif name == "forehead_height":
        field[:, 1] = 4.0 * smoothstep(y, 60, 105)
    elif name == "flatness":
        field[:, 2] = -0.05 * (v[:, 2] + 30)
    elif name == "nose_length":
        field[:, 1] = -2.4 * smoothstep(y, 38, 5) * smoothstep(y, -32, -14) * smoothstep(x, 30, 14)
    elif name == "eye_size":
        field[:, :2] = 0.05 * eye[:, None] * lever * np.stack([side, np.ones_like(side)], 1)
        field[:, 2] = 0.05 * eye * (v[:, 2] - EYE[2])
    elif name == "eye_distance":
        field[:, 0] = 1.4 * side * eye
    elif name == "eye_slant":
        field[:, 1] = 0.055 * eye * lever[:, 0]
        field[:, 0] = -0.055 * eye * lever[:, 1] * side
    elif name == "eye_depth":
        field[:, 2] = -1.4 * eye
    return field


@lru_cache(maxsize=1)
def shape_basis() -> np.ndarray:
    """(n, v, 3) float64: the fields of SHAPE_NAMES."""
    t = template()
    masks = _masks(t)
    fields = [_push_field(t, SHAPES[name], masks) for name in SHAPES]
    basis = np.stack(fields + [_whole_field(t, name) for name in WHOLE_SHAPES])
    inside = np.isin(t.part, (3, 4))  # teeth stay behind the lips
    basis[:, inside] = basis[:, :MOUTH_COUNT].mean(1, keepdims=True) * [0, 1, 1]
    return _settle(t, basis)


@lru_cache(maxsize=1)
def action_basis() -> np.ndarray:
    """(n, v, 3) float64: the fields of ACTION_NAMES, jaw and lids apart."""
    t = template()
    masks = _masks(t)
    fields = [_push_field(t, PUSHES[n], masks) + _crease_field(t, CREASES.get(n, ())) for n in ACTION_NAMES]
    return _settle(t, np.stack(fields))


@lru_cache(maxsize=1)
def age_field() -> np.ndarray:
    """(v, 3): the lines of age 1."""
    t = template()
    return _settle(t, _crease_field(t, AGE)[None])[0]


def _settle(t: Template, fields: np.ndarray) -> np.ndarray:
    """Hidden rims follow the margin they hang on."""
    return fields[:, t.margin]


@lru_cache(maxsize=1)
def jaw_weight() -> np.ndarray:
    """(v,) how far each vertex follows the jaw: lower lip, chin and lower teeth fully, cheeks partly."""
    t = template()
    x, y = np.abs(t.vertices[:, 0]), t.vertices[:, 1]
    beside = 1 - np.sqrt(np.maximum(1 - (x / MOUTH_HALF) ** 2, 0))  # so that the mouth opens as an ellipse
    step = np.where(t.upper, 0.0, 1.0)
    weight = ((1 - beside) * step + beside * smoothstep(y, 14, -52)) * smoothstep(t.flat[:, 1], -128, -84)
    weight = np.where(t.part == 4, 1.0, np.where(np.isin(t.part, (1, 2, 3)), 0.0, weight))
    return weight[t.margin]


@lru_cache(maxsize=1)
def lid_weights() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(v,) each: how far a vertex follows the upper and the lower lid's margin; and mm from the margin to closure."""
    t = template()
    x, y = np.abs(t.vertices[:, 0]), t.vertices[:, 1]
    top, bottom = upper_lid(x), lower_lid(x)
    inside = (x > 17.2) & (x < 46.2)
    opening = np.where(inside, top - bottom, 0.0)
    lens = np.clip(opening / opening.max(), 0, 1) ** 0.8
    middle = 0.5 * (top + bottom)
    upper = np.where(y >= middle, smoothstep(y - top, 7.0, -0.2), 0.0) * (t.part == 0) * lens
    lower = np.where(y < middle, smoothstep(bottom - y, 8.0, -0.2), 0.0) * (t.part == 0) * lens
    meet = bottom + 0.22 * opening
    safe = np.maximum(lens, 1e-6)
    return (
        upper[t.margin],
        lower[t.margin],
        ((meet - 0.6 - top) / safe)[t.margin],  # a little too far, so that larger eyes close as well
        ((meet + 0.6 - bottom) / safe)[t.margin],
    )
