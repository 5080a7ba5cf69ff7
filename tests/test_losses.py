"""Each loss against a slow reference written from its formula: its invariances, its bounds, its gradient, its edges."""

import math

import numpy as np
import pytest
import torch

from smile import losses
from smile.config import ObjectiveConfig
from smile.pairs import partners
from tests.slow_losses import (
    encoding,
    random,
    slow_alignment,
    slow_barlow,
    slow_correlation,
    targets,
)

torch.set_num_threads(1)


# --- decorrelation ------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 3, 5), (5, 3, 7), (6, 2, 6)])  # with C, without C, at the border
def test_decorrelation_equals_its_formula(shape: tuple[int, int, int]) -> None:
    z = random(*shape)
    pairs = [(u, v) for u in range(shape[1]) for v in range(u + 1, shape[1])]
    expected = sum(slow_barlow(z[:, u].numpy(), z[:, v].numpy(), 0.01) for u, v in pairs) / len(pairs)
    assert losses.decorrelation(z, off_diagonal=0.01).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dim", [3, 12])
def test_masked_decorrelation_counts_rows_with_both_views(dim: int) -> None:
    z = random(9, 3, dim)
    mask = torch.ones(9, 3, dtype=torch.bool)
    mask[:4, 0] = mask[2:6, 1] = False
    mask[1:, 2] = False  # no pair with it has two rows
    both = (mask[:, 0] & mask[:, 1]).numpy()
    expected = slow_barlow(z[both, 0].numpy(), z[both, 1].numpy(), 0.1)
    z[~mask] = float("nan")
    z.requires_grad_()
    found = losses.decorrelation(z, off_diagonal=0.1, mask=mask)
    assert found.item() == pytest.approx(expected, abs=1e-9)
    (gradient,) = torch.autograd.grad(found, z)
    assert torch.isfinite(gradient).all() and (gradient[~mask] == 0).all() and gradient.abs().sum() > 0


def test_a_masked_view_is_as_good_as_absent() -> None:
    z = random(10, 3, 4)
    mask = torch.ones(10, 3, dtype=torch.bool)
    whole = losses.decorrelation(z, off_diagonal=0.1)
    torch.testing.assert_close(losses.decorrelation(z, off_diagonal=0.1, mask=mask), whole)
    mask[:, 2] = False
    expected = losses.decorrelation(z[:, :2], off_diagonal=0.1)
    z[:, 2] = float("nan")
    torch.testing.assert_close(losses.decorrelation(z, off_diagonal=0.1, mask=mask), expected)


def test_decorrelation_ignores_scale_and_shift_of_features() -> None:
    z = random(16, 2, 4) * 50  # large, so that epsilon does not matter
    moved = z * torch.tensor([1.0, 3.0, 0.5, 10.0]) + torch.tensor([5.0, -2.0, 0.0, 100.0])
    expected = losses.decorrelation(z, off_diagonal=0.1)
    torch.testing.assert_close(losses.decorrelation(moved, off_diagonal=0.1), expected, rtol=1e-5, atol=1e-7)


def test_identical_decorrelated_views_cost_nothing() -> None:
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64) * 100
    z = signs[:, None, :].expand(4, 3, 2)
    assert losses.decorrelation(z, off_diagonal=1.0).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("batch", "bound"), [(8, 188), (32, 40.5), (128, 7.9)])
def test_small_batches_cannot_fall_below_their_bound(batch: int, bound: float) -> None:
    """Trap 5: identical views, d = 512; C has rank N - 1."""
    z = random(batch, 1, 512).expand(-1, 2, -1)
    found = losses.decorrelation(z, off_diagonal=0.0051).item()
    least = 0.0051 * (512**2 / (batch - 1) - 512)
    assert least == pytest.approx(bound, rel=0.01)
    assert least - 1e-2 <= found <= least * 1.1 + 3


# --- pairs ----------------------------------------------------------------------


def slow_partner(row: int, fits: list[bool], liked: list[bool]) -> int:
    """The next row round the corner that fits, one that is liked first; else itself."""
    following = [(row + step) % len(fits) for step in range(1, len(fits))]
    chosen = [j for j in following if fits[j] and liked[j]] + [j for j in following if fits[j]]
    return chosen[0] if chosen else row


