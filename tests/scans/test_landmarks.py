"""`.lm3` by label, `.bnd` with its index base found in the file, and landmarks of another scan refused."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from smile.scans import read_file
from smile.scans.landmarks import KEY_POINTS, bnd, index_base, lm3, read
from tests.scans import writers
from tests.scans.writers import bump, bump_wrl, write

VERTICES, FACES, UV = bump()
CHOSEN = {68: list(range(2, 138, 2)), 83: list(range(5, 88))}
LABELS = {
    "Nose tip": (0.0, 0.0, 90.0),
    "Left mouth corner": (20.0, -30.0, 75.0),
    "Right mouth corner": (-20.0, -30.0, 75.0),
    "Outer left eyebrow": (40.0, 40.0, 60.0),
    "Upper lip outer middle": (0.0, -25.0, 80.0),
}


@pytest.mark.parametrize("star", [True, False])
def test_lm3_with_crlf_and_absent_landmarks(star: bool) -> None:
    points = lm3(writers.lm3(LABELS, star=star), VERTICES)
    assert list(points) == [
        "nose_tip",
        "left_mouth_corner",
        "right_mouth_corner",
        "outer_left_eyebrow",
        "upper_lip_outer_middle",
    ]
    np.testing.assert_allclose(points["left_mouth_corner"], (20, -30, 75))


def test_lm3_in_another_order_gives_the_same_points() -> None:
    turned = lm3(writers.lm3(dict(reversed(LABELS.items()))), VERTICES)
    for name, point in lm3(writers.lm3(LABELS), VERTICES).items():
        np.testing.assert_array_equal(point, turned[name])


def test_lm3_of_the_viewers_left_is_turned_with_a_warning() -> None:
    swapped = {label: (-x, y, z) for label, (x, y, z) in LABELS.items()}
    with pytest.warns(UserWarning, match="both sides were exchanged"):
        points = lm3(writers.lm3(swapped), VERTICES)
    assert points["left_mouth_corner"][0] > 0 > points["right_mouth_corner"][0]
    assert "outer_right_eyebrow" in points


def test_lm3_with_unknown_labels_keeps_the_known_ones() -> None:
    assert list(lm3(writers.lm3({"Third eye": (0, 0, 0), **LABELS}), VERTICES)) == list(
        lm3(writers.lm3(LABELS), VERTICES)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no known landmark"),
        (writers.lm3(LABELS, count=7), "announces 7 landmarks and holds 5"),
        (writers.lm3(LABELS)[:-12], "announces 5 landmarks and holds 4"),
        (writers.lm3({"Nose tip": (0, 0, 300)}), "nose_tip lies 201 mm from the scan"),
        (writers.lm3({"Nose tip": (0, np.nan, 90)}), "not finite"),
    ],
)
def test_damaged_lm3(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"landmark file a\.lm3: .*{message}.*: restore the landmark file"):
        read(write(tmp_path / "a.lm3", text), VERTICES)


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("rows", [68, 83])
@pytest.mark.parametrize(
    ("separator", "tail"), [("\t", ""), ("\t\t", "\t\t\t\n"), (" ", "\r\n\n"), ("\t", "\n")]
)
def test_bnd_base_is_found_in_the_file(rows: int, base: int, separator: str, tail: str) -> None:
    chosen = CHOSEN[rows]
    if rows == 83:  # the corners of a face that looks along +z, left at +x
        chosen = chosen.copy()
        chosen[0], chosen[4], chosen[8], chosen[12], chosen[48], chosen[54] = 52, 51, 55, 56, 88, 91
    text = writers.bnd(VERTICES, chosen, base=base, separator=separator, tail=tail).encode()
    points = bnd(text, VERTICES)
    assert len(points) == rows
    np.testing.assert_allclose(np.stack(list(points.values())), VERTICES[chosen], atol=1e-6)
    table = np.array([[float(word) for word in line.split()] for line in text.splitlines() if line.strip()])
    assert index_base(table, VERTICES) == base


def test_bnd_rows_have_the_names_of_their_order() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the chosen points are no face, so their sides are exchanged
        for rows, names in (
            (68, set(KEY_POINTS)),
            (83, set(KEY_POINTS) - {"nose_tip", "nose_bridge", "subnasale"}),
        ):
            points = bnd(writers.bnd(VERTICES, CHOSEN[rows], base=0).encode(), VERTICES)
            assert names == set(points) & set(KEY_POINTS)
    points = bnd(writers.bnd(VERTICES, CHOSEN[68], base=0).encode(), VERTICES)
    np.testing.assert_allclose(points["nose_tip"], VERTICES[CHOSEN[68][30]])
    np.testing.assert_allclose(points["ibug68_67"], VERTICES[CHOSEN[68][67]])


def test_bnd_of_the_last_vertex_counted_from_one_and_the_first_from_zero() -> None:
    """An index of v would point past the end, one of -1 to the last vertex: neither may be looked up."""
    last = [len(VERTICES) - 1, *CHOSEN[68][1:]]
    assert len(bnd(writers.bnd(VERTICES, last, base=1).encode(), VERTICES)) == 68
    first = [0, *CHOSEN[68][1:]]
    assert len(bnd(writers.bnd(VERTICES, first, base=0).encode(), VERTICES)) == 68


def test_a_few_stray_rows_are_left_out() -> None:
    lines = writers.bnd(VERTICES, CHOSEN[68], base=1).splitlines()
    lines[30] = "17\t500\t500\t500"
    lines[40] = "99999\t0\t0\t0"
    points = bnd("\n".join(lines).encode(), VERTICES)
    assert len(points) == 66
    assert "nose_tip" not in points


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (writers.bnd(VERTICES + 1, CHOSEN[68], base=0), "only 0 of 68 points lie on the vertex"),
        (writers.bnd(VERTICES, CHOSEN[68], base=2), "only 0 of 68 points"),
        (writers.bnd(VERTICES, CHOSEN[68][:67], base=0), "67 rows of 4"),
        (writers.bnd(VERTICES, CHOSEN[68], base=0)[:-20], "has . numbers and the first line 4"),
        (writers.bnd(VERTICES, CHOSEN[68], base=0).replace("\t", ","), "is not a number"),
        (writers.bnd(VERTICES, CHOSEN[68], base=0).replace("\t", "\tx", 1), "is not a number"),
        ("", "0 rows"),
    ],
)
def test_damaged_bnd(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"landmark file a\.bnd: .*{message}"):
        read(write(tmp_path / "a.bnd", text), VERTICES)


def test_read_file_finds_landmarks_beside_the_mesh_and_names_both_files(tmp_path: Path) -> None:
    write(tmp_path / "000.BND", writers.bnd(VERTICES, CHOSEN[68], base=1))
    mesh = write(tmp_path / "000.wrl", bump_wrl())
    assert "nose_tip" in read_file(mesh, need_texture=False).landmarks
    write(tmp_path / "000.BND", writers.bnd(VERTICES + 1, CHOSEN[68], base=1))
    with pytest.raises(ValueError, match=r"000\.wrl: landmark file 000\.BND: .*take it away"):
        read_file(mesh, need_texture=False)


def test_an_unknown_landmark_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.txt: only \.lm3 and \.bnd"):
        read(write(tmp_path / "a.txt", ""), VERTICES)
