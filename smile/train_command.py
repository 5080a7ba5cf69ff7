"""`smile train`: one prepared site, without any federation. The work is imported only to do it.

A run is a federation of one: rounds of `--save-every` steps by `smile.training.train`, the optimiser carried over. After each
round a line goes into log.jsonl and the state to the disk, from where the same command goes on.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import SmileConfig, from_flat, to_flat
from .site.disk import held, write_atomic, write_json

if TYPE_CHECKING:
    import numpy as np

    from .site.store import Site
    from .state import State

SETTINGS, LOG, RESULT, STATES, EVENTS = "run.json", "log.jsonl", "result.json", "state", "tensorboard"
LOCK = ".smile-run"  # held while a process works on the run
INDEX = "the site's index"  # in SETTINGS, beside the options and the settings of `--set`
OWN = ("training.local-steps", "federation.", "views.")  # set by options or by the site


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train on one prepared site alone, test on people held out of it. "
        "Stop it at any time: the same command goes on where it stopped."
    )
    parser.epilog = """examples:
  smile train /data/site --out runs/mine
  smile train /data/site --out runs/faces --set objective.prompt-source=geometry --steps 1000
  smile train /data/site --out runs/large --set model.tower=ViT-B-32 --set training.precision=bf16 --device cuda
  smile train /data/site --out runs/exact --deterministic --set training.seed=1
  tensorboard --logdir runs                  the curves; python -m export bundle runs/mine/round-0008 BUNDLE for the edge
