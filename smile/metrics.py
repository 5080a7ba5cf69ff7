"""Figures of merit from counts of decisions, and how far they would move with other people.

Everything here works on confusion matrices: a figure of many decisions is a figure of their sum, so folds, seeds and
resampled people only add matrices up. Legend: m decisions, S people, K classes, C separate yes/no questions (action units,
or classes of which several may hold), each with its own 2 x 2 matrix; `...` any axes before them. Row = truth, column = answer.
"""

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000


def count(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """Class numbers (m,), (m,) -> (K, K) int64."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (truth, answer), 1)
    return matrix


def count_binary(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """(m, C) of 0, 1 and NaN = not coded, (m, C) of 0 and 1 -> (C, 2, 2) int64; what is not coded is left out."""
    coded = np.isfinite(truth)
    pairs = [(truth[coded[:, c], c].astype(int), answer[coded[:, c], c]) for c in range(truth.shape[1])]
    return np.stack([count(t, a.astype(int), 2) for t, a in pairs])


def by_subject(truth: np.ndarray, answer: np.ndarray, subjects: np.ndarray, classes: int) -> np.ndarray:
    """One matrix for each person, in sorted order: (S, K, K), or (S, C, 2, 2) where `truth` is (m, C)."""
    rows = [subjects == name for name in np.unique(subjects)]
    if truth.ndim == 2:
        return np.stack([count_binary(truth[row], answer[row]) for row in rows])
    return np.stack([count(truth[row], answer[row], classes) for row in rows])


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """Share of right decisions, (..., K, K) -> (...); NaN without a decision."""
    return _share(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum((-2, -1)))


def uar(matrix: np.ndarray) -> np.ndarray:
    """Unweighted average recall over the classes that occur, (..., K, K) -> (...)."""
    return _mean(_share(_diagonal(matrix), matrix.sum(-1)))


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur or are answered, (..., K, K) -> (...)."""
    return _mean(_f1(matrix))


def f1(matrices: np.ndarray) -> np.ndarray:
    """F1 of "yes" for each question, (..., C, 2, 2) -> (..., C); NaN where "yes" neither occurs nor is answered."""
    return _f1(matrices)[..., 1]


def uf1(matrices: np.ndarray) -> np.ndarray:
    """Unweighted F1: the mean of `f1` over the questions, (..., C, 2, 2) -> (...). As UF1 of the micro-expression
    challenges (MEGC 2019): true and false positives are added up over all folds before the division."""
    return _mean(f1(matrices))


def mean_uar(matrices: np.ndarray) -> np.ndarray:
    """Mean over the questions of (recall of "yes" + recall of "no") / 2, (..., C, 2, 2) -> (...).

    Answering always "yes" or always "no" scores 50 %. A question whose codes are all alike is left out. The UAR of MEGC
    2019 averages the recall of "yes" alone: fair where one class holds at a time, but here always "yes" would score 100 %.
    """
    recall = _share(_diagonal(matrices), matrices.sum(-1))
    return _mean(recall.mean(-1))


FIGURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{"accuracy": accuracy, "uar": uar, "macro_f1": macro_f1},
    **{"uf1": uf1, "mean_uar": mean_uar},
}


def interval(
    people: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], *, share: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap over PEOPLE (two scans of one face are not independent): matrices (S, ...) -> (low, high).

    The people are drawn anew with replacement `RESAMPLES` times. It says nothing of training again, and with few people
    it is too narrow; with one it is a point.
    """
    drawn = np.random.default_rng(seed).multinomial(
        len(people), np.full(len(people), 1 / len(people)), RESAMPLES
    )
    found = figure(np.tensordot(drawn, people, axes=1))
    edges = [50 * (1 - share), 50 * (1 + share)]
    low, high = np.nanpercentile(found, edges) if np.isfinite(found).any() else (np.nan, np.nan)
    return float(low), float(high)


def _diagonal(matrix: np.ndarray) -> np.ndarray:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _f1(matrix: np.ndarray) -> np.ndarray:
    return _share(2 * _diagonal(matrix), matrix.sum(-1) + matrix.sum(-2))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without what is not defined; NaN where nothing is."""
    defined = np.isfinite(values)
    return np.where(
        defined.any(-1), np.where(defined, values, 0).sum(-1) / np.maximum(defined.sum(-1), 1), np.nan
    )
