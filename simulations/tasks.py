"""What the tables have in common: tasks over processes whose results are kept, six expressions of held-out people, figures, bars."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from simulations import compare
from smile.config import SmileConfig
from smile.protocols import SIX, Split, Study, Task, select, splits
from smile.site.disk import write_json
from smile.site.store import Site

if TYPE_CHECKING:
    from simulations.pool import Pool

METHODS = ("linear_probe", "knn", "zero_shot", "head")  # head: a supervised row's own answer
COLOURS = ("#2f6db5", "#9aa7b4", "#3a9a66", "#d9822b")


class Keyed(Protocol):
    def key(self) -> str:
        """Name of its file: tells it from every run with other settings, other views or another program."""
        ...


Item = TypeVar("Item", bound=Keyed)


def done(
    work: Sequence[Item], folder: Path, run: Callable[[Item], dict[str, Any]], *, jobs: int
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """Results as they come: those on disk at once, the others from `jobs` processes; one with `error` is not kept."""
    open_work = []
    for item in work:
        path = folder / item.key()
        if path.is_file():
            yield item, json.loads(path.read_bytes())
        else:
            open_work.append(item)
    if not open_work:
        return
    with ProcessPoolExecutor(
        min(jobs, len(open_work)), mp_context=get_context("spawn"), initializer=compare.one_thread
    ) as workers:
        futures = {workers.submit(run, item): item for item in open_work}
        try:
            for future in as_completed(futures):
                item, found = futures[future], future.result()
                if "error" not in found:
                    write_json(folder / item.key(), found)
                yield item, found
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise


def people(sites: Sequence[Path]) -> "tuple[Pool, Task]":
    """All sites as one, and the six expressions in it, a decision a sequence."""
    from simulations.pool import Pool

    pool = Pool([Site(site) for site in sites])
    return pool, select(Study("", classes=SIX), pool)


def cut(pool: "Pool", task: Task, config: SmileConfig, folds: int) -> list[Split]:
    """One split by the share that every site holds out, or `folds` over all people."""
    if folds > 1:
        study = Study("", classes=SIX, folds=folds)
        return splits(study, task, config.training, people=pool.subjects, seed=config.training.seed)
    test = np.isin(task.subjects, pool.subjects[compare.split(pool.parts, config)[1]])
    return [Split(np.flatnonzero(~test), np.flatnonzero(test))]


def figure(results: list[dict[str, Any]], method: str, task: Task) -> dict[str, Any]:
    """Accuracy of one row: mean, deviation over seeds and each value; 95 % interval over people, UAR, confusion."""
    from smile.decisions import figures

    values = []
    for seed in sorted({r["seed"] for r in results}):
        right = [task.truth[r["test"]] == r["answers"][method] for r in results if r["seed"] == seed]
        values.append(float(np.concatenate(right).mean()))
    folds = [(np.array(r["test"]), np.array(r["answers"][method])) for r in results]
    whole = figures(task, folds)
    return {
        "mean": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "values": values,
        "low": whole["accuracy"]["low"],
        "high": whole["accuracy"]["high"],
        "uar": whole["uar"]["value"],
        "confusion": whole["confusion"],
    }


def bars(
    rows: dict[str, dict[str, Any]], names: Sequence[str], path: Path, *, chance: float, caption: str
) -> None:
    """Bars of every method for each row, with the deviation over seeds, as a PNG. names: written below the bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = [m for m in METHODS if any(m in row for row in rows.values())]
    picture, axes = pyplot.subplots(figsize=(2 + 1.1 * max(len(rows), 4), 4.5))
    for place, method in enumerate(methods):
        there = [(i, row[method]) for i, row in enumerate(rows.values()) if method in row]
        at = [i + 0.2 * (place - (len(methods) - 1) / 2) for i, _ in there]
        axes.bar(
            at,
            [100 * f["mean"] for _, f in there],
            0.2,
            yerr=[100 * f["spread"] for _, f in there],
            capsize=2,
            color=COLOURS[METHODS.index(method)],
            label=method.replace("_", " "),
        )
    axes.axhline(100 * chance, color="black", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(rows)), names)
    axes.set(ylabel="six expressions, % right", ylim=(0, 100))
    axes.legend(ncols=len(methods), loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)
    picture.text(0.5, 0.01, caption, ha="center", fontsize=7)
    picture.tight_layout(rect=(0, 0.03, 1, 1))
    picture.savefig(path, dpi=120)
    pyplot.close(picture)
