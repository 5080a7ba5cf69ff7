"""BP4D and BP4D+: two tables of tasks for one tree, frames of any digits, action units that are not coded."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from smile.scans import Listing, Options, bp4d, bp4dplus, find, read
from smile.scans.scan import Sequence
from tests.scans.writers import color_at, image, write
from tests.scans.writers_film import FACES, VERTICES, reasons, textured_obj, touch

TASKS = [f"T{n}" for n in range(1, 9)]


def bp4d_tree(root: Path, *, subjects: tuple[str, ...] = ("F001", "M001")) -> Path:
    for subject in subjects:
        touch(root, *(f"Sequences/{subject}/{task}/{n:03}.obj" for task in TASKS for n in (0, 1)))
    return root


def one(listing: Listing) -> Sequence:
    (sequence,) = listing.sequences
    return sequence


# --- which of the two --------------------------------------------------------


def test_task_tables_are_never_confused(tmp_path: Path) -> None:
    bp4d_tree(tmp_path)
    labels = {
        name: {s.name: s.label for s in find(tmp_path, dataset=name).sequences}
        for name in ("bp4d", "bp4dplus")
    }
    assert [labels["bp4d"][f"F001/{task}"] for task in TASKS] == [
        *("happiness", "sadness", "surprise", "embarrassment", "fear", "pain", "anger", "disgust")
    ]
    assert [labels["bp4dplus"][f"F001/{task}"] for task in TASKS] == [
        *("happiness", "surprise", "sadness", None, None, "embarrassment", "fear", "pain")
    ]
    assert bp4dplus.TASKS["T9"] == "anger"
    assert bp4dplus.TASKS["T10"] == "disgust"


def test_a_tree_that_could_be_either_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"with other labels: say which it is with --dataset bp4d or --dataset bp4dplus"
    ):
        find(bp4d_tree(tmp_path))
    assert "nothing tells BP4D from BP4D+" in find(tmp_path, dataset="bp4d").why


@pytest.mark.parametrize("only_plus", ["F001/T10/000.obj", "F024/T1/000.obj", "M019/T1/000.obj"])
def test_tasks_and_subjects_that_only_the_larger_set_has(tmp_path: Path, only_plus: str) -> None:
    root = touch(bp4d_tree(tmp_path), f"Sequences/{only_plus}")
    assert find(root).dataset == "bp4dplus"
    assert not bp4d.matches(root)
    name = only_plus.removesuffix("/000.obj").removesuffix("/T1")
    assert f"; {name} is only in BP4D+; " in find(root).why
    assert (
        f"; {name} is only in BP4D+; " in find(root, dataset="bp4d").why
    )  # what the person says counts, and is doubted


@pytest.mark.parametrize(
    ("beside", "dataset"),
    [
        ("AU-Intensity-Codes3.0/AU06/F001_T1_AU06.csv", "bp4d"),
        ("BP4D-training/F002/T1/000.obj", "bp4d"),
        ("AUCoding/AU_OCC/F001_T1.csv", "bp4dplus"),
        ("AUCoding/AU_INT/AU06/F001_T1_AU06.csv", "bp4dplus"),
        ("Physiology/F001/T1/BP_mmHg.txt", "bp4dplus"),
        ("Thermal/F001/T1.mv", "bp4dplus"),
        ("RawData/2D+3D/F002/T1/000.obj", "bp4dplus"),
    ],
)
def test_folders_that_only_one_of_the_two_has(tmp_path: Path, beside: str, dataset: str) -> None:
    root = touch(bp4d_tree(tmp_path / "data"), beside)
    assert find(root).dataset == dataset
    assert f" is only in {'BP4D' if dataset == 'bp4d' else 'BP4D+'}; " in find(root).why
    touch(root, "AU-Intensity-Codes3.0/readme.txt", "Thermal/readme.txt")  # both: the person must choose
    with pytest.raises(ValueError, match="--dataset bp4d or --dataset bp4dplus"):
        find(root)
    assert " is only in BP4D but " in find(root, dataset="bp4d").why


def test_the_folder_given_may_be_the_evidence(tmp_path: Path) -> None:
    assert find(touch(tmp_path / "2D+3D", "F001/T1/000.obj")).dataset == "bp4dplus"
    assert find(touch(tmp_path / "BP4D-training", "F001/T1/000.obj")).dataset == "bp4d"


def test_a_folder_that_begins_like_au_is_no_folder_of_tables(tmp_path: Path) -> None:
    assert one(find(touch(tmp_path, "August2024/F050/T8/0001.obj"))).label == "pain"


def test_the_raw_tree_below_a_folder_of_the_data_set(tmp_path: Path) -> None:
    assert one(find(touch(tmp_path, "BP4D+/RawData/2D+3D/F050/T8/0001.obj"))).label == "pain"


def test_a_mapping_gives_a_task_its_label(tmp_path: Path) -> None:
    options = Options(mapping={"t4": "surprise", "t8": "", "embarrassment": ""})
    listing = find(bp4d_tree(tmp_path, subjects=("F001",)), dataset="bp4dplus", options=options)
    labels = {s.name: s.label for s in listing.sequences}
    assert (labels["F001/T4"], labels["F001/T8"], labels["F001/T6"]) == ("surprise", None, None)
    assert "3 sequences of tasks without an expression" in listing.why


# --- the tree ----------------------------------------------------------------


def test_frames_of_two_to_four_digits_in_numeric_order(tmp_path: Path) -> None:
    names = ("1000", "20", "0003", "99", "100", "2")
    touch(tmp_path, *(f"BP4D-training/F001/T1/{n}.{e}" for n in names for e in ("obj", "mtl", "jpg")))
    listing = find(tmp_path, dataset="bp4d")
    frames = one(listing).frames
    assert [frame.number for frame in frames] == [2, 3, 20, 99, 100, 1000]
    assert frames[1].texture == tmp_path / "BP4D-training/F001/T1/0003.jpg"
    assert listing.problems == ()
    assert pickle.loads(pickle.dumps(listing.sequences)) == listing.sequences


def test_the_raw_tree_of_the_larger_set(tmp_path: Path) -> None:
    """Sensor folders repeat the tree of the meshes, and an unpacked archive puts a folder in between."""
    touch(tmp_path, "RawData/2D+3D/F001/F001/T9/0000.obj", "RawData/2D+3D/f002/t10/0000.OBJ")
    touch(tmp_path, "RawData/Physiology/F001/T9/BP_mmHg.txt", "RawData/Thermal/F001/T9.wmv", "readme.txt")
    touch(tmp_path, "RawData/IRFeatures/F001_T9.txt", "RawData/3DFeatures/F001_T9.mat")
    listing = find(tmp_path)
    assert listing.dataset == "bp4dplus"
    assert [(s.name, s.subject, s.label) for s in listing.sequences] == [
        ("F001/T9", "F001", "anger"),
        ("F002/T10", "F002", "disgust"),
    ]
    assert listing.problems == ()


def test_sex_letters_make_different_people(tmp_path: Path) -> None:
    listing = find(bp4d_tree(tmp_path), dataset="bp4d")
    assert {s.subject for s in listing.sequences} == {"F001", "M001"}
    assert "2 subjects, 16 sequences, 32 frames" in listing.why


def test_tasks_without_data_and_pictures_without_meshes(tmp_path: Path) -> None:
    """F042 has a folder T11 without data; the 2D release has pictures alone."""
    touch(
        tmp_path, "F042/T1/0000.obj", "F042/T2/0000.jpg", "F043/readme.txt", "F04/T1/0000.obj", "Docs/a.pdf"
    )
    touch(tmp_path, "F042/T1/mean.obj", "F042/T1/0.obj")
    (tmp_path / "F042/T11").mkdir()
    listing = find(tmp_path)
    assert one(listing).name == "F042/T1"
    for part in (
        "task 'T11' holds no frames",
        "task 'T2' holds pictures and no meshes (the 2D release?): add",
        "subject F043 has no task folders",
        "'F04' looks like a subject",
        "'mean.obj' has no frame number: rename it like 000.obj",
        "frame 0 is already there as 0.obj",
    ):
        assert part in reasons(listing)
    assert len(listing.problems) == 6


def test_one_archive_a_subject(tmp_path: Path) -> None:
    touch(tmp_path, "RawData/2D+3D/F001.zip", "RawData/2D+3D/M001.zip")
    with pytest.raises(ValueError, match=r"archives must be unpacked first"):
        find(tmp_path)
    touch(tmp_path, "RawData/2D+3D/F001/T9/0000.obj")
    assert reasons(find(tmp_path)) == "M001.zip is an archive: unpack it first"


# --- a frame -----------------------------------------------------------------


def test_frames_are_read_with_their_own_texture(tmp_path: Path) -> None:
    for number in (0, 1):
        textured_obj(tmp_path / f"F001/T1/{number:03}", x=number)
    image(tmp_path / "F001/T1/001.jpg", height=80, width=60)
    for frame, size in zip(one(find(tmp_path, dataset="bp4d")).frames, ((40, 30), (80, 60)), strict=True):
        scan = read(frame)
        np.testing.assert_allclose(scan.vertices, np.add(VERTICES, (frame.number, 0, 0)), atol=1e-4)
        np.testing.assert_array_equal(scan.faces, FACES)
        assert scan.texture is not None
        assert scan.texture.image.shape[:2] == size
        colors = color_at(scan.texture.image, scan.texture.corner_uv)
        left_forehead = (VERTICES[FACES].mean(axis=1)[:, :2] * [-1, 1] > 15).all(axis=1)
        assert np.abs(colors[left_forehead] - (250, 10, 10)).max() < 30


# --- action units ------------------------------------------------------------

OCCURRENCE = "0,1,2,6,12\n1,0,1,9,1\n2,0,1,9,1\n3,1,0,0,9\n"


def coded_tree(root: Path, *, intensity: str = "1,3\n2,9\n3,0\n") -> Path:
    touch(root, *(f"F001/T1/{n:03}.obj" for n in range(4)))
    write(root / "AUCoding/F001_T1.csv", OCCURRENCE)
    write(root / "AU-Intensity-Codes3.0/AU06/F001_T1_AU06.csv", intensity)
    return root


def test_nine_is_not_coded_and_never_zero(tmp_path: Path) -> None:
    listing = find(coded_tree(tmp_path), dataset="bp4d")
    frames = one(listing).frames
    assert [dict(frame.measures) for frame in frames] == [
        {},
        {"AU01": 0, "AU02": 1, "AU12": 1, "AU06_intensity": 3},
        {"AU01": 0, "AU02": 1, "AU12": 1},
        {"AU01": 1, "AU02": 0, "AU06": 0, "AU06_intensity": 0},
    ]
    assert listing.problems == ()
    assert "2 AU tables" in listing.why


@pytest.mark.parametrize("value", ["-1", "6", "9", "", "nan"])
def test_intensity_outside_zero_to_five_is_missing(tmp_path: Path, value: str) -> None:
    root = coded_tree(tmp_path, intensity=f"frame,intensity\r\n1,{value}\r\n2,5\r\n")
    frames = one(find(root, dataset="bp4d")).frames
    assert "AU06_intensity" not in frames[1].measures
    assert frames[2].measures["AU06_intensity"] == 5


def test_au_frame_offset(tmp_path: Path) -> None:
    """Sources disagree on whether row 1 belongs to image 1 or to image 0."""
    root = coded_tree(tmp_path)
    for offset in (0, -1):
        frames = one(find(root, dataset="bp4d", options=Options(au_frame_offset=offset))).frames
        assert [frame.number for frame in frames if frame.measures] == [n + offset for n in (1, 2, 3)]
        assert frames[3 + offset].measures["AU01"] == 1
    listing = find(root, dataset="bp4d", options=Options(au_frame_offset=500))
    assert "rows are for frames 501 to 503" in reasons(listing)
    assert len(one(listing).frames) == 4


def test_tables_of_the_larger_set_lie_deeper(tmp_path: Path) -> None:
    touch(tmp_path, "2D+3D/F024/T1/0001.obj", "2D+3D/F024/T1/0002.obj")
    write(tmp_path / "AUCoding/AU_OCC/F024_T1.csv", "0,4,7\r\n1,1,2\r\n2,0,1\r\n")
    write(tmp_path / "AUCoding/AU_INT/AU10/F024_T1_AU10.csv", "1,4\n2,2\n")
    frames = one(find(tmp_path)).frames
    assert [dict(frame.measures) for frame in frames] == [
        {"AU04": 1, "AU10_intensity": 4},
        {"AU04": 0, "AU07": 1, "AU10_intensity": 2},
    ]


@pytest.mark.parametrize(
    ("table", "part"),
    [
        (b"", "it is empty"),
        (b"0,1,2\n1,0\n", "row 2 has 2 cells and the first 3"),
        (b"0,1,2\n1,0,1\n1,0,1\n", "row 3 is a second row for frame 1"),
        (b"0,1,2\n1,0,x\n", "row 2 holds 'x', which is no number"),
        (b"0,1,2\none,0,1\n", "row 2 starts with 'one'"),
        (b"1,0,0\n2,0,1\n", "does not name each action unit once"),
        (b"0,1,brow\n1,0,1\n", "'AUbrow' is unknown"),
        (b"\xff\xfe\x00\x01\xd8", "it is no CSV text"),
    ],
)
def test_a_broken_table_is_set_aside_and_the_frames_stay(tmp_path: Path, table: bytes, part: str) -> None:
    root = coded_tree(tmp_path)
    write(root / "AUCoding/F001_T1.csv", table)
    listing = find(root, dataset="bp4d")
    (problem,) = listing.problems
    assert problem.path == root / "AUCoding/F001_T1.csv"
    assert part in problem.reason
    assert dict(one(listing).frames[1].measures) == {"AU06_intensity": 3}


def test_tables_that_reach_no_frame_are_counted(tmp_path: Path) -> None:
    root = coded_tree(tmp_path)
    write(root / "AUCoding/F009_T1.csv", OCCURRENCE)
    write(root / "AU-Intensity-Codes3.0/AU06/F001_T2_AU06.csv", "1,3\n")
    listing = find(root)
    assert "4 AU tables" in listing.why
    assert reasons(listing) == (
        "1 AU table of F001/T2, which has no frames: restore them | 1 AU table of F009/T1, which has no frames: restore them"
    )
    write(root / "AUCoding/F001-T1.csv", OCCURRENCE)
    assert "'F001-T1.csv' is not called like F001_T1.csv or F001_T1_AU06.csv: rename it" in reasons(
        find(root)
    )


def test_a_task_of_two_digits_is_the_same_task(tmp_path: Path) -> None:
    touch(tmp_path, "F001/T01/001.obj", "F002/T1/001.obj")
    write(tmp_path / "AUCoding/F001_T1.csv", "0,4\n1,1\n")
    write(tmp_path / "AUCoding/F002_T01.csv", "0,4\n1,0\n")
    first, second = find(tmp_path, dataset="bp4d").sequences
    assert [(s.name, s.label, s.frames[0].measures["AU04"]) for s in (first, second)] == [
        ("F001/T1", "happiness", 1),
        ("F002/T1", "happiness", 0),
    ]


def test_blanks_in_the_first_row(tmp_path: Path) -> None:
    root = coded_tree(tmp_path)
    write(root / "AUCoding/F001_T1.csv", "0, 1, 2, AU6\n1, 0, 1, 9\n")
    assert dict(one(find(root)).frames[1].measures) == {"AU01": 0, "AU02": 1, "AU06_intensity": 3}


def test_a_first_row_of_numbers_is_no_title(tmp_path: Path) -> None:
    listing = find(coded_tree(tmp_path, intensity="1.0,3\n2,4\n"))
    assert "row 1 starts with '1.0' and not with a frame number" in reasons(listing)


def test_features_that_are_not_read_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "F001/T1/001.obj", "3DFeatures/F001_T1.mat", "2DFeatures/F001_T1.mat")
    touch(tmp_path, "points/F001_T1_0001.bndplus", "points/F001_T1_0002.bndplus")
    assert "3 files of 3D features not read" in find(tmp_path, dataset="bp4d").why
    touch(tmp_path, "F001/T1/F001_T1_0001.bndplus", "3DFeatures/F001/T1/F001_T1_0001.bndplus")
    assert "5 files of 3D features not read" in find(tmp_path, dataset="bp4d").why


def test_two_tables_for_one_sequence(tmp_path: Path) -> None:
    root = coded_tree(tmp_path)
    write(root / "AUCoding/AU_OCC/F001_T1.csv", OCCURRENCE.replace("1,0,1,9,1", "1,1,1,1,1"))
    listing = find(root, dataset="bp4d")
    assert "F001_T1.csv is already there as" in reasons(listing)
    assert one(listing).frames[1].measures["AU01"] == 0


def test_equal_measures_are_one_object(tmp_path: Path) -> None:
    """147,000 coded frames: most look like the one before."""
    touch(tmp_path, *(f"F001/T1/{n:04}.obj" for n in range(300)))
    rows = "".join(f"{n},{n // 100},0,9\n" for n in range(300))
    write(tmp_path / "AUCoding/F001_T1.csv", "0,1,2,4\n" + rows)
    frames = one(find(tmp_path, dataset="bp4d")).frames
    assert len({id(frame.measures) for frame in frames}) == 3


def test_each_folder_is_looked_at_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real tree has a million files: no file is asked for its kind one by one, no mesh is opened."""
    bp4d_tree(tmp_path)

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise AssertionError(f"{self} was touched")

    for name in ("read_bytes", "read_text", "open", "is_file", "stat"):
        monkeypatch.setattr(Path, name, refuse)
    assert bp4d.matches(tmp_path)
    assert len(bp4d.listing(tmp_path, Options()).sequences) == 16