settings and their defaults: [tool.flwr.app.config] in pyproject.toml"""
    add = parser.add_argument
    add("site", metavar="SITE", type=Path, help="a prepared site; it is only read")
    add(
        "--out", type=Path, required=True, metavar="RUN", help="folder for the run: new, or one to go on with"
    )
    add("--steps", type=int, default=400, metavar="N", help="optimiser steps (default: %(default)s)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the study; may be repeated",
    )
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: %(default)s)")
    every = "steps between two states on disk, a divisor of --steps (default: %(default)s); pseudo sentences are dealt anew then"
    add("--save-every", type=int, default=50, metavar="N", help=every)
    exact = "one thread and deterministic kernels: equal to the bit on another day too, and slower"
    add("--deterministic", action="store_true", help=exact)
    add("--json", action="store_true", help="print the result as JSON on standard output")
    add("--quiet", action="store_true", help="print nothing but errors")


def run_train(arguments: argparse.Namespace) -> int:
    from .device import check_device
    from .site.store import Site

    say = _sayer(arguments)
    site = Site(arguments.site)
    config = read_config(arguments, site)
    run: Path = arguments.out
    wanted = _settings(config, site, arguments)
    _check_settings(run, wanted)
    result = _result(run, config, say)
    if result is None:
        check_device(arguments.device)
        _check_lessons(site, config, _split(site, config)[0])
        with held(run / LOCK, "smile train"), _deterministic(arguments.deterministic):
            _check_settings(run, wanted)  # again, now that nobody else can begin it
            if not _is_trained(run):
                write_json(run / SETTINGS, wanted)
            result = _train(run, site, config, arguments, say)
    else:
        say(f"{run} is finished: give another folder in --out for another run")
    if arguments.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        say(_sentence(run, result))
    return 0


def read_config(arguments: argparse.Namespace, site: "Site") -> SmileConfig:
    """The settings of the run: those of a study, views and modalities of the site, `--set` over both.

    Raises ValueError for a setting that is unknown, malformed, or not one to choose here.
    """
    steps, every = arguments.steps, arguments.save_every
    if min(steps, every) < 1:
        raise ValueError(f"--steps {steps} --save-every {every}: give numbers from 1")
    if steps % every:
        raise ValueError(
            f"--steps {steps} is no multiple of --save-every {every}: add --save-every {math.gcd(steps, every)}, or give other steps"
        )
    flat = to_flat(SmileConfig(views=site.views, model=_seen_by_model(site)))
    flat |= {"training.local-steps": every, "federation.rounds": steps // every, "federation.min-sites": 1}
    for word in arguments.set:
        key, equals, value = word.partition("=")
        if not equals or key not in flat:
            raise ValueError(f"--set {word}: give KEY=VALUE with a key such as {', '.join(list(flat)[6:10])}")
        if key.startswith(OWN):
            raise ValueError(f"--set {key}: it follows from the site, --steps and --save-every")
        flat[key] = value
    return from_flat(flat)


def _seen_by_model(site: "Site") -> Any:
    from .config import ModelConfig

    return ModelConfig(modalities=site.views.modalities)


def _train(
    run: Path, site: "Site", config: SmileConfig, arguments: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, Any]:
    from tqdm import tqdm

    from .model import build_model
    from .state import State, load_state, save_state
    from .training import train

    (rows, test), device, every = _split(site, config), arguments.device, config.training.local_steps
    state = State(build_model(config), config.training, device=device)
    load_state(run / STATES, state, say=say)
    _keep_lines(run / LOG, state.step)
    if state.step:
        say(f"going on after step {state.step} of {arguments.steps}")
    with (
        contextlib.closing(_events(run / EVENTS, state.step)) as events,
        tqdm(
            total=arguments.steps,
            initial=state.step,
            unit="step",
            file=sys.stderr,
            disable=_silent(arguments),
        ) as bar,
    ):

        def watch(step: int, parts: dict[str, float]) -> None:
            for name, value in parts.items():
                events.add_scalar(f"loss/{name}", value, step)
            bar.set_postfix({name: f"{value:.3g}" for name, value in parts.items() if value}, refresh=False)
            bar.update()

        while state.step < arguments.steps:
            started = time.monotonic()
            try:
                parts = train(
                    state.model,
                    site,
                    config,
                    rows=rows,
                    first_step=state.step,
                    device=device,
                    state=state,
                    watch=watch,
                )
            except KeyboardInterrupt:
                done = state.step - state.step % every
                raise KeyboardInterrupt(
                    f"stopped: what is done up to step {done} is kept, run the same command again to go on"
                ) from None
            line = {"step": state.step, **parts, "seconds": round(time.monotonic() - started, 3)}
            _append(run / LOG, line)
            save_state(run / STATES, state)
    state.finish()
    return _finish(run, site, config, state, rows, test, device)


def _split(site: "Site", config: SmileConfig) -> "tuple[np.ndarray, np.ndarray]":
    """Rows of the people trained on, and of those held out."""
    import numpy as np

    from .split import held_out

    out = held_out(site.subjects, share=config.training.holdout, seed=config.training.seed)
    return np.flatnonzero(~out), np.flatnonzero(out)


def _check_lessons(site: "Site", config: SmileConfig, rows: "np.ndarray") -> None:
    """Raises ValueError where the settings ask for what no row has, so that nothing would be learnt from it.

    Only here: in a federation a site without labels, or of single scans, takes part with what it has.
    """
    import numpy as np

    objective = config.objective
    if objective.prompt_source == "label" and not (site.labels[rows] != "").any():
        raise ValueError(
            f"{site.path} has no label of anybody trained on: choose a source that needs none, "
            "--set objective.prompt-source=geometry, pseudo or none"
        )
    known = np.isfinite(site.times[rows])
    moments = np.unique(np.stack([site.sequences[rows], site.times[rows]])[:, known], axis=1)[0]
    for name in ("order", "intensity"):
        if getattr(objective, name) and len(np.unique(moments)) == len(moments):
            raise ValueError(
                f"objective.{name} = {getattr(objective, name):g} needs two frames of a sequence, and {site.path} has none of "
                "anybody trained on: prepare it with --frames, or leave the setting out"
            )


def _finish(
    run: Path, site: "Site", config: SmileConfig, state: "State", rows: Any, test: Any, device: str
) -> dict[str, Any]:
    """The checkpoint, as a round of a federation leaves it, and the figures on the people held out."""
    import numpy as np

    from . import __version__
    from .checkpoint import save
    from .evaluation import evaluate
    from .prompts import bank_hash
    from .protocol import get_arrays, source_fingerprint

    folder = _last_round(run, config)
    meta = {
        "round": config.federation.rounds,
        "version": __version__,
        "source": source_fingerprint(),
        "prompts": bank_hash(),
    }
    save(folder, get_arrays(state.model), config, meta)
    labelled = site.labels != ""
    scores = None
    if labelled[rows].any() and labelled[test].any():
        scores = evaluate(state.model, site, config, train=rows, test=test, device=device)
    result = {
        "checkpoint": str(folder),
        "steps": state.step,
        "prompt_source": config.objective.prompt_source,
        "trained_on": len(rows),
        "people_held_out": len(np.unique(site.subjects[test])),
        "evaluation": scores,
    }
    write_json(run / RESULT, result)
    return result


def _sentence(run: Path, result: dict[str, Any]) -> str:
    scores = result["evaluation"]
    said = "no labels on both sides of the split, so nothing to score"
    if not result["people_held_out"]:
        said = "nobody is held out (one person, or training.holdout = 0), so nothing to score"
    if scores:
        methods = ("linear_probe", "knn", "zero_shot")
        said = ", ".join(f"{name.replace('_', ' ')} {100 * scores[name]:.1f} %" for name in methods)
        said += f" of {scores['test_sequences']} sequences of {scores['test_subjects']} people held out"
        said += f" (chance {100 * scores['chance']:.1f} %)"
    return f"{result['checkpoint']}: {result['steps']} steps, prompt source {result['prompt_source']}; {said}"


def _last_round(run: Path, config: SmileConfig) -> Path:
    return run / f"round-{config.federation.rounds:04d}"


def _result(run: Path, config: SmileConfig, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What a finished run has found; None where it is not finished, or where the last step is to be done again."""
    if not (run / RESULT).exists():
        return None
    if not (_last_round(run, config) / "model.safetensors").is_file():
        say(f"{_last_round(run, config)} is gone: it is made again")
        return None
    try:
        result = dict(json.loads((run / RESULT).read_bytes()))
        _sentence(run, result)
        return result
    except (ValueError, TypeError, KeyError, RecursionError):
        say(f"{run / RESULT} is damaged: it is made again")
        return None


