"""Which frames stand for a sequence: windows of a long one, then frames from its middle, its whole length or its apex."""

import dataclasses
import math
import re

from ..config import ViewConfig
from ..scans.scan import Frame, Sequence

SAMPLINGS = ("middle", "uniform", "apex")
_INTENSITY = re.compile(r"AU\d{2}[LR]?_intensity")


def windows(sequence: Sequence, length: int | None) -> list[Sequence]:
    """The sequence, or where it is longer than `length` frames its windows of that many, each overlapping half of the last.

    The last window ends with the sequence, so every frame is in one. A window is called NAME@START (the place of its first
    frame), keeps subject, label and measures, and those of onset, apex and offset that lie in it.
    """
    if length is None or len(sequence.frames) <= length:
        return [sequence]
    return [_window(sequence, start, length) for start in starts(len(sequence.frames), length)]


def starts(count: int, length: int | None) -> list[int]:
    """Places of the first frames of the windows of `windows`, in a sequence of `count` frames."""
    if length is None or count <= length:
        return [0]
    return [*range(0, count - length, max(1, length - length // 2)), count - length]


def _window(sequence: Sequence, start: int, length: int) -> Sequence:
    frames = sequence.frames[start : start + length]
    first, last = frames[0].number, frames[-1].number

    def inside(number: int | None) -> int | None:
        return number if number is not None and first <= number <= last else None

    return dataclasses.replace(
        sequence,
        name=f"{sequence.name}@{start}",
        frames=frames,
        onset=inside(sequence.onset),
        apex=inside(sequence.apex),
        offset=inside(sequence.offset),
    )


def choose(sequence: Sequence, frames: int, sampling: str) -> list[int]:
    """Positions of the frames that stand for the sequence, in order; all of them where it has no more than `frames`.

    `apex` takes neighbours of the apex between onset and offset, and fewer than `frames` where these are closer together.
    """
    if sampling == "apex":
        return around_apex(sequence, frames)
    return (uniform if sampling == "uniform" else middle)(len(sequence.frames), frames)


def middle(length: int, frames: int) -> list[int]:
    """Positions of `frames` frames of `length`; all of them if it has no more.

    Posed 4D sets (BU-4DFE) go neutral, onset, apex, offset, neutral: the label fits the middle half only, so
    the frames are the centres of `frames` equal parts of it. A half with fewer frames than that grows.
    """
    if length <= frames:
        return list(range(length))
    window = max(frames, (length + 1) // 2)
    start = (length - window) // 2
    return [start + (2 * k + 1) * window // (2 * frames) for k in range(frames)]


def uniform(length: int, frames: int) -> list[int]:
    """The centres of `frames` equal parts of the whole length; all positions if there are no more."""
    if length <= frames:
        return list(range(length))
    return [(2 * k + 1) * length // (2 * frames) for k in range(frames)]


def around_apex(sequence: Sequence, frames: int) -> list[int]:
    """The `frames` positions around the apex, within onset..offset where these are coded."""
    low, high = 0, len(sequence.frames) - 1
    if sequence.onset is not None:
        low = _nearest(sequence, sequence.onset)
    if sequence.offset is not None:
        high = max(low, _nearest(sequence, sequence.offset))
    if high - low < frames:
        return list(range(low, high + 1))
    start = min(max(_apex(sequence, low, high) - frames // 2, low), high + 1 - frames)
    return list(range(start, start + frames))


def _apex(sequence: Sequence, low: int, high: int) -> int:
    """The coded apex, else the frame with the largest sum of AU intensities, else the one in the middle of low..high."""
    if sequence.apex is not None:
        return _nearest(sequence, sequence.apex)
    sums = [_intensity(frame) for frame in sequence.frames[low : high + 1]]
    greatest = max(sums)
    if greatest <= 0:
        return (low + high) // 2
    best = [low + place for place, value in enumerate(sums) if value == greatest]
    return best[len(best) // 2]


def _intensity(frame: Frame) -> float:
    return sum(
        value
        for name, value in frame.measures.items()
        if _INTENSITY.fullmatch(name) and not math.isnan(value)
    )


def _nearest(sequence: Sequence, number: int) -> int:
    """Position of the frame with this number, or of the one nearest to it where it is missing."""
    return min(range(len(sequence.frames)), key=lambda place: abs(sequence.frames[place].number - number))


def samples(
    sequence: Sequence, views: ViewConfig, *, frames: int, sampling: str
) -> list[tuple[int, tuple[int, ...]]]:
    """(position that the sample stands for, positions that it is made of) for each sample of a sequence.

    dynamic: one sample of all chosen frames, which stands for the middle one. difference and magnified frames: each chosen
    frame after the onset (the first frame where none is coded); the onset itself shows no difference and is no sample.
    A sequence that is too short for it gives none.
    """
    chosen = choose(sequence, frames, sampling)
    if not views.needs_sequence:
        return [(position, (position,)) for position in chosen]
    if len(sequence.frames) < 2 or (views.motion == "dynamic" and len(chosen) < 2):
        return []
    if views.motion == "dynamic":
        return [(chosen[len(chosen) // 2], tuple(chosen))]
    onset = 0 if sequence.onset is None else _nearest(sequence, sequence.onset)
    moved = [position for position in chosen if position != onset or views.motion == "frames"]
    farthest = max(range(len(sequence.frames)), key=lambda position: abs(position - onset))
    return [(position, (onset, position)) for position in moved or [farthest]]
