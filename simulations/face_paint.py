"""The texture of a procedural face: skin, lips, brows as hair strokes, eyes, teeth, and shadows that follow the face.

Skin is painted over the flat coordinates of `face_surface.py`, so it stretches with the mesh. One texture image holds
the skin (upper part) and below it the two eyeballs, the teeth and the mouth's inside.
Legend: H W rows and columns of an image, colours are RGB floats in 0..1 while painting.
"""

from functools import lru_cache

import numpy as np

from .face_colours import EYE_SCALE, STRIP, TOOTH_SCALE, Paint, mix, paint_eye, paint_mouth, ramp
from .face_fields import ACTION_NAMES, AGE, CREASES, crease_profile
from .face_mesh import template
from .face_surface import (
    MOUTH_Y,
    brow_line,
    bump,
    curve,
    fold_line,
    loft,
    lower_border,
    lower_lid,
    mouth_line,
    smoothstep,
    unroll,
    upper_border,
    upper_lid,
)

SCALE = 2.0  # skin pixels per mm
LEFT, TOP, SIZE = -112.0, 124.0, 448  # flat u, v of the first skin pixel; skin is SIZE x SIZE


_SKIN = (
    [0.0, 0.3, 0.55, 0.8, 1.0],
    np.array(
        [[0.94, 0.79, 0.71], [0.87, 0.69, 0.58], [0.70, 0.50, 0.38], [0.47, 0.31, 0.23], [0.31, 0.205, 0.16]]
    ),
)


