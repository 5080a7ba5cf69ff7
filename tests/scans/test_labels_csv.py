"""A site's own CSV of labels: every column, spreadsheets of all kinds, and lines that name the wrong thing."""

import re
from pathlib import Path

import pytest

from smile.scans import Listing, Options, find
from tests.scans.writers import write


def listing_of(root: Path, text: str | bytes, *names: str, pattern: str | None = None) -> Listing:
    for name in names:
        write(root / "raw" / name, b"x")
    return find(root / "raw", options=Options(labels=write(root / "labels.csv", text), pattern=pattern))


def listed(listing: Listing) -> list[tuple[str, str | None, str, list[int]]]:
    return [(s.subject, s.label, s.name, [f.number for f in s.frames]) for s in listing.sequences]


def reasons(listing: Listing) -> list[str]:
    return [problem.reason for problem in listing.problems]


def test_scans_by_name_in_any_case_and_with_any_slashes(tmp_path: Path) -> None:
    text = "file,subject,expression\na/1.OBJ,p1,Happy\nb\\2.stl,p1,\n./c.glb,p2,AN\n"
    listing = listing_of(tmp_path, text, "A/1.obj", "b/2.stl", "c.glb")
    assert listed(listing) == [
        ("P1", "happiness", "A/1", [0]),
        ("P1", None, "b/2", [0]),
        ("P2", "anger", "c", [0]),
    ]
    assert listing.problems == ()
    assert "labels of labels.csv): 2 subjects, 3 sequences" in listing.why


@pytest.mark.parametrize(
    "data",
    [
        "file;subject;valence\na.obj;p1;-0,5\n",
        "\ufefffile,subject,valence\r\na.obj,p1,-0.5\r\n",
        'file\tsubject\tvalence\r"a.obj"\tp1\t-0.5\r',
        " File , SUBJECT ,Valence, \n a.obj , p1 , -0.5 ,\n\n,,,\n",
        b"file,subject,valence\na.obj,p1,-.5",
    ],
)
def test_spreadsheets_of_all_kinds(tmp_path: Path, data: str | bytes) -> None:
    listing = listing_of(tmp_path, data, "a.obj")
    assert listed(listing) == [("P1", None, "a", [0])]
    assert listing.sequences[0].frames[0].measures == {"valence": -0.5}
    assert listing.problems == ()


def test_measures_are_coded_or_absent_and_never_zero(tmp_path: Path) -> None:
    text = "file,subject,AU12,au6_intensity,AU12L,pain,micro_surprise\na.obj,p,1,4.5,0,16,1\nb.obj,p,,,,,0\nc.obj,p,9,,,,\n"
    listing = listing_of(tmp_path, text, "a.obj", "b.obj", "c.obj")
    assert [dict(s.frames[0].measures) for s in listing.sequences] == [
        {"AU12": 1, "AU06_intensity": 4.5, "AU12L": 0, "pain": 16, "micro_surprise": 1},
        {"micro_surprise": 0},
    ]
    (reason,) = reasons(listing)
    assert "line 4 of labels.csv: AU12 = 9 is out of range (0 to 1): leave it empty if not coded" in reason


def test_a_folder_of_frames_is_one_sequence(tmp_path: Path) -> None:
    text = "file,subject,expression,onset,apex,offset,pain\nP7/clip,P7,surprise,1,5,9,3\n"
    listing = listing_of(
        tmp_path, text, *(f"P7/Clip/frame_{n}.ply" for n in (10, 9, 1, 5)), "P7/Clip/mean.ply"
    )
    (sequence,) = listing.sequences
    assert listed(listing) == [("P7", "surprise", "P7/Clip", [1, 5, 9, 10])]
    assert (sequence.onset, sequence.apex, sequence.offset, sequence.measures) == (1, 5, 9, {"pain": 3})
    assert sequence.frames[0].measures == {}
    assert reasons(listing) == ["scan 'mean.ply' has no frame number: rename it like 000.ply"]


def test_scans_of_one_sequence_and_their_order(tmp_path: Path) -> None:
    text = "file,subject,sequence,frame,expression,AU12,apex\nb.ply,p,s1,2,happy,1,2\na.ply,p,s1,7.0,happy,0,\nc.ply,p,s2,1,sad,,\n"
    listing = listing_of(tmp_path, text, "a.ply", "b.ply", "c.ply")
    assert listed(listing) == [("P", "happiness", "P/s1", [2, 7]), ("P", "sadness", "P/s2", [1])]
    assert [frame.path.name for frame in listing.sequences[0].frames] == ["b.ply", "a.ply"]
    assert [frame.measures for frame in listing.sequences[0].frames] == [{"AU12": 1}, {"AU12": 0}]
    assert listing.sequences[0].apex == 2


