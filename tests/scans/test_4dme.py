"""4DME: labels of which several hold, frames with onset and apex, and nobody on both sides of a split."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Options, find, fourdme, read
from tests.scans.writers import write
from tests.scans.writers_film import FACES, VERTICES, pair_picture, reasons, textured_obj, touch

CLASSES = "Negative,Positive,Repression,Surprise,Others"


def picture_tree(root: Path, table: str, *, folders: tuple[str, ...] = ("1", "2", "10")) -> Path:
    touch(root, *(f"train/{name}/{n}.jpg" for name in folders for n in (2, 10, 1)))
    write(root / "labels.csv", table)
    return root


TABLE = f"sequence,subject,{CLASSES},onset,apex,offset\n1,S07,1,0,0,1,0,1,2,10\n2,S07,0,1,0,0,0,,,\n10,S11,0,0,,0,1,1,,10\n"


def test_the_image_release(tmp_path: Path) -> None:
    listing = find(picture_tree(tmp_path, TABLE))
    assert listing.dataset == "4dme"
    first, third, second = listing.sequences  # by the name of the folder
    assert (first.name, second.name, third.name) == ("train/1", "train/2", "train/10")
    assert [s.subject for s in (first, second, third)] == ["S07", "S07", "S11"]
    assert {s.label for s in listing.sequences} == {None}
    zero = {f"micro_{name}": 0.0 for name in ("negative", "positive", "repression", "surprise", "others")}
    assert first.measures == zero | {"micro_negative": 1, "micro_surprise": 1}
    assert second.measures == zero | {"micro_positive": 1}
    assert third.measures == {n: v for n, v in zero.items() if n != "micro_repression"} | {"micro_others": 1}
    assert [(s.onset, s.apex, s.offset) for s in (first, second, third)] == [
        (1, 2, 10),
        (None, None, None),
        (1, None, 10),
    ]
    assert [(f.number, f.kind) for f in first.frames] == [(1, "pair"), (2, "pair"), (10, "pair")]
    assert "pictures of two views: 2 subjects, 3 sequences, 9 frames; labels from labels.csv" in listing.why
    assert listing.problems == ()


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ("Subject;Seq_ID;negative;POSITIVE;Repression;surprise;others", "S1;seq_001;1;0;0;0;0\r\n"),
        (f"id,subject_id,{CLASSES}", "1,S1,1,0,0,0,0\n\n"),
        ('"' + '","'.join(CLASSES.split(",")) + '","name","sub"', '1,0,0,0,0,"seq1","S1"\n'),
    ],
)
def test_spellings_of_the_table(tmp_path: Path, columns: str, rows: str) -> None:
    touch(tmp_path, "0001/img_5.png")
    write(tmp_path / "any name.csv", f"\ufeff{columns}\n{rows}")
    (sequence,) = find(tmp_path).sequences
    assert (sequence.subject, sequence.measures["micro_negative"]) == ("S1", 1)


def test_mesh_folders(tmp_path: Path) -> None:
    """Two people have a sequence 1; the greyscale pictures of the same clip are no pairs."""
    touch(tmp_path, *(f"DI4D/S{p}/{s}/{n:04}.obj" for p in (1, 2) for s in (1, 2) for n in (3, 20)))
    touch(tmp_path, "grey/S1/1/0001.jpg")
    rows = "S1,1,0,0,0,0,1,3,20,20,1,0\nS2,1,0,1,0,0,0,,,,,\nS1,2,1,0,0,0,0,,,,,\n"
    write(tmp_path / "labels.csv", f"subject,clip,{CLASSES},onset,apex,offset,AU4,AU_12\n{rows}")
    listing = find(tmp_path)
    measures = {s.name: dict(s.measures) for s in listing.sequences}
    assert set(measures) == {"DI4D/S1/1", "DI4D/S1/2", "DI4D/S2/1"}
    assert measures["DI4D/S1/1"]["micro_others"] == 1
    assert (measures["DI4D/S1/1"]["AU04"], measures["DI4D/S1/1"]["AU12"]) == (1, 0)
    assert measures["DI4D/S2/1"]["micro_positive"] == 1
    assert {f.kind for s in listing.sequences for f in s.frames} == {"scan"}
    assert "1 folder of pictures left out" in listing.why
    assert reasons(listing) == "its folder says S2 and its row in the labels S1: correct or add the row"


def test_subjects_from_the_folders_of_meshes(tmp_path: Path) -> None:
    touch(tmp_path, "4DME/S01/1/000.obj", "4DME/S02/2/000.obj")
    listing = find(tmp_path)
    assert [(s.subject, s.name, dict(s.measures)) for s in listing.sequences] == [
        ("S01", "4DME/S01/1", {}),
        ("S02", "4DME/S02/2", {}),
    ]
    assert "no table of labels" in listing.why


def test_a_release_that_does_not_say_who_is_in_it_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "4DMR/train/12/1.jpg", "4DMR/train/13/1.jpg")
    with pytest.raises(
        ValueError,
        match=r"nothing says who is in sequence '13': put a CSV with the columns sequence, subject",
    ):
        find(tmp_path)
    table = write(tmp_path / "4DMR/labels.csv", f"sequence,{CLASSES}\n12,0,0,0,0,1\n13,0,0,0,0,1\n")
    with pytest.raises(ValueError, match=r"nothing says who .*: add a column subject to labels\.csv"):
        find(tmp_path)
    write(table, f"sequence,subject,{CLASSES}\n12,S1,0,0,0,0,1\n")
    listing = find(tmp_path)
    assert [s.subject for s in listing.sequences] == ["S1"]
    assert reasons(listing) == "nothing says who is in sequence '13': add its row to labels.csv"


def test_the_table_may_lie_elsewhere(tmp_path: Path) -> None:
    root = touch(tmp_path / "4DMR", "12/1.jpg")
    table = write(tmp_path / "mine.csv", f"sequence,subject,{CLASSES}\n12,S1,0,0,0,0,1\n")
    assert find(root, options=Options(labels=table)).sequences[0].subject == "S1"
    write(table, "sequence,subject,Negative\n12,S1,0\n")
    with pytest.raises(
        ValueError, match=r"mine\.csv: it has no column positive, repression, surprise, others"
    ):
        find(root, options=Options(labels=table))
    write(table, f"subject,{CLASSES}\nS1,0,0,0,0,1\n")
    with pytest.raises(
        ValueError, match=r"mine\.csv: no column says which sequence a row is for: call it sequence"
    ):
        find(root, options=Options(labels=table))


def test_two_tables_are_not_guessed(tmp_path: Path) -> None:
    write(picture_tree(tmp_path, TABLE) / "sample_submission.csv", f"sequence,{CLASSES}\n1,0,0,0,0,0\n")
    with pytest.raises(
        ValueError, match=r"labels\.csv and sample_submission\.csv both hold labels: say which counts"
    ):
        find(tmp_path)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("2,S1,2,0,0,0,0,,,", "row 3 is left out: micro_negative = 2 is out of range"),
        ("2,S1,1,0,0,0,0,9,3,", "onset 9, apex 3 are out of order"),
        ("2,S1,yes,0,0,0,0,,,", "'yes'"),
        ("2,S1,1,0,0,0,0,1.5,,", "onset = '1.5' is no frame number"),
        ("2,S1,1", "it has 3 cells and the first row 10"),
        ("1,S1,1,0,0,0,0,,,", "2 rows of the labels are for this sequence: name each once"),
    ],
)
def test_rows_that_cannot_be_believed(tmp_path: Path, row: str, part: str) -> None:
    good = "1,S1,1,0,0,0,0,,,\n"
    table = f"sequence,subject,{CLASSES},onset,apex,offset\n{good}{row}\n10,S2,1,0,0,0,0,,,\n"
    listing = find(picture_tree(tmp_path, table))
    assert part in reasons(listing)
    assert "train/10" in {s.name for s in listing.sequences}
    assert "train/2" not in {s.name for s in listing.sequences}


def test_a_folder_without_one_numbered_frame_is_no_sequence(tmp_path: Path) -> None:
    listing = find(touch(tmp_path, "4DME/S01/1/000.obj", "4DME/S01/2/mean.obj"))
    assert [s.name for s in listing.sequences] == ["4DME/S01/1"]
    assert reasons(listing) == "'mean.obj' has no frame number: rename it like 000.obj"


def test_mesh_frames_are_read(tmp_path: Path) -> None:
    textured_obj(tmp_path / "4DME/S01/1/007", x=2.0)
    (sequence,) = find(tmp_path).sequences
    scan = read(sequence.frames[0])
    np.testing.assert_allclose(scan.vertices, np.add(VERTICES, (2, 0, 0)), atol=1e-4)
    np.testing.assert_array_equal(scan.faces, FACES)
    assert scan.texture is not None


def test_a_pair_has_no_geometry_to_read(tmp_path: Path) -> None:
    pair_picture(tmp_path / "4DMR/S1/12/1.jpg")
    (sequence,) = find(tmp_path).sequences
    assert sequence.frames[0].kind == "pair"
    with pytest.raises(ValueError, match=r"1\.jpg"):
        read(sequence.frames[0])


# --- whose row is it ---------------------------------------------------------


def mesh_tree(root: Path, *sequences: str, table: str) -> Path:
    touch(root, *(f"{sequence}/{n:03}.obj" for sequence in sequences for n in (0, 5, 9)))
    write(root / "labels.csv", table)
    return root


def test_sex_letters_make_different_people(tmp_path: Path) -> None:
    header = f"sequence,subject,{CLASSES}\n"
    root = mesh_tree(tmp_path, "F001/12", "M001/12", table=header + "12,m1,1,0,0,0,0\n12,F001,0,1,0,0,0\n")
    listing = find(root)
    assert [(s.name, s.subject, s.measures["micro_positive"]) for s in listing.sequences] == [
        ("F001/12", "F001", 1),
        ("M001/12", "m1", 0),
    ]
    assert listing.problems == ()
    write(root / "labels.csv", header + "12,M001,1,0,0,0,0\n")
    listing = find(root)
    assert [s.subject for s in listing.sequences] == ["M001"]
    assert reasons(listing) == "its folder says F001 and its row in the labels M001: correct or add the row"


@pytest.mark.parametrize(
    "table", [f"sequence,subject,{CLASSES}\n12,1,1,0,0,0,0\n", f"sequence,{CLASSES}\n12,1,0,0,0,0\n"]
)
def test_one_row_is_never_for_two_people(tmp_path: Path, table: str) -> None:
    root = mesh_tree(tmp_path, "F001/12", "M001/12", table=table)
    with pytest.raises(
        ValueError, match=r"row 2 of the labels fits F001/12 and M001/12: give each its own row"
    ):
        find(root)


def test_spellings_of_one_person_are_one_subject(tmp_path: Path) -> None:
    rows = "1,S7,1,0,0,0,0\n2,s07,1,0,0,0,0\n"
    root = mesh_tree(tmp_path, "sub 7/1", "sub 7/2", table=f"sequence,subject,{CLASSES}\n{rows}")
    assert {s.subject for s in find(root).sequences} == {"S7"}


def test_micro_and_macro_clips_of_one_number(tmp_path: Path) -> None:
    header = f"sequence,subject,{CLASSES}\n"
    rows = "Micro_1,S01,1,0,0,0,0\nmacro_1,S01,0,1,0,0,0\nmicro_2,S01,1,0,0,0,0\n"
    root = mesh_tree(tmp_path, "S01/micro_1", "S01/macro_1", "S01/macro_2", table=header + rows)
    listing = find(root)
    assert {s.name: dict(s.measures).get("micro_negative") for s in listing.sequences} == {
        "S01/micro_1": 1,
        "S01/macro_1": 0,
    }
    assert "row 4 of the labels is for sequence 'micro_2', which has no folder" in reasons(listing)
    assert "nothing says who is in sequence 'macro_2'" in reasons(listing)
    write(root / "labels.csv", header + "1,S01,1,0,0,0,0\n2,S01,0,1,0,0,0\n")
    listing = find(root)
    assert [s.name for s in listing.sequences] == ["S01/macro_2"]
    assert reasons(listing).count("macro_1 and micro_1 have one number: write the names") == 2


@pytest.mark.parametrize("outer", ["images2", "scene1", "cam_3", "01"])
def test_only_a_name_of_a_person_is_a_person(tmp_path: Path, outer: str) -> None:
    with pytest.raises(ValueError, match="nothing says who is in sequence '12'"):
        find(touch(tmp_path / "4DME", f"{outer}/12/000.jpg"))


@pytest.mark.parametrize(
    "outer", ["S01", "sub-1", "subj1", "Subject_1", "P1", "f001", "M001", "id 4", "participant2"]
)
def test_names_of_people(tmp_path: Path, outer: str) -> None:
    (sequence,) = find(touch(tmp_path / "4DME", f"{outer}/12/000.jpg")).sequences
    assert sequence.subject == outer


def test_rows_without_a_folder_are_said(tmp_path: Path) -> None:
    listing = find(picture_tree(tmp_path, TABLE + "11,S11,1,0,0,0,0,,,\n12,S11,1,0,0,0,0,,,\n"))
    assert len(listing.sequences) == 3
    assert [p.path.name for p in listing.problems] == ["labels.csv", "labels.csv"]
    assert "row 6 of the labels is for sequence '12', which has no folder: restore it" in reasons(listing)


# --- marks and action units --------------------------------------------------


def test_numbers_as_a_spreadsheet_writes_them(tmp_path: Path) -> None:
    row = "12,S1,1.0,0,0,0,0,0.0,5.0,9,9,9.0,1.0\n"
    table = f"sequence,subject,{CLASSES},onset,apex,offset,AU4,AU6,AU12\n{row}"
    (sequence,) = find(mesh_tree(tmp_path, "S1/12", table=table)).sequences
    assert (sequence.onset, sequence.apex, sequence.offset) == (0, 5, 9)
    assert {n: v for n, v in sequence.measures.items() if n.startswith("AU")} == {"AU12": 1}  # 9: not coded


def test_marks_outside_the_frames_are_left_out(tmp_path: Path) -> None:
    table = f"sequence,subject,{CLASSES},onset,apex,offset\n12,S1,1,0,0,0,0,-1,5,90\n"
    listing = find(mesh_tree(tmp_path, "S1/12", table=table))
    (sequence,) = listing.sequences
    assert (sequence.onset, sequence.apex, sequence.offset) == (None, None, None)
    assert sequence.measures["micro_negative"] == 1
    assert reasons(listing) == (
        "onset -1 and offset 90 of the labels lie outside its frames 0 to 9 and are left out: correct the row"
    )


@pytest.mark.parametrize("person", ["S1/", ""])
def test_ids_as_a_spreadsheet_writes_them(tmp_path: Path, person: str) -> None:
    rows = "12.0,1.0,1,0,0,0,0\n13,1,1,0,0,0,0\n"
    root = mesh_tree(tmp_path, f"{person}12", f"{person}13", table=f"sequence,subject,{CLASSES}\n{rows}")
    listing = find(root)
    assert [(s.subject, s.name) for s in listing.sequences] == [("1", f"{person}12"), ("1", f"{person}13")]
    assert listing.problems == ()


# --- the name rule -----------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        ("4DME/S01/12/readme.txt",),
        ("4DME/readme.txt", "exports/P1_2/000.obj"),
        ("4DMeshes/S01/12/000.obj",),
        ("4DME/docs/figure1.jpg", "4DME/Angry/000.obj"),
    ],
)
def test_a_name_without_frames_below_it_is_not_enough(tmp_path: Path, files: tuple[str, ...]) -> None:
    assert not fourdme.matches(touch(tmp_path, *files))
    assert fourdme.matches(touch(tmp_path, "4DME_release/S01/12/000.obj"))


@pytest.mark.parametrize(
    ("file", "dataset"),
    [
        ("F001/Angry/000.wrl", "bu4dfe"),
        ("F001/T10/000.obj", "bp4dplus"),
        ("Ann/1+2/1+2_1.ply", "d3dfacs"),
        ("7/4_anger/0.jpg", None),
        ("FaceTalk_170725_00137_TA/sentence01/sentence01.000001.ply", "coma"),
    ],
)
def test_another_data_set_in_a_folder_called_4dme(tmp_path: Path, file: str, dataset: str | None) -> None:
    root = touch(tmp_path / "4DME", file)
    if dataset is None:
        root, dataset = touch(root, "7/4_anger.ply"), "facescape"
    assert find(root).dataset == dataset
