"""Measurements of a face: known answers on a face of round numbers, and what action units must do to them."""

import math

import numpy as np
import pytest

from smile.measurements import DESCRIPTIONS, MEASUREMENTS, measure

HALF = {  # the subject's left half
    "inner_left_eyebrow": (12, 55, -20),
    "outer_left_eyebrow": (50, 50, -40),
    "left_eye_inner": (17, 35, -30),
    "left_eye_outer": (45, 36, -40),
    "left_upper_lid": (31, 41, -28),
    "left_lower_lid": (31, 30, -28),
    "left_cheek": (31, 13, -25),
    "left_nose_peak": (17, -4, -15),
    "left_mouth_corner": (25, -32, -25),
}
MIDDLE = {
    "nose_bridge": (0, 43, -15),
    "subnasale": (0, -13, -8),
    "upper_lip_outer_middle": (0, -26, -9),
    "upper_lip_inner_middle": (0, -33, -10),
    "lower_lip_inner_middle": (0, -35, -10),
    "lower_lip_outer_middle": (0, -43, -10),
    "chin": (0, -63, -15),
}
KNOWN = {
    "inner_brow_height": 20.0,
    "outer_brow_height": 14.0,
    "brow_gap": 24.0,
    "eye_opening": 11.0,
    "mouth_opening": 2.0,
    "mouth_width": 50.0,
    "lip_corner_height": 2.0,
    "lip_corner_depth": 16.0,
    "upper_lip_height": 13.0,
    "lip_thickness": 15.0,
    "jaw_drop": 50.0,
    "nose_length": 47.0,
    "cheek_raise": 10.0,
    "asymmetry": 0.0,
}


@pytest.fixture
def points() -> dict[str, np.ndarray]:
    mirrored = {name.replace("left", "right"): (-x, y, z) for name, (x, y, z) in HALF.items()}
    return {name: np.array(point, dtype=float) for name, point in (HALF | mirrored | MIDDLE).items()}


def test_known_answers(points: dict[str, np.ndarray]) -> None:
    found = measure(points)
    assert tuple(found) == MEASUREMENTS == tuple(DESCRIPTIONS) == tuple(KNOWN)
    assert found == pytest.approx(KNOWN)


def test_a_missing_point_leaves_out_what_needs_it_and_no_more(points: dict[str, np.ndarray]) -> None:
    del points["left_mouth_corner"]
    found = measure(points)
    unknown = {name for name, value in found.items() if math.isnan(value)}
    assert unknown == {"mouth_width", "lip_corner_height", "lip_corner_depth", "asymmetry"}
    assert all(math.isnan(value) for value in measure({}).values())


def test_measurements_do_not_depend_on_where_the_face_is(points: dict[str, np.ndarray]) -> None:
    shift = np.array([3.0, -2.0, 5.0])
    assert measure({name: point + shift for name, point in points.items()}) == pytest.approx(KNOWN)


def test_a_lopsided_smile(points: dict[str, np.ndarray]) -> None:
    points["left_mouth_corner"] += [4, 6, -3]
    found = measure(points)
    assert found["asymmetry"] == 6
    assert found["lip_corner_height"] == 5
    assert found["lip_corner_depth"] == 17.5


@pytest.mark.parametrize(
    ("unit", "name", "least"),
    [
        ("AU1", "inner_brow_height", 4.0),
        ("AU2", "outer_brow_height", 4.0),
        ("AU4", "brow_gap", -3.0),
        ("AU5", "eye_opening", 1.5),
        ("AU9", "nose_length", -2.0),
        ("AU10", "upper_lip_height", -3.0),
        ("AU12", "lip_corner_height", 4.0),
        ("AU12", "mouth_width", 8.0),
        ("AU6", "cheek_raise", 1.0),
        ("AU15", "lip_corner_height", -4.0),
        ("AU24", "lip_thickness", -2.0),
        ("AU25", "mouth_opening", 3.0),
        ("AU27", "jaw_drop", 12.0),
    ],
)
def test_action_units_show_in_their_measurement(unit: str, name: str, least: float) -> None:
    """By the true points of a simulated face: at least so many mm more, or less where the sign is minus."""
    from simulations.face_landmarks import BU83
    from simulations.faces import face, sample_identity
    from smile.face_landmarks import CHEEK, own

    who = sample_identity(np.random.default_rng(3))

    def figures(units: dict[str, float]) -> dict[str, float]:
        made = face(who, units)
        points = dict(made.landmarks)
        assert set(BU83) <= set(points)
        points |= own(points)
        for side, x in (("right", -1), ("left", 1)):
            eye = (points[f"{side}_eye_inner"] + points[f"{side}_eye_outer"]) / 2
            away = np.linalg.norm(made.vertices[:, :2] - (eye[:2] - [0, CHEEK]), axis=1)
            points[f"{side}_cheek"] = made.vertices[away.argmin()]
            assert np.sign(points[f"{side}_upper_lid"][0]) == x
        return measure(points)

    change = figures({unit: 1.0})[name] - figures({})[name]
    assert change >= least if least > 0 else change <= least
