"""FRGC: names, packed and unpacked range images, the colour image of the next record, and damaged files."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile.scans import Frame, Scan, abs_range, find, read, read_file
from tests.scans.writers import SIDE, color_at, image, write
from tests.scans.writers_faces import FACES, VERTICES, bump_points, reasons, touch
from tests.scans.writers_faces import abs_range as written

NAME = "02463d546.abs"
GOOD = written(bump_points())


def from_bytes(folder: Path, data: bytes, *, name: str = NAME, need_texture: bool = False) -> Scan:
    return read_file(write(folder / name, data), need_texture=need_texture)


def colour(path: Path, *, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    pixels = image(path.with_suffix(".png"), height=height, width=width)
    path.with_suffix(".png").unlink()
    Image.fromarray(pixels).save(path, format="PPM")
    return pixels


# --- the folder --------------------------------------------------------------


def test_subjects_records_and_colour_images(tmp_path: Path) -> None:
    touch(
        tmp_path, "nd1/Fall2003range/02463d546.abs.gz", "nd1/Fall2003range/02463d547.ppm"
    )  # colour is the next record
    touch(tmp_path, "nd1/Fall2003range/02463d548.abs.gz", "nd1/Fall2003range/02463d548.PPM")
    touch(
        tmp_path,
        "nd1/Spring2004range/04226d357.ABS",
        "nd1/Spring2004range/04226d358.abs",
        "nd1/Spring2004range/04226d358.ppm",
    )
    listing = find(tmp_path)
    assert listing.dataset == "frgc"
    assert [(s.subject, s.label, s.name) for s in listing.sequences] == [
        ("02463", None, "02463/02463d546"),
        ("02463", None, "02463/02463d548"),
        ("04226", None, "04226/04226d357"),
        ("04226", None, "04226/04226d358"),
    ]
    textures = [s.frames[0].texture and s.frames[0].texture.name for s in listing.sequences]
    # 04226d358.ppm belongs to the range image of the same record and not to the one before.
    assert textures == ["02463d547.ppm", "02463d548.PPM", None, "04226d358.ppm"]
    assert listing.problems == ()
    assert "2 subjects, 4 sequences, 4 frames; its names state no expression" in listing.why


def test_of_a_packed_and_an_unpacked_copy_the_unpacked_one_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "02463d546.abs.gz", "02463d546.abs")
    listing = find(tmp_path)
    assert [s.frames[0].path.name for s in listing.sequences] == ["02463d546.abs"]
    assert listing.problems == ()


def test_range_images_after_many_other_files_and_three_folders_deeper(tmp_path: Path) -> None:
    place = "FRGC-2.0-dist/nd1/Fall2003range/"
    touch(tmp_path, *(f"{place}{n:05d}d1.ppm" for n in range(120)), f"{place}02463d546.abs.gz")
    listing = find(tmp_path)
    assert (listing.dataset, len(listing.sequences)) == ("frgc", 1)


def test_problems(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a/02463d546.abs.gz",
        "b/02463d546.abs.gz",
        "a/2463d546.abs.gz",
        "a/mean.abs",
        "a/readme.txt",
    )
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["02463/02463d546"]
    assert [p.path.name for p in listing.problems] == ["2463d546.abs.gz", "mean.abs", "02463d546.abs.gz"]
    assert "'mean.abs' is not named like 02463d546.abs.gz: correct its name" in reasons(listing)
    assert "already there as" in reasons(listing)


# --- one range image ---------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_round_trip(tmp_path: Path, packed: bool) -> None:
    name, data = (NAME + ".gz", gzip.compress(GOOD)) if packed else (NAME, GOOD)
    scan = from_bytes(tmp_path, data, name=name)
    np.testing.assert_allclose(scan.vertices, VERTICES, atol=1e-6)
    assert {tuple(sorted(f)) for f in scan.faces.tolist()} == {tuple(sorted(f)) for f in FACES.tolist()}
    corners = scan.vertices[scan.faces]
    assert (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0).all()


@pytest.mark.parametrize(
    "head",
    [
        "{rows} rows\r\n{columns} columns\r\npixels (flag X Y Z):\r\n",
        "{rows}  ROWS \n{columns}\tcolumns\npixels ( flag X Y Z ) :",
    ],
)
def test_the_head_in_other_spacing(tmp_path: Path, head: str) -> None:
    assert len(
        from_bytes(tmp_path, written(bump_points(), head=head).replace(b"\n", b"\r\n")).vertices
    ) == len(VERTICES)


def test_what_was_not_measured_is_a_hole_and_a_depth_jump_is_not_bridged(tmp_path: Path) -> None:
    points = bump_points()
    points[5, 5] = np.nan
    points[:, SIDE // 2 :, 2] -= 300
    scan = from_bytes(tmp_path, written(points))
    assert len(scan.vertices) == len(VERTICES) - 1
    assert np.abs(scan.vertices).max() < 400  # no point at -999999
    # Two triangles a cell, without the column of cells over the jump and the rest of the six round the hole.
    assert np.ptp(scan.vertices[scan.faces][..., 2], axis=1).max() < 60
    assert len(scan.faces) == len(FACES) - 2 * (SIDE - 1) - 6 + 3


def test_a_point_of_flag_one_at_the_background_is_a_hole_too(tmp_path: Path) -> None:
    points = bump_points()
    points[3, 3] = -999999.0
    assert len(from_bytes(tmp_path, written(points)).vertices) == len(VERTICES) - 1


@pytest.mark.parametrize("times", [1, 3])
def test_colours_lie_on_the_grid_of_the_points(tmp_path: Path, times: int) -> None:
    pixels = colour(tmp_path / "02463d546.ppm", height=SIDE * times, width=SIDE * times)
    scan = from_bytes(tmp_path, GOOD, need_texture=True)
    assert scan.texture is not None
    np.testing.assert_array_equal(scan.texture.image, pixels)
    colors, middle = color_at(pixels, scan.texture.corner_uv), scan.vertices[scan.faces].mean(axis=1)
    assert (colors[(middle[:, 1] > 12) & (middle[:, 0] < -12)] == (250, 10, 10)).all()
    assert (colors[(middle[:, 1] < -12) & (middle[:, 0] > 12)] == (250, 250, 10)).all()


def test_the_image_of_the_next_record_is_used(tmp_path: Path) -> None:
    pixels = colour(tmp_path / "02463d547.ppm")
    write(tmp_path / (NAME + ".gz"), gzip.compress(GOOD))
    texture = read(find(tmp_path).sequences[0].frames[0]).texture
    assert texture is not None
    np.testing.assert_array_equal(texture.image, pixels)


def test_a_missing_image_and_one_of_another_scan(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"02463d546\.abs\.gz: texture image '02463d546\.ppm' is missing.*depth,normals"
    ):
        from_bytes(tmp_path, gzip.compress(GOOD), name=NAME + ".gz", need_texture=True)
    colour(tmp_path / "02463d546.ppm", height=24, width=12)
    with pytest.raises(ValueError, match="24 x 12 pixels has other proportions than its 12 x 12 points"):
        from_bytes(tmp_path, GOOD, need_texture=True)


NOTHING = np.full((SIDE, SIDE, 3), np.nan)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:20], "it starts with '12 rows.* and not with rows, columns and pixels"),
        (GOOD[: len(GOOD) // 9], r"bytes cannot hold its 12 x 12 points \(truncated\?\)"),
        (GOOD[:-80], r"holds 5\d\d numbers, but 12 x 12 points have 576 \(truncated\?\)"),
        (GOOD + b"1 2 3", "holds 579 numbers"),
        (GOOD.replace(b"12 rows", b"999999 rows"), r"bytes cannot hold its 999999 x 12 points"),
        (GOOD.replace(b" 1 1 ", b" 1 x ", 1), "pixels: 'x' is not a number"),
        (GOOD.replace(b"60.000000", b"nan"), r"of 144 points are not finite"),
        (written(NOTHING), "none of its 144 points was measured"),
        (written(bump_points()[:5]), "too few"),
        (gzip.compress(GOOD), r"it starts with '\\x1f"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_bytes(tmp_path, data)
    assert f"{NAME}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [GOOD, gzip.compress(GOOD)[:-200], gzip.compress(GOOD)[:50] + b"\0" * 99])
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"02463d546\.abs\.gz: it cannot be unpacked .*: copy the file again"
    ):
        from_bytes(tmp_path, data, name=NAME + ".gz")


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(
        b"12 rows\n12 columns\npixels (flag X Y Z):\n" + b" " * (abs_range.LARGEST + 1), compresslevel=1
    )
    assert len(bomb) < 1_000_000
    with pytest.raises(ValueError, match=r"more than 67,108,864 bytes of text"):
        from_bytes(tmp_path, bomb, name=NAME + ".gz")


def test_other_packed_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"face\.wrl\.gz: only \.abs\.gz is read packed: unpack it first"):
        read(Frame(write(tmp_path / "face.wrl.gz", b"x")))
