"""What data sets of film share: trees of folders and the numbered frames in one, each folder looked at once.

Such a set has hundreds of thousands of files, so names stay plain text until they are known to be a frame.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .folders import sound, subfolders
from .images import EXTENSIONS
from .scan import Frame, Problem

_NOTHING: Mapping[str, float] = {}


def tree(folder: Path, depth: int, stop: re.Pattern[str]) -> Iterator[Path]:
    """The folders down to `depth` levels below `folder`, a level at a time; those that `stop` matches stay closed."""
    level = [folder]
    for _ in range(depth):
        level = [inner for outer in level for inner in subfolders(outer)]
        yield from level
        level = [inner for inner in level if not stop.match(inner.name)]


def file_names(folder: Path) -> list[str]:
    """The names of the files in `folder`, in order, without hidden ones."""
    return sorted(entry.name for entry in sound(folder) if entry.is_file())


def with_suffix(names: Sequence[str], *suffixes: str) -> list[str]:
    return [name for name in names if name.lower().endswith(suffixes)]


def frames(
    folder: Path,
    names: Sequence[str],
    pattern: re.Pattern[str],
    *,
    images: Sequence[str] = (),
    measures: Mapping[int, Mapping[str, float]] | None = None,
    kind: str = "scan",
) -> tuple[tuple[Frame, ...], list[Problem]]:
    """The frames called `names` in the order of their numbers, each with the image of its stem among `images`.

    `pattern` matches a whole name, its group `number` any count of digits: 10 comes after 2 and 0002.
    """
    pictures = {os.path.splitext(name)[0].lower(): name for name in images}
    found: dict[int, Frame] = {}
    problems = []
    for name in names:
        path, match = folder / name, pattern.fullmatch(name)
        if match is None:
            problems.append(Problem(path, f"{name!r} has no frame number: rename it like 000{path.suffix}"))
            continue
        number = int(match["number"])
        if number in found:
            reason = f"frame {number} is already there as {found[number].path.name}: keep one of the two"
            problems.append(Problem(path, reason))
            continue
        picture = pictures.get(os.path.splitext(name)[0].lower())
        found[number] = Frame(
            path,
            number,
            texture=folder / picture if picture else None,
            measures=(measures or {}).get(number, _NOTHING),
            kind=kind,
        )
    return tuple(found[number] for number in sorted(found)), problems


def pictures_of(names: Sequence[str]) -> list[str]:
    return with_suffix(names, *EXTENSIONS)
