"""The procedural faces: the mesh is sound, action units move what their FACS description says, people differ."""

import itertools

import numpy as np
import pytest
from scipy.spatial import cKDTree

from simulations.face_fields import ACTION_NAMES, SHAPE_NAMES
from simulations.face_landmarks import BOSPHORUS22, BU83
from simulations.face_mesh import template
from simulations.face_surface import EYE
from simulations.faces import ACTION_UNITS, Face, Identity, face, perform, sample_identity, timeline
from smile.geometry import vertex_normals
from smile.labels import EXPRESSIONS


@pytest.fixture(scope="module")
def people() -> list[Identity]:
    return [sample_identity(np.random.default_rng([9, k])) for k in range(6)]


def moved(who: Identity, units: dict[str, float], name: str) -> np.ndarray:
    """mm by which a landmark moves from rest."""
    return face(who, units).landmarks[name] - face(who, {}).landmarks[name]


def lip_gap(shown: Face) -> float:
    return float(shown.landmarks["upper_lip_inner_middle"][1] - shown.landmarks["lower_lip_inner_middle"][1])


def test_mesh_is_sound(people: list[Identity]) -> None:
    shown = face(people[0], ACTION_UNITS["happiness"])
    vertices, faces = shown.vertices, shown.faces
    assert 8000 <= len(vertices) <= 16000
    assert np.isfinite(vertices).all()
    assert set(np.unique(faces)) == set(range(len(vertices))), "every vertex is used"
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    assert np.unique(edges, axis=0, return_counts=True)[1].max() == 2, "manifold"
    assert ((shown.uv >= 0) & (shown.uv <= 1)).all()
    assert shown.texture.dtype == np.uint8
    assert shown.texture.shape[2] == 3
    assert min(shown.texture.shape[:2]) >= 256


def test_average_face_is_symmetric() -> None:
    mesh = template()
    skin = mesh.vertices[mesh.part == 0]
    assert cKDTree(skin).query(skin * [-1, 1, 1])[0].max() < 1e-6


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_normals_point_outward(people: list[Identity], expression: str) -> None:
    shown = face(people[1], ACTION_UNITS[expression])
    normals = vertex_normals(shown.vertices, shown.faces)
    front = (np.abs(shown.vertices[:, 0]) < 50) & (shown.vertices[:, 1] > -60) & (template().part == 0)
    assert normals[front, 2].mean() > 0.5
    nose = np.abs(shown.vertices - shown.landmarks["nose_tip"]).sum(1).argmin()
    assert normals[nose, 2] > 0.9


def test_landmarks_lie_where_their_names_say(people: list[Identity]) -> None:
    for who in people:
        marks = face(who, {}).landmarks
        assert len(BU83) == len(set(BU83)) == 83
        assert len(BOSPHORUS22) == 22
        assert set(BU83) | set(BOSPHORUS22.values()) <= set(marks)
        for name, point in marks.items():
            if "left" in name:
                assert point[0] > marks[name.replace("left", "right")][0], "left is the subject's, at +x"
        assert marks["nose_tip"][2] == max(point[2] for point in marks.values())
        assert marks["left_eye_outer"][0] > marks["left_eye_inner"][0]
        assert (
            marks["chin"][1]
            < marks["lower_lip_outer_middle"][1]
            < marks["subnasale"][1]
            < marks["nose_bridge"][1]
        )
        assert 75 < marks["left_eye_outer"][0] - marks["right_eye_outer"][0] < 110  # mm, of an adult


def test_landmarks_are_vertices(people: list[Identity]) -> None:
    shown = face(people[2], ACTION_UNITS["fear"])
    for point in shown.landmarks.values():
        assert np.abs(shown.vertices - point).sum(1).min() == 0


@pytest.mark.parametrize("name", ACTION_NAMES)
def test_every_action_unit_moves_skin_more_with_more_intensity(people: list[Identity], name: str) -> None:
    units = [{"AU1": a, "AU4": a} if name == "AU1+4" else {name: a} for a in (0.0, 0.4, 0.8)]
    rest, weak, strong = (face(people[0], u).vertices for u in units)
    assert 0 < np.abs(weak - rest).max() < np.abs(strong - rest).max()


def test_smile_raises_and_widens_the_mouth_corners(people: list[Identity]) -> None:
    for who in people:
        left, right = (moved(who, {"AU12": 1.0}, f"{side}_mouth_corner") for side in ("left", "right"))
        assert left[0] > 4
        assert right[0] < -4
        assert min(left[1], right[1]) > 4


def test_frown_lowers_the_mouth_corners(people: list[Identity]) -> None:
    assert all(moved(who, {"AU15": 1.0}, "left_mouth_corner")[1] < -4 for who in people)


def test_jaw_opens_the_mouth(people: list[Identity]) -> None:
    for who in people:
        closed, dropped, stretched = (lip_gap(face(who, u)) for u in ({}, {"AU26": 1.0}, {"AU27": 1.0}))
        assert closed < 1
        assert dropped > closed + 10
        assert stretched > dropped + 5
        assert moved(who, {"AU27": 1.0}, "nose_tip") == pytest.approx([0, 0, 0], abs=0.5)


