"""Where a face is in a scan that may stand in any pose: the best pose found from geometry alone.

    1. candidates for the nose tip: points that stick out of their surroundings, whichever way the head looks;
    2. round each candidate, head rolls and tilts are compared by how well the relief fits; the best are fitted and compared.

The candidates are tried in order of prominence, those that look at the scanner first, until one fits clearly: that is nearly
every scan and takes milliseconds. Else the best of all counts. All of it turns with the scan: upright wins near ties only.

How well a pose fits is a number from 0 to 1: the correlation between the relief of the scan and that of the mean face, each
without the quadratic surface through it (every round thing fits a smooth head; the features make the face), times the share of
the mean face that lies on scanned surface.

Legend: n sample points, m voxels, s poses tried side by side. All lengths in mm.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .face_model import area, compare
from .face_points import (
    Poses,
    Samples,
    cross,
    dot,
    icp,
    place,
    products,
    rotations,
    squared,
    tukey,
    turned,
    unit,
    visible,
)

CLEAR = 0.6  # fit of a pose that needs no rival: wrong poses stay below 0.5, with few exceptions
CANDIDATES = (16, 28)  # nose tips to try: of a head, of a body
HEAD = 2.5e5  # mm2 of skin
PROMINENT = 3.0  # mm
BLUR = 17.0  # mm, what counts as the surroundings of a nose tip
VOXEL, VOXELS = 8.0, 150e3  # mm, and how many at most: then they grow
TILTS = ((0, 0), (25, 0), (-25, 0), (0, 25), (0, -25))  # degrees, pitch and yaw: half of a face may be hidden
ROLLS = range(0, 360, 30)  # degrees
CENTRE = 35.0 / 60  # of 60 mm, width of the middle of the face whose relief counts most
SIZES = (0.85, 1.15)  # against an adult face, tried where none fits clearly
APART, OTHER = 130.0, 0.5  # mm between the faces of two people, least fit of the second


class Found(NamedTuple):
    """One face."""

    pose: Poses  # a single one
    fit: float  # 0..1
    others: int = 0  # further faces in the scan
    size: float = 1.0  # against an adult face


class Candidate(NamedTuple):
    """What may be a nose tip."""

    tip: np.ndarray  # (3,)
    forward: np.ndarray  # (3,) unit, mean normal of the surroundings
    prominence: float  # mm


def search(samples: Samples) -> list[Found]:
    """The face of a scan; where none fits clearly, whatever looks most like one, the best first. Empty for a smooth thing."""
    tried = []
    for candidate in _candidates(samples):
        found = _best_pose(samples, candidate)
        if found and found.fit > CLEAR:
            return [found]
        tried += [found] if found else []
    tried = [_resized(samples, found) for found in sorted(tried, key=lambda found: -found.fit)[:5]]
    return sorted(tried, key=lambda found: -found.fit)


def fit_of(samples: Samples, pose: Poses) -> float:
    """How well one pose fits, 0..1; less where the relief is not symmetric."""
    q = place(samples.points, pose)
    fit, relief, weight = _relief(samples, q, pose, kernel=10.0)
    return float(fit[0]) * (0.65 + 0.35 * _symmetry(q[:2, 0], relief[0], weight[0]))


def among_several(samples: Samples, best: Found) -> Found:
    """Of several people the most complete face, and of such the nearest to the scanner; and how many others there are."""
    faces = [best]
    if squared(samples.points - best.pose.tip.T).max() < APART**2:
        return best
    for candidate in _candidates(samples):
        if all(squared(candidate.tip - face.pose.tip[0]) > APART**2 for face in faces):
            found = _best_pose(samples, candidate)
            if found and found.fit > OTHER:
                faces.append(found)
    if len(faces) == 1:
        return best
    chosen = max(faces, key=lambda face: (round(_complete(samples, face.pose), 1), face.pose.tip[0, 2]))
    return chosen._replace(others=len(faces) - 1)


def _complete(samples: Samples, pose: Poses) -> float:
    """Share of the mean face that is there, roughly."""
    seen = visible(samples, pose.tip[0], pose.rotation[0, 2], count=2000)
    above, _, weight = compare(place(seen.points, pose))
    return min(float(weight[np.abs(above) < 20.0].sum()) * seen.area / area(), 1.0)


def _candidates(samples: Samples) -> list[Candidate]:
    """Points that may be the nose tip: those that look at the scanner first, the most prominent of them first.

    Means over a Gaussian neighbourhood, by blurring a grid of voxels: the height of a point above the mean of what is round
    it, along the mean normal there. Both turn with the scan.
    """
    points, count = samples.points, samples.points.shape[1]
    low, high = np.quantile(points[:, :: max(1, count // 4000)], [0.002, 0.998], axis=1)
    low, high = low - 30.0, high + 30.0  # a few stray points far away get no voxels
    size = max(VOXEL, float(np.prod(high - low) / VOXELS) ** (1 / 3))
    shape = ((high - low) / size).astype(int) + 1
    points = points - low[:, None]
    index = np.floor(points / size).astype(np.intp)
    inside = np.flatnonzero(((index >= 0) & (index < shape[:, None])).all(0))
    cell = np.ravel_multi_index(tuple(index.take(inside, axis=1)), tuple(shape))
    columns = [None, *points.take(inside, axis=1), *samples.normals.take(inside, axis=1)]
    sums = np.empty((7, np.prod(shape)), dtype=np.float32)
    for row, column in zip(sums, columns, strict=True):
        row[:] = np.bincount(cell, column, minlength=len(row))
    stride = max(1, len(cell) // 12000)
    own = points.take(inside[::stride], axis=1)
    blurred = _blurred(sums.reshape(7, *shape), size).reshape(7, -1).take(cell[::stride], axis=1)
    forward = unit(blurred[4:].astype(np.float64))
    prominence = dot(own - blurred[1:4] / blurred[0], forward)
    layers = blurred[0] * samples.area / (2 * np.pi * BLUR**2)  # 1 on a plane: hair, ears and hands have more
    prominence = prominence / np.maximum(1.0, layers / 1.2)
    found: list[Candidate] = []
    most = CANDIDATES[1 if samples.area * count > HEAD else 0]
    while len(found) < most:
        top = int(prominence.argmax())
        if not prominence[top] > PROMINENT:
            break
        found.append(Candidate(own[:, top] + low, forward[:, top], float(prominence[top])))
        prominence[squared(own - own[:, top, None]) < 15.0**2] = -1
    return sorted(found, key=lambda candidate: candidate.forward[2] < 0)


def _blurred(grid: np.ndarray, size: float) -> np.ndarray:
    """grid (k, x, y, z) float32 -> the same, blurred along all three axes."""
    for axis in (1, 2, 3):
        steps = np.arange(grid.shape[axis]) * size
        kernel = np.exp(-0.5 * ((steps[:, None] - steps) / BLUR) ** 2).astype(np.float32)
        grid = np.moveaxis(np.tensordot(kernel, grid, axes=(1, axis)), 0, axis)
    return grid


def _best_pose(samples: Samples, candidate: Candidate) -> Found | None:
    """The best pose with this nose tip; None where too little surface is around."""
    seen = visible(samples, candidate.tip, candidate.forward, count=3000)
    if seen.points.shape[1] < 60:
        return None
    tip = _foremost(seen.points, candidate)
    starts = _starts(seen, tip, candidate.forward)
    starts = starts.take(_distinct(starts, _fit(seen.thinned(300), starts, kernel=20.0), count=3))
    poses = icp(seen.thinned(400), starts, kernels=(30.0, 25.0, 20.0, 20.0, 16.0, 14.0), hold=0.03)
    poses = poses._replace(tip=np.stack([summit(seen, poses.take([row])) for row in range(len(poses.tip))]))
    some = seen.thinned(800)
    poses = icp(some, poses, kernels=(14.0, 12.0, 12.0, 10.0, 10.0), hold=0.05)
    single = [poses.take([row]) for row in range(len(poses.tip))]
    return max((Found(pose, fit_of(some, pose)) for pose in single), key=lambda found: found.fit)


def _resized(samples: Samples, found: Found) -> Found:
    """The pose, fitted again for a child and for a giant."""
    pose, best = found.pose, found
    seen = visible(samples, pose.tip[0], pose.rotation[0, 2], count=800)
    for size in SIZES:
        small = seen.resized(pose.tip[0], size)
        again = icp(small, pose, kernels=(14.0, 12.0, 10.0), hold=0.05)
        fit = fit_of(small, again)
        if fit > best.fit + 0.05:
            best = Found(again, fit, size=size)
    return best


def _starts(seen: Samples, tip: np.ndarray, forward: np.ndarray) -> Poses:
    """Poses with one nose tip that look along `forward`, more or less, with any roll."""
    flat = seen.points - tip[:, None]
    flat = flat - np.outer(forward, forward @ flat)
    side = np.linalg.eigh(flat @ flat.T)[1][:, 2]  # a direction that turns with the scan
    side = unit(side - forward * (side @ forward))
    rotation = _variants() @ np.stack([side, cross(forward, side), forward])
    return Poses(rotation, -rotation @ tip, np.tile(tip, (len(rotation), 1)))


@lru_cache(maxsize=1)
def _variants() -> np.ndarray:
    """(s, 3, 3) tilts times head rolls."""
    pitch, yaw = np.deg2rad(TILTS).T
    x, y, z = np.eye(3)
    tilts = rotations(np.outer(yaw, y)) @ rotations(np.outer(pitch, x))
    return (tilts[:, None] @ rotations(np.outer(np.deg2rad(ROLLS), z))).reshape(-1, 3, 3)


def _distinct(poses: Poses, fits: np.ndarray, *, count: int) -> list[int]:
    """The best `count` poses that are 35 degrees or more from each other."""
    order = np.argsort(-fits, kind="stable")
    cosine = (np.einsum("aij,bij->ab", poses.rotation, poses.rotation) - 1) / 2
    kept: list[int] = []
    for row in order:
        if len(kept) < count and (cosine[row, kept] < np.cos(np.deg2rad(35))).all():
            kept.append(int(row))
    return kept


def _fit(samples: Samples, poses: Poses, *, kernel: float) -> np.ndarray:
    """(s,) how well each pose fits, 0..1; `kernel` mm is how far off surface may lie."""
    return _relief(samples, place(samples.points, poses), poses, kernel=kernel)[0]


def _relief(
    samples: Samples, q: np.ndarray, poses: Poses, *, kernel: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit (s,), what the smooth surface leaves of the scan's heights (s, n) mm, and its weight (s, n)."""
    above, normal, weight = compare(q)
    facing = dot(turned(samples.normals, poses.rotation), normal).clip(0)
    there = samples.area * (weight * facing * tukey(above, kernel)).sum(1) / area()
    x, y, scanned = q[0] / 60, q[1] / 60, q[2]
    expected = scanned - above / normal[2].clip(0.2)
    centre = np.exp(-((x**2 + (y - 0.17) ** 2) / (2 * CENTRE**2)))
    weight = (weight > 0) * facing * centre * (1 - (above / (kernel + 10.0)) ** 2).clip(0, None)
    rows = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, scanned, expected])
    sums = products(rows, weight)  # of the six terms of a quadratic surface and of both heights
    terms, right, heights = sums[:, :6, :6], sums[:, :6, 6:], sums[:, 6:, 6:]
    smooth = np.linalg.solve(terms + 1e-3 * np.eye(6), right)
    left = heights - right.transpose(0, 2, 1) @ smooth  # variances and covariance of what is left of both
    scale = np.sqrt(np.maximum(left[:, 0, 0] * left[:, 1, 1], 1e-9))
    fit = np.clip(left[:, 0, 1] / scale, 0, 1) * np.clip(there, 0, 1)
    return fit, scanned - np.einsum("ksn,sk->sn", rows[:6], smooth[..., 0]), weight


