"""Action-unit tables of BP4D and BP4D+: one CSV of occurrence a sequence, one of intensity an action unit.

Grammar (public readers of both sets agree): `F001_T1.csv` has a header `0,1,2,4,...` and a row a frame, with 0, 1, and
9 for *not coded*; `F001_T1_AU06.csv` has rows `frame,intensity` with 0 to 5. Anything else is not coded: absent, never 0.
Whether its frame numbers are those of the images or one more is to be confirmed: `Options.au_frame_offset`.
"""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from ..labels import measure
from . import folders
from .numbered import file_names, tree, with_suffix
from .scan import Problem

# AUCoding, AU_OCC, AU-Intensity-Codes3.0, and not August2024
FOLDER = re.compile(r"AUs?(?![a-z])|AU(?:Coding|Intensity|Occ|Int)", re.IGNORECASE)
LARGEST = 1 << 26  # bytes; ten minutes of film with forty action units have one megabyte
_TABLE = re.compile(r"([FM]\d{3})_(T\d{1,2})(?:_AU(\d{1,2}))?\.csv", re.IGNORECASE)
_NEVER = re.compile(r"(?!)")
_Coded = tuple[tuple[str, float], ...]
Files = dict[str, Path]  # action unit of an intensity table, "" for occurrence -> its file


def find(places: Iterable[Path]) -> tuple[dict[tuple[str, str], Files], list[Problem]]:
    """The tables in and below `places` by subject and task, and a Problem for each CSV that is there twice or misnamed."""
    found: dict[tuple[str, str], Files] = {}
    problems = []
    for place in places:
        for folder in [place, *tree(place, 2, _NEVER)]:
            for name in with_suffix(file_names(folder), ".csv"):
                match = _TABLE.fullmatch(name)
                if match is None:
                    reason = f"{name!r} is not called like F001_T1.csv or F001_T1_AU06.csv: rename it"
                    problems.append(Problem(folder / name, reason))
                    continue
                files = found.setdefault((match[1].upper(), f"T{int(match[2][1:])}"), {})
                file, au = folder / name, match[3] or ""
                first = files.setdefault(au, file)
                if first != file:
                    problems.append(Problem(file, f"{name} is already there as {first}: keep one of the two"))
    return found, problems


def measures(files: Files, *, offset: int) -> tuple[dict[int, Mapping[str, float]], list[Problem]]:
    """Frame number of the image -> its measures, out of the tables of one sequence; equal measures are one object.

    `offset` is added to the frame numbers of the tables. A table that cannot be read is a Problem, the others count.
    """
    tables: list[dict[int, _Coded]] = []
    problems = []
    for au, file in sorted(files.items()):
        try:
            tables.append(_intensity(file, au) if au else _occurrence(file))
        except (OSError, ValueError) as error:
            problems.append(Problem(file, f"this AU table is left out: {error}"))
    shared: dict[tuple[_Coded, ...], Mapping[str, float]] = {}
    out: dict[int, Mapping[str, float]] = {}
    for number in sorted(set().union(*tables)):
        coded = tuple(table.get(number, ()) for table in tables)
        if coded not in shared:
            shared[coded] = dict(chain.from_iterable(coded))
        out[number + offset] = shared[coded]
    return out, problems


def missed(files: Files, coded: Mapping[int, object], numbers: set[int]) -> list[Problem]:
    """A Problem where not one row of the tables belongs to a frame."""
    if not coded or numbers & coded.keys():
        return []
    reason = (
        f"its rows are for frames {min(coded)} to {max(coded)} (with the offset) and the meshes are "
        f"{min(numbers)} to {max(numbers)}: correct --au-frame-offset"
    )
    return [Problem(files[min(files)], reason)]


def _occurrence(path: Path) -> dict[int, _Coded]:
    header, *rows = _rows(path)
    units = [cell.strip() for cell in header[1:]]
    names = [measure(unit if unit[:2].upper() == "AU" else f"AU{unit}", 0.0)[0] for unit in units]
    if not names or len(set(names)) < len(names):
        raise ValueError("its first row does not name each action unit once, as in 0,1,2,4: restore the row")
    known: dict[tuple[str, ...], _Coded] = {}  # most frames look like the one before
    out: dict[int, _Coded] = {}
    for line, row in enumerate(rows, start=2):
        cells = tuple(row[1:])
        if cells not in known:
            if len(cells) != len(names):
                raise ValueError(
                    f"row {line} has {len(row)} cells and the first {len(header)}: copy the file again"
                )
            values = ((name, _number(cell, line)) for name, cell in zip(names, cells, strict=True))
            known[cells] = tuple((name, value) for name, value in values if value in (0.0, 1.0))
        _add(out, row, line, known[cells])
    return out


def _intensity(path: Path, au: str) -> dict[int, _Coded]:
    name, _ = measure(f"AU{au}_intensity", 0.0)
    rows = _rows(path)
    titled = not any(map(_numeric, rows[0][:2]))  # a title row is in no description, and harmless
    out: dict[int, _Coded] = {}
    for line, row in enumerate(rows[titled:], start=1 + titled):
        if len(row) < 2:
            raise ValueError(f"row {line} has no intensity: copy the file again")
        value = _number(row[1], line)
        _add(out, row, line, ((name, value),) if 0 <= value <= 5 else ())
    return out


def _rows(path: Path) -> list[list[str]]:
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{size:,} bytes are too many for one sequence: restore the file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"it is no CSV text ({error}): restore the file") from error
    if not rows:
        raise ValueError("it is empty: restore the file")
    return rows


def _number(cell: str, line: int) -> float:
    if not cell.strip():
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"row {line} holds {cell[:20]!r}, which is no number: restore the file") from None


def _numeric(cell: str) -> bool:
    try:
        return not math.isnan(float(cell))
    except ValueError:
        return False


def _add(out: dict[int, _Coded], row: list[str], line: int, coded: _Coded) -> None:
    text = row[0].strip()
    if not (text.isdecimal() and len(text) <= 9):
        raise ValueError(
            f"row {line} starts with {text[:20]!r} and not with a frame number: restore the file"
        )
    if int(text) in out:
        raise ValueError(f"row {line} is a second row for frame {text}: restore the file")
    out[int(text)] = coded


def idle(tables: Mapping[tuple[str, str], Files]) -> list[Problem]:
    """A Problem for each sequence that has tables and no frames."""
    return [
        Problem(
            next(iter(files.values())),
            f"{folders.count(len(files), 'AU table')} of {subject}/{task}, which has no frames: restore them",
        )
        for (subject, task), files in sorted(tables.items())
    ]


def count(tables: Mapping[tuple[str, str], Files]) -> str:
    return (
        folders.count(sum(map(len, tables.values())), "AU table")
        if tables
        else "no AU tables (a folder AUCoding beside the subjects)"
    )
