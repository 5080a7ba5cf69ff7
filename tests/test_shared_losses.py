"""Losses of many sites that share their moments against those of the pooled batch: values, gradients, masks, edges."""

from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smile import losses, moments
from smile.config import ObjectiveConfig
from smile.losses import Targets
from smile.model import Encoding
from smile.moments import Moments
from smile.pairs import partners

torch.set_num_threads(1)

CLIENTS = (1, 2, 5, 20)  # captures of each
INPUT, DIM, OFF = 6, 5, 0.1


class Federation:
    """Clients with the captures of one pooled batch between them, and one network in float64 that all of them hold."""

    def __init__(
        self, sizes: tuple[int, ...] = CLIENTS, *, views: int = 3, missing: float = 0, seed: int = 0
    ):
        draw = torch.Generator().manual_seed(seed)
        self.sizes, self.batch = sizes, sum(sizes)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(INPUT, 8), torch.nn.Tanh(), torch.nn.Linear(8, DIM)
        ).double()
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
        shared = torch.randn(self.batch, 1, INPUT, generator=draw)
        self.x = (shared + torch.randn(self.batch, views, INPUT, generator=draw)).double()
        self.mask = torch.rand(self.batch, views, generator=draw) >= missing if missing else None
        self.text = torch.nn.functional.normalize(
            torch.randn(self.batch, DIM, generator=draw), dim=1
        ).double()
        self.classes = torch.randint(-1 if missing else 0, 4, (self.batch,), generator=draw)
        starts = np.cumsum((0, *sizes))
        self.rows = [slice(int(a), int(b)) for a, b in pairwise(starts)]

    def batch_of(self, rows: slice) -> tuple[Encoding, Targets]:
        z, mask = self.net(self.x[rows]), None if self.mask is None else self.mask[rows]
        if mask is not None:
            z = torch.where(mask.unsqueeze(-1), z, float("nan"))
        fused = z.nan_to_num().sum(dim=1)
        ids = torch.arange(len(z))
        targets = Targets(self.text[rows], self.classes[rows], ids, ids, ids / len(z))
        return Encoding(z, fused, fused, mask), targets

    def moments(self, pairs: str = "views") -> Moments:
        """Of each client alone, added."""
        with torch.no_grad():
            each = [moments.compared(*self.batch_of(rows), pairs=pairs) for rows in self.rows]
        return reduce(add, [moments.sum_up(*parts) for parts in each])

    def partner(self, rows: slice) -> torch.Tensor:
        """As `pairs = sentences` finds them, within the client, numbered within `rows`: clients cannot be paired with each other."""
        found = []
        for own in self.rows:
            if rows.start <= own.start and own.stop <= rows.stop:
                local = partners("sentences", self.batch_of(own)[1])
                assert local is not None
                found.append(local + own.start - rows.start)
        return torch.cat(found)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, list(self.net.parameters()), retain_graph=True)
        return torch.cat([g.flatten() for g in found])

    def mean(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """Weighted by the captures of each client, as FedAvg averages."""
        return sum((n / self.batch * g for n, g in zip(self.sizes, gradients, strict=True)), torch.zeros(()))


def decorrelation_and_redundancy(
    federation: Federation, rows: slice, shared: moments.Shared | None, *, pairs: str, reading: str
) -> tuple[torch.Tensor, torch.Tensor]:
    encoding, targets = federation.batch_of(rows)
    views, text = (None, None) if shared is None else shared[:2]
    partner = federation.partner(rows) if pairs == "sentences" else None
    mv = losses.decorrelation(
        encoding.views, off_diagonal=OFF, mask=encoding.mask, partner=partner, shared=views
    )
    there = losses.with_sentence(encoding, targets)
    return mv, losses.redundancy(encoding.fused, targets.text, reading=reading, rows=there, shared=text)


def slow_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of two views of the captures that have both, (n, D) each, as the formula of the losses says it."""
    a, b = ((x - x.mean(0)) / np.sqrt(x.var(0) + losses.EPSILON) for x in (a, b))
    return np.mean([np.outer(x, y) for x, y in zip(a, b, strict=True)], axis=0)


# --- the identities ---------------------------------------------------------------


@pytest.mark.parametrize("missing", [0, 0.3])
def test_added_moments_give_the_correlations_of_the_pooled_batch(missing: float) -> None:
    federation = Federation(missing=missing)
    encoding, targets = federation.batch_of(slice(0, federation.batch))
    z, fused = encoding.views.detach().numpy(), encoding.fused.detach().numpy()
    seen = np.ones(z.shape[:2], bool) if encoding.mask is None else encoding.mask.numpy()
    whole = federation.moments()
    assert whole.captures == federation.batch
    for place, (u, v) in enumerate(((0, 1), (0, 2), (1, 2))):
        both = seen[:, u] & seen[:, v]
        assert whole.count[place] == both.sum()
        expected = slow_correlation(z[both, u], z[both, v])
        np.testing.assert_allclose(moments.correlation(whole, place), expected, rtol=0, atol=1e-12)
    told = losses.with_sentence(encoding, targets).numpy()
    expected = slow_correlation(fused[told], targets.text.numpy()[told])
    np.testing.assert_allclose(moments.correlation(whole, -1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pairs", ["views", "sentences"])
@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("missing", [0, 0.3])
@pytest.mark.parametrize("reading", ["off-diagonal", "full"])
def test_the_mean_of_the_clients_gradients_is_the_pooled_gradient(
    pairs: str, views: int, missing: float, reading: str
) -> None:
    """Clients of 1, 2, 5 and 20 captures, one step over all of them: the gradient of one batch of 28."""
    federation = Federation(views=views, missing=missing, seed=views)
    everyone = slice(0, federation.batch)
    shared = moments.shared(federation.moments(pairs), dtype=torch.float64)
    pooled = decorrelation_and_redundancy(federation, everyone, None, pairs=pairs, reading=reading)
    each = [
        decorrelation_and_redundancy(federation, rows, shared, pairs=pairs, reading=reading)
        for rows in federation.rows
    ]
    for place, whole in enumerate(pooled):
        for client in each:
            torch.testing.assert_close(client[place], whole, rtol=1e-12, atol=1e-12)
        expected = federation.gradient(whole)
        found = federation.mean([federation.gradient(client[place]) for client in each])
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
        alone = place == 0 and views == 1 and pairs == "views"  # nothing to compare with
        assert (expected.abs().max() > 1e-3) != alone


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0, 0.6), st.integers(0, 2**31))
def test_however_captures_lie_at_the_sites(sizes: list[int], missing: float, seed: int) -> None:
    federation = Federation(tuple(sizes), missing=missing, seed=seed)
    shared = moments.shared(federation.moments(), dtype=torch.float64)
    chosen: dict[str, Any] = {"pairs": "views", "reading": "full"}
    pooled = decorrelation_and_redundancy(federation, slice(0, federation.batch), None, **chosen)
    each = [decorrelation_and_redundancy(federation, rows, shared, **chosen) for rows in federation.rows]
    for place, whole in enumerate(pooled):
        expected = federation.gradient(whole)
        found = federation.mean([federation.gradient(client[place]) for client in each])
        scale = 1 + expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * scale)


def test_one_round_of_plain_descent_in_float32_is_one_step_on_the_pooled_batch() -> None:
    """What crosses is float32, the objective is whole but for the alignment, and the weights are averaged as FedAvg does."""
    federation, rate = Federation(), 0.05
    federation.net.float()
    federation.x, federation.text = federation.x.float(), federation.text.float()
    config = ObjectiveConfig(decorrelation=0.5, alignment=0.0, redundancy=2.0, pairs="views")
    like = {name: array.shape for name, array in federation.moments().arrays().items()}
    shared = moments.shared(moments.from_arrays(federation.moments().arrays(), like=like))

    def after(rows: slice, shared: moments.Shared | None) -> torch.Tensor:
        loss, parts = losses.objective(*federation.batch_of(rows), torch.tensor(5.0), config, shared=shared)
        assert shared is None or parts["redundancy_skipped"] == 0
        weights = torch.cat([p.detach().flatten() for p in federation.net.parameters()])
        return weights - rate * federation.gradient(loss)

    pooled = after(slice(0, federation.batch), None)
    found = federation.mean([after(rows, shared) for rows in federation.rows])
    alone = federation.mean([after(rows, None) for rows in federation.rows])
    torch.testing.assert_close(found, pooled, rtol=0, atol=1e-5)
    assert (alone - pooled).abs().max() > 1e-3  # what the sites would have done without the moments


def test_the_gradient_adds_up_over_the_batches_of_a_site() -> None:
    """Without moments it does not: a site may then cut its captures into batches, or accumulate them."""
    federation = Federation((12,), missing=0.3)
    shared = moments.shared(federation.moments(), dtype=torch.float64)
    chosen: dict[str, Any] = {"pairs": "views", "reading": "off-diagonal"}
    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    for place in range(2):
        whole = decorrelation_and_redundancy(federation, slice(0, 12), shared, **chosen)[place]
        each = [decorrelation_and_redundancy(federation, rows, shared, **chosen)[place] for rows in parts]
        torch.testing.assert_close(
            sum(map(federation.gradient, each), torch.zeros(())) / 3, federation.gradient(whole)
        )


# --- edges --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("case", ["plain", "constant", "no sentences", "one sentence", "nothing there"])
def test_small_and_lopsided_sites_stay_finite(dtype: torch.dtype, batch: int, case: str) -> None:
    z = torch.ones(batch, 3, DIM) if case == "constant" else Federation((batch,)).x[..., :DIM].float()
    z = z.to(dtype).requires_grad_()
    mask = torch.zeros(batch, 3, dtype=torch.bool) if case == "nothing there" else None
    ids = torch.arange(batch)
    text = torch.nn.functional.normalize(
        torch.randn(batch, DIM, generator=torch.Generator().manual_seed(0)), dim=1
    )
    given = Targets(text, torch.full((batch,), -1) if case == "no sentences" else ids, ids, ids, ids / batch)
    if case == "one sentence":
        given = given._replace(text=text[:1].expand(batch, DIM))
    encoding = Encoding(z, z.mean(1), z.mean(1), mask)
    found = moments.sum_up(*moments.compared(encoding, given, pairs="sentences"))
    loss, parts = losses.objective(
        encoding, given, torch.tensor(10.0), ObjectiveConfig(), shared=moments.shared(found)
    )
    loss.backward()
    assert all(torch.isfinite(value) for value in parts.values()) and loss.dtype == torch.float32
    assert torch.isfinite(z.grad).all()
    told = case in ("plain", "constant") and batch > 1
    assert parts["redundancy_skipped"] == (not told)
    if batch == 1 or case == "nothing there":
        assert parts["decorrelation"] == 0 == parts["redundancy"]


def test_a_site_of_one_capture_learns_from_the_moments_of_others() -> None:
    federation = Federation((1, 20))
    shared = moments.shared(federation.moments(), dtype=torch.float64)
    chosen: dict[str, Any] = {"pairs": "views", "reading": "off-diagonal"}
    own = federation.rows[0]
    for alone, found in zip(
        decorrelation_and_redundancy(federation, own, None, **chosen),
        decorrelation_and_redundancy(federation, own, shared, **chosen),
        strict=True,
    ):
        assert federation.gradient(alone).abs().max() < 1e-9
        assert federation.gradient(found).abs().max() > 1e-3


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    federation = Federation()
    with torch.no_grad():
        federation.net[-1].bias += 30  # type: ignore[union-attr, operator]
    exact = moments.shared(federation.moments(), dtype=torch.float64)
    sent = federation.moments().arrays()
    rounded = moments.shared(moments.from_arrays(sent, like={n: a.shape for n, a in sent.items()}))
    for place in (0, 1):
        torch.testing.assert_close(
            rounded[place].correlation.double(), exact[place].correlation, rtol=0, atol=1e-3
        )


def test_losses_of_noisy_moments_stay_finite() -> None:
    federation = Federation()
    noisy = moments.noisy(federation.moments(), 3.0, generator=np.random.default_rng(0))
    loss, _ = losses.objective(
        *federation.batch_of(federation.rows[2]),
        torch.tensor(5.0),
        ObjectiveConfig(),
        shared=moments.shared(noisy),
    )
    assert torch.isfinite(federation.gradient(loss)).all()
