"""Each loss against a slow reference written from its formula, its invariances, its gradient, its edges."""

import math

import numpy as np
import pytest
import torch

from smile import losses
from smile.config import ObjectiveConfig
from smile.model import Encoding

torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses cast to float32 for mixed precision; references need float64."""
    monkeypatch.setattr(
        torch.Tensor, "float", lambda self: self if self.dtype == torch.float64 else self.to(torch.float32)
    )


def slow_standardise(x: np.ndarray) -> np.ndarray:
    out = np.zeros_like(x)
    for k in range(x.shape[1]):
        mean = sum(x[:, k]) / len(x)
        variance = sum((x[:, k] - mean) ** 2) / len(x)
        out[:, k] = (x[:, k] - mean) / math.sqrt(variance + losses.EPSILON)
    return out


def slow_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = slow_standardise(a), slow_standardise(b)
    return np.array([[sum(a[:, k] * b[:, m]) / len(a) for m in range(b.shape[1])] for k in range(a.shape[1])])


def test_decorrelation_equals_its_formula() -> None:
    z, weight, total = random(7, 3, 5).numpy(), 0.01, 0.0
    for u, v in ((0, 1), (0, 2), (1, 2)):
        c = slow_correlation(z[:, u], z[:, v])
        for k in range(5):
            for m in range(5):
                total += (1 - c[k, k]) ** 2 if k == m else weight * c[k, m] ** 2
    assert losses.decorrelation(torch.from_numpy(z), off_diagonal=weight).item() == pytest.approx(
        total / 3, abs=1e-9
    )


def test_decorrelation_ignores_scale_and_shift_of_features() -> None:
    z = random(16, 2, 4) * 50  # large, so that epsilon does not matter
    moved = z * torch.tensor([1.0, 3.0, 0.5, 10.0]) + torch.tensor([5.0, -2.0, 0.0, 100.0])
    expected = losses.decorrelation(z, off_diagonal=0.1)
    torch.testing.assert_close(losses.decorrelation(moved, off_diagonal=0.1), expected, rtol=1e-5, atol=1e-7)


def test_identical_decorrelated_views_cost_nothing() -> None:
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64) * 100
    z = signs[:, None, :].expand(4, 3, 2)
    assert losses.decorrelation(z, off_diagonal=1.0).item() == pytest.approx(0, abs=1e-9)


def test_a_masked_view_is_as_good_as_absent() -> None:
    z = random(10, 3, 4)
    mask = torch.ones(10, 3, dtype=torch.bool)
    mask[:, 2] = False
    z_nan = z.clone()
    z_nan[:, 2] = float("nan")
    expected = losses.decorrelation(z[:, :2], off_diagonal=0.1)
    torch.testing.assert_close(losses.decorrelation(z_nan, off_diagonal=0.1, mask=mask), expected)


def test_alignment_equals_its_formula() -> None:
    a, t, classes, scale = random(6, 4).numpy(), random(6, 4, seed=1).numpy(), [0, 1, 0, 2, 1, 0], 5.0
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, t)]
    s = scale * unit[0] @ unit[1].T
    total = 0.0
    for i in range(6):
        same = [j for j in range(6) if classes[j] == classes[i]]
        for j in same:
            total += (s[i, j] - math.log(sum(math.exp(s[i, m]) for m in range(6)))) / len(same)
            total += (s[j, i] - math.log(sum(math.exp(s[m, i]) for m in range(6)))) / len(same)
    got = losses.alignment(
        torch.from_numpy(a), torch.from_numpy(t), torch.tensor(classes), torch.tensor(scale)
    )
    assert got.item() == pytest.approx(-total / 12, abs=1e-6)


def test_alignment_is_scale_free_order_free_and_floored() -> None:
    a, t, classes, scale = random(8, 4), random(8, 4, seed=1), torch.tensor([0, 1] * 4), torch.tensor(10.0)
    loss = losses.alignment(a, t, classes, scale)
    torch.testing.assert_close(losses.alignment(a * 7, t * 0.1, classes, scale), loss)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(losses.alignment(a[order], t[order], classes[order], scale), loss)
    poles = torch.eye(4, dtype=torch.float64)[classes]
    best = losses.alignment(poles, poles, classes, torch.tensor(100.0))
    assert best.item() == pytest.approx(losses.entropy(classes).item(), abs=1e-6)
    assert best.item() == pytest.approx(math.log(4), abs=1e-6)


@pytest.mark.parametrize("reading", ["off-diagonal", "full"])
def test_redundancy_equals_its_formula(reading: str) -> None:
    a, t = random(9, 4), random(9, 4, seed=1)
    c = slow_correlation(a.numpy(), t.numpy())
    terms = [c[k, m] ** 2 for k in range(4) for m in range(4) if reading == "full" or k != m]
    assert losses.redundancy(a, t, reading=reading).item() == pytest.approx(sum(terms) / len(terms), abs=1e-9)


def test_gradients() -> None:
    z, t, classes = random(5, 3, 3).requires_grad_(), random(5, 3, seed=1), torch.tensor([0, 1, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda x: losses.decorrelation(x, off_diagonal=0.3), z)
    one = random(5, 3, seed=2).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, s: losses.alignment(x, t, classes, s), (one, scale))
    assert torch.autograd.gradcheck(lambda x: losses.redundancy(x, t, reading="off-diagonal"), one)


def encoding(batch: int, *, constant: bool = False) -> Encoding:
    z = torch.ones(batch, 3, 8) if constant else torch.randn(batch, 3, 8)
    z.requires_grad_()
    return Encoding(views=z, fused=z.mean(1), features=z.mean(1))


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("classes", ["one", "many", "none", "half"])
def test_small_and_lopsided_batches_stay_finite(batch: int, constant: bool, classes: str) -> None:
    code = {
        "one": [0] * batch,
        "many": list(range(batch)),
        "none": [-1] * batch,
        "half": [0 if i % 2 else -1 for i in range(batch)],
    }[classes]
    found = encoding(batch, constant=constant)
    text = torch.nn.functional.normalize(torch.randn(batch, 8), dim=1)
    if classes == "one":
        text = text[:1].expand(batch, 8)
    loss, parts = losses.objective(found, text, torch.tensor(code), torch.tensor(14.0), ObjectiveConfig())
    loss.backward()
    assert all(torch.isfinite(value) for value in parts.values())
    assert torch.isfinite(found.views.grad).all()
    assert parts["redundancy_skipped"] == (
        classes in ("one", "none") or batch == 1 or (classes == "half" and batch < 4)
    )


def test_the_alignment_part_is_zero_at_its_best() -> None:
    classes = torch.tensor([0, 0, 1, 1])
    poles = torch.eye(8)[classes]
    best = Encoding(views=poles[:, None].expand(4, 3, 8), fused=poles, features=poles)
    _, parts = losses.objective(best, poles, classes, torch.tensor(100.0), ObjectiveConfig())
    assert parts["alignment"].item() == pytest.approx(0, abs=1e-4)
