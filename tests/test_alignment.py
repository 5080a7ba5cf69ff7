"""Alignment without landmarks: any pose, unit and side; what was mended is told, and what a scan is worth is measured."""

from dataclasses import replace
from functools import lru_cache
from itertools import product

import numpy as np
import pytest

from simulations import faces as people
from simulations.scanners import SCANNERS, Scanner, capture, grid_faces, to_scan
from smile.face_quality import QUALITY, head_angles
from smile.geometry import Aligned, align
from smile.scans.scan import Scan, Texture
from tests.test_geometry import degrees_apart, rotation
from tests.views.shapes import face, plane, sphere

PERSONS = ("neutral", "surprise", "happiness", "anger")  # one person each
EXACT = Scanner("exact", pitch=1.6, noise=0.0, pose=0.0, wander=0.0, grain=0.0)
FRONTAL = np.zeros(6)


@lru_cache(maxsize=16)
def scanned(person: int, *, scanner: Scanner = SCANNERS["stereo"]) -> Scan:
    """A person whom no development has seen, before a virtual scanner, without landmarks."""
    rng = np.random.default_rng(9000 + person)
    units = people.perform(PERSONS[person], rng)
    shot = capture(people.face(people.sample_identity(rng), units), scanner, rng, pose=FRONTAL)
    return replace(to_scan(shot), landmarks={})


def moved(
    scan: Scan, turn: np.ndarray, shift: tuple[float, float, float] = (0, 0, 0), scale: float = 1.0
) -> Scan:
    return replace(scan, vertices=scale * (scan.vertices @ turn.T + shift))


def joined(*scans: Scan) -> Scan:
    starts = np.cumsum([0] + [len(scan.vertices) for scan in scans[:-1]])
    return Scan(
        np.concatenate([scan.vertices for scan in scans]),
        np.concatenate([scan.faces + start for scan, start in zip(scans, starts, strict=True)]),
    )


def assert_same_place(found: Aligned, expected: Aligned, *, degrees: float = 5.0, mm: float = 5.0) -> None:
    """The same vertices: the rigid motion between both lies within the limits."""
    a, b = found.scan.vertices, expected.scan.vertices
    if len(a) != len(b):  # the edge of the crop may differ by a few
        centre = [v[np.linalg.norm(v, axis=1) < 60].mean(0) for v in (a, b)]
        assert abs(len(a) - len(b)) < 0.03 * len(b)
        assert np.linalg.norm(centre[0] - centre[1]) < mm
        return
    u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    assert degrees_apart((u @ vt).T, np.eye(3)) < degrees
    assert np.linalg.norm(a - b, axis=1).mean() < 2 * mm


@pytest.mark.parametrize("person", range(len(PERSONS)), ids=PERSONS)
def test_a_head_turned_rigidly_comes_out_as_the_upright_one(person: int) -> None:
    scan = scanned(person)
    upright = align(scan, radius=95.0)
    turns = list(product((-60, 0, 60), (-30, 0, 30), (-30, 0, 30)))[person::3]
    for angles in turns:
        assert_same_place(align(moved(scan, rotation(*angles), (400, -300, 900)), radius=95.0), upright)


@pytest.mark.parametrize(
    ("turn", "note"),
    [
        ((0, 0, 180), "upside down: turned"),
        ((0, 180, 0), "upside down: turned"),
        ((0, 0, 90), "lying: turned upright"),
        ((0, -90, 0), "lying: turned upright"),
        ((180, 0, 0), "looking backwards: turned"),
    ],
    ids=["roll 180", "a camera's axes", "on a side", "on the back", "backwards"],
)
@pytest.mark.parametrize("person", [0, 1])
def test_a_head_in_any_pose_is_turned_and_told(turn: tuple[int, int, int], note: str, person: int) -> None:
    scan = scanned(person)
    found = align(moved(scan, rotation(*turn)), radius=95.0)
    assert note in found.notes
    assert_same_place(found, align(scan, radius=95.0))


def test_an_upright_scan_in_millimetres_needs_no_note() -> None:
    assert [align(scanned(person), radius=95.0).notes for person in range(4)] == [()] * 4


