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
        for person in _people(folder)
        for inner in folders.subfolders(person)
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence for each expression or sentence of each person."""
    found: list[Sequence] = []
    problems: list[Problem] = []
    for person in _people(folder):
        match = _PERSON.fullmatch(person.name)
        assert match is not None
        for inner in folders.subfolders(person):
            names = numbered.with_suffix(numbered.file_names(inner), ".ply")
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


def _people(folder: Path) -> list[Path]:
    return [p for p in numbered.tree(folder, 3, _PERSON) if _PERSON.fullmatch(p.name)]
