"""From raw frames to views, one chunk at a time; runs in the workers and touches nothing of the site.

V views, C channels, H W image rows and columns.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config import ViewConfig
from ..scans.scan import Frame


@dataclass(frozen=True)
class Settings:
    """What holds for the whole of a run."""

    views: ViewConfig
    renderer: str  # chosen already: never "auto"
    raw: Path  # left out of every reason
    frames: int = 4  # of a sequence, see plan.select
    keep_names: bool = False  # real subjects and files in the tables


@dataclass(frozen=True)
class Task:
    """One chunk to work on."""

    frames: tuple[Frame, ...]
    retry: tuple[int, ...] = ()  # positions an earlier run set aside; if there are any, the others are done
    fatal: dict[int, str] = field(default_factory=dict)  # positions that ended a worker process, and how

    @property
    def scans(self) -> int:
        """How many are to be worked on."""
        return len(self.retry or self.frames)


@dataclass(frozen=True, eq=False)
class Result:
    """What became of a chunk."""

    views: np.ndarray | None  # (n, V, C, H, W) uint8; None: all that was tried again failed again
    positions: tuple[int, ...]  # of the n scans in the chunk
    rejected: dict[int, str]  # position -> reason


def run_task(task: Task, settings: Settings, *, at: Callable[[int], None]) -> Result:
    """Prepare the scans of a chunk; `at(position)` is called before each. A scan that fails is set aside."""
    done: dict[int, np.ndarray] = {}
    rejected = dict(task.fatal)
    rest = [position for position in range(len(task.frames)) if position not in task.retry]
    for position in (*task.retry, *rest):
        if task.retry and not done and position in rest:
            break
        if position in rejected:
            continue
        at(position)
        try:
            done[position] = sample(task.frames[position], settings)
        except (
            Exception
        ) as error:  # one bad scan must never end the run; its reason names what was not foreseen
            rejected[position] = explain(error, settings.raw)
    if task.retry and not done:
        return Result(None, (), rejected)
    positions = tuple(sorted(done))
    views = np.empty(_shape(settings, len(done)), np.uint8)
    for row, position in enumerate(positions):
        views[row] = done[position]
    return Result(views, positions, rejected)


def sample(frame: Frame, settings: Settings) -> np.ndarray:
    """Read, align, render and encode one scan -> (V, C, H, W) uint8. Raises ValueError or OSError."""
    from .. import geometry, scans, views

    config = settings.views
    scan = scans.read(frame, need_texture="texture" in config.modalities)
    aligned = geometry.align(scan, radius=config.radius).scan
    pictures = views.encode(views.render(aligned, config, renderer=settings.renderer), config)
    assert pictures.dtype == np.uint8, pictures.dtype
    assert (1, *pictures.shape) == _shape(settings, 1), pictures.shape
    for yaw, picture in zip(config.yaws, pictures, strict=True):
        if not picture.any():
            raise ValueError(f"{frame.path}: the view at {yaw:g} degrees is empty: is it a scan of a face?")
    return pictures


def _shape(settings: Settings, scans: int) -> tuple[int, ...]:
    config = settings.views
    return (scans, len(config.yaws), config.channels, config.size, config.size)


def explain(error: Exception, raw: Path) -> str:
    """One line for the list of rejected files; paths are given relative to the raw folder."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, ValueError | OSError):
        text = str(error)
    else:
        text = f"unexpected {type(error).__name__}: {error}"
    text = text.replace(f"{raw}{os.sep}", "").replace(str(raw), "the raw folder")
    return " ".join(text.split()) or type(error).__name__
