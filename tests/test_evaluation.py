"""Probes on data with a known answer, and the rules that keep an evaluation honest."""

import numpy as np
import pytest

from smile.config import SmileConfig, ViewConfig
from smile.evaluation import confusion, evaluate, linear_probe, nearest_neighbours, per_sequence, zero_shot
from smile.model import build_model
from smile.text import class_embeddings, prompt_embeddings


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


def test_zero_shot_reads_prototypes_without_any_label() -> None:
    config, classes = SmileConfig(), np.array(["anger", "fear", "happiness"])
    bank = prompt_embeddings(config.model)
    prototypes = class_embeddings({name: bank[name] for name in ("happiness", "anger")})
    assert zero_shot(prototypes, config, classes).tolist() == ["happiness", "anger"]


def test_frames_of_a_sequence_are_one_decision() -> None:
    values, first = per_sequence(np.array([[1.0], [3.0], [10.0]]), np.array([7, 7, 2]))
    assert values.tolist() == [[10.0], [2.0]] and first.tolist() == [2, 0]


def test_confusion_counts() -> None:
    classes = np.array(["a", "b"])
    assert confusion(np.array(["a", "a", "b"]), np.array(["a", "b", "b"]), classes) == [[1, 1], [0, 1]]


class Captures:
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
