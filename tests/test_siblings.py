"""Each loss of a related system against a slow reference, its gradient, its invariances and its edges."""

import math
from typing import Any

import pytest
import torch

from smile import losses, siblings
from smile.config import ModelConfig, ObjectiveConfig, SmileConfig
from smile.losses import Targets
from smile.model import Encoding, build_model
from smile.protocol import get_arrays, load_arrays
from smile.state import State

torch.set_num_threads(1)

CLASSES, SUBJECTS = [0, 1, 0, -1, 1, 0], [0, 0, 1, 1, 2, 0]
SIBLINGS = ("affectvlm", "multiviewvlm", "facet", "conclugen")
SCALE = torch.tensor(5.0, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask() -> torch.Tensor:
    found = torch.ones(6, 3, dtype=torch.bool)
    found[0, 1] = found[4, 2] = False
    found[5] = False
    return found


def encoding(z: torch.Tensor, mask: torch.Tensor | None = None) -> Encoding:
    z = z if mask is None else z.nan_to_num()
    return Encoding(views=z, fused=z.mean(1), features=z.mean(1), mask=mask)


def targets(classes: list[int] = CLASSES, dim: int = 4) -> Targets:
    rows = torch.arange(len(classes))
    text = torch.nn.functional.normalize(random(len(classes), dim, seed=9), dim=1)
    subjects = torch.tensor((SUBJECTS * len(classes))[: len(classes)])
    return Targets(text, torch.tensor(classes), subjects, rows, rows / len(rows))


def heads(sibling: str, dim: int = 4) -> torch.nn.ModuleDict:
    torch.manual_seed(1)
    return siblings.build_heads(SmileConfig(objective=ObjectiveConfig(sibling=sibling)), dim).double()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def pictures(given: torch.Tensor | None) -> list[tuple[int, int]]:
    return [(i, v) for i in range(6) for v in range(3) if given is None or given[i, v]]


def slow_affectvlm(z: torch.Tensor, given: torch.Tensor | None, margin: float) -> float:
    there = [(i, v) for i, v in pictures(given) if CLASSES[i] >= 0]
    near, far, triplets = [], [], []
    for i, u in there:
        same = [z[j, v] for j, v in there if CLASSES[j] == CLASSES[i] and (j, v) != (i, u)]
        other = [z[j, v] for j, v in there if CLASSES[j] != CLASSES[i]]
        near += [1 - cosine(z[i, u], x) for x in same]
        far += [max(0.0, cosine(z[i, u], x) - margin) for x in other]
        if same and other:
            farthest = max(2 - 2 * cosine(z[i, u], x) for x in same)
            nearest = min(2 - 2 * cosine(z[i, u], x) for x in other)
            triplets.append(max(0.0, farthest - nearest + margin))
    return mean(near) + mean(far) + mean(triplets)


def slow_multiviewvlm(z: torch.Tensor, given: torch.Tensor | None, text: torch.Tensor) -> float:
    there = [(i, v) for i, v in pictures(given) if CLASSES[i] >= 0]
    told = [j for j in range(6) if CLASSES[j] >= 0]

    def positive(i: int, j: int) -> bool:
        return CLASSES[i] == CLASSES[j] and SUBJECTS[i] == SUBJECTS[j]

    def term(scores: list[tuple[float, bool, bool]]) -> float | None:
        total = math.log(sum(math.exp(s) for s, plus, minus in scores if plus or minus))
        plus = [s for s, plus, _ in scores if plus]
        return total - mean(plus) if plus else None

    def score(i: int, v: int, j: int) -> tuple[float, bool, bool]:
        return 5.0 * cosine(z[i, v], text[j]), positive(i, j), CLASSES[i] != CLASSES[j]

    rows = [term([score(i, v, j) for j in told]) for i, v in there]
    columns = [term([score(i, v, j) for i, v in there]) for j in told]
    return mean([x for x in rows if x is not None]) + mean([x for x in columns if x is not None])


@pytest.mark.parametrize("given", [None, mask()])
def test_affectvlm_equals_its_formula(given: torch.Tensor | None) -> None:
    z, pieces = random(6, 3, 4), heads("affectvlm")
    found = siblings.affectvlm(encoding(z, given), targets(), SCALE, pieces)
    assert found.item() == pytest.approx(slow_affectvlm(z, given, 0.5), abs=1e-6)


@pytest.mark.parametrize("given", [None, mask()])
def test_multiviewvlm_equals_its_formula(given: torch.Tensor | None) -> None:
    z = random(6, 3, 4)
    found = siblings.multiviewvlm(encoding(z, given), targets(), SCALE, heads("multiviewvlm"))
    assert found.item() == pytest.approx(slow_multiviewvlm(z, given, targets().text), abs=1e-6)


@pytest.mark.parametrize("given", [None, mask()])
def test_facet_equals_its_formula(given: torch.Tensor | None) -> None:
    z = random(6, 3, 4)
    expected = mean([1 - cosine(z[i, v], z[i].mean(0)) for i, v in pictures(given)])
    found = siblings.facet(encoding(z, given), targets(), SCALE, heads("facet"))
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("given", [None, mask()])
def test_conclugen_equals_its_formula(given: torch.Tensor | None) -> None:
    z, pieces = random(6, 3, 4), heads("conclugen").eval().requires_grad_(False)
    centroids, decoder, text = pieces["centroids"].centroids, pieces["reconstruct"], targets().text
    clusters, errors = [], []
    for i in range(6):
        if given is not None and not given[i].any():
            continue
        fused = z[i].mean(0)
        scores = [cosine(fused, c) for c in centroids]
        own = max(range(len(scores)), key=scores.__getitem__)
        scores[own] -= siblings.DELTA
        clusters.append(math.log(sum(map(math.exp, scores))) - scores[own])
        told = decoder(fused / fused.norm()).view(4, 4)
        wanted = {v + 1: z[i, v] for j, v in pictures(given) if j == i}
        if CLASSES[i] >= 0:
            wanted[0] = text[i]
        errors += [float((told[k] - 2 * x / x.norm()).square().mean()) for k, x in wanted.items()]
    found = siblings.conclugen(encoding(z, given), targets(), SCALE, pieces)
    assert found.item() == pytest.approx(mean(clusters) + mean(errors), abs=1e-6)


@pytest.mark.parametrize("name", ["affectvlm", "multiviewvlm", "facet"])
def test_gradients(name: str) -> None:
    pieces, z = heads(name).eval(), random(6, 3, 4).requires_grad_()
    parameters = list(pieces.parameters())

    def loss(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return siblings.LOSSES[name](encoding(x, mask()), targets(), SCALE, pieces)

    assert torch.autograd.gradcheck(loss, (z, *parameters))


def test_gradients_of_conclugen_reach_the_fused_embedding_and_not_its_targets() -> None:
    pieces, z = heads("conclugen").eval(), random(6, 3, 4).requires_grad_()
    fused = random(6, 4, seed=2).requires_grad_()

    def loss(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return siblings.conclugen(Encoding(views=z, fused=x, features=x), targets(), SCALE, pieces)

    assert torch.autograd.gradcheck(loss, (fused, *pieces.parameters()))
    assert torch.autograd.grad(loss(fused), z, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", SIBLINGS)
def test_neither_the_length_of_embeddings_nor_their_order_matters(name: str) -> None:
    pieces, z, given = heads(name).eval(), random(6, 3, 4), targets()
    expected = siblings.LOSSES[name](encoding(z), given, SCALE, pieces)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    moved = Targets(*(x[order] for x in given[:5]))
    torch.testing.assert_close(siblings.LOSSES[name](encoding(7 * z[order]), moved, SCALE, pieces), expected)


@pytest.mark.parametrize("name", SIBLINGS)
@pytest.mark.parametrize("classes", [[0], [-1], [0, 0, 0, 0], [-1] * 4, [0, 1, -1, 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_and_lopsided_batches_stay_finite(name: str, classes: list[int], dtype: torch.dtype) -> None:
    config, given, batch = ObjectiveConfig(sibling=name), targets(classes), len(classes)
    for fill in (0.0, 1.0, None):
        for there in (None, torch.arange(3 * batch).view(batch, 3) % 4 > 0, torch.zeros(batch, 3).bool()):
            z = random(batch, 3, 4) if fill is None else torch.full((batch, 3, 4), fill)
            z = z.to(dtype).requires_grad_()
            loss, parts = losses.objective(
                encoding(z, there),
                given._replace(text=given.text.float()),
                torch.tensor(100.0),
                config,
                heads(name).float(),
            )
            loss.backward()
            assert torch.isfinite(parts["sibling"]) and torch.isfinite(loss)
            assert z.grad is not None and torch.isfinite(z.grad).all()


def test_a_sibling_is_added_with_its_weight() -> None:
    found, given = encoding(random(6, 3, 4)), targets()
    plain, _ = losses.objective(found, given, SCALE, ObjectiveConfig())
    loss, parts = losses.objective(
        found, given, SCALE, ObjectiveConfig(sibling="facet", sibling_weight=0.5), heads("facet")
    )
    torch.testing.assert_close(loss, plain + 0.5 * parts["sibling"])


def test_the_margin_keeps_to_its_range_and_can_turn_back() -> None:
    margin = siblings.Margin()
    assert margin().item() == pytest.approx(0.5)
    for free, bound in ((-9.0, 0.1), (9.0, 0.9)):
        margin.free.data.fill_(free)
        found = margin()
        assert found.item() == pytest.approx(bound, abs=0.01) and 0.1 <= found.item() <= 0.9
        assert torch.autograd.grad(found, margin.free)[0] > 0


def test_centroids_find_the_clusters() -> None:
    torch.manual_seed(0)
    centroids, poles = siblings.Centroids(16, clusters=5), torch.eye(16)[:5] + torch.ones(16)
    for seed in range(200):
        drawn = poles[torch.arange(40) % 5] + 0.02 * random(40, 16, seed=seed).float()
        unit = torch.nn.functional.normalize(drawn, dim=1)
        _, own = centroids(unit, torch.ones(40, dtype=torch.bool))
    assert [len(set(own[k::5].tolist())) for k in range(5)] == [1] * 5
    assert len(set(own[:5].tolist())) >= 4  # k-means may leave two clusters together
    before = centroids.centroids.clone()
    centroids.eval()(unit, torch.ones(40, dtype=torch.bool))
    centroids.train()(unit * float("nan"), torch.zeros(40, dtype=torch.bool))
    assert torch.equal(centroids.centroids, before)


def test_a_step_of_centroids_gives_a_person_away_and_they_stay_at_home() -> None:
    config = SmileConfig(objective=ObjectiveConfig(sibling="conclugen"))
    model, other = build_model(config), build_model(config)
    pieces: Any = model.heads["centroids"]
    before, person = pieces.centroids.clone(), torch.nn.functional.normalize(random(1, model.dim).float())
    pieces(person, torch.ones(1, dtype=torch.bool))
    # Who knows where they began, as everybody in a study does, finds the embedding along the way that one went.
    scale = torch.linspace(0.9, 1.5, 2001)[:, None, None] * pieces.centroids - siblings.MOMENTUM * before
    assert torch.nn.functional.cosine_similarity(scale, person[None], dim=2).max() > 0.999
    assert not [name for name in get_arrays(model) if "centroids" in name]
    kept = pieces.centroids.clone()
    load_arrays(model, get_arrays(other))
    assert torch.equal(pieces.centroids, kept), "a running site goes on with its own"
    again: Any = build_model(config).heads["centroids"]
    assert torch.equal(again.centroids, before), "a round starts from those of the seed"
    assert torch.equal(State(model, config.training).tensors()["model.heads.centroids.centroids"], kept)


def test_heads_follow_the_settings() -> None:
    assert len(siblings.build_heads(SmileConfig(), 8)) == 0
    found = siblings.build_heads(SmileConfig(objective=ObjectiveConfig(sibling="affectvlm", order=1.0)), 8)
    assert set(found) == {"margin", "order"}
    apart = SmileConfig(model=ModelConfig(streams="apart"), objective=ObjectiveConfig(sibling="conclugen"))
    assert siblings.build_heads(apart, 8)["reconstruct"].out_features == 10 * 8
