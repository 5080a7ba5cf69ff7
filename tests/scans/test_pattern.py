"""Names of any scanner: patterns, numbered 4D frames, the project's own rule, and what a refusal tells one to write."""

from pathlib import Path, PurePath

import pytest

from smile.scans import Listing, Options, find, pattern
from smile.scans.options import read_mapping
from tests.scans.writers import write


def touch(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name, b"x")
    return root


def listed(listing: Listing) -> list[tuple[str, str | None, str, list[int]]]:
    return [(s.subject, s.label, s.name, [f.number for f in s.frames]) for s in listing.sequences]


def reasons(listing: Listing) -> str:
    return " | ".join(problem.reason for problem in listing.problems)


# --- the pattern itself ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "subject", "expression", "frame", "name"),
    [
        ("{subject}/{expression}/{}.obj", "S 1/Smile/take.2.OBJ", "S 1", "Smile", None, "S 1/Smile/take.2"),
        ("{subject}_{expression}_{rep}.ply", "k7_happy_2.ply", "k7", "happy", None, "k7_happy_2"),
        ("{subject}/{expression}/{frame}.obj", "a/sad/0012.obj", "a", "sad", 12, "a/sad"),
        ("scans/{subject}/{}_{frame}.{}", "Scans/a/x_7.glb", "a", None, 7, "Scans/a/x"),
        ("{}/{subject}-{expression}.stl", "2024/b-fear.stl", "b", "fear", None, "2024/b-fear"),
        ("\\{subject}\\{expression}.ply", "a/sad.ply", "a", "sad", None, "a/sad"),
        ("./{subject} ({rep}).ply", "a (3).ply", "a", None, None, "a (3)"),
    ],
)
def test_what_a_path_says(
    text: str, path: str, subject: str, expression: str | None, frame: int | None, name: str
) -> None:
    named = pattern.parse(text).match(PurePath(path))
    assert named == pattern.Named(subject, expression, frame, name)


@pytest.mark.parametrize("path", ["a/b/c/d.obj", "a.obj", "a/b/c.ply", "x/a/b/c.obj", "a/b/.obj/c"])
def test_what_does_not_fit(path: str) -> None:
    assert pattern.parse("{subject}/{expression}/{}.obj").match(PurePath(path)) is None


def test_a_person_is_never_guessed() -> None:
    with pytest.raises(
        ValueError, match=r"fits in two ways, with subject 'P' or 'P_01': write more fixed text"
    ):
        pattern.parse("{subject}_{rep}.obj").match(PurePath("P_01_2.obj"))
    assert pattern.parse("P_{subject}_{rep}.obj").match(PurePath("P_01_2.obj")) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{who}/{}.obj", r"field 'who' is unknown: use \{subject\}, \{expression\}.*such as '\{subject\}/"),
        ("{subject}{rep}.obj", "two fields have nothing between them"),
        ("{subject}/{subject}.obj", "comes twice"),
        ("{subject/x.obj", "no path with fields in braces"),
        ("", "no path with fields in braces: write one such as"),
        ("{{subject}}.obj", "no path with fields"),
    ],
)
def test_patterns_that_are_not_understood(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pattern.parse(text)


# --- listings ----------------------------------------------------------------


def test_any_naming_by_a_pattern(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "anna/Happy/a.stl",
        "anna/happy/b.STL",
        "bob/sad/x.stl",
        "bob/sad/x.mtl",
        "bob/sad/readme.txt",
    )
    listing = find(tmp_path, options=Options(pattern="{subject}/{expression}/{}.stl"))
    assert listing.dataset == "scanner"
    assert listed(listing) == [
        ("ANNA", "happiness", "anna/Happy/a", [0]),
        ("ANNA", "happiness", "anna/happy/b", [0]),
        ("BOB", "sadness", "bob/sad/x", [0]),
    ]
    assert listing.problems == ()
    assert "pattern {subject}/{expression}/{}.stl): 2 subjects, 3 sequences" in listing.why


def test_4d_as_numbered_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"P1/fear/{n}.ply" for n in ("10", "2", "0001", "100")),
        "P1/fear/note.ply",
        "p1/Fear/2.PLY",
    )
    touch(tmp_path, "P2/fear/7.ply")
    listing = find(tmp_path, options=Options(pattern="{subject}/{expression}/{frame}.ply"))
    assert listed(listing) == [("P1", "fear", "P1/fear", [1, 2, 10, 100]), ("P2", "fear", "P2/fear", [7])]
    assert "'P1/fear/note.ply' does not fit the pattern" in reasons(listing)
    assert "frame 2 of p1/Fear is already there as" in reasons(listing)


def test_repetitions_are_sequences_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, *(f"P1_sad_{rep}/f{n}.glb" for rep in (1, 2) for n in (0, 1)))
    listing = find(tmp_path, options=Options(pattern="{subject}_{expression}_{rep}/f{frame}.glb"))
    assert listed(listing) == [
        ("P1", "sadness", "P1_sad_1/f", [0, 1]),
        ("P1", "sadness", "P1_sad_2/f", [0, 1]),
    ]


def test_unlabelled_scans_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.obj", "b/1.obj")
    assert listed(find(tmp_path, options=Options(pattern="{subject}/{}.obj"))) == [
        ("A", None, "a/1", [0]),
        ("B", None, "b/1", [0]),
    ]


