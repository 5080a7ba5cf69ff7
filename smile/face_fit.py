"""Where the face of a scan is: its rotation and its nose tip, by fitting a smooth analytic mean face.

The mean face is a height map z(x, y), so the closest surface is a table look-up and no search tree is needed (numpy only: the
edge bundle carries this file).

    1. candidates for the nose tip: points that stick out of their surroundings, which does not depend on the pose;
    2. each candidate with several head rolls, pitches and yaws is a start; the best few are fitted coarsely and compared;
    3. the nose tip is the apex of a paraboloid through the skin there, and the rotation is a point-to-surface ICP that holds
       the tip in x and y, with Tukey weights, so that hair, shoulders and an open mouth do not pull.

Named landmarks, where a scan has them, replace steps 1 and 2. Step 3 runs in any case: sites with and without landmarks must
end in the same frame.

Legend: f faces, n sample points, m query points, s poses tried side by side. All lengths in mm.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

SAMPLES = 8000  # points spread over a scan
REACH = 110.0  # mm round a candidate that can belong to its face
MIN_COVERED = 0.65  # share of the mean face that must find scanned surface near it
NOSE_HEIGHT = (10.0, 60.0)  # mm that a nose tip stands above the cheeks beside it
NOSE_COUNTS = 8.0  # extra weight of the nose when poses are compared: a cheek fits a face well but for it
HOLD = 0.05  # weight of the nose tip against one sample while its place is roughly known ...
HOLD_FIRMLY = 1.0  # ... and once it is known
REMEDY = "check that the scan shows a whole face, upright (+y) and looking at the scanner (+z)"

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

# The landmarks used and where they lie on the mean face: x towards the subject's left, y. A name counts as a set of words,
# without order, case and the words of `_FILLERS`, so that `Inner left eye corner` and `left_eye_inner` are the same point.
LANDMARKS = {
    frozenset({"nose"}): (0.0, 0.0),
    frozenset({"left", "eye", "inner"}): (16.0, 32.0),
    frozenset({"right", "eye", "inner"}): (-16.0, 32.0),
    frozenset({"left", "eye", "outer"}): (45.0, 32.0),
    frozenset({"right", "eye", "outer"}): (-45.0, 32.0),
    frozenset({"left", "mouth"}): (26.0, -37.0),
    frozenset({"right", "mouth"}): (-26.0, -37.0),
    frozenset({"chin"}): (0.0, -72.0),
}
_FILLERS = frozenset({"corner", "tip", "middle", "of", "the"})


class Samples(NamedTuple):
    """Points spread evenly over the area of a scan."""

    points: np.ndarray  # (n, 3)
    normals: np.ndarray  # (n, 3) unit, outward
    area: float  # mm2 that each stands for


class Poses(NamedTuple):
    """Rigid motions from the scan to the mean face: q = rotation @ p + shift."""

    rotation: np.ndarray  # (s, 3, 3)
    shift: np.ndarray  # (s, 3)
    tip: np.ndarray  # (s, 3) the point of the scan that is taken for the nose tip
    prominence: np.ndarray  # (s,) mm, how much it sticks out

    def take(self, rows: np.ndarray) -> "Poses":
        return Poses(*(field[rows] for field in self))


def find_face(
    vertices: np.ndarray, faces: np.ndarray, landmarks: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """vertices (v, 3) mm, faces (f, 3), landmarks name -> (3,) mm; upright within about 45 degrees.

    Returns the rotation (3, 3) and the nose tip (3,) of the project frame: q = rotation @ (p - tip). Raises ValueError when
    nothing like a face is found.
    """
    samples = _sample(vertices, faces)
    pose = _from_landmarks(landmarks, vertices) or _search(samples)
    samples = _near(samples, pose.tip[0], count=3000, reach=130.0)
    for kernel in (20.0, 15.0, 15.0):  # mm, beyond which a point is taken for hair, collar or noise
        pose = pose._replace(tip=_apex(vertices, pose)[None])
        pose = _icp(samples, pose, kernels=(kernel,) * 4, hold=HOLD_FIRMLY)
    _check_relief(samples, pose)
    return pose.rotation[0], _apex(vertices, pose)


# --- the mean face ------------------------------------------------------------------------------------------


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


@lru_cache(maxsize=1)
def _table() -> tuple[np.ndarray, int, int]:
    """The mean face on a grid: height, normal (3) and weight as (5, columns * rows), columns, rows.

    The weight is 0 outside the compared ellipse, and so all along the border.
    """
    x = np.arange(-HALF_WIDTH - STEP, HALF_WIDTH + 2 * STEP, STEP)[:, None]
    y = np.arange(BOTTOM - STEP, TOP + 2 * STEP, STEP)[None, :]
    z = mean_face(x, y)
    slope_x, slope_y = np.gradient(z, STEP)
    normal = unit(np.stack([-slope_x, -slope_y, np.ones_like(z)], axis=-1))
    middle, half_height = (TOP + BOTTOM) / 2, (TOP - BOTTOM) / 2
    inside = (x / HALF_WIDTH) ** 2 + ((y - middle) / half_height) ** 2 <= 1
    weight = inside * np.where(y < -22, 0.5, 1.0)  # mouth and jaw move with the expression
    return np.stack([z, *np.moveaxis(normal, -1, 0), weight]).reshape(5, -1), *z.shape


def _compare(q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q (..., 3) -> distance above the mean face (...), its normal there (..., 3), weight (...), 0 beside the face."""
    table, columns, rows = _table()
    i = np.clip(np.rint((q[..., 0] + (HALF_WIDTH + STEP)) / STEP), 0, columns - 1)
    j = np.clip(np.rint((q[..., 1] - (BOTTOM - STEP)) / STEP), 0, rows - 1)
    z, *normal, weight = np.take(table, (i * rows + j).astype(np.intp), axis=1)
    off_x, off_y = q[..., 0] - (i * STEP - HALF_WIDTH - STEP), q[..., 1] - (j * STEP + BOTTOM - STEP)
    above = (q[..., 2] - z) * normal[2] + off_x * normal[0] + off_y * normal[1]
    return above, np.stack(normal, axis=-1), weight


