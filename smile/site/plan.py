"""What is to be prepared: which frames, in which chunks, and the key that tells whether a chunk is done."""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ViewConfig
from ..scans.scan import Frame, Listing, Problem, Sequence
from . import sampling
from .work import Settings

CHUNK = 16  # samples in a shard, at most
READS = 64  # files behind a shard, about: what a killed run has to do again
MATERIALS = (".mtl", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".bin")
NAME_MATERIALS = (".obj", ".gltf")  # meshes whose materials are files of their own
NAME_IMAGES = (*NAME_MATERIALS, ".wrl", ".ply")  # meshes that may name an image
SHARED = ""  # in `_beside`, where the stem of a mesh is never empty
ALGORITHM = 2  # raise it when a change to reading, aligning, rendering or encoding changes the pictures
MEASURED = 1  # raise it when a change to the points of a face or their measurements changes these


@dataclass(frozen=True)
class Item:
    """One sample to prepare, or the first frame of a film, where that is no sample of its own: it is only measured."""

    sequence: int  # its place in `Plan.listing.sequences`
    time: float  # 0 (first frame of the whole film, whatever the window) to 1 (last); 0 for a static scan
    frame: Frame  # the one that it stands for
    frames: tuple[Frame, ...]  # what it is made of, see sampling.samples
    first: Frame | None = (
        None  # first frame of the film that it is of; None for static scans and picture pairs
    )
    drawn: bool = True  # False: no sample, measured only


@dataclass(frozen=True)
class Chunk:
    """The samples of one shard."""

    key: str  # name of the shard
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a run has to do."""

    listing: Listing  # sequences sorted by subject and name, long ones cut into windows
    chunks: tuple[Chunk, ...]

    @property
    def samples(self) -> int:
        return sum(item.drawn for chunk in self.chunks for item in chunk.items)


def plain_views(views: ViewConfig) -> dict[str, Any]:
    """The view settings as plain values, spelled one way (95 and 95.0 mm are the same setting)."""
    return {
        **dataclasses.asdict(views),
        "yaws": [float(yaw) for yaw in views.yaws],
        "modalities": list(views.modalities),
        "radius": float(views.radius),
        "magnify": float(views.magnify),
    }


def views_hash(views: ViewConfig) -> str:
    """One word for settings and algorithm: sites whose words differ hold pictures that cannot be compared."""
    return _digest({"algorithm": ALGORITHM, **plain_views(views)})


def make_plan(listing: Listing, settings: Settings) -> Plan:
    """Choose the frames of every sequence and cut the samples into chunks.

    Chunks follow the paths of the files, so what is only said about them (label, subject, measures) moves no cut.
    """
    for known in (
        _beside,
        _shared_state,
        _state,
    ):  # files may have changed since an earlier run in this process
        known.cache_clear()
    whole = sorted(listing.sequences, key=lambda sequence: (sequence.subject, sequence.name))
    parts = [
        (one, start, part)
        for one in whole
        if one.frames
        for start, part in zip(
            sampling.starts(len(one.frames), settings.window),
            sampling.windows(one, settings.window),
            strict=True,
        )
    ]
    sequences = [part for _, _, part in parts]
    problems = list(listing.problems)
    taken: dict[int, set[tuple[Path, ...]]] = defaultdict(set)  # by film, before it was cut into windows
    groups: list[list[Item]] = []
    places = [_place(sequence, settings.raw) for sequence in sequences]
    for number in sorted(range(len(sequences)), key=places.__getitem__):
        film, start, part = parts[number]
        items = _items(number, sequences[number], settings, film=film, start=start)
        if not items:
            problems.append(_too_short(sequences[number], settings))
        before = taken[id(film)]  # windows overlap: what one of them has is not done again
        items = [item for item in items if paths(item) not in before]
        before |= {paths(item) for item in items}
        if start == 0 and (items or part is not film):
            items = _with_first(items, film, number)
        for order, item in enumerate(items):
            if not groups or _full(groups[-1]) or (order == 0 and _starts_chunk(places[number])):
                groups.append([])
            groups[-1].append(item)
    chunks = tuple(Chunk(_key(group, settings), tuple(group)) for group in groups)
    found = dataclasses.replace(listing, sequences=tuple(sequences), problems=tuple(problems))
    return Plan(found, chunks)


def _items(number: int, sequence: Sequence, settings: Settings, *, film: Sequence, start: int) -> list[Item]:
    """The samples of a sequence, which is `film` or its window from frame `start` on."""
    last, every = max(1, len(film.frames) - 1), sequence.frames
    first = _first(film)
    samples = sampling.samples(sequence, settings.views, frames=settings.frames, sampling=settings.sampling)
    return [
        Item(number, (start + position) / last, every[position], tuple(every[part] for part in parts), first)
        for position, parts in samples
    ]


def _first(film: Sequence) -> Frame | None:
    return film.frames[0] if len(film.frames) > 1 and film.frames[0].kind != "pair" else None


def _with_first(items: list[Item], film: Sequence, number: int) -> list[Item]:
    """Add the first frame of a film to the samples of its first window, unless it is one.

    After the first sample, which has read that frame already where it is a difference to it.
    """
    first = _first(film)
    if first is None or any(set(paths(item)) == {first.path} for item in items):
        return items
    return [*items[:1], Item(number, 0.0, first, (first,), first, drawn=False), *items[1:]]


def paths(item: Item) -> tuple[Path, ...]:
    """The scans that it is made of."""
    return tuple(frame.path for frame in item.frames)


def _too_short(sequence: Sequence, settings: Settings) -> Problem:
    asked = settings.views
    words = f"--magnify {asked.magnify:g}" if asked.motion == "frames" else f"--motion {asked.motion}"
    if len(sequence.frames) > 1:
        return Problem(
            sequence.frames[0].path,
            f"{words} needs two or more frames and the coding of onset, apex and offset leaves one of "
            f"{len(sequence.frames)}: correct the coding or choose --sampling middle",
        )
    return Problem(
        sequence.frames[0].path,
        f"{words} needs two or more frames of a sequence and there is one: prepare single scans with "
        "--motion frames --magnify 1",
    )


def _place(sequence: Sequence, raw: Path) -> str:
    return os.path.relpath(sequence.frames[0].path, raw)


def _full(group: list[Item]) -> bool:
    return len(group) >= CHUNK or sum(len(item.frames) for item in group) >= READS


def _starts_chunk(place: str) -> bool:
    """One sequence in 16, by its first file: an added scan moves the cuts near it and not all that follow."""
    return hashlib.sha256(os.fsencode(place)).digest()[0] % 16 == 0


def _key(items: list[Item], settings: Settings) -> str:
    """View settings, algorithms and the state of every file; not the renderer, which must not matter."""
    files = [
        [[_state(path, settings.raw) for path in files_of(frame)] for frame in item.frames] for item in items
    ]
    folders = {mesh.parent for item in items for frame in item.frames for mesh in _naming(frame)}
    shared = [_shared_state(folder, settings.raw) for folder in sorted(folders)]
    made: dict[str, Any] = {"views": views_hash(settings.views), "measured": MEASURED}
    if not all(item.drawn for item in items):
        made["not drawn"] = [place for place, item in enumerate(items) if not item.drawn]
    return _digest({**made, "files": files, "shared": shared})[:32]


def files_of(frame: Frame) -> list[Path]:
    """Every file of the scan's own whose change should have it prepared again; `shared_files` come on top of them."""
    named = (frame.path, *frame.parts, frame.texture, frame.landmarks, frame.camera)
    own = [path for mesh in _naming(frame) for path in _beside(mesh.parent).get(_stem(mesh), ())]
    return list(dict.fromkeys([*(path for path in named if path is not None), *own]))


