"""Surfaces with known answers, as scans in the project frame (mm, +y up, +z out of the face)."""

import numpy as np

from smile.scans.scan import Scan, Texture
from smile.views.cameras import PIVOT


def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Two triangles a cell, counter-clockwise when x grows with the column and y falls with the row."""
    i = np.arange(rows * columns).reshape(rows, columns)
    upper, lower = (i[:-1, :-1], i[1:, :-1], i[:-1, 1:]), (i[1:, :-1], i[1:, 1:], i[:-1, 1:])
    return np.concatenate([np.stack(corners, axis=-1).reshape(-1, 3) for corners in (upper, lower)])


def sphere(radius: float = 60.0, centre: np.ndarray = PIVOT, *, steps: int = 120) -> Scan:
    longitude, latitude = np.meshgrid(
        np.linspace(0, 2 * np.pi, 2 * steps + 1), np.linspace(0, np.pi, steps + 1)
    )
    unit = np.stack(
        [
            np.sin(latitude) * np.cos(longitude),
            np.cos(latitude),
            -np.sin(latitude) * np.sin(longitude),
        ],
        axis=-1,
    )
    return Scan(radius * unit.reshape(-1, 3) + centre, grid_faces(*longitude.shape))


def plane(*, half: float = 60.0, z: float = PIVOT[2], count: int = 31) -> Scan:
    """A square that looks along +z, its texture four colours: red | green over blue | yellow."""
    x, y = np.meshgrid(np.linspace(-half, half, count), np.linspace(half, -half, count))
    vertices = np.stack([x, y, np.full_like(x, z)], axis=-1).reshape(-1, 3)
    faces = grid_faces(count, count)
    quadrants = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], dtype=np.uint8)
    image = quadrants.repeat(16, axis=0).repeat(24, axis=1)
    uv = vertices[:, :2] / (2 * half) + 0.5
    return Scan(vertices, faces, texture=Texture(image, uv[faces].astype(np.float32)))


def face(*, spacing: float = 3.0, size: float = 1.0, seed: int = 0, bust: bool = False) -> Scan:
    """A face of its own making, not the mean face of the library: other profile, one crooked eyebrow, a smile, some noise.

    With `bust`, hair, a neck and shoulders behind and below. The nose tip lies near the origin.
    """
    x, y = np.meshgrid(np.arange(-84.0, 84.1, spacing), np.arange(96.0, -90.1, -spacing))
    z = 92 * np.sqrt(np.clip(1 - (x / 88) ** 2 - ((y - 8) / 150) ** 4, 0.01, None)) - 118
    for height, at_x, at_y, width_x, width_y in (
        *((15, 0, 2, 15, 12), (13, 0, 14, 9, 16), (5, 15, -4, 8, 8), (-8, 33, 33, 15, 9), (3, 32, 31, 9, 5)),
        *(
            (5, 30, 50, 20, 8),
            (4, -34, 54, 12, 5),
            (7, 44, 4, 18, 16),
            (7, 0, -30, 24, 13),
            (3, 0, -27, 16, 4),
        ),
        *((3, 0, -42, 15, 5), (-4, 0, -36, 27, 3), (5, 0, -66, 18, 10)),
    ):
        for side in (1, -1) if at_x > 0 else (1,):
            z += height * np.exp(-(((x - side * at_x) / width_x) ** 2) - ((y - at_y) / width_y) ** 2)
    inside = (x / 80) ** 2 + ((y - 3) / 92) ** 2 <= 1
    z += np.random.default_rng(seed).normal(0, 0.15, z.shape)
    vertices, faces = size * np.stack([x, y, z], axis=-1).reshape(-1, 3), grid_faces(*x.shape)
    faces = faces[inside.ravel()[faces].all(1)]
    if bust:
        hair, neck, shoulders = (
            ((0, 45, -125), (92, 105, 100)),
            ((0, -110, -105), (55, 70, 55)),
            ((0, -250, -120), (200, 90, 85)),
        )
        for centre, radii in (hair, neck, shoulders):
            ball = sphere(1.0, np.zeros(3), steps=30)
            faces = np.concatenate([faces, ball.faces + len(vertices)])
            vertices = np.concatenate([vertices, size * (ball.vertices * radii + centre)])
    used, faces = np.unique(faces, return_inverse=True)
    vertices = vertices[used]
    colours = np.clip(128 + vertices * [0.6, 0.6, 0.4], 0, 255).astype(np.uint8)
    return Scan(vertices, faces.reshape(-1, 3), vertex_colors=colours)
