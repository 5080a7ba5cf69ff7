"""Listing a private folder: layouts, labels, order, and what is set aside with a sentence."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smile.scans import DATASETS, Frame, Listing, find, read, read_file
from tests.scans.writers import bnd, bnt, bump, bump_grid, bump_wrl, image, obj, ply, write

VERTICES, FACES, _ = bump()


def touch(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name, b"x")
    return root


def reasons(listing: Listing) -> str:
    return " | ".join(problem.reason for problem in listing.problems)


# --- the folder itself -------------------------------------------------------


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder: check the path"):
        find(tmp_path / "nowhere")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder is empty"):
        find(tmp_path)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this is a file"):
        find(write(tmp_path / "a.wrl", b"x"))


def test_nothing_recognised_names_the_expected_layouts(tmp_path: Path) -> None:
    touch(tmp_path, "holiday/IMG_0001.jpg", "F001/T1/0001.jpg")
    with pytest.raises(
        ValueError, match=r"no scans recognised, expected F001/Angry/000\.wrl or .*give the folder"
    ):
        find(tmp_path)


def test_archives_must_be_unpacked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="archives must be unpacked"):
        find(touch(tmp_path, "F001.zip", "F002.zip"))


def test_two_layouts_in_one_folder_are_not_guessed(tmp_path: Path) -> None:
    touch(tmp_path, "F001/Angry/000.wrl", "bs000/bs000_E_ANGER_0.bnt")
    with pytest.raises(ValueError, match=r"more than one layout \(bu4dfe, bosphorus\)"):
        find(tmp_path)
    assert find(tmp_path, dataset="bosphorus").sequences[0].subject == "bs000"


def test_dataset_names(tmp_path: Path) -> None:
    touch(tmp_path, "F001/Angry/000.wrl")
    with pytest.raises(ValueError, match="'bu5dfe' is unknown: choose auto or one of bu4dfe"):
        find(tmp_path, dataset="bu5dfe")
    for name in DATASETS[1:]:
        with pytest.raises(ValueError, match="no scans recognised"):
            find(tmp_path, dataset=name)


# --- BU-4DFE -----------------------------------------------------------------


def test_bu4dfe_frames_of_two_to_four_digits_in_numeric_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"F001/Happy/{n}.wrl" for n in ("100", "20", "0003", "99", "000", "1000")))
    (sequence,) = find(tmp_path).sequences
    assert [frame.number for frame in sequence.frames] == [0, 3, 20, 99, 100, 1000]
    assert (sequence.subject, sequence.label, sequence.name) == ("F001", "happiness", "F001/Happy")


def test_bu4dfe_mixed_case_viewer_folders_and_stray_files(tmp_path: Path) -> None:
    touch(tmp_path, "f002/ANGRY/000.WRL", "f002/ANGRY/000.JPG", "F002/sad/1.wrl", "M010/Fear/000.wrl")
    touch(
        tmp_path,
        "BU_WrlViewer_V2/viewer.exe",
        "BU_WrlViewer_V2/sample.wrl",
        ".hidden/a",
        "M010/Thumbs/a.jpg",
        "readme.txt",
    )
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
    touch(
        tmp_path,
        "F001/Angry/000.wrl",
        "F001/Angry/0.wrl",
        "F001/Angry/mean.wrl",
        "F001/Bored/000.wrl",
        "F01/Sad/000.wrl",
    )
    (tmp_path / "F001/Disgust").mkdir()
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["F001/Angry"]
    assert [p.path.name for p in listing.problems] == ["F01", "000.wrl", "mean.wrl", "Bored", "Disgust"]
    text = reasons(listing)
    for part in (
        "frame 0 is already there as 0.wrl",
        "no frame number",
        "'Bored' is not a known",
        "holds no frames",
        "three digits",
    ):
        assert part in text


def test_bu4dfe_landmarks_lie_beside_the_mesh_or_in_their_archive(tmp_path: Path) -> None:
    touch(tmp_path, "BU-4DFE/F001/Angry/000.wrl", "BU-4DFE/F001/Angry/001.wrl", "BU-4DFE/F001/Angry/001.bnd")
    touch(tmp_path, "BU4DFE_BND_V1.1/F001/angry/000.bnd", "BU4DFE_BND_V1.1/F001/angry/001.bnd")
    listing = find(tmp_path)
    (sequence,) = listing.sequences
    assert sequence.frames[0].landmarks == tmp_path / "BU4DFE_BND_V1.1/F001/angry/000.bnd"
    assert sequence.frames[1].landmarks == tmp_path / "BU-4DFE/F001/Angry/001.bnd"
    assert listing.problems == ()


def test_the_image_of_the_data_set_counts_more_than_a_stale_url(tmp_path: Path) -> None:
    """Frame 001 names the image of frame 000, as copied headers do: its own image must be taken."""
    for number, size in ((0, 10), (1, 20)):
        image(tmp_path / f"F001/Angry/00{number}.jpg", height=size, width=size)
        write(tmp_path / f"F001/Angry/00{number}.wrl", bump_wrl(url="000.jpg"))
    for frame, size in zip(find(tmp_path).sequences[0].frames, (10, 20), strict=True):
        texture = read(frame).texture
        assert texture is not None
        assert texture.image.shape == (size, size, 3)


# --- BU-3DFE -----------------------------------------------------------------


def test_bu3dfe_takes_the_cropped_mesh_and_its_own_files(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"F0001/F0001_AN01WH_F3D.{e}" for e in ("wrl", "bnd", "bmp")),
        "F0001/F0001_AN01WH_F2D.bmp",
    )
    touch(
        tmp_path,
        "F0001/F0001_AN01WH_RAW.wrl",
        "F0001/F0001_AN01WH_RAW.pse",
        "F0001/f0001_ne00wh_f3d.WRL",
        "m0002/M0002_SU04AE_F3D.wrl",
    )
    listing = find(tmp_path)
    assert listing.dataset == "bu3dfe"
    assert [(s.name, s.label) for s in listing.sequences] == [
        ("F0001/AN01", "anger"),
        ("F0001/NE00", "neutral"),
        ("M0002/SU04", "surprise"),
    ]
    frame = listing.sequences[0].frames[0]
    assert frame.texture == tmp_path / "F0001/F0001_AN01WH_F3D.bmp"
    assert frame.landmarks == tmp_path / "F0001/F0001_AN01WH_F3D.bnd"
    assert listing.problems == ()
    assert "1 uncropped RAW mesh left out" in listing.why
    # Nobody\'s origin travels on.
    assert not any(code in s.name for s in listing.sequences for code in ("WH", "AE"))


def test_bu3dfe_problems(tmp_path: Path) -> None:
    names = (
        "F0001_XX01WH_F3D",
        "F0001_AN00WH_F3D",
        "F0001_NE02WH_F3D",
        "F0001_AN05WH_F3D",
        "F0001_AN02WH_RAW",
        "F0009_AN01WH_F3D",
        "notes",
    )
    touch(tmp_path, *(f"F0001/{name}.wrl" for name in names), "F0001/F0001_AN01WH_F3D.wrl")
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["F0001/AN01"]
    assert len(listing.problems) == len(names)
    for part in (
        "'XX' is not a known",
        "level 00 of",
        "level 02 of",
        "level 05",
        "restore the _F3D",
        "move it to its own",
        "not named like",
    ):
        assert part in reasons(listing)


def test_bu3dfe_reads_the_texture_its_mesh_names(tmp_path: Path) -> None:
    image(tmp_path / "F0001/F0001_AN01WH_F2D.bmp", height=16, width=16)
    write(tmp_path / "F0001/F0001_AN01WH_F3D.wrl", bump_wrl(url="F0001_AN01WH_F2D.bmp"))
    write(tmp_path / "F0001/F0001_AN01WH_F3D.bnd", bnd(VERTICES, list(range(68)), base=0))
    frame = find(tmp_path).sequences[0].frames[0]
    scan = read(frame)
    assert scan.texture is not None
    assert scan.texture.image.shape == (16, 16, 3)
    assert len(scan.landmarks) == 68
    write(frame.path, bump_wrl(url="gone.bmp"))  # the 2D picture is no texture unless the mesh says so
    with pytest.raises(ValueError, match=r"texture image 'gone\.bmp' is missing"):
        read(frame)


# --- Bosphorus ---------------------------------------------------------------


def test_bosphorus_groups(tmp_path: Path) -> None:
    codes = ("N_N_0", "N_N_1", "E_HAPPY_0", "E_SADNESS_0", "LFAU_12LW_0", "UFAU_4_0", "CAU_A12A15_0")
    skipped = ("YR_R90_0", "YR_R10_0", "PR_U_0", "CR_RD_0", "O_EYE_0", "IGN_X_Y_0")
    touch(
        tmp_path,
        *(f"bs000/bs000_{c}.bnt" for c in codes + skipped),
        "bs000/bs000_E_HAPPY_0.png",
        "bs000/bs000_E_HAPPY_0.lm3",
    )
    touch(tmp_path, "bs000/bs000_E_HAPPY_0.lm2", "docs/readme.txt")
    listing = find(tmp_path)
    labels = {s.name.split("/")[1]: s.label for s in listing.sequences}
    assert labels == {
        "CAU_A12A15_0": None,
        "E_HAPPY_0": "happiness",
        "E_SADNESS_0": "sadness",
        "LFAU_12LW_0": None,
        "N_N_0": "neutral",
        "N_N_1": "neutral",
        "UFAU_4_0": None,
    }
    assert "(1 CR, 1 IGN, 1 O, 1 PR, 2 YR)" in listing.why
    assert listing.problems == ()
    happy = next(s for s in listing.sequences if s.label == "happiness").frames[0]
    assert happy.texture == tmp_path / "bs000/bs000_E_HAPPY_0.png"
    assert happy.landmarks == tmp_path / "bs000/bs000_E_HAPPY_0.lm3"


def test_bosphorus_problems(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "bs000/bs000_E_BORED_0.bnt",
        "bs000/bs000_XX_A_0.bnt",
        "bs000/bs001_E_HAPPY_0.bnt",
        "bs000/face.bnt",
    )
    touch(tmp_path, "bs0001/x.bnt", "bs000/bs000_E_HAPPY_0.bnt")
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["bs000/E_HAPPY_0"]
    for part in (
        "'BORED' is not a known",
        "group 'XX'",
        "move it to its own",
        "not named like",
        "three digits",
    ):
        assert part in reasons(listing)


# --- a scanner's export ------------------------------------------------------


def test_scanner_in_nested_folders(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "2024/May/P001_happy_0.obj",
        "2024/May/material.mtl",
        "2024/May/material_0.png",
        "P002_sad_1.PLY",
    )
    touch(
        tmp_path,
        "P002/p002_Sad_2.ply",
        "__MACOSX/P009_sad_0.ply",
        ".Trash/P008_sad_0.ply",
        "._P002_sad_1.ply",
    )
    listing = find(tmp_path)
    assert listing.dataset == "scanner"
    assert [(s.subject, s.label, s.name) for s in listing.sequences] == [
        ("P001", "happiness", "P001/happiness_0"),
        ("P002", "sadness", "P002/sadness_1"),
        ("P002", "sadness", "P002/sadness_2"),
    ]
    assert listing.problems == ()


def test_scanner_problems(tmp_path: Path) -> None:
    touch(
        tmp_path, "P001_happy_0.obj", "a/P001_happy_0.ply", "P001_bored_0.obj", "teapot.obj", "P1_happy_0.ply"
    )
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["P001/happiness_0"]
    for part in (
        "already there as",
        "'bored' is not a known",
        "'teapot.obj' is not named like",
        "'P1_happy_0.ply'",
    ):
        assert part in reasons(listing)


# --- one frame ---------------------------------------------------------------


def test_frames_travel_to_workers_and_listings_are_repeatable(tmp_path: Path) -> None:
    touch(tmp_path, "M001/Sad/001.wrl", "F001/Sad/000.wrl", "F001/Angry/000.wrl")
    first, second = find(tmp_path), find(tmp_path)
    assert first == second
    assert pickle.loads(pickle.dumps(first.sequences)) == first.sequences


def test_read_refuses_what_is_no_scan_file(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a\.stl: files of kind '\.stl' are not read: export it as one of \.wrl"
    ):
        read_file(write(tmp_path / "a.stl", b"solid"))
    with pytest.raises(ValueError, match=r"a\.wrl: no such file"):
        read_file(tmp_path / "a.wrl")
    (tmp_path / "b.wrl").mkdir()
    with pytest.raises(ValueError, match=r"b\.wrl: no such file"):
        read_file(tmp_path / "b.wrl")
    mesh = write(tmp_path / "c.wrl", bump_wrl())
    with pytest.raises(ValueError, match=r"gone\.bnd: cannot be read"):
        read(Frame(mesh, landmarks=tmp_path / "gone.bnd"), need_texture=False)


def test_every_format_reads_the_same_surface(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.wrl": bump_wrl(),
        "a.bnt": bnt(bump_grid()),
        "a.obj": obj(),
        "a.ply": ply(VERTICES, FACES, color=None),
    }
    for name, data in files.items():
        scan = read_file(write(tmp_path / name, data), need_texture=False)
        np.testing.assert_allclose(scan.vertices, VERTICES, atol=1e-4, err_msg=name)
        assert (scan.vertices.dtype, scan.faces.dtype) == (np.float64, np.int64)
        assert {tuple(sorted(f)) for f in scan.faces.tolist()} == {tuple(sorted(f)) for f in FACES.tolist()}


def test_importing_the_readers_loads_nothing_heavy() -> None:
    code = "import sys, smile.scans; print(sorted({'trimesh', 'PIL', 'torch', 'scipy'} & set(sys.modules)))"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
