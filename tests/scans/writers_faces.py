"""The test surface with the landmarks of a face, in the grammars of Bosphorus, FRGC and the DTU points of BU-3DFE."""

from pathlib import Path

import numpy as np

from smile.scans import Listing, Scan
from tests.scans.writers import SIDE, bump, write

VERTICES, FACES, UV = bump()

# Label in the files of Bosphorus -> (x, y) mm on the bulge; left is the subject's, at +x.
PLACES = {
    "Outer left eyebrow": (40.0, 45.0),
    "Inner left eye corner": (17.0, 30.0),
    "Inner right eye corner": (-17.0, 30.0),
    "Nose saddle left": (9.0, 25.0),
    "Nose saddle right": (-9.0, 25.0),
    "Nose tip": (0.0, 0.0),
    "Left mouth corner": (20.0, -30.0),
    "Upper lip outer middle": (0.0, -25.0),
    "Right mouth corner": (-20.0, -30.0),
    "Chin middle": (0.0, -50.0),
    "Ear lobe left": (58.0, -5.0),
}


def on_bump(x: float, y: float) -> tuple[float, float, float]:
    """The point of the bulge in front of (x, y): at most 0.8 mm from its facets."""
    return x, y, 100 - (x**2 + y**2) / 80


# 83 vertices for a `.bnd`, the eye and mouth corners where a face that looks along +z has them, left at +x.
MARKED = [
    {0: 52, 4: 51, 8: 55, 12: 56, 48: 88, 54: 91}.get(row, vertex) for row, vertex in enumerate(range(5, 88))
]

LABELS = {label: on_bump(*place) for label, place in PLACES.items()}


def bump_scan() -> Scan:
    return Scan(VERTICES, FACES)


def lm2(
    places: dict[str, tuple[float, float]],
    *,
    count: int | None = None,
    end: str = "\r\n",
    spacers: tuple[list[str], list[str]] = (["", "Labels:"], ["", "2D Image coordinates:"]),
) -> bytes:
    """A `.lm2`: two lines of remarks, the count, two lines, the labels, two lines, the pixels."""
    lines = [
        "# 2D landmarks",
        "# bs000_E_HAPPY_0.png",
        f"{len(places) if count is None else count} landmarks:",
    ]
    lines += [*spacers[0], *places, *spacers[1]]
    lines += [f"{x:.4f} {y:.4f}" for x, y in places.values()]
    return "".join(line + end for line in lines).encode()


def pixel(x: float, y: float, *, height: int, width: int) -> tuple[float, float]:
    """Where (x, y) of the bulge lies in an image that shows it from edge to edge: x to the right, y down."""
    return (x + 60) / 120 * width, (60 - y) / 120 * height


def abs_range(
    points: np.ndarray, *, head: str = "{rows} rows\n{columns} columns\npixels (flag X Y Z):\n"
) -> bytes:
    """A range image of FRGC out of (R, C, 3) points, NaN where nothing was measured; the first row is the top."""
    rows, columns = points.shape[:2]
    valid = np.isfinite(points).all(axis=2)
    lines = [
        head.format(rows=rows, columns=columns).rstrip("\n"),
        " ".join(str(int(v)) for v in valid.ravel()),
    ]
    filled = np.where(valid[..., None], points, -999999.0)
    lines += [" ".join(f"{value:.6f}" for value in filled[..., axis].ravel()) for axis in range(3)]
    return ("\n".join(lines) + "\n").encode()


def bump_points() -> np.ndarray:
    """(R, C, 3) of the bulge, forehead first."""
    return VERTICES.reshape(SIDE, SIDE, 3).copy()


def touch(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name, b"x")
    return root


def reasons(listing: Listing) -> str:
    return " | ".join(problem.reason for problem in listing.problems)