def test_the_pattern_names_people_and_the_csv_labels(tmp_path: Path) -> None:
    names = ("a/happy/1.obj", "a/happy/2.obj", "a/happy/3.obj")
    pattern = "{subject}/{expression}/{}.obj"
    listing = listing_of(
        tmp_path, "file,expression\na/happy/1.obj,sad\na/happy/2.obj,\n", *names, pattern=pattern
    )
    # No line about a scan says nothing; an empty cell says that it has no label.
    assert [s.label for s in listing.sequences] == ["sadness", None, "happiness"]
    listing = listing_of(tmp_path, "file,pain\na/happy/1.obj,3\n", *names, pattern=pattern)
    assert [(s.subject, s.label) for s in listing.sequences] == [("A", "happiness")] * 3
    listing = listing_of(tmp_path, "file,subject\na/happy/1.obj,B\n", *names, pattern=pattern)
    assert reasons(listing) == [
        "line 2 of the labels says subject 'B' and its name 'A': correct one of the two"
    ]


def test_lines_and_scans_without_each_other(tmp_path: Path) -> None:
    text = "file,subject,expression\na.obj,p,sad\na.obj,p,happy\ngone.obj,p,sad\n,p,sad\nc.obj,,sad\nd.obj,p,bored\n"
    listing = listing_of(tmp_path, text, "a.obj", "b.obj", "c.obj", "d.obj", "e.obj", "notes.txt")
    assert listing.sequences == ()
    told = {problem.path.name: problem.reason for problem in listing.problems}
    assert "line 3 of labels.csv names 'a.obj' again (line 2): keep one of the two" in told["a.obj"]
    assert "'b.obj' has no line in labels.csv" in told["b.obj"]
    assert "nothing says who is seen in 'c.obj'" in told["c.obj"]
    assert "label 'bored' is not a known expression" in told["d.obj"]
    assert "line 4 of labels.csv names 'gone.obj', and no scan of that name is there" in told["gone.obj"]
    assert "line 5 of labels.csv names no file" in told["labels.csv"]
    assert "notes.txt" not in told


def test_scans_without_a_line_keep_what_their_names_say(tmp_path: Path) -> None:
    names = ("P001_happy_0.obj", "P001_sad_0.obj", "P001_fear_0.obj")
    listing = listing_of(tmp_path, "file,expression\nP001_sad_0.obj,anger\nP001_fear_0.obj,\n", *names)
    assert listing.problems == ()
    assert listed(listing) == [
        ("P001", None, "P001/fear_0", [0]),
        ("P001", "happiness", "P001/happy_0", [0]),
        ("P001", "anger", "P001/sad_0", [0]),
    ]


