"""BU-4DFE (Yin et al., FG 2008): `F001/Angry/000.wrl` + `000.jpg`, landmarks in a tree beside it.

Layout: <https://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html> and public loaders.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from ..labels import EXPRESSIONS
from . import folders
from .scan import Frame, Listing, Options, Problem, Sequence

SUBJECT = r"[FM]\d{3}"
LAYOUT = "F001/Angry/000.wrl"
_ARCHIVE = re.compile(r".*(bnd|landmark)", re.IGNORECASE)
_FRAME = re.compile(r"(\d+)\.wrl", re.IGNORECASE)
_POINTS = re.compile(r"(\d+)\.bnd", re.IGNORECASE)


def matches(folder: Path) -> bool:
    """Whether some subject has a folder with numbered meshes."""
    return any(
        _FRAME.fullmatch(file.name)
        for subject in folders.subjects(folder, SUBJECT)[0]
        for inner in folders.subfolders(subject)
        for file in folders.entries(inner)
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence for each expression of each subject; frames in the order of their numbers."""
    people, others = folders.subjects(folder, SUBJECT)
    archives = [p for p in {*folders.subfolders(folder), *others} if _ARCHIVE.match(p.name)]
    # Unpacked into a folder of its own name, the tree begins one level deeper.
    trees = sorted([*archives, *(inner for place in archives for inner in folders.subfolders(place))])
    others = [p for p in others if p not in trees]
    problems = folders.almost_subjects(others, r"[FM]\d", "F or M and three digits")
    found = []
    for person in people:
        for inner in folders.subfolders(person):
            frames, trouble = _frames(inner, _landmarks(trees, person.name, inner.name))
            problems += trouble
            try:
                label = options.expression(inner.name)
            except ValueError as error:
                if frames:  # else it is a folder of something else
                    problems.append(Problem(inner, str(error)))
                continue
            if not frames:
                if person.parent not in trees:
                    problems.append(
                        Problem(inner, f"folder {inner.name!r} holds no frames like 000.wrl: restore them")
                    )
                continue
            subject = person.name.upper()
            found.append(Sequence(subject, label, f"{subject}/{inner.name.capitalize()}", frames))
    sequences, doubles = folders.unique(found)
    expected = 6 * len({s.subject for s in sequences})
    missing = expected - len({(s.subject, s.label) for s in sequences if s.label in EXPRESSIONS[1:]})
    why = folders.why(
        f"BU-4DFE layout ({LAYOUT})",
        sequences,
        folders.left_out(others),
        f"{missing} of {expected} expressions are missing" if missing else "",
    )
    return Listing("bu4dfe", why, tuple(sequences), tuple(problems + doubles))


def _frames(folder: Path, landmarks: dict[int, Path]) -> tuple[tuple[Frame, ...], list[Problem]]:
    """The numbered meshes of one sequence, with `landmarks` by frame number where none lie beside them."""
    files = folders.by_lower_name(folders.entries(folder))
    landmarks = landmarks | _numbered(files.values())
    frames: dict[int, Frame] = {}
    problems = []
    for name, file in files.items():
        if not name.endswith(".wrl"):
            continue
        numbered = _FRAME.fullmatch(name)
        number = int(numbered.group(1)) if numbered else -1
        if numbered is None:
            problems.append(Problem(file, f"mesh {file.name!r} has no frame number: rename it like 000.wrl"))
        elif number in frames:
            problems.append(
                Problem(
                    file,
                    f"frame {number} is already there as {frames[number].path.name}: keep one of the two",
                )
            )
        else:
            frames[number] = Frame(file, number, folders.image_of(files, file.stem), landmarks.get(number))
    return tuple(frames[number] for number in sorted(frames)), problems


def _landmarks(trees: list[Path], *parts: str) -> dict[int, Path]:
    """The `.bnd` files of one sequence by frame number, from a landmark archive (`BU4DFE_BND_V1.1`) that repeats the tree."""
    for folder in trees:
        inner: Path | None = folder
        for part in parts:
            inner = folders.by_lower_name(folders.subfolders(inner)).get(part.lower()) if inner else None
        if inner is not None:
            return _numbered(folders.entries(inner))
    return {}


def _numbered(files: Iterable[Path]) -> dict[int, Path]:
    matches = ((_POINTS.fullmatch(file.name), file) for file in files)
    return {int(match.group(1)): file for match, file in matches if match}
