"""What the data sets' listings share: folders of subjects, names in any case, one sequence a name."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from .images import EXTENSIONS
from .scan import Problem, Sequence

SYSTEM = re.compile(r"[.]|__MACOSX$|\$RECYCLE|System Volume", re.IGNORECASE)


def entries(folder: Path) -> list[Path]:
    """The files and folders in `folder` by name, without hidden ones and those of operating systems."""
    return sorted(p for p in folder.iterdir() if not SYSTEM.match(p.name))


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` by name; the files between them, often thousands, cost nothing."""
    with os.scandir(folder) as found:
        return sorted(Path(p.path) for p in found if p.is_dir() and not SYSTEM.match(p.name))


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
