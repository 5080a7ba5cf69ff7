"""Bosphorus range images: the byte layout, holes, depth jumps, the image's origin, and damaged files."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Scan, read_file
from tests.scans.writers import SIDE, bnt, bump, bump_grid, color_at, image, write

VERTICES, FACES, UV = bump()
NAME = "bs000_E_ANGER_0"


def from_bytes(folder: Path, data: bytes, *, need_texture: bool = False) -> Scan:
    return read_file(write(folder / f"{NAME}.bnt", data), need_texture=need_texture)


def test_round_trip_forehead_first(tmp_path: Path) -> None:
    scan = from_bytes(tmp_path, bnt(bump_grid()))
    np.testing.assert_array_equal(scan.vertices, VERTICES)
    assert {tuple(sorted(f)) for f in scan.faces.tolist()} == {tuple(sorted(f)) for f in FACES.tolist()}


@pytest.mark.parametrize("mirrored", [False, True])
def test_normals_point_to_the_scanner(tmp_path: Path, mirrored: bool) -> None:
    """Which way the columns run is stated nowhere, so both must give outward faces."""
    grid = bump_grid()[:, :, ::-1] if mirrored else bump_grid()
    scan = from_bytes(tmp_path, bnt(grid))
    corners = scan.vertices[scan.faces]
    assert (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0).all()


def test_b_counts_from_the_top_of_the_image(tmp_path: Path) -> None:
    pixels = image(tmp_path / f"{NAME}.png")
    scan = from_bytes(tmp_path, bnt(bump_grid()), need_texture=True)
    assert scan.texture is not None
    np.testing.assert_array_equal(scan.texture.image, pixels)
    colors, middle = color_at(pixels, scan.texture.corner_uv), scan.vertices[scan.faces].mean(axis=1)
    assert (colors[(middle[:, 1] > 12) & (middle[:, 0] < -12)] == (250, 10, 10)).all()
    assert (colors[(middle[:, 1] < -12) & (middle[:, 0] > 12)] == (250, 250, 10)).all()


@pytest.mark.parametrize("background", [-1e9, -12345.5, 0.0])
def test_the_background_value_comes_from_the_header(tmp_path: Path, background: float) -> None:
    grid = bump_grid()
    grid[:, 5, 5] = background
    scan = from_bytes(tmp_path, bnt(grid, background=background))
    assert len(scan.vertices) == len(VERTICES) - 1
    assert len(scan.faces) == len(FACES) - 6  # the triangles round the hole
    np.testing.assert_array_equal(scan.vertices, np.delete(VERTICES, 5 * SIDE + 5, axis=0))


def test_depth_jumps_are_not_bridged(tmp_path: Path) -> None:
    grid = bump_grid()
    grid[2, :, SIDE // 2 :] -= 300
    scan = from_bytes(tmp_path, bnt(grid))
    assert len(scan.vertices) == len(VERTICES)
    assert np.ptp(scan.vertices[scan.faces][..., 2], axis=1).max() < 60
    assert len(scan.faces) == len(FACES) - 2 * (SIDE - 1)


def test_the_image_of_the_stem_counts_more_than_the_name_in_the_header(tmp_path: Path) -> None:
    image(tmp_path / "other.png", height=10, width=10)
    data = bnt(bump_grid(), name=b"OTHER.png")
    first = from_bytes(tmp_path, data, need_texture=True).texture
    image(tmp_path / f"{NAME}.png", height=20, width=20)
    second = from_bytes(tmp_path, data, need_texture=True).texture
    assert first is not None
    assert second is not None
    assert (len(first.image), len(second.image)) == (10, 20)


def test_missing_texture(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"{NAME}\.bnt: texture image '{NAME}\.png' is missing.*depth,normals"
    ):
        from_bytes(tmp_path, bnt(bump_grid()), need_texture=True)


GOOD = bnt(bump_grid())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (GOOD[:10], "too short for a .bnt header"),
        (GOOD[:-1], r"5796 bytes, but its header of 12 x 12 points .* makes 5797"),
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD + b"\0", "makes 5797"),
        (b"\x0d" + GOOD[1:], "13 x 12 points"),
        (b"\xff\xff\xff\xff" + GOOD[4:], "65535 x 65535 points"),
        (bnt(bump_grid(), count=4 * SIDE * SIDE), "announces 576 numbers, but 12 x 12 points have 720"),
        (bnt(np.full((5, SIDE, SIDE), -1e9)), "all 144 points are background"),
        (bnt(bump_grid()[:, ::-1]), "y does not fall"),
        (bnt(bump_grid()[:, :5]), "too few"),
        (b"ply\nformat ascii 1.0\nelement vertex 3\n", "truncated, or not a .bnt file"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_bytes(tmp_path, data)
    assert f"{NAME}.bnt: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite_are_counted(tmp_path: Path, value: float) -> None:
    grid = bump_grid()
    grid[0, 3, 3:5] = value
    with pytest.raises(ValueError, match="2 of 144 vertices are not finite"):
        from_bytes(tmp_path, bnt(grid))


def test_image_places_outside_the_image_are_refused_only_with_texture(tmp_path: Path) -> None:
    image(tmp_path / f"{NAME}.png")
    grid = bump_grid()
    grid[3:] *= 1000
    with pytest.raises(ValueError, match=r"leave 0\.\.1"):
        from_bytes(tmp_path, bnt(grid), need_texture=True)
    assert len(from_bytes(tmp_path, bnt(grid)).vertices) == len(VERTICES)
