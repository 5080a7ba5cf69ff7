"""Alignment: known rotations are recovered, everything a scan carries comes along, what is no face is refused."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from smile.face_fit import find_face
from smile.face_model import mean_face
from smile.geometry import align, vertex_normals
from smile.scans import find, read
from smile.scans.scan import Scan, Texture
from tests.views.shapes import face, grid_faces, plane, sphere

SITES = Path(__file__).parent.parent.parent / "shared" / "sites"
TURNS = list(product((-30, 0, 30), repeat=3))


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    y, x, z = np.deg2rad([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def scanned(scan: Scan, turn: np.ndarray, shift: np.ndarray) -> Scan:
    """The head turned before the scanner, which does not see what looks away from it."""
    vertices = scan.vertices @ turn.T + shift
    a, b, c = (vertices[scan.faces[:, corner]] for corner in range(3))
    return replace(scan, vertices=vertices, faces=scan.faces[np.cross(b - a, c - a)[:, 2] > 0])


def degrees_apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1))))


@pytest.mark.parametrize("bust", [False, True], ids=["cropped face", "hair, neck and shoulders"])
@pytest.mark.parametrize("chunk", range(3))
def test_a_turned_head_is_aligned_like_the_head_itself(bust: bool, chunk: int) -> None:
    head, shift = face(bust=bust), np.array([30.0, -20.0, 600.0])
    base, tip = find_face(*_mesh(scanned(head, np.eye(3), np.zeros(3))), {})[:2]
    for angles in TURNS[chunk::3]:
        turn = rotation(*angles)
        found, found_tip = find_face(*_mesh(scanned(head, turn, shift)), {})[:2]
        assert degrees_apart(found @ turn, base) < 2, angles
        assert np.linalg.norm(turn.T @ (found_tip - shift) - tip) < 0.5, angles


def _mesh(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    return scan.vertices, scan.faces


def test_the_project_frame() -> None:
    head, turn = face(), rotation(20, -15, 25)
    found, _ = find_face(*_mesh(scanned(head, turn, np.zeros(3))), {})[:2]
    assert (
        degrees_apart(found @ turn, np.eye(3)) < 4
    )  # `face` looks along +z with +y up, and so must the result
    aligned = align(scanned(head, turn, np.array([1.0, 2.0, 3.0])), radius=95.0).scan
    nose = aligned.vertices[np.linalg.norm(aligned.vertices[:, :2], axis=1) < 6]
    assert np.abs(nose).max() < 6  # the nose tip lies at the origin ...
    assert aligned.vertices[:, 2].max() < 2  # ... and nothing is nearer
    assert np.linalg.norm(aligned.vertices, axis=1).max() <= 95.0


@pytest.mark.parametrize("size", [0.8, 1.2])
def test_small_and_large_heads_are_aligned_alike(size: float) -> None:
    base, tip = find_face(*_mesh(face()), {})[:2]
    found, found_tip = find_face(*_mesh(face(size=size)), {})[:2]
    assert degrees_apart(found, base) < 5
    assert np.linalg.norm(found_tip / size - tip) < 1.5


@pytest.mark.parametrize(("unit", "factor"), [("m", 0.001), ("cm", 0.1)])
def test_metres_and_centimetres_become_millimetres(unit: str, factor: float) -> None:
    scan = replace(face(), landmarks={"a mole": np.array([10.0, 20.0, -30.0])})
    expected = align(scan, radius=90.0).scan
    small = replace(
        scan, vertices=scan.vertices * factor, landmarks={"a mole": scan.landmarks["a mole"] * factor}
    )
    found = align(small, radius=90.0).scan
    np.testing.assert_allclose(found.vertices, expected.vertices, atol=1e-3)
    np.testing.assert_allclose(found.landmarks["a mole"], expected.landmarks["a mole"], atol=1e-3)


def test_colours_texture_and_landmarks_come_along() -> None:
    scan = face()
    uv = scan.vertices[scan.faces][..., :2] / 200 + 0.5
    scan = replace(
        scan,
        vertex_colors=np.random.default_rng(0).integers(0, 255, scan.vertices.shape).astype(np.uint8),
        texture=Texture(np.zeros((8, 8, 3), np.uint8), uv.astype(np.float32)),
        landmarks={"near": scan.vertices[500], "far": np.array([0.0, 0.0, -200.0])},
    )
    moved = align(scan, radius=70.0).scan
    assert moved.vertex_colors is not None and scan.vertex_colors is not None
    assert moved.texture is not None and 500 < len(moved.vertices) < len(scan.vertices)
    rotation_found, tip = find_face(scan.vertices, scan.faces, {})[:2]
    original = moved.vertices @ rotation_found + tip
    index = np.array([np.abs(scan.vertices - vertex).max(1).argmin() for vertex in original])
    np.testing.assert_allclose(original, scan.vertices[index], atol=1e-6)
    np.testing.assert_array_equal(moved.vertex_colors, scan.vertex_colors[index])
    np.testing.assert_allclose(moved.texture.corner_uv, original[moved.faces][..., :2] / 200 + 0.5, atol=1e-5)
    assert set(moved.landmarks) == {"near"}
    np.testing.assert_allclose(moved.landmarks["near"] @ rotation_found + tip, scan.vertices[500], atol=1e-6)
    assert len(np.unique(moved.faces)) == len(moved.vertices)  # no vertex is left over


def test_faces_wound_clockwise_are_turned_over_with_their_texture() -> None:
    scan = face()
    uv = (scan.vertices[scan.faces][..., :2] / 200 + 0.5).astype(np.float32)
    right = replace(scan, texture=Texture(np.zeros((8, 8, 3), np.uint8), uv))
    inside_out = replace(right, faces=right.faces[:, ::-1], texture=Texture(right.texture.image, uv[:, ::-1]))
    expected, found = align(right, radius=90.0).scan, align(inside_out, radius=90.0).scan
    np.testing.assert_allclose(found.vertices, expected.vertices, atol=1e-9)
    np.testing.assert_array_equal(found.faces, expected.faces)
    assert expected.texture is not None and found.texture is not None
    np.testing.assert_array_equal(found.texture.corner_uv, expected.texture.corner_uv)


def test_broken_vertices_are_dropped() -> None:
    scan = face()
    broken = replace(scan, vertices=scan.vertices.copy())
    broken.vertices[100:110] = np.nan
    aligned = align(broken, radius=90.0).scan
    assert np.isfinite(aligned.vertices).all()


# --- landmarks ----------------------------------------------------------------------------------------------


def landmarks(scan: Scan, style: str) -> dict[str, np.ndarray]:
    """Six points read off the surface of `face`."""
    places = {
        "nose tip": (0, 5), "inner left eye corner": (16, 32), "inner right eye corner": (-16, 32),
        "left mouth corner": (26, -36), "right mouth corner": (-26, -36), "chin middle": (0, -68),
    }  # fmt: skip
    points = {
        name: scan.vertices[np.abs(scan.vertices[:, :2] - place).sum(1).argmin()]
        for name, place in places.items()
    }
    if style == "viewer's left":
        swap = {"left": "right", "right": "left"}
        return {" ".join(swap.get(word, word) for word in name.split()): p for name, p in points.items()}
    if style == "underscores":
        return {
            name.replace(" ", "_").replace("inner_left_eye_corner", "left_eye_inner").upper(): p
            for name, p in points.items()
        }
    return points


@pytest.mark.parametrize("style", ["subject's left", "viewer's left", "underscores"])
def test_landmarks_lead_to_the_same_frame_even_for_a_head_that_lies(style: str) -> None:
    scan = face()
    base, tip = find_face(*_mesh(scan), {})[:2]
    turn = rotation(0, 0, 120)  # no search would find this face
    turned = {name: turn @ point for name, point in landmarks(scan, style).items()}
    found, found_tip = find_face(scan.vertices @ turn.T, scan.faces, turned)[:2]
    assert degrees_apart(found @ turn, base) < 1
    assert np.linalg.norm(turn.T @ found_tip - tip) < 0.5


def test_landmarks_of_another_mesh_are_not_trusted() -> None:
    scan = face()
    base, tip = find_face(*_mesh(scan), {})[:2]
    elsewhere = {
        name: point + np.array([0, 150, 0]) for name, point in landmarks(scan, "subject's left").items()
    }
    found, found_tip = find_face(*_mesh(scan), elsewhere)[:2]
    np.testing.assert_array_equal(found, base)
    np.testing.assert_array_equal(found_tip, tip)


# --- refusals -----------------------------------------------------------------------------------------------


def cloud() -> Scan:
    return Scan(np.random.default_rng(0).normal(0, 40, (900, 3)), np.zeros((0, 3), np.int64))


def noise() -> Scan:
    bumpy = plane(half=100.0, z=0.0)
    return replace(
        bumpy, vertices=bumpy.vertices + np.random.default_rng(0).normal(0, 3, bumpy.vertices.shape)
    )


def flat_faces() -> Scan:
    return Scan(face().vertices, np.zeros((500, 3), np.int64))


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (replace(face(), vertices=face().vertices * 20), "measures .* export it in millimetres"),
        (replace(face(), vertices=face().vertices / 50), "measures .* export it in millimetres"),
        (cloud(), "no faces: export a mesh"),
        (flat_faces(), "no area"),
        (plane(half=100.0, z=0.0), "nothing like a face .* check that the scan shows a whole face"),
        (noise(), "nothing like a face .* check"),
        (sphere(100.0), "nothing like a face .* check"),
        (replace(face(), vertices=face().vertices * [1, 1, -1]), "nothing like a face"),
        (face(spacing=14.0), r"only \d+ vertices lie within 95 mm .* scan again"),
    ],
    ids=["too large", "between the units", "points", "no area", "plane", "noise", "ball", "hollow", "coarse"],
)
def test_what_is_no_face_is_refused_in_one_sentence(scan: Scan, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        align(scan, radius=95.0)
    assert "\n" not in str(refusal.value)


# --- normals and the mean face ------------------------------------------------------------------------------


def test_normals_of_a_sphere_point_outward() -> None:
    ball = sphere(60.0, np.zeros(3))
    normals = vertex_normals(ball.vertices, ball.faces)
    inner = np.abs(ball.vertices[:, 1]) < 59  # off the poles and their degenerate faces
    cosine = (normals * ball.vertices / 60).sum(1)[inner]
    assert cosine.min() > np.cos(np.deg2rad(1.5))


def test_normals_match_a_slow_reference_and_the_lone_vertex_looks_forward() -> None:
    rng = np.random.default_rng(1)
    vertices, faces = rng.normal(size=(12, 3)), rng.integers(0, 11, (30, 3))
    expected = np.zeros((12, 3))
    for a, b, c in faces:
        for corner in (a, b, c):
            expected[corner] += np.cross(vertices[b] - vertices[a], vertices[c] - vertices[a])
    expected[11] = [0, 0, 1]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vertex_normals(vertices, faces), expected, atol=1e-12)


def test_the_mean_face_is_symmetric_and_highest_at_the_origin() -> None:
    x, y = np.meshgrid(np.linspace(-60, 60, 241), np.linspace(-75, 80, 311))
    z = mean_face(x, y)
    np.testing.assert_allclose(z, mean_face(-x, y))
    peak = z.argmax()
    assert abs(x.flat[peak]) < 1 and abs(y.flat[peak]) < 1 and abs(z.max()) < 0.2
    found, tip = find_face(np.stack([x, y, z], axis=-1).reshape(-1, 3), grid_faces(*x.shape), {})[:2]
    assert degrees_apart(found, np.eye(3)) < 0.2
    assert np.linalg.norm(tip) < 1.5


# --- sample sites -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SITES.is_dir(), reason="the sample sites are not beside the checkout")
@pytest.mark.parametrize("site", ["north-bu4dfe", "centre-bu3dfe", "south-bosphorus", "east-obj", "west-ply"])
def test_sample_sites_come_out_upright_centred_and_alike(site: str) -> None:
    for sequence in find(SITES / site).sequences[::3]:
        scan = read(sequence.frames[0])
        aligned = align(scan, radius=95.0).scan
        assert len(aligned.vertices) > 0.5 * len(scan.vertices)
        with_landmarks = find_face(scan.vertices, scan.faces, scan.landmarks)
        without = find_face(scan.vertices, scan.faces, {})[:2]
        assert degrees_apart(with_landmarks[0], without[0]) < 0.5
        assert np.linalg.norm(with_landmarks[1] - without[1]) < 0.2
        assert abs(np.median(aligned.vertices[:, 0])) < 5
        if {"nose_tip", "left_eye_inner", "right_eye_inner"} <= set(aligned.landmarks):
            left, right = aligned.landmarks["left_eye_inner"], aligned.landmarks["right_eye_inner"]
            assert np.linalg.norm(aligned.landmarks["nose_tip"]) < 8
            assert np.abs(left * [-1, 1, 1] - right).max() < 8  # facing us, neither turned nor tilted
            assert 15 < left[1] < 45
