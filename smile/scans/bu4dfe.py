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
    problems = folders.almost_subjects(others, r"[FM]\d", "F or M and three digits")
    inside = {p: folders.by_lower_name(folders.entries(p)) for q in people for p in folders.subfolders(q)}
    # Landmarks of a sequence by frame number: their archive (`BU4DFE_BND_V1.1`) repeats the tree, without meshes.
    marks: dict[tuple[str, str], dict[int, Path]] = {}
    for inner, files in inside.items():
        marks[_key(inner)] = _numbered(files.values()) | marks.get(_key(inner), {})
    meshed = {p.parent.parent for p, files in inside.items() if any(name.endswith(".wrl") for name in files)}
    archives = {p.parent.parent for p, files in inside.items() if _numbered(files.values())} - meshed
    found = []
    for inner, files in inside.items():
        frames, trouble = _frames(files, marks[_key(inner)])
        problems += trouble
        try:
            label = options.expression(inner.name)
        except ValueError as error:
            if frames:  # else it is a folder of something else
                problems.append(Problem(inner, str(error)))
            continue
        if frames:
            subject = inner.parent.name.upper()
            found.append(Sequence(subject, label, f"{subject}/{inner.name.capitalize()}", frames))
        elif inner.parent.parent not in archives:
            problems.append(
                Problem(inner, f"folder {inner.name!r} holds no frames like 000.wrl: restore them")
            )
    sequences, doubles = folders.unique(found)
    expected = 6 * len({s.subject for s in sequences})
    missing = expected - len({(s.subject, s.label) for s in sequences if s.label in EXPRESSIONS[1:]})
    shown = {(*_key(f.path.parent), f.number) for s in sequences for f in s.frames}
    orphans = {(*key, number) for key, numbers in marks.items() for number in numbers} - shown
    why = folders.why(
        f"BU-4DFE layout ({LAYOUT})",
        sequences,
        folders.left_out(others),
        f"{missing} of {expected} expressions are missing" if missing else "",
        folders.marked(sequences, len(orphans)),
    )
    return Listing("bu4dfe", why, tuple(sequences), tuple(problems + doubles))


def _key(sequence: Path) -> tuple[str, str]:
    return sequence.parent.name.upper(), sequence.name.lower()


def _frames(files: dict[str, Path], landmarks: dict[int, Path]) -> tuple[tuple[Frame, ...], list[Problem]]:
    """The numbered meshes of one sequence, with `landmarks` by frame number where none lie beside them."""
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


def _numbered(files: Iterable[Path]) -> dict[int, Path]:
    matches = ((_POINTS.fullmatch(file.name), file) for file in files)
    return {int(match.group(1)): file for match, file in matches if match}
