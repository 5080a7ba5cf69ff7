"""Open a prepared site: `Site`, the views of a hospital as arrays on disk.

n samples, V views, C channels, H W image rows and columns.
"""

import csv
import itertools
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ..config import CHANNELS, ViewConfig
from . import disk

OPEN_SHARDS = 64  # memory maps kept open: each holds a file descriptor, a large site has thousands of shards


class Site:
    """A prepared site, opened for reading; nothing of the views is read before `gather`.

    manifest: the counts and settings; views: the view settings; subjects, labels ("" = unlabelled): (n,) str;
    sequences, frames (the file's own number): (n,) int; times: (n,) float, 0 to 1 within the sequence.
    """

    def __init__(self, path: Path | str) -> None:
        """Raises ValueError when `path` is no prepared site or unfinished, or its files do not fit."""
        self.path = Path(path)
        self.manifest = _manifest(self.path)
        self.views = _views(self.path, self.manifest)
        table = _index(self.path, self.manifest)
        self.subjects = np.array(table["subject"], dtype=str)
        self.labels = np.array(table["label"], dtype=str)
        self.sequences = np.array(table["sequence"], dtype=np.int64)
        self.frames = np.array(table["frame"], dtype=np.int64)
        self.times = np.array(table["time"], dtype=np.float64)
        self.offsets = np.array(table["offset"], dtype=np.int64)
        keys, self._shard = np.unique(np.array(table["shard"], dtype=str), return_inverse=True)
        self._keys: list[str] = keys.tolist()
        self._samples = np.bincount(self._shard)  # of each shard
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()
        self._check_sizes()

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type["Site"], tuple[Path]]:
        return Site, (self.path,)  # a data loader's worker opens the files again instead of receiving them

    @property
    def shards(self) -> list[str]:
        """Names of the shards, sorted."""
        return list(self._keys)

    def rows_of(self, shard: int) -> np.ndarray:
        """Rows whose views lie in the shard with this place in `shards`, (k,) int."""
        return np.flatnonzero(self._shard == shard)

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray:
        """Views of some samples, (len(rows), V, C, H, W) uint8, in the order of `rows`.

        rows: (k,) int. modalities: those wanted, all when None; channels always come in storage order.
        Raises ValueError for a modality that was not prepared, or a shard that is gone or has another shape.
        """
        rows = np.asarray(rows)
        assert rows.ndim == 1, rows.shape
        assert rows.dtype.kind in "iu" or not len(rows), rows.dtype
        rows = rows.astype(np.int64)
        slices = self._slices(modalities)
        views = self.views
        channels = sum(part.stop - part.start for part in slices)
        out = np.empty((len(rows), len(views.yaws), channels, views.size, views.size), np.uint8)
        shards = self._shard[rows]
        order = np.argsort(shards, kind="stable")
        edges = np.flatnonzero(np.diff(shards[order], prepend=-1, append=-1))
        for begin, end in itertools.pairwise(edges):
            places = order[begin:end]
            data, offsets, start = self._map(int(shards[places[0]])), self.offsets[rows[places]], 0
            for part in slices:
                out[places, :, start : start + part.stop - part.start] = data[offsets, :, part]
                start += part.stop - part.start
        return out

    def _slices(self, modalities: tuple[str, ...] | None) -> list[slice]:
        stored = self.views.channel_slices()
        for name in modalities or ():
            if name not in stored:
                wanted = ",".join(m for m in CHANNELS if m in {*stored, *(modalities or ())})
                raise ValueError(
                    f"{self.path} has no {name}, it was prepared with {', '.join(stored)}: run `smile "
                    f"prepare` again with --modalities {wanted}"
                )
        merged: list[slice] = []
        for name, part in stored.items():
            if modalities is not None and name not in modalities:
                continue
            if merged and merged[-1].stop == part.start:
                merged[-1] = slice(merged[-1].start, part.stop)
            else:
                merged.append(part)
        return merged

    def _map(self, shard: int) -> np.ndarray:
        if shard in self._maps:
            self._maps.move_to_end(shard)
            return self._maps[shard]
        path = self.path / disk.SHARDS / f"{self._keys[shard]}.npy"
        try:
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be opened ({error}): run `smile prepare` again") from None
        if data.dtype != np.uint8 or data.shape[1:] != self._shape or len(data) < self._samples[shard]:
            raise ValueError(
                f"{path} holds {data.shape} {data.dtype}, which does not fit the index: "
                "run `smile prepare` again"
            )
        self._maps[shard] = data
        if len(self._maps) > OPEN_SHARDS:
            self._maps.popitem(last=False)
        return data

    @property
    def _shape(self) -> tuple[int, ...]:
        return (len(self.views.yaws), self.views.channels, self.views.size, self.views.size)

    def _check_sizes(self) -> None:
        """One look at the folder: a missing or cut shard shows before hours of training, not in the midst."""
        try:
            sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self.path / disk.SHARDS)}
        except OSError:
            sizes = {}
        for key, samples in zip(self._keys, self._samples, strict=True):
            header = sizes.get(f"{key}.npy", -1) - int(samples) * int(np.prod(self._shape))
            if not 64 <= header <= 256:  # of an .npy with such a shape: 128
                state = "missing" if f"{key}.npy" not in sizes else "of the wrong size"
                raise ValueError(
                    f"{self.path / disk.SHARDS / key}.npy is {state}: run `smile prepare` again, it mends it"
                )


def _manifest(path: Path) -> dict[str, Any]:
    manifest = disk.read_manifest(path)
    if manifest is None:
        if disk.is_site(path):
            raise ValueError(
                f"{path} is not finished: run the same `smile prepare` again, it goes on from there"
            )
        raise ValueError(f"{path} is no prepared site: make one with `smile prepare RAW {path}`")
    if manifest.get("schema") != disk.SCHEMA:
        raise ValueError(
            f"{path} was prepared by another version of smile (schema {manifest.get('schema')}, this "
            f"one reads {disk.SCHEMA}): run `smile prepare` again"
        )
    return manifest


def _views(path: Path, manifest: dict[str, Any]) -> ViewConfig:
    try:
        views = manifest["views"]
        return ViewConfig(tuple(views["yaws"]), views["size"], tuple(views["modalities"]), views["radius"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path / disk.MANIFEST} has no view settings that can be read ({error}): "
            "run `smile prepare` again"
        ) from None


def _index(path: Path, manifest: dict[str, Any]) -> dict[str, list[str]]:
    """Columns of index.csv, which must be the very file that the manifest speaks of."""
    try:
        whole = disk.sha256(path / disk.INDEX) == manifest.get("index_sha256")
        with open(path / disk.INDEX, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        whole, rows = False, []
    if not whole or not rows:
        raise ValueError(
            f"{path / disk.INDEX} is not the table that {disk.MANIFEST} speaks of: run `smile prepare` again"
        )
    return {name: [row[name] for row in rows] for name in rows[0]}
