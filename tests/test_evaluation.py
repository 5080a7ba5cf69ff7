"""Probes on data with a known answer, and the rules that keep an evaluation honest."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch

from smile.config import SmileConfig, TrainingConfig, ViewConfig
from smile.evaluation import (
    confusion,
    each_question,
    encode,
    evaluate,
    few_shot,
    fine_tune,
    head_answers,
    linear_probe,
    nearest_neighbours,
    per_sequence,
    sequence_embeddings,
    unit,
    zero_shot,
)
from smile.model import build_model


def clusters(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.array(["anger", "fear", "sadness"])[np.arange(n) % 3]
    return 5 * np.eye(8)[np.arange(n) % 3] + 0.1 * rng.normal(size=(n, 8)), labels


@pytest.mark.parametrize("method", [linear_probe, nearest_neighbours])
def test_separable_clusters_are_told_apart_and_noise_is_not(method) -> None:  # type: ignore[no-untyped-def]
    (x, y), (test_x, test_y) = clusters(60, 0), clusters(30, 1)
    assert (method(x, y, test_x) == test_y).all()
    noise = np.random.default_rng(2).normal(size=(60, 8))
    assert (
        method(noise, y, np.random.default_rng(3).normal(size=(300, 8))) == np.tile(test_y, 10)
    ).mean() < 0.5


def test_zero_shot_takes_the_nearest_class() -> None:
    prototypes = np.eye(3, 8)
    assert zero_shot(
        np.array([[0.1, 0.2, 0.9, *[0.0] * 5], [0.5, 0.4, 0.0, *[9.0] * 5]]), prototypes
    ).tolist() == [2, 0]


def test_what_is_not_coded_is_left_out_of_a_fit() -> None:
    """Two questions: the second is coded for half of the samples, and "not coded" taken for "no" would turn its answer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    truth = (x[:, :2] > 0).astype(float)
    truth[40:, 1] = np.nan
    found = each_question(linear_probe, x, truth, x)
    assert (found[:, 0] == (x[:, 0] > 0)).mean() > 0.9 and (found[:, 1] == (x[:, 1] > 0)).mean() > 0.85
    assert np.array_equal(found[:, 1], linear_probe(x[:40], truth[:40, 1].astype(int), x))
    assert not each_question(linear_probe, x, np.full((80, 1), np.nan), x).any()


