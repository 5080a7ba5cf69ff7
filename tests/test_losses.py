"""Each loss against a slow reference written from its formula, its invariances, its bounds, its gradient, its edges, its ranks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smile import losses
from smile.config import ObjectiveConfig, SmileConfig
from smile.losses import Targets
from smile.model import Encoding
from smile.protocol import METRICS

torch.set_num_threads(1)


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
        out[:, k] = (x[:, k] - mean) / math.sqrt(variance + losses.EPSILON)
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
    a: np.ndarray, t: np.ndarray, classes: list[int], scale: float, *, graded: bool = False
) -> tuple[float, float]:
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, t)]
    s, q, total, floor, n = (
        scale * unit[0] @ unit[1].T,
        slow_targets(t, classes, scale, graded),
        0.0,
        0.0,
        len(a),
    )
    for i in range(n):
        for j in range(n):
            if q[i, j] > 0:
                total += q[i, j] * (s[i, j] - math.log(sum(math.exp(s[i, m]) for m in range(n))))
                total += q[i, j] * (s[j, i] - math.log(sum(math.exp(s[m, i]) for m in range(n))))
                floor -= q[i, j] * math.log(q[i, j])
    return -total / (2 * n), floor / n


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
        assert losses.partners("views", given) is None
        found = losses.partners("frames", given), losses.partners("sentences", given)
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


# --- the whole --------------------------------------------------------------------


def encoding(batch: int, *, constant: bool = False, dtype: torch.dtype = torch.float32) -> Encoding:
    z = torch.ones(batch, 3, 8) if constant else random(batch, 3, 8).float()
    z = z.to(dtype).requires_grad_()
    return Encoding(views=z, fused=z.mean(1), features=z.mean(1))


def test_the_parts_add_up_and_have_the_names_that_sites_send() -> None:
    config = ObjectiveConfig(
        pairs="views", decorrelation=0.1, alignment=2.0, redundancy=3.0, view_alignment=0.5
    )
    found, classes = encoding(6), [0, 1, 0, 2, -1, 1]
    given, rows, scale = targets(6, 8, classes), [0, 1, 2, 3, 5], torch.tensor(5.0)
    loss, parts = losses.objective(found, given, scale, config)
    assert tuple(parts) == tuple(name for name in METRICS if name not in ("num-examples", "seconds"))
    z, text, chosen = found.views.detach().numpy(), given.text[rows].numpy(), [classes[i] for i in rows]
    mv = sum(slow_barlow(z[:, u], z[:, v], config.off_diagonal) for u, v in ((0, 1), (0, 2), (1, 2))) / 3
    fused = found.fused.detach().numpy()[rows]
    vl, least = slow_alignment(fused, text, chosen, 5.0)
    vl += 0.5 * sum(slow_alignment(z[rows, v], text, chosen, 5.0)[0] for v in range(3)) / 3
    c = slow_correlation(fused, text)
    cm = (np.square(c).sum() - np.square(np.diag(c)).sum()) / 56
    assert parts["decorrelation"].item() == pytest.approx(mv, rel=1e-5)
    assert parts["alignment"].item() == pytest.approx(vl - 1.5 * least, rel=1e-4)
    assert parts["redundancy"].item() == pytest.approx(cm, rel=1e-4)
    assert loss.item() == pytest.approx(0.1 * mv + 2 * vl + 3 * cm, rel=1e-5)
    assert not any(value.requires_grad for value in parts.values())


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("classes", ["one", "many", "none", "half"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pairs", ["views", "sentences"])
def test_small_and_lopsided_batches_stay_finite(
    batch: int, constant: bool, classes: str, dtype: torch.dtype, pairs: str
) -> None:
    code = {
        "one": [0] * batch,
        "many": list(range(batch)),
        "none": [-1] * batch,
        "half": [0 if i % 2 else -1 for i in range(batch)],
    }[classes]
    config = ObjectiveConfig(pairs=pairs, critic=1.0)
    for mask in (None, torch.arange(3 * batch).view(batch, 3) % 4 > 0, torch.zeros(batch, 3).bool()):
        found = encoding(batch, constant=constant, dtype=dtype)._replace(mask=mask)
        given = targets(batch, 8, code, negatives=torch.zeros(batch, 2, 8))
        if classes == "one":
            given = given._replace(text=given.text[:1].expand(batch, 8))
        loss, parts = losses.objective(found, given, torch.tensor(100.0), config)
        assert loss.dtype == torch.float32
        loss.backward()
        assert all(torch.isfinite(value) for value in parts.values())
        assert torch.isfinite(found.views.grad).all()
        if mask is None:
            assert parts["redundancy_skipped"] == (
                classes in ("one", "none") or batch == 1 or (classes == "half" and batch < 4)
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_zero_embeddings_stay_finite(dtype: torch.dtype) -> None:
    z = torch.zeros(4, 3, 8, dtype=dtype, requires_grad=True)
    found = Encoding(views=z, fused=z.sum(1), features=z.sum(1))
    loss, _ = losses.objective(found, targets(4, 8), torch.tensor(100.0), ObjectiveConfig())
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z.grad).all()


def test_autocast_does_not_coarsen_the_losses() -> None:
    found, given, scale = encoding(8), targets(8, 8), torch.tensor(14.0)
    exact, _ = losses.objective(found, given, scale, ObjectiveConfig())
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = losses.objective(found, given, scale, ObjectiveConfig())
        a = losses.alignment(found.fused, given.text, given.classes, scale)
    assert inside == exact
    assert a == losses.alignment(found.fused, given.text, given.classes, scale)


def test_the_alignment_part_is_zero_at_its_best() -> None:
    classes = [0, 0, 1, 1]
    poles = torch.eye(8)[classes]
    best = Encoding(views=poles[:, None].expand(4, 3, 8), fused=poles, features=poles)
    given = targets(4, 8, classes, text=poles)
    _, parts = losses.objective(best, given, torch.tensor(100.0), ObjectiveConfig())
    assert parts["alignment"].item() == pytest.approx(0, abs=1e-4)


def test_the_order_of_captures_does_not_matter() -> None:
    found, given = encoding(8), targets(8, 8, [0, 1, 2, -1, 0, 1, 2, -1])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    shuffled = Encoding(*(x[order] for x in found[:3]))
    moved = Targets(*(x[order] for x in given[:5]))
    expected, _ = losses.objective(found, given, torch.tensor(14.0), ObjectiveConfig())
    torch.testing.assert_close(
        losses.objective(shuffled, moved, torch.tensor(14.0), ObjectiveConfig())[0], expected
    )


def test_a_time_loss_is_added_with_its_weight() -> None:
    from smile.siblings import build_heads

    config = ObjectiveConfig(order=0.5, intensity=2.0)
    heads = build_heads(SmileConfig(objective=config), 8)
    found, given = encoding(6), targets(6, 8, sequences=torch.tensor([0, 0, 0, 1, 1, 1]))
    plain, _ = losses.objective(found, given, torch.tensor(5.0), ObjectiveConfig())
    loss, parts = losses.objective(found, given, torch.tensor(5.0), config, heads)
    assert parts["temporal"] > 0
    torch.testing.assert_close(loss, plain + parts["temporal"])


# --- several processes --------------------------------------------------------------


def whole_batch() -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor, Targets]:
    torch.manual_seed(0)
    net, scale = torch.nn.Linear(6, 5).double(), torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(8, 3, dtype=torch.bool)
    mask[1, 2] = mask[6, 0] = False
    given = targets(8, 5, [0, 1, 2, -1, 1, 0, 2, 2], text=random(8, 5, seed=9))
    return net, scale, random(8, 3, 6), mask, given


def gradients(rows: slice) -> list[torch.Tensor]:
    """The objective of these rows and its gradients by network and temperature."""
    net, scale, x, mask, given = whole_batch()
    z = net(x[rows]) * mask[rows].unsqueeze(-1)
    found = Encoding(views=z, fused=z.mean(1), features=z.mean(1), mask=mask[rows])
    given = Targets(*(t[rows] for t in given[:5]))
    config = ObjectiveConfig(pairs="sentences", decorrelation=1.0)
    loss, _ = losses.objective(found, given, scale, config)
    return [loss.detach(), *torch.autograd.grad(loss, [*net.parameters(), scale])]


def _rank(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks
    )
    torch.save(gradients(slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_together_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Each rank tells the loss of all; the mean of the gradients, which DistributedDataParallel takes, is the gradient of that loss."""
    torch.multiprocessing.start_processes(_rank, (2, str(tmp_path)), nprocs=2, start_method="spawn")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for whole, *parts in zip(gradients(slice(0, 8)), *found, strict=True):
        torch.testing.assert_close(sum(parts) / 2, whole, rtol=0, atol=1e-6)
    assert found[0][0] == found[1][0]
