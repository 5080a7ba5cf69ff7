"""4DME (Li et al., IEEE TAC 2022), micro- and macro-expressions: folders of mesh frames, or the image release 4DMR.

4DMR (challenge at IJCAI 2025, public code): a folder a sequence, its digits the sequence id, of pictures with the left view
in the left half and the right view in the right half. The folders of the mesh release are to be confirmed: taken here is
any folder of numbered meshes. Labels are classes of which several may hold (`fourdme_labels.py`), so they are measures.
"""

import re
from pathlib import Path

from . import bp4d, coma, d3dfacs, facescape, folders, fourdme_labels, numbered
from .fourdme_labels import Row, key
from .images import EXTENSIONS
from .scan import Frame, Listing, Options, Problem, Sequence

LAYOUT = (
    "S01/12/000.obj or 12/000.jpg, and a CSV with Negative, Positive, Repression, Surprise, Others (4DME)"
)
_NAME = re.compile(r"4DM[ER](?![a-z])", re.IGNORECASE)  # not `4DMeshes`
_MESHES = (".obj", ".ply", ".wrl")
_FRAME = re.compile(r"(?:.*\D)?(?P<number>\d+)\.\w+")
_PERSON = re.compile(
    r"(?:s|sub|subj|subject|p|f|m|id|participant|person)[ _-]?\d+", re.IGNORECASE
)  # a list, as `images2` is nobody
_NEVER = re.compile(r"(?!)")


def matches(folder: Path) -> bool:
    """Whether a CSV names the five classes, or a folder called 4DME or 4DMR holds what no other data set explains."""
    if _tables(folder):
        return True
    named = [folder] if _NAME.search(folder.absolute().name) else _places(folder)[1:]
    return any(map(_has_sequences, named)) and not any(
        explains(folder) for explains in (bp4d.has_meshes, coma.matches, d3dfacs.matches, facescape.matches)
    )


def _has_sequences(folder: Path) -> bool:
    """Whether a folder in it with a number in its name holds numbered frames; those of BU-4DFE are called `Angry`."""
    return any(
        _FRAME.fullmatch(name)
        for place in numbered.tree(folder, 4, _NEVER)
        if re.search(r"\d", place.name)
        for name in numbered.with_suffix(numbered.file_names(place), *_MESHES, *EXTENSIONS)
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence for each folder of numbered meshes or, where there are none, of pictures with two views.

    Raises ValueError where nothing says who is in a sequence: one person could land on both sides of a split.
    """
    table = _table(folder, options)
    rows, problems = fourdme_labels.read(table) if table else ([], [])
    named = any(row.subject for row in rows)
    found, kinds = _frames(folder)
    people = {place: _person(folder, place) for place, (frames, _) in found.items() if frames}
    chosen, refused, unused = fourdme_labels.assign(rows, people)
    spellings: dict[tuple[str, str], str] = {}
    sequences: list[Sequence] = []
    for place, (frames, trouble) in found.items():
        problems += trouble
        if not frames:
            continue
        row = chosen.get(place)
        subject = (row.subject if row else "") if named else people[place]
        if place in refused or not subject:
            reason = f"nothing says who is in sequence {place.name!r}: {_remedy(table, named)}"
            problems.append(Problem(place, refused.get(place, reason)))
            continue
        subject = spellings.setdefault(key(subject), subject)  # S7 and s07 are one person
        name = place.relative_to(folder).as_posix()
        marks, trouble = _marks(place, frames, row)
        problems += trouble
        sequences.append(Sequence(subject, None, name, frames, row.measures if row else {}, **marks))
    if found and not sequences:
        raise ValueError(f"{folder}: {problems[-1].reason}")
    for row in unused:
        reason = f"row {row.line} of the labels is for sequence {row.sequence!r}, which has no folder: restore it or correct the row"
        problems.append(Problem(table or folder, reason))
    unlabelled = sum(not s.measures for s in sequences)
    why = folders.why(
        f"4DME layout, {kinds[0]}",
        sequences,
        f"labels from {table.name}" if table else "no table of labels",
        f"{folders.count(unlabelled, 'sequence')} without a label" if table and unlabelled else "",
        *kinds[1:],
    )
    return Listing("4dme", why, tuple(sequences), tuple(problems))


def _places(folder: Path) -> list[Path]:
    return [folder, *(p for p in folders.subfolders(folder) if _NAME.search(p.name))]


def _tables(folder: Path) -> list[Path]:
    return [table for place in _places(folder) for table in fourdme_labels.tables(place)]


def _table(folder: Path, options: Options) -> Path | None:
    tables = [options.labels] if options.labels else _tables(folder)
    if len(tables) > 1:
        names = " and ".join(str(table.relative_to(folder)) for table in tables)
        raise ValueError(f"{folder}: {names} both hold labels: say which counts with --labels")
    return tables[0] if tables else None


def _remedy(table: Path | None, named: bool) -> str:
    if table is None:
        return "put a CSV with the columns sequence, subject and the five classes into the folder, or give it as --labels"
    return f"add its row to {table.name}" if named else f"add a column subject to {table.name}"


def _person(folder: Path, place: Path) -> str:
    """The folder around a sequence where it is called like a person, else empty."""
    outer = place.parent
    return outer.name if outer != folder and _PERSON.fullmatch(outer.name) else ""


def _marks(place: Path, frames: tuple[Frame, ...], row: Row | None) -> tuple[dict[str, int], list[Problem]]:
    """Onset, apex and offset, or a Problem where they are not among the frames."""
    marks = row.marks if row else {}
    first, last = frames[0].number, frames[-1].number
    wrong = [f"{name} {number}" for name, number in marks.items() if not first <= number <= last]
    if not wrong:
        return marks, []
    reason = f"{' and '.join(wrong)} of the labels lie outside its frames {first} to {last} and are left out: correct the row"
    return {}, [Problem(place, reason)]


def _frames(folder: Path) -> tuple[dict[Path, tuple[tuple[Frame, ...], list[Problem]]], list[str]]:
    """The frames of each folder, and what kind they are; pictures beside the folders of meshes are no scans."""
    meshes, pictures = {}, {}
    for place in numbered.tree(folder, 4, _NEVER):
        names = numbered.file_names(place)
        images = numbered.pictures_of(names)
        if scans := numbered.with_suffix(names, *_MESHES):
            meshes[place] = numbered.frames(place, scans, _FRAME, images=images)
        elif images:
            pictures[place] = images
    if meshes:
        others = folders.count(len(pictures), "folder of pictures", "folders of pictures")
        return meshes, ["meshes", f"{others} left out" if pictures else ""]
    pairs = {p: numbered.frames(p, names, _FRAME, kind="pair") for p, names in pictures.items()}
    return pairs, ["pictures of two views"]
