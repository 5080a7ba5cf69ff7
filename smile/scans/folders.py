"""What the data sets' listings share: folders of subjects, names in any case, one sequence a name."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .images import EXTENSIONS
from .scan import Problem, Sequence

SYSTEM = re.compile(
    r"[.]|__MACOSX$|[$#]RECYCLE|System Volume|lost[+]found$|@eaDir$", re.IGNORECASE
)  # also of file servers


def entries(folder: Path) -> list[Path]:
    """The files and folders in `folder` by name, without hidden ones and those of operating systems."""
    return sorted(Path(entry.path) for entry in sound(folder))


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` by name; the files between them, often thousands, cost nothing."""
    return sorted(Path(entry.path) for entry in sound(folder) if entry.is_dir())


def walk(folder: Path, lost: list[Problem] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of its files) of `folder` and all below by name, links followed; `lost` gets what cannot be opened."""
    lost = [] if lost is None else lost
    try:
        found = sorted(sound(folder, lost), key=lambda entry: entry.name)
    except OSError as error:
        reason = f"folder {folder.name!r} cannot be opened ({error.strerror or error}): check the permissions"
        lost.append(Problem(folder, reason))
        return
    yield folder, [entry.name for entry in found if not entry.is_dir()]
    for entry in found:
        if entry.is_dir():
            yield from walk(Path(entry.path), lost)


def astray(folder: Path) -> list[Problem]:
    """A Problem for each link in `folder` and below that no listing follows, and each folder that cannot be opened."""
    problems: list[Problem] = []
    for _ in walk(folder, problems):
        pass
    return problems


def sound(folder: Path, lost: list[Problem] | None = None) -> Iterator["os.DirEntry[str]"]:
    """What lies in `folder` in any order, without what is of operating systems and links that lead astray (a Problem in `lost`)."""
    with os.scandir(folder) as found:
        for entry in found:
            if SYSTEM.match(entry.name):
                continue
            if entry.is_symlink() and (reason := _leads_astray(entry)):
                if lost is not None:
                    lost.append(Problem(Path(entry.path), reason))
            else:
                yield entry


def _leads_astray(link: "os.DirEntry[str]") -> str | None:
    """Why a link is not followed: it is broken, or leads to a folder that it lies in, by whatever way."""
    try:
        there = link.stat()
    except OSError as error:
        return (
            f"link {link.name!r} leads to nothing that can be opened ({error.strerror or error}): restore what it leads to, "
            "or take the link away"
        )
    path = Path(link.path).absolute()
    above = {*path.parents, *path.parent.resolve().parents} if stat.S_ISDIR(there.st_mode) else set()
    if any(os.path.samestat(there, outer.stat()) for outer in above):
        return f"link {link.name!r} leads back to a folder that it lies in: take the link away"
    return None


def subjects(folder: Path, pattern: str, *, depth: int = 2) -> tuple[list[Path], list[Path]]:
    """(folders of subjects, other folders that hold none) in `folder` and up to `depth` levels deeper.

    Parts of a data set may lie side by side, so what lies beside subjects is opened too, at any depth by one level.
    """
    found, others = _split(subfolders(folder), pattern)
    left: list[Path] = []
    deeper = depth > (-1 if found else 0)
    for outer in others:
        inner, beside = subjects(outer, pattern, depth=depth - 1) if deeper else ([], [])
        found += inner
        left += beside if inner else [outer]
    return found, left


def _split(folders: list[Path], pattern: str) -> tuple[list[Path], list[Path]]:
    fits = [bool(re.fullmatch(pattern, p.name, re.IGNORECASE)) for p in folders]
    return (
        [p for p, fit in zip(folders, fits, strict=True) if fit],
        [p for p, fit in zip(folders, fits, strict=True) if not fit],
    )


def almost_subjects(others: list[Path], pattern: str, rule: str) -> list[Problem]:
    """A Problem for each folder that is probably a subject with a mistyped name; others pass in silence."""
    return [
        Problem(p, f"folder {p.name!r} looks like a subject, but a subject is {rule}: correct its name")
        for p in others
        if re.match(pattern, p.name, re.IGNORECASE)
    ]


def by_lower_name(files: Iterable[Path]) -> dict[str, Path]:
    return {p.name.lower(): p for p in files}


def image_of(files: dict[str, Path], stem: str) -> Path | None:
    """The image called `stem` in any case, from `by_lower_name`."""
    return next((files[stem.lower() + e] for e in EXTENSIONS if stem.lower() + e in files), None)


def unique(sequences: Iterable[Sequence]) -> tuple[list[Sequence], list[Problem]]:
    """Sequences by name, and a Problem for each that comes a second time."""
    first: dict[str, Sequence] = {}
    problems = []
    for sequence in sequences:
        if sequence.name in first:
            problems.append(
                Problem(
                    sequence.frames[0].path,
                    f"{sequence.name} is already there as "
                    f"{first[sequence.name].frames[0].path}: keep one of the two",
                )
            )
        else:
            first[sequence.name] = sequence
    return [first[name] for name in sorted(first)], problems


def count(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def why(layout: str, sequences: list[Sequence], *notes: str) -> str:
    """What was recognised, for the person who asked; empty notes are left out."""
    people, frames = {s.subject for s in sequences}, sum(len(s.frames) for s in sequences)
    found = f"{count(len(people), 'subject')}, {count(len(sequences), 'sequence')}, {count(frames, 'frame')}"
    return "; ".join([f"{layout}: {found}", *filter(None, notes)])


def marked(sequences: list[Sequence], orphans: int) -> str:
    """How many frames have landmarks, and how many landmark files no frame; empty where there are no such files at all."""
    frames = [frame for sequence in sequences for frame in sequence.frames]
    having = sum(frame.landmarks is not None for frame in frames)
    said = f"landmarks for {having} of {count(len(frames), 'frame')}" if having or orphans else ""
    return said + (f", {count(orphans, 'landmark file')} without a frame" if orphans else "")


def left_out(others: list[Path]) -> str:
    return f"{count(len(others), 'other folder')} left out" if others else ""
