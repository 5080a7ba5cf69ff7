"""The table of labels of 4DME: a CSV in the root, a row a sequence, five columns of classes of which several may be 1.

The five columns are those of the 4DMR challenge (IJCAI 2025). The name of the file and the columns for the sequence, the
subject, the coded frames (onset, apex, offset) and the action units (AU4) are to be confirmed, so some spellings are taken.
"""

import csv
import re
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


@dataclass(frozen=True)
class Row:
    """What the table says of one sequence."""

    subject: str  # empty where the table has no such column
    measures: dict[str, float] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)  # onset, apex, offset as far as coded


def tables(folder: Path) -> list[Path]:
    """The CSV files in `folder` whose first row names the five classes."""
    files = [folder / name for name in with_suffix(file_names(folder), ".csv")]
    return [file for file in files if set(MICRO) <= set(_header(file))]


def key(text: str) -> str:
    """What makes two names of a sequence or a subject the same: its one number, else all of it in lower case."""
    numbers = re.findall(r"\d+", text)
    return str(int(numbers[0])) if len(numbers) == 1 else text.strip().lower()


def read(path: Path) -> tuple[dict[str, list[Row]], list[Problem]]:
    """Rows by the `key` of their sequence, and a Problem for each row that cannot be believed.

    Raises ValueError where the file is no such table.
    """
    header = _header(path)
    lacking = [name for name in MICRO if name not in header]
    if lacking:
        raise ValueError(f"{path}: it has no column {', '.join(lacking)}: give the table of labels of 4DME")
    column = next((name for name in _SEQUENCE if name in header), None)
    if column is None:
        raise ValueError(f"{path}: no column says which sequence a row is for: call it sequence")
    rows: dict[str, list[Row]] = {}
    problems = []
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        for line, cells in enumerate(csv.reader(file, delimiter=_delimiter(path)), start=1):
            if line == 1 or not any(cells):
                continue
            try:
                if len(cells) < len(header):
                    raise ValueError(f"it has {len(cells)} cells and the first row {len(header)}")
                named = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
                rows.setdefault(key(named[column]), []).append(_row(named))
            except ValueError as error:
                problems.append(Problem(path, f"row {line} is left out: {error}: correct the row"))
    return rows, problems


def _row(cells: dict[str, str]) -> Row:
    named = {f"micro_{name}": cells[name] for name in MICRO}
    named |= {name: cell for name, cell in cells.items() if _UNIT.fullmatch(name)}
    measures = dict(measure(name, float(cell)) for name, cell in named.items() if cell)
    marks = {name: int(cells[name]) for name in _MARKS if cells.get(name)}
    if list(marks.values()) != sorted(marks.values()):
        raise ValueError(
            f"{', '.join(f'{name} {number}' for name, number in marks.items())} are out of order"
        )
    return Row(next((cells[name] for name in _SUBJECT if cells.get(name)), ""), measures, marks)


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