def test_a_word_that_is_no_expression_is_set_aside_once_a_sequence(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/smirk/{n}.obj" for n in range(5)), "a/happy/0.obj")
    options = Options(pattern="{subject}/{expression}/{frame}.obj")
    listing = find(tmp_path, options=options)
    assert [s.label for s in listing.sequences] == ["happiness"]
    (problem,) = listing.problems
    assert problem.path == tmp_path / "a/smirk"
    assert "'smirk' is not a known expression" in problem.reason
    words = Options(pattern=options.pattern, mapping={"smirk": "contempt"})
    assert {s.label for s in find(tmp_path, options=words).sequences} == {"contempt", "happiness"}
    words = Options(pattern=options.pattern, mapping={"smirk": ""})
    assert {s.label for s in find(tmp_path, options=words).sequences} == {None, "happiness"}


def test_a_pattern_that_fits_nothing_or_nobody(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.obj", "x/b.obj")
    with pytest.raises(ValueError, match=r"none of its 2 scans, the first 'x/a\.obj', fits the pattern"):
        find(tmp_path, options=Options(pattern="{subject}_{}.obj"))
    with pytest.raises(ValueError, match=r"does not say who is seen: write \{subject\}, such as"):
        find(tmp_path, options=Options(pattern="{expression}/{}.obj"))
    with pytest.raises(ValueError, match="data set bu4dfe does not take --pattern: leave it away"):
        find(tmp_path, dataset="bu4dfe", options=Options(pattern="{subject}/{}.obj"))


def test_the_projects_own_rule_for_every_format_and_for_4d(tmp_path: Path) -> None:
    names = ("obj", "ply", "stl", "glb", "gltf", "off", "wrl", "xyz", "pcd", "txt")
    touch(tmp_path, *(f"P001_happy_{n}.{suffix}" for n, suffix in enumerate(names)), "readme.txt")
    touch(tmp_path, *(f"x/p002_Sad_0/{n}.ply" for n in ("000", "frame_010", "002", "mean")))
    listing = find(tmp_path)
    assert listed(listing) == [
        *(("P001", "happiness", f"P001/happiness_{n}", [0]) for n in range(len(names))),
        ("P002", "sadness", "P002/sadness_0", [0, 2, 10]),
    ]
    assert reasons(listing).startswith("scan 'mean.ply' is not named like")


@pytest.mark.parametrize("system", ["$RECYCLE.BIN", "System Volume Information", "__MACOSX", ".Trash"])
def test_folders_of_operating_systems_hold_nobody(tmp_path: Path, system: str) -> None:
    touch(tmp_path, f"{system}/P009_sad_0.obj", f"x/{system}/P009_sad_1.obj", "P001_happy_0.obj")
    listing = find(tmp_path)
    assert listed(listing) == [("P001", "happiness", "P001/happiness_0", [0])]
    assert listing.problems == ()


@pytest.mark.parametrize(
    ("names", "example"),
    [
        (("scans/S01/happy_1.obj", "scans/S02/happy_1.obj"), "{}/{subject}/{expression}_{}.obj"),
        (
            ("a/b/S01/Sad/0.obj", "a/b/S01/Sad/1.obj", "a/b/S02/Sad/0.obj"),
            "{}/{}/{subject}/{expression}/{frame}.obj",
        ),
        (("scans/anna_sad.ply", "scans/bob_sad.ply"), "{}/{subject}_{expression}.ply"),
        (("scans/neutral_anna.ply", "scans/sad_bob.ply"), "{}/{expression}_{subject}.ply"),
        (("happy/anna.ply", "sad/bob.ply"), "{expression}/{subject}.ply"),
        (("S01_happy/000.ply", "S02_sad/000.ply"), "{subject}_{expression}/{frame}.ply"),
        (("all/001.ply", "all/002.ply"), "{subject}/{frame}.ply"),  # nobody else is named
        (("S01/2024/001.ply", "S02/2024/001.ply"), "{subject}/{}/{frame}.ply"),
        (("S01/smile_L.obj", "S01/smile_R.obj", "S02/smile_L.obj", "S02/smile_R.obj"), "{subject}/{}.obj"),
        (("S01/smile_3.stl",), "{subject}/{}_{}.stl"),
        (("S01/happy_3.stl", "S01/x.stl"), "{subject}/{expression}_{}.stl"),
        (("k1 angry.ply",), "{subject} {expression}.ply"),
        (("S01/Sad/000.glb", "S01/Sad/001.glb"), "{subject}/{expression}/{frame}.glb"),
    ],
)
def test_a_refusal_says_what_was_seen_and_what_to_write(
    tmp_path: Path, names: tuple[str, ...], example: str
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match="no scans recognised") as caught:
        find(tmp_path)
    text = str(caught.value)
    assert f"such as '{names[0]}'" in text
    assert (
        f"--dataset scanner --pattern '{example}', or --labels labels.csv with the columns file, subject"
        in text
    )
    assert find(tmp_path, options=Options(pattern=example)).sequences  # the example works


# --- a study's own words -----------------------------------------------------


def test_a_mapping(tmp_path: Path) -> None:
    text = '\ufeff[expressions]\nSmile = "happiness"\n"rest 2" = ""\n'
    assert read_mapping(write(tmp_path / "m.toml", text)) == {"smile": "happiness", "rest 2": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smile: happiness", "the mapping is not TOML"),
        (b"\xff\xfe", "the mapping is not TOML"),
        ("", r"has no table \[expressions\]: write \[expressions\] with lines such as smile"),
        ('[labels]\na = "fear"\n[expressions]\n', "holds 'labels'"),
        (
            '[expressions]\na = "joy"',
            "'a' is mapped to 'joy', which is no expression: choose from neutral, anger",
        ),
        ("[expressions]\na = 3", "'a' is mapped to 3"),
        ('[expressions]\na = "fear"\nA = "anger"', "'A' is there twice"),
    ],
)
def test_mappings_that_are_not_understood(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_mapping(write(tmp_path / "m.toml", text))
    assert "m.toml: " in str(caught.value)
    with pytest.raises(ValueError, match=r"gone\.toml: the mapping cannot be read \(No such file"):
        read_mapping(tmp_path / "gone.toml")
