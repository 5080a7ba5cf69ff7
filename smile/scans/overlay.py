"""A site's own CSV of labels (`--labels`) laid over the listing of a data set that has labels of its own, or none."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from . import labels_csv
from .folders import count
from .labels_csv import Labels, Row
from .scan import Frame, Listing, Options, Problem, Sequence

T = TypeVar("T")


def lay_over(listing: Listing, folder: Path, options: Options) -> Listing:
    """The listing with what the lines of the CSV say: of a scan, of a frame, or of the folder that holds one sequence alone.

    A line wins over the data set; an empty `expression` takes the label away, unless it stands beside a frame of several. A
    line that fits nothing, names another person than the data set or contradicts another line about the same sequence
    becomes a Problem, and its scan stays as it was. Raises ValueError for a CSV that cannot be read.
    """
    assert options.labels is not None
    labels = labels_csv.read(options.labels)
    used: set[str] = set()
    problems = list(listing.problems)
    holders = Counter(place for s in listing.sequences for place in {f.path.parent for f in s.frames})
    alone = {place for place, number in holders.items() if number == 1}
    sequences = []
    for sequence in listing.sequences:
        try:
            sequences.append(_labelled(sequence, folder, labels, options, used, alone))
        except ValueError as error:
            problems.append(Problem(sequence.frames[0].path, str(error)))
            sequences.append(sequence)
    problems += labels_csv.unused(folder, labels, used)
    why = f"{listing.why}; {count(len(used), 'line')} of {labels.path.name} laid over it"
    return dataclasses.replace(listing, why=why, sequences=tuple(sequences), problems=tuple(problems))


def _labelled(
    sequence: Sequence, folder: Path, labels: Labels, options: Options, used: set[str], alone: set[Path]
) -> Sequence:
    files = [_key(frame.path, folder) for frame in sequence.frames]
    above = [_key(place, folder) for place in sorted({f.path.parent for f in sequence.frames} & alone)]
    places = list(dict.fromkeys(files + above))
    used.update(place for place in places if place in labels.rows or place in labels.bad)
    for place in places:
        if place in labels.bad:
            raise ValueError(labels.bad[place])
    rows = [labels.rows[place] for place in places if place in labels.rows]
    whole = [labels.rows[p] for p in (above if len(files) > 1 else places) if p in labels.rows]
    for row in rows:
        if row.subject and row.subject.strip().upper() != sequence.subject.upper():
            raise ValueError(
                f"line {row.line} of {labels.path.name} says subject {row.subject!r} and the data set "
                f"{sequence.subject!r}: correct the line"
            )
    stated = [(row, options.expression(row.expression)) for row in rows if row.expression]
    label = sequence.label
    if stated or (whole and labels.has_expression):
        label = _agreed("expression", stated, labels)
    marks: dict[str, Any] = {}
    for name in ("onset", "apex", "offset"):
        values = [(row, value) for row in rows if (value := getattr(row, name)) is not None]
        marks[name] = _agreed(name, values, labels) if values else getattr(sequence, name)
    measures = dict(sequence.measures)
    for row in reversed(whole):  # the line of a scan wins over that of its folder
        measures |= row.measures
    frames = tuple(_measured(f, labels.rows.get(k)) for f, k in zip(sequence.frames, files, strict=True))
    return dataclasses.replace(sequence, label=label, frames=frames, measures=measures, **marks)


def _agreed(name: str, stated: list[tuple[Row, T]], labels: Labels) -> T | None:
    """What all lines about one sequence say of it; None where none says anything."""
    for row, value in stated:
        first, before = stated[0]
        if value != before:
            raise ValueError(
                f"lines {first.line} and {row.line} of {labels.path.name} say {name} {before} and {value} of one sequence: "
                "correct one of them"
            )
    return stated[0][1] if stated else None


def _measured(frame: Frame, row: Row | None) -> Frame:
    return frame if row is None else dataclasses.replace(frame, measures={**frame.measures, **row.measures})


def _key(path: Path, folder: Path) -> str:
    return labels_csv.key(path.relative_to(folder).as_posix())
