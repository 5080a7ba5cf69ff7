"""The virtual scanners: noise as set, holes where a device fails, landmarks and colours on the surface."""

import dataclasses

import numpy as np
import pytest

from simulations.faces import ACTION_UNITS, Face, face, sample_identity
from simulations.raster import Window, rasterise
from simulations.scanners import SCANNERS, Scanner, capture, sample_pose, scan
from smile.geometry import vertex_normals

IDEAL = Scanner("ideal", pitch=2.5, noise=0.0, grazing=89.0, pose=0.0, wander=0.0, grain=0.0)
STILL = np.zeros(6)


@pytest.fixture(scope="module")
def smiling() -> Face:
    return face(sample_identity(np.random.default_rng(3)), ACTION_UNITS["happiness"])


def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def test_rasterised_plane_is_exact() -> None:
    """z = 1 + 0.5 x - 0.2 y over a square, a nearer triangle before it."""
    corners = np.array([[-10, -10], [10, -10], [10, 10], [-10, 10]], dtype=float)
    plane = np.column_stack([corners, 1 + 0.5 * corners[:, 0] - 0.2 * corners[:, 1]])
    near = np.array([[-3, -3, 20], [3, -3, 20], [0, 3, 20]], dtype=float)
    window = Window(left=-11.5, top=11.5, pitch=1.0, rows=24, columns=24)
    hits = rasterise(np.concatenate([plane, near]), np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6]]), window)
    x, y = np.meshgrid(window.x(), window.y())
    inside = (np.abs(x) < 10) & (np.abs(y) < 10)
    assert np.array_equal(hits.face >= 0, inside)
    expected = np.where(hits.face == 2, 20, 1 + 0.5 * x - 0.2 * y)
    assert hits.depth[inside] == pytest.approx(expected[inside])
    assert (hits.face == 2).sum() == pytest.approx(18, abs=6)  # mm^2 of the triangle, at one pixel a mm^2
    assert hits.bary[inside].sum(-1) == pytest.approx(1)


def test_there_are_different_devices() -> None:
    assert len(SCANNERS) >= 4
    settings = [dataclasses.astuple(s)[1:] for s in SCANNERS.values()]
    assert len(set(settings)) == len(SCANNERS)


@pytest.mark.parametrize("noise", [0.2, 0.5])
def test_noise_is_as_set(smiling: Face, noise: float) -> None:
    device = dataclasses.replace(IDEAL, noise=noise)
    clean = capture(smiling, IDEAL, rng(), pose=STILL).points[..., 2]
    noisy = capture(smiling, device, rng(), pose=STILL).points[..., 2]
    difference = (noisy - clean)[np.isfinite(noisy - clean)]
    assert len(difference) > 2000
    assert difference.std() == pytest.approx(noise, rel=0.06)
    assert abs(difference.mean()) < 0.05


def test_ideal_scan_lies_on_the_face(smiling: Face) -> None:
    shot = capture(smiling, IDEAL, rng(), pose=STILL)
    nose = smiling.landmarks["nose_tip"]
    row, column = np.unravel_index(np.nanargmax(shot.points[..., 2]), shot.points.shape[:2])
    assert np.linalg.norm(shot.points[row, column] - nose) < 5
    for name in ("nose_tip", "chin", "left_mouth_corner", "right_eye_inner"):
        assert shot.landmarks[name] == pytest.approx(smiling.landmarks[name], abs=1e-9)


