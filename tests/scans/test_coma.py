"""CoMA and VOCASET: one person in both sets is one subject, extreme expressions are no emotions."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Options, find, read
from tests.scans.writers import write
from tests.scans.writers_film import FACES, VERTICES, metre_ply, reasons, touch

COMA = "COMA_data/FaceTalk_170725_00137_TA"
VOCASET = "VOCASET/unposedcleaneddata/FaceTalk_170725_00137_TA"


def test_one_id_space_over_both_sets(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{COMA}/bareteeth/bareteeth.{n:06}.ply" for n in (2, 10, 1)))
    touch(tmp_path, f"{VOCASET}/sentence01/sentence01.000001.ply", f"{VOCASET}/sentence01/notes.txt")
    touch(tmp_path, "COMA_data/FaceTalk_170731_00024_TA/mouth_up/mouth_up.000001.ply")
    listing = find(tmp_path)
    assert listing.dataset == "coma"
    assert [(s.subject, s.name, [f.number for f in s.frames]) for s in listing.sequences] == [
        ("170725_00137", "170725_00137/bareteeth", [1, 2, 10]),
        ("170725_00137", "170725_00137/sentence01", [1]),
        ("170731_00024", "170731_00024/mouth_up", [1]),
    ]
    assert listing.problems == ()


def test_extreme_expressions_have_no_label_unless_a_mapping_says_so(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"FaceTalk_170725_00137_TA/{e}/{e}.000001.ply" for e in ("high_smile", "mouth_open", "cheeks_in")),
    )
    assert {s.label for s in find(tmp_path).sequences} == {None}
    options = Options(mapping={"high_smile": "happiness", "mouth_open": ""})
    labels = {s.name.split("/")[1]: s.label for s in find(tmp_path, options=options).sequences}
    assert labels == {"high_smile": "happiness", "mouth_open": None, "cheeks_in": None}


def test_problems(tmp_path: Path) -> None:
    name = "FaceTalk_170725_00137_TA"
    touch(tmp_path, f"{name}/bareteeth/bareteeth.000001.ply", f"{name}/bareteeth/bareteeth.1.ply")
    touch(tmp_path, f"{name}/bareteeth/template.ply", f"other/{name}/bareteeth/bareteeth.000001.ply")
    touch(tmp_path, f"{name}/lips_up/readme.txt")
    listing = find(tmp_path)
    assert len(listing.sequences) == 1
    for part in (
        "frame 1 is already there as bareteeth.000001.ply",
        "'template.ply' has no frame number",
        "170725_00137/bareteeth is already there as",
        "'lips_up' holds no .ply meshes",
    ):
        assert part in reasons(listing)


def test_meshes_are_in_metres_without_colours(tmp_path: Path) -> None:
    file = tmp_path / "FaceTalk_170725_00137_TA/bareteeth/bareteeth.000001.ply"
    write(file, metre_ply())
    (sequence,) = find(tmp_path).sequences
    scan = read(sequence.frames[0], need_texture=False)
    np.testing.assert_allclose(scan.vertices * 1000, VERTICES, atol=0.06)  # the file has 4 decimals
    np.testing.assert_array_equal(scan.faces, FACES)
    with pytest.raises(ValueError, match=r"neither vertex colours nor texture.*--modalities depth,normals"):
        read(sequence.frames[0])


def test_what_is_passed_over_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "FaceTalk_170725_00137_TA/bareteeth/bareteeth.000001.ply")
    touch(tmp_path, "FaceTalk_170725_00137_TA/1.ply", "FaceTalk_170725_00137_TA/2.ply")
    touch(tmp_path, "FaceTalk_170731_00024/mouth_up/mouth_up.000001.ply")
    touch(tmp_path, "FaceTalk_170725_00137_TA/bareteeth/bareteeth.000002.obj")
    (tmp_path / "FaceTalk_170811_03274_TA").mkdir()
    listing = find(tmp_path)
    assert len(listing.sequences) == 1
    for part in (
        "1 .obj mesh beside .ply meshes left out: move them out of bareteeth",
        "folder 'FaceTalk_170811_03274_TA' holds no meshes: restore them",
        "'FaceTalk_170731_00024' looks like a subject, but a subject is called like FaceTalk_170725_00137_TA",
        "2 meshes of FaceTalk_170725_00137_TA in no folder of an expression or sentence: move them",
    ):
        assert part in reasons(listing)
    assert len(listing.problems) == 4
