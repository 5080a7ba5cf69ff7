"""A picture of two views: which half becomes which view, and what is missing stays missing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile.config import ViewConfig
from smile.views.pairs import pair_views
from tests.scans.writers_film import pair_picture

CONFIG = ViewConfig(yaws=(-30.0, 0.0, 45.0), size=16)


def test_halves_become_the_outer_views(tmp_path: Path) -> None:
    pair_picture(tmp_path / "1.png")
    views = pair_views(tmp_path / "1.png", CONFIG)
    assert (views.shape, views.dtype) == ((3, 7, 16, 16), np.uint8)
    right, nothing, left = views
    assert not nothing.any()
    assert not views[:, 3:].any()  # no depth, no normals
    assert (right[:3] == np.array([1, 1, 200])[:, None, None]).all()
    assert (left[:3, 0, 0] == (200, 1, 1)).all()
    assert (left[:3, 8, 8] == (1, 200, 1)).all()  # its middle stays in the middle


def test_the_left_camera_sees_the_subjects_right_side(tmp_path: Path) -> None:
    """It stands on the left as the cameras look at the face, which is what a positive yaw shows."""
    pair_picture(tmp_path / "1.png")
    for yaws in ((-20.0, 20.0), (20.0, -20.0), (5.0, 30.0)):
        views = pair_views(tmp_path / "1.png", ViewConfig(yaws=yaws, size=16, modalities=("texture",)))
        reddish = views[:, 0].mean(axis=(1, 2))
        assert int(np.argmax(reddish)) == int(np.argmax(yaws))


def test_a_pixel_that_is_there_is_never_zero(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "black.png")
    views = pair_views(tmp_path / "black.png", CONFIG)
    assert (views[[0, 2], :3] == 1).all()
    assert not views[1].any()


def test_each_half_is_cropped_to_the_square_in_its_middle(tmp_path: Path) -> None:
    pixels = np.full((60, 64, 3), 50, np.uint8)  # halves of 60 x 32
    pixels[14:46] = 150
    Image.fromarray(pixels).save(tmp_path / "tall.png")
    assert (pair_views(tmp_path / "tall.png", CONFIG)[[0, 2], :3] == 150).all()


@pytest.mark.parametrize("config", [ViewConfig(yaws=(0.0,)), ViewConfig(modalities=("depth", "normals"))])
def test_a_study_without_a_place_for_them(tmp_path: Path, config: ViewConfig) -> None:
    pair_picture(tmp_path / "1.png")
    with pytest.raises(
        ValueError, match=r"1\.png: a picture of two views needs two yaws and texture.*prepare with"
    ):
        pair_views(tmp_path / "1.png", config)


def test_pictures_that_are_no_pair(tmp_path: Path) -> None:
    Image.fromarray(np.ones((64, 40, 3), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"one\.png: 40 x 64 pixels are not two views side by side"):
        pair_views(tmp_path / "one.png", CONFIG)
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(ValueError, match=r"bad\.jpg: .*not a JPEG"):
        pair_views(tmp_path / "bad.jpg", CONFIG)
    with pytest.raises(ValueError, match=r"gone\.jpg"):
        pair_views(tmp_path / "gone.jpg", CONFIG)
