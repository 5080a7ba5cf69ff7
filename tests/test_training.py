"""The local loop, its schedule, its batches, precisions, averaged weights, and the thread that works ahead."""

import dataclasses
import math
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from smile import training
from smile.config import ObjectiveConfig, SmileConfig, TrainingConfig, ViewConfig
from smile.loader import Order, ahead, random_seed
from smile.model import SmileModel, build_model
from smile.protocol import METRICS, get_arrays
from smile.split import held_out
from smile.state import State
from smile.training import schedule, train

CONFIG = SmileConfig(views=ViewConfig(size=16), training=TrainingConfig(batch_size=8, local_steps=6))
ROWS = np.arange(40)


class Bars:
    """Captures whose label is the place of a bright bar: learnable in a few steps."""

    def __init__(self, n: int = 40) -> None:
        names = ("anger", "happiness", "surprise", "fear")
        self.labels = np.array([names[i % 4] for i in range(n)])
        self.subjects = np.array([f"subject-{i % 5}" for i in range(n)])
        self.sequences = np.arange(n)
        self.times = np.zeros(n)
        self.geometry: dict[str, np.ndarray] = {}
        self.rest: dict[str, np.ndarray] = {}
        self.views = np.full((n, 3, 7, 16, 16), 60, np.uint8)
        for i in range(n):
            self.views[i, :, :, 4 * (i % 4) : 4 * (i % 4) + 4] = 220

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray:
        return self.views[rows]


def settings(**changes: object) -> SmileConfig:
    return dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **changes))


def trained(config: SmileConfig, *, first_step: int = 0) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    model = build_model(config)
    parts = train(model, Bars(), config, rows=ROWS, first_step=first_step)
    return get_arrays(model), parts


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_losses_fall() -> None:
    model, seen = build_model(CONFIG), []
    for step in range(0, 30, 6):
        parts = train(model, Bars(), CONFIG, rows=ROWS, first_step=step)
        seen.append(parts)
    assert seen[-1]["alignment"] < 0.5 * seen[0]["alignment"]
    assert seen[-1]["decorrelation"] < seen[0]["decorrelation"]
    assert all(np.isfinite(list(parts.values())).all() for parts in seen)
    assert set(seen[0]) == set(METRICS) - {"num-examples", "seconds"}


def test_a_round_repeats_to_the_bit_and_steps_differ() -> None:
    first, again, later = (trained(CONFIG, first_step=step)[0] for step in (12, 12, 18))
    assert same(first, again) and not same(first, later)


def test_working_ahead_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(frames=2, accumulate=2)
    usual = trained(config)

    def one_at_a_time(make: object, numbers: range) -> Iterator[object]:
        yield from map(make, numbers)  # type: ignore[call-overload]

    monkeypatch.setattr(training, "ahead", one_at_a_time)
    here = trained(config)
    assert same(usual[0], here[0]) and usual[1] == here[1]


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    trained(CONFIG)
    assert torch.equal(before, torch.get_rng_state())


def test_unlabelled_and_label_free_training_use_no_text() -> None:
    bars, model = Bars(), build_model(CONFIG)
    bars.labels = np.full(40, "")
    assert train(model, bars, CONFIG, rows=ROWS)["alignment"] == 0
    free = dataclasses.replace(CONFIG, objective=ObjectiveConfig(prompt_source="none"))
    assert train(model, Bars(), free, rows=ROWS)["alignment"] == 0