def _symmetry(q: np.ndarray, relief: np.ndarray, weight: np.ndarray) -> float:
    """q (2, n), relief (n,) and weight (n,) -> -1..1: how like its mirror image a relief is; 0.5 where only one half is there."""
    rows, columns = 28, 22  # cells of 6 mm
    column, row = np.floor(q / 6).astype(np.intp) + np.array([[columns // 2], [rows // 2]])
    kept = (weight > 0) & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    cell = row[kept] * columns + column[kept]
    count = np.bincount(cell, weight[kept], minlength=rows * columns).reshape(rows, columns)
    total = np.bincount(cell, (weight * relief)[kept], minlength=rows * columns).reshape(rows, columns)
    height = total / np.maximum(count, 1e-9)
    both = (count > 0) & (count[:, ::-1] > 0)
    if both.sum() < 0.4 * (count > 0).sum() or not both.any():
        return 0.5
    return float((height * height[:, ::-1])[both].sum() / max((height[both] ** 2).sum(), 1e-9))


def _foremost(points: np.ndarray, candidate: Candidate) -> np.ndarray:
    """(3,) the mean of the foremost points near a candidate."""
    near = points.compress(squared(points - candidate.tip[:, None]) < 13.0**2, axis=1)
    return candidate.tip if near.shape[1] < 5 else highest(near, candidate.forward @ near, share=30)


def highest(points: np.ndarray, height: np.ndarray, *, share: int) -> np.ndarray:
    """points (3, n), height (n,) -> (3,) the mean of the highest, one of `share`, three at least."""
    order = np.argsort(-height, kind="stable")
    return points[:, order[: max(3, len(order) // share)]].mean(1)


def summit(samples: Samples, pose: Poses) -> np.ndarray:
    """(3,) where the surface is highest over the nose of the mean face: the candidate may have been a wing or the bridge."""
    q = place(samples.points, pose)[:, 0]
    nose = np.flatnonzero((np.abs(q) < [[8.0], [9.0], [20.0]]).all(0))
    return pose.tip[0] if len(nose) < 8 else highest(samples.points[:, nose], q[2, nose], share=30)
