"""`python -m simulations compare SCENARIO`: one site alone, all pooled and each strategy, on the same clients and people.

A scenario deals the people who are not held out to clients; the clients are prepared sites on disk, and each strategy is a whole
federation of the real apps over them. Each (row, seed) is a task of its own, kept on disk: a stopped run goes on.
"""

import dataclasses
import hashlib
import json
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulations import compare
from simulations.journey import Plan, Steps, prepare_sites
from simulations.tasks import METHODS, bars, cut, done, figure, people
from smile.config import SmileConfig, from_flat, to_flat
from smile.protocols import Task
from smile.site.disk import is_site, write_json
from smile.site.store import Site

if TYPE_CHECKING:
    from smile.model import SmileModel

STRATEGIES = Path(__file__).parent / "strategies.toml"
ALONE = 4  # clients that also train alone, when there are more: their mean is a baseline, not a result
CLOSE = "% of pooled"
CLEAN = " (all honest)"


@dataclasses.dataclass(frozen=True)
class Clients:
    """The table `[clients]` of a scenario file: who holds what, and what goes wrong."""

    deal: str = "sites"  # simulations.partition.SCHEMES
    number: int = 0  # 0: as many as there are sites, or with `subjects` people
    alpha: float = 0.1  # of the Dirichlet distribution
    captures: int = 0  # the most that a client has; 0: all that were dealt
    unlabelled: int = 0  # clients, the first ones, whose labels are taken away
    frontal: int = 0  # clients, the last ones, that have no view but the one from the front
    faulty: int = 0  # clients, the last ones, that do `fault`
    fault: str = ""  # simulations.attacks


class Work(NamedTuple):
    """One row of the table for one seed."""

    row: str  # untrained | alone-K | pooled | a strategy, also with CLEAN
    federated: bool
    seed: int
    config: SmileConfig
    clients: Clients
    sites: tuple[Path, ...]
    dealt: tuple[Path, ...]  # folders of the clients
    output: Path  # of a federation

    def key(self) -> str:
        """Name of its file: tells it from every run with other settings, other views or another program."""
        from smile.protocol import source_fingerprint

        data = [Site(site).manifest["index_sha256"] for site in self.sites]
        said = [self.row, dataclasses.asdict(self.clients), to_flat(self.config), data, source_fingerprint()]
        return (
            f"{self.row}-seed-{self.seed}-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]}.json"
        )


def strategies(names: str, config: SmileConfig) -> dict[str, SmileConfig]:
    """`a,b,c` of simulations/strategies.toml -> the settings of each. Raises ValueError for an unknown name."""
    known = tomllib.loads(STRATEGIES.read_text())
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted or len(set(wanted)) != len(wanted):
        raise ValueError(f"--strategies {names}: choose from {', '.join(known)}, each once")
    return {name: from_flat({**to_flat(config), **known[name]}) for name in wanted}


def run(plan: Plan, *, home: Path, out: Path, names: str, quiet: bool) -> dict[str, Any]:
    """Prepare sites below `home`, run what is missing, write OUT/{summary.json,table.txt,table.png}."""
    clients, chosen = Clients(**plan.clients), strategies(names or plan.strategies, plan.config)
    out, said = out.resolve(), Steps(quiet)
    sites = (
        list(plan.raw)
        if plan.raw and all(map(is_site, plan.raw))
        else prepare_sites(plan, home.resolve(), said, quiet)[1]
    )
    (out / "tasks").mkdir(parents=True, exist_ok=True)
    said.begin(f"deal the people to clients ({clients.deal})")
    if clients.fault:  # what the first strategy reaches where all are honest
        first = next(iter(chosen))
        chosen = {first + CLEAN: chosen[first], **chosen}
    honest, work = dataclasses.replace(clients, faulty=0, fault=""), list[Work]()
    for seed in range(plan.config.training.seed, plan.config.training.seed + plan.seeds):
        folders = _deal(plan, clients, sites, seed, out / "clients" / f"seed-{seed}")
        alone = _spread(len(folders), ALONE)
        rows = {f"alone-{k}": plan.config for k in alone} | {"untrained": plan.config, "pooled": plan.config}
        for row, config in (rows | chosen).items():
            place = out / "federations" / f"{row}-seed-{seed}"
            seeded = compare.with_seed(config, seed)
            with_whom = clients if row in chosen and not row.endswith(CLEAN) else honest
            work.append(
                Work(row, row in chosen, seed, seeded, with_whom, tuple(sites), tuple(folders), place)
            )
    work.sort(key=lambda item: (not item.federated, item.seed))  # the longest first
    said.begin(f"{len(work)} trainings over {plan.jobs} processes")
    results: list[dict[str, Any]] = []
    for item, found in done(work, out / "tasks", result, jobs=plan.jobs):
        if "error" in found:
            raise ValueError(f"{item.row}, seed {item.seed}: {found['error']}")
        results.append(found)
        said.note(f"{len(results)} of {len(work)}: {item.row}, seed {item.seed}")
    said.end()
    summary = {
        "scenario": plan.name,
        **summarise(results, people(sites)[1], list(chosen)),
        "clients": {**dataclasses.asdict(clients), "number": len(work[0].dealt)},
        "simulated": not plan.raw,
        "seeds": plan.seeds,
        "settings": dataclasses.asdict(plan.config),
    }
    write_json(out / "summary.json", summary)
    (out / "table.txt").write_text(table(summary) + "\n")
    names_below = [row.replace(" (", "\n(") for row in summary["rows"]]
    bars(summary["rows"], names_below, out / "table.png", chance=summary["chance"], caption=_caption(summary))
    if not quiet:
        print(table(summary))
        print(f"written to {out}")
    return summary


