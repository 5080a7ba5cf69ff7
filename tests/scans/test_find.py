"""Listing a private folder: layouts, labels, order, and what is set aside with a sentence."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smile.scans import Frame, find, read, read_file
from tests.scans.writers import bnt, bump, bump_grid, bump_wrl, obj, ply, write
from tests.scans.writers_faces import reasons, touch

VERTICES, FACES, _ = bump()


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
    for name in ("bosphorus", "frgc", "coma", "facescape", "scanner"):
        with pytest.raises(ValueError, match="no scans recognised"):
            find(tmp_path, dataset=name)


def test_a_named_data_set_is_listed_without_being_recognised(tmp_path: Path) -> None:
    """What auto does not recognise still says what is wrong with it, once the person has named it."""
    touch(tmp_path, "F001/Angry/mean.wrl")
    with pytest.raises(ValueError, match="no scans recognised"):
        find(tmp_path)
    assert "no frame number" in reasons(find(tmp_path, dataset="bu4dfe"))
    touch(tmp_path, "F001.zip")
    with pytest.raises(ValueError, match=r"no scans recognised \(its archives must .*expected bs000"):
        find(tmp_path, dataset="bosphorus")


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


def test_links_are_followed_and_those_that_lead_astray_are_said(tmp_path: Path) -> None:
    raw = touch(tmp_path / "raw", "P001_happy_0.obj", "a/note.md")
    touch(tmp_path / "store", "P002_sad_0.obj", "deep/P003_fear_0.obj")
    (raw / "a/scans").symlink_to(tmp_path / "store")
    (raw / "P004_anger_0.obj").symlink_to(raw / "P001_happy_0.obj")
    (tmp_path / "store/deep/up").symlink_to(tmp_path / "store")  # round and round, outside the folder given
    (tmp_path / "store/deep/top").symlink_to(tmp_path)
    (raw / "P005_sad_0.obj").symlink_to(tmp_path / "gone.obj")
    (raw / "b").symlink_to(tmp_path / "not mounted")
    (raw / "self").symlink_to(raw / "self")
    listing = find(raw)
    assert [s.subject for s in listing.sequences] == ["P001", "P002", "P003", "P004"]
    said = {problem.path.relative_to(raw).as_posix(): problem.reason for problem in listing.problems}
    assert len(listing.problems) == len(said)
    back, gone = (
        "leads back to a folder that it lies in: take",
        "leads to nothing that can be opened (No such file",
    )
    for place, part in {
        "a/scans/deep/up": f"link 'up' {back}",
        "a/scans/deep/top": f"link 'top' {back}",
        "P005_sad_0.obj": gone,
        "b": gone,
        "self": "leads to nothing that can be opened (Too many levels",
    }.items():
        assert part in said.pop(place)
    assert not said


def test_links_in_the_tree_of_a_data_set(tmp_path: Path) -> None:
    touch(tmp_path / "store", "M001/Sad/000.wrl", "frame.wrl")
    raw = touch(tmp_path / "raw", "F001/Angry/000.wrl")
    (raw / "M001").symlink_to(tmp_path / "store/M001")
    (raw / "F001/Angry/001.wrl").symlink_to(tmp_path / "store/frame.wrl")
    (raw / "F001/Angry/002.wrl").symlink_to(tmp_path / "gone.wrl")
    (raw / "F002").symlink_to(tmp_path / "gone")
    listing = find(raw)
    assert [(s.name, len(s.frames)) for s in listing.sequences] == [("F001/Angry", 2), ("M001/Sad", 1)]
    assert [problem.path.name for problem in listing.problems] == ["F002", "002.wrl"]


def test_a_disk_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "scans").symlink_to(tmp_path / "mnt")
    with pytest.raises(ValueError, match=r"no scans recognised \(link 'scans' leads to nothing that can be"):
        find(tmp_path)


def test_a_folder_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "P001_happy_0.obj", "private/P002_sad_0.obj", "lost+found/P003_sad_0.obj")
    scandir = os.scandir

    def refusing(path: Path) -> Any:
        if Path(path).name in ("private", "lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = find(tmp_path, dataset="scanner")
    assert [s.subject for s in listing.sequences] == ["P001"]
    assert reasons(listing) == "folder 'private' cannot be opened (Permission denied): check the permissions"


# --- one frame ---------------------------------------------------------------


def test_frames_travel_to_workers_and_listings_are_repeatable(tmp_path: Path) -> None:
    touch(tmp_path, "M001/Sad/001.wrl", "F001/Sad/000.wrl", "F001/Angry/000.wrl")
    first, second = find(tmp_path), find(tmp_path)
    assert first == second
    assert pickle.loads(pickle.dumps(first.sequences)) == first.sequences


def test_read_refuses_what_is_no_scan_file(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a\.tom: files of kind '\.tom' are not read: export it as one of \.wrl"
    ):
        read_file(write(tmp_path / "a.tom", b"solid"))
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
