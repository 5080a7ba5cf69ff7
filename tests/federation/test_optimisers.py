"""The server's optimisers against slow references from the paper, their state in checkpoints, the running average."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import optimisers
from server.optimisers import KINDS, RunningAverage, ServerOptimiser

Arrays = dict[str, np.ndarray]
SHAPES = {"layer": (3, 4), "gain": (5,), "scale": ()}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimisers, "BLOCK", 5)


def _random(seed: int, size: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(size * rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}


def _bytes(arrays: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def _slow(kind: str, rate: float, x: float, averages: list[float]) -> float:
    """One weight, Python floats: algorithm 2 of Reddi et al. 2021, and FedAvgM for momentum."""
    m, v = 0.0, 1e-3**2
    for average in averages:
        delta = average - x
        if kind == "none":
            x += rate * delta
        elif kind == "momentum":
            m = 0.9 * m + delta
            x += rate * m
        else:
            m = 0.9 * m + (1 - 0.9) * delta
            if kind == "adam":
                v = 0.99 * v + (1 - 0.99) * delta**2
            else:
                v = v - (1 - 0.99) * delta**2 * math.copysign(1, v - delta**2) * (v != delta**2)
            x += rate * m / (math.sqrt(v) + 1e-3)
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1.0, 1e-3])  # pseudo-gradients above and below tau
def test_a_step_is_its_formula(kind: str, size: float) -> None:
    optimiser, weights = ServerOptimiser(kind, 0.1), _random(0, size)
    averages = [_random(seed, size) for seed in range(1, 7)]
    for mean in averages:
        weights = optimiser.step(weights, mean)
    for name, array in weights.items():
        assert array.dtype == np.float32 and array.shape == SHAPES[name]
        for index in np.ndindex(array.shape):
            expected = _slow(
                kind, 0.1, float(_random(0, size)[name][index]), [float(a[name][index]) for a in averages]
            )
            assert array[index] == pytest.approx(expected, rel=1e-5, abs=1e-6 * size)


def test_no_optimiser_is_the_average_itself() -> None:
    assert _bytes(ServerOptimiser("none", 1.0).step(_random(0), _random(1))) == _bytes(_random(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_changes_nothing_that_it_was_given(kind: str) -> None:
    old, mean = _random(0), _random(1)
    new = ServerOptimiser(kind, 0.1).step(old, mean)
    assert _bytes(old) == _bytes(_random(0)) and _bytes(mean) == _bytes(_random(1))
    for name in new:
        new[name] += 1
    assert _bytes(old) == _bytes(_random(0)) and _bytes(mean) == _bytes(_random(1))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_agree_with_the_average_stay(kind: str) -> None:
    assert _bytes(ServerOptimiser(kind, 0.1).step(_random(0), _random(0))) == _bytes(_random(0))


@pytest.mark.parametrize(("kind", "rate"), [("none", 0.5), ("momentum", 0.1), ("adam", 0.05), ("yogi", 0.05)])
def test_each_comes_to_an_average_that_stands_still(kind: str, rate: float) -> None:
    optimiser, weights, target = ServerOptimiser(kind, rate), _random(0), _random(1)
    for _ in range(600):
        weights = optimiser.step(weights, target)
    for name in weights:
        np.testing.assert_allclose(weights[name], target[name], atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_huge_averages_leave_everything_finite(kind: str) -> None:
    optimiser, weights = ServerOptimiser(kind, 10.0), _random(0)
    for sign in (1, -1, 1):
        largest = {name: np.full(a.shape, sign * np.finfo(np.float32).max) for name, a in weights.items()}
        weights = optimiser.step(weights, largest)
        assert all(np.isfinite(a).all() for a in [*weights.values(), *optimiser.arrays().values()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_optimiser_has_the_same_bits(kind: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from smile.checkpoint import write_arrays

    whole, weights = ServerOptimiser(kind, 0.1), _random(0)
    for seed in range(1, 8):
        if seed == 4:
            write_arrays(tmp_path / "state.safetensors", whole.arrays())
            resumed = ServerOptimiser(kind, 0.1)
            resumed.load(load_file(tmp_path / "state.safetensors"))
            other = dict(weights)
        weights = whole.step(weights, _random(seed))
        if seed >= 4:
            other = resumed.step(other, _random(seed))
    assert _bytes(other) == _bytes(weights)
    assert _bytes(resumed.arrays()) == _bytes(whole.arrays())


def test_a_loaded_state_is_a_copy() -> None:
    first, second = ServerOptimiser("adam", 0.1), ServerOptimiser("adam", 0.1)
    first.step(_random(0), _random(1))
    before = {name: bytes(data) for name, data in _bytes(first.arrays()).items()}
    second.load(first.arrays())
    second.step(_random(0), _random(2))
    assert _bytes(first.arrays()) == before


def test_an_empty_state_is_the_start() -> None:
    optimiser = ServerOptimiser("adam", 0.1)
    assert optimiser.arrays() == {}
    optimiser.load({})
    fresh = ServerOptimiser("adam", 0.1)
    assert _bytes(optimiser.step(_random(0), _random(1))) == _bytes(fresh.step(_random(0), _random(1)))


def _one(name: str, value: float = 0.0, dtype: type = np.float32) -> Arrays:
    return {name: np.full(2, value, dtype)}


@pytest.mark.parametrize(
    ("kind", "arrays", "word"),
    [
        ("none", _one("m/a"), "server-optimiser = 'none'"),
        ("momentum", {**_one("m/a"), **_one("v/a")}, "server-optimiser = 'momentum'"),
        ("adam", _one("m/a"), "whole state"),
        ("adam", {**_one("m/a"), **_one("v/b")}, "whole state"),
        ("adam", {**_one("m/a"), **_one("v/a", -1)}, "server-optimiser"),
        ("yogi", {**_one("m/a", np.nan), **_one("v/a")}, "damaged"),
        ("yogi", {**_one("m/a", dtype=np.float64), **_one("v/a")}, "damaged"),
        ("momentum", _one("a"), "server-optimiser"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(kind: str, arrays: Arrays, word: str) -> None:
    optimiser = ServerOptimiser(kind, 0.1)
    with pytest.raises(ValueError, match=f"{word}.*: resume"):
        optimiser.load(arrays)
    assert optimiser.arrays() == {}


@pytest.mark.parametrize("name", ["other", "layer"])
def test_a_state_of_another_model_is_refused(name: str) -> None:
    optimiser = ServerOptimiser("momentum", 0.1)
    optimiser.load(_one(f"m/{name}"))
    with pytest.raises(ValueError, match="of another model: resume"):
        optimiser.step(_random(0), _random(1))


# --- the running average ------------------------------------------------------


@given(st.integers(1, 30))
def test_the_running_average_is_the_mean(rounds: int) -> None:
    average = RunningAverage()
    for seed in range(rounds):
        average.add(_random(seed))
    assert average.count == rounds
    for name, array in average.mean().items():
        expected = np.mean([_random(seed)[name].astype(np.float64) for seed in range(rounds)], axis=0)
        np.testing.assert_allclose(array, expected, atol=1e-6)
        assert array.dtype == np.float32 and array.shape == SHAPES[name]


def test_the_average_of_one_round_is_that_round_and_a_copy() -> None:
    average = RunningAverage()
    average.add(_random(0))
    for array in average.mean().values():
        array += 1
    assert _bytes(average.mean()) == _bytes(_random(0))


def test_a_resumed_average_has_the_same_bits(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    from smile.checkpoint import write_arrays

    whole, resumed = RunningAverage(), RunningAverage()
    resumed.load(whole.arrays())
    for seed in range(7):
        whole.add(_random(seed))
        resumed.add(_random(seed))
        write_arrays(tmp_path / "state.safetensors", resumed.arrays())
        resumed = RunningAverage()
        resumed.load(load_file(tmp_path / "state.safetensors"))
    assert resumed.count == 7 and _bytes(resumed.mean()) == _bytes(whole.mean())


@pytest.mark.parametrize(
    "arrays",
    [
        {"count": np.array(3)},
        _one("mean/a"),
        {**_one("mean/a"), "count": np.array(0)},
        {**_one("mean/a"), "count": np.array(-1)},
        {**_one("mean/a"), "count": np.array([2])},
        {**_one("mean/a"), "count": np.array(2.0)},
        {**_one("mean/a", np.inf), "count": np.array(2)},
    ],
)
def test_a_damaged_average_is_refused(arrays: Arrays) -> None:
    with pytest.raises(ValueError, match="damaged: resume from an earlier round"):
        RunningAverage().load(arrays)


def test_an_average_of_another_model_is_refused() -> None:
    average = RunningAverage()
    average.load({**_one("mean/a"), "count": np.array(2)})
    with pytest.raises(ValueError, match="of another model: resume"):
        average.add(_random(0))
