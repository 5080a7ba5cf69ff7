"""What the search and the fit of a face share: points spread over a scan, rigid motions, one step of ICP.

numpy only: the edge bundle carries this file. Points and vectors stand in columns, (3, ...), because numpy is several times as
fast along a long last axis. Legend: f faces, n sample points, s poses tried side by side. Lengths in mm.
"""

from typing import NamedTuple

import numpy as np

from .face_model import compare

SPACING = 2.2  # mm between sample points ...
SAMPLES = (8000, 60000)  # ... but never fewer or more than this many: a bust has more skin than a face
LAYER = (
    10.0  # mm behind the foremost surface from where on a point is hidden: the inside of the mouth, a skull
)


class Samples(NamedTuple):
    """Points spread evenly over the area of a scan."""

    points: np.ndarray  # (3, n)
    normals: np.ndarray  # (3, n) unit, outward
    area: float  # mm2 that each stands for

    def take(self, rows: np.ndarray, *, count: int) -> "Samples":
        """At most about `count` of these."""
        stride = max(1, -(-len(rows) // count))
        kept = rows[::stride]
        return Samples(self.points.take(kept, axis=1), self.normals.take(kept, axis=1), self.area * stride)

    def resized(self, centre: np.ndarray, size: float) -> "Samples":
        """Shrunk towards a point by `size`."""
        middle = centre[:, None]
        return Samples(middle + (self.points - middle) / size, self.normals, self.area / size**2)

    def thinned(self, count: int) -> "Samples":
        return self.take(np.arange(self.points.shape[1]), count=count)


class Poses(NamedTuple):
    """Rigid motions from the scan to the mean face: q = rotation @ p + shift."""

    rotation: np.ndarray  # (s, 3, 3)
    shift: np.ndarray  # (s, 3)
    tip: np.ndarray  # (s, 3) the point of the scan that is taken for the nose tip

    def take(self, rows: np.ndarray | list[int]) -> "Poses":
        return Poses(self.rotation[rows], self.shift[rows], self.tip[rows])


def sample(vertices: np.ndarray, faces: np.ndarray) -> Samples:
    """vertices (3, v), faces (f, 3) -> centres of faces at equal steps of the running area.

    They are repeatable, and the same wherever the scan is turned. Raises ValueError when the faces have no area.
    """
    weighted = weighted_normals(vertices, faces)
    running = np.cumsum(np.sqrt(squared(weighted)))
    if not running[-1] > 0:
        raise ValueError("the faces of the scan have no area: export it again")
    area = running[-1] / 2
    count = int(np.clip(area / SPACING**2, *SAMPLES))
    pick = np.searchsorted(running, (np.arange(count) + 0.5) / count * running[-1])
    points = vertices.take(faces.take(pick, axis=0).T, axis=1).mean(1)
    normals = unit(weighted.take(pick, axis=1))
    # The outside of a cap, and of a closed head, looks away from the centroid on the whole.
    outward = ((points - points.mean(1, keepdims=True)) * normals).sum() >= 0
    return Samples(points, normals if outward else -normals, area / count)


def visible(
    samples: Samples, centre: np.ndarray, forward: np.ndarray, *, count: int, reach: float = 120.0
) -> Samples:
    """At most `count` samples within `reach` of a point that one sees from `forward` (3,), a unit vector.

    Without what lies behind the surface, two layers would pass for a rugged one.
    """
    offset = samples.points - centre[:, None]
    rows = np.flatnonzero((squared(offset) < reach**2) & (forward @ samples.normals > -0.1))
    near = samples.take(rows, count=2 * count)
    side = unit(cross(forward, np.eye(3)[np.abs(forward).argmin()]))
    across, up, height = np.stack([side, cross(forward, side), forward]) @ (near.points - centre[:, None])
    columns = int(reach / 3) + 1  # cells of 6 mm
    cell = ((across + reach) / 6).astype(np.intp) * columns + ((up + reach) / 6).astype(np.intp)
    front = np.full(columns * columns, -np.inf)
    np.maximum.at(front, cell, height)
    return near.take(np.flatnonzero(height > front[cell] - LAYER), count=count)


def place(points: np.ndarray, poses: Poses) -> np.ndarray:
    """points (3, n) -> (3, s, n)"""
    return turned(points, poses.rotation) + poses.shift.T[:, :, None]


def turned(vectors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """vectors (3, n), rotation (s, 3, 3) -> (3, s, n)"""
    return (rotation.transpose(1, 0, 2).reshape(-1, 3) @ vectors).reshape(3, len(rotation), -1)


def icp(samples: Samples, poses: Poses, *, kernels: tuple[float, ...], hold: float) -> Poses:
    """One Gauss-Newton step of weighted point-to-surface distances for each kernel width (mm).

    `hold` ties the nose tips to the one of the mean face in x and y; z stays free, because noses differ in length.
    """
    hold = hold * samples.points.shape[1]
    axes = np.eye(3)[:, None, :2]
    for kernel in kernels:
        q = place(samples.points, poses)
        above, normal, weight = compare(q)
        tip = (poses.rotation @ poses.tip[..., None])[..., 0] + poses.shift
        normal_equations = products(_changes(q, normal, above), weight * tukey(above, kernel))
        normal_equations += hold * products(_changes(tip.T[..., None], axes, tip[:, :2]))
        hessian, gradient = normal_equations[:, :6, :6], normal_equations[:, :6, 6:]
        hessian = hessian + np.diag(
            [1e3, 1e3, 1e3, 1.0, 1.0, 1.0]
        )  # a pose without any overlap stays where it is
        step = -np.linalg.solve(hessian, gradient)[..., 0]
        change = rotations(step[:, :3].clip(-0.3, 0.3))
        shift = (change @ poses.shift[..., None])[..., 0] + step[:, 3:]
        poses = Poses(change @ poses.rotation, shift, poses.tip)
    return poses


def _changes(q: np.ndarray, normal: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """q (3, s, n), normal (3, s, n), residual (s, n) -> (7, s, n): how the residual changes with a small turn (3) and a small
    shift (3), and the residual itself."""
    rows = np.empty((7, *residual.shape))
    rows[:3], rows[3:6], rows[6] = cross(q, normal), normal, residual
    return rows


def products(rows: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """rows (k, s, n), weight (s, n) -> (s, k, k), the weighted sums over n of their products: what least squares needs."""
    weighted = rows if weight is None else rows * weight
    return weighted.transpose(1, 0, 2) @ rows.transpose(1, 2, 0)


def weighted_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """vertices (3, v), faces (f, 3) -> (3, f): normals of the faces as they are wound, as long as twice their area."""
    a, b, c = (vertices.take(faces[:, corner], axis=1) for corner in range(3))
    return cross(b - a, c - a)


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a, b (3, ...) -> (3, ...); np.cross is far slower."""
    (ax, ay, az), (bx, by, bz) = a, b
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def unit(vectors: np.ndarray) -> np.ndarray:
    """vectors (3, ...) -> unit length; a zero vector stays zero."""
    return vectors / np.maximum(np.sqrt(squared(vectors)), 1e-12)


def squared(vectors: np.ndarray) -> np.ndarray:
    """vectors (3, ...) -> squared lengths (...)"""
    return dot(vectors, vectors)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a, b (3, ...) -> (...)"""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def tukey(distance: np.ndarray, kernel: float) -> np.ndarray:
    return (1 - (distance / kernel) ** 2).clip(0, None) ** 2


def rotations(vectors: np.ndarray) -> np.ndarray:
    """Rotation vectors (s, 3) in radians -> (s, 3, 3), by Rodrigues."""
    half = np.maximum(np.sqrt(squared(vectors.T)), 1e-12)[:, None, None] / 2
    k = np.zeros((len(vectors), 3, 3))
    k[:, [2, 0, 1], [1, 2, 0]], k[:, [1, 2, 0], [2, 0, 1]] = vectors, -vectors
    sine = np.sin(half) / half
    return np.eye(3) + sine * np.cos(half) * k + 0.5 * sine**2 * (k @ k)
