"""`.lm3` and `.lm2` by label, `.bnd` with its index base found in the file, and what does not lie on the scan."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from smile.scans import Scan, read_file
from smile.scans.grid import triangulate
from smile.scans.landmarks import KEY_POINTS, bnd, dtu84, index_base, lm2, lm3, read
from tests.scans import writers, writers_faces
from tests.scans.writers import SIDE, bnt, bump, bump_grid, bump_wrl, image, write
from tests.scans.writers_faces import FACES, LABELS, MARKED, PLACES, VERTICES, bump_scan, on_bump, pixel

CHOSEN = {68: list(range(2, 138, 2)), 83: list(range(5, 88))}
NAMES = [
    "outer_left_eyebrow",
    "left_eye_inner",
    "right_eye_inner",
    "nose_saddle_left",
    "nose_saddle_right",
    "nose_tip",
    "left_mouth_corner",
    "upper_lip_outer_middle",
    "right_mouth_corner",
    "chin",
    "ear_lobe_left",
]


def placed(
    folder: Path, text: bytes, *, scan: Scan | None = None, name: str = "a.lm3"
) -> dict[str, np.ndarray]:
    return read(write(folder / name, text), scan or bump_scan(), mesh=folder / "a.bnt")


# --- Bosphorus .lm3 ----------------------------------------------------------


@pytest.mark.parametrize("star", [True, False])
def test_lm3_with_crlf_and_absent_landmarks(star: bool) -> None:
    points = lm3(writers.lm3(LABELS, star=star))
    assert list(points) == NAMES  # eleven of twenty-four
    np.testing.assert_allclose(points["left_mouth_corner"], on_bump(20, -30))


def test_lm3_remarks_may_hold_anything() -> None:
    """Between `*` and the empty line: here a number alone and three in a row, which look like a count and a point."""
    text = writers.lm3(LABELS).replace(b"scanned somewhere\r\n", b"7\r\nNose tip\r\n12 03 2007\r\n")
    for name, point in lm3(text).items():
        np.testing.assert_array_equal(point, lm3(writers.lm3(LABELS))[name])


def test_lm3_in_another_order_gives_the_same_points() -> None:
    turned = lm3(writers.lm3(dict(reversed(LABELS.items()))))
    for name, point in lm3(writers.lm3(LABELS)).items():
        np.testing.assert_array_equal(point, turned[name])


def test_lm3_of_the_viewers_left_is_turned_with_a_warning(tmp_path: Path) -> None:
    swapped = {label: (-x, y, z) for label, (x, y, z) in LABELS.items()}
    with pytest.warns(UserWarning, match="both sides were exchanged"):
        points = placed(tmp_path, writers.lm3(swapped))
    assert points["left_mouth_corner"][0] > 0 > points["right_mouth_corner"][0]
    assert "outer_right_eyebrow" in points


def test_lm3_with_unknown_labels_keeps_the_known_ones() -> None:
    assert list(lm3(writers.lm3({"Third eye": (0, 0, 0), **LABELS}))) == NAMES


def test_a_landmark_where_the_scan_has_no_surface_is_left_out(tmp_path: Path) -> None:
    """The scan ends above the chin, and a hole takes the nose tip: both float, the others stay where they are."""
    vertices, faces, _ = bump(61)  # a 2 mm grid
    middle = vertices[faces].mean(axis=1)
    kept = (middle[:, 1] > -45) & (np.linalg.norm(middle[:, :2], axis=1) > 5)
    scan = Scan(vertices, faces[kept])  # the vertices are still there, but no triangle uses them
    points = placed(tmp_path, writers.lm3(LABELS), scan=scan)
    assert set(NAMES) - set(points) == {"chin", "nose_tip"}
    for name, point in points.items():
        np.testing.assert_allclose(point, dict(zip(NAMES, LABELS.values(), strict=True))[name])


def floating(above: float, *, step: float) -> tuple[Scan, tuple[float, float, float], np.ndarray]:
    """A plane with a grid of `step` mm, a point `above` the middle of one of its triangles, and that middle."""
    x, y = np.meshgrid(np.arange(-20, 20, step), np.arange(20, -20, -step))
    vertices, faces, _ = triangulate(np.stack([x, y, np.full_like(x, 5.0)], axis=-1))
    middle = vertices[faces[len(faces) // 2]].mean(axis=0)
    return Scan(vertices, faces), (middle[0], middle[1], middle[2] + above), middle


@pytest.mark.parametrize(
    ("step", "above", "result"),
    [
        (2.5, 0.9, "stays"),
        (2.5, 1.1, "moved"),
        (2.5, 2.4, "moved"),
        (2.5, 2.6, "left out"),
        (0.5, 0.9, "stays"),
        (0.5, 1.1, "left out"),
        (8.0, 0.9, "stays"),  # measured from the triangles: the nearest vertex is 4 mm away
    ],
)
def test_a_landmark_lies_on_the_surface(tmp_path: Path, step: float, above: float, result: str) -> None:
    """As it is within a millimetre, on the surface within a grid step, and else it marks nothing."""
    scan, point, middle = floating(above, step=step)
    points = placed(tmp_path, writers.lm3({"Nose tip": point, "Chin middle": (0, 0, 5)}), scan=scan)
    assert "chin" in points
    expected = {"stays": np.array(point), "moved": middle, "left out": None}[result]
    assert ("nose_tip" in points) == (expected is not None)
    if expected is not None:
        np.testing.assert_allclose(points["nose_tip"], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no known landmark"),
        (b"3D landmarks\r\n*\r\nremarks without an end", "no known landmark"),
        (writers.lm3(LABELS, count=12), "announces 12 landmarks and holds 11"),
        (writers.lm3(LABELS)[:-22], "announces 11 landmarks and holds 10"),
        (writers.lm3({"Nose tip": (0, 0, 300)}), r"1 of 1 landmarks are off the scan \(nose_tip by 201 mm\)"),
        (
            writers.lm3({label: (x, y, z + 15) for label, (x, y, z) in LABELS.items()}),
            "of 11 landmarks are off the scan .*, so it belongs to another one",
        ),
        (writers.lm3({"Nose tip": (0, np.nan, 90)}), "not finite"),
    ],
)
def test_damaged_lm3(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"landmark file a\.lm3: .*{message}.*: restore the landmark file"):
        placed(tmp_path, text)


# --- Bosphorus .lm2 ----------------------------------------------------------

SIZE = {"height": 480, "width": 360}
PIXELS = {label: pixel(*place, **SIZE) for label, place in PLACES.items()}


def with_image(folder: Path) -> Path:
    """A range image and its picture, and no landmarks."""
    image(folder / "a.png", **SIZE)
    write(folder / "a.bnt", bnt(bump_grid(), name=b"a.png"))
    return folder


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_lm2_by_label(end: str) -> None:
    places = lm2(writers_faces.lm2(PIXELS, end=end))
    assert list(places) == NAMES
    np.testing.assert_allclose(places["nose_tip"], (180, 240))
    assert list(lm2(writers_faces.lm2(dict(reversed(PIXELS.items()))))) == NAMES[::-1]


@pytest.mark.parametrize(
    "spacers",
    [
        (["", ""], ["", ""]),
        (["Labels", "--"], ["Coordinates", "--"]),
        (["", "Labels"], ["", "2D coordinates of 11 points"]),
        (["Labels"], ["Coordinates"]),  # and in other numbers than two lines
        (["", "", "Labels"], []),
        (["Labels"], ["", "", "Coordinates"]),
    ],
)
def test_lm2_whatever_stands_between_its_lists(spacers: tuple[list[str], list[str]]) -> None:
    places = lm2(writers_faces.lm2(PIXELS, spacers=spacers))
    assert list(places) == NAMES
    for name, pixels in zip(NAMES, PIXELS.values(), strict=True):
        np.testing.assert_allclose(places[name], pixels, atol=1e-4)


def test_lm2_with_unknown_labels_keeps_the_known_ones() -> None:
    places = lm2(writers_faces.lm2({"Third eye": (3, 4), **PIXELS}, spacers=(["", "--"], ["", "--"])))
    assert list(places) == NAMES
    np.testing.assert_allclose(places["nose_tip"], (180, 240))


def test_lm3_and_lm2_with_colons_and_commas() -> None:
    three = {f"{label}:": place for label, place in LABELS.items()}
    text = writers.lm3(three).decode()
    commas = "\r\n".join(line.replace(" ", ", ") if ":" not in line else line for line in text.split("\r\n"))
    points = lm3(commas.encode())
    assert list(points) == NAMES
    np.testing.assert_allclose(points["left_mouth_corner"], on_bump(20, -30))
    two = lm2(writers_faces.lm2({f"{label} :": place for label, place in PIXELS.items()}))
    assert list(two) == NAMES


def test_lm2_is_placed_on_the_surface_by_the_image(tmp_path: Path) -> None:
    """A pixel goes to the nearest point of the grid, at most half a step of it away in x and in y."""
    points = placed(with_image(tmp_path), writers_faces.lm2(PIXELS), name="a.lm2")
    assert list(points) == NAMES
    step = 120 / (SIDE - 1)
    for name, place in zip(NAMES, PLACES.values(), strict=True):
        assert np.abs(points[name][:2] - place).max() <= step / 2 + 1e-6
        assert np.abs(VERTICES - points[name]).sum(axis=1).min() == 0
    assert points["left_mouth_corner"][0] > 0 > points["left_mouth_corner"][1]


def test_lm2_over_a_hole_is_left_out_and_lm3_counts_more(tmp_path: Path) -> None:
    grid = bump_grid()
    grid[:, 4:8, 4:8] = -1e9  # 30 mm round the nose tip
    write(with_image(tmp_path) / "a.bnt", bnt(grid, name=b"a.png"))
    write(tmp_path / "a.lm2", writers_faces.lm2(PIXELS))
    assert set(NAMES) - set(read_file(tmp_path / "a.bnt").landmarks) == {"nose_tip"}
    write(tmp_path / "a.lm3", writers.lm3({"Chin middle": LABELS["Chin middle"]}))
    assert list(read_file(tmp_path / "a.bnt").landmarks) == ["chin"]


def test_lm2_means_nothing_without_the_image(tmp_path: Path) -> None:
    (with_image(tmp_path) / "a.png").unlink()
    write(tmp_path / "a.lm2", writers_faces.lm2(PIXELS))
    assert read_file(tmp_path / "a.bnt", need_texture=False).landmarks == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "does not say how many landmarks"),
        (writers_faces.lm2(PIXELS, count=12), "announces 12 landmarks and holds 11"),
        (writers_faces.lm2(PIXELS)[:-20], "holds 11 labels and 10 pixels"),
        (writers_faces.lm2({"Third eye": (3, 4)}), "no known landmark"),
        (writers_faces.lm2({"Nose tip": (3, np.inf)}), "not finite"),
        (
            writers_faces.lm2({label: (x + 9000, y) for label, (x, y) in PIXELS.items()}),
            "11 of 11 landmarks are off the scan in its image",
        ),
    ],
)
def test_damaged_lm2(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"landmark file a\.lm2: .*{message}.*: restore the landmark file"):
        placed(with_image(tmp_path), text, name="a.lm2")


# --- BU .bnd -----------------------------------------------------------------


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("rows", [68, 83])
@pytest.mark.parametrize(
    ("separator", "tail"), [("\t", ""), ("\t\t", "\t\t\t\n"), (" ", "\r\n\n"), ("\t", "\n")]
)
def test_bnd_base_is_found_in_the_file(rows: int, base: int, separator: str, tail: str) -> None:
    chosen = MARKED if rows == 83 else CHOSEN[rows]
    text = writers.bnd(VERTICES, chosen, base=base, separator=separator, tail=tail).encode()
    points = bnd(text, bump_scan())
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
            points = bnd(writers.bnd(VERTICES, CHOSEN[rows], base=0).encode(), bump_scan())
            assert names == set(points) & set(KEY_POINTS)
    points = bnd(writers.bnd(VERTICES, CHOSEN[68], base=0).encode(), bump_scan())
    np.testing.assert_allclose(points["nose_tip"], VERTICES[CHOSEN[68][30]])
    np.testing.assert_allclose(points["ibug68_67"], VERTICES[CHOSEN[68][67]])


def test_bnd_of_the_last_vertex_counted_from_one_and_the_first_from_zero() -> None:
    """An index of v would point past the end, one of -1 to the last vertex: neither may be looked up."""
    last = [len(VERTICES) - 1, *CHOSEN[68][1:]]
    assert len(bnd(writers.bnd(VERTICES, last, base=1).encode(), bump_scan())) == 68
    first = [0, *CHOSEN[68][1:]]
    assert len(bnd(writers.bnd(VERTICES, first, base=0).encode(), bump_scan())) == 68


def test_a_few_stray_rows_are_left_out() -> None:
    lines = writers.bnd(VERTICES, CHOSEN[68], base=1).splitlines()
    lines[30] = "17\t500\t500\t500"
    lines[40] = "99999\t0\t0\t0"
    points = bnd("\n".join(lines).encode(), bump_scan())
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
        placed(tmp_path, text.encode(), name="a.bnd")


def test_read_file_finds_landmarks_beside_the_mesh_and_names_both_files(tmp_path: Path) -> None:
    write(tmp_path / "000.BND", writers.bnd(VERTICES, CHOSEN[68], base=1))
    mesh = write(tmp_path / "000.wrl", bump_wrl())
    assert "nose_tip" in read_file(mesh, need_texture=False).landmarks
    write(tmp_path / "000.BND", writers.bnd(VERTICES + 1, CHOSEN[68], base=1))
    with pytest.raises(ValueError, match=r"000\.wrl: landmark file 000\.BND: .*take it away"):
        read_file(mesh, need_texture=False)


def test_bnd_may_end_with_an_84th_row_that_holds_its_number_alone() -> None:
    """The corners of a face that looks along +z, left at +x."""
    text = writers.bnd(VERTICES, MARKED, base=0, separator="\t\t", tail="84\t\t\t\r\n")
    assert len(bnd(text.encode(), bump_scan())) == 83
    with pytest.raises(ValueError, match="84 rows of 4"):
        bnd((writers.bnd(VERTICES, MARKED, base=0) + "5\t1\t0\t0\n").encode(), bump_scan())


@pytest.mark.parametrize("point", ["0 0 0", "nan nan nan", "0.000000\t0.000000\t0.000000", "NaN -NaN NaN"])
def test_bnd_may_end_with_an_84th_row_of_zeros_or_nan(point: str) -> None:
    text = writers.bnd(VERTICES, MARKED, base=0) + f"84 {point}\r\n"
    assert len(bnd(text.encode(), bump_scan())) == 83


def test_a_row_on_a_vertex_that_no_triangle_uses_is_left_out() -> None:
    """Meshes keep vertices of what the scanner did not see; one of them may still lie on the surface by chance."""
    vertices = np.concatenate([VERTICES, [[-60, 0, 0], VERTICES[50] + (0, 0, 0.5)]])
    chosen = [len(VERTICES), len(VERTICES) + 1, *CHOSEN[68][2:]]
    points = bnd(writers.bnd(vertices, chosen, base=1).encode(), Scan(vertices, FACES))
    assert len(points) == 67
    assert "ibug68_00" not in points
    np.testing.assert_allclose(points["ibug68_01"], vertices[-1])


# --- the DTU points of BU-3DFE -----------------------------------------------


def dtu(points: np.ndarray) -> bytes:
    return "".join(" ".join(f"{value:.4f}" for value in point) + "\n" for point in points).encode()


def test_dtu84_are_the_83_and_the_nose_tip(tmp_path: Path) -> None:
    marked = VERTICES[[*MARKED, 66]]
    points = placed(tmp_path, dtu(marked), name="F0001_AN01WH_RAW_84_LMS.txt")
    assert len(points) == 84
    assert set(KEY_POINTS) - set(points) == {"nose_bridge"}
    np.testing.assert_allclose(points["nose_tip"], VERTICES[66], atol=1e-4)
    np.testing.assert_allclose(points["left_mouth_corner"], VERTICES[MARKED[54]], atol=1e-4)


def test_dtu84_of_another_frame_or_truncated() -> None:
    marked = VERTICES[[*MARKED, 66]]
    assert len(dtu84(dtu(marked))) == 84
    with pytest.raises(ValueError, match="83 rows of 3 numbers where 84 of 3"):
        dtu84(dtu(marked[:83]))


def test_dtu84_float_beside_the_cropped_mesh(tmp_path: Path) -> None:
    """They are in the frame of the RAW mesh."""
    with pytest.raises(ValueError, match="84 of 84 landmarks are off the scan"):
        placed(tmp_path, dtu(VERTICES[[*MARKED, 66]] + (0, 0, -40)), name="a_84_lms.txt")


def test_an_unknown_landmark_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a\.txt: only \.bnd, \.lm3, \.lm2 and _84_LMS\.txt are known: take it away"
    ):
        placed(tmp_path, b"", name="a.txt")
