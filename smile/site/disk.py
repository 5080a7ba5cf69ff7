"""The files of a prepared site: their names, atomic writes, the lock, and one shard of views.

A file is either absent or whole: it is written under a temporary name, synced, then renamed.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows has no flock: two runs at once on one site are then not noticed
    fcntl = None  # type: ignore[assignment]

SCHEMA = 3  # of everything this package writes
KIND = "smile prepared site"
MANIFEST, INDEX, REJECTED, SHEET = "manifest.json", "index.csv", "rejected.csv", "contact_sheet.png"
COLUMNS = ("row", "shard", "offset", "subject", "label", "sequence", "frame", "time")  # of INDEX
PRIVATE_COLUMNS = ("subject_name", "source")  # with --keep-names only
SHARDS = "shards"
MARKER = ".smile-site"  # says that a folder is ours, finished or not; also carries the lock
TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Record:
    """What the `.json` beside a shard says; positions count the samples of the chunk, no file is named."""

    rows: tuple[int, ...]  # positions of the samples in the `.npy`, in its order
    quality: tuple[dict[str, float], ...]  # of each row, see `geometry.Aligned`
    geometry: tuple[dict[str, float], ...]  # of each row, see `measurements.measure`; NaN is left out
    notes: tuple[tuple[str, ...], ...]  # of each row, likewise
    rest: dict[
        int, tuple[dict[str, float], dict[str, float]]
    ]  # position of a frame that is no sample -> quality, geometry
    rejected: dict[int, str]  # position -> why it was set aside
    renderer: str  # two, with `and` between them, where another run mended a part of it
    bytes: int  # of the `.npy`
    sha256: str  # of the `.npy`


def geometry_column(name: str) -> str:
    """The column of INDEX that holds a measurement of the face."""
    return f"geometry.{name}"


def rest_column(name: str) -> str:
    """The column of INDEX that holds the same measurement of the film's first frame."""
    return f"rest.{name}"


def write_atomic(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a temporary file, then name it `path`: a crash leaves the old file or none."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too: no litter
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` outlive a power cut."""
    if os.name == "nt":  # cannot open a folder there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_shard(
    site: Path,
    key: str,
    views: np.ndarray,
    *,
    positions: tuple[int, ...],
    rejected: dict[int, str],
    renderer: str,
    quality: tuple[dict[str, float], ...] = (),
    geometry: tuple[dict[str, float], ...] = (),
    notes: tuple[tuple[str, ...], ...] = (),
    rest: dict[int, tuple[dict[str, float], dict[str, float]]] | None = None,
) -> Record:
    """`views` (n, V, C, H, W) uint8 -> SHARDS/key.npy, then its record: without it a shard is absent.

    quality, geometry, notes: of each of the n; none where they are not given. rest: see `Record`.
    """
    count = len(positions)
    quality, geometry, notes = quality or ({},) * count, geometry or ({},) * count, notes or ((),) * count
    assert len(views) == count == len(quality) == len(geometry) == len(notes), (len(views), count)
    buffer = io.BytesIO()
    np.save(buffer, views, allow_pickle=False)
    data = buffer.getbuffer()
    digest = hashlib.sha256(data).hexdigest()
    record = Record(positions, quality, geometry, notes, rest or {}, rejected, renderer, data.nbytes, digest)
    folder = site / SHARDS
    (folder / f"{key}.json").unlink(missing_ok=True)
    write_atomic(folder / f"{key}.npy", lambda file: file.write(data))
    write_record(site, key, record)
    return record


def write_record(site: Path, key: str, record: Record) -> None:
    write_json(site / SHARDS / f"{key}.json", {"schema": SCHEMA, **asdict(record)}, indent=None)


def read_record(site: Path, key: str) -> Record:
    """The record of a shard. Raises ValueError when it is missing or does not fit its `.npy`."""
    folder = site / SHARDS
    try:
        found = json.loads((folder / f"{key}.json").read_bytes())
        if found.pop("schema") != SCHEMA:
            raise ValueError("another version of smile wrote it")
        found |= {name: tuple(found[name]) for name in ("rows", "quality", "geometry")}
        found["notes"] = tuple(map(tuple, found["notes"]))
        found["rest"] = {int(place): (quality, faces) for place, (quality, faces) in found["rest"].items()}
        found["rejected"] = {int(position): reason for position, reason in found["rejected"].items()}
        record = Record(**found)
        if not len(record.rows) == len(record.quality) == len(record.geometry) == len(record.notes):
            raise ValueError("its figures do not fit its samples")
        if (folder / f"{key}.npy").stat().st_size != record.bytes:
            raise ValueError(f"its .npy has not the {record.bytes} bytes that were written")
        if sha256(folder / f"{key}.npy") != record.sha256:
            raise ValueError("its .npy has changed since it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"shard {folder / key} is damaged ({reason}): run `smile prepare` again, it mends it"
        ) from None
    return record


def read_manifest(site: Path) -> dict[str, Any] | None:
    """The manifest, or None where `site` has none or another program's."""
    try:
        manifest = json.loads((site / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == KIND else None


def is_site(folder: Path) -> bool:
    """Whether `folder` is a prepared site, finished or not."""
    return (folder / MARKER).is_file() or read_manifest(folder) is not None


@contextlib.contextmanager
def held(marker: Path, command: str) -> Iterator[None]:
    """Make the folder of `marker` and hold it alone. Raises ValueError while another process, a `command`, does."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    with open(marker, "a") as file:  # never removed: a lock on a removed file protects nothing
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another `{command}` is at work on {marker.parent}: wait for it or stop it"
                ) from None
            except OSError:
                pass  # a network file system without locks: better to go on than to be unusable there
        yield


@contextlib.contextmanager
def locked(site: Path) -> Iterator[None]:
    """Make the folders of `site` and hold it alone. Raises ValueError while another process does."""
    with held(site / MARKER, "smile prepare"):
        (site / SHARDS).mkdir(exist_ok=True)
        yield


def remove_stale(site: Path, *, keep: set[str]) -> int:
    """Remove shards that are not in `keep` and temporary files of a killed run; returns how many shards."""
    removed = 0
    for path in sorted((site / SHARDS).iterdir()):
        if not path.is_file():
            continue
        if path.suffix == TEMPORARY or (path.suffix in (".npy", ".json") and path.stem not in keep):
            path.unlink(missing_ok=True)
            removed += path.suffix == ".npy"
    return removed
