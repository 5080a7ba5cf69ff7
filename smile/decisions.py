"""From a model to the decisions of a fold by every method, and from the decisions of all folds to figures.

n samples, u decisions, t tested ones, K classes, C yes/no questions, W tower width, D joint embedding.
"""

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import metrics
from .evaluation import (
    each_question,
    encode,
    few_shot,
    fine_tune,
    head_answers,
    linear_probe,
    nearest_neighbours,
    per_sequence,
    sequence_embeddings,
    zero_shot,
)
from .protocols import SEVERAL, SINGLE, Split, Task

if TYPE_CHECKING:
    from .config import SmileConfig
    from .model import SmileModel
    from .training import Captures


def embeddings(
    model: "SmileModel", captures: "Captures", task: Task, config: "SmileConfig", *, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Features (u, W), the mean over the samples of each decision, and embeddings (u, D): `sequence_embeddings`."""
    features, fused = encode(model, captures, task.rows, config, device=device)
    z = sequence_embeddings(model, fused, captures.times[task.rows], task.unit)
    return per_sequence(features, task.unit)[0], z


def answer_all(
    encoded: tuple[np.ndarray, np.ndarray],
    task: Task,
    split: Split,
    config: "SmileConfig",
    *,
    shots: int | None = None,
) -> dict[str, np.ndarray]:
    """What each method answers in a fold: (t,) places in the classes, (draws, t) for few-shot, (t, C) for questions."""
    from .sentences import class_prototypes

    (x, z), (train, test) = encoded, split
    known = x[train], task.truth[train]
    if task.truth.ndim == 2:
        return {
            "linear_probe": each_question(partial(linear_probe, balanced=True), *known, x[test]),
            "knn": each_question(nearest_neighbours, *known, x[test]),
        }
    answers = {
        "linear_probe": linear_probe(*known, x[test]),
        "knn": nearest_neighbours(*known, x[test]),
        "zero_shot": zero_shot(z[test], class_prototypes(config, list(task.classes))),
    }
    if shots:
        answers[f"{shots}_shot"] = few_shot(
            *known, task.subjects[train], x[test], shots=shots, seed=config.training.seed
        )
    return answers


def fine_tuned(
    model: "SmileModel",
    captures: "Captures",
    task: Task,
    split: Split,
    config: "SmileConfig",
    *,
    steps: int,
    device: str = "cpu",
) -> np.ndarray:
    """What a copy of the model with a head answers after `steps` steps on the labels of the fold's training people, (t,)."""
    mine, tuned = np.isin(task.unit, split.train), copy.deepcopy(model)
    rows, targets = task.rows[mine], task.truth[task.unit[mine]]
    head = fine_tune(tuned, captures, config, rows=rows, targets=targets, steps=steps, device=device)
    test = np.isin(task.unit, split.test)
    units = np.unique(task.unit[test], return_inverse=True)[1]
    held = task._replace(rows=task.rows[test], unit=units)
    return head_answers(head, embeddings(tuned, captures, held, config, device=device)[0])


def figures(task: Task, folds: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Figures over all decisions with intervals over people, mean and deviation over folds; None = not defined.

    folds: of each fold, places of its decisions in the task (t,) and the answers (t,), (draws, t) or (t, C).
    """
    several = task.truth.ndim == 2
    per_fold, decided, answered = [], [], []
    for test, answer in folds:
        repeated = np.tile(test, 1 if several or answer.ndim == 1 else len(answer))
        decided.append(repeated)
        answered.append(answer if several else answer.ravel())
        per_fold.append(
            metrics.by_subject(
                task.truth[repeated], answered[-1], np.zeros(len(repeated), str), len(task.classes)
            )[0]
        )
    places = np.concatenate(decided)
    people = metrics.by_subject(
        task.truth[places], np.concatenate(answered), task.subjects[places], len(task.classes)
    )
    total, result = people.sum(0), dict[str, Any]()
    for name in SEVERAL if several else SINGLE:
        figure = metrics.FIGURES[name]
        low, high = metrics.interval(people, figure)
        values = figure(np.stack(per_fold))
        values = values[np.isfinite(values)]
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        mean = float(values.mean()) if len(values) else None
        result[name] = {"value": _or_none(figure(total)), "low": _or_none(low), "high": _or_none(high)}
        result[name] |= {"folds_mean": mean, "folds_deviation": spread}
    if several:
        result["f1"] = {
            name: _or_none(value) for name, value in zip(task.classes, metrics.f1(total), strict=True)
        }
    else:
        result["confusion"] = total.tolist()
    return result


def _or_none(value: Any) -> float | None:
    return float(value) if value == value else None