# --- the search ---------------------------------------------------------------------------------------------


def _search(samples: Samples) -> Poses:
    """One pose: the best starts of each candidate, then the best of all, on ever more points."""
    fits = []
    for tip, forward, prominence in _candidates(samples):
        local = _near(samples, tip, count=350)
        starts = _starts(tip, forward, prominence)
        starts = starts.take(np.argsort(-_score(local, starts, kernel=20.0), kind="stable")[:6])
        fits.append(_icp(local, starts, kernels=(30.0, 25.0, 20.0, 20.0), hold=HOLD))
    scores = [_score(_near(samples, fit.tip[0], count=1000), fit, kernel=15.0) for fit in fits]
    poses = Poses(*(np.concatenate(fields) for fields in zip(*fits, strict=True)))
    finals = []
    for row in np.argsort(-np.concatenate(scores), kind="stable")[:3]:
        local = _near(samples, poses.tip[row], count=1200)
        pose = poses.take(np.array([row]))
        pose = _icp(local, pose, kernels=(20.0, 16.0, 12.0, 12.0, 10.0, 10.0), hold=HOLD)
        finals.append((_score(local, pose, kernel=10.0)[0], pose))
    best = max(finals, key=lambda final: final[0])[1]
    return best._replace(tip=_summit(samples, best)[None])