def test_a_line_about_one_frame_counts_more_than_the_name_of_the_sequence(tmp_path: Path) -> None:
    names = [f"P001_{word}_0/{n}.ply" for word in ("happy", "sad", "fear") for n in (0, 1)]
    text = "file,expression\nP001_happy_0/1.ply,anger\nP001_sad_0/1.ply,\nP001_fear_0,\n"
    listing = listing_of(tmp_path, text, *names)
    assert listing.problems == ()
    assert {s.name: s.label for s in listing.sequences} == {
        "P001/happy_0": "anger",
        "P001/sad_0": "sadness",  # as in a data set: one empty cell among several frames takes nothing away
        "P001_fear_0": None,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,subject,sequence,frame\n1.obj,p,s,1\n2.obj,p,s,1\n", "frame 1 of P/s is already there as"),
        ("file,subject,sequence,expression\n1.obj,p,s,sad\n2.obj,p,s,fear\n", "labelled fear and sadness"),
        ("file,subject,sequence,apex\n1.obj,p,s,1\n2.obj,p,s,2\n", r"several frames for apex \(1, 2\)"),
        ("file,subject,sequence,apex\n1.obj,p,s,8\n2.obj,p,s,\n", "apex 8 lies outside its frames 1 to 2"),
        ("file,subject,onset,apex\n1.obj,p,5,3\n", "onset, apex and offset are 5, 3: they must follow"),
        ("file,subject,apex\n1.obj,p,-3\n", "apex is '-3' and no frame number"),
        ("file,subject,AU12\n1.obj,p,yes\n", "AU12 is 'yes' and no number: leave it empty if not coded"),
        ("file,subject,expression\n1.obj,p,sad,really\n", "more cells than the first line has names"),
    ],
)
def test_lines_that_say_what_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    listing = listing_of(tmp_path, text, "1.obj", "2.obj")
    assert re.search(message, " | ".join(reasons(listing)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the labels are empty: give a column file"),
        ("subject,expression\np,sad\n", "it has no column 'file'"),
        (
            "file,subject,mood\n",
            r"column 'mood' is unknown: use file, subject, expression.*or a measure such as AU12",
        ),
        ("file,AU6,au06\n", "column 'au06' is there twice"),
        (
            "file,subject\nJürgen.obj,p\n".encode("latin-1"),
            r"byte 14 of the labels is not UTF-8: save .*'CSV UTF-8'",
        ),
        ("file,subject\na.obj,p\n".encode("utf-16"), "byte 0 of the labels is not UTF-8"),
        (b'file,subject\n"' + b"x" * 200_000 + b'",p\n', "the labels are no CSV"),
    ],
)
def test_files_that_are_not_understood(tmp_path: Path, data: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        listing_of(tmp_path, data, "a.obj")
    assert "labels.csv: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "raw/a.obj", b"x")
    with pytest.raises(ValueError, match=r"gone\.csv: the labels cannot be read \(No such file"):
        find(tmp_path / "raw", options=Options(labels=tmp_path / "gone.csv"))


def test_labels_laid_over_a_data_set_win_over_its_own(tmp_path: Path) -> None:
    text = (
        "file,expression,AU12_intensity,valence,apex\n"
        "F001/Happy,contempt,,-0.5,1\n"  # a folder of frames
        "F001/Happy/001.wrl,,3,,\n"  # one frame of it
        "F001/Sad,,,,\n"  # an empty expression takes the label away
    )
    frames = [f"F001/{e}/{n}.wrl" for e in ("Happy", "Sad", "Fear") for n in ("000", "001")]
    listing = listing_of(tmp_path, text, *frames)
    assert listing.dataset == "bu4dfe" and listing.problems == ()
    by_name = {s.name: s for s in listing.sequences}
    happy = by_name["F001/Happy"]
    assert (happy.label, happy.measures, happy.apex) == ("contempt", {"valence": -0.5}, 1)
    assert [frame.measures for frame in happy.frames] == [{}, {"AU12_intensity": 3.0}]
    assert by_name["F001/Sad"].label is None and by_name["F001/Fear"].label == "fear"
    assert "3 lines of labels.csv laid over it" in listing.why


def test_static_scans_of_a_data_set_without_labels_get_them_by_file(tmp_path: Path) -> None:
    text = "file,subject,expression\nFall2003range/02463d546.abs,02463,happy\nFall2003range/02463d548.abs,99999,sad\nx.abs,,sad\n"
    names = [f"Fall2003range/02463d{n}.abs" for n in (546, 548)]
    listing = listing_of(tmp_path, text, *names)
    assert [(s.subject, s.label) for s in listing.sequences] == [("02463", "happiness"), ("02463", None)]
    said = " | ".join(reasons(listing))
    assert "line 3 of labels.csv says subject '99999' and the data set '02463'" in said
    assert "line 4 of labels.csv names 'x.abs', and no scan of that name is there" in said
    assert len(listing.problems) == 2


def test_two_scans_that_the_table_calls_the_same_stay_two(tmp_path: Path) -> None:
    text = "file,expression\nP001_happy_0.obj,fear\nP001_sad_0.obj,fear\n"
    listing = listing_of(tmp_path, text, "P001_happy_0.obj", "P001_sad_0.obj")
    assert [(s.label, s.name) for s in listing.sequences] == [
        ("fear", "P001/happy_0"),
        ("fear", "P001/sad_0"),
    ]


def test_frames_of_one_sequence_state_its_label_and_person(tmp_path: Path) -> None:
    text = (
        "file,subject,expression,apex\n"
        "F001/Happy/000.wrl,F001,contempt,\nF001/Happy/001.wrl,,contempt,1\n"
        "F001/Sad/000.wrl,,fear,\nF001/Sad/001.wrl,,anger,\n"
        "F001/Fear/001.wrl,F002,,\n"
        "F001/Angry/000.wrl,,,\n"
    )
    frames = [f"F001/{e}/{n}.wrl" for e in ("Happy", "Sad", "Fear", "Angry") for n in ("000", "001")]
    listing = listing_of(tmp_path, text, *frames)
    assert {s.name[5:]: (s.label, s.apex) for s in listing.sequences} == {
        "Happy": ("contempt", 1),
        "Sad": ("sadness", None),
        "Fear": ("fear", None),
        "Angry": ("anger", None),  # an empty cell of one frame among several takes nothing away
    }
    assert len(listing.problems) == 2
    said = " | ".join(reasons(listing))
    assert "lines 4 and 5 of labels.csv say expression fear and anger of one sequence: correct one" in said
    assert "line 6 of labels.csv says subject 'F002' and the data set 'F001'" in said


def test_the_folder_of_a_sequence_of_one_frame(tmp_path: Path) -> None:
    text = "file,expression,valence,pain\nF001/Happy,contempt,0.5,1\nF001/Sad,fear,,\nF001/Sad/000.wrl,fear,0.1,\n"
    listing = listing_of(tmp_path, text, "F001/Happy/000.wrl", "F001/Sad/000.wrl")
    assert listing.problems == ()
    assert [(s.label, dict(s.measures)) for s in listing.sequences] == [
        ("contempt", {"valence": 0.5, "pain": 1}),
        ("fear", {"valence": 0.1}),
    ]


def test_a_folder_of_several_sequences_names_none_of_them(tmp_path: Path) -> None:
    names = [f"F0001/F0001_{code}WH_F3D.wrl" for code in ("AN01", "HA01")]
    listing = listing_of(tmp_path, "file,expression\nF0001,fear\n", *names)
    assert [s.label for s in listing.sequences] == ["anger", "happiness"]
    assert "no scan of that name is there" in " | ".join(reasons(listing))
