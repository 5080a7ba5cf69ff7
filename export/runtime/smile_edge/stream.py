"""Frame after frame as they come: one answer a frame, a steadier one over the last frames, and one a window.

W frames of a window, V views, C channels, H W pixels, D joint embedding.
A window is what `smile prepare --window W` makes of a long recording, with all of its frames: the unit in which movements of a
fraction of a second, micro-expressions, are read. Each overlaps half of the last.
"""

import contextlib
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .depth import read_depth
from .model import ExpressionReader
from .views import read_views, reader_module

HALF_LIFE = 5.0  # frames
WINDOW = 16  # frames
SETTLED = 0.2  # seconds without a change after which a file is taken to be whole
EMPTY = 2.0  # the same for a file without a byte: its writer has only begun
POLL = 0.05  # seconds
SCANS = (".wrl", ".bnt", ".abs", ".gz", ".obj", ".ply", ".stl", ".glb", ".gltf", ".off", ".xyz", ".pcd")
_DEPTH = re.compile(r"(.+[_.-]depth|depth[_-].+)\.(png|tiff?)", re.IGNORECASE)


class Smoother:
    """Exponentially weighted mean of probabilities: a frame that is `half_life` frames old counts half."""

    def __init__(self, half_life: float = HALF_LIFE) -> None:
        self.half_life = half_life
        self._decay = 0.5 ** (1 / half_life)
        self._sums: dict[str, float] = {}
        self._weight = 0.0

    def add(self, probabilities: dict[str, float] | None) -> dict[str, float]:
        """The mean with this frame, largest first; None for a frame that could not be read, which only makes the others older."""
        self._weight *= self._decay
        self._sums = {name: value * self._decay for name, value in self._sums.items()}
        if probabilities is not None:
            self._weight += 1
            for name, value in probabilities.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        means = {name: value / self._weight for name, value in self._sums.items()}
        return dict(sorted(means.items(), key=lambda item: -item[1]))


class Windows:
    """Sliding windows over the frames of one stream, read as the model was trained to see motion."""

    def __init__(self, reader: ExpressionReader, length: int = WINDOW) -> None:
        spec = reader.manifest["preprocessing"]
        self._reader, self.length, self._count = reader, length, 0
        self._motion = None  # module and settings that turn frames into a picture of their motion
        if spec["motion"] != "frames" or spec["magnify"] != 1:
            self._motion = reader_module(reader.bundle, "motion")
            self._settings = reader_module(reader.bundle, "config").ViewConfig(
                yaws=tuple(spec["yaws"]),
                size=spec["size"],
                radius=spec["radius"],
                modalities=tuple(spec["modalities"]),
                motion=spec["motion"],
                magnify=spec["magnify"],
            )
        # Views where motion is computed from them, else embeddings: these are small.
        self._last: deque[tuple[str, np.ndarray]] = deque(maxlen=length)

    def add(self, name: str, views: np.ndarray) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """A frame (V, C, H, W) -> its own answer and that of the window which it completes, each None where there is none.

        Where the model sees motion, a frame's own answer is its motion since the oldest of the last W frames.
        """
        own = None
        if self._motion is None:
            embedding = self._reader.embed(views)[0]
            self._last.append((name, embedding))
            own = self._reader.classify(embedding)
        else:
            self._last.append((name, views))
            if len(self._last) > 1:
                picture = self._pictures(np.stack([v for _, v in self._last]))[-1]
                own = self._reader.classify(self._reader.embed(picture)[0]) if picture.any() else None
        self._count += 1
        done = self._count - self.length
        step = self.length - self.length // 2
        return own, self._window() if done >= 0 and done % step == 0 else None

    def _window(self) -> dict[str, Any] | None:
        """The answer of the mean embedding, as `sequence` of the manifest says."""
        rows = np.stack([row for _, row in self._last])
        if self._motion is not None:
            pictures = self._pictures(rows)
            pictures = pictures[pictures.any(axis=(1, 2, 3, 4))]
            if not len(pictures):
                return None
            rows = self._reader.embed(pictures)
        return {
            "first": self._last[0][0],
            "last": self._last[-1][0],
            "frames": len(self._last),
            **self._reader.classify(rows.mean(axis=0)),
        }

    def _pictures(self, stack: np.ndarray) -> np.ndarray:
        """Frames (T, V, C, H, W) -> the pictures that stand for them, (n, V, C, H, W); the first frame is the onset."""
        assert self._motion is not None
        if self._settings.motion == "dynamic":
            return self._motion.of_frames(stack, self._settings)[None]
        # The onset differs in nothing from itself; magnified, it is still a picture of a face.
        first = 1 if self._settings.motion == "difference" else 0
        return np.stack(
            [self._motion.of_frames(stack[[0, t]], self._settings) for t in range(first, len(stack))]
        )


