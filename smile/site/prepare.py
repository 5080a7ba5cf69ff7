"""A folder of raw scans -> a prepared site: list, choose frames, render on all cores, write the tables.

Work is kept in shards of up to 16 samples that are named after their input, so a second run does only what is
new, changed, failed or unfinished. Labels, measures and limits are in the tables alone: a change to them renders nothing.
`manifest.json` is removed first and written last: it says "whole".
"""

import contextlib
import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ViewConfig
from ..scans.folders import count
from ..scans.scan import Options
from . import disk, tables
from .disk import Record
from .limits import check_limits, read_limits
from .plan import Chunk, Plan, make_plan
from .pool import run_tasks
from .sampling import SAMPLINGS
from .work import Figures, Outcome, Sample, Settings, Task, shape

Say = Callable[[str], None]
Todo = list[tuple[Chunk, tuple[int, ...]]]  # chunks, and the positions in them that are to be done
Outcomes = dict[int, Outcome]  # by position

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def prepare(
    raw: Path,
    site: Path,
    *,
    views: ViewConfig,
    dataset: str = "auto",
    options: Options | None = None,
    jobs: int | None = None,
    renderer: str = "auto",
    frames: int = 4,
    sampling: str = "middle",
    window: int | None = None,
    limits: Mapping[str, float] | None = None,
    keep_names: bool = False,
    progress: bool = True,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Prepare `site` from the scans in `raw`; returns the manifest.

    options: what the folder itself does not say. jobs: worker processes, one a core when None, 0 to work in this
    process. frames, sampling, window: of a sequence, see `sampling.choose` and `sampling.windows`. limits: by name,
    see `limits.read_limits`; its defaults when None. keep_names: real subjects and files in index.csv, the raw
    folder in the manifest. progress: a bar on standard error when that is a terminal. say: is told what was
    recognised and what is done.
    Raises ValueError with one sentence for the user; what is done by then stays, the next run goes on from it.
    """
    from ..scans import find
    from ..views import choose_renderer

    raw, site = (
        Path(os.path.realpath(raw)),
        Path(os.path.realpath(site)),
    )  # `resolve` fails on a loop of links
    check_numbers(views, jobs=jobs, frames=frames, sampling=sampling, window=window)
    allowed = read_limits(()) if limits is None else check_limits(limits)
    _check_folders(raw, site)
    listing = find(raw, dataset=dataset, options=options)
    say(f"recognised {listing.dataset}: {listing.why}")
    chosen, reason = choose_renderer(renderer)
    say(f"renderer {chosen}: {reason.removeprefix(f'{chosen}: ')}")
    labels = options.labels if options is not None else None
    settings = Settings(views, chosen, raw, frames, sampling, window, allowed, keep_names, labels)
    plan = make_plan(listing, settings)
    if not plan.samples:
        raise ValueError(nothing_to_do(plan, raw))
    with _full_disk_told(site), disk.locked(site):
        _unfinish(site)
        records, todo = _what_is_left(plan, site, renderer=None if renderer == "auto" else chosen)
        _announce(plan, todo, say)
        records |= _work(
            todo,
            records,
            site,
            settings,
            jobs=cores() if jobs is None else jobs,
            bar={"total": plan.samples, "disable": None if progress else True},
        )
        return _finish(plan, records, site, settings, say=say)


@contextlib.contextmanager
def _full_disk_told(site: Path) -> Iterator[None]:
    """A full disk as one sentence for the user."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ValueError(
            f"the disk with {site} is full: what was done so far stays; free some space and run the "
            "same command again, it goes on from there"
        ) from error


def check_numbers(
    views: ViewConfig, *, jobs: int | None, frames: int, sampling: str, window: int | None
) -> None:
    """Raises ValueError for settings that make no sense, alone or together."""
    if frames < 1:
        raise ValueError(f"frames = {frames}: give 1 or more frames a sequence")
    if views.motion == "dynamic" and frames < 2:
        raise ValueError(
            f"--motion dynamic --frames {frames}: a dynamic image needs 2 or more frames a sequence"
        )
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling {sampling!r} is unknown: choose from {', '.join(SAMPLINGS)}")
    if window is not None and window < 2:
        raise ValueError(f"--window {window}: give 2 or more frames")
    if jobs is not None and jobs < 0:
        raise ValueError(f"jobs = {jobs}: give 1 or more worker processes, or 0 to work without")


