"""Procedural faces in 3D and 4D: who (an identity), what the face does (action units), and the mesh that follows.

Frame: mm, +y up, +z out of the face, origin near the nose tip of the average face; the subject's left is at +x.
No person is depicted and no scan went in: figures made on these faces must say so.
Expressions are EMFACS-like prototypes of FACS action units (Ekman, Friesen & Hager 2002), varied at random.
Legend: v vertices, f faces, H W rows and columns of the texture.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from smile.labels import EXPRESSIONS

from . import face_paint
from .face_colours import Paint
from .face_fields import (
    ACTION_NAMES,
    HINGE,
    JAW,
    LIDS,
    SHAPE_NAMES,
    action_basis,
    age_field,
    jaw_weight,
    lid_weights,
    shape_basis,
)
from .face_landmarks import landmark_vertices
from .face_mesh import template
from .face_surface import EYE, eye_height

# fmt: off
# What a full expression looks like on average; `perform` varies it.
ACTION_UNITS: dict[str, dict[str, float]] = {
    "neutral": {},
    "anger": {"AU4": 1.0, "AU5": 0.5, "AU7": 0.8, "AU23": 0.8, "AU24": 0.4},
    "disgust": {"AU9": 0.9, "AU10": 0.8, "AU15": 0.35, "AU17": 0.5, "AU4": 0.3, "AU7": 0.4},
    "fear": {"AU1": 0.9, "AU2": 0.6, "AU4": 0.7, "AU5": 0.9, "AU20": 0.9, "AU25": 0.8, "AU26": 0.35},
    "happiness": {"AU6": 0.8, "AU12": 0.95, "AU25": 0.7},
    "sadness": {"AU1": 0.95, "AU4": 0.6, "AU15": 0.9, "AU17": 0.6, "AU43": 0.2},
    "surprise": {"AU1": 0.95, "AU2": 0.95, "AU5": 0.8, "AU25": 0.6, "AU26": 0.7, "AU27": 0.45},
}
assert tuple(ACTION_UNITS) == EXPRESSIONS

# Other ways to show the same: (chance, units that replace the prototype).
_VARIANTS: dict[str, tuple[tuple[float, dict[str, float]], ...]] = {
    "anger": ((0.35, {"AU4": 1.0, "AU7": 0.7, "AU10": 0.7, "AU25": 0.8, "AU16": 0.4, "AU5": 0.4}),),
    "disgust": ((0.4, {"AU9": 0.9, "AU10": 0.8, "AU25": 0.7, "AU16": 0.5, "AU4": 0.4, "AU7": 0.4}),),
    "fear": ((0.3, {"AU1": 0.8, "AU2": 0.5, "AU4": 0.6, "AU5": 1.0, "AU25": 0.6, "AU26": 0.8, "AU20": 0.3}),),
    "happiness": ((0.35, {"AU6": 0.6, "AU12": 0.85, "AU14": 0.2}), (0.2, {"AU6": 0.9, "AU12": 1.0, "AU25": 0.8, "AU26": 0.6})),
    "sadness": ((0.3, {"AU1": 0.8, "AU4": 0.4, "AU15": 0.8, "AU43": 0.3}), (0.2, {"AU1": 0.7, "AU4": 0.7, "AU15": 0.6, "AU17": 1.0})),
    "surprise": ((0.35, {"AU1": 0.9, "AU2": 0.9, "AU5": 0.6, "AU25": 0.6, "AU26": 0.9}),),
}
# fmt: on
# Units without which a performance would show something else.
_CORE: dict[str, tuple[str, ...]] = {
    "anger": ("AU4",),
    "disgust": ("AU10",),
    "fear": ("AU1", "AU5"),
    "happiness": ("AU12",),
    "sadness": ("AU1", "AU15"),
    "surprise": ("AU1", "AU2"),
}


@dataclass(frozen=True)
class Identity:
    """A person who does not exist. Shapes count in standard deviations."""

    shape: tuple[float, ...]  # one for each of SHAPE_NAMES
    asymmetry: tuple[float, ...]  # the same, left against right
    expressiveness: tuple[float, ...]  # one for each of ACTION_NAMES: this person's habitual strength
    lopsidedness: tuple[float, ...]  # the same, left against right
    paint: Paint
    build: float = 0.0  # -1 a typically female face .. +1 a typically male one


@dataclass(frozen=True, eq=False)
class Face:
    """One moment of one face."""

    vertices: np.ndarray  # (v, 3) float64, mm
    faces: np.ndarray  # (f, 3) int64, counter-clockwise from outside
    uv: np.ndarray  # (v, 2) float64, u to the right, v UP from the bottom of the texture
    texture: np.ndarray  # (H, W, 3) uint8 RGB, row 0 at the top
    landmarks: dict[str, np.ndarray]  # name -> (3,) float64 mm, on the surface


# fmt: off
# Mean shape of build +1, in standard deviations.
_BUILD = {"head_width": 0.5, "face_length": 0.6, "jaw_width": 0.8, "chin_length": 0.5, "chin_width": 0.6, "chin_forward": 0.4,
          "brow_ridge": 0.9, "brow_height": -0.6, "forehead_slope": 0.4, "nose_length": 0.5, "nose_width": 0.5,
          "nose_bridge": 0.4, "upper_lip": -0.5, "lower_lip": -0.4, "eye_size": -0.4, "cheek_fullness": -0.4,
          "cheekbones": -0.1, "nose_hump": 0.3, "nose_tip_width": 0.4, "lid_hood": 0.3}
# fmt: on


def sample_identity(rng: np.random.Generator, *, build: float | None = None) -> Identity:
    """Draw a person. `build` fixes the typically female (-1) .. male (+1) part of the shape."""
    if build is None:
        build = float(np.clip(rng.choice([-1, 1]) * rng.normal(0.9, 0.3), -1.4, 1.4))
    shape = _spread(rng, len(SHAPE_NAMES), 1.0) + build * np.array(
        [_BUILD.get(name, 0.0) for name in SHAPE_NAMES]
    )
    return Identity(
        shape=tuple(shape.tolist()),
        asymmetry=tuple(_spread(rng, len(SHAPE_NAMES), 0.17).tolist()),
        expressiveness=tuple((1 + _spread(rng, len(ACTION_NAMES), 0.14)).tolist()),
        lopsidedness=tuple(_spread(rng, len(ACTION_NAMES), 0.13).tolist()),
        paint=_sample_paint(rng, build),
        build=build,
    )


def _spread(rng: np.random.Generator, count: int, deviation: float) -> np.ndarray:
    return deviation * np.clip(rng.normal(0, 1, count), -2.2, 2.2)


def _sample_paint(rng: np.random.Generator, build: float) -> Paint:
    tone = float(rng.beta(1.0, 1.6))
    age = float(rng.beta(1.4, 1.8))
    return Paint(
        tone=tone,
        ruddiness=float(rng.uniform(0, 1)),
        freckles=float(rng.uniform(0.3, 1) if rng.uniform() < 0.3 * (1 - tone) else 0.0),
        stubble=float(np.clip(rng.normal(0.45, 0.35), 0, 1) * _male(build)),
        age=age,
        lip_redness=float(np.clip(rng.normal(0.42 - 0.22 * build, 0.2), 0, 1)),
        brow_weight=float(np.clip(rng.normal(1.0 + 0.22 * build, 0.2), 0.55, 1.6)),
        brow_arch=float(np.clip(rng.normal(0.15 - 0.25 * build, 0.35), -0.6, 1.0)),
        hair=float(np.clip(rng.normal(0.35 + 0.7 * tone, 0.22), 0, 1)),
        hair_red=float(rng.uniform(0, 1) ** 3),
        hair_grey=float(np.clip((age - 0.55) * rng.uniform(0, 2.5), 0, 0.85)),
        hairline=float(rng.normal(93, 4) + (8 * age * rng.uniform() if build > 0 else 0)),
        iris=float(np.clip(rng.normal(0.25 + 0.9 * tone, 0.25), 0, 1)),
        eye_bags=float(np.clip(rng.normal(0.25 + 0.4 * age, 0.2), 0, 1)),
        seed=int(rng.integers(2**31)),
    )


def _male(build: float) -> float:
    """0 for a female, 1 for a male build."""
    return float(np.clip((build + 0.3) / 0.6, 0, 1))


def perform(expression: str, rng: np.random.Generator, *, strength: float = 1.0) -> dict[str, float]:
    """Action units of one performance of an expression: strengths vary, a unit may be missing, variants occur.

    Raises ValueError for an expression that is not one of `smile.labels.EXPRESSIONS`.
    """
    if expression not in ACTION_UNITS:
        raise ValueError(f"expression {expression!r}: choose from {', '.join(ACTION_UNITS)}")
    units, draw = ACTION_UNITS[expression], rng.uniform()
    for chance, variant in _VARIANTS.get(expression, ()):
        if draw < chance:
            units = variant
            break
        draw -= chance
    performed = {}
    for name, value in units.items():
        factor, missing = float(np.clip(rng.normal(1.0, 0.22), 0.45, 1.4)), rng.uniform() < 0.12
        if not missing or name in _CORE[expression]:
            performed[name] = min(strength * value * factor, 1.25)
    for name in ("AU1", "AU2", "AU4", "AU12", "AU15", "AU17", "AU43"):  # nobody's face is ever quite still
        performed[name] = performed.get(name, 0.0) + abs(float(rng.normal(0, 0.06)))
    return performed


def timeline(frames: int, *, onset: float = 0.35, offset: float = 0.62) -> np.ndarray:
    """(frames,) intensity 0..1 of a 4D sequence: neutral, onset, apex, offset, neutral.

    The apex lasts from `onset` to `offset`, both shares of the sequence.
    """
    t = np.linspace(0, 1, frames) if frames > 1 else np.array([(onset + offset) / 2])
    rise, fall = np.clip((t - 0.02) / (onset - 0.02), 0, 1), np.clip((0.97 - t) / (0.97 - offset), 0, 1)
    return rise * rise * (3 - 2 * rise) * fall * fall * (3 - 2 * fall)


def face(
    identity: Identity, action_units: dict[str, float], *, gaze: tuple[float, float] = (0.0, 0.0)
) -> Face:
    """The mesh of a person with the given action units (0 at rest, 1 full).

    `gaze`: mm by which the irises are off the middle, (x, y). Raises ValueError for an unknown action unit.
    """
    unknown = sorted(set(action_units) - set(ACTION_NAMES))
    if unknown:
        raise ValueError(f"action units {unknown} do not exist here: choose from {', '.join(ACTION_NAMES)}")
    vertices = _posed(identity, action_units)
    return Face(
        vertices=vertices,
        faces=template().faces,
        uv=face_paint.texture_coordinates(gaze),
        texture=face_paint.texture(identity.paint, action_units),
        landmarks={name: vertices[index] for name, index in landmark_vertices().items()},
    )


@lru_cache(maxsize=16)
def _rest(identity: Identity) -> np.ndarray:
    """(v, 3) the person's face at rest."""
    t, basis = template(), shape_basis()
    even = _blend(np.array(identity.shape), basis)
    odd = _blend(np.array(identity.asymmetry), basis)
    return t.vertices + even + _sides(t.vertices) * odd + identity.paint.age * age_field()