def answers(
    reader: ExpressionReader,
    paths: Iterator[Path],
    *,
    half_life: float = HALF_LIFE,
    window: int = WINDOW,
    intrinsics: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """One plain dict a frame, in their order: `frame` (from 0), `input`, and its answer or `error`.

    `expression` and `probabilities` are the frame's own; `smoothed` those of the last frames; `window` is there with the frame
    that completes one. intrinsics: of the camera, where frames are depth images.
    """
    # Frames come as they are; what the model sees of their motion is made here.
    spec = {**reader.manifest["preprocessing"], "motion": "frames", "magnify": 1.0}
    smoother, windows = Smoother(half_life), Windows(reader, window)
    for number, path in enumerate(paths):
        answer: dict[str, Any] = {"frame": number, "input": str(path)}
        try:
            views, milliseconds = _read(path, reader.bundle, spec, intrinsics)
            if len(views) != 1:
                raise ValueError(f"{path} holds {len(views)} frames: a stream takes one a file")
            start = time.perf_counter()
            own, whole = windows.add(path.name, views[0])
        except (ValueError, MemoryError, OSError) as error:
            smoother.add(None)
            yield {
                **answer,
                "error": str(error) or f"{path} does not fit into the memory: give smaller scans",
            }
            continue
        milliseconds["engine"] = 1e3 * (time.perf_counter() - start)
        smoothed = smoother.add(own["probabilities"] if own else None)
        if smoothed:
            best = next(iter(smoothed))
            answer |= own or {}
            answer["smoothed"] = {"expression": best, "probabilities": smoothed, "half_life": half_life}
        if whole:
            answer["window"] = whole
        yield {**answer, "milliseconds": milliseconds}


def _read(
    path: Path, bundle: Path, spec: dict[str, Any], intrinsics: Path | None
) -> tuple[np.ndarray, dict[str, float]]:
    if intrinsics is None:
        return read_views(path, bundle, spec)
    colour, rgbd = None, reader_module(bundle, "scans.rgbd")
    if "texture" in spec["modalities"] and path.is_file() and rgbd.stem_of(path) is not None:
        beside = rgbd.frame(
            path, top=path.parent, look=lambda folder: {**rgbd.look(folder), "camera.json": intrinsics}
        )
        colour = beside.texture
    return read_depth(path, bundle, spec, intrinsics=intrinsics, colour=colour)


def watch(folder: Path, *, idle: float | None = None) -> Iterator[Path]:
    """The frames in a folder in the order of their names (2 before 10), those that are there and those that come.

    A frame is a scan, an .npy, or an image named as depth is (`face_0001_depth.png`). It is taken once it no longer changes; the
    frames after it wait. One that comes after a later name was taken is left out, with a sentence on standard error. Ends
    after `idle` seconds without a frame, or never. Raises ValueError when the folder cannot be read.
    """
    done: set[str] = set()
    last: list[Any] = []
    seen: dict[
        str, tuple[tuple[int, int], float]
    ] = {}  # name -> size and time of change, and since when they hold
    busy = time.monotonic()
    while True:
        found, now = _frames(folder, done), time.monotonic()
        done &= found.keys()
        seen = {
            name: seen[name] if name in seen and seen[name][0] == state else (state, now)
            for name, state in found.items()
            if state is not None
        }
        for name in sorted(seen, key=_order):
            (size, _), since = seen[name]
            if _order(name) < last:
                print(
                    f"{name} came after a later frame and is left out: write frames in order", file=sys.stderr
                )
            elif now - since < (SETTLED if size else EMPTY):
                break
            else:
                last = _order(name)
                yield folder / name
            done.add(name)
            busy = time.monotonic()
        if idle is not None and not seen.keys() - done and time.monotonic() - busy >= idle:
            return
        time.sleep(POLL)


def inputs_of(folder: Path) -> list[Path]:
    """What can be read in a folder as it is now, in the order of names (2 before 10). Raises ValueError where nothing can."""
    found = [folder / name for name in sorted(_frames(folder), key=_order)]
    if not found:
        raise ValueError(
            f"{folder} holds nothing to read: give a folder of scans, views as .npy or depth images"
        )
    return found


def _frames(folder: Path, done: Set[str] = frozenset()) -> dict[str, tuple[int, int] | None]:
    """Name -> size and time of the last change, of each frame in the folder; None for those in `done`, at no cost."""
    found: dict[str, tuple[int, int] | None] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in done:
                    found[entry.name] = None
                elif not entry.name.startswith(".") and _is_frame(folder, entry.name):
                    with contextlib.suppress(FileNotFoundError):  # renamed or removed since
                        state = entry.stat()
                        found[entry.name] = (state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be read ({error.strerror}): give a folder of frames, or -"
        ) from None
    return found


def _is_frame(folder: Path, name: str) -> bool:
    if name.lower().endswith((".npy", *SCANS)):
        return True
    image = name.lower().endswith((".png", ".tif", ".tiff"))
    return image and (folder.name.lower() == "depth" or _DEPTH.fullmatch(name) is not None)


def _order(name: str) -> list[Any]:
    """Text and numbers in turn, so that frame 2 comes before frame 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]


def lines(stream: TextIO) -> Iterator[Path]:
    """One path a line, each as soon as its line is whole."""
    for line in iter(stream.readline, ""):
        if line.strip():
            yield Path(line.rstrip("\r\n"))
