"""Look at a prepared site from every side: `check` compares index, shards and checksums; `table` counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..labels import VOCABULARY
from . import disk
from .store import Site


def check(site: Site) -> None:
    """Read every byte of the site once. Raises ValueError with one sentence for the first thing wrong."""
    unknown = sorted(set(site.labels.tolist()) - {"", *VOCABULARY})
    if unknown:
        raise ValueError(
            f"{site.path / disk.INDEX} has the label {unknown[0]!r}, which is no expression: "
            "run `smile prepare` again"
        )
    for name, there in counted(site).items():
        said = site.manifest[name]
        if there != ({count: said[count] for count in there} if name == "counts" else said):
            raise ValueError(
                f"{site.path / disk.MANIFEST} and {disk.INDEX} do not agree on the {name}: run `smile prepare` again"
            )
    for number, key in enumerate(site.shards):
        record = disk.read_record(site.path, key)
        rows = site.rows_of(number)
        named = site.offsets[rows]  # fewer than the shard holds where a limit has set some aside
        if len(np.unique(named)) != len(rows) or named.min() < 0 or named.max() >= len(record.rows):
            raise ValueError(
                f"{site.path / disk.INDEX} names {len(rows)} samples of shard {key}, which holds "
                f"{len(record.rows)}: run `smile prepare` again"
            )
        site.gather(rows[:1])  # opens it: type and shape


def counted(site: Site) -> dict[str, Any]:
    """What the manifest has to say of the table."""
    known = {
        name: int(np.isfinite(values).sum()) for name, values in {**site.measures, **site.quality}.items()
    }
    return {
        "counts": {
            "samples": len(site),
            "subjects": len(np.unique(site.subjects)),
            "sequences": len(np.unique(site.sequences)),
            "unlabelled": int((site.labels == "").sum()),
        },
        "labels": {name: int((site.labels == name).sum()) for name in VOCABULARY if name in site.labels},
        "measures": {name: known[name] for name in site.measures},
        "quality": sorted(name for name in site.quality if known[name]),
        "geometry": [name for name, values in site.geometry.items() if np.isfinite(values).any()],
        "rest": [name for name, values in site.rest.items() if np.isfinite(values).any()],
    }


def table(site: Site) -> list[dict[str, str | int]]:
    """One line for each expression that occurs, then the unlabelled, then all, with counts."""
    present = [label for label in (*VOCABULARY, "") if (site.labels == label).any()]
    lines = [_line(site, label or "(unlabelled)", site.labels == label) for label in present]
    return [*lines, _line(site, "all", np.ones(len(site), dtype=bool))]


def _line(site: Site, name: str, chosen: np.ndarray) -> dict[str, str | int]:
    return {
        "expression": name,
        "subjects": len(np.unique(site.subjects[chosen])),
        "sequences": len(np.unique(site.sequences[chosen])),
        "samples": int(chosen.sum()),
    }


def percentiles(figures: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """The 5th, 50th and 95th percentile of each figure, (n,) with NaN = not known; figures nobody knows are left out."""
    known = {name: values[~np.isnan(values)] for name, values in figures.items()}
    return {
        name: [round(float(figure), 4) for figure in np.percentile(values, (5, 50, 95))]
        for name, values in known.items()
        if len(values)
    }


def quality_line(figures: Mapping[str, list[float]]) -> str:
    """Percentiles as one line of text."""
    return "; ".join(
        f"{name} {' '.join(f'{figure:.3g}' for figure in part)}" for name, part in figures.items()
    )
