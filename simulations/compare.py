"""The comparison behind every table: untrained, each hospital alone, pooled, federated, on the same people."""

import dataclasses
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from smile.config import SmileConfig
from smile.site.store import Site
from smile.split import held_out


def split(sites: list[Site], config: SmileConfig) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of the pool that each site trains on, and the rows of the people that no site trains on.

    Uses the same function as the ClientApp, so that the people held out here are the people held out there.
    """
    start, train, test = 0, [], []
    for site in sites:
        out = held_out(site.subjects, share=config.training.holdout, seed=config.training.seed)
        train.append(start + np.flatnonzero(~out))
        test.append(start + np.flatnonzero(out))
        start += len(site)
    return train, np.concatenate(test)


def with_seed(config: SmileConfig, seed: int) -> SmileConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed))


def repeat(
    config: SmileConfig, folders: list[Path], seeds: list[int], output: Path, *, jobs: int
) -> Iterator[dict[str, Any]]:
    """Federated, pooled, each site alone and untrained, for every seed, over `jobs` processes, as they finish.

    A result is `smile.evaluation.evaluate` plus `who` (federated, pooled, site-0 ..., untrained) and `seed`. Each
    trained one takes as many optimiser steps as a site takes in the whole federation. A federation that has left
    its last checkpoint in OUTPUT/seed-N is not run again.
    """
    alone = [f"site-{index}" for index in range(len(folders))]
    tasks = [(who, seed) for who in ("federated", "pooled", *alone, "untrained") for seed in seeds]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=one_thread) as workers:
        futures = [
            workers.submit(_result, with_seed(config, seed), folders, who, output / f"seed-{seed}")
            for who, seed in tasks
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise


def one_thread() -> None:
    """In each process of a pool: as many threads as processes would fight for the cores. It ends when its parent is killed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _result(config: SmileConfig, folders: list[Path], who: str, output: Path) -> dict[str, Any]:
    from simulations.engines import federate
    from simulations.pool import Pool
    from smile.checkpoint import load
    from smile.model import build_model
    from smile.training import train

    sites = [Site(folder) for folder in folders]
    pool, (rows, _) = Pool(sites), split(sites, config)
    model = build_model(config)
    if who == "federated":
        checkpoint = last_round(output, config)
        if not checkpoint.is_dir():
            federate(config, folders, output, engine="in-process", logs=output / "site-logs")
        model, config, _ = load(checkpoint)
    elif who != "untrained":
        mine = np.concatenate(rows) if who == "pooled" else rows[int(who.removeprefix("site-"))]
        for index in range(config.federation.rounds):
            train(model, pool, config, rows=mine, first_step=index * config.training.local_steps)
    return score(model, pool, config, who=who)


def last_round(output: Path, config: SmileConfig) -> Path:
    """Where a finished federation leaves its model."""
    return output / f"round-{config.federation.rounds:04d}"


def score(model: Any, pool: Any, config: SmileConfig, *, who: str) -> dict[str, Any]:
    """`evaluate` with the probe fitted on all sites' training people and tested on all held-out people."""
    from smile.evaluation import evaluate

    rows, test = split(pool.parts, config)
    return {
        "who": who,
        "seed": config.training.seed,
        **evaluate(model, pool, config, train=np.concatenate(rows), test=test),
    }


METHODS = ("linear_probe", "knn", "zero_shot")
GROUPS = ("untrained", "single_site_mean", "pooled", "federated")


def summarise(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Method -> mean over seeds for each group, `spread` (standard deviation over seeds) and the `values`."""
    seeds = sorted({result["seed"] for result in results})
    summary: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        values = {
            group: [
                float(
                    np.mean([r[method] for r in results if r["seed"] == seed and _group(r["who"]) == group])
                )
                for seed in seeds
            ]
            for group in GROUPS
        }
        summary[method] = {
            **{group: float(np.mean(found)) for group, found in values.items()},
            "spread": {
                group: float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
                for group, found in values.items()
            },
            "values": values,
        }
    return summary


def _group(who: str) -> str:
    return "single_site_mean" if who.startswith("site-") else who


def table(summary: dict[str, dict[str, Any]], *, chance: float, sites: int) -> str:
    """The comparison as fixed-width text, in percent."""
    names = {
        "untrained": "untrained network",
        "single_site_mean": f"one hospital alone (mean of {sites})",
        "pooled": "pooled (not allowed in life)",
        "federated": "federated",
    }
    lines = [f"{'':34}" + "".join(f"{method.replace('_', ' '):>16}" for method in METHODS)]
    for group, name in names.items():
        cells = (f"{100 * summary[m][group]:.1f} ± {100 * summary[m]['spread'][group]:.1f}" for m in METHODS)
        lines.append(f"{name:34}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join([*lines, f"{'chance':34}" + "".join(f"{100 * chance:>16.1f}" for _ in METHODS)])
