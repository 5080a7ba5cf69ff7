"""Where the cameras stand: the sign of the yaw, the axis of the head, the pixel centres."""

import numpy as np
import pytest

from smile.config import ViewConfig
from smile.views.cameras import PIVOT, from_view, pixel_centres, rotation, to_view


def test_a_positive_yaw_turns_the_nose_to_the_right_of_the_picture() -> None:
    nose, right_cheek, left_cheek = np.array([0.0, 0, 0]), np.array([-60.0, 0, -60]), np.array([60.0, 0, -60])
    assert to_view(nose, 30.0)[0] == pytest.approx(25.0)  # 50 mm before the axis, sin 30 of it
    assert to_view(right_cheek, 30.0)[2] > to_view(left_cheek, 30.0)[2]  # the subject's right comes nearer


def test_the_axis_of_the_head_stays_where_it_is() -> None:
    for height in (-80.0, 0.0, 80.0):
        on_axis = PIVOT + np.array([0, height, 0])
        np.testing.assert_allclose(to_view(on_axis, 37.0), on_axis, atol=1e-12)


@pytest.mark.parametrize("yaw", [-45.0, 0.0, 20.0])
def test_view_frame_and_back(yaw: float) -> None:
    points = np.random.default_rng(0).normal(0, 50, (3, 7))
    np.testing.assert_allclose(from_view(to_view(points, yaw), yaw), points, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation(yaw)), 1)


def test_pixel_centres_are_half_a_pixel_inside_the_window() -> None:
    x, y = pixel_centres(ViewConfig(size=20, radius=100.0))
    np.testing.assert_allclose(x[[0, 1, -1]], [-95, -85, 95])
    np.testing.assert_allclose(y, -x)  # the first row is the top