def _candidates(samples: Samples, *, count: int = 8) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Points that may be the nose tip: point (3,), mean normal round it (3,), prominence in mm."""
    support = _thinned(samples, spacing=9.0)
    queries = _thinned(samples, spacing=7.0).points
    forward, prominence = _prominence(queries, support)
    prominence[forward[:, 2] < 0] = -1  # looks away from the scanner
    found = []
    for _ in range(count):
        best = queries[prominence.argmax()]
        closely = samples.points[_squared(samples.points - best) <= 10.0**2]
        forward, exactly = _prominence(closely, support)
        top = exactly.argmax()
        found.append((closely[top], forward[top], max(float(exactly[top]), 0.1)))
        prominence[_squared(queries - best) < 15.0**2] = -1
    return found


def _prominence(queries: np.ndarray, support: Samples) -> tuple[np.ndarray, np.ndarray]:
    """queries (m, 3) -> mean normal within 45 mm (m, 3), height above the centroid of what lies within 35 mm (m,).

    Both turn with the scan, so a nose tip stands out whichever way the head looks.
    """
    queries, points = queries.astype(np.float32), support.points.astype(np.float32)
    distance = _squared(queries)[:, None] + _squared(points) - 2 * queries @ points.T  # squared as well
    forward = unit((distance < 45.0**2).astype(np.float32) @ support.normals.astype(np.float32))
    near = (distance < 35.0**2).astype(np.float32)
    centroid = near @ points / np.maximum(near.sum(1, keepdims=True), 1)
    return forward.astype(np.float64), np.einsum("mk,mk->m", queries - centroid, forward)


def _starts(tip: np.ndarray, forward: np.ndarray, prominence: float) -> Poses:
    """Poses with one nose tip that look along `forward`, more or less."""
    side = unit(np.cross([0.0, 1.0, 0.0], forward))
    rotation = _variants() @ np.stack([side, np.cross(forward, side), forward])
    count = len(rotation)
    return Poses(rotation, -rotation @ tip, np.tile(tip, (count, 1)), np.full(count, prominence))


@lru_cache(maxsize=1)
def _variants() -> np.ndarray:
    """(45, 3, 3): the mean normal is up to 30 degrees off where half of the face is hidden, and says nothing about the roll."""
    angles = np.deg2rad(list(product((-20, 0, 20), (-20, 0, 20), (-40, -20, 0, 20, 40))))
    pitch, yaw, roll = angles.T[:, :, None] * np.eye(3)[:, None, :]
    return _rotations(yaw) @ _rotations(pitch) @ _rotations(roll)


def _score(samples: Samples, poses: Poses, *, kernel: float) -> np.ndarray:
    """(s,) how much surface comes to lie on the mean face with its outside out, the nose above all."""
    q = _place(samples.points, poses)
    above, normal, weight = _compare(q)
    facing = np.einsum("snk,snk->sn", samples.normals @ poses.rotation.transpose(0, 2, 1), normal).clip(0)
    nose = 1 + NOSE_COUNTS * np.exp(-((q[..., 0] / 18) ** 2) - ((q[..., 1] - 8) / 25) ** 2)
    plausible = (poses.rotation[:, 1, 1] > 0.2) & (
        poses.rotation[:, 2, 2] > 0.0
    )  # neither lying nor turned away
    surface = samples.area * (nose * weight * facing * _tukey(above, kernel)).sum(1)
    return surface * np.sqrt(poses.prominence) * plausible


def _summit(samples: Samples, pose: Poses) -> np.ndarray:
    """(3,) where the surface is highest over the nose of the mean face: the candidate itself may be a wing or the bridge."""
    q = _place(samples.points, pose)[0]
    over_nose = np.flatnonzero((np.abs(q) < [12.0, 25.0, 25.0]).all(1))
    if len(over_nose) < 10:
        return pose.tip[0]
    return samples.points[over_nose[np.argsort(-q[over_nose, 2], kind="stable")[:5]]].mean(0)


def _from_landmarks(landmarks: Mapping[str, np.ndarray], vertices: np.ndarray) -> Poses | None:
    """One pose from four or more known landmarks on the surface (Kabsch), else None."""
    words = {name: frozenset(name.lower().replace("_", " ").split()) - _FILLERS for name in landmarks}
    known = [name for name in landmarks if words[name] in LANDMARKS and np.isfinite(landmarks[name]).all()]
    if len({words[name] for name in known}) < 4:
        return None
    points = np.array([landmarks[name] for name in known])
    best: tuple[float, Poses] | None = None
    for whose_left in (1, -1):  # "left" is the subject's in some data sets, the viewer's in others: try both
        x, y = np.array([LANDMARKS[words[name]] for name in known]).T * [[whose_left], [1]]
        target = np.stack([x, y, mean_face(x, y)], axis=1)
        u, _, vt = np.linalg.svd((points - points.mean(0)).T @ (target - target.mean(0)))
        rotation = (u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt).T
        shift = target.mean(0) - rotation @ points.mean(0)
        error = float(np.sqrt(_squared(points @ rotation.T + shift - target).mean()))
        noses = [landmarks[name] for name in known if words[name] == {"nose"}]
        tip = noses[0] if noses else -rotation.T @ shift
        if best is None or error < best[0]:
            best = error, Poses(rotation[None], shift[None], np.array([tip]), np.ones(1))
    assert best is not None
    beside = np.sqrt(_squared(vertices - best[1].tip[0]).min())
    return best[1] if best[0] < 15.0 and beside < 15.0 else None  # else they belong to another mesh: search


# --- the fit ------------------------------------------------------------------------------------------------


def _icp(samples: Samples, poses: Poses, *, kernels: tuple[float, ...], hold: float) -> Poses:
    """One Gauss-Newton step of weighted point-to-surface distances for each kernel width (mm).

    `hold` ties the nose tips to the one of the mean face in x and y; z stays free, because noses differ in length.
    """
    hold = hold * len(samples.points)
    axes = np.broadcast_to(np.eye(3)[:2], (len(poses.tip), 2, 3))
    for kernel in kernels:
        q = _place(samples.points, poses)
        above, normal, weight = _compare(q)
        weight = weight * _tukey(above, kernel)
        tip = np.einsum("sij,sj->si", poses.rotation, poses.tip) + poses.shift
        # How each residual changes with a small turn (3) and a small shift (3).
        rows = np.concatenate([np.cross(q, normal), normal], axis=-1)
        held = np.concatenate([np.cross(tip[:, None, :], axes), axes], axis=-1)
        hessian = (rows * weight[..., None]).transpose(0, 2, 1) @ rows + hold * held.transpose(0, 2, 1) @ held
        gradient = np.einsum("sni,sn->si", rows, weight * above)
        gradient += hold * np.einsum("sai,sa->si", held, tip[:, :2])
        hessian += np.diag([1e3, 1e3, 1e3, 1.0, 1.0, 1.0])  # a pose without any overlap stays where it is
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        change = _rotations(step[:, :3].clip(-0.3, 0.3))
        shift = np.einsum("sij,sj->si", change, poses.shift) + step[:, 3:]
        poses = poses._replace(rotation=change @ poses.rotation, shift=shift)
    return poses


def _apex(vertices: np.ndarray, pose: Poses) -> np.ndarray:
    """The nose tip (3,) in the scan's frame, as the pose sees it: the apex of a paraboloid through the skin near `tip`.

    The highest vertex itself would jump with the noise.
    """
    rotation, guess = pose.rotation[0], pose.tip[0]
    q = (vertices[_squared(vertices - guess) < 25.0**2] - guess) @ rotation.T
    apex = np.zeros(3)
    for _ in range(4):
        x, y, z = (q - apex).T
        weight = np.exp(-(x**2 + y**2) / (4 * 6.0**2)) * (np.abs(z) < 10)  # root of a Gaussian 6 mm wide
        if (weight > 0.3).sum() < 8:
            break  # a hole: the guess stays
        terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1) * weight[:, None]
        level, slope_x, slope_y, xx, xy, yy = np.linalg.lstsq(terms, z * weight, rcond=None)[0]
        curvature = np.array([[2 * xx, xy], [xy, 2 * yy]])
        if np.linalg.eigvalsh(curvature)[1] > -0.01:
            break  # not a summit
        move = np.clip(-np.linalg.solve(curvature, [slope_x, slope_y]), -4, 4)
        apex = apex + np.array([*move, level + np.dot([slope_x, slope_y], move) / 2])
    return guess + rotation.T @ apex


def _check_relief(samples: Samples, pose: Poses) -> None:
    """Raises ValueError unless the surface under the mean face looks like a face."""
    q = _place(samples.points, pose)[0]
    above, _, weight = _compare(q)
    cells = np.stack(np.meshgrid(np.arange(-55.0, 60, 10), np.arange(-75.0, 80, 10)), axis=-1).reshape(-1, 2)
    expected = (_compare(np.column_stack([cells, np.zeros(len(cells))]))[2] > 0).sum()
    found = len(np.unique(np.floor(q[(weight > 0) & (np.abs(above) < 12), :2] / 10), axis=0))
    if found < MIN_COVERED * expected:
        raise ValueError(
            f"nothing like a face was found: {found / expected:.0%} of the relief of a face is there "
            f"({MIN_COVERED:.0%} needed): {REMEDY}"
        )
    nose = q[(q[:, 0] ** 2 + q[:, 1] ** 2 < 8.0**2) & (np.abs(above) < 20), 2]
    level = (np.abs(q[:, 1] + 5) < 15) & (np.abs(above) < 20)
    cheeks = [q[level & (np.abs(q[:, 0] - x) < 12), 2] for x in (-35, 35)]
    heights = [float(np.median(nose) - np.median(cheek)) for cheek in cheeks if len(nose) and len(cheek)]
    height = min(heights, default=0.0)  # a tilted plane is lower on one side only
    if not NOSE_HEIGHT[0] <= height <= NOSE_HEIGHT[1]:
        raise ValueError(
            f"nothing like a face was found: the nose would stand {height:.0f} mm above the cheeks "
            f"({NOSE_HEIGHT[0]:.0f} to {NOSE_HEIGHT[1]:.0f} expected): {REMEDY}"
        )


# --- samples and small tools --------------------------------------------------------------------------------


def _sample(vertices: np.ndarray, faces: np.ndarray) -> Samples:
    """Centres of faces at equal steps of the running area: repeatable, and the same wherever the scan is turned."""
    weighted = weighted_normals(vertices, faces)
    running = np.cumsum(np.sqrt(_squared(weighted)))
    if not running[-1] > 0:
        raise ValueError("the faces of the scan have no area: export it again")
    pick = np.searchsorted(running, (np.arange(SAMPLES) + 0.5) / SAMPLES * running[-1])
    points, normals = vertices[faces[pick]].mean(1), unit(weighted[pick])
    # The outside of a cap, and of a closed head, looks away from the centroid on the whole.
    outward = ((points - points.mean(0)) * normals).sum() >= 0
    return Samples(points, normals if outward else -normals, running[-1] / 2 / SAMPLES)


def _thinned(samples: Samples, *, spacing: float) -> Samples:
    stride = max(1, round(spacing**2 / samples.area))
    return Samples(samples.points[::stride], samples.normals[::stride], samples.area * stride)


def _near(samples: Samples, centre: np.ndarray, *, count: int, reach: float = REACH) -> Samples:
    """At most `count` samples within `reach` mm of a point."""
    rows = np.flatnonzero(_squared(samples.points - centre) < reach**2)
    stride = max(1, -(-len(rows) // count))
    return Samples(samples.points[rows[::stride]], samples.normals[rows[::stride]], samples.area * stride)


def weighted_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(f, 3): normals of the faces as they are wound, as long as twice their area."""
    a, b, c = (np.take(vertices, faces[:, corner], axis=0) for corner in range(3))
    return np.cross(b - a, c - a)


