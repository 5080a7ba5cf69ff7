"""What time teaches: order and intensity of frames against plain loops, and pooling over the frames of a sequence."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from smile.config import ObjectiveConfig, SmileConfig, TrainingConfig
from smile.losses import Targets, alignment, objective
from smile.model import Encoding
from smile.temporal import (
    MARGIN,
    TemporalPool,
    build_heads,
    by_sequence,
    intensity_loss,
    order_loss,
    pooled_alignment,
)

EVERYTHING = dataclasses.replace(
    SmileConfig(), objective=ObjectiveConfig(order=1, intensity=1), training=TrainingConfig(frames=4)
)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ten frames of three sequences in disorder, one time unknown and two equal."""
    torch.manual_seed(seed)
    sequences = torch.tensor([4, 9, 4, 4, 9, 1, 9, 4, 9, 9])
    times = torch.tensor([0.9, 0.1, 0.2, 0.5, 0.6, 0.3, math.nan, 0.35, 0.6, 0.45])
    return torch.randn(10, 6), sequences, times


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm()


def heads() -> nn.ModuleDict:
    torch.manual_seed(1)
    return build_heads(EVERYTHING, 6)


def test_order_is_the_loop_over_pairs() -> None:
    (fused, sequences, times), head, losses = batch(), heads()["order"], []
    for i in range(10):
        for j in range(10):
            if sequences[i] == sequences[j] and times[i] < times[j]:
                logit = head(unit(fused[j]) - unit(fused[i]))
                losses.append(nn.functional.binary_cross_entropy_with_logits(logit, torch.ones(1)))
    assert len(losses) == 6 + 5
    torch.testing.assert_close(order_loss(fused, sequences, times, head), torch.stack(losses).mean())


def test_intensity_is_the_loop_over_pairs_on_one_side_of_the_apex() -> None:
    (fused, sequences, times), head = batch(), heads()["intensity"]
    apex = torch.where(sequences == 4, 0.4, 0.6)
    for middle in (torch.full((10,), 0.5), apex):
        losses = []
        for i in range(10):
            for j in range(10):
                a, b, top = float(times[i]), float(times[j]), float(middle[i])
                rises, falls = b < a <= top, top <= a < b
                if sequences[i] == sequences[j] and (rises or falls):
                    losses.append((MARGIN - head(unit(fused[i])) + head(unit(fused[j]))).clamp(min=0))
        found = intensity_loss(fused, sequences, times, head, apex=middle)
        torch.testing.assert_close(found, torch.stack(losses).mean())
    torch.testing.assert_close(
        intensity_loss(fused, sequences, times, head),
        intensity_loss(fused, sequences, times, head, apex=torch.full((10,), 0.5)),
    )


def test_a_swap_of_two_frames_flips_the_answer() -> None:
    difference = torch.randn(5, 6)
    head = heads()["order"]
    torch.testing.assert_close(head(difference), -head(-difference))


@pytest.mark.parametrize("case", ["one frame", "no times", "single frames", "equal times"])
def test_without_a_pair_the_loss_is_0_and_can_be_differentiated(case: str) -> None:
    fused, sequences, times = batch()
    fused.requires_grad_(True)
    if case == "one frame":
        fused, sequences, times = fused[:1], sequences[:1], times[:1]
    times = {"no times": torch.full_like(times, math.nan), "equal times": torch.ones_like(times)}.get(
        case, times
    )
    sequences = torch.arange(len(sequences)) if case == "single frames" else sequences
    pieces = heads()
    loss = order_loss(fused, sequences, times, pieces["order"]) + intensity_loss(
        fused, sequences, times, pieces["intensity"]
    )
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in pieces.parameters())