def nothing_to_do(plan: Plan, raw: Path) -> str:
    """The sentence for a folder of which nothing can be prepared."""
    problems = plan.listing.problems
    first = f", the first is {problems[0].path} ({problems[0].reason})" if problems else ""
    return (
        f"{raw} holds no {plan.listing.dataset} scan that can be used, {count(len(problems), 'file')} set aside{first}"
        + ("" if plan.listing.sequences else ": name the data set with --dataset if this is the wrong one")
    )


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
    there = next(path for path in (site, *site.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file: give a new or empty folder for the site")
    if site.is_dir() and any(site.iterdir()) and not disk.is_site(site):
        raise ValueError(f"{site} holds other files and is no prepared site: give a new or empty folder")


def _unfinish(site: Path) -> None:
    """From here on the folder is not whole; the old sheet may show people who are no longer in it."""
    tables_and_sheet = (disk.MANIFEST, disk.SHEET, disk.INDEX, disk.REJECTED)
    killed = (name + disk.TEMPORARY for name in tables_and_sheet)  # what a killed run has left
    for name in (disk.MANIFEST, disk.SHEET, *killed):
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
        if chunk.key not in records:
            todo.append((chunk, tuple(range(len(chunk.items)))))
        elif records[chunk.key].rejected:  # may be mended: a missing package, a network drive
            todo.append((chunk, tuple(records[chunk.key].rejected)))
    return records, todo


def _announce(plan: Plan, todo: Todo, say: Say) -> None:
    found = len({frame.path for sequence in plan.listing.sequences for frame in sequence.frames})
    done = plan.samples - _samples(todo)
    say(
        f"{count(plan.samples, 'scan')} to prepare"
        + (f", chosen from {found} frames" if found > plan.samples else "")
        + (f"; {done} of them done already" if done else "")
    )


def _samples(todo: Todo) -> int:
    return sum(chunk.items[position].drawn for chunk, positions in todo for position in positions)


def _work(
    todo: Todo, records: dict[str, Record], site: Path, settings: Settings, *, jobs: int, bar: dict[str, Any]
) -> dict[str, Record]:
    """Do what is left and write each shard as soon as all of it is there; returns the new records."""
    from tqdm import tqdm

    places = [(number, position) for number, (_, positions) in enumerate(todo) for position in positions]
    tasks = [task_of(todo[number][0], position) for number, position in places]
    new: dict[str, Record] = {}
    begun: dict[int, Outcomes] = {}  # a few chunks at a time: tasks are done in their order
    with (
        tqdm(initial=bar["total"] - _samples(todo), unit="scan", file=sys.stderr, **bar) as shown,
        contextlib.closing(run_tasks(tasks, settings, jobs=jobs)) as events,
    ):
        for task, outcome in events:
            number, position = places[task]
            chunk, positions = todo[number]
            begun.setdefault(number, {})[position] = outcome
            if len(begun[number]) == len(positions):
                new[chunk.key] = _keep(
                    begun.pop(number), site, chunk.key, settings, old=records.get(chunk.key)
                )
            shown.update(tasks[task].drawn)
    return new


def task_of(chunk: Chunk, position: int) -> Task:
    """What a worker needs for a sample: all but the measures, which stay in the tables."""
    item = chunk.items[position]
    return Task(tuple(dataclasses.replace(frame, measures={}) for frame in item.frames), item.drawn)


def _keep(outcomes: Outcomes, site: Path, key: str, settings: Settings, *, old: Record | None) -> Record:
    """Write a shard of what was done now and of what an earlier run left of it."""
    done = {place: outcome for place, outcome in outcomes.items() if isinstance(outcome, Sample)}
    rejected = {place: outcome for place, outcome in outcomes.items() if isinstance(outcome, str)}
    rest = {} if old is None else old.rest
    for place, outcome in outcomes.items():
        if isinstance(outcome, Figures):
            rest = {**rest, place: (outcome.quality, outcome.geometry)}
    if old is not None and not done:
        record = dataclasses.replace(old, rest=rest, rejected=rejected)
        if record != old:
            disk.write_record(site, key, record)
        return record
    renderers = {settings.renderer} if done else set()
    if old is not None and old.rows:
        views = np.load(site / disk.SHARDS / f"{key}.npy", allow_pickle=False)
        for place, *parts in zip(old.rows, views, old.quality, old.geometry, old.notes, strict=True):
            done[place] = Sample(*parts)
        renderers |= set(old.renderer.split(" and "))
    places = tuple(sorted(done))
    empty = np.empty((0, *shape(settings.views)), np.uint8)
    return disk.write_shard(
        site,
        key,
        np.stack([done[place].views for place in places]) if places else empty,
        positions=places,
        quality=tuple(done[place].quality for place in places),
        geometry=tuple(done[place].geometry for place in places),
        notes=tuple(done[place].notes for place in places),
        rest=rest,
        rejected=rejected,
        renderer=" and ".join(sorted(renderers)) or settings.renderer,
    )


def _finish(
    plan: Plan, records: dict[str, Record], site: Path, settings: Settings, *, say: Say
) -> dict[str, Any]:
    """Write the tables, remove what is stale, then say that the site is whole."""
    rows, beyond = tables.index_rows(plan, records, settings=settings)
    rejected = tables.rejected_rows(plan, records, beyond, raw=settings.raw)
    tables.write_rejected(site, rejected)
    if not rows:
        raise ValueError(
            f"all {plan.samples} scans were set aside, the first is {rejected[0][0]} ({rejected[0][1]}); "
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


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
