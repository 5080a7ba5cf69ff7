"""Any face scan -> the project frame: mm, the face looks along +z, +y up, origin at the nose tip, cropped to a sphere.

numpy only, because the edge bundle carries this file. The pose comes from fitting a smooth analytic mean face to the scan.
The mean face is a height map z(x, y), so the closest surface is a table look-up and no search tree is needed:

    1. candidates for the nose tip: points that stick out of their surroundings, which does not depend on the pose;
    2. each candidate with several head rolls and pitches is a start; a coarse fit ranks them and the best are refined;
    3. the nose tip is the apex of a paraboloid through the skin there, and the rotation is a point-to-surface ICP that holds
       the tip in x and y, with Tukey weights, so that hair, shoulders and an open mouth do not pull.

Named landmarks, where a scan has them, replace steps 1 and 2. Step 3 runs in any case: sites with and without landmarks must
end in the same frame.

Legend: v vertices, f faces, n sample points, s poses tried side by side. All lengths in mm.
"""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .scans.scan import Scan, Texture

UNITS = (("millimetres", 1.0, 100.0, 1200.0), ("centimetres", 10.0, 10.0, 60.0), ("metres", 1000.0, 0.1, 1.2))
YAWS = (-20, 0, 20)
SAMPLES = 8000  # points of the scan that are fitted
MIN_VERTICES = 200  # of a crop
MIN_COVERED = 0.6  # share of the mean face that must find scanned surface near it
NOSE_HEIGHT = (8.0, 60.0)  # mm that a nose tip stands above the cheeks beside it
LANDMARK_MARGIN = (
    1.3  # landmarks are kept up to this many radii: the chin of a long face lies just outside the crop
)

STEP = 2.0  # mm, grid of the mean face
HALF_WIDTH, BOTTOM, TOP = 62.0, -78.0, 82.0  # mm, the ellipse of the mean face that is compared
HOLD = 0.05  # weight of the nose tip against one sample point, while its position is only roughly known ...
HOLD_FIRMLY = 1.0  # ... and once it is known

# Names of the points used, as sets of words without order or case, and where they lie on the mean face (x is to the subject's
# left). Data sets disagree on whose left "left" is; `_from_landmarks` finds out.
LANDMARKS = {
    frozenset({"nose", "tip"}): (0, 0),
    frozenset({"left", "inner", "eye", "corner"}): (16, 32),
    frozenset({"right", "inner", "eye", "corner"}): (-16, 32),
    frozenset({"left", "outer", "eye", "corner"}): (45, 32),
    frozenset({"right", "outer", "eye", "corner"}): (-45, 32),
    frozenset({"left", "mouth", "corner"}): (26, -37),
    frozenset({"right", "mouth", "corner"}): (-26, -37),
    frozenset({"chin"}): (0, -72),
    frozenset({"chin", "middle"}): (0, -72),
    frozenset({"chin", "tip"}): (0, -72),
}


class Poses(NamedTuple):
    """Rigid motions from the scan to the mean face: q = rotation @ p + shift."""

    rotation: np.ndarray  # (s, 3, 3)
    shift: np.ndarray  # (s, 3)
    tip: np.ndarray  # (s, 3) the point of the scan that is taken for the nose tip
    trust: np.ndarray  # (s,) how much it sticks out

    def take(self, rows) -> "Poses":
        return Poses(*(field[rows] for field in self))


class Samples(NamedTuple):
    """Points spread evenly over the area of a scan."""

    points: np.ndarray  # (n, 3)
    normals: np.ndarray  # (n, 3) unit, outward
    area: float  # mm2 each stands for