@pytest.mark.parametrize("name", SCANNERS)
def test_scan_is_a_face_with_colours_and_landmarks(smiling: Face, name: str) -> None:
    found = scan(smiling, SCANNERS[name], rng())
    assert 1500 <= len(found.vertices) <= 6000
    assert np.isfinite(found.vertices).all()
    assert np.array_equal(np.unique(found.faces), np.arange(len(found.vertices)))
    a, b, c = (found.vertices[found.faces[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).all(), "counter-clockwise from the scanner"
    assert found.texture is not None
    assert found.vertex_colors is not None
    height, width = found.texture.image.shape[:2]
    at = found.texture.corner_uv
    pixels = found.texture.image[((1 - at[..., 1]) * height).astype(int), (at[..., 0] * width).astype(int)]
    assert np.array_equal(pixels, found.vertex_colors[found.faces])


@pytest.mark.parametrize("name", SCANNERS)
def test_landmarks_lie_on_the_surface(name: str) -> None:
    device = dataclasses.replace(SCANNERS[name], blobs=0.0, speckle=0.0)
    found = scan(face(sample_identity(np.random.default_rng(6)), {}), device, rng())
    normals = vertex_normals(found.vertices, found.faces)
    marks = (
        "nose_tip",
        "nose_bridge",
        "chin",
        "left_eye_outer",
        "right_eye_outer",
        "left_mouth_corner",
        "right_mouth_corner",
        "middle_left_eyebrow",
        "middle_right_eyebrow",
    )
    seen = [mark for mark in marks if mark in found.landmarks]
    assert len(seen) >= len(marks) - 2
    offsets = []
    for mark in seen:
        away = found.landmarks[mark] - found.vertices
        nearest = (away**2).sum(1).argmin()
        assert np.linalg.norm(away[nearest]) < device.pitch + 1.0, mark
        offsets.append(abs(away[nearest] @ normals[nearest]))
    assert np.mean(offsets) < 1.2
    assert max(offsets) < 2.0


def test_holes(smiling: Face) -> None:
    """Each reason for a hole loses points, and only in its place."""

    def lost(**changes: float) -> np.ndarray:
        shot = capture(smiling, dataclasses.replace(IDEAL, **changes), rng(), pose=STILL)  # type: ignore[arg-type]
        return np.isfinite(whole) & ~np.isfinite(shot.points[..., 2])

    shot = capture(smiling, IDEAL, rng(), pose=STILL)
    whole, x = shot.points[..., 2], shot.points[..., 0]
    bright = shot.photo[shot.pixels[..., 1].astype(int), shot.pixels[..., 0].astype(int)].mean(-1)
    assert 0.03 < lost(speckle=0.05).sum() / np.isfinite(whole).sum() < 0.07
    assert lost(blobs=4.0).any()
    dark = lost(dark=1.0)
    assert dark.any()
    assert bright[dark].max() < np.median(bright[np.isfinite(whole)])
    shadow = lost(shadow=20.0)
    assert (x[shadow] < 0).sum() > 3 * (x[shadow] > 12).sum(), (
        "the nose shades the side away from the projector"
    )
    steep = lost(grazing=60.0)
    slope = np.hypot(*np.gradient(whole, IDEAL.pitch))
    known = np.isfinite(slope)
    assert np.median(slope[steep & known]) > 3 * np.median(slope[known & ~steep])


def test_pose_stays_small_and_moves_the_head(smiling: Face) -> None:
    device, many = SCANNERS["handheld"], rng()
    poses = np.array([sample_pose(device, many) for _ in range(300)])
    assert np.abs(poses[:, :3]).max() <= device.largest_pose
    assert poses[:, 1].std() > 2
    turned = capture(smiling, IDEAL, rng(), pose=np.array([0, 8.0, 0, 0, 0, 0])).landmarks
    left, right = (smiling.landmarks[f"{s}_eye_outer"] - turned[f"{s}_eye_outer"] for s in ("left", "right"))
    assert left[2] > 3 > -3 > right[2], "a positive yaw turns the left side back"


def test_same_seed_same_scan(smiling: Face) -> None:
    first, second = (scan(smiling, SCANNERS["structured"], rng()) for _ in range(2))
    assert np.array_equal(first.vertices, second.vertices)
    assert first.texture is not None
    assert second.texture is not None
    assert np.array_equal(first.texture.image, second.texture.image)
