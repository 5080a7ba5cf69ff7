"""How long a step waits for its batch: `python -m tests.benchmarks.loader_wait`, on a site of 5,000 samples at 64 px.

Three ways in one run: as `smile train` works (one thread ahead), the same with the files thrown out of memory before each pass
where the system allows it, and without working ahead. Waiting is measured around the call that hands over a batch.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from smile import training
from smile.config import FederationConfig, SmileConfig, TrainingConfig, ViewConfig
from smile.loader import ahead
from smile.model import build_model
from smile.site.store import Site
from tests.random_site import write_random_site

LIMIT = 0.02  # of the time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=50, help="of a pass, which is a round (default: %(default)s)"
    )
    parser.add_argument("--passes", type=int, default=3, help="of each way (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=1, help="training.frames (default: %(default)s)")
    parser.add_argument("--people", type=int, default=50, help="with 100 samples each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    options = parser.parse_args()
    views = ViewConfig(size=64)
    config = SmileConfig(
        views=views,
        training=TrainingConfig(local_steps=options.steps, frames=options.frames),
        federation=FederationConfig(rounds=options.passes),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write_random_site(Path(folder) / "site", views, people=options.people, sequences=25, frames=4)
        ways: dict[str, tuple[Callable[..., Iterator[Any]], bool]] = {
            "one thread ahead": (ahead, False),
            "the same, files not in memory": (ahead, True),
            "no thread": (lambda make, numbers: (make(number) for number in numbers), False),
        }
        found = {name: measure(Site(path), config, *way) for name, way in ways.items()}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, shares in found.items():
            spread = f"{100 * min(shares):.2f} - {100 * max(shares):.2f}"
            print(
                f"{name:32}{100 * statistics.median(shares):7.2f} % of the time waiting ({spread} in {len(shares)} passes)"
            )
    return 0 if statistics.median(found["one thread ahead"]) <= LIMIT else 1


def measure(
    site: Site, config: SmileConfig, prepare: Callable[..., Iterator[Any]], cold: bool
) -> list[float]:
    """Share of each pass that the step waited, the first pass not counted."""
    model, rows, shares = build_model(config), np.arange(len(site)), []
    steps = config.training.local_steps
    usual = training.ahead
    for turn in range(config.federation.rounds + 1):
        if cold:
            forget(site.path)
        waited: list[float] = []

        def timed(make: Callable[[int], Any], numbers: range, waited: list[float] = waited) -> Iterator[Any]:
            ready = prepare(make, numbers)
            while True:
                before = time.perf_counter()
                batch = next(ready, None)
                waited.append(time.perf_counter() - before)
                if batch is None:
                    return
                yield batch

        training.ahead = timed  # type: ignore[assignment]
        started: list[float] = []

        def watch(step: int, parts: dict[str, float], started: list[float] = started) -> None:
            started.append(time.perf_counter())

        try:
            before = time.perf_counter()
            training.train(
                model,
                site,
                config,
                rows=rows,
                first_step=turn % config.federation.rounds * steps,
                watch=watch,
            )
        finally:
            training.ahead = usual
        shares.append(sum(waited) / (started[-1] - before))
    return shares[1:]


def forget(folder: Path) -> None:
    """Ask the system to drop these files from its memory (POSIX; elsewhere nothing happens)."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in sorted((folder / "shards").iterdir()):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


if __name__ == "__main__":
    raise SystemExit(main())
