"""Triangles out of organised points, and distances to a surface."""

import numpy as np
import pytest

from smile.scans import grid
from smile.scans.grid import triangulate
from smile.scans.surface import distances
from tests.scans.writers_faces import FACES, VERTICES, bump_points


def test_vertices_know_their_place_in_the_grid() -> None:
    points = bump_points()
    points[2, 3:6] = np.nan
    points[7, 7, 0] = np.nan  # one value is enough
    vertices, faces, place = triangulate(points)
    assert (vertices.dtype, faces.dtype, len(vertices)) == (np.float64, np.int64, 140)
    np.testing.assert_array_equal(points[place[:, 0], place[:, 1]], vertices)
    assert len(faces) == len(FACES) - 14 - 6  # the triangles round three points in a row and round one


@pytest.mark.parametrize(
    "turned", [lambda p: p, lambda p: p[::-1], lambda p: p[:, ::-1], lambda p: p.transpose(1, 0, 2)]
)
def test_normals_face_the_scanner_whichever_way_the_grid_runs(turned) -> None:  # type: ignore[no-untyped-def]
    vertices, faces, _ = triangulate(turned(bump_points()))
    corners = vertices[faces]
    assert len(faces) == len(FACES)
    assert (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0).all()


def test_noise_on_a_fine_grid_tears_nothing_and_a_wall_behind_is_apart() -> None:
    x, y = np.meshgrid(np.arange(0, 30, 0.3), np.arange(30, 0, -0.3))
    z = np.random.default_rng(0).normal(0, 0.5, x.shape)
    z[:, 50:] -= 10
    faces = triangulate(np.stack([x, y, z], axis=-1))[1]
    assert len(faces) == 2 * 99 * 99 - 2 * 99  # all but the column of cells over the step


@pytest.mark.parametrize("shape", [(0, 0), (1, 5), (5, 1), (4, 4)])
def test_no_cell_no_face(shape: tuple[int, int]) -> None:
    points = np.full((*shape, 3), np.nan)
    vertices, faces, place = triangulate(points)
    assert (vertices.shape, faces.shape, place.shape) == ((0, 3), (0, 3), (0, 2))


def test_too_many_points_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "MOST_POINTS", 100)
    with pytest.raises(ValueError, match="144 points are too many for one scan: export the face alone"):
        triangulate(bump_points())


def test_distances_against_a_dense_sampling_of_the_triangles() -> None:
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.ones(3), 400)  # (s, 3) places within a triangle
    points = rng.uniform((-90, -90, 0), (90, 90, 140), (15, 3))
    samples = np.einsum("sc,fcx->sfx", weights, VERTICES[FACES]).reshape(-1, 3)
    samples = np.concatenate([samples, VERTICES])
    dense = np.sqrt(((points[:, None] - samples) ** 2).sum(axis=2).min(axis=1))
    exact = distances(points, VERTICES, FACES)
    assert (exact <= dense + 1e-9).all()
    assert (dense - exact).max() < 0.6  # mm; the samples lie about a millimetre apart
    on = np.einsum("sc,scx->sx", weights[:50], VERTICES[FACES[:50]])
    assert distances(on, VERTICES, FACES).max() < 1e-9


def test_a_vertex_without_a_triangle_is_no_surface() -> None:
    vertices = np.concatenate([VERTICES, [[0.0, 0.0, 400.0]]])
    assert distances(vertices[-1:], vertices, FACES)[0] > 299
    assert len(distances(np.zeros((0, 3)), vertices, FACES)) == 0