def shared_files(frames: Iterable[Frame]) -> set[Path]:
    """Materials and images beside the scans that any of them may name."""
    folders = {mesh.parent for frame in frames for mesh in _naming(frame)}
    return {path for folder in folders for path in _beside(folder).get(SHARED, ())}


def _naming(frame: Frame) -> list[Path]:
    """The meshes of a scan that name other files. The names are inside, so what may be meant is taken for it."""
    kinds = NAME_IMAGES if frame.texture is None else NAME_MATERIALS
    return [mesh for mesh in (frame.path, *frame.parts) if mesh.suffix.lower() in kinds]


@functools.lru_cache(maxsize=64)
def _beside(folder: Path) -> dict[str, list[Path]]:
    """Stem of a mesh -> the material and image files of a folder that go by its name; SHARED -> those of no one mesh."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:  # gone since it was listed: the reader will say so
        return {}
    stems = {_stem(path) for path in paths if path.suffix.lower() in NAME_IMAGES}
    found: dict[str, list[Path]] = defaultdict(list)
    for name in (path.name for path in paths if path.suffix.lower() in MATERIALS):
        begins = (name[:end] for end in range(len(name), 0, -1) if not name[end : end + 1].isalnum())
        found[next((begin for begin in begins if begin in stems), SHARED)].append(folder / name)
    return dict(found)


def _stem(mesh: Path) -> str:
    """What the names of a mesh's own images begin with: F0001_AN01WH_F3D.wrl names F0001_AN01WH_F2D.bmp."""
    return re.sub("_(F3D|RAW)$", "", mesh.stem) if mesh.suffix.lower() == ".wrl" else mesh.stem


@functools.lru_cache(maxsize=64)  # thousands of meshes may share thousands of images
def _shared_state(folder: Path, raw: Path) -> str:
    return _digest([_state(path, raw) for path in _beside(folder).get(SHARED, ())])


@functools.lru_cache(maxsize=4096)  # files that many meshes share
def _state(path: Path, raw: Path) -> tuple[str, int, int]:
    name = os.fsencode(os.path.relpath(path, raw)).hex()  # hex: a name need not be valid UTF-8
    try:
        status = path.stat()
    except OSError:
        return name, -1, -1  # gone since it was listed: the reader will say so
    return name, status.st_size, status.st_mtime_ns


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
