"""D3DFACS: folders named by action units; a raw capture is two half faces."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Options, find, read
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
    "halves", [("L", "R"), ("_left", "_right"), ("A", "B"), ("_1", "_2"), ("_l", "_r"), (".LEFT", ".RIGHT")]
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
        "'x.obj' has no frame",
        "already there",
        "folder '4' holds no meshes",
    ):
        assert part in reasons(listing)


def test_numbered_folders_alone_are_not_taken_for_action_units(tmp_path: Path) -> None:
    touch(tmp_path, "P001/12/12_001.ply", "P001/4/4_001.ply")
    with pytest.raises(ValueError, match="no scans recognised"):
        find(tmp_path, dataset="d3dfacs")


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


def test_a_registered_mesh_is_read(tmp_path: Path) -> None:
    write(tmp_path / "Ann/1+2/1+2_175.ply", metre_ply())
    (sequence,) = find(tmp_path).sequences
    scan = read(sequence.frames[0], need_texture=False)
    np.testing.assert_allclose(scan.vertices * 1000, VERTICES, atol=0.06)
