"""The mesh of the average face: one topology that every face of `faces.py` shares.

Rings of vertices follow the lids and the lips, a graded lattice fills the rest, and the mouth and the eyes are real
openings. Eyeballs, teeth and the mouth's inside are parts of their own. Frame as in `face_surface.py`.
Legend: v vertices, f faces, n points, k corners of a polygon.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .face_surface import (
    EYE,
    EYE_RADII,
    MOUTH_HALF,
    MOUTH_Y,
    eye_height,
    loft,
    lower_border,
    lower_lid,
    mouth_line,
    sculpt,
    unroll,
    upper_border,
    upper_lid,
)

EYE_COUNT, MOUTH_COUNT = 56, 88  # vertices round an eye and round the mouth


@dataclass(frozen=True, eq=False)
class Template:
    """The average face, open-eyed and with closed lips."""

    vertices: np.ndarray  # (v, 3) float64, mm
    faces: np.ndarray  # (f, 3) int64, counter-clockwise from outside
    flat: (
        np.ndarray
    )  # (v, 2) float64, mm: where a vertex lies on the unrolled skin, or on its part's own sheet
    part: (
        np.ndarray
    )  # (v,) int: 0 skin, 1 left eyeball, 2 right eyeball, 3 upper teeth, 4 lower teeth, 5 cavity
    upper: np.ndarray  # (v,) bool: above the line where the lips meet
    margin: (
        np.ndarray
    )  # (v,) int: the vertex whose displacement a hidden inner vertex copies; itself elsewhere


def _eye_loop(count: int) -> np.ndarray:
    """The left lid margin as a closed loop (count, 2) in (x, y), counter-clockwise from the inner canthus' lower lid."""
    t = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, count // 2 + 1))
    x = 17.2 + 29.0 * t
    return np.concatenate([np.stack([x, lower_lid(x)], 1)[:-1], np.stack([x, upper_lid(x)], 1)[::-1][:-1]])