def unit(vectors: np.ndarray) -> np.ndarray:
    """vectors (..., 3) -> unit length; a zero vector stays zero."""
    return vectors / np.maximum(np.sqrt(_squared(vectors)), 1e-12)[..., None]


def _squared(vectors: np.ndarray) -> np.ndarray:
    """vectors (..., 3) -> squared lengths (...); numpy's own sum over so short an axis takes five times as long."""
    return np.einsum("...k,...k->...", vectors, vectors)


def _place(points: np.ndarray, poses: Poses) -> np.ndarray:
    """points (n, 3) -> (s, n, 3)"""
    return points @ poses.rotation.transpose(0, 2, 1) + poses.shift[:, None, :]


def _tukey(distance: np.ndarray, kernel: float) -> np.ndarray:
    return np.clip(1 - (distance / kernel) ** 2, 0, None) ** 2


def _rotations(vectors: np.ndarray) -> np.ndarray:
    """Rotation vectors (s, 3) in radians -> (s, 3, 3), by Rodrigues."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    k = np.zeros((len(vectors), 3, 3))
    k[:, [2, 0, 1], [1, 2, 0]], k[:, [1, 2, 0], [2, 0, 1]] = vectors, -vectors
    return np.eye(3) + np.sinc(angle / np.pi) * k + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (k @ k)
