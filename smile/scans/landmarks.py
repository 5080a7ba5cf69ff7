"""Landmark files: Bosphorus `.lm3` and BU `.bnd` -> a dict of named points.

A point that several formats know has one name in all of them (`KEY_POINTS`); left and right are the subject's own,
so left has the larger x in a face that looks along +z. The other points keep a name of their format.
"""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .arrays import rows

KEY_POINTS = (
    "nose_tip",
    "nose_bridge",
    "subnasale",
    "chin",
    "right_eye_outer",
    "right_eye_inner",
    "left_eye_inner",
    "left_eye_outer",
    "right_mouth_corner",
    "left_mouth_corner",
)

# iBUG 68 (300-W), 0-based.
_IBUG68 = {
    8: "chin",
    27: "nose_bridge",
    30: "nose_tip",
    33: "subnasale",
    36: "right_eye_outer",
    39: "right_eye_inner",
    42: "left_eye_inner",
    45: "left_eye_outer",
    48: "right_mouth_corner",
    54: "left_mouth_corner",
}
# BU 83, 0-based: groups after menpo `bu3dfe_83`, corners after Deep-MVLM. They agree on the order and not on which
# side is left, so `_own_left` decides. There is no nose tip.
_BU83 = {
    0: "right_eye_inner",
    4: "right_eye_outer",
    8: "left_eye_inner",
    12: "left_eye_outer",
    48: "right_mouth_corner",
    54: "left_mouth_corner",
    75: "chin",
}
_BOSPHORUS = {
    "nose tip": "nose_tip",
    "chin middle": "chin",
    "outer right eye corner": "right_eye_outer",
    "inner right eye corner": "right_eye_inner",
    "inner left eye corner": "left_eye_inner",
    "outer left eye corner": "left_eye_outer",
    "right mouth corner": "right_mouth_corner",
    "left mouth corner": "left_mouth_corner",
}
_BOSPHORUS |= {
    label: label.replace(" ", "_")
    for label in (
        "outer left eyebrow",
        "middle left eyebrow",
        "inner left eyebrow",
        "inner right eyebrow",
        "middle right eyebrow",
        "outer right eyebrow",
        "nose saddle left",
        "nose saddle right",
        "left nose peak",
        "right nose peak",
        "upper lip outer middle",
        "upper lip inner middle",
        "lower lip inner middle",
        "lower lip outer middle",
        "ear lobe left",
        "ear lobe right",
    )
}

SAME_VERTEX = 0.1  # mm between a .bnd row and its vertex; the files print at least three decimals
MATCHING = 0.9  # of the rows must lie on their vertex
ON_SURFACE = 25.0  # mm from a .lm3 point to the nearest vertex, so that points over holes stay
_REMEDY = "restore the landmark file that belongs to this scan, or take it away"


def read(path: Path, vertices: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (3,) float64 mm, for the scan with `vertices` (v, 3) in the order of its file.

    Raises ValueError for a damaged file and for landmarks that do not lie on this scan.
    """
    readers: dict[str, Callable[[bytes, np.ndarray], dict[str, np.ndarray]]] = {".lm3": lm3, ".bnd": bnd}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"landmark file {path.name}: only {' and '.join(readers)} are known: take it away")
    try:
        return reader(path.read_bytes(), vertices)
    except ValueError as error:
        raise ValueError(f"landmark file {path.name}: {error}") from error


def lm3(text: bytes, vertices: np.ndarray) -> dict[str, np.ndarray]:
    """Bosphorus `.lm3`: by label and never by position, because a hidden landmark is simply absent."""
    lines = [" ".join(line.split()) for line in text.decode("latin-1").splitlines()]
    points, pairs, declared = {}, 0, None
    previous = ""
    for line in lines:
        values = _triple(line)
        if values is not None and previous:
            pairs += 1
            name = _BOSPHORUS.get(previous.lower())
            if name is not None:
                points[name] = values
        elif declared is None and (count := re.fullmatch(r"(\d+)(?: landmarks?:?)?", line)):
            declared = int(count.group(1))
        if line:
            previous = "" if values is not None else line
    if not points:
        raise ValueError(f"it holds no known landmark (a truncated file?): {_REMEDY}")
    if declared is not None and declared != pairs:
        raise ValueError(f"it announces {declared} landmarks and holds {pairs} (truncated?): {_REMEDY}")
    found = np.stack(list(points.values()))
    if not np.isfinite(found).all():
        raise ValueError(f"some of its numbers are not finite: {_REMEDY}")
    for name, point in points.items():
        distance = float(np.sqrt(((vertices - point) ** 2).sum(axis=1).min()))
        if distance > ON_SURFACE:
            raise ValueError(f"{name} lies {distance:.0f} mm from the scan: {_REMEDY}")
    return _own_left(points)


def _triple(line: str) -> np.ndarray | None:
    words = line.split()
    if len(words) != 3:
        return None
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return None


def bnd(text: bytes, vertices: np.ndarray) -> dict[str, np.ndarray]:
    """BU `.bnd`: rows `index x y z`, 68 (iBUG order) or 83 of them; blank rows are passed over.

    Rows that lie on no vertex are left out if they are few, and the file is refused if they are many.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    table = rows(lines, what=".bnd")
    names = {68: _IBUG68, 83: _BU83}.get(len(table))
    if names is None or table.shape[1] != 4:
        raise ValueError(
            f"it holds {len(table)} rows of {table.shape[1]} numbers where 68 or 83 rows of 4 "
            f"are known (truncated?): {_REMEDY}"
        )
    on_vertex = lies_on(table, vertices, base=index_base(table, vertices))
    points = {
        names.get(row, f"{'ibug68' if len(table) == 68 else 'bu83'}_{row:02d}"): table[row, 1:].copy()
        for row in np.flatnonzero(on_vertex).tolist()
    }
    return points if len(table) == 68 else _own_left(points)


def index_base(table: np.ndarray, vertices: np.ndarray) -> int:
    """0 or 1: what the indices of a `.bnd` count from, decided by comparing its points with the vertices.

    `table`: (r, 4) index x y z. Raises ValueError where neither fits. Public readers disagree about the base.
    """
    fitting = [int(lies_on(table, vertices, base=base).sum()) for base in (0, 1)]
    if max(fitting) < MATCHING * len(table):
        raise ValueError(
            f"only {max(fitting)} of {len(table)} points lie on the vertex that their index names, "
            "counted from 0 or from 1, so it belongs to another mesh (in BU-3DFE it fits _F3D and "
            f"not _RAW): {_REMEDY}"
        )
    return int(np.argmax(fitting))


def lies_on(table: np.ndarray, vertices: np.ndarray, *, base: int) -> np.ndarray:
    """(r,) bool: which rows `index x y z` lie on the vertex that their index names, counted from `base`."""
    index = table[:, 0] - base
    inside = (index >= 0) & (index < len(vertices)) & (index == np.rint(index))  # also false for NaN
    nearest = vertices[np.where(inside, index, 0).astype(np.int64)]
    return inside & (np.linalg.norm(nearest - table[:, 1:], axis=1) <= SAME_VERTEX)


def _own_left(points: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Left and right exchanged where the file means the viewer's; no source states which a data set means."""
    twins = {name: name.replace("left", "right") for name in points if "left" in name}
    if (
        sum(float(points[left][0] - points[right][0]) for left, right in twins.items() if right in points)
        >= 0
    ):
        return points
    warnings.warn("the landmarks call left what has the smaller x: both sides were exchanged", stacklevel=3)
    other = {"left": "right", "right": "left"}
    return {re.sub("left|right", lambda m: other[m.group()], name): point for name, point in points.items()}
