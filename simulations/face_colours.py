"""The colours of a person, and the small pictures of eyes, teeth and the mouth's inside.

Legend: H W rows and columns of an image, colours are RGB floats in 0..1.
"""

from dataclasses import dataclass

import numpy as np

from .face_surface import smoothstep

STRIP = 128  # rows of the pictures below the skin
EYE_COLUMNS, MOUTH_COLUMNS = 136, 172
EYE_SCALE, TOOTH_SCALE = 4.0, 3.6  # pixels per mm
IRIS = 6.0  # mm


@dataclass(frozen=True)
class Paint:
    """The colours of a person."""

    tone: float = 0.25  # 0 very light, 1 very dark
    ruddiness: float = 0.5
    freckles: float = 0.0
    stubble: float = 0.0
    age: float = 0.2  # 0 smooth .. 1 lined
    lip_redness: float = 0.5
    brow_weight: float = 1.0  # thickness of the brows
    brow_arch: float = 0.0
    hair: float = 0.3  # 0 blond .. 1 black
    hair_red: float = 0.2
    hair_grey: float = 0.0
    hairline: float = 92.0  # mm above the nose tip
    iris: float = 0.3  # 0 blue, 0.5 green-grey, 1 dark brown
    eye_bags: float = 0.3
    seed: int = 0


_IRIS = (
    [0.0, 0.35, 0.6, 1.0],
    np.array([[0.38, 0.55, 0.70], [0.40, 0.52, 0.42], [0.46, 0.33, 0.18], [0.23, 0.13, 0.07]]),
)


def ramp(table: tuple, at: float) -> np.ndarray:
    """(3,) colour of a table (positions, colours) at a position."""
    return np.array([np.interp(at, table[0], table[1][:, c]) for c in range(3)])


def mix(image: np.ndarray, colour: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Image (H, W, 3) with a colour laid over it where the mask (H, W) is above 0."""
    return image + mask[..., None] * (colour - image)


def paint_eye(paint: Paint, rng: np.random.Generator) -> np.ndarray:
    """(STRIP, EYE_COLUMNS, 3): the left eyeball, nose side to the left."""
    height, width = STRIP, EYE_COLUMNS
    dx = (np.arange(width) + 0.5 - width / 2)[None] / EYE_SCALE
    dy = (height / 2 - np.arange(height) - 0.5)[:, None] / EYE_SCALE
    r, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    white = np.array([0.86, 0.84, 0.82]) * (1 - 0.15 * paint.tone)
    image = np.empty((height, width, 3))
    image[:] = white
    edge = smoothstep(np.abs(dx) + 0 * dy, 8.5, 15)
    image = mix(image, np.array([0.80, 0.55, 0.50]), 0.75 * edge)
    image = mix(
        image, np.array([0.78, 0.46, 0.42]), smoothstep(dx + 0 * dy, -10.5, -13.0)
    )  # the corner at the nose
    spokes = np.interp(angle, np.linspace(-np.pi, np.pi, 49), np.append(s := rng.normal(0, 1, 48), s[0]))
    iris = ramp(_IRIS, paint.iris)
    colour = iris * (0.85 + 0.25 * smoothstep(r, 1.8, 4.6) + 0.10 * spokes)[..., None]
    colour = mix(colour, iris * 0.35, smoothstep(r, IRIS - 1.3, IRIS - 0.1))
    image = mix(image, colour, smoothstep(r, IRIS + 0.35, IRIS - 0.25))
    image = mix(image, np.array([0.02, 0.02, 0.02]), smoothstep(r, 2.75, 2.25))
    return image


def paint_mouth(paint: Paint) -> np.ndarray:
    """(STRIP, MOUTH_COLUMNS, 3): upper teeth, lower teeth, the mouth's inside, one below the other."""
    image = np.zeros((STRIP, MOUTH_COLUMNS, 3))
    x = (np.arange(MOUTH_COLUMNS) + 0.5 - MOUTH_COLUMNS / 2) / TOOTH_SCALE
    for row, top, heights, widths in (
        (0, True, 9.5, (8.4, 6.6, 7.2, 6.6)),
        (44, False, 8.0, (5.4, 5.8, 6.6, 6.6)),
    ):
        y = (np.arange(44) + 0.5)[:, None] / TOOTH_SCALE
        from_edge = 12.0 - y if top else y  # mm from the biting edge
        gaps = np.cumsum(widths)
        nearest = np.min(np.abs(np.abs(x)[:, None] - np.array([0, *gaps])), 1)
        tooth = np.array([0.93, 0.90, 0.83]) * (0.80 + 0.20 * smoothstep(nearest, 0.0, 1.0))[None, :, None]
        tooth = tooth * (1.0 - 0.35 * smoothstep(np.abs(x), 9, 21))[None, :, None] * np.ones((44, 1, 1))
        gum_at = heights - 1.3 * smoothstep(nearest, 1.6, 0.0)[None]
        gum = np.array([0.62, 0.30, 0.30]) * (1.0 - 0.4 * smoothstep(np.abs(x), 9, 21))[None, :, None]
        image[row : row + 44] = tooth + smoothstep(from_edge - gum_at, -0.3, 0.5)[..., None] * (gum - tooth)
    y = (np.arange(40) + 0.5)[:, None] / 40
    inside = np.array([0.20, 0.06, 0.06]) * np.ones((40, MOUTH_COLUMNS, 1))
    tongue = smoothstep((x[None] / 12) ** 2 + ((y - 0.85) / 0.45) ** 2, 1.2, 0.6)
    image[88:] = mix(inside, np.array([0.55, 0.26, 0.26]), 0.85 * tongue)
    return image
