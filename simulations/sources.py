"""`python -m simulations sources`: where sentences come from, siblings, supervised and untrained, on the same people.

Every row trains the same network for the same number of steps on the same people; only what it learns from differs. Each
(row, seed, fold) is a task of its own, kept on disk under a hash of all that it depends on: a stopped run goes on.
"""

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simulations import compare
from simulations.journey import Plan, Steps, prepare_sites
from simulations.tasks import METHODS, bars, cut, done, figure, people
from smile.config import SmileConfig, from_flat, to_flat
from smile.protocols import Task, folds_hash
from smile.site.disk import is_site, write_json
from smile.site.store import Site

# Row -> what it changes in the settings. A sibling stands on the source that its own paper trains on, as far as known.
ROWS: dict[str, dict[str, str]] = {
    "untrained": {},
    "supervised": {},  # cross-entropy on the labels, nothing else
    "label": {"objective.prompt-source": "label"},
    "pseudo": {"objective.prompt-source": "pseudo"},
    "geometry": {"objective.prompt-source": "geometry"},
    "none": {"objective.prompt-source": "none"},
    "affectvlm": {"objective.prompt-source": "label", "objective.sibling": "affectvlm"},
    "multiviewvlm": {"objective.prompt-source": "pseudo", "objective.sibling": "multiviewvlm"},
    "facet": {"objective.prompt-source": "geometry", "objective.sibling": "facet"},
    "conclugen": {"objective.prompt-source": "geometry", "objective.sibling": "conclugen"},
}
USES_LABELS = ("supervised", "label", "affectvlm")


class Work(NamedTuple):
    """One training and what it answers on one fold."""

    row: str
    seed: int
    fold: int
    folds: int  # 1: the study's held-out share of every site
    config: SmileConfig
    sites: tuple[Path, ...]

    def key(self) -> str:
        """Name of its file: tells it from every run with other settings, other views or another program."""
        from smile.protocol import source_fingerprint

        data = [Site(site).manifest["index_sha256"] for site in self.sites]
        said = [self.row, self.fold, self.folds, to_flat(self.config), data, source_fingerprint()]
        digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]
        return f"{self.row}-seed-{self.seed}-fold-{self.fold}-{digest}.json"


def run(
    plan: Plan, *, out: Path, rows: tuple[str, ...], steps: int | None, folds: int | None, quiet: bool
) -> dict[str, Any]:
    """Prepare sites below `out`, train what is missing, write OUT/sources/{summary.json,table.txt,table.png}."""
    config = _with_steps(plan.config, steps)
    folds = folds or (5 if plan.raw else 1)
    unknown = sorted(set(rows) - set(ROWS))
    if unknown or folds < 1:
        raise ValueError(
            f"--rows {','.join(unknown)} --folds {folds}: give folds from 1, rows of {', '.join(ROWS)}"
        )
    out, said = out.resolve(), Steps(quiet)
    sites = (
        list(plan.raw)
        if plan.raw and all(map(is_site, plan.raw))
        else prepare_sites(plan, out, said, quiet)[1]
    )
    folder = out / "sources"
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    seeds = range(config.training.seed, config.training.seed + plan.seeds)
    pool, task = people(sites)
    cuts = {seed: cut(pool, task, compare.with_seed(config, seed), folds) for seed in seeds}
    work = [
        Work(row, seed, fold, folds, _settings(config, row, seed), tuple(sites))
        for fold in range(len(cuts[seeds[0]]))
        for seed in seeds
        for row in rows
    ]
    said.begin(f"{len(work)} trainings of {_total(config)} steps over {plan.jobs} processes")
    results, failed = [], dict[str, str]()
    for number, (item, found) in enumerate(done(work, folder / "tasks", result, jobs=plan.jobs), start=1):
        if "error" in found:
            failed[item.row] = found["error"]
        else:
            results.append(found)
        said.note(f"{number} of {len(work)}: {item.row}, seed {item.seed}, fold {item.fold}")
    summary = {
        **summarise(results, task),
        "failed": failed,
        "simulated": not plan.raw,
        "seeds": len(seeds),
        "folds": len(cuts[seeds[0]]),
        "folds_sha256": folds_hash(task, list(cuts.values())),
        "steps": _total(config),
        "settings": dataclasses.asdict(config),
    }
    write_json(folder / "summary.json", summary)
    (folder / "table.txt").write_text(table(summary) + "\n")
    names = [f"{row}\n(labels)" if row in USES_LABELS else row for row in summary["rows"]]
    bars(summary["rows"], names, folder / "table.png", chance=summary["chance"], caption=_caption(summary))
    if not quiet:
        print(table(summary))
        print(f"written to {folder}")
    return summary


def _with_steps(config: SmileConfig, steps: int | None) -> SmileConfig:
    """`steps` optimiser steps in as many rounds as the study has."""
    if steps is None:
        return config
    local, rest = divmod(steps, config.federation.rounds)
    if rest or local < 1:
        raise ValueError(
            f"--steps {steps}: give a multiple of federation.rounds = {config.federation.rounds}"
        )
    return dataclasses.replace(config, training=dataclasses.replace(config.training, local_steps=local))


