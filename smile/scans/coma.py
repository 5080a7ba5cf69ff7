"""CoMA (Ranjan et al., ECCV 2018) and VOCASET (Cudeiro et al., CVPR 2019): `FaceTalk_170725_00137_TA/bareteeth/bareteeth.000001.ply`.

Layout: <https://coma.is.tue.mpg.de>, <https://voca.is.tue.mpg.de> and public loaders. Both sets filmed the same twelve
people, so they share one space of subject ids. The twelve extreme expressions are not the six emotions and the sentences
of VOCASET are speech: neither has a label, unless a mapping gives one. Registered meshes (FLAME topology, 5,023
vertices) are in metres (to be confirmed; aligning tells units apart) and have no colours.
"""

import re
from pathlib import Path

from . import folders, numbered
from .scan import Listing, Options, Problem, Sequence

LAYOUT = "FaceTalk_170725_00137_TA/bareteeth/bareteeth.000001.ply"
_PERSON = re.compile(r"FaceTalk_(\d{6}_\d{5})_TA", re.IGNORECASE)
_FRAME = re.compile(r".*?(?P<number>\d+)\.ply", re.IGNORECASE)


def matches(folder: Path) -> bool:
    """Whether a folder is called like one of the people and holds a folder with meshes."""
    return any(
        numbered.with_suffix(numbered.file_names(inner), ".ply")
        for person in _people(folder)[0]
        for inner in folders.subfolders(person)
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence for each expression or sentence of each person."""
    found: list[Sequence] = []
    problems: list[Problem] = []
    people, others = _people(folder)
    problems += folders.almost_subjects(others, r"FaceTalk_\d", "called like FaceTalk_170725_00137_TA")
    for person in people:
        match = _PERSON.fullmatch(person.name)
        assert match is not None
        if loose := numbered.with_suffix(numbered.file_names(person), ".ply"):
            number = folders.count(len(loose), "mesh", "meshes")
            reason = (
                f"{number} of {person.name} in no folder of an expression or sentence: move them into one"
            )
            problems.append(Problem(person, reason))
        expressions = folders.subfolders(person)
        if not expressions and not loose:
            problems.append(Problem(person, f"folder {person.name!r} holds no meshes: restore them"))
        for inner in expressions:
            files = numbered.file_names(inner)
            names = numbered.with_suffix(files, ".ply")
            if names and (strange := numbered.with_suffix(files, ".obj")):
                number = folders.count(len(strange), ".obj mesh", ".obj meshes")
                reason = f"{number} beside .ply meshes left out: move them out of {inner.name}"
                problems.append(Problem(inner, reason))
            if not names:
                problems.append(Problem(inner, f"folder {inner.name!r} holds no .ply meshes: restore them"))
                continue
            frames, trouble = numbered.frames(inner, names, _FRAME)
            problems += trouble
            label = options.expression(inner.name) if inner.name.lower() in options.mapping else None
            if frames:
                found.append(Sequence(match[1], label, f"{match[1]}/{inner.name}", frames))
    sequences, doubles = folders.unique(found)
    why = folders.why(f"CoMA and VOCASET layout ({LAYOUT})", sequences)
    return Listing("coma", why, tuple(sequences), tuple(problems + doubles))


def _people(folder: Path) -> tuple[list[Path], list[Path]]:
    seen = list(numbered.tree(folder, 3, _PERSON))
    people = [p for p in seen if _PERSON.fullmatch(p.name)]
    return people, [p for p in seen if not _PERSON.fullmatch(p.name)]