def align(scan: Scan, *, radius: float) -> Scan:
    """Moves a scan to the project frame and keeps what lies within `radius` mm of the nose tip.

    Colours, texture coordinates and landmarks are carried along; metres and centimetres become millimetres. Expects the scan
    roughly upright (+y) and towards the scanner (+z), within about 45 degrees. Raises ValueError with the value and the remedy
    when the size is implausible, when nothing like a face is found, or when too little of it is there.
    """
    scan = _to_millimetres(_finite(scan))
    samples = _sample(scan)
    poses = _from_landmarks(scan)
    poses = _search(samples) if poses is None else poses
    samples = _near(samples, poses.tip[0], count=4000, within=130.0)
    for kernel in (20.0, 15.0, 15.0):  # mm, beyond which a point is taken for hair, collar or noise
        poses = poses._replace(tip=_apex(scan.vertices, poses)[None])
        poses = _icp(samples, poses, kernels=(kernel,) * 4, hold=HOLD_FIRMLY)
    _check_relief(samples, poses)
    rotation, tip = poses.rotation[0], _apex(scan.vertices, poses)
    near = {
        name: p for name, p in scan.landmarks.items() if np.linalg.norm(p - tip) <= LANDMARK_MARGIN * radius
    }
    moved = replace(
        scan,
        vertices=(scan.vertices - tip) @ rotation.T,
        landmarks={name: rotation @ (p - tip) for name, p in near.items()},
    )
    return _crop(_outside_out(moved), radius)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """vertices (v, 3), faces (f, 3) -> (v, 3) float64 unit normals, weighted by area, outward as the faces are wound.

    A vertex without any area around it gets (0, 0, 1), the direction of the scanner.
    """
    weighted = _cross(vertices, faces)  # as long as twice the area
    normals = np.stack(
        [
            np.bincount(faces.ravel(), weights=weighted[:, axis].repeat(3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    return np.where((normals != 0).any(1, keepdims=True), _unit(normals), [0.0, 0.0, 1.0])


# --- the mean face --------------------------------------------------------------------------------------------------------


def mean_face(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height z (mm) of an average adult face over (x, y) mm, nose tip at the origin; made of smooth functions only.

    The numbers are ours: round figures near the averages of classical anthropometry (eye corners 32 and 90 mm apart, nose
    50 mm long and 20 mm deep, mouth 52 mm wide, lower face 70 mm, face 138 mm wide). No scan and no data set went into them.
    """
    y = y + 3.0  # the sum below peaks at y = 3
    z = 75.0 * np.sqrt(np.clip(1 - (x / 74) ** 2, 0.02, None)) - 97.0  # the head from ear to ear
    z = (
        z - np.clip(y - 40, 0, None) ** 2 / 150 - np.clip(-60 - y, 0, None) ** 2 / 60
    )  # forehead and chin recede
    for height, centre_x, centre_y, width_x, width_y in (
        (22.0, 0, 0, 11, 13),
        (11.0, 0, 13, 8, 12),
        (6.0, 0, 26, 8, 12),
        (7.0, 13, -4, 6, 7),  # nose: tip, ridge, wings
        (-9.0, 31, 36, 14, 10),
        (-5.0, 15, 36, 6, 8),
        (4.0, 31, 35, 10, 6),  # eyes: socket, inner corner, ball
        (5.0, 28, 53, 22, 9),
        (4.0, 0, 55, 14, 14),
        (6.0, 42, 8, 18, 20),  # brows, glabella, cheeks
        (7.0, 0, -25, 24, 14),
        (4.0, 0, -28, 18, 5),
        (4.0, 0, -38, 15, 5),
        (-3.0, 0, -33, 22, 3),  # muzzle and lips
        (-3.0, 0, -50, 22, 7),
        (6.0, 0, -63, 20, 12),  # the fold below the lip, chin
    ):
        for side in (1, -1) if centre_x else (1,):
            z = z + height * np.exp(
                -(((x - side * centre_x) / width_x) ** 2) - ((y - centre_y) / width_y) ** 2
            )
    return z - 4.7  # so that the peak is at z = 0


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """(columns, rows, 4) over x, y: height, slope in x, slope in y, weight (0 outside the compared ellipse)."""
    x = np.arange(-HALF_WIDTH - STEP, HALF_WIDTH + 2 * STEP, STEP)[:, None]
    y = np.arange(BOTTOM - STEP, TOP + 2 * STEP, STEP)[None, :]
    z = mean_face(x, y)
    middle, half_height = (TOP + BOTTOM) / 2, (TOP - BOTTOM) / 2
    inside = (x / HALF_WIDTH) ** 2 + ((y - middle) / half_height) ** 2 <= 1
    weight = inside * np.where(y < -22, 0.5, 1.0)  # mouth and jaw move with the expression
    return np.stack([z, *np.gradient(z, STEP), weight], axis=-1)


def _compare(q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q (..., 3) -> distance above the mean face (...), its normals (..., 3), weights (...), 0 where q is not over the face."""
    table = _table()
    i, j = np.rint((q[..., 0] + HALF_WIDTH + STEP) / STEP), np.rint((q[..., 1] - BOTTOM + STEP) / STEP)
    known = (i >= 0) & (i < table.shape[0]) & (j >= 0) & (j < table.shape[1])
    i, j = np.where(known, i, 0).astype(np.intp), np.where(known, j, 0).astype(np.intp)
    z, slope_x, slope_y, weight = np.moveaxis(table[i, j], -1, 0)
    off_x, off_y = q[..., 0] - (i * STEP - HALF_WIDTH - STEP), q[..., 1] - (j * STEP + BOTTOM - STEP)
    steepness = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    above = (q[..., 2] - z - slope_x * off_x - slope_y * off_y) * steepness
    return (
        above,
        np.stack([-slope_x, -slope_y, np.ones_like(z)], axis=-1) * steepness[..., None],
        weight * known,
    )


# --- the pose -------------------------------------------------------------------------------------------------------------


def _search(samples: Samples) -> Poses:
    """One pose: for each candidate the best start, then the best candidate, on ever more points."""
    candidates = _candidates(samples)
    finals = []
    for tip, forward, trust in candidates:
        local = _near(samples, tip, count=350)
        starts = _starts(tip, forward, trust)
        starts = starts.take(np.argsort(-_score(local, starts, kernel=20.0), kind="stable")[:6])
        finals.append(_icp(local, starts, kernels=(30.0, 25.0, 20.0, 20.0), hold=HOLD))
    poses = Poses(*(np.concatenate(field) for field in zip(*finals, strict=True)))
    scores = np.concatenate([_score(_near(samples, f.tip[0], count=1000), f, kernel=15.0) for f in finals])
    best = None
    for row in np.argsort(-scores, kind="stable")[:3]:
        local = _near(samples, poses.tip[row], count=1200)
        pose = _icp(local, poses.take([row]), kernels=(20.0, 16.0, 12.0, 12.0, 10.0, 10.0), hold=HOLD)
        score = _score(local, pose, kernel=10.0)[0]
        if best is None or score > best[0]:
            best = score, pose
    pose = best[1]
    # A wing of the nose may win the fit; what sticks out most near the nose is the tip.
    tips = np.array([c[0] for c in candidates])
    q = _place(tips, pose)[0]
    on_nose = np.flatnonzero((np.abs(q[:, 0]) < 15) & (np.abs(q[:, 1]) < 25))
    return pose._replace(tip=tips[on_nose[:1]]) if len(on_nose) else pose


def _near(samples: Samples, centre: np.ndarray, *, count: int, within: float = 110.0) -> Samples:
    rows = np.flatnonzero(((samples.points - centre) ** 2).sum(1) < within**2)
    stride = max(1, -(-len(rows) // count))
    rows = rows[::stride]
    return Samples(samples.points[rows], samples.normals[rows], samples.area * stride)


def _prominence(queries, support):
    points = support.points.astype(np.float32)
    queries = queries.astype(np.float32)
    distance = (queries**2).sum(1)[:, None] + (points**2).sum(1) - 2 * queries @ points.T
    within = (distance < 35.0**2).astype(np.float32)
    forward = _unit((distance < 45.0**2).astype(np.float32) @ support.normals.astype(np.float32))
    prominence = ((queries - within @ points / np.maximum(within.sum(1, keepdims=True), 1)) * forward).sum(1)
    return forward.astype(np.float64), prominence


def _candidates(samples: Samples, *, count: int = 8) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Nose-tip candidates, the most prominent first: point (3,), mean normal (3,), prominence in mm."""
    support = Samples(samples.points[::4], samples.normals[::4], 0)
    queries = samples.points[::8]
    forward, prominence = _prominence(queries, support)
    prominence[forward[:, 2] < 0.1] = -1  # looks away from the scanner
    found = []
    for _ in range(count):
        best = prominence.argmax()
        around = samples.points[((samples.points - queries[best]) ** 2).sum(1) <= 10.0**2]
        closer, stronger = _prominence(around, support)
        exact = stronger.argmax()
        found.append((around[exact], closer[exact], float(max(stronger[exact], 0.1))))
        prominence[((queries - queries[best]) ** 2).sum(1) < 15.0**2] = -1
    return sorted(found, key=lambda candidate: -candidate[2])


def _starts(tip, forward, trust) -> Poses:
    """Candidates for the nose tip x head rolls x pitches; the yaw follows from the mean normal round the candidate."""
    side = _unit(np.cross([0.0, 1.0, 0.0], forward))
    upright = np.stack([side, np.cross(forward, side), forward])
    rotation = np.array([turn(yaw, "y") @ turn(pitch, "x") @ turn(roll, "z") @ upright for yaw in YAWS
                         for pitch in (-20, 0, 20) for roll in (-40, -20, 0, 20, 40)])
    n = len(rotation)
    return Poses(rotation, -rotation @ tip, np.tile(tip, (n, 1)), np.full(n, trust))


def _score(samples: Samples, poses: Poses, *, kernel: float) -> np.ndarray:
    above, normal, weight = _compare(_place(samples.points, poses))
    facing = (samples.normals @ poses.rotation.transpose(0, 2, 1) * normal).sum(-1).clip(0)
    return samples.area * (weight * facing * _tukey(above, kernel)).sum(1) * np.sqrt(poses.trust)


def _icp(samples: Samples, poses: Poses, *, kernels: tuple[float, ...], hold: float) -> Poses:
    """One Gauss-Newton step of weighted point-to-surface distances for each kernel width (mm).

    `hold` ties the poses' nose tips to the one of the mean face in x and y; z stays free, because noses differ in length.
    """
    count = len(samples.points)
    for kernel in kernels:
        q = _place(samples.points, poses)
        above, normal, weight = _compare(q)
        weight = weight * _tukey(above, kernel)
        tip = np.einsum("sij,sj->si", poses.rotation, poses.tip) + poses.shift
        axes = np.broadcast_to(np.eye(3)[:2], (len(tip), 2, 3))
        # Rows of the least-squares problem: the change of each residual with a small turn and a small shift.
        rows = np.concatenate([np.cross(q, normal), normal], axis=-1)
        held = np.concatenate([np.cross(tip[:, None, :], axes), axes], axis=-1)
        hessian = (rows * weight[..., None]).transpose(0, 2, 1) @ rows + hold * count * held.transpose(
            0, 2, 1
        ) @ held
        gradient = np.einsum("sni,sn->si", rows, weight * above) + hold * count * np.einsum(
            "sai,sa->si", held, tip[:, :2]
        )
        hessian += np.diag([1e3, 1e3, 1e3, 1.0, 1.0, 1.0])  # a pose without any overlap stays where it is
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        change = _rotations(step[:, :3].clip(-0.3, 0.3))
        poses = poses._replace(
            rotation=change @ poses.rotation, shift=np.einsum("sij,sj->si", change, poses.shift) + step[:, 3:]
        )
    return poses


def _apex(vertices: np.ndarray, poses: Poses) -> np.ndarray:
    """The nose tip (3,) in the scan's frame, seen along the first pose: the apex of a paraboloid through the skin near `tip`.

    The highest vertex itself would jump with the noise.
    """
    rotation, guess = poses.rotation[0], poses.tip[0]
    q = (vertices[((vertices - guess) ** 2).sum(1) < 25.0**2] - guess) @ rotation.T
    apex = np.zeros(3)
    for _ in range(4):
        x, y, z = (q - apex).T
        weight = np.exp(-(x**2 + y**2) / (4 * 6.0**2)) * (np.abs(z) < 10)  # root of a Gaussian, 6 mm wide
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


def _from_landmarks(scan: Scan) -> Poses | None:
    """One pose from four or more known landmarks near the surface (Kabsch), or None."""
    pairs = [
        (LANDMARKS[words], point)
        for name, point in scan.landmarks.items()
        if (words := frozenset(name.lower().replace("_", " ").split())) in LANDMARKS
        and np.isfinite(point).all()
    ]
    if len(pairs) < 4:
        return None
    places, points = (
        np.array([place for place, _ in pairs], dtype=float),
        np.array([point for _, point in pairs]),
    )
    best: tuple[float, Poses] | None = None
    for whose_left in (1, -1):
        x, y = places[:, 0] * whose_left, places[:, 1]
        target = np.stack([x, y, mean_face(x, y)], axis=1)
        u, _, vt = np.linalg.svd((points - points.mean(0)).T @ (target - target.mean(0)))
        rotation = (u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt).T
        shift = target.mean(0) - rotation @ points.mean(0)
        error = float(np.sqrt(((points @ rotation.T + shift - target) ** 2).sum(1).mean()))
        if best is None or error < best[0]:
            named = [point for place, point in pairs if place == (0, 0)]
            tip = named[0] if named else -rotation.T @ shift
            best = error, Poses(rotation[None], shift[None], tip[None], np.ones(1))
    assert best is not None
    error, poses = best
    off_surface = np.sqrt(((scan.vertices - poses.tip[0]) ** 2).sum(1).min())
    return (
        poses if error < 15.0 and off_surface < 15.0 else None
    )  # else they belong to another mesh: do not trust them


def _check_relief(samples: Samples, poses: Poses) -> None:
    """Raises ValueError unless the surface under the mean face looks like a face."""
    q = _place(samples.points, poses)[0]
    above, _, weight = _compare(q)
    cells = np.stack(np.meshgrid(np.arange(-55.0, 60, 10), np.arange(-75.0, 80, 10)), axis=-1).reshape(-1, 2)
    cells = cells[_compare(np.column_stack([cells, np.zeros(len(cells))]))[2] > 0]
    found = np.unique(np.floor(q[(weight > 0) & (np.abs(above) < 12)][:, :2] / 10), axis=0)
    covered = len(found) / len(cells)
    if covered < MIN_COVERED:
        raise ValueError(
            f"nothing like a face was found: {covered:.0%} of the relief of a face is there ({MIN_COVERED:.0%} needed): check that "
            "the scan shows a whole face, upright (+y) and looking at the scanner (+z)"
        )
    beside = (np.abs(np.abs(q[:, 0]) - 35) < 12) & (np.abs(q[:, 1] + 5) < 15) & (np.abs(above) < 20)
    nose = (q[:, 0] ** 2 + q[:, 1] ** 2 < 8**2) & (np.abs(above) < 20)
    height = np.median(q[nose, 2]) - np.median(q[beside, 2]) if beside.any() and nose.any() else 0.0
    if not NOSE_HEIGHT[0] <= height <= NOSE_HEIGHT[1]:
        raise ValueError(
            f"nothing like a face was found: the nose would stand {height:.0f} mm above the cheeks ({NOSE_HEIGHT[0]:.0f} to "
            f"{NOSE_HEIGHT[1]:.0f} expected): check that the scan shows a whole face, upright (+y) and looking at the scanner (+z)"
        )


# --- meshes ---------------------------------------------------------------------------------------------------------------


def _finite(scan: Scan) -> Scan:
    good = np.isfinite(scan.vertices).all(1)
    return scan if good.all() else _keep(scan, good)


def _to_millimetres(scan: Scan) -> Scan:
    """By the size of the bulk of the vertices: a few stray points far away do not count."""
    if len(scan.faces) == 0:
        raise ValueError("the scan has no faces: export a mesh, not a point cloud")
    low, high = np.quantile(scan.vertices, [0.005, 0.995], axis=0)
    extent = float((high - low).max())
    for _, factor, least, most in UNITS:
        if least <= extent <= most:
            landmarks = {name: point * factor for name, point in scan.landmarks.items()}
            return (
                scan if factor == 1 else replace(scan, vertices=scan.vertices * factor, landmarks=landmarks)
            )
    expected = ", ".join(f"{least:g} to {most:g} {unit}" for unit, _, least, most in UNITS)
    raise ValueError(
        f"the scan measures {extent:.4g} along its longest side, which is no face ({expected}): "
        "export it in millimetres and without the background"
    )


def _sample(scan: Scan) -> Samples:
    """Centres of faces at equal steps of the running area; repeatable, and the same wherever the scan is turned."""
    cross = _cross(scan.vertices, scan.faces)
    area = np.sqrt((cross**2).sum(1))
    running = np.cumsum(area)
    if not running[-1] > 0:
        raise ValueError("the faces of the scan have no area: export it again")
    pick = np.searchsorted(running, (np.arange(SAMPLES) + 0.5) / SAMPLES * running[-1])
    points, normals = scan.vertices[scan.faces[pick]].mean(1), _unit(cross[pick])
    # The outside of a cap or of a closed head looks away from the centroid, on the whole.
    outward = ((points - points.mean(0)) * normals).sum() >= 0
    return Samples(points, normals if outward else -normals, running[-1] / 2 / SAMPLES)


def _keep(scan: Scan, vertices: np.ndarray) -> Scan:
    """Drops faces with a vertex outside `vertices` (v,) bool, then the vertices that no face needs."""
    face_kept = vertices[scan.faces].all(1)
    faces = scan.faces[face_kept]
    used = np.zeros(len(scan.vertices), dtype=bool)
    used[faces] = True
    texture = scan.texture
    return replace(
        scan,
        vertices=scan.vertices[used],
        faces=(np.cumsum(used) - 1)[faces],
        vertex_colors=None if scan.vertex_colors is None else scan.vertex_colors[used],
        texture=None if texture is None else Texture(texture.image, texture.corner_uv[face_kept]),
    )


def _crop(scan: Scan, radius: float) -> Scan:
    cropped = _keep(scan, (scan.vertices**2).sum(1) <= radius**2)
    if len(cropped.vertices) < MIN_VERTICES:
        raise ValueError(
            f"only {len(cropped.vertices)} vertices lie within {radius:g} mm of the nose tip ({MIN_VERTICES} needed): "
            "the scan is too coarse or broken, scan again"
        )
    return cropped


def _outside_out(scan: Scan) -> Scan:
    """Turns all faces over when those in the middle of the face look backwards: some exporters wind them clockwise."""
    centre = np.abs(scan.vertices[scan.faces[:, 0]]).max(1) < 50
    if _cross(scan.vertices, scan.faces[centre])[:, 2].sum() >= 0:
        return scan
    texture = scan.texture
    return replace(
        scan,
        faces=scan.faces[:, ::-1].copy(),
        texture=None if texture is None else Texture(texture.image, texture.corner_uv[:, ::-1].copy()),
    )


# --- small tools ----------------------------------------------------------------------------------------------------------


def turn(degrees: float, axis: str) -> np.ndarray:
    """(3, 3) right-handed rotation about the "x", "y" or "z" axis."""
    vector = np.zeros((1, 3))
    vector[0, "xyz".index(axis)] = np.deg2rad(degrees)
    return _rotations(vector)[0]


def _rotations(vectors: np.ndarray) -> np.ndarray:
    """Rotation vectors (s, 3) in radians -> (s, 3, 3), by Rodrigues."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    k = np.zeros((len(vectors), 3, 3))
    k[:, [2, 0, 1], [1, 2, 0]], k[:, [1, 2, 0], [2, 0, 1]] = vectors, -vectors
    return np.eye(3) + np.sinc(angle / np.pi) * k + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (k @ k)


def _place(points: np.ndarray, poses: Poses) -> np.ndarray:
    """points (n, 3) -> (s, n, 3)"""
    return points @ poses.rotation.transpose(0, 2, 1) + poses.shift[:, None, :]


def _tukey(distance: np.ndarray, kernel: float) -> np.ndarray:
    return np.clip(1 - (distance / kernel) ** 2, 0, None) ** 2


def _cross(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
