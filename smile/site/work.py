"""From raw frames to the views of one sample; runs in the workers and touches nothing of the site.

V views, C channels, H W image rows and columns.
"""

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import ViewConfig
from ..scans.scan import Frame, Scan
from .limits import worst
from .text import plain

if TYPE_CHECKING:
    from ..geometry import Aligned

DIGITS = 4  # decimals of the figures of quality that are kept, and digits of the measurements


@dataclass(frozen=True)
class Settings:
    """What holds for the whole of a run."""

    views: ViewConfig
    renderer: str  # chosen already: never "auto"
    raw: Path  # left out of every reason
    frames: int = 4  # of a sequence, see sampling.choose
    sampling: str = "middle"
    window: int | None = None  # frames of a window of a long sequence, see sampling.windows
    limits: Mapping[str, float] = field(default_factory=dict)  # see limits.broken
    keep_names: bool = False  # real subjects and files in the tables
    labels: Path | None = None  # the user's table, whose name is private as well


@dataclass(frozen=True, eq=False)
class Sample:
    """What becomes of a scan, or of the frames that make one picture of motion."""

    views: np.ndarray  # (V, C, H, W) uint8
    quality: dict[str, float]
    geometry: dict[str, float]  # of the frame that it stands for, see `measurements.measure`; NaN is left out
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Figures:
    """What becomes of a frame that is measured and not drawn."""

    quality: dict[str, float]
    geometry: dict[str, float]  # as in `Sample`


@dataclass(frozen=True)
class Task:
    """What a worker is handed."""

    frames: tuple[Frame, ...]
    drawn: bool = True  # False: one frame, to be measured only


Outcome = Sample | Figures | str  # of a task; a line that says why there is nothing
Seen = dict[Path, Sample]  # the frames of the sample before: the next one often needs some of them again


def perform(task: Task, settings: Settings, seen: Seen) -> Outcome:
    """What becomes of a task; `seen` is changed to hold the frames of the last sample."""
    if task.drawn:
        return attempt(task.frames, settings, seen)
    (frame,) = task.frames
    known = seen.get(frame.path)
    try:
        return Figures(known.quality, known.geometry) if known else _figures(frame, settings)
    except Exception as error:  # as in `attempt`
        return explain(error, settings.raw)


def attempt(frames: tuple[Frame, ...], settings: Settings, seen: Seen) -> Sample | str:
    """The sample that `frames` make, or one line that says why there is none. `seen` is changed to hold its frames.

    One bad scan must never end the run, so whatever it raises becomes the reason, which names what was not foreseen.
    """
    before = dict(seen)
    seen.clear()
    frame = frames[0]
    try:
        for frame in frames:
            if frame.path not in seen:
                seen[frame.path] = before.get(frame.path) or picture(frame, settings)
        return _combine([seen[frame.path] for frame in frames], settings)
    except Exception as error:
        reason, name = explain(error, settings.raw), explain(ValueError(frame.path), settings.raw)
        return reason if len(frames) == 1 or reason.startswith(name) else f"{name}: {reason}"


def picture(frame: Frame, settings: Settings) -> Sample:
    """Read, align, render and encode one scan, or cut one picture pair. Raises ValueError or OSError."""
    from .. import views

    config = settings.views
    if frame.kind == "pair":
        from ..views.pairs import pair_views

        return Sample(_checked(frame, pair_views(frame.path, config), config), {}, {}, ())
    with warnings.catch_warnings(record=True) as remarks:  # of the readers, about what they mended
        warnings.simplefilter("always", UserWarning)
        aligned = _aligned(frame, settings)
        pictures = views.encode(views.render(aligned.scan, config, renderer=settings.renderer), config)
    said = (explain(ValueError(remark.message), settings.raw) for remark in remarks)
    notes = tuple(dict.fromkeys((*said, *aligned.notes)))
    return Sample(
        _checked(frame, pictures, config), _quality(aligned.quality), _measured(aligned.scan), notes
    )


def _figures(frame: Frame, settings: Settings) -> Figures:
    """The figures of `picture` without the picture. Colours are read too: the points of a face lie by them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        aligned = _aligned(frame, settings)
    return Figures(_quality(aligned.quality), _measured(aligned.scan))


def _aligned(frame: Frame, settings: Settings) -> "Aligned":
    from .. import geometry, scans

    scan = scans.read(frame, need_texture="texture" in settings.views.modalities)
    return geometry.align(scan, radius=settings.views.radius)


def _quality(quality: Mapping[str, float]) -> dict[str, float]:
    figures = {name: round(float(value), DIGITS) for name, value in quality.items()}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _measured(scan: Scan) -> dict[str, float]:
    """What is known of the measurements of an aligned scan. They only describe: a scan that cannot be measured is kept."""
    from .. import face_landmarks, measurements

    try:
        figures = measurements.measure(face_landmarks.find(scan))
    except (ValueError, ArithmeticError, IndexError):
        return {}
    return {name: float(f"{value:.{DIGITS}g}") for name, value in figures.items() if math.isfinite(value)}


def _checked(frame: Frame, pictures: np.ndarray, config: ViewConfig) -> np.ndarray:
    """The pictures, if there is something in every view; in one of the views of a picture pair is enough."""
    assert pictures.dtype == np.uint8, pictures.dtype
    assert pictures.shape == shape(config), pictures.shape
    empty = [yaw for yaw, view in zip(config.yaws, pictures, strict=True) if not view.any()]
    if empty and (frame.kind != "pair" or len(empty) == len(pictures)):
        raise ValueError(f"{frame.path}: the view at {empty[0]:g} degrees is empty: is it a scan of a face?")
    return pictures


def _combine(parts: list[Sample], settings: Settings) -> Sample:
    """One picture of motion; its measurements are those of the frame that it stands for, see `sampling.samples`."""
    if not settings.views.needs_sequence:
        (only,) = parts
        return only
    from .. import motion

    views = motion.of_frames(np.stack([part.views for part in parts]), settings.views)
    if not views.any():
        raise ValueError(f"its {len(parts)} frames have no pixel in common: scan again")
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    stands_for = parts[len(parts) // 2]  # the middle one of a dynamic image, the later one of a pair
    return Sample(views, worst(part.quality for part in parts), stands_for.geometry, tuple(notes))


def shape(config: ViewConfig) -> tuple[int, int, int, int]:
    """(V, C, H, W) of a sample."""
    return (len(config.yaws), config.channels, config.size, config.size)


def explain(error: Exception, raw: Path) -> str:
    """One line for the list of rejected files; paths are given relative to the raw folder."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, ValueError | OSError):
        text = str(error)
    else:
        text = f"unexpected {type(error).__name__}: {error}"
    text = text.replace(f"{raw}{os.sep}", "").replace(str(raw), "the raw folder")
    return plain(" ".join(text.split())) or type(error).__name__
