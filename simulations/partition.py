"""Prepared sites dealt out anew: clients of a simulation, each a prepared site on disk whose views are links to the real ones."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulations.pool import Pool
from smile.labels import EXPRESSIONS
from smile.measurements import MEASUREMENTS
from smile.site import disk

SCHEMES = ("sites", "iid", "dirichlet", "subjects")


def deal(
    pool: Pool, rows: np.ndarray, scheme: str, *, clients: int, alpha: float, seed: int, captures: int = 0
) -> list[np.ndarray]:
    """Rows of the pool -> rows of each client, two or more.

    clients: how many; with `sites` and `subjects`, 0 for as many as there are. captures: the most that a client keeps, drawn
    at random; 0 for all. scheme:
    - `sites`: as they are;
    - `iid`: people at random;
    - `dirichlet`: captures, so that each client has its own mix of labels (flwr-datasets' partitioner, whose alpha this is). A person
      may then be at two clients, which is not so in life, and captures without a label are left out;
    - `subjects`: one person a client; several clients have the same person, each a random half of the captures, where people are fewer.

    Raises ValueError where there is too little to deal out.
    """
    people = np.unique(pool.subjects[rows])
    if scheme == "sites":
        found = [rows[pool.site_of[rows] == site] for site in range(len(pool.parts))]
    elif scheme == "iid":
        groups = np.array_split(np.random.default_rng([seed, 11]).permutation(people), clients)
        found = [rows[np.isin(pool.subjects[rows], group)] for group in groups]
    elif scheme == "dirichlet":
        found = _dirichlet(pool, rows, clients=clients, alpha=alpha, seed=seed)
    else:
        assert scheme == "subjects", scheme
        each = [rows[pool.subjects[rows] == person] for person in people]
        found = each if clients in (0, len(each)) else _in_turn(each, clients, seed)
    if not found or any(len(part) < 2 for part in found):
        raise ValueError(
            f"{len(rows)} captures of {len(people)} people are too few for {clients} clients ({scheme}): give more people with --subjects"
        )
    if captures:
        random = np.random.default_rng([seed, 17])
        found = [np.sort(random.choice(part, min(captures, len(part)), replace=False)) for part in found]
    return found


def _in_turn(each: list[np.ndarray], clients: int, seed: int) -> list[np.ndarray]:
    """Captures of each person -> clients who have the people in turn; who shares a person has half of the captures."""
    found = [each[k % len(each)] for k in range(clients)]
    if clients <= len(each):
        return found
    random = np.random.default_rng([seed, 13])
    return [
        np.sort(random.choice(mine, min(len(mine), max(2, len(mine) // 2)), replace=False)) for mine in found
    ]


def _dirichlet(pool: Pool, rows: np.ndarray, *, clients: int, alpha: float, seed: int) -> list[np.ndarray]:
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    labelled = rows[pool.labels[rows] != ""]
    partitioner = DirichletPartitioner(
        num_partitions=clients, partition_by="label", alpha=alpha, min_partition_size=4, seed=seed
    )
    partitioner.dataset = Dataset.from_dict(
        {"label": pool.labels[labelled].tolist(), "row": labelled.tolist()}
    )
    return [np.sort(np.array(partitioner.load_partition(k)["row"])) for k in range(clients)]


def write(
    folder: Path, pool: Pool, rows: np.ndarray, *, unlabelled: bool = False, frontal: bool = False
) -> Path:
    """A prepared site of these rows of the pool in `folder`; its shards are links.

    unlabelled: without any label. frontal: every view but the one nearest to the front is missing.
    """
    lines, shards, numbers = [], set(), dict[int, int]()
    tables = [_lines(site.path) for site in pool.parts]
    for number, row in enumerate(rows):
        place = int(pool.site_of[row])
        line = dict(tables[place][int(row) - int(pool.starts[place])])
        line["row"] = str(number)
        line["subject"] = f"site-{place}-{line['subject']}"
        line["sequence"] = str(numbers.setdefault(int(pool.sequences[row]), len(numbers)))
        line["label"] = "" if unlabelled else line["label"]
        shards.add((place, line["shard"]))
        line["shard"] = f"{place}-{line['shard']}"
        lines.append(line)
    (folder / disk.SHARDS).mkdir(parents=True, exist_ok=True)
    for place, key in sorted(shards):
        link = folder / disk.SHARDS / f"{place}-{key}.npy"
        link.unlink(missing_ok=True)
        shard = (pool.parts[place].path / disk.SHARDS / f"{key}.npy").resolve()
        if frontal:
            views = np.load(shard)
            views[:, np.arange(views.shape[1]) != np.abs(pool.parts[place].views.yaws).argmin()] = 0
            np.save(link, views)
        else:
            link.symlink_to(shard)
    columns = list(
        dict.fromkeys(name for site in pool.parts for name in _columns(site.path) if name != "notes")
    )
    columns = [name for name in columns if name not in disk.PRIVATE_COLUMNS] + ["notes"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    (folder / disk.INDEX).write_text(text.getvalue())
    disk.write_json(folder / disk.MANIFEST, _manifest(pool, folder, lines, columns))
    return folder


def _manifest(
    pool: Pool, folder: Path, lines: Sequence[dict[str, str]], columns: list[str]
) -> dict[str, Any]:
    """That of the first site, with what follows from these lines."""
    manifests = [site.manifest for site in pool.parts]
    labels = Counter(line["label"] for line in lines if line["label"])
    measures = Counter(name for line in lines for m in manifests for name in m["measures"] if line.get(name))
    return {
        **manifests[0],
        "dataset": "simulated client",
        "why": "dealt out by a simulation",
        "counts": {
            "samples": len(lines),
            "subjects": len({line["subject"] for line in lines}),
            "sequences": len({line["sequence"] for line in lines}),
            "unlabelled": sum(not line["label"] for line in lines),
            "rejected": 0,
        },
        "labels": {name: labels[name] for name in EXPRESSIONS if labels[name]},
        "measures": {name: measures[name] for m in manifests for name in m["measures"]},
        "quality": list(dict.fromkeys(name for m in manifests for name in m["quality"])),
        "geometry": [name for name in MEASUREMENTS if disk.geometry_column(name) in columns],
        "rest": [name for name in MEASUREMENTS if disk.rest_column(name) in columns],
        "index_sha256": disk.sha256(folder / disk.INDEX),
    }


def _table(path: Path) -> list[list[str]]:
    with (path / disk.INDEX).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def _columns(path: Path) -> list[str]:
    return _table(path)[0]


def _lines(path: Path) -> list[dict[str, str]]:
    columns, *rows = _table(path)
    return [dict(zip(columns, row, strict=True)) for row in rows]
