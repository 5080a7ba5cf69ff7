"""Look at a prepared site from every side: `check` compares index, shards and checksums; `table` counts."""

import numpy as np

from ..labels import EXPRESSIONS
from . import disk
from .store import Site


def check(site: Site) -> None:
    """Read every byte of the site once. Raises ValueError with one sentence for the first thing wrong."""
    unknown = sorted(set(site.labels.tolist()) - {"", *EXPRESSIONS})
    if unknown:
        raise ValueError(
            f"{site.path / disk.INDEX} has the label {unknown[0]!r}, which is no expression: "
            "run `smile prepare` again"
        )
    for number, key in enumerate(site.shards):
        record = disk.read_record(site.path, key)
        rows = site.rows_of(number)
        if not np.array_equal(np.sort(site.offsets[rows]), np.arange(len(record.rows))):
            raise ValueError(
                f"{site.path / disk.INDEX} names {len(rows)} samples of shard {key}, which holds "
                f"{len(record.rows)}: run `smile prepare` again"
            )
        site.gather(rows[:1])  # opens it: type and shape


def table(site: Site) -> list[dict[str, str | int]]:
    """One line for each expression that occurs, then the unlabelled, then all, with counts."""
    present = [label for label in (*EXPRESSIONS, "") if (site.labels == label).any()]
    lines = [_line(site, label or "(unlabelled)", site.labels == label) for label in present]
    return [*lines, _line(site, "all", np.ones(len(site), dtype=bool))]


def _line(site: Site, name: str, chosen: np.ndarray) -> dict[str, str | int]:
    return {
        "expression": name,
        "subjects": len(np.unique(site.subjects[chosen])),
        "sequences": len(np.unique(site.sequences[chosen])),
        "samples": int(chosen.sum()),
    }
