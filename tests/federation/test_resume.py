"""A federation whose server or site is killed at any moment, and resumed, ends equal to the bit to the one that nobody stopped."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from server import run_state
from server.run_log import forget_after, read
from simulations.engines import federate
from smile.config import FederationConfig, SmileConfig

ROUNDS = 3
# Everything that has a memory, at the server and at the sites.
EVERYTHING: dict[str, Any] = {
    "bits": 8,
    "top_k": 0.5,
    "personal": "norms",
    "optimiser": "kept",
    "blend": 0.5,
    "server_optimiser": "momentum",
    "server_rate": 0.5,
    "swa": 2,
    "proximal": 0.01,
}


def study(small_config: SmileConfig, **changes: Any) -> SmileConfig:
    return dataclasses.replace(small_config, federation=FederationConfig(rounds=ROUNDS, **changes))


def outcome(output: Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    lines = read(output / "log.jsonl")
    for line in lines:
        # A site that forgot a round is sent the whole model again: more bytes, the same weights.
        del line["seconds"], line["bytes_sent"]
        for site in line["sites"]:
            del site["seconds"], site["bytes_sent"]
    return load_file(output / f"round-{ROUNDS:04d}" / "model.safetensors"), lines


def assert_equal(found: tuple[dict, list], expected: tuple[dict, list]) -> None:
    assert found[0].keys() == expected[0].keys()
    assert [name for name in found[0] if not np.array_equal(found[0][name], expected[0][name])] == []
    assert found[1] == expected[1]


def killed(config: SmileConfig, sites: list[Path], output: Path, resume: bool, place: str, nth: int) -> None:
    """Run in a process of its own that dies at the nth call of `place`."""
    import importlib

    import torch

    torch.set_num_threads(1)  # as in the process that nobody kills
    module, _, name = place.rpartition(".")
    owner: Any = importlib.import_module(module) if ":" not in module else None
    if owner is None:
        file, _, kind = module.partition(":")
        owner = getattr(importlib.import_module(file), kind)
    real, calls = getattr(owner, name), []

    def stop(*args: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    setattr(owner, name, stop)
    federate(config, sites, output, engine="in-process", resume=resume)


# Loaded once, not by each process that dies. Not by fork of this one: it has used autograd, whose threads a fork would leave locked.
PRELOAD = [
    "flwr.serverapp",
    "server.app",
    "server.status",
    "client.app",
    "open_clip",
    "torch.utils.tensorboard",
]
PHASES = [
    ("server.strategy:SmileStrategy.configure_train", 2),  # between rounds
    ("smile.training.train", 3),  # a site at work
    ("client.memory:Memory.save", 3),  # a site before it keeps what it learned
    ("client.privacy:Outbox.send", 4),  # after it kept it, and before the answer leaves
    ("server.averaging:Spool.add", 4),  # a reply arrives
    ("server.strategy.average", 2),  # all are here
    ("server.run_state.save", 3),  # averaged, and not yet kept
    ("smile.checkpoint.write_arrays", 5),  # in the midst of a checkpoint
    ("server.strategy.append", 2),  # kept, and not yet in the log
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_killed_in_each_phase(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig, changes: dict[str, Any]
) -> None:
    config, context = study(small_config, **changes), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    others = [Path(shutil.copytree(site, tmp_path / "others" / site.name)) for site in sites]
    federate(config, others, tmp_path / "whole", engine="in-process")
    expected, died = outcome(tmp_path / "whole"), 0
    for number, (place, nth) in enumerate(PHASES):
        output = tmp_path / f"out-{number}"
        process = context.Process(target=killed, args=(config, sites, output, False, place, nth))
        process.start()
        process.join(timeout=100)
        died += process.exitcode == -signal.SIGKILL
        federate(config, sites, output, engine="in-process", resume=True)
        assert_equal(outcome(output), expected)
    assert died == len(PHASES) - (0 if changes else 1)  # a plain study keeps nothing at its sites


def test_a_finished_run_goes_on_to_nothing(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    config = study(small_config)
    federate(config, sites, tmp_path / "out", engine="in-process")
    before = outcome(tmp_path / "out")
    federate(config, sites, tmp_path / "out", engine="in-process", resume=True)
    assert_equal(outcome(tmp_path / "out"), before)


def test_what_cannot_go_on_says_why(sites: list[Path], tmp_path: Path, small_config: SmileConfig) -> None:
    config = study(small_config)
    with pytest.raises(ValueError, match="holds no run"):
        federate(config, sites, tmp_path / "nothing", engine="in-process", resume=True)
    federate(config, sites, tmp_path / "out", engine="in-process")
    with pytest.raises(ValueError, match=r"begun with federation\.proximal = 0\.0, not 0\.5"):
        federate(study(small_config, proximal=0.5), sites, tmp_path / "out", engine="in-process", resume=True)
    newest = tmp_path / "out" / f"round-{ROUNDS:04d}" / run_state.SERVER_FILE
    newest.write_bytes(b"damaged")
    state = run_state.resume(tmp_path / "out", config)
    assert state.round == ROUNDS - 1
    assert [line["round"] for line in read(tmp_path / "out" / "log.jsonl")] == [1, 2]


def test_lines_of_rounds_without_a_checkpoint_are_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"round": n}) + "\n" for n in (1, 2, 3)) + '{"round": 4, "los')
    forget_after(path, 2)
    assert read(path) == [{"round": 1}, {"round": 2}] and path.read_text().endswith("}\n")
    forget_after(tmp_path / "none.jsonl", 2)
