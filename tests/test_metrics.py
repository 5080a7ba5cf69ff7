"""Figures of merit against slow references, and intervals over people."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from smile import metrics


def decisions(seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, 90)
    answer = np.where(rng.uniform(size=90) < 0.6, truth, rng.integers(0, classes, 90))
    return truth, answer, rng.choice(["p", "q", "r", "s", "t"], 90)


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_classes_equal_scikit_learn(seed: int) -> None:
    truth, answer, _ = decisions(seed)
    matrix = metrics.count(truth, answer, 4)
    assert metrics.accuracy(matrix) == pytest.approx(accuracy_score(truth, answer))
    assert metrics.uar(matrix) == pytest.approx(balanced_accuracy_score(truth, answer))
    assert metrics.macro_f1(matrix) == pytest.approx(f1_score(truth, answer, average="macro"))


def test_classes_that_do_not_occur_do_not_count() -> None:
    matrix = metrics.count(np.array([0, 0, 1]), np.array([0, 1, 1]), 5)
    assert metrics.uar(matrix) == pytest.approx(0.75)
    assert metrics.macro_f1(matrix) == pytest.approx(2 / 3)
    assert np.isnan(metrics.accuracy(np.zeros((3, 3))))


def slow_f1(truth: np.ndarray, answer: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) over the coded rows, one at a time."""
    hit = wrong = 0
    for t, a in zip(truth.tolist(), answer.tolist(), strict=True):
        if t != t:
            continue
        hit += t == 1 and a == 1
        wrong += t != a
    return 2 * hit / (2 * hit + wrong)


def test_figures_of_questions_leave_out_what_is_not_coded() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (200, 3)).astype(float)
    truth[rng.uniform(size=truth.shape) < 0.3] = np.nan
    answer = rng.integers(0, 2, (200, 3))
    found = metrics.count_binary(truth, answer)
    slow = [slow_f1(truth[:, c], answer[:, c]) for c in range(3)]
    np.testing.assert_allclose(metrics.f1(found), slow)
    assert metrics.uf1(found) == pytest.approx(np.mean(slow))
    recall = [(answer[truth[:, c] == code, c] == code).mean() for c in range(3) for code in (0, 1)]
    assert metrics.mean_uar(found) == pytest.approx(np.mean(recall))
    assert found.sum() == np.isfinite(truth).sum()


def test_a_question_without_any_yes_is_not_defined() -> None:
    found = metrics.count_binary(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[0, 1], [0, 0]]))
    assert np.isnan(metrics.f1(found)[0]) and metrics.f1(found)[1] == pytest.approx(2 / 3)
    assert metrics.uf1(found) == pytest.approx(2 / 3)


@pytest.mark.parametrize("always", [0, 1])
def test_one_answer_for_all_has_a_mean_uar_of_a_half(always: int) -> None:
    truth = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 1], [np.nan, 0, 1]])  # the last question has no "no"
    assert metrics.mean_uar(metrics.count_binary(truth, np.full((4, 3), always))) == 0.5


def test_people_add_up() -> None:
    truth, answer, people = decisions(0)
    found = metrics.by_subject(truth, answer, people, 4)
    assert found.shape == (5, 4, 4)
    assert np.array_equal(found.sum(0), metrics.count(truth, answer, 4))
    mine = people == "r"
    assert np.array_equal(found[2], metrics.count(truth[mine], answer[mine], 4))


@pytest.mark.parametrize("name", ["accuracy", "uar", "macro_f1"])
def test_intervals_equal_resampled_people(name: str) -> None:
    """Against drawing lists of people with replacement and counting their decisions anew."""
    truth, answer, people = decisions(1)
    rng, found = np.random.default_rng(5), []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(people == who) for who in rng.choice(list("pqrst"), 5)])
        found.append(metrics.FIGURES[name](metrics.count(truth[rows], answer[rows], 4)))
    low, high = metrics.interval(metrics.by_subject(truth, answer, people, 4), metrics.FIGURES[name])
    np.testing.assert_allclose([low, high], np.percentile(found, [2.5, 97.5]), atol=0.02)


def test_the_interval_is_over_people_and_not_over_scans() -> None:
    """One person always right, one always wrong, a thousand scans each: nobody knows the accuracy of the next person."""
    truth = np.zeros(2000, int)
    answer, people = np.repeat([0, 1], 1000), np.repeat(["a", "b"], 1000)
    matrices = metrics.by_subject(truth, answer, people, 2)
    assert metrics.interval(matrices, metrics.accuracy) == (0, 1)
    assert metrics.interval(matrices[:1], metrics.accuracy) == (1, 1)