def test_partners_are_the_next_that_fit() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        classes, subjects, sequences = (draw.integers(-1, 4, 9).tolist() for _ in range(3))
        given = targets(9, 4, classes, subjects=torch.tensor(subjects), sequences=torch.tensor(sequences))
        frames = [slow_partner(i, [s == sequences[i] for s in sequences], [True] * 9) for i in range(9)]
        sentences = [
            slow_partner(i, [c == classes[i] >= 0 for c in classes], [s != subjects[i] for s in subjects])
            for i in range(9)
        ]
        assert partners("views", given) is None
        found = partners("frames", given), partners("sentences", given)
        assert found[0] is not None and found[0].tolist() == frames
        assert found[1] is not None and found[1].tolist() == sentences


@pytest.mark.parametrize("masked", [False, True])
def test_a_partner_gives_the_second_picture(masked: bool) -> None:
    z, partner = random(6, 2, 4), torch.tensor([2, 0, 1, 3, 5, 2])
    mask = torch.ones(6, 2, dtype=torch.bool)
    mask[1, 0] = mask[2, 1] = not masked
    rows = [i for i in range(6) if mask[i, 0] and mask[partner[i], 1]]
    expected = slow_barlow(z[rows, 0].numpy(), z[partner[rows], 1].numpy(), 0.1)
    found = losses.decorrelation(z, off_diagonal=0.1, mask=mask if masked else None, partner=partner)
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_a_single_view_pairs_with_its_partner_alone() -> None:
    z, partner = random(5, 1, 3), torch.tensor([1, 2, 0, 3, 4])  # the last two have none
    expected = slow_barlow(z[:3, 0].numpy(), z[partner[:3], 0].numpy(), 0.1)
    assert losses.decorrelation(z, off_diagonal=0.1, partner=partner).item() == pytest.approx(
        expected, abs=1e-9
    )
    assert losses.decorrelation(z, off_diagonal=0.1, partner=torch.arange(5)).item() == 0
    assert losses.decorrelation(z, off_diagonal=0.1).item() == 0


# --- alignment ------------------------------------------------------------------


@pytest.mark.parametrize("graded", [False, True])
def test_alignment_equals_its_formula(graded: bool) -> None:
    a, t, classes = random(6, 4), random(6, 4, seed=1), [0, 1, 0, 2, 1, 0]
    found = losses.alignment(a, t, torch.tensor(classes), torch.tensor(5.0), graded=graded)
    expected = slow_alignment(a.numpy(), t.numpy(), classes, 5.0, graded=graded)
    assert [x.item() for x in found] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("graded", [False, True])
def test_pictures_are_aligned_each_on_its_own_without_what_is_missing(graded: bool) -> None:
    a, t, classes = random(7, 3, 4), random(7, 4, seed=1), torch.tensor([0, 1, 0, -1, 1, 2, -1])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]]).bool()
    expected = []
    for v in range(3):
        rows = (mask[:, v] & (classes >= 0)).nonzero()[:, 0]
        chosen = a[rows, v].numpy(), t[rows].numpy(), classes[rows].tolist()
        expected.append(slow_alignment(*chosen, 5.0, graded=graded) if len(rows) else (0, 0))
    a[~mask] = float("nan")
    a.requires_grad_()
    each, floors = losses.alignment(a, t, classes, torch.tensor(5.0), mask=mask, graded=graded)
    assert each.tolist() == pytest.approx([loss for loss, _ in expected], abs=1e-6)
    assert floors.tolist() == pytest.approx([floor for _, floor in expected], abs=1e-6)
    (gradient,) = torch.autograd.grad(each.sum(), a)
    assert torch.isfinite(gradient).all() and (gradient[classes < 0] == 0).all()


