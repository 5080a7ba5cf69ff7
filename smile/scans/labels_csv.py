"""A site's own CSV of labels (`--labels`) -> one `Row` for each scan, or folder of frames, that it names.

Columns: `file` (path below the raw folder, of a scan or of a folder of numbered frames), and any of `subject`, `expression`
(empty: no label), `sequence` and `frame` (scans of one sequence and their order), `onset`, `apex`, `offset` (frame numbers)
and measures such as AU12, AU12_intensity, pain, valence, micro_surprise (empty: not coded).
"""

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

from ..labels import measure
from .scan import Problem

COLUMNS = ("file", "subject", "expression", "sequence", "frame", "onset", "apex", "offset")
MEASURES = "AU12, AU12_intensity, pain, valence, arousal, micro_surprise"
LARGEST = 1 << 28  # bytes


@dataclass(frozen=True)
class Row:
    """What one line says about one file or folder."""

    line: int
    file: str  # as written
    subject: str | None = None
    expression: str | None = None  # the word as written; None: no label
    sequence: str | None = None
    frame: int | None = None
    onset: int | None = None
    apex: int | None = None
    offset: int | None = None
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """The whole file."""

    path: Path
    has_expression: bool  # whether there is such a column, so that an empty cell means "no label"
    rows: dict[str, Row]  # by `key(file)`
    bad: dict[str, str]  # `key(file)` of a line that cannot be used -> why


def key(file: str) -> str:
    """A path below the raw folder in the one form that is compared: forward slashes, lower case."""
    parts = [part for part in file.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    return "/".join(parts).lower()


def read(path: Path) -> Labels:
    """The labels in a UTF-8 CSV with commas, semicolons or tabs.

    Raises ValueError for a file or a column that is not understood; a line that is not goes into `bad`.
    """
    path = Path(path)
    text = _text(path)
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        table = [
            (n, row)
            for n, row in enumerate(csv.reader(io.StringIO(text), delimiter=delimiter), 1)
            if any(row)
        ]
    except csv.Error as error:
        raise ValueError(
            f"{path}: the labels are no CSV ({error}): save the table as CSV in UTF-8"
        ) from error
    if not table:
        raise ValueError(
            f"{path}: the labels are empty: give a column file and any of {', '.join(COLUMNS[1:])}"
        )
    names = _header(path, table[0][1])
    rows: dict[str, Row] = {}
    bad: dict[str, str] = {}
    for line, cells in table[1:]:
        values = {name: cell.strip() for name, cell in zip(names, cells, strict=False) if cell.strip()}
        place = key(values.get("file", ""))
        if not place:
            bad[f"line {line}"] = f"line {line} of {path.name} names no file: fill in the column file"
        elif place in rows or place in bad:
            before = f" (line {rows.pop(place).line})" if place in rows else ""
            bad[place] = (
                f"line {line} of {path.name} names {values['file']!r} again{before}: keep one of the two"
            )
        else:
            try:
                rows[place] = _row(line, values, surplus=any(cells[len(names) :]), comma=delimiter == ";")
            except ValueError as error:
                bad[place] = f"line {line} of {path.name}: {error}"
    return Labels(path, "expression" in names, rows, bad)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path}: the labels are too large for a CSV of labels: check the path")
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise ValueError(
            f"{path}: the labels cannot be read ({error.strerror or error}): check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} of the labels is not UTF-8: save the table as 'CSV UTF-8'"
        ) from error


def _header(path: Path, cells: list[str]) -> list[str]:
    """Canonical names of the columns."""
    names = []
    for cell in cells:
        name = cell.strip().lower()
        if name not in COLUMNS and name:
            try:
                name = measure(name, math.nan)[0]
            except ValueError:
                raise ValueError(
                    f"{path}: column {cell.strip()!r} is unknown: use {', '.join(COLUMNS)} or a measure such as {MEASURES}"
                ) from None
        if name and name in names:
            raise ValueError(f"{path}: column {cell.strip()!r} is there twice: take one of the two away")
        names.append(name)
    if "file" not in names:
        raise ValueError(
            f"{path}: it has no column 'file': name the scan of each line there, relative to the raw folder"
        )
    return names


def _row(line: int, values: dict[str, str], *, surplus: bool, comma: bool) -> Row:
    if surplus:
        raise ValueError(
            "it has more cells than the first line has names: put cells that hold the delimiter in quotes"
        )
    measures = {}
    for name in values:
        if name and name not in COLUMNS:
            written = values[name].replace(",", ".") if comma else values[name]
            try:
                number = float(written)
            except ValueError:
                raise ValueError(
                    f"{name} is {values[name]!r} and no number: leave it empty if not coded"
                ) from None
            canonical, number = measure(name, number)
            if not math.isnan(number):
                measures[canonical] = number
    whole = {name: _whole(name, values[name]) for name in COLUMNS[4:] if name in values}
    marks = [whole[name] for name in COLUMNS[5:] if name in whole]
    if marks != sorted(marks):
        raise ValueError(
            f"onset, apex and offset are {', '.join(map(str, marks))}: they must follow in this order"
        )
    subject, word, sequence = (values.get(name) for name in ("subject", "expression", "sequence"))
    return Row(line, values["file"], subject, word, sequence, measures=measures, **whole)


def _whole(name: str, text: str) -> int:
    number = text.removesuffix(".0")  # spreadsheets turn whole numbers of a column with gaps into these
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise ValueError(
            f"{name} is {text!r} and no frame number: give a whole number from 0 or leave it empty"
        )
    return int(number)


def unused(folder: Path, labels: Labels, used: set[str]) -> list[Problem]:
    """Lines of the CSV that name no scan."""
    out = []
    for key, reason in labels.bad.items():
        if key not in used:
            out.append(Problem(labels.path if key.startswith("line ") else folder / key, reason))
    for key, row in labels.rows.items():
        if key not in used:
            reason = f"line {row.line} of {labels.path.name} names {row.file!r}, and no scan of that name is there: restore or correct it"
            out.append(Problem(folder / row.file.replace("\\", "/"), reason))
    return out
