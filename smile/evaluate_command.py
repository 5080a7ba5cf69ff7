"""`smile evaluate`: a checkpoint, or its settings trained anew in each fold, by a named protocol on one prepared site.

The work is imported only to do it.
"""

import argparse
import dataclasses
import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .protocols import PROTOCOLS, SEVERAL, SINGLE, Split, Study, Task, folds_hash, select, splits
from .site.disk import write_json

if TYPE_CHECKING:
    import numpy as np

    from .config import SmileConfig
    from .model import SmileModel
    from .site.store import Site

    Answers = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # method -> of each fold: decisions, answers


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure a checkpoint on a prepared site: frozen features, folds of people, intervals over people."
    )
    width = max(map(len, PROTOCOLS))
    parser.epilog = "protocols:\n" + "\n".join(f"  {name:{width}}  {s.line}" for name, s in PROTOCOLS.items())
    parser.epilog += """

examples:
  smile evaluate /data/site runs/mine                                   people that the training held out
  smile evaluate /data/bu4dfe runs/mine --protocol bu4dfe --untrained   beside the same network before training
  smile evaluate /data/bu4dfe runs/mine --protocol bu4dfe --retrain     pre-trained anew in each fold: no test person seen
  smile evaluate /data/bp4d runs/mine --protocol bp4d-au --json --out report.json"""
    add = parser.add_argument
    add("site", metavar="SITE", type=Path, help="a prepared site; it is only read")
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="folder of a finished round, or of a run: its last round",
    )
    add(
        "--protocol", choices=tuple(PROTOCOLS), default="holdout", metavar="NAME", help="default: %(default)s"
    )
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="repetitions with other folds (default: %(default)s)",
    )
    add("--untrained", action="store_true", help="the same network without any training beside it")
    add("--retrain", action="store_true", help="train anew in each fold, on its training people alone")
    add(
        "--shots", type=int, metavar="K", help="few-shot too: a probe on K sequences of each class, ten draws"
    )
    add(
        "--fine-tune",
        type=int,
        metavar="STEPS",
        help="fine-tune too: tower and a head, on each fold's labels",
    )
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: %(default)s)")
    add("--out", type=Path, metavar="JSON", help="write the report there as well")
    add("--json", action="store_true", help="print the report as JSON on standard output")


def run_evaluate(arguments: argparse.Namespace) -> int:
    from .checkpoint import latest, load
    from .decisions import figures
    from .device import check_device
    from .site.store import Site

    study, folder = PROTOCOLS[arguments.protocol], arguments.checkpoint
    if arguments.seeds < 1 or any(
        number is not None and number < 1 for number in (arguments.shots, arguments.fine_tune)
    ):
        raise ValueError("--seeds, --shots and --fine-tune: give 1 or more")
    if study.several and (arguments.shots or arguments.fine_tune):
        raise ValueError(f"--protocol {arguments.protocol} asks yes or no: leave --shots and --fine-tune out")
    check_device(arguments.device)
    site = Site(arguments.site)
    model, config, _ = load(folder if (folder / "model.safetensors").is_file() else latest(folder))
    if dataclasses.replace(site.views, modalities=config.views.modalities) != config.views:
        raise ValueError(
            f"{site.path} was prepared with {site.views}, the checkpoint was trained on {config.views}: "
            "run `smile prepare` again with those settings"
        )
    task = select(study, site, dataset=site.manifest["dataset"])
    folds = [
        splits(study, task, config.training, people=site.subjects, seed=seed)
        for seed in range(arguments.seeds)
    ]
    if arguments.out is not None:
        _check_out(arguments.out)
    found = _measure(site, model, config, task, folds, arguments)
    report = {
        **_facts(arguments.protocol, study, task, folds, config),
        "dataset": site.manifest["dataset"],
        "pretraining": _seen(site, config, task, folds, retrain=arguments.retrain),
        "figures": {who: {m: figures(task, a) for m, a in answers.items()} for who, answers in found.items()},
    }
    print(json.dumps(report, indent=2, allow_nan=False) if arguments.json else text(report), flush=True)
    if arguments.out is not None:
        write_json(arguments.out, report)
    return 0


