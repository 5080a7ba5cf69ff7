"""The local loop, its schedule, its batches and its augmentation."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from smile.augment import augment, mirror, relight
from smile.config import ModelConfig, ObjectiveConfig, SmileConfig, TrainingConfig, ViewConfig
from smile.model import build_model
from smile.protocol import get_arrays
from smile.split import held_out
from smile.training import PromptDraw, batches, schedule, train

CONFIG = SmileConfig(views=ViewConfig(size=16), training=TrainingConfig(batch_size=8, local_steps=6))


class Bars:
    """Captures whose label is the place of a bright bar: learnable in a few steps."""

    def __init__(self, n: int = 40) -> None:
        names = ("anger", "happiness", "surprise", "fear")
        self.labels = np.array([names[i % 4] for i in range(n)])
        self.subjects = np.array([f"subject-{i % 5}" for i in range(n)])
        self.sequences = np.arange(n)
        self.views = np.full((n, 3, 7, 16, 16), 60, np.uint8)
        for i in range(n):
            self.views[i, :, :, 4 * (i % 4) : 4 * (i % 4) + 4] = 220

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray:
        return self.views[rows]


def test_losses_fall() -> None:
    model, seen = build_model(CONFIG), []
    for step in range(0, 30, 6):
        parts = train(model, Bars(), CONFIG, rows=np.arange(40), first_step=step)
        seen.append(parts)
    assert seen[-1]["alignment"] < 0.5 * seen[0]["alignment"]
    assert seen[-1]["decorrelation"] < seen[0]["decorrelation"]
    assert all(np.isfinite(list(parts.values())).all() for parts in seen)


def test_a_round_repeats_to_the_bit() -> None:
    runs = []
    for _ in range(2):
        model = build_model(CONFIG)
        train(model, Bars(), CONFIG, rows=np.arange(40), first_step=12)
        runs.append(get_arrays(model))
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_unlabelled_and_label_free_training_use_no_text() -> None:
    bars, model = Bars(), build_model(CONFIG)
    bars.labels = np.full(40, "")
    assert train(model, bars, CONFIG, rows=np.arange(40))["alignment"] == 0
    free = dataclasses.replace(CONFIG, objective=ObjectiveConfig(prompt_source="none"))
    assert train(model, Bars(), free, rows=np.arange(40))["alignment"] == 0


def test_too_little_data_and_a_broken_loss_are_named() -> None:
    with pytest.raises(ValueError, match="1 captures"):
        train(build_model(CONFIG), Bars(), CONFIG, rows=np.arange(1))
    model = build_model(CONFIG)
    with torch.no_grad():
        model.logit_scale.fill_(float("nan"))
    with pytest.raises(ValueError, match="learning-rate"):
        train(model, Bars(), CONFIG, rows=np.arange(40))


def test_schedule_warms_up_and_cools_down() -> None:
    factors = [schedule(step, 200) for step in range(200)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == pytest.approx(1)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert factors[-1] == pytest.approx(0.01, abs=1e-3)


def test_batches_cover_all_rows_and_repeat_none_within_a_batch() -> None:
    rows = np.arange(100, 123)
    found = batches(rows, 5, 9, torch.Generator().manual_seed(0))
    assert len(found) == 9 and all(len(np.unique(batch)) == 5 for batch in found)
    assert set(np.concatenate(found[:4])) <= set(rows) and len(np.unique(np.concatenate(found[:4]))) == 20
    assert [len(batch) for batch in batches(rows[:3], 5, 2, torch.Generator())] == [3, 3]


def test_prompts_belong_to_the_label() -> None:
    draw = PromptDraw(np.array(["anger", "", "fear"]), CONFIG)
    text, classes = draw(np.array([0, 1, 2, 0]), torch.Generator().manual_seed(0))
    assert classes.tolist()[1] == -1 and classes[0] == classes[3] != classes[2]
    assert text.shape == (4, 128) and torch.allclose(text.norm(dim=1), torch.ones(4))


def test_mirroring_twice_is_the_identity_and_swaps_sides() -> None:
    config = SmileConfig(views=ViewConfig(size=16), model=ModelConfig(modalities=("depth", "normals")))
    x = torch.randint(
        0, 256, (64, 3, 4, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    once = mirror(x, config, torch.Generator().manual_seed(0))
    twice = mirror(once, config, torch.Generator().manual_seed(0))
    assert torch.equal(twice, x)
    moved = [i for i in range(64) if not torch.equal(once[i], x[i])]
    assert 16 < len(moved) < 48
    i = moved[0]
    assert torch.equal(once[i, 0, 0], x[i, 2, 0].flip(-1))  # depth: the other side's view, mirrored
    expected = x[i, 2, 1].flip(-1)  # x of the normals: negated, background stays background
    assert torch.equal(once[i, 0, 1], torch.where(expected > 0, 256 - expected.int(), 0).to(torch.uint8))


def test_asymmetric_cameras_are_not_mirrored() -> None:
    config = SmileConfig(views=ViewConfig(yaws=(0.0, 20.0), size=16))
    x = torch.rand(8, 2, 7, 16, 16)
    assert torch.equal(mirror(x, config, torch.Generator().manual_seed(0)), x)


def test_augmented_views_stay_views() -> None:
    config = SmileConfig(
        views=ViewConfig(size=16), model=ModelConfig(modalities=("texture", "depth", "normals"))
    )
    x = torch.randint(
        0, 256, (8, 3, 7, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    found = augment(x, config, torch.Generator().manual_seed(0))
    assert found.shape == x.shape and found.min() >= 0 and found.max() <= 255
    assert not torch.equal(found, x)


def test_another_light_leaves_still_what_is_still() -> None:
    x = torch.randint(
        1, 256, (8, 3, 7, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    ).float()
    x[:, :, :3, 0] = 128  # no motion
    x[:, :, :, 1] = 0  # nothing there
    for motion in ("difference", "dynamic"):
        config = SmileConfig(views=ViewConfig(size=16, motion=motion))
        found = relight(x.clone(), config, torch.Generator().manual_seed(0))
        assert (found[:, :, :3, 0] == 128).all()
        assert (found[:, :, :, 1] == 0).all()
        assert (found[:, :, :, 2:] >= 1).all() and (found <= 255).all()
        assert torch.equal(found, x) == (motion == "dynamic")
        assert torch.equal(found[:, :, 3:], x[:, :, 3:])


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
