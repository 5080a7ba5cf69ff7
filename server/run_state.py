"""Everything that a run needs to go on after a crash, kept whole in the checkpoint of each round.

`round-NNNN/` holds the published model and, in the newest two, `server.safetensors` with what only the server needs. Random
draws are no part of it: they follow from the seed and the round.
"""

import dataclasses
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from server.checks import Checks
from server.optimisers import RunningAverage, ServerOptimiser
from server.run_log import append, forget_after, read
from smile.config import SmileConfig, to_flat

SERVER_FILE = "server.safetensors"
KEEP = 2  # rounds whose server state stays on disk: the newest, and the one before should it be damaged
# What a coordinator may change when a run goes on: where it lies, and how long it waits for whom.
FREE = ("federation.output", "federation.resume", "federation.min-sites", "federation.round-timeout")


@dataclass
class RunState:
    """A run after `round` rounds. `arrays`: the weights that sites are sent next, float32 by name."""

    arrays: dict[str, np.ndarray]
    checks: Checks
    optimiser: ServerOptimiser
    average: RunningAverage
    study: str = field(
        default_factory=lambda: secrets.token_hex(8)
    )  # its name at the sites, also when it goes on
    round: int = 0
    rounds_averaged: int = 0
    holders: frozenset[str] = frozenset()  # sites that hold `arrays` and can be sent a difference
    residual: dict[str, np.ndarray] = field(default_factory=dict)  # what compression lost of what was sent
    line: dict[str, Any] = field(
        default_factory=dict
    )  # of log.jsonl, on the last round: written after the checkpoint

    @property
    def published(self) -> dict[str, np.ndarray]:
        """The weights of the checkpoint: those that are sent, or their mean over rounds (`federation.swa`)."""
        return self.average.mean() if self.average.count else self.arrays


def begin(arrays: dict[str, np.ndarray], config: SmileConfig) -> RunState:
    """A run that has done nothing yet."""
    settings = config.federation
    return RunState(
        arrays,
        Checks(norm_limit=settings.norm_limit),
        ServerOptimiser(settings.server_optimiser, settings.server_rate),
        RunningAverage(),
    )


def save(output: Path, state: RunState, config: SmileConfig, meta: dict[str, Any]) -> None:
    """Write OUTPUT/round-NNNN, whole or absent, and let go of the server's state of older rounds."""
    from smile import checkpoint

    parts = {
        "optimiser": state.optimiser.arrays(),
        "average": state.average.arrays(),
        "residual": state.residual,
    }
    if state.average.count:
        parts["weights"] = state.arrays
    kept = {f"{part}|{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
    server = {
        "study": state.study,
        "rounds_averaged": state.rounds_averaged,
        "holders": sorted(state.holders),
        "checks": state.checks.state_dict(),
        "line": state.line,
    }
    meta = {"round": state.round, **meta, "server": server}
    checkpoint.save(
        round_folder(output, state.round), state.published, config, meta, extra={SERVER_FILE: kept}
    )
    for old in sorted(output.glob(f"round-*/{SERVER_FILE}"))[:-KEEP]:
        old.unlink()


def resume(folder: Path, config: SmileConfig) -> RunState:
    """The state after the newest whole round in `folder`; lines of log.jsonl about later rounds are taken back.

    Raises ValueError where there is no run, where it was begun with other settings, or where both newest rounds are damaged.
    """
    from smile.checkpoint import latest

    if not (folder / "log.jsonl").exists() and not list(folder.glob("round-*")):
        raise ValueError(f"{folder} holds no run: give the folder of federation.output in federation.resume")
    newest = latest(folder)
    numbers = sorted(
        (int(path.parent.name[6:]) for path in folder.glob(f"round-*/{SERVER_FILE}")), reverse=True
    )
    if not numbers:
        raise ValueError(f"{newest} was written by an older release and cannot go on: begin a new run")
    reason = ""
    for number in numbers:
        try:
            state = _load(folder, number, config)
        except _OtherSettings:
            raise
        except ValueError as error:
            reason = reason or str(error)
            continue
        log = folder / "log.jsonl"
        forget_after(log, number)
        if state.line and number not in [line["round"] for line in (read(log) if log.exists() else [])]:
            append(log, state.line)  # killed between the checkpoint and its line
        return state
    raise ValueError(reason)


def round_folder(output: Path, number: int) -> Path:
    return output / f"round-{number:04d}"


class _OtherSettings(ValueError):
    pass


def _load(folder: Path, number: int, config: SmileConfig) -> RunState:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from smile.checkpoint import read

    path = round_folder(folder, number)
    arrays, saved, meta = read(path)
    _same_settings(saved, config)
    try:
        server, kept = meta["server"], load_file(path / SERVER_FILE)
        parts: dict[str, dict[str, np.ndarray]] = {
            "optimiser": {},
            "average": {},
            "residual": {},
            "weights": {},
        }
        for name, array in kept.items():
            part, _, rest = name.partition("|")
            parts[part][rest] = array
        state = begin(parts["weights"] or arrays, config)
        state.optimiser.load(parts["optimiser"])
        state.average.load(parts["average"])
        state.checks.load(server["checks"])
        return dataclasses.replace(
            state,
            study=str(server["study"]),
            round=number,
            rounds_averaged=int(server["rounds_averaged"]),
            holders=frozenset(map(str, server["holders"])),
            residual=parts["residual"],
            line=dict(server["line"]),
        )
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}): copy it again, or begin a new run"
        ) from None


def _same_settings(saved: SmileConfig, config: SmileConfig) -> None:
    old, new = to_flat(saved), to_flat(config)
    changed = [key for key in new if key not in FREE and old[key] != new[key]]
    if changed:
        key = changed[0]
        raise _OtherSettings(
            f"the run was begun with {key} = {old[key]}, not {new[key]}: go on with its settings, or begin a new run"
        )