def test_missing_views_reach_the_model_as_a_mask() -> None:
    bars, masks = Bars(), []
    bars.views[::2, 0] = 0  # every other capture lacks its first view; mirrored, its last

    class Spy(SmileModel):
        def forward(self, views: torch.Tensor, mask: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
            masks.append(mask)
            return super().forward(views, mask)

    model = build_model(CONFIG)
    model.__class__ = Spy
    parts = train(model, bars, CONFIG, rows=ROWS)
    assert math.isfinite(parts["loss"])
    assert all(mask is not None and mask[:, 1].all() and not mask.all() for mask in masks)


def test_too_little_data_and_a_broken_loss_are_named() -> None:
    with pytest.raises(ValueError, match="1 captures"):
        train(build_model(CONFIG), Bars(), CONFIG, rows=np.arange(1))
    model = build_model(CONFIG)
    with torch.no_grad():
        model.logit_scale.fill_(float("nan"))
    with pytest.raises(ValueError, match="learning-rate"):
        train(model, Bars(), CONFIG, rows=ROWS)


def test_gradients_of_accumulated_batches_are_their_mean() -> None:
    config = dataclasses.replace(
        settings(accumulate=3, local_steps=1, clip=1e9), federation=CONFIG.federation
    )
    model = build_model(config)
    expected = [torch.zeros_like(p) for p in model.parameters()]
    whole = settings(
        local_steps=3, learning_rate=1e-30, weight_decay=0.0, clip=1e9
    )  # three steps that go nowhere
    seen: list[list[torch.Tensor]] = []
    update = State.update

    def spy(state: State, rate: float) -> torch.Tensor:
        seen.append([p.grad.clone() for p in state.trained])  # type: ignore[union-attr]
        return update(state, rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "update", spy)
        train(build_model(whole), Bars(), whole, rows=ROWS)
        expected = [sum(grads) / 3 for grads in zip(*seen, strict=True)]
        seen.clear()
        train(model, Bars(), config, rows=ROWS)
    for found, mean in zip(seen[0], expected, strict=True):
        torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped() -> None:
    model = build_model(CONFIG)
    state = State(model, dataclasses.replace(CONFIG.training, clip=0.5))
    for p in state.trained:
        p.grad = torch.ones_like(p)
    with pytest.MonkeyPatch.context() as patch:
        lengths: list[float] = []
        step = torch.optim.AdamW.step

        def spy(optimiser: torch.optim.AdamW) -> None:
            lengths.append(math.sqrt(sum(float(p.grad.square().sum()) for p in state.trained)))
            step(optimiser)

        patch.setattr(state.optimiser, "step", lambda: spy(state.optimiser))
        norm = state.update(1e-3)
    assert float(norm) == pytest.approx(math.sqrt(sum(p.numel() for p in state.trained)), rel=1e-5)
    assert lengths == [pytest.approx(0.5, rel=1e-4)]


def test_averaged_weights_follow_their_formula_and_are_what_a_round_returns() -> None:
    config = settings(ema=0.4)
    model, kept = build_model(config), []
    state = State(model, config.training)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps: list[dict[str, torch.Tensor]] = []
    update = State.update

    def spy(state: State, rate: float) -> torch.Tensor:
        norm = update(state, rate)
        steps.append({name: p.detach().clone() for name, p in state.model.named_parameters()})
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "update", spy)
        train(model, Bars(), config, rows=ROWS)
    kept = dict(model.named_parameters())
    for name, average in start.items():
        for number, weights in enumerate(steps, start=1):
            decay = min(0.4, (1 + number) / (10 + number))
            average = decay * average + (1 - decay) * weights[name]
        torch.testing.assert_close(kept[name].detach(), average, rtol=1e-5, atol=1e-7)
    assert not torch.equal(kept["logit_scale"], steps[-1]["logit_scale"])
    assert state.average and not State(model, CONFIG.training).average