def test_few_shots_are_of_different_people_and_few() -> None:
    (x, y), (test_x, test_y) = clusters(60, 0), clusters(30, 1)
    people = np.repeat([f"s{i}" for i in range(10)], 6)
    seen: list[tuple[list[float], list[str]]] = []

    def spy(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
        places = [int(np.flatnonzero((x == row).all(1))[0]) for row in train_x]
        seen.append((train_y.tolist(), people[places].tolist()))
        return linear_probe(train_x, train_y, test_x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smile.evaluation.linear_probe", spy)
        found = few_shot(x, y, people, test_x, shots=4, draws=3, seed=1)
    assert found.shape == (3, 30) and (found == test_y).all()
    for labels, who in seen:
        assert all(labels.count(name) == 4 for name in np.unique(y))
        assert all(
            len({w for w, label in zip(who, labels, strict=True) if label == n}) == 4 for n in np.unique(y)
        )
    again = few_shot(x, y, people, test_x, shots=4, draws=3, seed=1)
    assert np.array_equal(found, again)


def test_frames_of_a_sequence_are_one_decision() -> None:
    values, first = per_sequence(np.array([[1.0], [3.0], [10.0]]), np.array([7, 7, 2]))
    assert values.tolist() == [[10.0], [2.0]] and first.tolist() == [2, 0]


def test_the_pool_of_a_model_makes_the_embedding_of_a_sequence() -> None:
    """Against one sequence at a time; a model without a pool takes the mean of the frames at length 1."""
    rng, sequences = np.random.default_rng(0), np.array([7, 2, 7, 7, 2])
    fused, times = rng.normal(size=(5, 128)).astype(np.float32), np.array([0.2, np.nan, 0.9, 0.1, 0.5])
    small = SmileConfig(views=ViewConfig(size=16))
    expected, _ = per_sequence(unit(fused), sequences)
    found = sequence_embeddings(build_model(small), fused, times, sequences)
    np.testing.assert_array_equal(found, expected)
    model = build_model(dataclasses.replace(small, training=TrainingConfig(frames=3)))
    pool = model.heads["pool"].double()  # in float32, padding to the longest sequence changes the last digits
    torch.nn.init.normal_(pool.query, std=3, generator=torch.Generator().manual_seed(0))
    fused = fused.astype(np.float64)
    found = sequence_embeddings(model, fused, times, sequences)
    for row, number in zip(found, (2, 7), strict=True):
        mine = sequences == number
        frames, when = torch.from_numpy(fused[mine]), torch.from_numpy(times[mine]).float()
        np.testing.assert_allclose(row, pool(frames[None], when[None])[0].detach().numpy(), atol=1e-6)


def test_confusion_counts() -> None:
    classes = np.array(["a", "b"])
    assert confusion(np.array(["a", "a", "b"]), np.array(["a", "b", "b"]), classes) == [[1, 1], [0, 1]]


class Captures:
    geometry: ClassVar[dict[str, np.ndarray]] = {}
    times = np.full(12, np.nan)
    subjects = np.repeat(["s1", "s2", "s3"], 4)
    labels = np.tile(["anger", "fear", "sadness", ""], 3)
    sequences = np.arange(12)

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray:
        return np.zeros((len(rows), 3, 7, 16, 16), np.uint8)


def test_unlabelled_captures_are_left_out_and_counted() -> None:
    config = SmileConfig(views=ViewConfig(size=16))
    found = evaluate(build_model(config), Captures(), config, train=np.arange(8), test=np.arange(8, 12))
    assert (found["train_sequences"], found["test_sequences"], found["test_subjects"]) == (6, 3, 1)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["linear_probe"] == pytest.approx(1 / 3)  # identical pictures: one answer for all


def test_a_person_on_both_sides_is_refused() -> None:
    config = SmileConfig(views=ViewConfig(size=16))
    with pytest.raises(AssertionError, match="both sides"):
        evaluate(build_model(config), Captures(), config, train=np.arange(6), test=np.arange(6, 12))


def test_nothing_labelled_is_named() -> None:
    config = SmileConfig(views=ViewConfig(size=16))
    with pytest.raises(ValueError, match="no labelled captures"):
        evaluate(build_model(config), Captures(), config, train=np.array([3]), test=np.array([7]))


class Bars(Captures):
    """The label is the place of a bright bar; one view of every third capture is missing."""

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray:
        views = np.full((len(rows), 3, 7, 16, 16), 60, np.uint8)
        for i, row in enumerate(rows):
            views[i, :, :, 4 * (row % 4) : 4 * (row % 4) + 4] = 220
            views[i, 0] *= row % 3 != 0
        return views


def test_fine_tuning_learns_and_repeats_to_the_bit() -> None:
    config = SmileConfig(views=ViewConfig(size=16), training=TrainingConfig(batch_size=8))
    rows, answers = np.arange(12), []
    for _ in range(2):
        model = build_model(config)
        head = fine_tune(model, Bars(), config, rows=rows, targets=rows % 4, steps=25)
        features, _ = encode(model, Bars(), rows, config)
        answers.append((head_answers(head, features), features))
    assert (answers[0][0] == rows % 4).mean() > 0.9
    assert np.array_equal(answers[0][1], answers[1][1])


def test_a_missing_view_does_not_count() -> None:
    config = SmileConfig(views=ViewConfig(size=16))
    with_gap, _ = encode(build_model(config), Bars(), np.array([0]), config)
    alone, _ = encode(build_model(config), Bars(), np.array([4]), config)  # the same bar, all views there
    black = Bars()
    black.gather = lambda rows, modalities=None: np.ones((1, 3, 7, 16, 16), np.uint8)  # type: ignore[method-assign]
    dark, _ = encode(build_model(config), black, np.array([0]), config)
    np.testing.assert_allclose(with_gap, alone, atol=1e-4)
    assert not np.allclose(with_gap, dark, atol=1e-3)
