"""Where points lie beside the surface of a mesh. Arrays: n points, v vertices, f triangles."""

import numpy as np


def nearest(
    points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, *, enough: float = 0.0
) -> np.ndarray:
    """(n, 3) float64: the point of the triangles `faces` (f, 3) over `vertices` (v, 3) nearest to each of `points` (n, 3).

    Vertices that no triangle uses are no surface. Where a vertex lies within `enough` mm of a point it is taken and no
    triangle is looked at. Made for some dozens of points.
    """
    from trimesh.triangles import closest_point

    used = np.zeros(len(vertices), bool)
    used[faces] = True
    surface = vertices[used]
    squares = (((surface - point) ** 2).sum(axis=1) for point in points)
    found = np.array([surface[square.argmin()] for square in squares]).reshape(-1, 3)
    away = np.linalg.norm(found - points, axis=1)
    if (away <= enough).all():  # also true for no points
        return found
    corners = vertices[faces]  # (f, 3, 3)
    reach = np.sqrt(
        ((corners - np.roll(corners, 1, axis=1)) ** 2).sum(axis=2).max(axis=1)
    )  # (f,) longest edge
    for row in np.flatnonzero(away > enough):
        to_corner = np.sqrt(((corners[:, 0] - points[row]) ** 2).sum(axis=1))
        near = corners[
            to_corner - reach <= away[row]
        ]  # no other triangle can come closer than the nearest vertex
        closest = closest_point(near, np.broadcast_to(points[row], (len(near), 3)))
        found[row] = closest[((closest - points[row]) ** 2).sum(axis=1).argmin()]
    return found


def distances(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(n,) float64 mm from each of `points` to the surface, see `nearest`."""
    return np.asarray(np.linalg.norm(nearest(points, vertices, faces) - points, axis=1))


def spacing(vertices: np.ndarray, faces: np.ndarray) -> float:
    """mm between neighbouring samples: the median over the triangles of their shortest edge."""
    corners = vertices[faces]
    edges = ((corners - np.roll(corners, 1, axis=1)) ** 2).sum(axis=2)
    return float(np.sqrt(np.median(edges.min(axis=1))))