def _blend(amounts: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """(n,), (n, v, 3) -> (v, 3) weighted sum; not with BLAS, whose last bits depend on the number of threads."""
    return np.einsum("n,nvk->vk", amounts, fields)


def _sides(vertices: np.ndarray) -> np.ndarray:
    """(v, 1) +1 on the left, -1 on the right, smooth between."""
    return np.tanh(vertices[:, :1] / 12)


def _posed(identity: Identity, units: dict[str, float]) -> np.ndarray:
    """(v, 3) the person with action units: the skin slides, the jaw turns, the lids close over the eyeballs."""
    t, rest, basis = template(), _rest(identity), action_basis()
    units = {**units, "AU1+4": units.get("AU1", 0.0) * units.get("AU4", 0.0)}
    amount = np.array([units.get(name, 0.0) for name in ACTION_NAMES]) * np.array(identity.expressiveness)
    active = np.flatnonzero(amount)
    moved = _blend(amount[active], basis[active])
    skew = np.array(identity.lopsidedness)[active] * amount[active]
    moved += _sides(t.vertices) * _blend(skew, basis[active])
    angle = np.radians(sum(turn * units.get(name, 0.0) for name, turn in JAW.items()))
    lever = rest - HINGE
    turned = np.stack(
        [
            lever[:, 0],
            lever[:, 1] * np.cos(angle) - lever[:, 2] * np.sin(angle),
            lever[:, 1] * np.sin(angle) + lever[:, 2] * np.cos(angle),
        ],
        1,
    )
    moved += jaw_weight()[:, None] * (turned - lever) + _lid_motion(units)
    return _clear_of_eyes(rest + moved[t.margin], rest)


def _lid_motion(units: dict[str, float]) -> np.ndarray:
    """(v, 3) lids that glide over the eyeball; they never cross, and AU43 brings them together."""
    t = template()
    x, y = np.abs(t.vertices[:, 0]), t.vertices[:, 1]
    upper, lower, close_upper, close_lower = lid_weights()
    rise = sum(lift[0] * units.get(name, 0.0) for name, lift in LIDS.items())
    raised = sum(lift[1] * units.get(name, 0.0) for name, lift in LIDS.items())
    ease = min(1.0, 6.5 / max(raised - rise, 1e-6))  # mm: a squint leaves a slit open
    shut = min(max(units.get("AU43", 0.0), 0.0), 1.0)
    dy = upper * ((1 - shut) * ease * rise + shut * close_upper)
    dy += lower * ((1 - shut) * ease * raised + shut * close_lower)
    dz = eye_height(x, y + dy, 1.06) - eye_height(x, y, 1.06)
    return np.stack([np.zeros_like(dy), dy, dz], 1)


def _clear_of_eyes(vertices: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Lift skin that dips into an eyeball."""
    t = template()
    own = t.margin == np.arange(len(vertices))
    for part, side in ((1, 1), (2, -1)):
        ball = t.part == part
        shift = (rest[ball] - t.vertices[ball]).mean(0)
        near = (
            own & (t.part == 0) & (np.hypot(side * t.vertices[:, 0] - EYE[0], t.vertices[:, 1] - EYE[1]) < 22)
        )
        p = vertices[near] - shift
        vertices[near, 2] = np.maximum(p[:, 2], eye_height(side * p[:, 0], p[:, 1], 1.05)) + shift[2]
    return vertices