@pytest.mark.parametrize(("scale", "notes"), [(0.001, ("in metres",)), (0.1, ("in centimetres",)), (1.0, ())])
@pytest.mark.parametrize("body", [False, True], ids=["face", "torso"])
def test_units_are_told_for_a_face_and_for_a_torso(scale: float, notes: tuple[str, ...], body: bool) -> None:
    scan = replace(scanned(0), texture=None, vertex_colors=None)
    if body:
        trunk = replace(sphere(1.0, np.zeros(3), steps=40))
        neck = replace(trunk, vertices=trunk.vertices * [50, 80, 50] + [0, -120, -90])
        scan = joined(scan, neck, replace(trunk, vertices=trunk.vertices * [220, 350, 110] + [0, -500, -120]))
    found = align(moved(scan, np.eye(3), (0, 1000, 0), scale), radius=95.0)
    assert found.notes == notes
    assert_same_place(found, align(scan, radius=95.0))


# --- mirrored, inside out -----------------------------------------------------------------------------------


def photographed(scan: Scan) -> Scan:
    """With a photograph from the front as its texture: u to the right, v up."""
    uv = (scan.vertices[scan.faces][..., :2] / 400 + 0.5).astype(np.float32)
    return replace(scan, texture=Texture(np.zeros((8, 8, 3), np.uint8), uv))


def test_mirrored_coordinates_are_mirrored_back_with_the_landmarks() -> None:
    mole = np.array([30.0, 20.0, -30.0])
    scan = replace(photographed(face()), landmarks={"left mole": mole})
    expected = align(scan, radius=95.0)
    mirror = np.array([-1.0, 1.0, 1.0])
    found = align(
        replace(scan, vertices=scan.vertices * mirror, landmarks={"left mole": mole * mirror}), radius=95.0
    )
    assert found.notes == ("mirrored: turned back",)
    np.testing.assert_array_equal(found.scan.faces, expected.scan.faces)
    np.testing.assert_allclose(found.scan.vertices, expected.scan.vertices, atol=1.5)
    np.testing.assert_allclose(
        found.scan.landmarks["left mole"], expected.scan.landmarks["left mole"], atol=1.5
    )


def test_depth_that_runs_the_wrong_way_is_mirrored_back_where_the_texture_proves_it() -> None:
    scan = photographed(face())
    found = align(replace(scan, vertices=scan.vertices * [1, 1, -1]), radius=95.0)
    assert "mirrored: turned back" in found.notes
    assert_same_place(found, align(scan, radius=95.0))


def test_faces_wound_inward_are_told_and_a_mirrored_texture_is_left_alone() -> None:
    scan = photographed(face())
    assert scan.texture is not None
    inward = replace(
        scan, faces=scan.faces[:, ::-1], texture=Texture(scan.texture.image, scan.texture.corner_uv[:, ::-1])
    )
    assert align(inward, radius=95.0).notes == ("faces wound inward: turned over",)
    flipped = Texture(scan.texture.image, scan.texture.corner_uv * np.float32([-1, 1]))
    left = align(replace(scan, texture=flipped), radius=95.0)
    assert left.notes == ("the texture runs the other way: left so",)
    np.testing.assert_array_equal(left.scan.vertices, align(scan, radius=95.0).scan.vertices)


# --- several people -----------------------------------------------------------------------------------------


def test_of_two_people_the_whole_face_is_taken_and_told() -> None:
    whole, other = (replace(scanned(person), texture=None, vertex_colors=None) for person in (0, 1))
    half = replace(
        other, faces=other.faces[other.vertices[other.faces[:, 0], 0] < np.median(other.vertices[:, 0]) + 35]
    )
    for two in (
        joined(whole, moved(half, np.eye(3), (280, 0, -60))),
        joined(moved(half, np.eye(3), (280, 0, -60)), whole),
    ):
        found = align(two, radius=95.0)
        assert found.notes == ("several faces: took the most complete",)
        assert_same_place(found, align(whole, radius=95.0))


def test_a_neighbours_shoulder_in_the_crop_is_dropped_and_loose_parts_of_the_face_stay() -> None:
    scan = replace(face(), vertex_colors=None)
    alone = align(scan, radius=95.0)
    shoulder = moved(sphere(22.0, np.zeros(3), steps=30), np.eye(3), (88, -40, 20))
    assert len(align(joined(scan, shoulder), radius=95.0).scan.vertices) == len(alone.scan.vertices)
    eye = moved(sphere(11.0, np.zeros(3), steps=20), np.eye(3), (32, 33, -48))
    assert len(align(joined(scan, eye), radius=95.0).scan.vertices) == len(alone.scan.vertices) + len(
        np.unique(eye.faces)
    )
    gap = scan.vertices[scan.faces][..., 0]
    halves = replace(scan, faces=scan.faces[(gap > 3).all(1) | (gap < -3).all(1)])
    assert len(align(halves, radius=95.0).scan.vertices) > 0.9 * len(alone.scan.vertices)


