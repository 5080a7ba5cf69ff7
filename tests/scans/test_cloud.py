"""Points without faces: the surface laid through them against spheres and a simulated face."""

from pathlib import Path

import numpy as np
import pytest

from simulations import faces as simulated
from smile import geometry
from smile.scans import Scan, cloud, read_file
from tests.scans.writers import bump, ply, write
from tests.scans.writers_depth import PHONE, photograph
from tests.scans.writers_meshes import pcd

VERTICES, FACES, _ = bump(30)
COLORS = np.where(VERTICES[:, :1] > 0, [[220, 20, 20]], [[20, 20, 220]]).astype(np.uint8)


def sphere(count: int = 4000) -> np.ndarray:
    """(n, 3) points of Fibonacci on a sphere of 80 mm."""
    place = np.arange(count) + 0.5
    z, turn = 1 - 2 * place / count, np.pi * (1 + 5**0.5) * place
    ring = np.sqrt(1 - z**2)
    return 80 * np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


def xyz(*columns: np.ndarray, separator: str = " ") -> bytes:
    return "\n".join(
        separator.join(f"{v:.6g}" for v in row) for row in np.concatenate(columns, axis=1)
    ).encode()


def drawn(vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(60000, 3) points all over a mesh, evenly by area."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(area), 60_000, p=area / area.sum())
    u, v = rng.uniform(size=(2, 60_000, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]


def areas(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """((f, 3) vectors of the area of each face, (f, 3) middles)."""
    a, b, c = scan.vertices[scan.faces].transpose(1, 0, 2)
    return np.cross(b - a, c - a) / 2, (a + b + c) / 3


def red_is_left(scan: Scan) -> bool:
    assert scan.vertex_colors is not None
    red = scan.vertex_colors[:, 0] > scan.vertex_colors[:, 2]
    sure = np.abs(scan.vertices[:, 0]) > 4
    return bool((red == (scan.vertices[:, 0] > 0))[sure].all())


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_sphere_closes_and_looks_outward(noise: float) -> None:
    points = sphere() + np.random.default_rng(1).normal(0, noise, (4000, 3))
    scan = cloud.surface(points, None)
    area, middle = areas(scan)
    assert (np.einsum("fi,fi->f", area, middle) > 0).mean() == pytest.approx(1, abs=0.002)
    volume = np.einsum("fi,fi->", area, middle) / 3
    assert volume == pytest.approx(4 / 3 * np.pi * 80**3, rel=0.02)
    if noise == 0:
        edges = np.sort(
            np.concatenate([scan.faces[:, [0, 1]], scan.faces[:, [1, 2]], scan.faces[:, [2, 0]]]), axis=1
        )
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).mean() > 0.99  # all but watertight
        assert len(scan.vertices) == len(points)


def test_an_open_surface_keeps_its_edge_and_its_colours(tmp_path: Path) -> None:
    scan = read_file(write(tmp_path / "a.xyz", xyz(VERTICES, COLORS.astype(float))))
    area, _ = areas(scan)
    assert (area[:, 2] >= 0).all()
    assert area[:, 2].sum() == pytest.approx(120 * 120, rel=0.02)
    assert red_is_left(scan)


def test_a_face_of_points_comes_out_aligned_like_its_mesh() -> None:
    """Points drawn evenly from what a scanner sees of a simulated face, with its noise."""
    from scipy.spatial import cKDTree

    face = simulated.face(simulated.sample_identity(np.random.default_rng(5)), {"AU12": 0.7})
    rng = np.random.default_rng(2)
    seen = np.unique(photograph(face.vertices - [0, 0, 400], face.faces, PHONE)[1])[1:]
    points = drawn(face.vertices, face.faces[seen], rng) + rng.normal(0, 0.15, (60_000, 3))
    colors = np.where(points[:, :1] > 0, [[220, 20, 20]], [[20, 20, 220]]).astype(np.uint8)
    own = geometry.align(Scan(face.vertices, face.faces), radius=95).scan
    scan = cloud.surface(points, colors)
    assert len(scan.vertices) <= cloud.MOST
    aligned = geometry.align(scan, radius=95).scan
    truth = drawn(own.vertices, own.faces, rng)
    assert np.quantile(cKDTree(truth).query(aligned.vertices)[0], 0.99) < 3.0
    assert red_is_left(aligned)
    normals = geometry.vertex_normals(aligned.vertices, aligned.faces)
    nose = np.linalg.norm(aligned.vertices, axis=1) < 40
    assert (normals[nose, 2] > 0).mean() > 0.97


def test_far_off_points_and_invalid_points_are_dropped() -> None:
    stray = np.array([[500.0, 0, 0], [0, -900, 30], [np.nan, 0, 0], [np.inf, 1, 1], [4e4, 4e4, 4e4]])
    scan = cloud.surface(np.concatenate([VERTICES, stray]), None)
    assert np.abs(scan.vertices).max() < 110
    assert len(scan.vertices) == len(VERTICES)


def test_many_points_become_few() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(120_000, 3))
    points *= 80 / np.linalg.norm(points, axis=1, keepdims=True)
    scan = cloud.surface(points, None)
    assert 0.4 * cloud.MOST < len(scan.vertices) <= cloud.MOST
    np.testing.assert_allclose(np.linalg.norm(scan.vertices, axis=1), 80, atol=0.5)


def test_units_do_not_matter() -> None:
    large, small = (cloud.surface(VERTICES * unit, None) for unit in (1.0, 0.001))
    np.testing.assert_array_equal(large.faces, small.faces)
    np.testing.assert_allclose(large.vertices, small.vertices * 1000, atol=1e-6)


# --- formats -----------------------------------------------------------------

NORMALS = geometry.vertex_normals(VERTICES, FACES)
PLY = ply(VERTICES, FACES[:0], color=(9, 8, 7))
OBJ = "\n".join(
    f"v {x} {y} {z} {r / 255:.4f} {g / 255:.4f} {b / 255:.4f}" for x, y, z, r, g, b in np.c_[VERTICES, COLORS]
)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.xyz", xyz(VERTICES, COLORS.astype(float))),
        ("a.txt", b"X Y Z R G B\n" + xyz(VERTICES, COLORS.astype(float), separator=",")),
        ("a.xyz", b"900\r\n" + xyz(VERTICES, COLORS / 255, separator=";").replace(b"\n", b"\r\n")),
        (
            "a.xyz",
            b"# from a test\n" + xyz(VERTICES, COLORS.astype(float), NORMALS, separator="\t") + b"\n\n",
        ),
        ("a.xyz", b"// from a test\n" + xyz(VERTICES, NORMALS, COLORS.astype(float))),
        ("a.pcd", pcd(VERTICES, COLORS)),
        ("a.pcd", pcd(VERTICES, COLORS, kind="ascii")),
        ("a.pcd", pcd(VERTICES, COLORS, shape=(30, 30))),
        ("a.obj", OBJ.encode()),
    ],
)
def test_every_format_holds_the_same_points(tmp_path: Path, name: str, data: bytes) -> None:
    scan = read_file(write(tmp_path / name, data))
    order = np.lexsort(np.round(scan.vertices, 2).T)
    np.testing.assert_allclose(scan.vertices[order], VERTICES[np.lexsort(np.round(VERTICES, 2).T)], atol=2e-3)
    area, _ = areas(scan)
    assert (area[:, 2] > 0).mean() > 0.998
    assert area[:, 2].sum() == pytest.approx(120 * 120, rel=0.03)
    assert red_is_left(scan)


