"""A run that is killed, at any moment, and started again ends equal to the bit to the one that nobody stopped."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from smile import state as states
from smile.__main__ import main
from smile.config import SmileConfig, TrainingConfig, ViewConfig
from smile.model import build_model
from smile.state import State, load_state, save_state
from tests.random_site import write_random_site

VIEWS = ViewConfig(yaws=(-20.0, 20.0), size=16)
STEPS, EVERY = 6, 2
OPTIONS = ["--steps", f"{STEPS}", "--save-every", f"{EVERY}", "--quiet", "--deterministic"]
SETTINGS = ["training.batch-size=6", "training.ema=0.9", "training.frames=2", "training.accumulate=2"]
SETTINGS = [word for key in SETTINGS for word in ("--set", key)]


class Stopped(BaseException):
    """As final as a power cut: nothing catches it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_site(tmp_path_factory.mktemp("resume") / "site", VIEWS)


def run(site: Path, out: Path, *more: str) -> None:
    assert main(["train", str(site), "--out", str(out), *OPTIONS, *SETTINGS, *more]) == 0


def outcome(out: Path) -> tuple[dict[str, np.ndarray], list[dict], dict]:
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    result = json.loads((out / "result.json").read_text())
    return (
        load_file(out / f"round-{STEPS // EVERY:04d}" / "model.safetensors"),
        [{name: value for name, value in line.items() if name != "seconds"} for line in log],
        {name: value for name, value in result.items() if name != "checkpoint"},
    )


def assert_equal(out: Path, whole: tuple[dict[str, np.ndarray], list[dict], dict]) -> None:
    weights, log, result = outcome(out)
    assert weights.keys() == whole[0].keys()
    assert [name for name in weights if not np.array_equal(weights[name], whole[0][name])] == []
    assert (log, result) == whole[1:]


