"""Landmark files: Bosphorus `.lm3` and `.lm2`, BU `.bnd`, DTU `_84_LMS.txt` -> a dict of named points.

A point that several formats know has one name in all of them (`KEY_POINTS`); left and right are the subject's own,
so left has the larger x in a face that looks along +z. The other points keep a name of their format.

A landmark marks a place on the surface. One where the scan has no surface (a hole, the end of the scan, a vertex that
no triangle uses) is left out, as if the file did not hold it: Bosphorus itself leaves hidden landmarks out. Coarse grids
cut off the corners of eyes and mouth: a landmark that floats there by less than a grid step is put on the surface.
"""

import re
import warnings
from pathlib import Path

import numpy as np

from . import bnt, wrl
from .arrays import rows
from .scan import Scan
from .surface import nearest, spacing

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
_DTU84 = _BU83 | {42: "subnasale", 83: "nose_tip"}  # the same order and a nose tip (Deep-MVLM)
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
ON_SURFACE = (
    1.0  # mm from a landmark to the nearest triangle; farther out there is no surface that it could mark
)
ANOTHER_SCAN = 10.0  # mm: landmarks half of which lie farther out belong to another scan
ONE_STEP = 1.5  # grid steps in the image from a marked pixel to the nearest point; farther out lies a hole
_COUNT = re.compile(r"(\d{1,4})(?: landmarks?:?)?", re.IGNORECASE)
_EMPTY = re.compile(rb"\s*\S+(?:\s+-?(?:[0.]+|nan))*\s*", re.IGNORECASE)  # a row of a .bnd without a point
_REMEDY = "restore the landmark file that belongs to this scan, or take it away"


def read(path: Path, scan: Scan, *, mesh: Path) -> dict[str, np.ndarray]:
    """Name -> (3,) float64 mm on the surface of `scan`, which was read from `mesh`.

    Raises ValueError for a damaged file and for landmarks that do not lie on this scan.
    """
    name = path.name.lower()
    try:
        if name.endswith(".bnd"):
            return bnd(path.read_bytes(), scan, mesh=mesh)
        if name.endswith(".lm3"):
            return _own_left(_of_this_scan(lm3(path.read_bytes()), scan))
        if name.endswith(".lm2"):
            return _own_left(_placed(lm2(path.read_bytes()), scan, bnt.pixels(mesh)))
        if name.endswith("_84_lms.txt"):
            return _own_left(_of_this_scan(dtu84(path.read_bytes()), scan))
    except ValueError as error:
        raise ValueError(f"landmark file {path.name}: {error}") from error
    raise ValueError(
        f"landmark file {path.name}: only .bnd, .lm3, .lm2 and _84_LMS.txt are known: take it away"
    )


def lm3(text: bytes) -> dict[str, np.ndarray]:
    """Bosphorus `.lm3`: by label and never by position, because a hidden landmark is simply absent."""
    lines = _lines(text)
    if lines[1:2] == ["*"]:  # remarks up to an empty line, which may hold anything
        lines = lines[lines.index("") + 1 :] if "" in lines else []
    pairs: list[tuple[str, np.ndarray]] = []
    declared, previous = None, ""
    for line in lines:
        values = _numbers(line, 3)
        if values is not None and previous:
            pairs.append((previous, values))
        elif declared is None and (count := _COUNT.fullmatch(line)):
            declared = int(count.group(1))
        if line:
            previous = "" if values is not None else line
    return _known(pairs, declared=len(pairs) if declared is None else declared)


def lm2(text: bytes) -> dict[str, np.ndarray]:
    """Bosphorus `.lm2` -> name -> (2,) float64, x to the right and y down.

    Two lines, the count N, two lines, N labels, two lines, N pixels; in other spacing only the known labels count.
    """
    lines = _lines(text)
    start = next((i for i, line in enumerate(lines) if _COUNT.fullmatch(line)), None)
    if start is None:
        raise ValueError(f"it does not say how many landmarks it holds (a truncated file?): {_REMEDY}")
    declared = int(lines[start].split()[0])
    known = [line for line in lines[start + 1 :] if _label(line) in _BOSPHORUS]
    points = [value for line in lines[start + 1 :] if (value := _numbers(line, 2)) is not None]
    labels = lines[5 : 5 + declared]
    # A line too many or too few shifts the labels: then a known one lies outside, or the pixels do not come after them.
    placed = [_numbers(line, 2) for line in lines[7 + declared : 7 + 2 * declared]]
    fits = start == 2 and len(placed) == len(points) == declared and all(p is not None for p in placed)
    if not fits or [line for line in labels if _label(line) in _BOSPHORUS] != known:
        labels = known
    if len(labels) != len(points):
        raise ValueError(f"it holds {len(labels)} labels and {len(points)} pixels (truncated?): {_REMEDY}")
    return _known(list(zip(labels, points, strict=True)), declared=declared)


def dtu84(text: bytes) -> dict[str, np.ndarray]:
    """The 84 points that DTU marked on the uncropped meshes of BU-3DFE: lines `x y z`, after Deep-MVLM."""
    table = rows([line for line in text.splitlines() if line.strip()], what="_84_LMS.txt")
    if table.shape != (84, 3):
        raise ValueError(
            f"it holds {len(table)} rows of {table.shape[1]} numbers where 84 of 3 are known (truncated?): {_REMEDY}"
        )
    return {_DTU84.get(row, f"bu83_{row:02d}"): point for row, point in enumerate(table)}


def _lines(text: bytes) -> list[str]:
    return [" ".join(line.split()) for line in text.decode("latin-1").splitlines()]