def test_given_normals_say_where_the_outside_is(tmp_path: Path) -> None:
    for sign in (1, -1):
        scan = read_file(write(tmp_path / "a.xyz", xyz(VERTICES, sign * NORMALS)), need_texture=False)
        assert (areas(scan)[0][:, 2] * sign >= 0).all()


def test_ply_without_faces(tmp_path: Path) -> None:
    for data in (PLY, PLY.replace(b"element face 0\nproperty list uchar int vertex_indices\n", b"")):
        scan = read_file(write(tmp_path / "a.ply", data))
        assert len(scan.vertices) == len(VERTICES)
        assert (areas(scan)[0][:, 2] >= 0).all()
        assert scan.vertex_colors is not None
        assert (scan.vertex_colors == (9, 8, 7)).all()


def test_organised_pcd_in_the_frame_of_its_camera(tmp_path: Path) -> None:
    """PCL and ROS: metres, x right, y down, z forward, NaN where nothing was seen."""
    camera = (VERTICES * [1, -1, -1] + [0, 0, 500]) / 1000
    camera[17] = np.nan
    scan = read_file(write(tmp_path / "a.pcd", pcd(camera, COLORS, shape=(30, 30))))
    assert len(scan.vertices) == len(VERTICES) - 1
    np.testing.assert_allclose(scan.vertices, np.delete(VERTICES, 17, axis=0) - [0, 0, 500], atol=1e-3)
    assert (areas(scan)[0][:, 2] > 0).all()
    assert red_is_left(scan)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.xyz", b"1 2\n3 4\n", "its lines hold 2 numbers where x y z"),
        ("a.xyz", b"1 2 3\n4 5\n", "has 2 numbers and the first line 3"),
        ("a.xyz", b"1 2 3\n4 five 6\n", "'five' is not a number"),
        ("a.xyz", b"\n\n", "0 numbers where x y z"),
        ("a.txt", b"Dear diary,\ntoday I scanned a face\n", "is not a number|its lines hold"),
        ("a.xyz", b"1 2 3\n" * 5, "5 points are too few for a face"),
        ("a.xyz", b"1 2 3\n" * 500, "its points lie in one place"),
        ("a.xyz", xyz(VERTICES * 1e6), "cannot belong to a face: export it in millimetres"),
        ("a.xyz", b"nan nan nan\n" * 500, "0 points are too few"),
        ("a.pcd", b"Dear diary", "no PCD header with a DATA line"),
        ("a.pcd", pcd(VERTICES)[:-1], r"announces 10800 bytes and 10799 follow"),
        ("a.pcd", pcd(VERTICES, total=4_000_000_000), "announces 4,000,000,000 points"),
        ("a.pcd", pcd(VERTICES, total=40_000_000), "announces 480000000 bytes and 10800 follow"),
        ("a.pcd", pcd(VERTICES, kind="ascii", total=901), "announces 901 points and 900 follow"),
        ("a.pcd", pcd(VERTICES).replace(b"DATA binary", b"DATA binary_compressed"), "save it uncompressed"),
        ("a.pcd", pcd(VERTICES).replace(b"FIELDS x y z", b"FIELDS x y q"), "are 'x y q' and not x y z"),
        ("a.pcd", pcd(VERTICES).replace(b"SIZE 4 4 4", b"SIZE 4 4"), "do not fit together"),
        ("a.pcd", pcd(VERTICES).replace(b"COUNT 1 1 1", b"COUNT 1 1 999999999"), "do not fit together"),
        ("a.pcd", pcd(VERTICES).replace(b"WIDTH 900", b"WIDTH -9"), "gives '-9' for WIDTH"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_file(write(tmp_path / name, data), need_texture=False)
    assert "\n" not in str(caught.value)


def test_points_without_colours(tmp_path: Path) -> None:
    for name, data in (
        ("a.xyz", xyz(VERTICES)),
        ("a.pcd", pcd(VERTICES)),
        ("b.pcd", pcd(VERTICES, shape=(30, 30))),
    ):
        with pytest.raises(
            ValueError, match=r"its points have no colours: export it with colour, or prepare without"
        ):
            read_file(write(tmp_path / name, data))
        assert read_file(tmp_path / name, need_texture=False).vertex_colors is None