@pytest.fixture(scope="module")
def whole(
    site: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, np.ndarray], list[dict], dict]:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(site, out)
    return outcome(out)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_stopped_after_any_step(
    site: Path, tmp_path: Path, whole: tuple, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = State.update

    def stop(state: State, rate: float) -> torch.Tensor:
        norm = update(state, rate)
        if state.step == step:
            raise Stopped
        return norm

    with monkeypatch.context() as patch:
        patch.setattr(State, "update", stop)
        with pytest.raises(Stopped):
            run(site, tmp_path / "run")
    run(site, tmp_path / "run")
    assert_equal(tmp_path / "run", whole)


@pytest.mark.parametrize("call", ["sha256", "sync_folder", "write_json"])
@pytest.mark.parametrize("time", [1, 2, 3])
def test_stopped_in_the_midst_of_writing(
    site: Path, tmp_path: Path, whole: tuple, call: str, time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, calls = getattr(states, call), []

    def stop(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == time:
            raise Stopped
        return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(states, call, stop)
        with pytest.raises(Stopped):
            run(site, tmp_path / "run")
    run(site, tmp_path / "run")
    assert_equal(tmp_path / "run", whole)
    assert len(list((tmp_path / "run" / "state").iterdir())) == 4  # two states of two files


def killed(words: list[str], place: str, call: int, delay: float) -> None:
    """In a process of its own: the command, with SIGKILL `delay` seconds after call number `call` of `place` has begun."""
    owner: Any = State if place == "update" else states
    usual, calls = getattr(owner, place), []

    def armed(*arguments: Any) -> Any:
        calls.append(place)
        if len(calls) == call:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return usual(*arguments)

    setattr(owner, place, armed)
    sys.exit(main(words))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_killed_at_random_moments(site: Path, tmp_path: Path, whole: tuple) -> None:
    """SIGKILL in steps and in the writing of states. Forked from a process that has imported torch and not used it: autograd's
    threads do not outlive a fork."""
    out, rng, context = tmp_path / "run", random.Random(), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["smile.train_command", "smile.training", "open_clip", __name__])
    words = ["train", str(site), "--out", str(out), *OPTIONS, *SETTINGS]
    for place, call, kept in (
        ("update", 1, 0),
        ("save_state", 1, 0),
        ("update", EVERY + 1, 1),
        ("save_state", 1, 1),
    ):
        delay = rng.uniform(0, 0.003)
        process = context.Process(target=killed, args=(words, place, call, delay))
        process.start()
        process.join(timeout=100)
        if process.is_alive():
            process.kill()
            pytest.fail(f"{place} {delay}: it hangs")
        assert process.exitcode == -signal.SIGKILL, f"{place} {delay}"
        assert len(list((out / "state").glob("*.json"))) >= kept
    run(site, out)
    assert_equal(out, whole)


@pytest.mark.parametrize("size", [30_000, 100_000])
def test_a_full_disk_is_one_sentence_and_goes_on_alike(
    site: Path,
    tmp_path: Path,
    whole: tuple,
    size: int,
    no_file_above: Callable[[int], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with no_file_above(size):
        assert main(["train", str(site), "--out", str(tmp_path / "run"), *OPTIONS, *SETTINGS]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "step-00000002.safetensors" in said and "large" in said
    assert list((tmp_path / "run" / "state").iterdir()) == []
    run(site, tmp_path / "run")
    assert_equal(tmp_path / "run", whole)


CONFIG = SmileConfig(views=VIEWS, training=TrainingConfig(batch_size=4, ema=0.5, precision="fp16"))


def stepped(number: int, *, folder: Path | None = None) -> State:
    """A state after some steps along gradients that follow from the step alone, written after each."""
    state = State(build_model(CONFIG), CONFIG.training)
    while state.step < number:
        step_once(state)
        if folder is not None:
            save_state(folder, state)
    return state


def step_once(state: State) -> None:
    for index, parameter in enumerate(state.trained):
        generator = torch.Generator().manual_seed(1000 * state.step + index)
        gradient = torch.randn(parameter.shape, generator=generator)
        state.scaler.scale((parameter * gradient).sum()).backward()
    state.update(0.01)


def equal(a: State, b: State) -> bool:
    first, second = a.tensors(), b.tensors()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_state_round_trips_and_goes_on_alike(tmp_path: Path) -> None:
    kept, fresh, said = stepped(3, folder=tmp_path), stepped(0), []
    load_state(tmp_path, fresh, say=said.append)
    assert fresh.step == 3 and equal(fresh, kept) and said == []
    assert fresh.scaler.state_dict() == kept.scaler.state_dict() and kept.scaler.is_enabled()
    step_once(kept), step_once(fresh)
    assert equal(fresh, kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-0000000{step}.{kind}" for step in (2, 3) for kind in ("json", "safetensors")
    ]


def test_no_state_leaves_all_as_it_is(tmp_path: Path) -> None:
    state = stepped(0)
    load_state(tmp_path / "none", state, say=pytest.fail)
    assert state.step == 0


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("step-00000003.safetensors", halve),
        ("step-00000003.safetensors", flip),
        ("step-00000003.safetensors", Path.unlink),
        ("step-00000003.json", halve),
        ("step-00000003.json", lambda path: path.write_text("[]")),
    ],
)
def test_a_damaged_state_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, damage) -> None:  # type: ignore[no-untyped-def]
    stepped(3, folder=tmp_path)
    damage(tmp_path / name)
    state, said = stepped(0), []
    load_state(tmp_path, state, say=said.append)
    assert equal(state, stepped(2)) and state.step == 2
    assert len(said) == 1 and "step-00000003.safetensors is damaged" in said[0]
    step_once(state)
    save_state(tmp_path, state)
    again = stepped(0)
    load_state(tmp_path, again, say=pytest.fail)
    assert equal(again, stepped(3))


def test_a_state_without_its_record_is_absent(tmp_path: Path) -> None:
    stepped(3, folder=tmp_path)
    (tmp_path / "step-00000003.json").unlink()
    state = stepped(0)
    load_state(tmp_path, state, say=pytest.fail)
    assert state.step == 2


def test_two_damaged_states_are_an_error_in_one_sentence(tmp_path: Path) -> None:
    stepped(3, folder=tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        halve(path)
    with pytest.raises(ValueError, match="every state in"):
        load_state(tmp_path, stepped(0), say=lambda line: None)


def test_a_state_of_another_model_changes_nothing(tmp_path: Path) -> None:
    stepped(1, folder=tmp_path)
    other = State(
        build_model(dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dim=64))),
        CONFIG.training,
    )
    before = {name: tensor.clone() for name, tensor in other.tensors().items()}
    with pytest.raises(ValueError, match="damaged"):
        load_state(tmp_path, other, say=lambda line: None)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.tensors().items())


def test_no_pickle_is_written(tmp_path: Path) -> None:
    stepped(1, folder=tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
