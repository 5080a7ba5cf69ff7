"""BU-3DFE and BU-4DFE: names, labels, landmark files in their own tree, and what is set aside with a sentence."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Scan, find, read
from smile.scans.surface import distances
from tests.scans.writers import bnd, bump_wrl, image, indices, write
from tests.scans.writers_faces import FACES, MARKED, VERTICES, reasons, touch

EXPRESSIONS = {
    "Angry": "anger",
    "Disgust": "disgust",
    "Fear": "fear",
    "Happy": "happiness",
    "Sad": "sadness",
    "Surprise": "surprise",
}


def moved(shift: tuple[float, float, float]) -> str:
    """The bulge as the text of a mesh, moved."""
    points = ", ".join(" ".join(f"{value:.10g}" for value in row) for row in VERTICES + shift)
    return bump_wrl(vertices=points)


def known_geometry(scan: Scan, shift: tuple[float, float, float] = (0, 0, 0)) -> None:
    np.testing.assert_allclose(scan.vertices, VERTICES + shift, atol=1e-6)
    np.testing.assert_array_equal(scan.faces, FACES)
    if scan.landmarks:
        points = np.stack(list(scan.landmarks.values()))
        assert distances(points, scan.vertices, scan.faces).max() < 0.001  # mm


# --- BU-4DFE -----------------------------------------------------------------


def write_bu4dfe(root: Path, *, archive: str, base: int) -> None:
    """Two people, six expressions, three frames; the landmarks repeat the tree in `archive`."""
    for subject in ("F001", "M001"):
        for word in EXPRESSIONS:
            for frame in range(3):
                shift = (frame, 0.5 * frame, 0)
                write(root / f"BU-4DFE/{subject}/{word}/{frame:03d}.wrl", moved(shift))
                marks = bnd(VERTICES + shift, MARKED, base=base, separator="\t\t", tail="\t\t\t\t\n")
                write(root / f"{archive}/{subject}/{word}/{frame:03d}.bnd", marks)
            write(root / f"BU-4DFE/{subject}/{word}/000.jpg", b"x")
    touch(root, "BU-4DFE/BU_WrlViewer_V2/viewer.exe", "BU-4DFE/BU_WrlViewer_V2/sample.wrl")


@pytest.mark.parametrize(
    ("archive", "base"),
    [
        ("BU4DFE_BND_V1.1", 0),
        ("BU4DFE_BND_V1.1/BU4DFE_BND_V1.1", 1),
        ("BU-4DFE/BU4DFE_BND_V1.1", 1),
        ("BU-4DFE/bu4dfe_bnd", 0),
        ("BU-4DFE", 1),
    ],
)
def test_bu4dfe_tree_with_its_landmark_archive(tmp_path: Path, archive: str, base: int) -> None:
    write_bu4dfe(tmp_path, archive=archive, base=base)
    listing = find(tmp_path)
    assert (listing.dataset, listing.problems) == ("bu4dfe", ())
    assert {s.subject for s in listing.sequences} == {"F001", "M001"}
    assert {s.name: s.label for s in listing.sequences if s.subject == "F001"} == {
        f"F001/{word}": label for word, label in EXPRESSIONS.items()
    }
    assert "2 subjects, 12 sequences, 36 frames" in listing.why
    assert "missing" not in listing.why
    for sequence in (listing.sequences[0], listing.sequences[-1]):
        assert (sequence.onset, sequence.apex, sequence.offset) == (None, None, None)
        assert [frame.number for frame in sequence.frames] == [0, 1, 2]
        for frame in sequence.frames:
            scan = read(frame, need_texture=False)
            assert len(scan.landmarks) == 83
            known_geometry(scan, (frame.number, 0.5 * frame.number, 0))
            np.testing.assert_allclose(
                scan.landmarks["left_mouth_corner"],
                VERTICES[MARKED[54]] + (frame.number, 0.5 * frame.number, 0),
                atol=1e-5,
            )


def test_bu4dfe_the_archive_given_as_the_data_set_itself(tmp_path: Path) -> None:
    """The user points at the folder of the subjects; the landmark tree lies among them."""
    write_bu4dfe(tmp_path, archive="BU-4DFE/BU4DFE_BND_V1.1", base=0)
    listing = find(tmp_path / "BU-4DFE")
    assert listing.problems == ()
    assert all(frame.landmarks is not None for s in listing.sequences for frame in s.frames)


def test_bu4dfe_landmarks_go_by_the_number_of_the_frame(tmp_path: Path) -> None:
    touch(tmp_path, *(f"data/F001/Angry/{n}.wrl" for n in ("0", "10", "2")))
    touch(tmp_path, *(f"BND/F001/ANGRY/{n}.BND" for n in ("000", "010")))
    frames = find(tmp_path).sequences[0].frames
    assert [f.number for f in frames] == [0, 2, 10]
    assert [f.landmarks and f.landmarks.name for f in frames] == ["000.BND", None, "010.BND"]


def test_bu4dfe_landmarks_beside_the_mesh_count_more(tmp_path: Path) -> None:
    touch(tmp_path, "BU-4DFE/F001/Angry/000.wrl", "BU-4DFE/F001/Angry/001.wrl", "BU-4DFE/F001/Angry/001.bnd")
    touch(tmp_path, "BU4DFE_BND_V1.1/F001/angry/000.bnd", "BU4DFE_BND_V1.1/F001/angry/001.bnd")
    touch(tmp_path, "BU4DFE_BND_V1.1/F001/Happy/000.bnd", "BU4DFE_BND_V1.1/F002/Happy/000.bnd")
    listing = find(tmp_path)
    (sequence,) = listing.sequences
    assert sequence.frames[0].landmarks == tmp_path / "BU4DFE_BND_V1.1/F001/angry/000.bnd"
    assert sequence.frames[1].landmarks == tmp_path / "BU-4DFE/F001/Angry/001.bnd"
    assert listing.problems == ()
    assert "5 of 6 expressions are missing" in listing.why


def test_bu4dfe_meshes_in_a_folder_with_the_name_of_an_archive_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "BU4DFE+BND/F001/Angry/000.wrl", "BU4DFE+BND/F001/Angry/000.bnd")
    (sequence,) = find(tmp_path).sequences
    assert sequence.frames[0].landmarks == tmp_path / "BU4DFE+BND/F001/Angry/000.bnd"


def test_bu4dfe_frames_of_one_to_four_digits_in_numeric_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"F001/Happy/{n}.wrl" for n in ("100", "20", "0003", "99", "000", "1000", "7")))
    (sequence,) = find(tmp_path).sequences
    assert [frame.number for frame in sequence.frames] == [0, 3, 7, 20, 99, 100, 1000]
    assert (sequence.subject, sequence.label, sequence.name) == ("F001", "happiness", "F001/Happy")


def test_bu4dfe_mixed_case_viewer_folders_and_stray_files(tmp_path: Path) -> None:
    touch(tmp_path, "f002/ANGRY/000.WRL", "f002/ANGRY/000.JPG", "F002/sad/1.wrl", "M010/Fear/000.wrl")
    touch(tmp_path, "BU_WrlViewer_V2/viewer.exe", "BU_WrlViewer_V2/sample.wrl")
    touch(tmp_path, ".hidden/a", "M010/Thumbs/a.jpg", "readme.txt")
    listing = find(tmp_path)
    assert listing.dataset == "bu4dfe"
    assert [s.name for s in listing.sequences] == ["F002/Angry", "F002/Sad", "M010/Fear"]
    assert listing.problems == ()
    assert listing.sequences[0].frames[0].texture == tmp_path / "f002/ANGRY/000.JPG"
    assert "2 subjects, 3 sequences, 3 frames" in listing.why
    assert "1 other folder left out" in listing.why
    assert "9 of 12 expressions are missing" in listing.why


def test_sex_letters_make_different_people(tmp_path: Path) -> None:
    listing = find(touch(tmp_path, "F001/Sad/000.wrl", "M001/Sad/000.wrl"))
    assert [s.subject for s in listing.sequences] == ["F001", "M001"]


def test_bu4dfe_problems_name_the_folder_and_the_remedy(tmp_path: Path) -> None:
    touch(tmp_path, *(f"F001/Angry/{name}.wrl" for name in ("000", "0", "mean")))
    touch(tmp_path, "F001/Bored/000.wrl", "F01/Sad/000.wrl")
    (tmp_path / "F001/Disgust").mkdir()
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["F001/Angry"]
    assert [p.path.name for p in listing.problems] == ["F01", "000.wrl", "mean.wrl", "Bored", "Disgust"]
    for part in (
        "frame 0 is already there as 0.wrl",
        "no frame number",
        "'Bored' is not a known",
        "holds no frames",
        "three digits",
    ):
        assert part in reasons(listing)


def test_the_image_of_the_data_set_counts_more_than_a_stale_url(tmp_path: Path) -> None:
    """Frame 001 names the image of frame 000, as copied headers do: its own image must be taken."""
    for number, size in ((0, 10), (1, 20)):
        image(tmp_path / f"F001/Angry/00{number}.jpg", height=size, width=size)
        write(tmp_path / f"F001/Angry/00{number}.wrl", bump_wrl(url="000.jpg"))
    for frame, size in zip(find(tmp_path).sequences[0].frames, (10, 20), strict=True):
        texture = read(frame).texture
        assert texture is not None
        assert texture.image.shape == (size, size, 3)


@pytest.mark.parametrize("top", ["", "data/", "data/BU-4DFE/"])
def test_bu4dfe_parts_lie_side_by_side_and_two_folders_deeper(tmp_path: Path, top: str) -> None:
    names = ("part1/F001", "F003", "part2/F002")
    names = names if top != "data/BU-4DFE/" else ("F001", "F002", "more/F003")
    touch(tmp_path, *(f"{top}{name}/Sad/000.wrl" for name in names))
    touch(tmp_path, *(f"{top}points/F00{n}/{word}/000.bnd" for n in (1, 2, 3) for word in ("Sad", "Happy")))
    listing = find(tmp_path)
    assert (listing.dataset, listing.problems) == ("bu4dfe", ())
    assert [s.subject for s in listing.sequences] == ["F001", "F002", "F003"]
    assert all(s.frames[0].landmarks is not None for s in listing.sequences)
    assert "landmarks for 3 of 3 frames, 3 landmark files without a frame" in listing.why


def test_bu4dfe_counts_frames_without_landmarks(tmp_path: Path) -> None:
    touch(tmp_path, *(f"F001/Sad/00{n}.wrl" for n in range(4)))
    assert "landmark" not in find(tmp_path).why
    touch(tmp_path, "F001/Sad/001.bnd", "F001/Sad/002.bnd", "BND/F001/Sad/001.bnd")
    assert find(tmp_path).why.endswith("landmarks for 2 of 4 frames")


def test_a_folder_that_leads_back_to_itself_ends(tmp_path: Path) -> None:
    touch(tmp_path, "F001/Sad/000.wrl")
    (tmp_path / "back").symlink_to(tmp_path, target_is_directory=True)
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["F001/Sad"]
    (problem,) = listing.problems
    assert problem.path == tmp_path / "back"
    assert "link 'back' leads back to a folder that it lies in: take the link away" in problem.reason


# --- BU-3DFE -----------------------------------------------------------------


def write_bu3dfe(root: Path) -> None:
    """One person: neutral, two levels of anger with F3D and RAW, and one capture that lost its F3D mesh."""
    for code in ("NE00", "AN03", "AN04"):
        stem = root / f"F0001/F0001_{code}WH"
        write(stem.with_name(stem.name + "_F3D.wrl"), moved((0, 0, 0)))
        write(stem.with_name(stem.name + "_F3D.bnd"), bnd(VERTICES, MARKED, base=1))
        image(stem.with_name(stem.name + "_F3D.bmp"))
        write(stem.with_name(stem.name + "_RAW.wrl"), moved((5, 0, 40)))
        touch(root, f"F0001/F0001_{code}WH_RAW.pse", f"F0001/F0001_{code}WH_F2D.bmp")
    write(root / "F0001/F0001_HA02WH_RAW.wrl", moved((5, 0, 40)))
    write(root / "F0001/F0001_HA02WH_F3D.bnd", bnd(VERTICES, MARKED, base=1))
    image(root / "F0001/F0001_HA02WH_F3D.bmp", height=20, width=20)


def test_bu3dfe_one_scan_a_capture(tmp_path: Path) -> None:
    write_bu3dfe(tmp_path)
    listing = find(tmp_path)
    assert (listing.dataset, listing.problems) == ("bu3dfe", ())
    assert [(s.subject, s.name, s.label) for s in listing.sequences] == [
        ("F0001", "F0001/AN03", "anger"),
        ("F0001", "F0001/AN04", "anger"),
        ("F0001", "F0001/HA02", "happiness"),
        ("F0001", "F0001/NE00", "neutral"),
    ]
    assert [s.measures["level"] for s in listing.sequences] == [3, 4, 2, 0]
    assert "3 uncropped RAW meshes left out beside F3D; 1 scan is there as RAW alone" in listing.why
    for sequence in listing.sequences:
        raw = sequence.name == "F0001/HA02"
        scan = read(sequence.frames[0])
        known_geometry(scan, (5, 0, 40) if raw else (0, 0, 0))
        # The .bnd counts in the F3D mesh: it must not be laid beside the RAW one.
        assert len(scan.landmarks) == (0 if raw else 83)
        assert scan.texture is not None
        assert scan.texture.image.shape == ((20, 20, 3) if raw else (40, 30, 3))


def test_bu3dfe_dtu_landmarks_belong_to_the_raw_mesh(tmp_path: Path) -> None:
    write_bu3dfe(tmp_path)
    points = VERTICES[[*MARKED, 66]] + (5, 0, 40)
    text = "".join(" ".join(f"{value:.5f}" for value in point) + "\n" for point in points)
    for code in ("HA02", "AN03"):
        write(tmp_path / f"F0001/F0001_{code}WH_RAW_84_LMS.txt", text)
    listing = find(tmp_path)
    frames = {s.name: s.frames[0] for s in listing.sequences}
    assert len(read(frames["F0001/HA02"]).landmarks) == 84
    known_geometry(read(frames["F0001/HA02"]), (5, 0, 40))
    assert frames["F0001/AN03"].landmarks == tmp_path / "F0001/F0001_AN03WH_F3D.bnd"


def test_bu3dfe_quads_keep_the_landmarks_on_their_vertices(tmp_path: Path) -> None:
    """Polygons may have four corners or more: they become fans, and no vertex changes its number."""
    number = np.arange(144).reshape(12, 12)
    quads = [
        [number[r, c], number[r + 1, c], number[r + 1, c + 1], number[r, c + 1]]
        for r in range(11)
        for c in range(11)
    ]
    text = bump_wrl(coord=indices(quads), uv_index=indices(quads))
    write(tmp_path / "F0001/F0001_AN01WH_F3D.wrl", text)
    write(tmp_path / "F0001/F0001_AN01WH_F3D.bnd", bnd(VERTICES, MARKED, base=0))
    scan = read(find(tmp_path).sequences[0].frames[0], need_texture=False)
    assert len(scan.faces) == 2 * len(quads)
    np.testing.assert_allclose(scan.landmarks["left_eye_outer"], VERTICES[MARKED[12]], atol=1e-5)


def test_bu3dfe_mixed_case_and_no_trace_of_the_group_code(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"F0001/F0001_AN01WH_F3D.{e}" for e in ("wrl", "bnd", "bmp")),
        "F0001/F0001_AN01WH_F2D.bmp",
    )
    touch(tmp_path, "F0001/f0001_ne00wh_f3d.WRL", "F0001/f0001_ne00wh_raw.wrl", "m0002/M0002_SU04AE_F3D.wrl")
    listing = find(tmp_path)
    assert [(s.subject, s.name, s.label) for s in listing.sequences] == [
        ("F0001", "F0001/AN01", "anger"),
        ("F0001", "F0001/NE00", "neutral"),
        ("M0002", "M0002/SU04", "surprise"),
    ]
    frame = listing.sequences[0].frames[0]
    assert frame.texture == tmp_path / "F0001/F0001_AN01WH_F3D.bmp"
    assert frame.landmarks == tmp_path / "F0001/F0001_AN01WH_F3D.bnd"
    assert listing.problems == ()
    # Nobody's origin travels on.
    said = [listing.why, *(s.name for s in listing.sequences), *(str(s.measures) for s in listing.sequences)]
    assert not any(code in text for text in said[1:] for code in ("WH", "AE"))
    assert "AE" not in listing.why


def test_bu3dfe_problems(tmp_path: Path) -> None:
    names = ("XX01WH_F3D", "AN00WH_F3D", "NE02WH_F3D", "AN05WH_F3D", "AN05WH_RAW")
    touch(tmp_path, *(f"F0001/F0001_{name}.wrl" for name in names), "F0001/F0009_AN01WH_F3D.wrl")
    touch(tmp_path, "F0001/notes.wrl", "F0001/F0001_AN01WH_F3D.wrl", "F00001/a.wrl")
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["F0001/AN01"]
    assert len(listing.problems) == 7
    for part in (
        "'XX' is not a known",
        "level 00 of",
        "level 02 of",
        "level 05",
        "move it to its own",
        "not named like",
        "four digits",
    ):
        assert part in reasons(listing)


def test_bu3dfe_reads_the_texture_its_mesh_names(tmp_path: Path) -> None:
    image(tmp_path / "F0001/F0001_AN01WH_F2D.bmp", height=16, width=16)
    write(tmp_path / "F0001/F0001_AN01WH_F3D.wrl", bump_wrl(url="F0001_AN01WH_F2D.bmp"))
    frame = find(tmp_path).sequences[0].frames[0]
    texture = read(frame).texture
    assert texture is not None
    assert texture.image.shape == (16, 16, 3)
    write(frame.path, bump_wrl(url="gone.bmp"))  # the 2D picture serves last
    texture = read(frame).texture
    assert texture is not None
    assert texture.image.shape == (16, 16, 3)
    image(frame.path.with_name("other.bmp"), height=24, width=24)
    write(frame.path, bump_wrl(url="other.bmp"))
    texture = read(frame).texture
    assert texture is not None
    assert texture.image.shape == (24, 24, 3)
    frame.path.with_name("other.bmp").unlink()
    frame.path.with_name("F0001_AN01WH_F2D.bmp").unlink()
    with pytest.raises(ValueError, match=r"texture image 'other\.bmp' is missing"):
        read(frame)


def test_bu3dfe_counts_landmarks(tmp_path: Path) -> None:
    touch(tmp_path, *(f"F0001/F0001_AN0{n}WH_F3D.wrl" for n in (1, 2, 3)))
    assert "landmark" not in find(tmp_path).why
    touch(tmp_path, "F0001/F0001_AN01WH_F3D.bnd", "F0001/F0001_HA01WH_F3D.bnd")
    assert "landmarks for 1 of 3 frames, 1 landmark file without a frame" in find(tmp_path).why


def test_a_bnd_in_the_coordinates_before_a_transform_goes_with_its_vertices(tmp_path: Path) -> None:
    head, _, shape = bump_wrl().partition("Shape")
    moved_by = "Transform { translation 5 -7 40 scale 2 2 2 children [ "
    mesh = write(tmp_path / "F0001/F0001_AN01WH_F3D.wrl", f"{head}{moved_by}Shape{shape} ] }}")
    for points, base in ((VERTICES, 1), (VERTICES * 2 + (5, -7, 40), 0)):
        write(mesh.with_suffix(".bnd"), bnd(points, MARKED, base=base))
        with pytest.warns(UserWarning, match="Transform"):
            scan = read(find(tmp_path).sequences[0].frames[0], need_texture=False)
        corner = VERTICES[MARKED[54]] * 2 + (5, -7, 40)
        np.testing.assert_allclose(scan.landmarks["left_mouth_corner"], corner, atol=1e-5)
        assert len(scan.landmarks) == 83
    write(mesh.with_suffix(".bnd"), bnd(VERTICES + 1, MARKED, base=1))
    with (
        pytest.warns(UserWarning, match="Transform"),
        pytest.raises(ValueError, match="only 0 of 83 points lie on the vertex"),
    ):
        read(find(tmp_path).sequences[0].frames[0], need_texture=False)


def test_bu3dfe_two_folders_deeper(tmp_path: Path) -> None:
    listing = find(
        touch(tmp_path, "data/BU_3DFE/F0001/F0001_AN01WH_F3D.wrl", "data/M0002/M0002_NE00WH_F3D.wrl")
    )
    assert [s.name for s in listing.sequences] == ["F0001/AN01", "M0002/NE00"]
