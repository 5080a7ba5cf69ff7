"""`smile train`: one prepared site, without any federation. The work is imported only to do it.

A run is a federation of one: rounds of `--save-every` steps by `smile.training.train`, the optimiser carried over. After each
round a line goes into log.jsonl and the state to the disk, from where the same command goes on.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import SmileConfig, from_flat, to_flat
from .site.disk import write_atomic, write_json

if TYPE_CHECKING:
    from .site.store import Site
    from .state import State

SETTINGS, LOG, RESULT, STATES, EVENTS = "run.json", "log.jsonl", "result.json", "state", "tensorboard"
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
  tensorboard --logdir runs                  the curves; python -m export runs/mine/round-0008 BUNDLE for the edge
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
    from .site.store import Site

    say = _sayer(arguments)
    site = Site(arguments.site)
    config = read_config(arguments, site)
    run: Path = arguments.out
    _claim(run, config, site, deterministic=arguments.deterministic)
    if (run / RESULT).exists():
        result = json.loads((run / RESULT).read_bytes())
        say(f"{run} is finished: give another folder in --out for another run")
    else:
        _check_device(arguments.device)
        with _deterministic(arguments.deterministic):
            result = _train(run, site, config, arguments, say)
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
    if every < 1 or steps < every or steps % every:
        raise ValueError(
            f"--steps {steps} --save-every {every}: give steps that are a multiple of it, from 1"
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
    import numpy as np
    from tqdm import tqdm

    from .model import build_model
    from .split import held_out
    from .state import State, load_state, save_state
    from .training import train

    out = held_out(site.subjects, share=config.training.holdout, seed=config.training.seed)
    rows, device, every = np.flatnonzero(~out), arguments.device, config.training.local_steps
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
    return _finish(run, site, config, state, rows, np.flatnonzero(out), device)


def _finish(
    run: Path, site: "Site", config: SmileConfig, state: "State", rows: Any, test: Any, device: str
) -> dict[str, Any]:
    """The checkpoint, as a round of a federation leaves it, and the figures on the people held out."""
    from . import __version__
    from .checkpoint import save
    from .evaluation import evaluate
    from .prompts import bank_hash
    from .protocol import get_arrays, source_fingerprint

    folder = run / f"round-{config.federation.rounds:04d}"
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
        "evaluation": scores,
    }
    write_json(run / RESULT, result)
    return result


def _sentence(run: Path, result: dict[str, Any]) -> str:
    scores = result["evaluation"]
    said = "no labels on both sides of the split, so nothing to score"
    if scores:
        methods = ("linear_probe", "knn", "zero_shot")
        said = ", ".join(f"{name.replace('_', ' ')} {100 * scores[name]:.1f} %" for name in methods)
        said += f" of {scores['test_sequences']} sequences of {scores['test_subjects']} people held out"
        said += f" (chance {100 * scores['chance']:.1f} %)"
    return f"{result['checkpoint']}: {result['steps']} steps, prompt source {result['prompt_source']}; {said}"


def _claim(run: Path, config: SmileConfig, site: "Site", *, deterministic: bool) -> None:
    """Make the folder ours, or see that it is this very run's. Raises ValueError where it is not."""
    wanted = {
        **to_flat(config),
        "deterministic": deterministic,
        "the site's index": site.manifest["index_sha256"],
    }
    if run.is_dir() and any(run.iterdir()) and not (run / SETTINGS).exists():
        raise ValueError(f"{run} is not empty and no run of `smile train`: give another folder in --out")
    run.mkdir(parents=True, exist_ok=True)
    if not (run / SETTINGS).exists():
        write_json(run / SETTINGS, wanted)
        return
    try:
        found = dict(json.loads((run / SETTINGS).read_bytes()))
    except (ValueError, TypeError):
        raise ValueError(f"{run / SETTINGS} cannot be read: give another folder in --out") from None
    for key in (*wanted, *found):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"{run} was begun with {key} = {found.get(key)}, not {wanted.get(key)}: "
                "give the same settings to go on, or another folder in --out"
            )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used ({reason}): leave it out for the CPU") from None


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
    """Drop the lines of rounds whose state was not kept, and a half-written one."""
    kept = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
    write_atomic(path, lambda file: file.write("".join(kept).encode()))


def _silent(arguments: argparse.Namespace) -> bool | None:
    return True if arguments.quiet else None  # None: where standard error is no terminal


def _sayer(arguments: argparse.Namespace) -> Callable[[str], None]:
    if arguments.quiet:
        return lambda line: None
    stream = sys.stderr if arguments.json else sys.stdout
    return lambda line: print(line, file=stream, flush=True)