def test_a_picture_is_told_from_the_expressions_that_the_batch_lacks() -> None:
    a, t, expressions = random(7, 2, 4), random(7, 4, seed=1), random(5, 4, seed=2)
    classes, scale = torch.tensor([0, 3, 0, -1, 3, 3, 8]), torch.tensor(5.0)
    mask = torch.tensor([[1, 0], [1, 1], [1, 0], [1, 1], [1, 1], [1, 1], [1, 0]]).bool()
    unit = [e / np.linalg.norm(e) for e in expressions.numpy()]
    expected = []
    for v, lacking in enumerate([[1, 2, 4], [0, 1, 2, 4]]):
        rows = (mask[:, v] & (classes >= 0)).nonzero()[:, 0]
        chosen = a[rows, v].numpy(), t[rows].numpy(), classes[rows].tolist()
        expected.append(slow_alignment(*chosen, 5.0, absent=[unit[k] for k in lacking], of=5))
    a[~mask] = float("nan")
    a.requires_grad_()
    each, floors = losses.alignment(a, t, classes, scale, mask=mask, expressions=expressions)
    assert each.tolist() == pytest.approx([loss for loss, _ in expected], abs=1e-6)
    assert floors.tolist() == pytest.approx([floor for _, floor in expected], abs=1e-6)
    (gradient,) = torch.autograd.grad(each.sum(), a)
    assert torch.isfinite(gradient).all() and (gradient[classes < 0] == 0).all()


def test_where_every_expression_is_there_the_batch_is_all_there_is() -> None:
    a, t, classes, scale = random(6, 4), random(6, 4, seed=1), torch.arange(6) % 3, torch.tensor(5.0)
    found = losses.alignment(a, t, classes, scale, expressions=random(3, 4, seed=2))
    assert [x.item() for x in found] == [x.item() for x in losses.alignment(a, t, classes, scale)]


def test_a_site_with_one_expression_learns_what_it_is_not() -> None:
    """Its batch has one sentence, which says nothing; the sentences of the others say where not to go."""
    expressions, scale = torch.eye(4, dtype=torch.float64), torch.tensor(5.0)
    a, classes = torch.ones(3, 4, dtype=torch.float64, requires_grad=True), torch.zeros(3, dtype=torch.long)
    text = expressions[classes]
    (alone,) = torch.autograd.grad(losses.alignment(a, text, classes, scale)[0], a)
    assert alone.abs().max() < 1e-12
    told = losses.alignment(a, text, classes, scale, expressions=expressions)[0]
    (gradient,) = torch.autograd.grad(told, a)
    assert (gradient[:, 0] < 0).all() and (gradient[:, 1:] > 0).all()


@pytest.mark.parametrize("graded", [False, True])
def test_alignment_is_scale_free_order_free_and_floored(graded: bool) -> None:
    a, t, classes, scale = random(8, 4), random(8, 4, seed=1), torch.tensor([0, 1] * 4), torch.tensor(10.0)
    loss = losses.alignment(a, t, classes, scale, graded=graded)
    torch.testing.assert_close(losses.alignment(a * 7, t * 0.1, classes, scale, graded=graded), loss)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        losses.alignment(a[order], t[order], classes[order], scale, graded=graded), loss
    )
    poles = torch.eye(4, dtype=torch.float64)[classes]
    best, floor = losses.alignment(poles, poles, classes, torch.tensor(100.0), graded=graded)
    assert best.item() == pytest.approx(floor.item(), abs=1e-6)
    assert best.item() == pytest.approx(math.log(4), abs=1e-6)


def test_the_floor_of_the_alignment_grows_with_the_batch() -> None:
    """Trap 6: 256 samples of six classes cannot fall below 3.76, whatever the model."""
    classes = torch.arange(256) % 6
    for seed in range(3):
        a, t = random(256, 16, seed=seed), random(256, 16, seed=9)[:6][classes]
        loss, floor = losses.alignment(a, t, classes, torch.tensor(14.0))
        assert floor.item() == pytest.approx(3.76, abs=0.01) and loss > floor


def test_graded_targets_are_met_by_the_sentences_themselves_and_only_there() -> None:
    """Of captions that differ in a shade one is no negative of the other: the least value is where a picture says its caption."""
    t, classes, scale = random(6, 4), torch.arange(6), torch.tensor(7.0)
    best, floor = losses.alignment(t, t, classes, scale, graded=True)
    torch.testing.assert_close(best, floor)
    a = t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.alignment(a, t, classes, scale, graded=True)[0], a)
    assert gradient.abs().max() < 1e-12
    (pushed,) = torch.autograd.grad(losses.alignment(a, t, classes, scale)[0], a)
    assert pushed.abs().max() > 1e-3
    assert losses.alignment(t + 0.1 * random(6, 4, seed=5), t, classes, scale, graded=True)[0] > best