def test_only_what_may_be_trained_is_trained() -> None:
    model = build_model(CONFIG)
    model.tower.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, Bars(), CONFIG, rows=ROWS)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed and not any(name.startswith("tower.") for name in changed)
    assert set(get_arrays(model)) == set(before) - {name for name in before if name.startswith("tower.")}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_keeps_full_weights(precision: str) -> None:
    config, model = settings(precision=precision), build_model(CONFIG)
    seen = [train(model, Bars(), config, rows=ROWS, first_step=step) for step in range(0, 18, 6)]
    assert seen[-1]["alignment"] < seen[0]["alignment"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_losses_are_taken_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds, objective = set(), training.objective

    def spy(encoding, *rest):  # type: ignore[no-untyped-def]
        kinds.update({encoding.views.dtype, encoding.fused.dtype, encoding.features.dtype})
        assert not torch.is_autocast_enabled("cpu")
        return objective(encoding, *rest)

    monkeypatch.setattr(training, "objective", spy)
    trained(settings(precision="bf16"))
    assert kinds == {torch.float32}


def test_schedule_warms_up_and_cools_down() -> None:
    factors = [schedule(step, 200) for step in range(200)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == pytest.approx(1)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert factors[-1] == pytest.approx(0.01, abs=1e-3)
    assert schedule(0, 200, 0.0) == 1 and schedule(49, 100, 0.5) == schedule(50, 100, 0.5) == 1


def order(n: int, *, size: int, frames: int = 1, length: int = 1, seed: int = 0) -> Order:
    return Order(np.arange(100, 100 + n), np.arange(n) // length, size=size, frames=frames, seed=seed)


def test_a_pass_covers_the_rows_and_passes_differ() -> None:
    found = [order(23, size=5)[number] for number in range(9)]
    first, second = np.concatenate(found[:4]), np.concatenate(found[4:8])
    assert len(np.unique(first)) == len(np.unique(second)) == 20 and not np.array_equal(first, second)
    assert set(first) <= set(range(100, 123)) and not np.array_equal(first, order(23, size=5, seed=1)[0])
    assert sorted(order(3, size=5)[7]) == [100, 101, 102]


def test_a_batch_does_not_depend_on_those_before() -> None:
    one = order(50, size=8, frames=3, length=5)
    assert [one[n].tolist() for n in (9, 2, 9)] == [
        order(50, size=8, frames=3, length=5)[n].tolist() for n in (9, 2, 9)
    ]


def test_frames_of_a_sequence_are_drawn_together() -> None:
    found = order(60, size=8, frames=4, length=12)
    for number in range(7):
        together = ((found[number] - 100) // 12).reshape(2, 4)
        assert (together == together[:, :1]).all()
    whole = np.concatenate([found[number] for number in range(7)])
    assert len(np.unique(whole)) == 56
    # frames of a sequence meet others of theirs in another pass
    assert {frozenset(found[n][:4]) for n in range(7)} != {frozenset(found[n][:4]) for n in range(7, 14)}
    short = order(60, size=8, frames=4, length=2)  # two frames a sequence: pairs, where four were asked for
    for number in range(7):
        assert (np.ptp(((short[number] - 100) // 2).reshape(4, 2), axis=1) == 0).all()


def test_seeds_of_other_numbers_are_others() -> None:
    seeds = {random_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125 and random_seed(1, 2, 3) == random_seed(1, 2, 3)


def test_working_ahead_keeps_the_order_and_passes_errors_on_in_their_turn() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("shard 3 is gone")
        return number

    assert list(ahead(make, range(3))) == [0, 1, 2]
    running = ahead(make, range(9))
    assert [next(running) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="shard 3 is gone"):
        next(running)


def test_working_ahead_stops_with_its_user_and_never_runs_far_ahead() -> None:
    made: list[int] = []
    running = ahead(lambda number: made.append(number) or number, range(1000))
    assert next(running) == 0
    time.sleep(0.05)
    running.close()
    assert made == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize(
    ("people", "share", "expected"),
    [(4, 0.25, 1), (3, 0.25, 1), (8, 0.25, 2), (1, 0.5, 0), (2, 0.9, 1), (5, 0, 0)],
)
def test_people_are_held_out_whole(people: int, share: float, expected: int) -> None:
    subjects = np.array([f"s{i % people}" for i in range(30)])
    out = held_out(subjects, share=share, seed=0)
    assert len(np.unique(subjects[out])) == expected
    assert not set(subjects[out]) & set(subjects[~out])
    assert np.array_equal(out, held_out(subjects, share=share, seed=0))
