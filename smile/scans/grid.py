"""Organised points (range images, depth images): a grid with holes -> vertices and triangles.

Arrays: R rows, C columns, v valid points, f triangles.
"""

import numpy as np

JUMP = 5.0  # grid steps; a longer edge (steeper than 78 degrees) bridges a depth jump, as from nose to cheek
SMALLEST_JUMP = 4.0  # mm, so that noise does not tear a fine grid
MOST_POINTS = 2_500_000  # more than a scanner's frame has; to make triangles of as many takes half a gigabyte


def triangulate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """points: (R, C, 3) mm as the scanner sees them along -z, a NaN in every invalid point, whichever way rows and columns run.

    Returns ((v, 3) float64 vertices row by row, (f, 3) int64 faces with their normals towards +z, (v, 2) int64 row and
    column of each vertex): two triangles a cell where all corners are valid, without edges that bridge a depth jump.
    Raises ValueError where the valid points are too many for one scan.
    """
    valid = ~np.isnan(points).any(axis=2)
    if int(valid.sum()) > MOST_POINTS:
        raise ValueError(f"{int(valid.sum()):,} points are too many for one scan: export the face alone")
    number = np.full(valid.shape, -1)
    number[valid] = np.arange(int(valid.sum()))
    vertices = np.ascontiguousarray(points[valid], np.float64)
    return vertices, _faces(number, vertices), np.argwhere(valid)


def _faces(number: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """(f, 3). `number`: (R, C) vertex of each point, or -1."""
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    faces = np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], axis=1).reshape(-1, 3)
    faces = faces[(faces >= 0).all(axis=1)]
    if not len(faces):
        return faces
    longest, steps = np.zeros(len(faces)), []
    for first, second in ((0, 1), (1, 2), (2, 0)):
        edge = vertices[faces[:, second]]
        edge -= vertices[faces[:, first]]
        np.maximum(longest, np.einsum("fx,fx->f", edge, edge), out=longest)
        steps.append(np.maximum(np.abs(edge[:, 0]), np.abs(edge[:, 1])))
    step = np.median(np.concatenate(steps))  # mm between neighbours, seen from the front
    faces = faces[longest <= max(JUMP * step, SMALLEST_JUMP) ** 2]
    # Which way the columns run is often stated nowhere; a face seen by its scanner has its normals along +z.
    return faces if _signed_area(faces[:: max(1, len(faces) // 100_000)], vertices) >= 0 else faces[:, ::-1]


def _signed_area(faces: np.ndarray, vertices: np.ndarray) -> float:
    """Sum over the triangles of twice the area seen from +z; positive where they run counter-clockwise."""
    first, second, third = (vertices[faces[:, corner], :2] for corner in range(3))
    one, two = second - first, third - second
    return float((one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum())