def test_captions_have_graded_targets_and_classes_have_not() -> None:
    found, given, scale = encoding(6), targets(6, 8, list(range(6))), torch.tensor(5.0)
    fused, text = found.fused.detach().numpy(), given.text.numpy()
    for source, graded in (("geometry", True), ("label", False), ("pseudo", False)):
        config = ObjectiveConfig(prompt_source=source, view_alignment=0.0)
        _, parts = losses.objective(found, given, scale, config)
        loss, floor = slow_alignment(fused, text, list(range(6)), 5.0, graded=graded)
        assert parts["alignment"].item() == pytest.approx(loss - floor, rel=1e-4)


# --- redundancy, critic -----------------------------------------------------------


@pytest.mark.parametrize("reading", ["off-diagonal", "full"])
@pytest.mark.parametrize("dim", [4, 12])
def test_redundancy_equals_its_formula(reading: str, dim: int) -> None:
    a, t = random(9, dim), random(9, dim, seed=1)
    rows = torch.tensor([True] * 7 + [False] * 2)
    c = slow_correlation(a[:7].numpy(), t[:7].numpy())
    terms = [c[k, m] ** 2 for k in range(dim) for m in range(dim) if reading == "full" or k != m]
    expected = pytest.approx(sum(terms) / len(terms), abs=1e-9)
    assert losses.redundancy(a[:7], t[:7], reading=reading).item() == expected
    a[7:] = float("nan")
    assert losses.redundancy(a, t, reading=reading, rows=rows).item() == expected


def test_prompts_of_a_few_classes_have_a_low_rank() -> None:
    """Trap 1: six sentences give text features of rank 5, so the matrix stays far from the identity."""
    a, t = random(256, 64), random(6, 64, seed=1)[torch.arange(256) % 6]
    c = losses.standardise(a.unsqueeze(1))[:, 0].T @ losses.standardise(t.unsqueeze(1))[:, 0] / 256
    assert torch.linalg.matrix_rank(c, rtol=1e-9) == 5
    assert (c - torch.eye(64)).square().sum() >= 64 - 5


def test_critic_equals_its_formula() -> None:
    a, t, changed = random(4, 5), random(4, 5, seed=1), random(4, 3, 5, seed=2)
    rows, total = [0, 2, 3], 0.0
    for i in rows:
        s = [
            3.0 * float(a[i] @ x / a[i].norm() / x.norm())
            for x in (t[i], changed[i, 0], changed[i, 1], changed[i, 2])
        ]
        total += math.log(sum(map(math.exp, s))) - s[0]
    found = losses.critic(a, t, changed, torch.tensor(3.0), rows=torch.tensor([True, False, True, True]))
    assert found.item() == pytest.approx(total / 3, abs=1e-6)
    assert losses.critic(5 * a, t, changed, torch.tensor(3.0)) == pytest.approx(
        losses.critic(a, t, changed, torch.tensor(3.0)).item()
    )


# --- gradients ------------------------------------------------------------------


@pytest.mark.parametrize("dim", [3, 7])
def test_gradients(dim: int) -> None:
    check, classes = torch.autograd.gradcheck, torch.tensor([0, 1, 1, -1, 0])
    z, t = random(5, 3, dim).requires_grad_(), random(5, dim, seed=1)
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[0, 1] = mask[3, 2] = False
    partner = torch.tensor([1, 0, 4, 3, 2])
    assert check(lambda x: losses.decorrelation(x, off_diagonal=0.3), z)
    assert check(lambda x: losses.decorrelation(x, off_diagonal=0.3, mask=mask), z)
    assert check(lambda x: losses.decorrelation(x, off_diagonal=0.3, partner=partner), z)
    one = random(5, dim, seed=2).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert check(lambda x, s: losses.alignment(x, t, classes, s)[0], (one, scale))
    assert check(lambda x, s: losses.alignment(x, t, classes, s, mask=mask)[0], (z, scale))
    fixed = scale.detach()  # the scale of graded targets has no gradient
    assert check(lambda x: losses.alignment(x, t, classes, fixed, mask=mask, graded=True)[0], z)
    assert check(lambda x: losses.redundancy(x, t, reading="off-diagonal"), one)
    assert check(lambda x: losses.redundancy(x, t, reading="full", rows=classes >= 0), one)
    assert check(lambda x, s: losses.critic(x, t, random(5, 2, dim, seed=4), s), (one, scale))
