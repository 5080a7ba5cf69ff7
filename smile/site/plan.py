"""What is to be prepared: which frames, in which chunks, and the key that tells whether a chunk is done."""

import dataclasses
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ViewConfig
from ..scans.scan import Frame, Listing
from .work import Settings

CHUNK = 16  # scans in a shard, at most
MATERIALS = (".mtl", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ALGORITHM = 1  # raise it when a change to reading, aligning, rendering or encoding changes the pictures


@dataclass(frozen=True)
class Item:
    """One scan to prepare."""

    sequence: int  # its place in `Plan.listing.sequences`
    time: float  # 0 (first frame of the sequence) to 1 (last); 0 for a static scan
    frame: Frame


@dataclass(frozen=True)
class Chunk:
    """The scans of one shard."""

    key: str  # name of the shard
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a run has to do."""

    listing: Listing  # sequences sorted by subject and name
    chunks: tuple[Chunk, ...]

    @property
    def scans(self) -> int:
        return sum(len(chunk.items) for chunk in self.chunks)


def select(length: int, frames: int) -> list[int]:
    """Positions of the `frames` frames that stand for a sequence of `length`; all of them if it has no more.

    Posed 4D sets (BU-4DFE) go neutral, onset, apex, offset, neutral: the label fits the middle half only, so
    the frames are the centres of `frames` equal parts of it. A half with fewer frames than that grows.
    """
    if length <= frames:
        return list(range(length))
    window = max(frames, (length + 1) // 2)
    start = (length - window) // 2
    return [start + (2 * k + 1) * window // (2 * frames) for k in range(frames)]


def plain_views(views: ViewConfig) -> dict[str, Any]:
    """The view settings as plain values, spelled one way (95 and 95.0 mm are the same setting)."""
    values = dataclasses.asdict(views)
    return {
        **values,
        "yaws": [float(yaw) for yaw in views.yaws],
        "modalities": list(views.modalities),
        "radius": float(views.radius),
    }


def views_hash(views: ViewConfig) -> str:
    """One word for settings and algorithm: sites whose words differ hold pictures that cannot be compared."""
    return _digest({"algorithm": ALGORITHM, **plain_views(views)})


def make_plan(listing: Listing, settings: Settings) -> Plan:
    """Choose the frames of every sequence and cut them into chunks."""
    _beside.cache_clear()  # folders may have changed since an earlier run in this process
    sequences = tuple(sorted(listing.sequences, key=lambda sequence: (sequence.subject, sequence.name)))
    groups: list[list[Item]] = []
    for number, sequence in enumerate(sequences):
        for order, position in enumerate(select(len(sequence.frames), settings.frames)):
            if not groups or len(groups[-1]) == CHUNK or (order == 0 and _starts_chunk(sequence.name)):
                groups.append([])
            time = position / max(1, len(sequence.frames) - 1)
            groups[-1].append(Item(number, time, sequence.frames[position]))
    chunks = tuple(Chunk(_key(group, settings), tuple(group)) for group in groups)
    return Plan(dataclasses.replace(listing, sequences=sequences), chunks)


def _starts_chunk(name: str) -> bool:
    """One sequence in 16, by its name: an added scan moves the cuts near it and not all that follow."""
    return hashlib.sha256(os.fsencode(name)).digest()[0] % 16 == 0


def _key(items: list[Item], settings: Settings) -> str:
    """View settings, algorithm and the state of every file; not the renderer, which must not matter."""
    files = [_state(path, settings.raw) for item in items for path in _files(item.frame)]
    return _digest({"views": views_hash(settings.views), "files": files})[:32]


def _files(frame: Frame) -> list[Path]:
    """Every file whose change should have the scan prepared again."""
    files = [path for path in (frame.path, frame.texture, frame.landmarks) if path is not None]
    if frame.path.suffix.lower() == ".obj":  # names its materials and images inside: take what may be meant
        beside, meshes = _beside(frame.path.parent)
        files += [path for path in beside if meshes == 1 or path.name.startswith(frame.path.stem)]
    return files


@functools.lru_cache(maxsize=64)
def _beside(folder: Path) -> tuple[list[Path], int]:
    """(material and image files, number of OBJ meshes) in a folder."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:  # gone since it was listed: the reader will say so
        return [], 0
    meshes = sum(path.suffix.lower() == ".obj" for path in paths)
    return [path for path in paths if path.suffix.lower() in MATERIALS], meshes


def _state(path: Path, raw: Path) -> tuple[str, int, int]:
    name = os.fsencode(os.path.relpath(path, raw)).hex()  # hex: a name need not be valid UTF-8
    try:
        status = path.stat()
    except OSError:
        return name, -1, -1  # gone since it was listed: the reader will say so
    return name, status.st_size, status.st_mtime_ns


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