def test_order_and_intensity_can_be_learned_and_gradients_are_finite_at_0() -> None:
    torch.manual_seed(3)
    people, times = torch.randn(8, 1, 6), torch.rand(8, 5)
    film = people + times.unsqueeze(-1) * torch.tensor([1.0, 0, 0, 0, 0, 0])
    sequences, flat = torch.arange(8).repeat_interleave(5), times.flatten() / 2  # rising half
    pieces = heads()
    optimiser = torch.optim.Adam(pieces.parameters(), lr=0.05)
    first = None
    for _ in range(60):
        loss = order_loss(film.flatten(0, 1), sequences, flat, pieces["order"]) + intensity_loss(
            film.flatten(0, 1), sequences, flat, pieces["intensity"]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first = first or loss.item()
    assert loss.item() < 0.35 * first
    nothing = torch.zeros(3, 6, requires_grad=True)
    order_loss(nothing, torch.zeros(3), torch.arange(3) / 3, pieces["order"]).backward()
    assert nothing.grad is not None and nothing.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_give_a_loss_in_float32(dtype: torch.dtype) -> None:
    fused, sequences, times = batch()
    for name, loss in (("order", order_loss), ("intensity", intensity_loss)):
        found = loss(fused.to(dtype), sequences, times, heads()[name])
        assert found.dtype == torch.float32 and found.isfinite()


@pytest.mark.parametrize("name", ["order", "intensity"])
def test_order_and_intensity_in_float64_and_their_gradients(name: str) -> None:
    (fused, sequences, times), head = batch(), heads()[name].double()
    fused, loss = fused.double().requires_grad_(), {"order": order_loss, "intensity": intensity_loss}[name]
    found, slow = loss(fused, sequences, times, head), []
    for i in range(10):
        for j in range(10):
            a, b, top = float(times[i]), float(times[j]), 0.5
            if sequences[i] != sequences[j] or not (
                a < b if name == "order" else b < a <= top or top <= a < b
            ):
                continue
            if name == "order":
                slow.append(-nn.functional.logsigmoid(head(unit(fused[j]) - unit(fused[i]))))
            else:
                slow.append((MARGIN - head(unit(fused[i])) + head(unit(fused[j]))).clamp(min=0))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.stack(slow).mean(), rtol=1e-12, atol=1e-12)
    given = (fused, *head.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: loss(x, sequences, times, head), given)


def test_frames_of_a_batch_by_sequence() -> None:
    fused, sequences, times = batch()
    frames, when, mask, first = by_sequence(fused, sequences, times)
    assert frames.shape == (3, 5, 6) and mask.sum(1).tolist() == [1, 4, 5]
    assert sequences[first].tolist() == [1, 4, 9]
    for s, number in enumerate((1, 4, 9)):
        torch.testing.assert_close(frames[s][mask[s]], fused[sequences == number])
        torch.testing.assert_close(when[s][mask[s]], times[sequences == number], equal_nan=True)


def test_pooling_follows_its_formula_and_padding_has_no_influence() -> None:
    torch.manual_seed(2)
    pool, frames, times = TemporalPool(4), torch.randn(2, 3, 4), torch.tensor([[0.1, 0.5, 0.9]] * 2)
    times[1, 1] = math.nan
    nn.init.normal_(pool.query)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = pool(frames, times, mask)
    for s in range(2):
        score = []
        for t in range(3):
            angles = [math.pi * 2**k * float(times[s, t]) for k in range(3)]
            waves = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
            key = pool.key.weight @ frames[s, t] + pool.time.weight @ waves.nan_to_num(nan=0.0)
            score.append(pool.query @ torch.tanh(key))
        rows = mask[s].nonzero().flatten().tolist()
        alpha = torch.stack([score[t] for t in rows]).softmax(0)
        torch.testing.assert_close(found[s], sum(alpha[i] * frames[s, t] for i, t in enumerate(rows)))
    changed = frames.clone()
    changed[0, 2] = 1e3
    assert torch.equal(pool(changed, times, mask)[0], found[0])


@pytest.mark.parametrize("kind", ["attention", "mean"])
def test_pooling_starts_from_the_mean_and_a_sequence_without_frames_is_0(kind: str) -> None:
    pool, frames = TemporalPool(4, kind), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [False] * 3])
    found = pool(frames, torch.rand(2, 3), mask)
    torch.testing.assert_close(found, torch.stack([frames[0, :2].mean(0), torch.zeros(4)]))
    torch.testing.assert_close(pool(frames, torch.rand(2, 3)), frames.mean(1))


def test_only_the_heads_that_are_asked_for() -> None:
    assert len(build_heads(SmileConfig(), 8)) == 0
    assert set(heads()) == {"order", "intensity", "pool"}