def _label(line: str) -> str:
    return line.rstrip(": ").lower()


def _known(pairs: list[tuple[str, np.ndarray]], *, declared: int) -> dict[str, np.ndarray]:
    """The landmarks whose labels are known, under our names."""
    points = {_BOSPHORUS[_label(label)]: place for label, place in pairs if _label(label) in _BOSPHORUS}
    if not points:
        raise ValueError(f"it holds no known landmark (a truncated file?): {_REMEDY}")
    if declared != len(pairs):
        raise ValueError(f"it announces {declared} landmarks and holds {len(pairs)} (truncated?): {_REMEDY}")
    return points


def _of_this_scan(points: dict[str, np.ndarray], scan: Scan) -> dict[str, np.ndarray]:
    """`_on_surface`; ValueError where so many points float that the file belongs to another scan."""
    table = np.stack(list(points.values()))
    if not np.isfinite(table).all():
        raise ValueError(f"some of its numbers are not finite: {_REMEDY}")
    places = nearest(table, scan.vertices, scan.faces, enough=ON_SURFACE)
    away = np.linalg.norm(places - table, axis=1)
    far = int((away > ANOTHER_SCAN).sum())
    if far > len(away) / 2:
        worst = int(away.argmax())
        raise ValueError(
            f"{far} of {len(away)} landmarks are off the scan ({list(points)[worst]} by {away[worst]:.0f} mm), so it "
            f"belongs to another one: {_REMEDY}"
        )
    return _on_surface(points, places, scan)


def _on_surface(points: dict[str, np.ndarray], places: np.ndarray, scan: Scan) -> dict[str, np.ndarray]:
    """The points that mark a place on the surface. `places`: (n, 3) the nearest places of the surface, see `nearest`."""
    step, settled = spacing(scan.vertices, scan.faces), {}
    for (name, point), place in zip(points.items(), places, strict=True):
        away = float(np.linalg.norm(place - point))
        if away <= max(ON_SURFACE, step):
            settled[name] = point if away <= ON_SURFACE else place
    return settled


def _placed(places: dict[str, np.ndarray], scan: Scan, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The vertex of the surface nearest to each place in the image. `pixels`: (v, 2) where each vertex lies in it."""
    if not np.isfinite(np.stack(list(places.values()))).all():
        raise ValueError(f"some of its numbers are not finite: {_REMEDY}")
    sides = pixels[scan.faces]
    step = float(np.median(np.linalg.norm(sides - np.roll(sides, 1, axis=1), axis=2)))
    surface = np.unique(scan.faces)
    found = {}
    for name, place in places.items():
        away = np.linalg.norm(pixels[surface] - place, axis=1)
        if away.min() <= ONE_STEP * step:
            found[name] = scan.vertices[surface[away.argmin()]].copy()
    if len(found) < len(places) / 2:
        raise ValueError(
            f"{len(places) - len(found)} of {len(places)} landmarks are off the scan in its image, so it belongs to "
            f"another one: {_REMEDY}"
        )
    return found


def _numbers(line: str, count: int) -> np.ndarray | None:
    words = line.replace(",", " ").split()
    if len(words) != count:
        return None
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return None


def bnd(text: bytes, scan: Scan, *, mesh: Path | None = None) -> dict[str, np.ndarray]:
    """BU `.bnd`: rows `index x y z`, 68 (iBUG order) or 83 of them; blank rows and an 84th without a point are passed over.

    Rows that lie on no vertex are left out if they are few, and the file is refused if they are many. Where the `.wrl` at
    `mesh` has a Transform, rows written in the coordinates before it go where their vertices went.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 84 and _EMPTY.fullmatch(lines[83]):
        lines = lines[:83]
    table = rows(lines, what=".bnd")
    names = {68: _IBUG68, 83: _BU83}.get(len(table))
    if names is None or table.shape[1] != 4:
        raise ValueError(
            f"it holds {len(table)} rows of {table.shape[1]} numbers where 68 or 83 rows of 4 "
            f"are known (truncated?): {_REMEDY}"
        )
    base, keep = _placed_rows(table, scan, mesh)
    points = {
        names.get(row, f"{'ibug68' if len(table) == 68 else 'bu83'}_{row:02d}"): table[row, 1:].copy()
        for row in np.flatnonzero(keep).tolist()
    }
    used = np.zeros(len(scan.vertices), bool)
    used[scan.faces] = True
    loose = ~used[(table[keep, 0] - base).astype(np.int64)]
    floating = {name: points.pop(name) for name, off in zip(list(points), loose, strict=True) if off}
    if floating:
        places = nearest(np.stack(list(floating.values())), scan.vertices, scan.faces, enough=ON_SURFACE)
        points |= _on_surface(floating, places, scan)
    return points if len(table) == 68 else _own_left(points)


def _placed_rows(table: np.ndarray, scan: Scan, mesh: Path | None) -> tuple[int, np.ndarray]:
    """(`index_base`, (r,) bool which rows lie on their vertex); rows before a Transform are moved in place."""
    try:
        base = index_base(table, scan.vertices)
        return base, lies_on(table, scan.vertices, base=base)
    except ValueError:
        own = wrl.own_points(mesh) if mesh is not None and mesh.suffix.lower() == ".wrl" else scan.vertices
        if own.shape != scan.vertices.shape or np.array_equal(own, scan.vertices):
            raise
    base = index_base(table, own)
    keep = lies_on(table, own, base=base)
    table[keep, 1:] = scan.vertices[(table[keep, 0] - base).astype(np.int64)]
    return base, keep


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