def _settings(config: SmileConfig, site: "Site", arguments: argparse.Namespace) -> dict[str, Any]:
    """All that a run depends on, by the names that the user gave them."""
    options = {
        "--steps": arguments.steps,
        "--save-every": arguments.save_every,
        "--deterministic": arguments.deterministic,
    }
    own = ("training.local-steps", "federation.rounds")
    settings = {f"--set {key}": value for key, value in to_flat(config).items() if key not in own}
    return {**options, **settings, INDEX: site.manifest["index_sha256"]}


def _is_trained(run: Path) -> bool:
    """Whether anything is there that the settings in SETTINGS have made."""
    return (run / RESULT).exists() or any(run.glob("round-*")) or any((run / STATES).glob("step-*.json"))


def _check_settings(run: Path, wanted: dict[str, Any]) -> None:
    """Raises ValueError where the folder is not ours, or has begun with other settings."""
    if not (run / SETTINGS).exists():
        if run.is_dir() and any(path.name != LOCK for path in run.iterdir()):
            raise ValueError(f"{run} is not empty and no run of `smile train`: give another folder in --out")
        return
    try:
        found = dict(json.loads((run / SETTINGS).read_bytes()))
        index = found[INDEX]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{run / SETTINGS} cannot be read: give another folder in --out") from None
    if not _is_trained(run):  # a first try that failed claims nothing
        return
    if index != wanted[INDEX]:
        raise ValueError(
            f"{run} was begun on another site, or on this one with other samples or labels: "
            "give the same site to go on, or another folder in --out"
        )
    for key in (*wanted, *found):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"{run} was begun {_said(key, found)}, not {_said(key, wanted)}: "
                "give the same to go on, or another folder in --out"
            )


def _said(key: str, settings: dict[str, Any]) -> str:
    """An option as the user gives it."""
    value = settings.get(key)
    if value is None or value is False:
        return f"without {key}"
    if value is True:
        return f"with {key}"
    return f"with {key}{'=' if key.startswith('--set') else ' '}{value}"


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic kernels and one thread, as the order of a sum over threads changes its last bit."""
    if not wanted:
        yield
        return
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def _events(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(
        str(folder), purge_step=step
    )  # points of steps that a killed run did not keep vanish


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _keep_lines(path: Path, step: int) -> None:
    """Drop the lines of rounds whose state was not kept, and those that are damaged."""
    kept = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + b"\n")
    write_atomic(path, lambda file: file.write(b"".join(kept)))


def _silent(arguments: argparse.Namespace) -> bool | None:
    return True if arguments.quiet else None  # None: where standard error is no terminal


def _sayer(arguments: argparse.Namespace) -> Callable[[str], None]:
    if arguments.quiet:
        return lambda line: None
    stream = sys.stderr if arguments.json else sys.stdout
    return lambda line: print(line, file=stream, flush=True)
