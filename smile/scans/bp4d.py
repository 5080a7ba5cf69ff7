"""BP4D-Spontaneous (Zhang et al., Image and Vision Computing 2014): `F001/T1/000.obj` + `.mtl` + `.jpg`, AU tables beside.

Layout: <https://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html> and public loaders; the names of the 3D
files are to be confirmed. The table of tasks has a single source. BP4D+ looks the same and has another (`bp4dplus.py`), so
a tree without a task, a subject or a folder that only one of them has is never guessed to be either.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from . import au_tables, folders, numbered
from .numbered import file_names, pictures_of, tree, with_suffix
from .scan import Frame, Listing, Options, Problem, Sequence

LAYOUT = "F001/T1/000.obj (BP4D, 3D release, T1 to T8)"
TASKS = {
    "T1": "happiness",
    "T2": "sadness",
    "T3": "surprise",
    "T4": "embarrassment",
    "T5": "fear",
    "T6": "pain",
    "T7": "anger",
    "T8": "disgust",
}
SUBJECT = re.compile(r"[FM]\d{3}", re.IGNORECASE)
_LAST = {"F": 23, "M": 18}  # subjects F001 to F023 and M001 to M018
_TASK = re.compile(r"T\d{1,2}", re.IGNORECASE)
_FEATURES = re.compile(r"3DFeatures", re.IGNORECASE)
_FRAME = re.compile(r"(?P<number>\d+)\.obj", re.IGNORECASE)
_NEVER = re.compile(r"(?!)")
_OURS = re.compile(r"BP4D-training|AU-Intensity-Codes3\.0", re.IGNORECASE)  # folders of BP4D alone
_PLUS = re.compile(r"RawData|2D\+3D|AU_OCC|AU_INT|Physiology|Thermal", re.IGNORECASE)  # and of BP4D+
# What lies beside the meshes repeats their tree: F001/T1 with sensor readings or film.
_CLOSED = re.compile(
    rf"[FM]\d|{au_tables.FOLDER.pattern}|[23]DFeatures|IRFeatures|Physiology|Thermal|T\d", re.IGNORECASE
)


def matches(folder: Path) -> bool:
    """Whether some task folder holds a mesh, and nothing says BP4D+ alone."""
    ours, plus = evidence(folder)
    return has_meshes(folder) and not (plus and not ours)


def has_meshes(folder: Path) -> bool:
    """Whether some task folder of some subject holds a mesh."""
    return any(
        with_suffix(file_names(task), ".obj") for person in _people(folder)[0] for task in _tasks(person)
    )


def evidence(folder: Path) -> tuple[str, str]:
    """Something that only BP4D has, and something that only BP4D+ has; empty where nothing is there.

    That are folders beside the subjects, and for BP4D+ tasks from T9 and subjects from F024 or M019 on.
    """
    people, others = _people(folder)
    tables = [inner for p in others if au_tables.FOLDER.match(p.name) for inner in folders.subfolders(p)]
    names = [folder.absolute().name, *(p.name for p in [*others, *tables])]
    beyond = [p.name for p in people if int(p.name[1:]) > _LAST[p.name[0].upper()]]
    tasks = (f"{p.name}/{t.name}" for p in people for t in _tasks(p) if int(t.name[1:]) > len(TASKS))
    ours = next(filter(_OURS.fullmatch, names), "")
    return ours, next(filter(_PLUS.fullmatch, names), "") or next(iter(beyond), "") or next(tasks, "")


def _told(folder: Path) -> str:
    """By what the set was told from the other, for the person who asked."""
    said = [
        f"{name} is only in {which}"
        for name, which in zip(evidence(folder), ("BP4D", "BP4D+"), strict=True)
        if name
    ]
    return " but ".join(said) or "nothing tells BP4D from BP4D+"


def listing(folder: Path, options: Options) -> Listing:
    """One sequence for each task of each subject, with the action units of each frame."""
    return list_tasks(folder, options, "bp4d", f"BP4D layout ({LAYOUT})", TASKS)


def list_tasks(
    folder: Path, options: Options, dataset: str, layout: str, table: Mapping[str, str | None]
) -> Listing:
    """The listing of either set, with its own table of tasks -> expression."""
    people, others = _people(folder)
    rule = "F or M and three digits"
    problems = folders.almost_subjects(others, r"[FM]\d", rule)
    problems += _archives(people)
    tables, doubles = au_tables.find([p for p in others if au_tables.FOLDER.match(p.name)])
    problems += doubles
    used: set[tuple[str, str]] = set()
    features = _features(folder, others)
    found, words = [], {task.lower(): word for task, word in table.items()} | dict(options.mapping)
    for person in people:
        tasks = _tasks(person)
        if not tasks:
            problems.append(
                Problem(person, f"subject {person.name} has no task folders like T1: restore them")
            )
        for task in tasks:
            subject, name = person.name.upper(), f"T{int(task.name[1:])}"
            files = file_names(task)
            features += len(with_suffix(files, ".bndplus"))
            frames, trouble = _frames(task, files, tables.get((subject, name), {}), options)
            problems += trouble
            word = words.get(name.lower())
            if frames:
                used.add((subject, name))
                label = options.expression(word) if word else None
                found.append(Sequence(subject, label, f"{subject}/{name}", frames))
    sequences, doubles = folders.unique(found)
    bare = sum(s.label is None for s in sequences)
    note = f"{folders.count(bare, 'sequence')} of tasks without an expression" if bare else ""
    problems += au_tables.idle({key: files for key, files in tables.items() if key not in used})
    why = folders.why(
        layout,
        sequences,
        _told(folder),
        au_tables.count(tables),
        note,
        f"{folders.count(features, 'file')} of 3D features not read" if features else "",
    )
    return Listing(dataset, why, tuple(sequences), tuple(problems + doubles))


def _people(folder: Path) -> tuple[list[Path], list[Path]]:
    """(folders of subjects, other folders), also below `Sequences`, `BP4D-training` or `RawData/2D+3D`."""
    seen = list(tree(folder, 4, _CLOSED))
    people = [p for p in seen if SUBJECT.fullmatch(p.name)]
    return people, [p for p in seen if not SUBJECT.fullmatch(p.name)]


def _tasks(person: Path) -> list[Path]:
    """Task folders in the order of their numbers; an unpacked archive may put one folder in between."""
    inner = folders.subfolders(person)
    found = [p for p in inner if _TASK.fullmatch(p.name)]
    found = found or [p for outer in inner for p in folders.subfolders(outer) if _TASK.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name[1:]))


def _frames(
    task: Path, names: list[str], tables: au_tables.Files, options: Options
) -> tuple[tuple[Frame, ...], list[Problem]]:
    meshes, pictures = with_suffix(names, ".obj"), pictures_of(names)
    if not meshes and pictures:
        reason = f"task {task.name!r} holds pictures and no meshes (the 2D release?): add the meshes of the 3D release"
        return (), [Problem(task, reason)]
    if not meshes:
        return (), [Problem(task, f"task {task.name!r} holds no frames like 000.obj: restore them")]
    coded, problems = au_tables.measures(tables, offset=options.au_frame_offset)
    found, trouble = numbered.frames(task, meshes, _FRAME, images=pictures, measures=coded)
    return found, problems + trouble + au_tables.missed(tables, coded, {frame.number for frame in found})


def _features(folder: Path, others: list[Path]) -> int:
    """How many files of 3D landmarks lie beside the subjects: nothing says on which vertices their points lie."""
    features = [p for p in others if _FEATURES.fullmatch(p.name)]
    places = [folder, *others, *(inner for place in features for inner in tree(place, 2, _NEVER))]
    number = sum(len(with_suffix(file_names(place), ".bndplus")) for place in places)
    return number + sum(len(with_suffix(file_names(place), ".mat")) for place in features)


def _archives(people: list[Path]) -> list[Problem]:
    """A Problem for each subject that is still packed beside the unpacked ones."""
    there = {p.name.upper() for p in people}
    packed = [
        parent / name
        for parent in sorted({p.parent for p in people})
        for name in with_suffix(file_names(parent), ".zip")
        if SUBJECT.fullmatch(name[:-4]) and name[:-4].upper() not in there
    ]
    return [Problem(file, f"{file.name} is an archive: unpack it first") for file in packed]