def film(classes: list[int]) -> tuple[torch.Tensor, torch.Tensor, Targets, TemporalPool]:
    """The frames of `batch` with sentences, a pool that weighs, and a mask that leaves the second frame of all out."""
    (fused, sequences, times), pool = batch(), TemporalPool(6)
    nn.init.normal_(pool.query, std=3)
    mask = torch.ones(10, 2, dtype=torch.bool)
    mask[1] = mask[4, 0] = False
    text = nn.functional.normalize(torch.randn(10, 6), dim=1)
    return fused, mask, Targets(text, torch.tensor(classes), sequences // 9, sequences, times), pool


def slow_pooled_alignment(
    fused: torch.Tensor,
    mask: torch.Tensor,
    given: Targets,
    pool: TemporalPool,
    scale: torch.Tensor | float = 5.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequence by sequence: its frames with pictures pooled, beside the first of their sentences."""
    pooled, text, classes = [], [], []
    for number in (1, 4, 9):
        rows = [i for i in range(10) if given.sequences[i] == number and mask[i].any()]
        told = [i for i in rows if given.classes[i] >= 0]
        if told:
            pooled.append(pool(fused[rows][None], given.times[rows][None])[0])
            text.append(given.text[told[0]])
            classes.append(int(given.classes[told[0]]))
    kinds = torch.tensor(classes)
    return alignment(torch.stack(pooled), torch.stack(text), kinds, torch.as_tensor(scale))


@pytest.mark.parametrize(
    "classes",
    [[0, 1, -1, 2, 3, 1, 0, 2, 0, 3], [-1, 7, 0, 2, 0, 4, -1, -1, 5, 5], [0, 0, 0, 0, 1, -1, 1, 0, 1, 1]],
)
def test_the_alignment_of_pooled_sequences_is_the_loop_over_them(classes: list[int]) -> None:
    fused, mask, given, pool = film(classes)
    found = pooled_alignment(fused, mask, given, torch.tensor(5.0), pool)
    torch.testing.assert_close(found, slow_pooled_alignment(fused, mask, given, pool))
    everything = torch.ones_like(mask)
    torch.testing.assert_close(
        pooled_alignment(fused, None, given, torch.tensor(5.0), pool),
        slow_pooled_alignment(fused, everything, given, pool),
    )


def test_the_alignment_of_pooled_sequences_in_float64_and_its_gradients() -> None:
    fused, mask, given, pool = film([0, 1, -1, 2, 3, 1, 0, 2, 0, 3])
    fused, pool, scale = fused.double().requires_grad_(), pool.double(), torch.tensor(5.0).double()
    given = given._replace(text=given.text.double(), times=given.times.double())
    found = pooled_alignment(fused, mask, given, scale, pool)[0]
    slow = slow_pooled_alignment(fused, mask, given, pool, scale)[0]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, slow, rtol=1e-12, atol=1e-12)
    pieces = (fused, *pool.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: pooled_alignment(x, mask, given, scale, pool)[0], pieces)


def test_half_precision_frames_are_pooled_in_float32() -> None:
    fused, mask, given, pool = film([0, 1, -1, 2, 3, 1, 0, 2, 0, 3])
    found = pooled_alignment(fused.bfloat16(), mask, given, torch.tensor(5.0), pool)[0]
    assert found.dtype == torch.float32 and found.isfinite()


def test_fewer_than_two_sequences_with_a_sentence_are_not_aligned() -> None:
    fused, mask, given, pool = film([3, -1, 3, 1, -1, -1, -1, 0, -1, -1])
    assert pooled_alignment(fused, mask, given, torch.tensor(5.0), pool) == (0, 0)


def test_the_objective_adds_the_pool_to_the_alignment_and_trains_it() -> None:
    fused, mask, given, pool = film([0, 1, -1, 2, 3, 1, 0, 2, 0, 3])
    views = torch.stack([fused, -fused], dim=1).requires_grad_()
    found = Encoding(views=views, fused=views[:, 0] * 1, features=fused, mask=mask)
    config, scale = ObjectiveConfig(alignment=2.0), torch.tensor(5.0)
    plain, plain_parts = objective(found, given, scale, config)
    loss, parts = objective(found, given, scale, config, nn.ModuleDict({"pool": pool}))
    extra, floor = pooled_alignment(found.fused, mask, given, scale, pool)
    torch.testing.assert_close(loss, plain + 2 * extra)
    torch.testing.assert_close(parts["alignment"], (plain_parts["alignment"] + extra - floor).detach())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pool.parameters())
    assert pool.query.grad is not None and pool.query.grad.abs().sum() > 0 and views.grad is not None
    assert views.grad.isfinite().all()
