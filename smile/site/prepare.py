"""A folder of raw scans -> a prepared site: list, choose frames, render on all cores, write the tables.

Work is kept in shards of up to 16 scans that are named after their input, so a second run does only what is
new, changed, failed or unfinished. `manifest.json` is removed first and written last: it says "whole".
"""

import contextlib
import errno
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import ViewConfig
from ..scans.folders import count
from . import disk, tables
from .disk import Record
from .plan import Chunk, Plan, make_plan
from .pool import run_tasks
from .work import Result, Settings, Task

Say = Callable[[str], None]
Todo = list[tuple[Chunk, Task]]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def prepare(
    raw: Path,
    site: Path,
    *,
    views: ViewConfig,
    dataset: str = "auto",
    jobs: int | None = None,
    renderer: str = "auto",
    frames: int = 4,
    keep_names: bool = False,
    progress: bool = True,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Prepare `site` from the scans in `raw`; returns the manifest.

    jobs: worker processes, one a core when None, 0 to work in this process. frames: of a sequence, see
    `plan.select`. keep_names: real subjects and files in index.csv, the raw folder in the manifest. progress: a
    bar on standard error when that is a terminal. say: is told what was recognised and what is done.
    Raises ValueError with one sentence for the user; what is done by then stays, the next run goes on from it.
    """
    from ..scans import find
    from ..views import choose_renderer

    raw, site = Path(raw).resolve(), Path(site).resolve()
    _check_numbers(jobs, frames)
    _check_folders(raw, site)
    listing = find(raw, dataset=dataset)
    say(f"recognised {listing.dataset}: {listing.why}")
    chosen, reason = choose_renderer(renderer)
    say(f"renderer {chosen}: {reason.removeprefix(f'{chosen}: ')}")
    settings = Settings(views, chosen, raw, frames, keep_names)
    plan = make_plan(listing, settings)
    if not plan.scans:
        raise ValueError(
            f"{raw} holds no {listing.dataset} scan that can be used, {count(len(listing.problems), 'file')} "
            "set aside: name the data set with --dataset if this is the wrong one"
        )
    try:
        with disk.locked(site):
            _unfinish(site)
            records, todo = _what_is_left(plan, site, renderer=None if renderer == "auto" else chosen)
            _announce(plan, todo, say)
            records |= _work(
                todo,
                records,
                site,
                settings,
                jobs=_cores() if jobs is None else jobs,
                bar={"total": plan.scans, "disable": None if progress else True},
            )
            return _finish(plan, records, site, settings, say=say)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ValueError(
            f"the disk with {site} is full: what was done so far stays; free some space and run the "
            "same command again, it goes on from there"
        ) from error


def _check_numbers(jobs: int | None, frames: int) -> None:
    if frames < 1:
        raise ValueError(f"frames = {frames}: give 1 or more frames a sequence")
    if jobs is not None and jobs < 0:
        raise ValueError(f"jobs = {jobs}: give 1 or more worker processes, or 0 to work without")


def _check_folders(raw: Path, site: Path) -> None:
    if not raw.is_dir():
        what = "is not a folder" if raw.exists() else "does not exist"
        raise ValueError(f"{raw} {what}: give the folder with the raw scans")
    if site == raw or raw in site.parents:
        raise ValueError(
            f"the site {site} lies in the raw folder {raw}: give a folder outside of the raw scans"
        )
    if site in raw.parents:
        raise ValueError(f"the raw folder {raw} lies in the site {site}: give the site a folder of its own")
    if site.exists() and not site.is_dir():
        raise ValueError(f"{site} is a file: give a new or empty folder for the site")
    if site.is_dir() and any(site.iterdir()) and not disk.is_site(site):
        raise ValueError(f"{site} holds other files and is no prepared site: give a new or empty folder")


def _unfinish(site: Path) -> None:
    """From here on the folder is not whole; the old sheet may show people who are no longer in it."""
    for name in (disk.MANIFEST, disk.SHEET):
        (site / name).unlink(missing_ok=True)
    disk.sync_folder(site)


def _what_is_left(plan: Plan, site: Path, *, renderer: str | None) -> tuple[dict[str, Record], Todo]:
    """Records of the shards that are there, and the tasks. renderer: reuse only its shards; None: any."""
    records: dict[str, Record] = {}
    todo: Todo = []
    for chunk in plan.chunks:
        with contextlib.suppress(ValueError):  # absent or damaged: done again
            record = disk.read_record(site, chunk.key)
            if renderer in (None, record.renderer):
                records[chunk.key] = record
        retry = tuple(records[chunk.key].rejected) if chunk.key in records else ()
        if chunk.key not in records or retry:  # what failed may be mended: a missing package, a network drive
            todo.append((chunk, Task(tuple(item.frame for item in chunk.items), retry)))
    return records, todo


def _announce(plan: Plan, todo: Todo, say: Say) -> None:
    found = sum(len(sequence.frames) for sequence in plan.listing.sequences)
    done = plan.scans - sum(task.scans for _, task in todo)
    say(
        f"{count(plan.scans, 'scan')} to prepare"
        + (f", chosen from {found} frames" if found > plan.scans else "")
        + (f"; {done} of them done already" if done else "")
    )


def _work(
    todo: Todo, records: dict[str, Record], site: Path, settings: Settings, *, jobs: int, bar: dict[str, Any]
) -> dict[str, Record]:
    """Do the tasks and write each shard as soon as it is done; returns the new records."""
    from tqdm import tqdm

    new: dict[str, Record] = {}
    begun: Counter[int] = Counter()  # scans of each task
    done = bar["total"] - sum(task.scans for _, task in todo)
    with (
        tqdm(initial=done, unit="scan", file=sys.stderr, **bar) as shown,
        contextlib.closing(run_tasks([task for _, task in todo], settings, jobs=jobs)) as events,
    ):
        for number, result in events:
            chunk, task = todo[number]
            if result is not None:
                new[chunk.key] = _keep(result, site, chunk.key, settings.renderer, old=records.get(chunk.key))
                shown.update(task.scans - begun[number])
            elif begun[number] < task.scans:
                begun[number] += 1
                shown.update(1)
    return new


def _keep(result: Result, site: Path, key: str, renderer: str, *, old: Record | None) -> Record:
    if result.views is not None:
        return disk.write_shard(
            site, key, result.views, positions=result.positions, rejected=result.rejected, renderer=renderer
        )
    assert old is not None, "only a chunk with a shard is tried again"
    record = Record(old.rows, result.rejected, old.renderer, old.bytes, old.sha256)
    if record != old:
        disk.write_record(site, key, record)
    return record


def _finish(
    plan: Plan, records: dict[str, Record], site: Path, settings: Settings, *, say: Say
) -> dict[str, Any]:
    """Write the tables, remove what is stale, then say that the site is whole."""
    rejected = tables.rejected_rows(plan, records, raw=settings.raw)
    tables.write_rejected(site, rejected)
    rows = tables.index_rows(plan, records, raw=settings.raw)
    if not rows:
        raise ValueError(
            f"all {plan.scans} scans were set aside, the first is {rejected[0][0]} ({rejected[0][1]}); "
            f"see {site / disk.REJECTED} and correct the scans or the options"
        )
    tables.write_index(site, rows, keep_names=settings.keep_names)
    disk.remove_stale(site, keep={chunk.key for chunk in plan.chunks})
    manifest = tables.make_manifest(
        site, rows, plan=plan, records=records, settings=settings, rejected=len(rejected)
    )
    disk.write_json(site / disk.MANIFEST, manifest)
    counts = manifest["counts"]
    say(
        f"prepared {count(counts['samples'], 'scan')} of {count(counts['subjects'], 'subject')} "
        f"in {count(counts['sequences'], 'sequence')}, {manifest['bytes'] / 1e6:.1f} MB, in {site}"
    )
    if rejected:
        say(f"{count(len(rejected), 'file')} set aside: the reasons are in {site / disk.REJECTED}")
    return manifest


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
