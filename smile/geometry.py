"""Any face scan -> the project frame: mm, the face looks along +z, +y up, origin at the nose tip, cropped to a sphere.

numpy only, because the edge bundle carries this file. The pose comes from fitting a smooth analytic mean face to the scan
(a height map z(x, y), so correspondences are a table look-up and no search tree is needed):

    1. candidates for the nose tip: points that stick out of their surroundings, whatever the pose;
    2. each candidate with some head rolls, pitches and yaws is a start; a coarse fit ranks them, the best are refined;
    3. point-to-surface ICP with Tukey weights, so that hair, shoulders and an open mouth do not pull;
    4. the origin is the apex of a paraboloid through the skin of the nose tip.

Named landmarks, where a scan has them, replace steps 1 and 2. Step 3 runs for both: sites with and without landmarks must
end in the same frame.

Legend: v vertices, f faces, n sample points, s starts. All lengths in mm.
"""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .scans.scan import Scan, Texture

EXTENT = (100.0, 1200.0)  # mm, longest side of a scan we believe: a cropped face ... a person to the waist
MIN_VERTICES = 200  # inside the sphere
LANDMARK_MARGIN = (
    1.3  # landmarks are kept up to this many radii: the chin of a long face lies just outside the crop
)
HOLD = 0.05
FINAL_HOLD = 1.0
STEP = 2.0  # mm, grid of the template
HALF_WIDTH, BOTTOM, TOP = 62.0, -74.0, 86.0  # mm, the ellipse of the template that is compared


class Pose(NamedTuple):
    """Similarity transforms from the scan to the template: q = scale * rotation @ p + shift. One row a start."""

    rotation: np.ndarray  # (s, 3, 3)
    shift: np.ndarray  # (s, 3)
    scale: np.ndarray  # (s,) lets a child's head fit an adult template; the scan itself is never scaled


class Samples(NamedTuple):
    """Points spread evenly over the area of a scan."""

    points: np.ndarray  # (n, 3)
    normals: np.ndarray  # (n, 3) unit, outward