def test_brows(people: list[Identity]) -> None:
    for who in people:
        assert moved(who, {"AU1": 1.0}, "inner_left_eyebrow")[1] > 3
        assert moved(who, {"AU2": 1.0}, "outer_left_eyebrow")[1] > 3
        assert moved(who, {"AU4": 1.0}, "inner_left_eyebrow")[1] < -3
        oblique = {"AU1": 1.0, "AU4": 0.7}
        inner, outer = (moved(who, oblique, f"{end}_left_eyebrow")[1] for end in ("inner", "outer"))
        assert inner > outer + 1, "the brows of sadness slope"


def test_eyes_open_and_close_over_the_eyeball(people: list[Identity]) -> None:
    mesh = template()
    for who in people:
        gaps = []
        for units in ({"AU43": 1.0}, {"AU7": 1.0, "AU6": 1.0}, {}, {"AU5": 1.0}):
            marks = face(who, units).landmarks
            gaps.append(
                marks["bu83_10"][1] - marks["bu83_14"][1]
            )  # middle of the upper and the lower left lid
        assert gaps[0] < 0.1
        assert gaps[0] + 2 < gaps[1] < gaps[2] - 2
        assert gaps[2] + 2 < gaps[3]
        closed = face(who, {"AU43": 1.0}).vertices
        ball, skin = closed[mesh.part == 1], closed[(mesh.part == 0) & (mesh.vertices[:, 0] > 0)]
        pupil = ball[np.abs(ball[:, :2] - ball[:, :2].mean(0)).sum(1).argmin()]
        lid = skin[np.abs(skin[:, :2] - pupil[:2]).sum(1).argmin()]
        assert lid[2] > pupil[2], "a closed lid hides the pupil"


def test_people_differ_more_than_they_repeat(people: list[Identity]) -> None:
    assert len(SHAPE_NAMES) >= 20
    rest = [face(who, {}) for who in people]
    for one, other in itertools.combinations(rest, 2):
        assert np.linalg.norm(one.vertices - other.vertices, axis=1).mean() > 1.0
        assert np.abs(one.texture.astype(int) - other.texture).mean() > 2


def test_same_seed_same_face() -> None:
    first, second = (
        face(sample_identity(rng := np.random.default_rng(4)), perform("fear", rng)) for _ in range(2)
    )
    assert np.array_equal(first.vertices, second.vertices)
    assert np.array_equal(first.texture, second.texture)


def test_paint_lies_on_the_features(people: list[Identity]) -> None:
    """Colours where the landmarks are: lips redder than skin, brows and pupils dark, teeth bright."""
    for who in people:
        shown, mesh = face(who, {}), template()
        height, width = shown.texture.shape[:2]

        def colour(index: int, shown: Face = shown, height: int = height, width: int = width) -> np.ndarray:
            u, v = shown.uv[index]
            return shown.texture[
                min(int((1 - v) * height), height - 1), min(int(u * width), width - 1)
            ].astype(float)

        at = {name: int(np.abs(shown.vertices - p).sum(1).argmin()) for name, p in shown.landmarks.items()}
        skin = colour(at["chin"])
        lip = colour(int(np.abs(mesh.vertices - [0, -38, -8]).sum(1).argmin()))
        assert lip[0] / lip[1] > skin[0] / skin[1]
        pupil = int(np.abs(mesh.vertices - (EYE + np.array([0, 0, 14.5]))).sum(1).argmin())
        assert mesh.part[pupil] == 1
        assert colour(pupil).max() < 40
        eyeball = np.flatnonzero(mesh.part == 1)
        white = eyeball[np.abs(mesh.flat[eyeball] - [7.5, -1]).sum(1).argmin()]
        assert colour(int(white)).min() > 120


def test_performances_vary_but_keep_the_core() -> None:
    rng = np.random.default_rng(0)
    for expression, core in (
        ("happiness", "AU12"),
        ("anger", "AU4"),
        ("sadness", "AU15"),
        ("surprise", "AU2"),
        ("fear", "AU1"),
    ):
        shown = [perform(expression, rng) for _ in range(30)]
        assert all(units[core] > 0.2 for units in shown)
        assert len({tuple(sorted(name for name, a in units.items() if a > 0.3)) for units in shown}) > 3
    assert max(max(perform("neutral", rng).values()) for _ in range(30)) < 0.35


def test_timeline_is_neutral_apex_neutral() -> None:
    times = timeline(25)
    peak = int(times.argmax())
    assert times[0] == times[-1] == 0
    assert times.max() == 1
    assert (np.diff(times[: peak + 1]) >= 0).all()
    assert (np.diff(times[peak:]) <= 0).all()
    assert timeline(1) == pytest.approx([1.0])


def test_unknown_names_are_refused(people: list[Identity]) -> None:
    with pytest.raises(ValueError, match="AU99"):
        face(people[0], {"AU99": 1.0})
    with pytest.raises(ValueError, match="contempt"):
        perform("contempt", np.random.default_rng(0))
