"""Open a prepared site: `Site`, the views of a hospital as arrays on disk.

n samples, V views, C channels, H W image rows and columns.
"""

import csv
import itertools
import math
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ..config import CHANNELS, ViewConfig
from ..measurements import MEASUREMENTS
from . import disk

HEADER = 128  # bytes before the samples in an .npy of such a shape
COUNTS = ("samples", "subjects", "sequences", "unlabelled", "rejected")
KEYS = {  # of manifest.json, those that are read
    **{"dataset": str, "why": str, "counts": dict, "labels": dict, "measures": dict, "quality": list},
    **{"geometry": list, "rest": list, "views": dict, "index_sha256": str, "renderer": str, "bytes": int},
}
OPEN_SHARDS = 64  # memory maps kept open: each holds a file descriptor, a large site has thousands of shards


class Site:
    """A prepared site, opened for reading; nothing of the views is read before `gather`.

    manifest: the counts and settings; views: the view settings; subjects, labels ("" = unlabelled): (n,) str;
    sequences, frames (the file's own number): (n,) int; times: (n,) float, 0 to 1 within the whole film, also of a window;
    measures (AU12, pain, see `labels`) and quality (see `geometry.Aligned`): name -> (n,) float64, NaN = not coded or not
    known; geometry: each of `measurements.MEASUREMENTS` -> (n,) float64 mm, NaN = not known; rest: the same of the first
    frame of the film, for all its samples alike, NaN for a scan alone; notes: (n,) str, what was mended on the way. A view
    that is all 0 is missing: a picture pair has two views and no geometry.
    """

    def __init__(self, path: Path | str) -> None:
        """Raises ValueError when `path` is no prepared site or unfinished, or its files do not fit."""
        self.path = Path(path)
        self.manifest = _manifest(self.path)
        self.views = _views(self.path, self.manifest)
        table = _index(self.path, self.manifest)
        self.subjects = np.array(table["subject"], dtype=str)
        self.labels = np.array(table["label"], dtype=str)
        self.notes = np.array(table["notes"], dtype=str)
        try:
            self.sequences, self.frames, self.offsets = (
                np.array([int(word) for word in table[name]], dtype=np.int64)
                for name in ("sequence", "frame", "offset")
            )
            self.times = np.array([_number(word) for word in table["time"]])
            self.measures = {name: _figures(table[name]) for name in self.manifest["measures"]}
            self.quality = {name: _figures(table[name]) for name in self.manifest["quality"]}
            unknown = [""] * len(self.labels)
            self.geometry, self.rest = (
                {name: _figures(table.get(column(name), unknown)) for name in MEASUREMENTS}
                for column in (disk.geometry_column, disk.rest_column)
            )
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{self.path / disk.INDEX} cannot be read ({error}): run `smile prepare` again"
            ) from None
        keys, self._shard = np.unique(np.array(table["shard"], dtype=str), return_inverse=True)
        self._keys: list[str] = keys.tolist()
        self._samples = np.zeros(
            len(keys), np.int64
        )  # of each shard, at least: the last ones may be beyond a limit
        np.maximum.at(self._samples, self._shard, self.offsets + 1)
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
            there, header = divmod(sizes.get(f"{key}.npy", 0) - HEADER, int(np.prod(self._shape)))
            if there < samples or header:
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
    wrong = [name for name, kind in KEYS.items() if type(manifest.get(name)) is not kind]
    if not wrong:
        counts = {**manifest["counts"], **manifest["labels"], **manifest["measures"]}
        wrong = [name for name in (*COUNTS, *counts) if type(counts.get(name)) is not int]
        wrong += [name for name in manifest["quality"] if type(name) is not str]
        wrong += [name for name in (*manifest["geometry"], *manifest["rest"]) if name not in MEASUREMENTS]
    if wrong:
        raise ValueError(
            f"{path / disk.MANIFEST} does not say what it should of {wrong[0]!r}: run `smile prepare` again"
        )
    return manifest


def _views(path: Path, manifest: dict[str, Any]) -> ViewConfig:
    try:
        views = {**manifest["views"]}
        return ViewConfig(tuple(views.pop("yaws")), modalities=tuple(views.pop("modalities")), **views)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path / disk.MANIFEST} has no view settings that can be read ({error}): "
            "run `smile prepare` again"
        ) from None


def _figures(column: list[str]) -> np.ndarray:
    return np.array([_number(word) if word else np.nan for word in column], dtype=np.float64)


def _number(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word!r} is no number")
    return value


def _index(path: Path, manifest: dict[str, Any]) -> dict[str, list[str]]:
    """Columns of index.csv, which must be the very file that the manifest speaks of."""
    try:
        whole = disk.sha256(path / disk.INDEX) == manifest.get("index_sha256")
        with open(path / disk.INDEX, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, csv.Error, UnicodeDecodeError):
        whole, rows = False, []
    if not whole or len(rows) < 2:
        raise ValueError(
            f"{path / disk.INDEX} is not the table that {disk.MANIFEST} speaks of: run `smile prepare` again"
        )
    names, lines = rows[0], rows[1:]
    faces = (
        *map(disk.geometry_column, manifest["geometry"]),
        *map(disk.rest_column, manifest["rest"]),
    )
    wanted = {*disk.COLUMNS, *manifest["measures"], *manifest["quality"], *faces, "notes"}
    odd = sorted((set(names) - set(disk.PRIVATE_COLUMNS)) ^ wanted)
    if odd or any(len(line) != len(names) for line in lines):
        what = f"no place for {odd[0]!r}" if odd else "lines of different lengths"
        raise ValueError(
            f"{path / disk.INDEX} and {disk.MANIFEST} do not fit, there is {what}: run `smile prepare` again"
        )
    return dict(zip(names, map(list, zip(*lines, strict=True)), strict=True))