# --- refusals -----------------------------------------------------------------------------------------------


def hills(seed: int) -> Scan:
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(-100.0, 101, 3), np.arange(120.0, -121, -3))
    z = sum(
        rng.normal(0, 8) * np.exp(-(((x - u) / 30) ** 2) - ((y - v) / 30) ** 2)
        for u, v in rng.uniform(-80, 80, (9, 2))
    )
    points = np.stack([x, y, z + 0 * x], axis=-1)
    return Scan(points.reshape(-1, 3), grid_faces(points, longest=40.0))


def hand() -> Scan:
    finger = sphere(1.0, np.zeros(3), steps=20)
    parts = [replace(finger, vertices=finger.vertices * [9, 42, 9] + [22 * k - 33, 75, 0]) for k in range(4)]
    return joined(*parts, replace(finger, vertices=finger.vertices * [45, 50, 15]))


@pytest.mark.parametrize(
    "scan",
    [
        *(hills(seed) for seed in range(4)),
        hand(),
        plane(half=100.0, z=0.0),
        sphere(100.0),
        replace(sphere(1.0, np.zeros(3)), vertices=sphere(1.0, np.zeros(3)).vertices * [78, 110, 95]),
    ],
    ids=["hills 0", "hills 1", "hills 2", "hills 3", "hand", "plane", "ball", "back of a head"],
)
def test_what_is_no_face_is_refused_in_every_pose(scan: Scan) -> None:
    for turn in (np.eye(3), rotation(50, 20, 170)):
        with pytest.raises(ValueError, match="nothing like a face was found"):
            align(moved(scan, turn), radius=95.0)


# --- quality ------------------------------------------------------------------------------------------------


def test_every_figure_is_there_and_finite() -> None:
    for person in range(4):
        quality = align(scanned(person), radius=95.0).quality
        assert list(quality) == list(QUALITY)
        assert all(type(value) is float and np.isfinite(value) for value in quality.values())
        assert quality["coverage"] > 0.8 and quality["holes"] < 0.1 and quality["fit"] < 8


def test_the_pose_of_the_head_is_measured() -> None:
    base = align(scanned(0, scanner=EXACT), radius=95.0).quality
    for yaw, pitch, roll in ((40, 0, 0), (0, 20, 0), (0, 0, -25), (30, -15, 10), (0, 0, 175)):
        found = align(moved(scanned(0, scanner=EXACT), rotation(yaw, pitch, roll)), radius=95.0).quality
        apart = np.array([found["yaw"] - yaw, found["pitch"] - pitch, found["roll"] - roll])
        assert np.abs(apart - 360 * np.round(apart / 360)).max() < 8 + abs(base["pitch"]), (yaw, pitch, roll)
    for angles in ((10, 20, 30), (-50, 5, -170)):
        np.testing.assert_allclose(head_angles(rotation(*angles).T), angles, atol=1e-9)


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.6])
def test_noise_is_measured(noise: float) -> None:
    scan = scanned(0, scanner=EXACT)
    rough = scan.vertices + np.random.default_rng(0).normal(0, noise, scan.vertices.shape)
    found = align(replace(scan, vertices=rough), radius=95.0).quality["noise"]
    assert 0.75 * noise < found < 1.25 * noise + 0.05


def test_holes_and_coverage_are_measured() -> None:
    scan = face(spacing=2.0)
    base = align(scan, radius=95.0).quality
    assert base["holes"] == 0 and base["coverage"] > 0.95
    outline = np.pi * 62 * 80  # mm2
    hole = np.linalg.norm(scan.vertices[:, :2] - [30, -10], axis=1) < 15
    holed = align(replace(scan, faces=scan.faces[~hole[scan.faces].any(1)]), radius=95.0).quality
    assert holed["holes"] == pytest.approx(np.pi * 15**2 / outline, rel=0.35)
    assert base["coverage"] - holed["coverage"] == pytest.approx(holed["holes"], abs=0.01)
    cut = scan.vertices[:, 1] > 50
    bare = align(replace(scan, faces=scan.faces[~cut[scan.faces].any(1)]), radius=95.0).quality
    assert bare["holes"] == 0 and base["coverage"] - bare["coverage"] > 0.08


def test_spacing_is_measured() -> None:
    assert align(face(spacing=2.0), radius=95.0).quality["spacing"] == pytest.approx(2.3, abs=0.4)
    assert align(face(spacing=4.0), radius=95.0).quality["spacing"] == pytest.approx(4.6, abs=0.8)
