"""A site's own CSV of labels (`--labels`) laid over the listing of a data set that has labels of its own, or none."""

import dataclasses
from pathlib import Path

from . import labels_csv
from .folders import count
from .labels_csv import Labels
from .scan import Frame, Listing, Options, Problem, Sequence


def lay_over(listing: Listing, folder: Path, options: Options) -> Listing:
    """The listing with what the lines of the CSV say: of a scan, of a frame, or of the folder of a sequence.

    A line wins over the data set; an empty `expression` takes the label away. A line that fits nothing, or that names another
    person than the data set, becomes a Problem, and its scan stays as it was. Raises ValueError for a CSV that cannot be read.
    """
    assert options.labels is not None
    labels = labels_csv.read(options.labels)
    used: set[str] = set()
    problems = list(listing.problems)
    sequences = []
    for sequence in listing.sequences:
        try:
            sequences.append(_labelled(sequence, folder, labels, options, used))
        except ValueError as error:
            problems.append(Problem(sequence.frames[0].path, str(error)))
            sequences.append(sequence)
    problems += labels_csv.unused(folder, labels, used)
    why = f"{listing.why}; {count(len(used), 'line')} of {labels.path.name} laid over it"
    return dataclasses.replace(listing, why=why, sequences=tuple(sequences), problems=tuple(problems))


def _labelled(sequence: Sequence, folder: Path, labels: Labels, options: Options, used: set[str]) -> Sequence:
    frames = tuple(_frame(frame, folder, labels, used) for frame in sequence.frames)
    first = sequence.frames[0].path
    place = _key(first.parent if len(frames) > 1 else first, folder)
    row = labels.rows.get(place)
    if row is None:
        return dataclasses.replace(sequence, frames=frames)
    used.add(place)
    if row.subject and row.subject.strip().upper() != sequence.subject.upper():
        raise ValueError(
            f"line {row.line} of {labels.path.name} says subject {row.subject!r} and the data set {sequence.subject!r}: "
            "correct the line"
        )
    label = sequence.label
    if labels.has_expression:
        label = options.expression(row.expression) if row.expression else None
    return dataclasses.replace(
        sequence,
        label=label,
        frames=frames,
        measures={**sequence.measures, **row.measures},
        onset=sequence.onset if row.onset is None else row.onset,
        apex=sequence.apex if row.apex is None else row.apex,
        offset=sequence.offset if row.offset is None else row.offset,
    )


def _frame(frame: Frame, folder: Path, labels: Labels, used: set[str]) -> Frame:
    place = _key(frame.path, folder)
    if place in labels.bad:
        used.add(place)
        raise ValueError(labels.bad[place])
    row = labels.rows.get(place)
    if row is None:
        return frame
    used.add(place)
    return dataclasses.replace(frame, measures={**frame.measures, **row.measures})


def _key(path: Path, folder: Path) -> str:
    return labels_csv.key(path.relative_to(folder).as_posix())
