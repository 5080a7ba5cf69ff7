"""Slow references of the losses, loop by loop from their formulas, and random batches to compare on."""

import math
from typing import Any

import numpy as np
import torch

from smile.losses import EPSILON, Targets
from smile.model import Encoding


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets(batch: int, dim: int, classes: list[int] | None = None, **given: Any) -> Targets:
    """Every capture a subject, a sequence and, unless given, a class of its own."""
    rows = torch.arange(batch)
    text = torch.nn.functional.normalize(random(batch, dim, seed=9), dim=1).float()
    found = Targets(text, rows if classes is None else torch.tensor(classes), rows, rows, rows / batch)
    return found._replace(**given)


def slow_standardise(x: np.ndarray) -> np.ndarray:
    out = np.zeros_like(x)
    for k in range(x.shape[1]):
        mean = sum(x[:, k]) / len(x)
        variance = sum((x[:, k] - mean) ** 2) / len(x)
        out[:, k] = (x[:, k] - mean) / math.sqrt(variance + EPSILON)
    return out


def slow_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = slow_standardise(a), slow_standardise(b)
    return np.array([[sum(a[:, k] * b[:, m]) / len(a) for m in range(b.shape[1])] for k in range(a.shape[1])])


def slow_barlow(a: np.ndarray, b: np.ndarray, weight: float) -> float:
    c, total = slow_correlation(a, b), 0.0
    for k in range(len(c)):
        for m in range(len(c)):
            total += (1 - c[k, k]) ** 2 if k == m else weight * c[k, m] ** 2
    return total


def slow_targets(t: np.ndarray, classes: list[int], scale: float, graded: bool) -> np.ndarray:
    q = np.zeros((len(t), len(t)))
    for i, one in enumerate(t):
        for j, other in enumerate(t):
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            if classes[i] == classes[j]:
                q[i, j] = math.exp(scale) if graded else 1
            elif graded:
                q[i, j] = math.exp(scale * cosine)
    return q / q.sum(axis=1, keepdims=True)


def slow_alignment(
    a: np.ndarray,
    t: np.ndarray,
    classes: list[int],
    scale: float,
    *,
    graded: bool = False,
    absent: list[np.ndarray] | None = None,
    of: int = 1,
) -> tuple[float, float]:
    """absent: unit sentences of what nobody shows, each counted for len(a) / of captures."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, t)]
    s, q, total, floor, n = (
        scale * unit[0] @ unit[1].T,
        slow_targets(t, classes, scale, graded),
        0.0,
        0.0,
        len(a),
    )
    for i in range(n):
        more = sum(n / of * math.exp(scale * unit[0][i] @ sentence) for sentence in absent or [])
        for j in range(n):
            if q[i, j] > 0:
                total += q[i, j] * (s[i, j] - math.log(sum(math.exp(s[i, m]) for m in range(n)) + more))
                total += q[i, j] * (s[j, i] - math.log(sum(math.exp(s[m, i]) for m in range(n))))
                floor -= q[i, j] * math.log(q[i, j])
    return -total / (2 * n), floor / n


def encoding(batch: int, *, constant: bool = False, dtype: torch.dtype = torch.float32) -> Encoding:
    z = torch.ones(batch, 3, 8) if constant else random(batch, 3, 8).float()
    z = z.to(dtype).requires_grad_()
    return Encoding(views=z, fused=z.mean(1), features=z.mean(1))