def _total(config: SmileConfig) -> int:
    return config.federation.rounds * config.training.local_steps


def _settings(config: SmileConfig, row: str, seed: int) -> SmileConfig:
    return from_flat({**to_flat(compare.with_seed(config, seed)), **ROWS[row]})


def result(work: Work) -> dict[str, Any]:
    """Train one row and answer its fold; `error` where its settings cannot be trained on these sites."""
    from smile.decisions import answer_all, embeddings
    from smile.evaluation import fine_tune, head_answers, pretrain
    from smile.model import build_model

    started, config = time.monotonic(), work.config
    pool, task = people(work.sites)
    split = cut(pool, task, config, work.folds)[work.fold]
    mine = np.flatnonzero(~np.isin(pool.subjects, np.unique(task.subjects[split.test])))
    try:
        if work.row == "supervised":
            model, labelled = build_model(config), np.isin(task.unit, split.train)
            rows, targets = task.rows[labelled], task.truth[task.unit[labelled]]
            head = fine_tune(model, pool, config, rows=rows, targets=targets, steps=_total(config))
        elif work.row == "untrained":
            model = build_model(config)
        else:
            model = pretrain(pool, config, rows=mine)
    except ValueError as error:
        return {"error": str(error)}
    encoded = embeddings(model, pool, task, config)
    answers = answer_all(encoded, task, split, config)
    if work.row == "supervised":  # its embedding never met a sentence
        del answers["zero_shot"]
        answers["head"] = head_answers(head, encoded[0][split.test])
    return {
        **{"row": work.row, "seed": work.seed, "fold": work.fold, "test": split.test.tolist()},
        "answers": {method: answer.tolist() for method, answer in answers.items()},
        "seconds": round(time.monotonic() - started, 1),
    }


def summarise(results: list[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Accuracy of each row and method: mean and deviation over seeds, 95 % interval over people; and the margins asked for."""
    rows: dict[str, dict[str, Any]] = {}
    for row in [name for name in ROWS if any(r["row"] == name for r in results)]:
        mine = [r for r in results if r["row"] == row]
        rows[row] = {
            m: figure([r for r in mine if m in r["answers"]], m, task)
            for m in METHODS
            if m in mine[0]["answers"]
        }
    tested = (
        np.unique(np.concatenate([r["test"] for r in results])).astype(int) if results else np.zeros(0, int)
    )
    return {
        "rows": rows,
        "margins": _margins(rows),
        "classes": list(task.classes),
        "chance": 1 / len(task.classes),
        "people": len(np.unique(task.subjects[tested])),
        "decisions": len(tested),
        "training_seconds": round(sum(r["seconds"] for r in results), 1),
    }


def _margins(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The differences that the project has set itself, in points."""

    def probe(row: str) -> float:
        return 100 * rows[row]["linear_probe"]["mean"]

    wanted = {
        "geometry over untrained, linear probe (15 wanted)": ("geometry", "untrained"),
        "label over geometry, linear probe (at most 5 wanted)": ("label", "geometry"),
        "supervised over label, linear probe (at most 3 wanted)": ("supervised", "label"),
    }
    found = {text: probe(a) - probe(b) for text, (a, b) in wanted.items() if a in rows and b in rows}
    if "geometry" in rows:
        found["geometry, zero-shot (60 wanted)"] = 100 * rows["geometry"]["zero_shot"]["mean"]
    return found


def table(summary: dict[str, Any]) -> str:
    """The summary as fixed-width text, in percent."""
    lines = [
        f"{'%, mean ± deviation over seeds':32}" + "".join(f"{m.replace('_', ' '):>16}" for m in METHODS)
    ]
    for row, found in summary["rows"].items():
        cells = [
            f"{100 * found[m]['mean']:.1f} ± {100 * found[m]['spread']:.1f}" if m in found else "-"
            for m in METHODS
        ]
        name = f"{row} (uses labels)" if row in USES_LABELS else row
        lines.append(f"{name:32}" + "".join(f"{cell:>16}" for cell in cells))
    lines += [f"{row:32}{'-':>16} {sentence}" for row, sentence in summary["failed"].items()]
    lines.append(f"{'chance':32}" + "".join(f"{100 * summary['chance']:>16.1f}" for _ in METHODS))
    lines += [f"{text:60}{value:>8.1f}" for text, value in summary["margins"].items()]
    lines.append(_caption(summary))
    return "\n".join(lines)


def _caption(summary: dict[str, Any]) -> str:
    faces = "simulated faces" if summary["simulated"] else "the given folders (see their own description)"
    return (
        f"{faces}; {summary['decisions']} decisions on {summary['people']} people, none of them trained on when tested; "
        f"{summary['folds']} folds x {summary['seeds']} seeds (sha256 {summary['folds_sha256']}), {summary['steps']} steps"
    )