def _spread(count: int, most: int) -> list[int]:
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))})


def _deal(plan: Plan, clients: Clients, sites: list[Path], seed: int, folder: Path) -> list[Path]:
    """Write the clients of one seed: prepared sites of the people who are not held out."""
    from simulations import partition

    pool, task = people(sites)
    test = cut(pool, task, compare.with_seed(plan.config, seed), 1)[0].test
    rows = np.flatnonzero(~np.isin(pool.subjects, np.unique(task.subjects[test])))
    dealt = partition.deal(
        *(pool, rows, clients.deal),
        clients=clients.number,
        alpha=clients.alpha,
        captures=clients.captures,
        seed=seed,
    )
    return [
        partition.write(
            folder / f"client-{k:04d}",
            pool,
            mine,
            unlabelled=k < clients.unlabelled,
            frontal=k >= len(dealt) - clients.frontal,
        )
        for k, mine in enumerate(dealt)
    ]


def result(work: Work) -> dict[str, Any]:
    """Train one row and answer for the held-out people; `error` where its settings cannot be trained on these clients."""
    from smile.decisions import answer_all, embeddings

    started, figures = time.monotonic(), dict[str, Any]()
    pool, task = people(work.sites)
    split = cut(pool, task, work.config, 1)[0]
    try:
        if work.federated:
            model, figures = _federated(work)
        else:
            model = _central(work)
    except (ValueError, RuntimeError) as error:
        return {"error": str(error)}
    answers = answer_all(embeddings(model, pool, task, work.config), task, split, work.config)
    return {
        **{"row": work.row, "seed": work.seed, "test": split.test.tolist()},
        "answers": {method: answer.tolist() for method, answer in answers.items()},
        **figures,
        "seconds": round(time.monotonic() - started, 1),
    }


def _central(work: Work) -> "SmileModel":
    """What one machine learns of one client, or of all: as many steps as a client takes in the whole federation."""
    from simulations.pool import Pool
    from smile.evaluation import pretrain
    from smile.model import build_model

    if work.row == "untrained":
        return build_model(work.config)
    folders = work.dealt if work.row == "pooled" else [work.dealt[int(work.row.removeprefix("alone-"))]]
    mine = Pool([Site(folder) for folder in folders])
    return pretrain(mine, work.config, rows=np.arange(len(mine.subjects)))