@lru_cache(maxsize=1)
def _canvas() -> dict[str, np.ndarray]:
    """What every skin shares: the frontal (|x|, y) of each skin pixel, side, noise of several grain sizes."""
    from PIL import Image

    u = LEFT + (np.arange(SIZE) + 0.5) / SCALE
    v = TOP - (np.arange(SIZE) + 0.5) / SCALE
    flat = np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)
    base = loft(flat).astype(np.float32)
    rng = np.random.default_rng(20)
    grains = {}
    for name, cells in (("large", 14), ("middle", 45), ("small", 150)):
        coarse = np.tile(
            rng.normal(0, 1, (cells, cells)).astype(np.float32), (3, 3)
        )  # so that it can be rolled
        fine = Image.fromarray(coarse).resize((3 * SIZE, 3 * SIZE), Image.Resampling.BICUBIC)
        grains[name] = np.asarray(fine)[SIZE : 2 * SIZE, SIZE : 2 * SIZE]
    grains["pores"] = rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32)
    streaks = Image.fromarray(rng.normal(0, 1, (40, SIZE)).astype(np.float32))
    grains["streaks"] = np.asarray(streaks.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    shape = (SIZE, SIZE)
    return {
        "x": np.abs(base[:, 0]).reshape(shape),
        "side": np.sign(base[:, 0]).reshape(shape),
        "y": base[:, 1].reshape(shape),
        "u": np.abs(flat[:, 0]).reshape(shape).astype(np.float32),
        "v": flat[:, 1].reshape(shape).astype(np.float32),
        **grains,
    }


@lru_cache(maxsize=1)
def _maps() -> dict[str, np.ndarray]:
    """Masks that depend on the average face alone."""
    c = _canvas()
    x, y = c["x"], c["y"]
    line = mouth_line(x)
    width = smoothstep(x, 27.2, 25.6)
    lips = width * smoothstep(upper_border(x) - y, -0.4, 0.5) * smoothstep(y - lower_border(x), -0.4, 0.6)
    top, bottom = upper_lid(x), lower_lid(x)
    along = smoothstep(x, 16.0, 19.5) * smoothstep(x, 48.5, 45.5)
    shade = 0.42 * bump(x, y, 17.0, 40, 5, 7) + 0.20 * bump(x, y, 30, 46.5, 14, 4.5)  # sockets
    shade += 0.16 * bump(x, y, 20, 4, 4, 9) + 0.30 * bump(
        x, y, 18.8, -5, 2.0, 6
    )  # beside the nose and its wings
    shade += 0.34 * bump(x, y, 0, -11.5, 13, 2.6)  # under the nose
    shade += 0.20 * bump(x, y, 0, -46.5, 15, 2.6) + 0.12 * bump(
        x, y, 29, -34, 3, 4
    )  # under the lip, at the corners
    shade += (
        0.10 * np.exp(-0.5 * ((x - fold_line(y)) / 1.6) ** 2) * smoothstep(y, -42, -30) * smoothstep(y, 3, -6)
    )
    shade += 0.35 * smoothstep(c["v"], -74, -92)  # below the jaw
    shade += 0.16 * smoothstep(c["u"], 62, 108)
    light = (
        0.07 * bump(x, y, 0, 18, 3.2, 18) + 0.06 * bump(x, y, 0, 2, 4, 4) + 0.05 * bump(x, y, 42, 17, 11, 8)
    )
    light += 0.05 * bump(x, y, 0, 75, 30, 14) + 0.04 * bump(x, y, 0, -62, 9, 6)
    lid = along * np.exp(-0.5 * ((y - top - 3.7) / 0.75) ** 2)
    lash = along * smoothstep(y - top, 1.5, 0.0) * smoothstep(y - top, -1.5, -0.2)
    lash_low = along * smoothstep(bottom - y, 0.9, 0.1) * smoothstep(bottom - y, -1.0, -0.2)
    nostril = bump(x, y, 6.7, -8.6, 2.5, 1.25)
    maps = {
        "lips": lips,
        "slit": width * np.exp(-0.5 * ((y - line) / 0.7) ** 2),
        "shade": shade,
        "light": light,
        "crease": lid,
        "lash": lash,
        "lash_low": lash_low,
        "nostril": np.minimum(1.5 * nostril, 1),
        "lid": along * smoothstep(y - top, 5, 2.5) * smoothstep(y - top, -1, 0),
        "blush": bump(x, y, 42, 4, 14, 13) + 0.8 * bump(x, y, 0, 0, 9, 7),
        "bags": bump(x, y, 29, 27, 10, 3.2) * smoothstep(bottom - y, 0, 1.5),
        "beard": _beard(x, y, c["v"]),
    }
    return {name: m.astype(np.float32) for name, m in maps.items()}


def _beard(x: np.ndarray, y: np.ndarray, v: np.ndarray) -> np.ndarray:
    chin = smoothstep(y, -44, -50) * smoothstep(x, 62, 40)
    cheek = smoothstep(y, -18, -34) * smoothstep(x, 27, 36)
    lip = smoothstep(y, -12, -15.5) * smoothstep(y - upper_border(x), -0.5, 1.0) * smoothstep(x, 33, 25)
    return np.maximum(np.maximum(chin, cheek), lip) * smoothstep(v, -96, -80)


@lru_cache(maxsize=1)
def _crease_maps() -> dict[str, np.ndarray]:
    """name -> (SIZE, SIZE) float32: how much each action unit darkens the skin, mostly in its creases."""
    c = _canvas()
    maps = {}
    for name in ACTION_NAMES:
        total = np.zeros((SIZE, SIZE), dtype=np.float32)
        for crease in CREASES.get(name, ()):
            total += (0.13 * crease.depth * np.maximum(-crease_profile(c["x"], c["y"], crease), 0)).astype(
                np.float32
            )
        if total.any():
            maps[name] = total
    return maps


@lru_cache(maxsize=1)
def _age_map() -> np.ndarray:
    """(SIZE, SIZE) float32: how much the lines of age 1 darken the skin."""
    c = _canvas()
    total = sum(
        0.11 * crease.depth * np.maximum(-crease_profile(c["x"], c["y"], crease), 0) for crease in AGE
    )
    return np.asarray(total, dtype=np.float32)


def _brows(paint: Paint, rng: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE) opacity of both brows: a soft band and some hundred strokes, drawn at twice the size."""
    from PIL import Image, ImageDraw

    n = 170
    sheet = Image.new("L", (2 * SIZE, 2 * SIZE))
    draw = ImageDraw.Draw(sheet, "L")
    for side in (-1, 1):
        t = rng.uniform(0, 1, n) ** 0.9
        x = 11.5 + 41.0 * t
        half = paint.brow_weight * (3.0 - 1.9 * np.clip((t - 0.35) / 0.65, 0, 1)) * smoothstep(t, -0.25, 0.12)
        off = np.clip(rng.normal(0, 0.55, n), -1.1, 1.1)
        y = brow_line(x) + paint.brow_arch * 2.0 * np.sin(np.pi * t) + off * half
        slope = np.gradient(brow_line(np.linspace(11.5, 52.5, 60)), 41 / 59)[
            np.clip((t * 59).astype(int), 0, 59)
        ]
        angle = np.arctan(slope) + (0.95 * (1 - t) ** 2 - 0.3 * off) + rng.normal(0, 0.12, n)
        length = (2.8 + 2.2 * rng.uniform(0, 1, n)) * (0.75 + 0.25 * paint.brow_weight)
        start = np.stack([side * x, y], 1)
        stop = start + length[:, None] * np.stack([side * np.cos(angle), np.sin(angle)], 1)
        ends = np.stack([unroll(start), unroll(stop)], 1)
        pixels = np.stack([(ends[..., 0] - LEFT) * 2 * SCALE, (TOP - ends[..., 1]) * 2 * SCALE], -1)
        for (a, b), strength in zip(pixels, rng.integers(110, 230, n), strict=True):
            draw.line([*a, *b], fill=int(strength), width=2)
    strokes = np.asarray(sheet.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32) / 255
    c = _canvas()
    t = np.clip((c["x"] - 11) / 42, 0, 1)
    half = paint.brow_weight * (3.3 - 2.2 * np.clip((t - 0.35) / 0.65, 0, 1))
    middle = brow_line(c["x"]) + paint.brow_arch * 2.0 * np.sin(np.pi * t) + 0.6
    band = (
        np.exp(-(np.abs((c["y"] - middle) / half) ** 3))
        * smoothstep(c["x"], 9, 17)
        * smoothstep(c["x"], 55, 46)
    )
    return np.clip(0.85 * strokes + 0.42 * band.astype(np.float32), 0, 0.92)


def _hair_colour(paint: Paint) -> np.ndarray:
    table = (
        [0.0, 0.35, 0.7, 1.0],
        np.array([[0.62, 0.48, 0.31], [0.38, 0.26, 0.17], [0.20, 0.135, 0.10], [0.07, 0.06, 0.06]]),
    )
    colour = np.clip(ramp(table, paint.hair) + paint.hair_red * np.array([0.10, 0.0, -0.02]), 0, 1)
    return colour + 0.8 * paint.hair_grey * (np.array([0.58, 0.57, 0.56]) - colour)


def _paint_skin(paint: Paint, rng: np.random.Generator) -> np.ndarray:
    c, m = _canvas(), _maps()
    roll = {
        name: np.roll(c[name], tuple(rng.integers(0, SIZE, 2)), (0, 1))
        for name in ("large", "middle", "small", "pores")
    }
    skin = ramp(_SKIN, paint.tone)
    image = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    image[:] = skin
    red = skin * np.array([1.02, 0.78, 0.76])
    image = mix(image, red, np.clip(m["blush"] * (0.15 + 0.4 * paint.ruddiness), 0, 0.8))
    image = mix(image, red * np.array([0.98, 0.96, 0.98]), 0.55 * m["lid"])
    image = mix(image, skin * np.array([0.78, 0.70, 0.74]), 0.75 * paint.eye_bags * m["bags"])
    beard = m["beard"] * np.clip(0.75 + 0.25 * roll["middle"], 0, 1)
    grain = np.clip(0.5 + 0.5 * roll["pores"], 0.0, 1.3)
    image = mix(image, 0.45 * skin * np.array([0.86, 0.92, 1.0]), beard * paint.stubble * 0.55 * grain)
    mottle = (
        1 + (0.022 * roll["large"] + 0.018 * roll["middle"] + 0.016 * roll["small"]) + 0.014 * roll["pores"]
    )
    mottle += paint.age * 0.02 * roll["small"]
    image *= mottle[..., None]
    image[..., 1:] *= (1 - 0.016 * roll["middle"])[..., None]
    if paint.freckles > 0:
        spots = smoothstep(roll["small"], 1.1, 1.9) * np.clip(m["blush"] + 0.25, 0, 1)
        image = mix(image, skin * np.array([0.72, 0.58, 0.48]), 0.8 * paint.freckles * spots)
    shade = m["shade"] * (0.75 + 0.25 * paint.tone) + paint.age * _age_map()
    image *= 1 - shade[..., None] * np.array([0.72, 0.95, 1.0], dtype=np.float32)
    image *= 1 + m["light"][..., None] * (0.7 + 0.6 * paint.tone)
    lip = np.clip(
        skin * np.array([0.86, 0.66, 0.67]) + paint.lip_redness * np.array([0.05, -0.06, -0.04]), 0, 1
    )
    lines = 1 + 0.03 * c["streaks"]
    edge = smoothstep(np.abs(c["y"] - mouth_line(c["x"])), 6.5, 1.0)
    image = mix(image, lip, (0.55 + 0.35 * paint.lip_redness) * m["lips"])
    image *= 1 + m["lips"][..., None] * (lines - 1 - 0.18 * edge)[..., None]
    image *= 1 + 0.10 * (m["lips"] * bump(c["x"], c["y"], 4, -38.5, 8, 1.6))[..., None]
    image = mix(image, skin * np.array([0.34, 0.18, 0.17]), 0.85 * m["slit"])
    image = mix(image, skin * np.array([0.26, 0.15, 0.13]), 0.85 * m["nostril"])
    image = mix(image, skin * np.array([0.55, 0.44, 0.42]), 0.55 * m["crease"])
    dark = np.array([0.10, 0.07, 0.06])
    image = mix(image, dark, 0.80 * m["lash"])
    image = mix(image, skin * np.array([0.55, 0.40, 0.38]), 0.5 * m["lash_low"])
    hair = _hair_colour(paint)
    image = mix(image, 0.9 * hair, _brows(paint, rng))
    return _paint_hair(image, paint, hair, c, roll)


def _paint_hair(image: np.ndarray, paint: Paint, hair: np.ndarray, c: dict, roll: dict) -> np.ndarray:
    """Hair beyond a hairline that dips at the temples."""
    line = paint.hairline + curve(
        c["u"], [(0, 0), (25, 1.5), (45, -1), (60, -16), (70, -34), (82, -52), (100, -70)]
    )
    into = c["v"] - line + 2.0 * roll["small"] + 1.5 * c["streaks"]
    mask = smoothstep(into, -1.5, 4.5) * smoothstep(c["v"], -2, 12)
    strands = hair * (1 + 0.20 * c["streaks"] + 0.10 * roll["pores"])[..., None]
    return image + mask[..., None] * (strands - image)


@lru_cache(maxsize=16)
def rest_texture(paint: Paint) -> np.ndarray:
    """(SIZE + STRIP, SIZE, 3) float32: the texture of the resting face."""
    rng = np.random.default_rng(paint.seed)
    image = np.zeros((SIZE + STRIP, SIZE, 3), dtype=np.float32)
    image[:SIZE] = _paint_skin(paint, rng)
    eye = paint_eye(paint, rng)
    image[SIZE:, :136], image[SIZE:, 136:272] = eye, eye[:, ::-1]
    image[SIZE:, 272:444] = paint_mouth(paint)
    return np.clip(image, 0, 1)


def texture(paint: Paint, units: dict[str, float]) -> np.ndarray:
    """(H, W, 3) uint8 with the creases and the lid shadow of the expression."""
    image = rest_texture(paint).copy()
    dark = np.zeros((SIZE, SIZE), dtype=np.float32)
    for name, crease in _crease_maps().items():
        if units.get(name, 0.0) > 0:
            dark += min(units[name], 1.2) * (0.75 + 0.5 * paint.age) * crease
    if dark.any():
        dark = np.minimum(dark, 0.5)[..., None]
        image[:SIZE] *= 1 - dark * np.array([0.8, 1.0, 1.05], dtype=np.float32)
    # The upper lid throws a soft shadow on the eyeball, and the light from above a small reflection on the iris.
    dy = (STRIP / 2 - np.arange(STRIP) - 0.5) / EYE_SCALE
    lid = 5.6 + 2.5 * units.get("AU5", 0.0) - 1.6 * units.get("AU7", 0.0) - units.get("AU6", 0.0)
    image[SIZE:, :272] *= (1 - 0.45 * smoothstep(dy, lid - 4.5, lid + 0.5))[:, None, None].astype(np.float32)
    for centre in (68 + 7, 204 + 7):
        _glint(image, SIZE + STRIP // 2 - 8, centre)
    return (255 * image + 0.5).astype(np.uint8)


def _glint(image: np.ndarray, row: int, column: int) -> None:
    r, c = np.mgrid[-4:5, -4:5]
    spot = smoothstep(np.hypot(r, c), 4.2, 1.8)[..., None]
    patch = image[row - 4 : row + 5, column - 4 : column + 5]
    patch += spot * (np.array([0.97, 0.98, 1.0], dtype=np.float32) - patch)


def texture_coordinates(gaze: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """(v, 2) u to the right and v up, both 0..1; `gaze` moves the irises by (x, y) mm."""
    t = template()
    px = np.empty_like(t.flat)
    skin, upper, lower, inside = t.part == 0, t.part == 3, t.part == 4, t.part == 5
    px[skin] = np.stack([(t.flat[skin, 0] - LEFT) * SCALE, (TOP - t.flat[skin, 1]) * SCALE], 1)
    px[skin] = np.clip(px[skin], 0.5, SIZE - 0.5)
    for part, centre in ((1, 68.0), (2, 204.0)):
        eye = t.part == part
        d = (t.flat[eye] - np.array(gaze)) * EYE_SCALE
        px[eye] = np.stack(
            [
                np.clip(centre + d[:, 0], centre - 67, centre + 67),
                SIZE + np.clip(STRIP / 2 - d[:, 1], 0.5, STRIP - 0.5),
            ],
            1,
        )
    px[upper] = np.stack(
        [358 + t.flat[upper, 0] * TOOTH_SCALE, SIZE + (MOUTH_Y + 11 - t.flat[upper, 1]) * TOOTH_SCALE + 0.5],
        1,
    )
    px[lower] = np.stack(
        [
            358 + t.flat[lower, 0] * TOOTH_SCALE,
            SIZE + 44 + (MOUTH_Y - 0.8 - t.flat[lower, 1]) * TOOTH_SCALE + 0.5,
        ],
        1,
    )
    px[inside] = np.stack(
        [358 + t.flat[inside, 0] * 2.6, SIZE + 88.5 + (-12 - t.flat[inside, 1]) / 44 * 39], 1
    )
    return np.stack([px[:, 0] / SIZE, 1 - px[:, 1] / (SIZE + STRIP)], 1)
