"""D3DFACS: folders named by action units; a raw capture is two half faces."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Options, d3dfacs, find, read
from tests.scans.writers import color_at, image, write
from tests.scans.writers_film import FINE, VERTICES, half_obj, metre_ply, reasons, touch


def test_registered_meshes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"registered/Ann/1+2/1+2_{n}.ply" for n in (175, 9, 1000, 2)))
    touch(tmp_path, "registered/Ann/12L+25/12L+25_1.ply", "registered/Bob/1+2/1+2_3.ply")
    touch(tmp_path, "registered/Bob/AU4/AU4_1.ply", "registered/Bob/talk/talk_1.ply", "readme.txt")
    listing = find(tmp_path)
    assert listing.dataset == "d3dfacs"
    assert {s.name: dict(s.measures) for s in listing.sequences} == {
        "Ann/1+2": {"AU01": 1, "AU02": 1},
        "Ann/12L+25": {"AU12L": 1, "AU25": 1},
        "Bob/1+2": {"AU01": 1, "AU02": 1},
        "Bob/AU4": {"AU04": 1},
        "Bob/talk": {},
    }
    assert {s.label for s in listing.sequences} == {None}
    assert {s.subject for s in listing.sequences} == {"Ann", "Bob"}
    assert [f.number for f in listing.sequences[0].frames] == [2, 9, 175, 1000]
    assert all(f.parts == () for s in listing.sequences for f in s.frames)
    assert "1 folder not named by action units" in listing.why
    assert listing.problems == ()
    mapped = find(tmp_path, options=Options(mapping={"12l+25": "happiness"}))
    assert next(s for s in mapped.sequences if "12L" in s.name).label == "happiness"


@pytest.mark.parametrize(
    "halves",
    [("L", "R"), ("_left", "_right"), ("A", "B"), ("_half1", "_half2"), ("_l", "_r"), (".LEFT", ".RIGHT")],
)
@pytest.mark.parametrize("stem", ["1+2_", "", "frame"])
def test_two_halves_are_one_frame(tmp_path: Path, halves: tuple[str, str], stem: str) -> None:
    first, second = halves
    for n in (1, 2, 10):
        touch(tmp_path, *(f"Ann/1+2/{stem}{n}{half}.{e}" for half in halves for e in ("obj", "bmp")))
    (sequence,) = find(tmp_path).sequences
    folder = tmp_path / "Ann/1+2"
    assert [(f.number, f.path, f.parts) for f in sequence.frames] == [
        (n, folder / f"{stem}{n}{first}.obj", (folder / f"{stem}{n}{second}.obj",)) for n in (1, 2, 10)
    ]
    assert sequence.frames[0].texture == folder / f"{stem}1{first}.bmp"


def test_frames_one_and_two_of_a_whole_mesh_are_no_halves(tmp_path: Path) -> None:
    touch(tmp_path, "Ann/1+2/1+2_1.obj", "Ann/1+2/1+2_2.obj")
    (sequence,) = find(tmp_path).sequences
    assert [(f.number, f.parts) for f in sequence.frames] == [(1, ()), (2, ())]


@pytest.mark.parametrize("halves", [("_0", "_1"), ("_1", "_2"), ("_half1", "_half2"), ("L", "R")])
def test_halves_behind_the_documented_name_may_share_a_texture(
    tmp_path: Path, halves: tuple[str, str]
) -> None:
    for n in (1, 175):
        touch(tmp_path, f"Ann/1+2/1+2_{n}.bmp", *(f"Ann/1+2/1+2_{n}{half}.obj" for half in halves))
    listing = find(tmp_path)
    folder = tmp_path / "Ann/1+2"
    assert [(f.number, f.path, f.parts, f.texture) for f in listing.sequences[0].frames] == [
        (
            n,
            folder / f"1+2_{n}{halves[0]}.obj",
            (folder / f"1+2_{n}{halves[1]}.obj",),
            folder / f"1+2_{n}.bmp",
        )
        for n in (1, 175)
    ]
    assert listing.problems == ()


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (
            ("1+2_7_0", "1+2_7_1", "1+2_7_2"),
            "'1+2_7_2.obj' is one of several files of its frame that are no pair",
        ),
        (("1+2_7", "1+2_7_L", "1+2_7_R"), "'1+2_7.obj' is one of several files of its frame"),
        (("1+2_7_left", "1+2_7_B"), "'1+2_7_B.obj' is one of several files"),
        (("1+2_7_half3",), "'1+2_7_half3.obj' is half a face without its other half"),
        (("1+2_7_raw",), "'1+2_7_raw.obj' is not a frame number behind"),
        (("7_1", "7_2"), "'7_2.obj' is not a frame number behind"),  # frames 1 and 2 of AU7, or halves of 7
        (("1+2_take3_7",), "'1+2_take3_7.obj' is not a frame number behind"),
    ],
)
def test_names_that_are_neither_a_frame_nor_its_half(
    tmp_path: Path, names: tuple[str, ...], part: str
) -> None:
    touch(tmp_path, "Ann/1+2/1+2_9.obj", *(f"Ann/1+2/{name}.obj" for name in names))
    listing = find(tmp_path)
    assert [f.number for f in listing.sequences[0].frames] == [9]
    assert len(listing.problems) == len(names)
    assert part in reasons(listing)


def test_below_a_folder_of_the_data_set(tmp_path: Path) -> None:
    (sequence,) = find(touch(tmp_path, "D3DFACS/registered/Bob/1+2/1+2_175.ply")).sequences
    assert sequence.name == "Bob/1+2"


def test_half_a_face_is_no_frame(tmp_path: Path) -> None:
    touch(
        tmp_path, "Ann/1+2/1_L.obj", "Ann/1+2/1_R.obj", "Ann/1+2/2_L.obj", "Ann/1+2/3_R.obj", "Ann/1+2/x.obj"
    )
    touch(tmp_path, "Ann/1+2/01_L.obj", "Ann/4/readme.txt")
    listing = find(tmp_path)
    assert [f.number for f in listing.sequences[0].frames] == [1]
    for part in (
        "'2_L.obj' is half a face without",
        "'3_R.obj' is half",
        "'x.obj' is not a frame number behind the action units, like 1+2_175.obj: rename it",
        "already there",
        "folder '4' holds no meshes",
    ):
        assert part in reasons(listing)


def test_numbered_folders_alone_are_not_taken_for_action_units(tmp_path: Path) -> None:
    touch(tmp_path, "P001/12/12_001.ply", "P001/4/4_001.ply")
    assert not d3dfacs.matches(tmp_path)


def test_a_raw_capture_is_read_as_a_whole_face(tmp_path: Path) -> None:
    for side, right in (("L", False), ("R", True)):
        image(tmp_path / f"Ann/1+2/1+2_175_{side}.bmp")
        write(tmp_path / f"Ann/1+2/1+2_175_{side}.obj", half_obj(right=right))
    (sequence,) = find(tmp_path).sequences
    (frame,) = sequence.frames
    scan = read(frame)
    vertices, faces, _ = FINE
    triangles = {tuple(map(tuple, corners)) for corners in np.round(vertices, 3)[faces].tolist()}
    assert {
        tuple(map(tuple, corners)) for corners in np.round(scan.vertices, 3)[scan.faces].tolist()
    } == triangles
    assert len(scan.faces) == len(faces)
    assert scan.texture is not None
    colors = color_at(scan.texture.image, scan.texture.corner_uv)
    middles = scan.vertices[scan.faces].mean(axis=1)
    for corner, color in (((-1, 1), (250, 10, 10)), ((1, 1), (10, 250, 10)), ((1, -1), (250, 250, 10))):
        assert (colors[(middles[:, :2] * corner > 10).all(axis=1)] == color).all()


def test_two_halves_of_one_picture_are_read(tmp_path: Path) -> None:
    image(tmp_path / "Ann/1+2/1+2_175.bmp")
    for side, right in (("half1", False), ("half2", True)):
        write(tmp_path / f"Ann/1+2/1+2_175_{side}.obj", half_obj(right=right))
    (sequence,) = find(tmp_path).sequences
    scan = read(sequence.frames[0])
    assert len(scan.faces) == len(FINE[1])
    assert scan.texture is not None
    colors = color_at(scan.texture.image, scan.texture.corner_uv)
    middles = scan.vertices[scan.faces].mean(axis=1)
    for corner, color in (((-1, 1), (250, 10, 10)), ((1, 1), (10, 250, 10)), ((1, -1), (250, 250, 10))):
        assert (colors[(middles[:, :2] * corner > 10).all(axis=1)] == color).all()


def test_a_registered_mesh_is_read(tmp_path: Path) -> None:
    write(tmp_path / "Ann/1+2/1+2_175.ply", metre_ply())
    (sequence,) = find(tmp_path).sequences
    scan = read(sequence.frames[0], need_texture=False)
    np.testing.assert_allclose(scan.vertices * 1000, VERTICES, atol=0.06)
