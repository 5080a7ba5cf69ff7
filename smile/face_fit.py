"""Where the face of a scan is: its rotation and its nose tip, by fitting the mean face.

Named landmarks give the first pose where a scan has them, else `face_search` does. Then the nose tip is the apex of a
paraboloid through the skin there, and the rotation is a point-to-surface ICP that holds the tip in x and y, with Tukey weights,
so that hair, shoulders and an open mouth do not pull: sites with and without landmarks end in the same frame.

numpy only: the edge bundle carries this file. Points stand in columns, (3, n), as in `face_points`. Legend: v vertices, f faces,
n sample points. All lengths in mm.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .face_model import compare, mean_face, outline
from .face_points import Poses, Samples, icp, place, products, sample, squared, visible
from .face_search import Found, among_several, fit_of, highest, search

LEAST_FIT = 0.39  # see `face_search`: of 0..1
ODD_POSE, INSIDE_OUT = 0.9, 0.7  # an unlikely pose or side of the surface must fit so much better
MIN_COVERED = 0.5  # share of the mean face that must find scanned surface near it
HOLD = 1.0  # weight of the nose tip against one sample
REMEDY = "check that the scan shows a whole face"

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


class Face(NamedTuple):
    """Where a face is: q = rotation @ (p - tip) is in the project frame."""

    rotation: np.ndarray  # (3, 3)
    tip: np.ndarray  # (3,) mm
    size: float  # against an adult face, roughly
    others: int  # further faces in the scan


def find_face(vertices: np.ndarray, faces: np.ndarray, landmarks: Mapping[str, np.ndarray]) -> Face:
    """vertices (v, 3) mm, faces (f, 3), landmarks name -> (3,) mm; the head in any pose.

    Raises ValueError when nothing like a face is found.
    """
    points = np.ascontiguousarray(vertices.T)
    samples = sample(points, faces)
    pose = _from_landmarks(landmarks, points)
    if pose is not None:
        samples = _outside(samples, pose)
        best = _fitted(points, samples, Found(pose, 1.0))
    else:
        samples, best = _searched(points, samples)
    _check(samples, best)
    return Face(best.pose.rotation[0], best.pose.tip[0], best.size, best.others)


def _searched(vertices: np.ndarray, samples: Samples) -> tuple[Samples, Found]:
    """The best face that a search finds, and the samples with the right side out."""
    ranked: list[tuple[float, Samples, Found]] = []
    for side in (
        samples,
        samples._replace(normals=-samples.normals),
    ):  # walls and crowds mislead about the outside
        for found in search(side):
            fitted = _fitted(vertices, side, found)
            upright = fitted.pose.rotation[0, 1, 1] > 0.3 and fitted.pose.rotation[0, 2, 2] > 0
            expected = 1.0 if upright else ODD_POSE
            expected *= 1.0 if side is samples else INSIDE_OUT
            ranked.append((fitted.fit * expected, side, fitted._replace(fit=fitted.fit * expected)))
        if ranked and max(row[0] for row in ranked) >= LEAST_FIT:
            break
    if not ranked:
        raise ValueError(f"nothing like a face was found: nothing stands out like a nose: {REMEDY}")
    _, samples, best = max(ranked, key=lambda row: row[0])
    chosen = among_several(samples, best)
    if chosen.pose is not best.pose:
        chosen = _fitted(vertices, samples, chosen)
    return samples, chosen


def _fitted(vertices: np.ndarray, samples: Samples, found: Found) -> Found:
    """The pose of a face found roughly, in full; the tip moves a little with the rotation and the rotation with the tip."""
    pose = found.pose
    # Kernels in mm: what is further away is taken for hair, collar or noise.
    for kernel, anew in ((20.0, True), (15.0, True), (15.0, False)):
        seen = visible(samples, pose.tip[0], pose.rotation[0, 2], count=2500, reach=130.0)
        if anew:
            pose = pose._replace(tip=_most_prominent(seen, pose)[None])
        pose = pose._replace(tip=_apex(vertices, pose)[None])
        pose = icp(seen, pose, kernels=(kernel,) * 4, hold=HOLD)
    fit = fit_of(seen.resized(pose.tip[0], found.size), pose)
    return found._replace(pose=pose._replace(tip=_apex(vertices, pose)[None]), fit=fit)


def _outside(samples: Samples, pose: Poses) -> Samples:
    """With normals that look out of the face, as the pose has it."""
    q = place(samples.points, pose)[:, 0]
    middle = (squared(q) < 70.0**2) & (np.abs(compare(q)[0]) < 12.0)
    outward = (pose.rotation[0, 2] @ samples.normals[:, middle]).sum() >= 0
    return samples if outward else samples._replace(normals=-samples.normals)


def _most_prominent(samples: Samples, pose: Poses) -> np.ndarray:
    """(3,) the point within 14 mm of the tip that stands highest above the mean of what is round it.

    It hardly depends on the pose, so that every start ends at one tip, and it is the nose rather than a lip or the bridge.
    """
    beside = squared(samples.points - pose.tip.T)
    tips = samples.take(np.flatnonzero(beside < 14.0**2), count=100).points
    around = samples.take(np.flatnonzero(beside < 60.0**2), count=600).points
    if tips.shape[1] < 5:
        return pose.tip[0]
    weight = np.exp(-squared(tips[:, :, None] - around[:, None]) / (2 * 17.0**2))
    height = pose.rotation[0, 2] @ (tips - around @ weight.T / weight.sum(1))
    return highest(tips, height, share=15)


def _check(samples: Samples, found: Found) -> None:
    """Raises ValueError unless the surface under the mean face looks like a face."""
    pose = found.pose
    if found.fit < LEAST_FIT:
        raise ValueError(
            f"nothing like a face was found: the best place fits {found.fit:.0%} ({LEAST_FIT:.0%} needed): {REMEDY}"
        )
    seen = visible(samples, pose.tip[0], pose.rotation[0, 2], count=2500, reach=130.0)
    q = place(seen.resized(pose.tip[0], found.size).points, pose)[:, 0]
    above, _, weight = compare(q)
    cells = np.stack(np.meshgrid(np.arange(-55.0, 60, 10), np.arange(-75.0, 80, 10)), axis=-1).reshape(-1, 2)
    expected = outline(*cells.T).sum()
    there = len(np.unique(np.floor(q[:2, (weight > 0) & (np.abs(above) < 12)] / 10), axis=1).T) / expected
    if there < MIN_COVERED:
        raise ValueError(
            f"nothing like a face was found: {there:.0%} of the relief of a face is there ({MIN_COVERED:.0%} needed): "
            f"{REMEDY}"
        )


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
        error = float(np.sqrt(squared((points @ rotation.T + shift - target).T).mean()))
        noses = [landmarks[name] for name in known if words[name] == {"nose"}]
        tip = noses[0] if noses else -rotation.T @ shift
        if best is None or error < best[0]:
            best = error, Poses(rotation[None], shift[None], np.array([tip]))
    assert best is not None
    beside = np.sqrt(squared(vertices - best[1].tip.T).min())
    return best[1] if best[0] < 15.0 and beside < 15.0 else None  # else they belong to another mesh: search


def _apex(vertices: np.ndarray, pose: Poses) -> np.ndarray:
    """The nose tip (3,) in the scan's frame, as the pose sees it: the apex of a paraboloid through the skin near `tip`.

    The highest vertex itself would jump with the noise.
    """
    rotation, guess = pose.rotation[0], pose.tip[0]
    near = vertices.compress(np.abs(vertices[0] - guess[0]) < 25.0, axis=1) - guess[:, None]
    q = rotation @ near.compress(squared(near) < 25.0**2, axis=1)
    apex = np.zeros(3)
    for width in (10.0, 10.0, 6.0, 6.0, 6.0):  # mm; a wide look first, or a blunt nose has several summits
        x, y, z = q - apex[:, None]
        weight = np.exp(-(x**2 + y**2) / (2 * width**2)) * (np.abs(z) < 10)
        if (weight > 0.3**2).sum() < 8:
            break  # a hole: the guess stays
        sums = products(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, z])[:, None], weight[None])[0]
        level, slope_x, slope_y, xx, xy, yy = np.linalg.lstsq(sums[:6, :6], sums[:6, 6], rcond=None)[0]
        curvature = np.array([[2 * xx, xy], [xy, 2 * yy]])
        if np.linalg.eigvalsh(curvature)[1] > -0.01:
            break  # not a summit
        move = np.clip(-np.linalg.solve(curvature, [slope_x, slope_y]), -4, 4)
        apex = apex + np.array([*move, level + np.dot([slope_x, slope_y], move) / 2])
    return guess + rotation.T @ apex
