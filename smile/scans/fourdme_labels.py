"""The table of labels of 4DME: a CSV in the root, a row a sequence, five columns of classes of which several may be 1.

The five columns are those of the 4DMR challenge (IJCAI 2025). The name of the file and the columns for the sequence, the
subject, the coded frames (onset, apex, offset) and the action units (AU4) are to be confirmed, so some spellings are taken.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..labels import MICRO, measure
from .numbered import file_names, with_suffix
from .scan import Problem

LARGEST = 1 << 26  # bytes
_SEQUENCE = ("sequence", "sequence_id", "seq", "seq_id", "id", "clip", "video", "name", "filename")
_SUBJECT = ("subject", "subject_id", "sub", "participant")
_MARKS = ("onset", "apex", "offset")
_UNIT = re.compile(r"au_?\d{1,2}[lr]?(_intensity)?")
_SPREADSHEET = re.compile(r"(\d+)\.0+")  # how a spreadsheet writes the number of a person or a sequence


@dataclass(frozen=True)
class Row:
    """What the table says of one sequence."""

    line: int
    sequence: str
    subject: str  # empty where the table has no such column
    measures: dict[str, float] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)  # onset, apex, offset as far as coded


def tables(folder: Path) -> list[Path]:
    """The CSV files in `folder` whose first row names the five classes."""
    files = [folder / name for name in with_suffix(file_names(folder), ".csv")]
    return [file for file in files if set(MICRO) <= set(_header(file))]


def key(text: str) -> tuple[str, str]:
    """(letters, number) of the name of a sequence or a person, `F001` and `f_1` -> ("f", "1"); (name, "") without one number."""
    text = text.strip().casefold()
    numbers = re.findall(r"\d+", text)
    if len(numbers) != 1:
        return text, ""
    return re.sub(r"[\W\d_]+", "", text), numbers[0].lstrip("0") or "0"


def same(one: str, other: str) -> bool:
    """Whether two names may mean one thing: `1`, `S01` and `sub_1` may, `F001` and `M001` or `micro_1` and `macro_1` not."""
    (a, number), (b, second) = key(one), key(other)
    return number == second and (a == b or (bool(number) and (a.startswith(b) or b.startswith(a))))


def assign(
    rows: Iterable[Row], people: Mapping[Path, str]
) -> tuple[dict[Path, Row], dict[Path, str], list[Row]]:
    """(the row of each sequence that has one, why others cannot have theirs, the rows that fit no sequence).

    people: folder of a sequence -> the person that its path names, or "". A name in full counts before its number alone.
    """
    by_number, alike = defaultdict(list), defaultdict(set)
    for row in rows:
        by_number[key(row.sequence)[1]].append(row)
    for place, person in people.items():
        alike[key(person), key(place.name)[1]].add(place.name.casefold())
    unused = {row.line: row for same_number in by_number.values() for row in same_number}
    chosen: dict[Path, Row] = {}
    refused: dict[Path, str] = {}
    for place, person in people.items():
        named = [row for row in by_number[key(place.name)[1]] if same(row.sequence, place.name)]
        fitting = [row for row in named if not (person and row.subject) or same(row.subject, person)]
        for row in fitting:
            unused.pop(row.line, None)
        exact = [row for row in fitting if row.sequence.casefold() == place.name.casefold()]
        others = alike[key(person), key(place.name)[1]]
        if named and not fitting:
            names = " and ".join(sorted({row.subject for row in named}))
            refused[place] = (
                f"its folder says {person} and its row in the labels {names}: correct or add the row"
            )
        elif fitting and not exact and len(others) > 1:
            names = " and ".join(sorted(others))
            refused[place] = f"{names} have one number: write the names of these folders into the labels"
        elif len(exact or fitting) > 1:
            number = len(exact or fitting)
            refused[place] = f"{number} rows of the labels are for this sequence: name each once"
        elif fitting:
            chosen[place] = (exact or fitting)[0]
    places = defaultdict(list)
    for place, row in chosen.items():
        places[row.line].append(place)
    for line, several in places.items():
        if len(several) > 1:
            names = " and ".join("/".join(place.parts[-2:]) for place in several)
            for place in several:
                del chosen[place]
                refused[place] = (
                    f"row {line} of the labels fits {names}: give each its own row with the subject"
                )
    return chosen, refused, list(unused.values())


def read(path: Path) -> tuple[list[Row], list[Problem]]:
    """The rows, and a Problem for each that cannot be believed.

    Raises ValueError where the file is no such table.
    """
    header = _header(path)
    lacking = [name for name in MICRO if name not in header]
    if lacking:
        raise ValueError(f"{path}: it has no column {', '.join(lacking)}: give the table of labels of 4DME")
    column = next((name for name in _SEQUENCE if name in header), None)
    if column is None:
        raise ValueError(f"{path}: no column says which sequence a row is for: call it sequence")
    rows: list[Row] = []
    problems = []
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        for line, cells in enumerate(csv.reader(file, delimiter=_delimiter(path)), start=1):
            if line == 1 or not any(cells):
                continue
            try:
                if len(cells) < len(header):
                    raise ValueError(f"it has {len(cells)} cells and the first row {len(header)}")
                named = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
                rows.append(_row(line, _id(named[column]), named))
            except ValueError as error:
                problems.append(Problem(path, f"row {line} is left out: {error}: correct the row"))
    return rows, problems


def _row(line: int, sequence: str, cells: dict[str, str]) -> Row:
    measures = dict(measure(f"micro_{name}", float(cells[name])) for name in MICRO if cells[name])
    measures |= _units({name: float(cell) for name, cell in cells.items() if cell and _UNIT.fullmatch(name)})
    marks = {name: _whole(name, cells[name]) for name in _MARKS if cells.get(name)}
    if list(marks.values()) != sorted(marks.values()):
        raise ValueError(
            f"{', '.join(f'{name} {number}' for name, number in marks.items())} are out of order"
        )
    subject = next((cells[name] for name in _SUBJECT if cells.get(name)), "")
    return Row(line, sequence, _id(subject), measures, marks)


def _units(values: dict[str, float]) -> dict[str, float]:
    """Action units; 9 and whatever else is out of range is not coded."""
    found: dict[str, float] = {}
    for name, value in values.items():
        with suppress(ValueError):
            found |= [measure(name, value)]
    return found


def _id(cell: str) -> str:
    match = _SPREADSHEET.fullmatch(cell)
    return match[1] if match else cell


def _whole(name: str, cell: str) -> int:
    """A frame number, also as spreadsheets write it (`12.0`)."""
    if not float(cell).is_integer():
        raise ValueError(f"{name} = {cell[:20]!r} is no frame number")
    return int(float(cell))


def _first_line(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        return ""
    with path.open("rb") as file:
        return file.readline(1 << 16).decode("utf-8-sig", "replace")


def _delimiter(path: Path) -> str:
    line = _first_line(path)
    return max(",;\t", key=line.count)


def _header(path: Path) -> list[str]:
    """The names of the columns in lower case; empty for what is no table."""
    cells = _first_line(path).strip().split(_delimiter(path))
    return [cell.strip().strip('"').lower() for cell in cells]