def align(scan: Scan, *, radius: float) -> Scan:
    """Moves a scan to the project frame and keeps what lies within `radius` mm of the nose tip.

    Colours, texture coordinates and landmarks are carried along. Raises ValueError with the value and the remedy when the size
    is implausible, when nothing like a face is found, or when too little of it is there.
    """
    scan = _to_millimetres(_drop_invalid(scan))
    samples = _sample(scan.vertices, scan.faces, count=4000)
    pose, tips = _search(samples)
    pose, tip = fit(scan.vertices, samples, pose, tips)
    rotation = pose.rotation[0]
    moved = replace(
        scan,
        vertices=(scan.vertices - tip) @ rotation.T,
        landmarks={name: rotation @ (point - tip) for name, point in scan.landmarks.items()},
    )
    return _face_forward(_crop(moved, radius))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """vertices (v, 3), faces (f, 3) -> (v, 3) float64 unit normals, weighted by area, outward as the faces are wound.

    A vertex without any area around it gets (0, 0, 1), the direction of the scanner.
    """
    weighted = _cross(vertices, faces)  # length = twice the area, so the sum below is weighted by area
    normals = np.stack(
        [
            np.bincount(faces.ravel(), weights=np.repeat(weighted[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0, normals / np.where(length > 0, length, 1.0), [0.0, 0.0, 1.0])


# --- the template ---------------------------------------------------------------------------------------------------------


def mean_face(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height z (mm) of an average adult face over (x, y) mm, nose tip at the origin; made of smooth functions only.

    The numbers are ours: round figures near the averages of classical anthropometry (eye corners 32 and 90 mm apart, nose
    50 mm long and 20 mm deep, mouth 52 mm wide, lower face 70 mm, face 138 mm wide). No scan and no data set went into them.
    """
    y = y + 4.0
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
    return z - 4.67  # so that the highest point is 0


@lru_cache(maxsize=1)
def _template() -> np.ndarray:
    """(columns, rows, 4) table over x, y: height, slope in x, slope in y, weight (0 outside the compared ellipse)."""
    x = np.arange(-HALF_WIDTH - STEP, HALF_WIDTH + 2 * STEP, STEP)[:, None]
    y = np.arange(BOTTOM - STEP, TOP + 2 * STEP, STEP)[None, :]
    z = mean_face(x, y)
    slope_x, slope_y = np.gradient(z, STEP)
    inside = (x / HALF_WIDTH) ** 2 + ((y - (TOP + BOTTOM) / 2) / ((TOP - BOTTOM) / 2)) ** 2 <= 1
    weight = inside * np.where(y < -18, 0.5, 1.0)  # mouth and jaw move with the expression
    return np.stack([z, slope_x, slope_y, weight], axis=-1)


def _look_up(q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points q (..., 3) in the template's frame -> height above it (...), surface normal (..., 3), weight (...)."""
    table = _template()
    i = np.rint((q[..., 0] + HALF_WIDTH + STEP) / STEP)
    j = np.rint((q[..., 1] - BOTTOM + STEP) / STEP)
    known = (i >= 0) & (i < table.shape[0]) & (j >= 0) & (j < table.shape[1])
    i, j = np.where(known, i, 0).astype(np.intp), np.where(known, j, 0).astype(np.intp)
    cell = table[i, j]
    off_x = q[..., 0] - (i * STEP - HALF_WIDTH - STEP)
    off_y = q[..., 1] - (j * STEP + BOTTOM - STEP)
    height = q[..., 2] - (cell[..., 0] + cell[..., 1] * off_x + cell[..., 2] * off_y)
    normal = np.stack([-cell[..., 1], -cell[..., 2], np.ones_like(height)], axis=-1)
    length = np.sqrt((normal**2).sum(-1))
    return height / length, normal / length[..., None], cell[..., 3] * known


# --- the pose -------------------------------------------------------------------------------------------------------------


def _search(samples: Samples) -> tuple[Pose, np.ndarray]:
    """The best start over candidate nose tips and head poses, refined on a coarse subset."""
    few = Samples(samples.points[::4], samples.normals[::4])
    starts, tips, strength = _starts(few)
    candidates = tips
    for points, keep, rank_kernel, kernels in (
        (Samples(few.points[::3], few.normals[::3]), 40, 20.0, (30.0, 25.0, 20.0, 20.0)),
        (few, 6, 15.0, (20.0, 16.0, 12.0, 12.0, 10.0, 10.0)),
        (few, 1, 10.0, ()),
    ):
        best = np.argsort(-_score(points, starts, kernel=rank_kernel) * strength, kind="stable")[:keep]
        starts, tips, strength = _take(starts, best), tips[best], strength[best]
        starts = _icp(points, starts, tips, kernels=kernels, hold=HOLD)
    near = ((candidates - tips[0]) ** 2).sum(1) < 20.0**2
    return starts, candidates[near][:1]


def _take(pose: Pose, rows: np.ndarray) -> Pose:
    return Pose(pose.rotation[rows], pose.shift[rows], pose.scale[rows])


def _starts(samples: Samples, *, candidates: int = 8) -> tuple[Pose, np.ndarray, np.ndarray]:
    """Candidate nose tips x rolls x pitches."""
    points, normals = samples
    squared = (points**2).sum(1)
    distance = squared[:, None] + squared[None, :] - 2 * points @ points.T
    near = (distance < 35.0**2).astype(np.float32)
    sticking_out = points - (near @ points) / near.sum(1, keepdims=True)
    forward = _unit((distance < 45.0**2).astype(np.float32) @ normals)
    prominence = (sticking_out * forward).sum(1)
    prominence[forward[:, 2] < 0.1] = -np.inf
    tips, strength = [], []
    for _ in range(candidates):
        tip = int(prominence.argmax())
        tips.append(tip)
        strength.append(prominence[tip])
        prominence[distance[tip] < 15.0**2] = -np.inf
    rotations, shifts, held = [], [], []
    for tip in tips:
        for roll in (-40, -20, 0, 20, 40):
            for pitch in (-20, 0, 20):
                f = forward[tip]
                x = _unit(np.cross([0.0, 1.0, 0.0], f))
                frame = np.stack([x, np.cross(f, x), f])
                r = turn(pitch, "x") @ turn(roll, "z") @ frame
                rotations.append(r)
                shifts.append(-r @ points[tip])
                held.append(points[tip])
    return Pose(np.array(rotations), np.array(shifts), np.ones(len(shifts))), np.array(held), np.repeat(np.sqrt(np.clip(strength, 0, None)), 15)


def _place(points: np.ndarray, pose: Pose) -> np.ndarray:
    return pose.scale[:, None, None] * (points @ pose.rotation.transpose(0, 2, 1)) + pose.shift[:, None, :]


def _tukey(height: np.ndarray, kernel: float) -> np.ndarray:
    return np.clip(1 - (height / kernel) ** 2, 0, None) ** 2


def _score(samples: Samples, pose: Pose, *, kernel: float) -> np.ndarray:
    height, normal, weight = _look_up(_place(samples.points, pose))
    facing = (np.einsum("nk,sjk->snj", samples.normals, pose.rotation) * normal).sum(-1).clip(0)
    return (weight * facing * _tukey(height, kernel)).sum(1)


def _icp(samples: Samples, pose: Pose, tips: np.ndarray, *, kernels: tuple[float, ...], hold: float) -> Pose:
    """Point-to-surface iterations."""
    for kernel in kernels:
        q = _place(samples.points, pose)
        height, normal, weight = _look_up(q)
        weight = weight * _tukey(height, kernel)
        jacobian = np.concatenate([np.cross(q, normal), normal], axis=-1)
        hessian = (jacobian * weight[..., None]).transpose(0, 2, 1) @ jacobian
        gradient = np.einsum("sni,sn->si", jacobian, weight * height)
        tip = np.einsum("sij,sj->si", pose.rotation, tips) + pose.shift
        for axis in (0, 1):
            row = np.zeros((len(tip), 6))
            row[:, 3 + axis] = 1
            row[:, :3] = np.cross(tip, np.eye(3)[axis])
            hessian += hold * len(samples.points) * row[:, :, None] * row[:, None, :]
            gradient += hold * len(samples.points) * row * tip[:, axis, None]
        hessian += np.eye(6) * np.array([1e3, 1e3, 1e3, 1, 1, 1])
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        change = _rotation(step[:, :3].clip(-0.3, 0.3))
        pose = Pose(change @ pose.rotation, np.einsum("sij,sj->si", change, pose.shift) + step[:, 3:6], pose.scale)
    return pose


def _rotation(vectors: np.ndarray) -> np.ndarray:
    """Rotation vectors (s, 3) radians -> (s, 3, 3), Rodrigues."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    k = np.zeros((len(vectors), 3, 3))
    k[:, [2, 0, 1], [1, 2, 0]], k[:, [1, 2, 0], [2, 0, 1]] = vectors, -vectors
    return np.eye(3) + np.sinc(angle / np.pi) * k + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (k @ k)


def turn(degrees: float, axis: str) -> np.ndarray:
    """Right-handed rotation about the x, y or z axis."""
    vector = np.zeros((1, 3))
    vector[0, "xyz".index(axis)] = np.deg2rad(degrees)
    return _rotation(vector)[0]


def _unit(a: np.ndarray) -> np.ndarray:
    return a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-12)


def _cross(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    return np.cross(b - a, c - a)


def _sample(vertices: np.ndarray, faces: np.ndarray, *, count: int) -> Samples:
    cross = _cross(vertices, faces)
    area = np.sqrt((cross**2).sum(1))
    total = np.cumsum(area)
    pick = np.searchsorted(total, (np.arange(count) + 0.5) / count * total[-1])
    centres = vertices[faces[pick]].mean(1)
    normals = _unit(cross[pick])
    outside = (
        (vertices[faces].mean(1) - (area[:, None] * vertices[faces].mean(1)).sum(0) / total[-1]) * cross
    ).sum()
    return Samples(centres, normals if outside >= 0 else -normals)


def _drop_invalid(scan: Scan) -> Scan:
    good = np.isfinite(scan.vertices).all(1)
    return scan if good.all() else _keep(scan, good)


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


def _to_millimetres(scan: Scan) -> Scan:
    low, high = np.quantile(scan.vertices, [0.005, 0.995], axis=0)
    extent = float((high - low).max())
    for factor in (1.0, 10.0, 1000.0):
        if 100.0 <= extent * factor <= 1000.0:
            break
    else:
        raise ValueError(f"extent {extent}")
    return (
        scan
        if factor == 1
        else replace(
            scan,
            vertices=scan.vertices * factor,
            landmarks={k: p * factor for k, p in scan.landmarks.items()},
        )
    )


def _start_from_landmarks(landmarks):
    return None


def _check_relief(samples, pose):
    q = _place(samples.points, pose)[0]
    height, normal, weight = _look_up(q)
    cells = _template()
    c = np.floor(q[:, :2] / 10).astype(int)
    ok = (weight > 0) & (np.abs(height) < 8)
    x, y = np.meshgrid(np.arange(-60, 60, 10) + 5, np.arange(-70, 80, 10) + 5, indexing="ij")
    inside = _look_up(np.stack([x, y, x], -1).astype(float))[2] > 0
    hit = len(np.unique(c[ok], axis=0)) / inside.sum()
    close = _tukey(height, 8.0)[weight > 0].mean()
    return hit, close


def fit(vertices, samples, pose, tips):
    for kernel in (12.0, 8.0, 8.0):
        tips = _nose_tip(vertices, pose.rotation[0], tips[0])[None]
        pose = _icp(samples, pose, tips, kernels=(kernel,) * 4, hold=FINAL_HOLD)
    return pose, _nose_tip(vertices, pose.rotation[0], tips[0])


def _nose_tip(vertices, rotation, guess):
    near = vertices[((vertices - guess) ** 2).sum(1) < 25.0**2]
    q = (near - guess) @ rotation.T
    apex = np.zeros(3)
    for _ in range(4):
        d = q - apex
        w = np.exp(-(d[:, 0] ** 2 + d[:, 1] ** 2) / (2 * 6.0**2)) * (np.abs(d[:, 2]) < 10)
        x, y, z = d.T
        A = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
        a = np.linalg.lstsq(A * w[:, None] ** 0.5, z * w**0.5, rcond=None)[0]
        H = np.array([[2 * a[3], a[4]], [a[4], 2 * a[5]]])
        if np.linalg.eigvalsh(H).max() > -0.01:
            break
        s = np.clip(-np.linalg.solve(H, a[1:3]), -4, 4)
        apex = apex + [*s, a[0] + a[1:3] @ s / 2]
    return guess + rotation.T @ apex


def _crop(scan, radius):
    return _keep(scan, (scan.vertices**2).sum(1) <= radius**2)


def _face_forward(scan):
    return scan