def _check_out(path: Path) -> None:
    """Make the folder of the report, before the work. Raises ValueError or OSError where no file can be written there."""
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def _measure(
    site: "Site",
    model: "SmileModel",
    config: "SmileConfig",
    task: Task,
    folds: list[list[Split]],
    arguments: argparse.Namespace,
) -> "dict[str, Answers]":
    """Who (retrained or checkpoint, untrained) -> answers in every fold of every repetition."""
    import numpy as np
    from tqdm import tqdm

    from .decisions import answer_all, embeddings, fine_tuned
    from .evaluation import pretrain
    from .model import build_model

    who = "retrained" if arguments.retrain else "checkpoint"
    results: dict[str, Answers] = {name: {} for name in (who, *["untrained"] * arguments.untrained)}
    device, steps = arguments.device, arguments.fine_tune
    with tqdm(total=len(results) * sum(map(len, folds)), unit="fold", file=sys.stderr, disable=None) as bar:
        for who, found in results.items():
            before: Any = None
            for seed, number, split in _numbered(folds):
                wanted = {"checkpoint": (), "untrained": (seed,), "retrained": (seed, number)}[who]
                if wanted != before:  # else the model is that of the fold before
                    before, own = wanted, config if who == "checkpoint" else _with_seed(config, seed)
                    people = np.unique(task.subjects[split.train])
                    rows = np.flatnonzero(np.isin(site.subjects, people))
                    if who == "retrained":
                        model = pretrain(site, own, rows=rows, device=device)
                    elif who == "untrained":
                        model = build_model(own)
                    encoded = embeddings(model, site, task, own, device=device)
                answers = answer_all(encoded, task, split, own, shots=arguments.shots)
                if steps:
                    answers["fine_tuned"] = fine_tuned(
                        model, site, task, split, own, steps=steps, device=device
                    )
                for method, answer in answers.items():
                    found.setdefault(method, []).append((split.test, answer))
                bar.update()
    return results


def _numbered(folds: list[list[Split]]) -> Iterator[tuple[int, int, Split]]:
    """(repetition, fold, its split) one after the other."""
    return ((seed, number, split) for seed, found in enumerate(folds) for number, split in enumerate(found))


def _with_seed(config: "SmileConfig", seed: int) -> "SmileConfig":
    training = dataclasses.replace(config.training, seed=config.training.seed + seed)
    return dataclasses.replace(config, training=training)


def _facts(
    name: str, study: Study, task: Task, folds: list[list[Split]], config: "SmileConfig"
) -> dict[str, Any]:
    """What was asked of whom, for the report."""
    import numpy as np

    tested = np.unique(np.concatenate([split.test for found in folds for split in found]))
    return {
        "protocol": name,
        "line": study.line,
        "to_be_confirmed": study.confirm,
        "notes": list(task.notes),
        "classes": list(task.classes),
        "chance": None if study.several else 1 / len(task.classes),
        "decisions": len(tested),
        "people": len(np.unique(task.subjects[tested])),
        "folds": len(folds[0]),
        "folds_sha256": folds_hash(task, folds),
        "seeds": len(folds),
        "prompt_source": config.objective.prompt_source,
        "settings": dataclasses.asdict(config),
    }


def _seen(
    site: "Site", config: "SmileConfig", task: Task, folds: list[list[Split]], *, retrain: bool
) -> dict[str, Any]:
    """Whether pre-training saw the people that are tested: subject-disjoint folds must hold for it too."""
    import numpy as np

    from .split import held_out

    if retrain:
        return {"kind": "inductive", "sentence": "done anew in each fold, without the people tested in it"}
    tested = np.unique(task.subjects[np.concatenate([split.test for found in folds for split in found])])
    training = config.training
    out = held_out(site.subjects, share=training.holdout, seed=training.seed)
    seen = int((~np.isin(tested, site.subjects[out])).sum())
    rule = f"training.holdout = {training.holdout:g}, seed {training.seed}"
    if not seen:
        sentence = f"the checkpoint's training holds out all of the people tested ({rule})"
        return {"kind": "inductive", "seen": 0, "sentence": sentence}
    sentence = (
        f"TRANSDUCTIVE if this site took part in the checkpoint's training, which then saw {seen} of the {len(tested)} "
        f"people tested ({rule}): see --retrain"
    )
    return {"kind": "transductive", "seen": seen, "sentence": sentence}


def text(report: dict[str, Any]) -> str:
    """The report for a person, figures in percent."""
    lines = [f"{report['protocol']}: {report['line']}"]
    lines += [f"to be confirmed: {report['to_be_confirmed']}"] if report["to_be_confirmed"] else []
    lines += [f"note: {note}" for note in report["notes"]]
    chance = f", chance {100 * report['chance']:.1f}" if report["chance"] else ""
    lines.append(
        f"{report['decisions']} decisions on {report['people']} people, {len(report['classes'])} classes{chance}; folds "
        f"{report['folds']} x {report['seeds']} (sha256 {report['folds_sha256']}); text from: {report['prompt_source']}"
    )
    lines.append(f"pre-training: {report['pretraining']['sentence']}")
    names = list(report["figures"])
    lines.append(f"{'%, 95 % interval over people':30}" + "".join(f"{who:>24}" for who in names))
    for method, found in report["figures"][names[0]].items():
        for name in SEVERAL if "f1" in found else SINGLE:
            cells = [_cell(report["figures"][who][method][name]) for who in names]
            lines.append(f"{method.replace('_', ' '):16}{name:14}" + "".join(f"{cell:>24}" for cell in cells))
        for name in found.get("f1", {}):
            values = [report["figures"][who][method]["f1"][name] for who in names]
            cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
            lines.append(f"{'':16}{'F1 ' + name:14}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def _cell(figure: dict[str, Any]) -> str:
    if figure["value"] is None or figure["low"] is None:
        return "-"
    return f"{100 * figure['value']:.1f} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