def _mouth_loop(count: int, outward: float) -> np.ndarray:
    """A loop round the mouth: 0 the slit (held open a little, so that it has two sides), 1 the border of the red."""
    s = -np.cos(np.linspace(0, np.pi, count // 2 + 1))
    x = s * (MOUTH_HALF + 2.0 * outward)
    line, gap = mouth_line(x), 0.9 * np.sqrt(np.maximum(1 - s**2, 0))
    lower = line - gap + outward * (lower_border(x) - line + gap)
    upper = line + gap + outward * (upper_border(x) - line - gap)
    lower[[0, -1]] = upper[[0, -1]] = line[[0, -1]] + 1e-6  # both corners belong to the upper lip
    return np.concatenate([np.stack([x, lower], 1)[:-1], np.stack([x, upper], 1)[::-1][:-1]])


def _grown(loop: np.ndarray, amount: float, towards: tuple[float, float]) -> np.ndarray:
    """A loop moved outward by `amount` mm along its normals."""
    tangent = np.roll(loop, -1, 0) - np.roll(loop, 1, 0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    radial = loop - np.array(towards)
    radial /= np.linalg.norm(radial, axis=1, keepdims=True)
    blend = 0.75 * normal + 0.25 * radial
    return loop + amount * blend / np.linalg.norm(blend, axis=1, keepdims=True)


def _spaced(knots: list[tuple[float, float]]) -> np.ndarray:
    """Positions from the first knot to the last whose spacing follows (position, spacing) knots."""
    at, spacing = np.array(knots).T
    fine = np.linspace(at[0], at[-1], 2000)
    count = np.concatenate([[0], np.cumsum(np.diff(fine) / np.interp(fine[1:], at, spacing))])
    return np.interp(np.linspace(0, count[-1], round(count[-1]) + 1), count, fine)


def _background(rings: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """Lattice points of the flat skin, symmetric, away from the ring points and outside the holes."""
    from scipy.spatial import cKDTree

    columns = _spaced([(0, 1.5), (50, 1.8), (70, 3.2), (109, 5.0)])
    rows = _spaced([(-134, 6.0), (-90, 3.2), (-55, 1.9), (-10, 1.5), (50, 1.7), (64, 2.6), (130, 5.0)])
    half = np.stack(np.meshgrid(columns, rows), -1)
    half[1::2, 1:, 0] = 0.5 * (half[1::2, 1:, 0] + half[1::2, :-1, 0])  # staggered rows: better triangles
    half = half.reshape(-1, 2)
    near = cKDTree(rings[rings[:, 0] >= -2]).query(half)[0]
    keep = near > 1.05
    for hole in holes:
        keep &= ~_inside(half, hole)
    half = half[keep]
    return np.concatenate([half, half[half[:, 0] > 0] * [-1, 1]])


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Even-odd test of points (n, 2) against a closed polygon (k, 2)."""
    a, b = polygon[None], np.roll(polygon, -1, 0)[None]
    x, y = points[:, :1], points[:, 1:]
    crosses = (a[..., 1] > y) != (b[..., 1] > y)
    slope = np.where(a[..., 1] == b[..., 1], 1.0, b[..., 1] - a[..., 1])
    return (crosses & (x < a[..., 0] + (y - a[..., 1]) * (b[..., 0] - a[..., 0]) / slope)).sum(1) % 2 == 1


def _strip(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Triangles between two closed loops of vertex indices, the second one further inside."""
    a, b, c, d = first, np.roll(first, -1), np.roll(second, -1), second
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles of a grid whose row 0 is the highest and column 0 the leftmost, seen from +z."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (
        index[:-1, :-1].ravel(),
        index[1:, :-1].ravel(),
        index[1:, 1:].ravel(),
        index[:-1, 1:].ravel(),
    )
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


@lru_cache(maxsize=1)
def template() -> Template:
    """Build the average face; a fraction of a second, once a process."""
    from scipy.spatial import Delaunay

    left = _eye_loop(EYE_COUNT)
    right = (left * [-1, 1])[::-1]
    slit = _mouth_loop(MOUTH_COUNT, 0.0)
    rings = [slit, left, right]
    rings += [_mouth_loop(MOUTH_COUNT, f) for f in (0.2, 0.45, 0.72, 1.0, 1.3)]
    for amount in (0.9, 2.0, 3.3, 4.8):
        grown = _grown(left, amount, (EYE[0], EYE[1]))
        rings += [grown, (grown * [-1, 1])[::-1]]
    flat_rings = unroll(np.concatenate(rings))
    cuts = np.cumsum([0] + [len(r) for r in rings])
    outer = [flat_rings[cuts[8] : cuts[9]], flat_rings[cuts[-3] : cuts[-2]], flat_rings[cuts[-2] : cuts[-1]]]
    flat = np.concatenate([flat_rings, _background(flat_rings, outer)])
    faces = Delaunay(flat).simplices.astype(np.int64)
    a, b, c = flat[faces[:, 0]], flat[faces[:, 1]], flat[faces[:, 2]]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    faces[area < 0] = faces[area < 0][:, ::-1]
    hole = np.zeros(len(faces), dtype=bool)
    for start in range(3):
        hole |= _inside((a + b + c) / 3, flat_rings[cuts[start] : cuts[start + 1]])
    faces = faces[~hole & (np.abs(area) > 1e-4)]
    vertices, upper = _skin_vertices(flat)
    pieces = [(vertices, faces, flat, 0, upper, np.arange(len(flat)))]
    pieces += _rims(pieces[0], [np.arange(cuts[i], cuts[i + 1]) for i in range(3)])
    start = sum(len(piece[0]) for piece in pieces)
    for v, f, uv, part in (_eyeball(1), _eyeball(-1), _teeth(1), _teeth(-1)):
        pieces.append((v, f + start, uv, part, np.full(len(v), part == 3), np.arange(start, start + len(v))))
        start += len(v)
    return Template(
        vertices=np.concatenate([p[0] for p in pieces]),
        faces=np.concatenate([p[1] for p in pieces]),
        flat=np.concatenate([p[2] for p in pieces]),
        part=np.concatenate([np.full(len(p[0]), p[3]) for p in pieces]),
        upper=np.concatenate([p[4] for p in pieces]),
        margin=np.concatenate([p[5] for p in pieces]),
    )


def _skin_vertices(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat skin coordinates -> the average face, the slit between the lips closed; and what lies above the slit."""
    base = loft(flat)
    x, y = base[:, 0], base[:, 1]
    line = mouth_line(x)
    above = y > line
    up = np.clip((y - line) / np.maximum(upper_border(x) - line, 0.8), 0, 1)
    low = np.clip((line - y) / np.maximum(line - lower_border(x), 0.8), 0, 1)
    gap = 1.25 * np.sqrt(np.maximum(1 - (x / MOUTH_HALF) ** 2, 0))  # 0.9 closes the slit; lips press a little
    base[:, 1] += gap * np.where(above, -((1 - up) ** 2), (1 - low) ** 2)
    base[:, 2] = sculpt(base)
    return base, above


def _rims(skin: tuple, loops: list[np.ndarray]) -> list[tuple]:
    """What hangs on the openings: the lips' inside and the pouch of the mouth, the thickness of the lids."""
    vertices, flat, upper = skin[0], skin[2], skin[4]
    slit = loops[0]
    half = MOUTH_COUNT // 2
    sign = np.where(upper[slit], 1.0, -1.0) * np.sqrt(
        np.maximum(1 - (flat[slit, 0] / flat[slit[half], 0]) ** 2, 0)
    )
    pieces, total = [], len(vertices)

    def ring(back: float, spread: float) -> np.ndarray:
        v = vertices[slit] + np.stack([0 * sign, spread * sign, 0 * sign - back], 1)
        v[:, 0] *= 1 - min(0.01 * back, 0.25)
        return v

    before = slit
    for back, spread in ((1.5, 0.2), (4.5, 2.0), (9.0, 4.0)):
        here = np.arange(total, total + len(slit))
        pieces.append((ring(back, spread), _strip(before, here), flat[slit], 0, upper[slit], slit))
        total, before = total + len(slit), here
    # The pouch has a picture of its own: roof at -12, floor at -56. It goes over the teeth and round behind them.
    rows = [(9.0, 4.0, 22.0), (10.0, 13.0, 20.0), (42.0, 15.0, 8.0)]
    v = np.concatenate([ring(back, spread) for back, spread, _ in rows] + [[[0.0, MOUTH_Y, -62.0]]])
    sheet = [np.stack([vertices[slit, 0], -34 + height * sign], 1) for _, _, height in rows]
    index = np.arange(total, total + len(slit) * len(rows)).reshape(len(rows), -1)
    cap = np.stack([index[2], np.roll(index[2], -1), np.full(len(slit), total + len(v) - 1)], 1)
    faces = np.concatenate([_strip(index[0], index[1]), _strip(index[1], index[2]), cap])
    follows = np.append(np.tile(slit, len(rows)), slit[0])
    pieces.append((v, faces, np.concatenate([*sheet, [[0.0, -34.0]]]), 5, upper[follows], follows))
    total += len(v)
    for loop in loops[1:]:
        v = vertices[loop].copy()
        v[:, 2] = eye_height(np.abs(v[:, 0]), v[:, 1], 0.985)
        here = np.arange(total, total + len(v))
        pieces.append((v, _strip(loop, here), flat[loop], 0, upper[loop], loop))
        total += len(v)
    return pieces


def _eyeball(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The front of one eyeball: rings round the axis that points out of the face."""
    radius = np.linspace(0.985, 0.0, 11)[:-1, None]
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)[None]
    dx = np.append((radius * np.cos(angle)).ravel() * EYE_RADII[0], 0.0)
    dy = np.append((radius * np.sin(angle)).ravel() * EYE_RADII[1], 0.0)
    z = eye_height(EYE[0] + dx, EYE[1] + dy, 1.0)
    loops = np.arange(400).reshape(10, 40)
    faces = np.concatenate(
        [_strip(loops[i], loops[i + 1]) for i in range(9)]
        + [np.stack([loops[9], np.roll(loops[9], -1), np.full(40, 400)], 1)]
    )
    if side < 0:
        faces = faces[:, ::-1]
    v = np.stack([side * (EYE[0] + dx), EYE[1] + dy, z], 1)
    return v, faces, np.stack([side * dx, dy], 1), 1 if side > 0 else 2


def _teeth(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """A curved strip: gum and teeth of one jaw; its biting edge meets the other one's at the mouth line."""
    x = np.linspace(-25, 25, 41)
    rise = np.linspace(0, 1, 7)
    top, bottom = (MOUTH_Y + 11, MOUTH_Y - 1.0) if side > 0 else (MOUTH_Y - 0.8, MOUTH_Y - 12)
    xx, rr = np.meshgrid(x, rise)
    y = top + (bottom - top) * rr
    inward = 1.2 if side > 0 else 2.4
    v = np.stack([xx, y, -20.5 - inward - xx**2 / 25], axis=-1).reshape(-1, 3)
    return v, _grid_faces(7, 41), np.stack([xx.ravel(), y.ravel()], 1), 3 if side > 0 else 4
