"""What the search and the fit of a face share: points spread over a scan, rigid motions, one step of ICP.

numpy only: the edge bundle carries this file. Legend: f faces, n sample points, s poses tried side by side. Lengths in mm.
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

    points: np.ndarray  # (n, 3)
    normals: np.ndarray  # (n, 3) unit, outward
    area: float  # mm2 that each stands for

    def take(self, rows: np.ndarray, *, count: int) -> "Samples":
        """At most about `count` of these rows."""
        stride = max(1, -(-len(rows) // count))
        kept = rows[::stride]
        return Samples(self.points.take(kept, axis=0), self.normals.take(kept, axis=0), self.area * stride)

    def resized(self, centre: np.ndarray, size: float) -> "Samples":
        """Shrunk towards a point by `size`."""
        return Samples(centre + (self.points - centre) / size, self.normals, self.area / size**2)

    def thinned(self, count: int) -> "Samples":
        return self.take(np.arange(len(self.points)), count=count)


class Poses(NamedTuple):
    """Rigid motions from the scan to the mean face: q = rotation @ p + shift."""

    rotation: np.ndarray  # (s, 3, 3)
    shift: np.ndarray  # (s, 3)
    tip: np.ndarray  # (s, 3) the point of the scan that is taken for the nose tip

    def take(self, rows: np.ndarray | list[int]) -> "Poses":
        return Poses(self.rotation[rows], self.shift[rows], self.tip[rows])


def sample(vertices: np.ndarray, faces: np.ndarray) -> Samples:
    """vertices (v, 3), faces (f, 3) -> centres of faces at equal steps of the running area.

    They are repeatable, and the same wherever the scan is turned. Raises ValueError when the faces have no area.
    """
    weighted = weighted_normals(vertices, faces)
    running = np.cumsum(np.sqrt(squared(weighted)))
    if not running[-1] > 0:
        raise ValueError("the faces of the scan have no area: export it again")
    area = running[-1] / 2
    count = int(np.clip(area / SPACING**2, *SAMPLES))
    pick = np.searchsorted(running, (np.arange(count) + 0.5) / count * running[-1])
    points = vertices.take(faces.take(pick, axis=0), axis=0).mean(1)
    normals = unit(weighted.take(pick, axis=0))
    # The outside of a cap, and of a closed head, looks away from the centroid on the whole.
    outward = ((points - points.mean(0)) * normals).sum() >= 0
    return Samples(points, normals if outward else -normals, area / count)


def visible(
    samples: Samples, centre: np.ndarray, forward: np.ndarray, *, count: int, reach: float = 120.0
) -> Samples:
    """At most `count` samples within `reach` of a point that one sees from `forward` (3,), a unit vector.

    Without what lies behind the surface, two layers would pass for a rugged one.
    """
    offset = samples.points - centre
    rows = np.flatnonzero((squared(offset) < reach**2) & (samples.normals @ forward > -0.1))
    near = samples.take(rows, count=2 * count)
    offset = near.points - centre
    side = unit(np.cross(forward, np.eye(3)[np.abs(forward).argmin()]))
    columns = int(reach / 3) + 1  # cells of 6 mm
    cell = ((offset @ side + reach) / 6).astype(np.intp) * columns
    cell += ((offset @ np.cross(forward, side) + reach) / 6).astype(np.intp)
    height = offset @ forward
    front = np.full(columns * columns, -np.inf)
    np.maximum.at(front, cell, height)
    return near.take(np.flatnonzero(height > front[cell] - LAYER), count=count)


def place(points: np.ndarray, poses: Poses) -> np.ndarray:
    """points (n, 3) -> (s, n, 3)"""
    return points @ poses.rotation.transpose(0, 2, 1) + poses.shift[:, None, :]


def icp(samples: Samples, poses: Poses, *, kernels: tuple[float, ...], hold: float) -> Poses:
    """One Gauss-Newton step of weighted point-to-surface distances for each kernel width (mm).

    `hold` ties the nose tips to the one of the mean face in x and y; z stays free, because noses differ in length.
    """
    hold = hold * len(samples.points)
    axes = np.broadcast_to(np.eye(3)[:2], (len(poses.tip), 2, 3))
    for kernel in kernels:
        q = place(samples.points, poses)
        above, normal, weight = compare(q)
        weight = weight * tukey(above, kernel)
        tip = np.einsum("sij,sj->si", poses.rotation, poses.tip) + poses.shift
        # How each residual changes with a small turn (3) and a small shift (3).
        rows = np.concatenate([np.cross(q, normal), normal], axis=-1)
        held = np.concatenate([np.cross(tip[:, None, :], axes), axes], axis=-1)
        hessian = (rows * weight[..., None]).transpose(0, 2, 1) @ rows + hold * held.transpose(0, 2, 1) @ held
        gradient = np.einsum("sni,sn->si", rows, weight * above)
        gradient += hold * np.einsum("sai,sa->si", held, tip[:, :2])
        hessian += np.diag([1e3, 1e3, 1e3, 1.0, 1.0, 1.0])  # a pose without any overlap stays where it is
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        change = rotations(step[:, :3].clip(-0.3, 0.3))
        shift = np.einsum("sij,sj->si", change, poses.shift) + step[:, 3:]
        poses = Poses(change @ poses.rotation, shift, poses.tip)
    return poses


def weighted_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(f, 3): normals of the faces as they are wound, as long as twice their area."""
    a, b, c = (np.take(vertices, faces[:, corner], axis=0) for corner in range(3))
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T
    return np.stack(
        [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], axis=1
    )  # np.cross is far slower


def unit(vectors: np.ndarray) -> np.ndarray:
    """vectors (..., 3) -> unit length; a zero vector stays zero."""
    return vectors / np.maximum(np.sqrt(squared(vectors)), 1e-12)[..., None]


def squared(vectors: np.ndarray) -> np.ndarray:
    """vectors (..., 3) -> squared lengths (...); numpy's own sum over so short an axis takes five times as long."""
    return np.einsum("...k,...k->...", vectors, vectors)


def tukey(distance: np.ndarray, kernel: float) -> np.ndarray:
    return np.clip(1 - (distance / kernel) ** 2, 0, None) ** 2


def rotations(vectors: np.ndarray) -> np.ndarray:
    """Rotation vectors (s, 3) in radians -> (s, 3, 3), by Rodrigues."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    k = np.zeros((len(vectors), 3, 3))
    k[:, [2, 0, 1], [1, 2, 0]], k[:, [1, 2, 0], [2, 0, 1]] = vectors, -vectors
    return np.eye(3) + np.sinc(angle / np.pi) * k + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (k @ k)