def _federated(work: Work) -> "tuple[SmileModel, dict[str, Any]]":
    """The model after the last round, and from the log bytes of a site's round in both directions and rounds that averaged."""
    from server.run_log import read
    from simulations.engines import federate
    from smile.checkpoint import load

    clients, output = work.clients, work.output
    # The people who are held out are not among the clients' any more.
    training = dataclasses.replace(work.config.training, holdout=0.0)
    config = dataclasses.replace(work.config, training=training)
    faulty = [folder.name for folder in work.dealt[len(work.dealt) - clients.faulty :]]
    federate(
        config,
        list(work.dealt),
        output,
        engine="in-process",
        logs=output / "site-logs",
        quorum=max(1, len(work.dealt) // 2),
        attacks=dict.fromkeys(faulty, clients.fault) if clients.fault else None,
        resume=any(output.glob("round-*")),
    )
    log = read(output / "log.jsonl")
    moved = sum(line["bytes_sent"] + line["bytes_received"] for line in log)
    figures = {
        "bytes": moved / sum(line["sites_asked"] for line in log),
        "averaged": sum(line["averaged"] for line in log),
        "refused": sum(len(line["refused"]) for line in log),
        "rounds": len(log),
        "round_seconds": float(np.median([line["seconds"] for line in log])),
    }
    return load(compare.last_round(output, config))[0], figures


def summarise(results: list[dict[str, Any]], task: Task, chosen: list[str]) -> dict[str, Any]:
    """Row -> figures of each method, and of a strategy what it cost and how near it came to pooled training, seed by seed."""
    alone = sorted({r["row"] for r in results if r["row"].startswith("alone-")})
    rows: dict[str, dict[str, Any]] = {}
    for row in ("untrained", "pooled", *chosen):
        mine = sorted((r for r in results if r["row"] == row), key=lambda r: r["seed"])
        rows[row] = {method: figure(mine, method, task) for method in METHODS if method in mine[0]["answers"]}
        if row in chosen:
            for name in ("bytes", "round_seconds"):
                rows[row][name] = float(np.mean([r[name] for r in mine]))
            rows[row] |= {name: sum(r[name] for r in mine) for name in ("averaged", "rounds", "refused")}
    each = [
        {m: figure([r for r in results if r["row"] == row], m, task) for m in rows["pooled"] if m in METHODS}
        for row in alone
    ]
    single = {m: _mean_of([found[m] for found in each]) for m in each[0]}
    rows = {"untrained": rows.pop("untrained"), f"one client alone (mean of {len(alone)})": single, **rows}
    for row in chosen:
        found, whole = (rows[name]["linear_probe"]["values"] for name in (row, "pooled"))
        shares = [a / b for a, b in zip(found, whole, strict=True)]
        rows[row]["of_pooled"] = {"mean": float(np.mean(found) / np.mean(whole)), "values": shares}
    tested = np.unique(np.concatenate([r["test"] for r in results])).astype(int)
    return {
        "rows": rows,
        "classes": list(task.classes),
        "chance": 1 / len(task.classes),
        "people": len(np.unique(task.subjects[tested])),
        "training_seconds": round(sum(r["seconds"] for r in results), 1),
    }


def _mean_of(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several clients: the mean of their accuracies in each seed, and the deviation of that over seeds."""
    values = np.mean([found["values"] for found in figures], axis=0)
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    low, high = (float(np.mean([found[end] for found in figures])) for end in ("low", "high"))
    return {
        "mean": float(values.mean()),
        "spread": spread,
        "values": values.tolist(),
        "low": low,
        "high": high,
    }


def table(summary: dict[str, Any]) -> str:
    """The summary as fixed-width text: percent, and for a strategy kB that a site sends and gets in a round."""
    methods = [m for m in METHODS if m in summary["rows"]["pooled"]]
    lines = [
        f"{'%, mean ± deviation over seeds':34}"
        + "".join(f"{m.replace('_', ' '):>16}" for m in methods)
        + f"{'95 % interval':>16}{CLOSE:>13}{'kB a round':>12}{'left out':>10}"
    ]
    for row, found in summary["rows"].items():
        probe = found["linear_probe"]
        cells = [f"{100 * found[m]['mean']:.1f} ± {100 * found[m]['spread']:.1f}" for m in methods]
        cells.append(f"{100 * probe['low']:.0f} - {100 * probe['high']:.0f}")
        line = f"{row:34}" + "".join(f"{cell:>16}" for cell in cells)
        if "bytes" in found:
            line += f"{100 * found['of_pooled']['mean']:>13.1f}{found['bytes'] / 1000:>12,.0f}{found['refused']:>10}"
        lines.append(line)
    lines.append(f"{'chance':34}" + "".join(f"{100 * summary['chance']:>16.1f}" for _ in methods))
    return "\n".join([*lines, _caption(summary)])


def _caption(summary: dict[str, Any]) -> str:
    clients, training = summary["clients"], summary["settings"]["training"]
    steps = summary["settings"]["federation"]["rounds"] * training["local_steps"]
    faces = "simulated faces" if summary["simulated"] else "the given folders (see their own description)"
    return (
        f"{summary['scenario']}: {clients['number']} clients ({clients['deal']}), {faces}, text from "
        f"{summary['settings']['objective']['prompt_source']}; {summary['people']} people tested, none of them trained on when "
        f"tested; {summary['seeds']} seeds, {steps} steps a client; interval over people, of the linear probe"
    )
