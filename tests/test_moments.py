"""Moments of a site: what is measured, what may leave, what a peer may send."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from smile import losses, moments
from smile.config import (
    FederationConfig,
    ModelConfig,
    ObjectiveConfig,
    SmileConfig,
    TrainingConfig,
    ViewConfig,
)
from smile.losses import Targets
from smile.model import SmileModel, build_model
from smile.moments import Moments

torch.set_num_threads(1)

DIM = 5


# --- what is sent -------------------------------------------------------------------


def some_moments(pairs: int = 4, dim: int = DIM) -> Moments:
    draw = np.random.default_rng(0)
    return Moments(
        captures=np.float64(7),
        count=np.full(pairs, 6.0),
        sums=draw.normal(size=(2, pairs, dim)),
        squares=draw.uniform(1, 2, (2, pairs, dim)),
        products=draw.normal(size=(pairs, dim, dim)),
    )


def test_arrays_come_back_as_they_went_and_a_server_may_add_them_by_name() -> None:
    one, sent = some_moments(), some_moments().arrays()
    assert {array.dtype for array in sent.values()} == {np.dtype(np.float32)}
    assert all(name.startswith("moments.") for name in sent)
    like = {name: array.shape for name, array in sent.items()}
    back = moments.from_arrays(sent, like=like)
    added = moments.from_arrays({name: 2 * array for name, array in sent.items()}, like=like)
    for field in dataclasses.fields(Moments):
        expected = getattr(one, field.name)
        np.testing.assert_allclose(getattr(back, field.name), expected, rtol=1e-6)
        np.testing.assert_allclose(getattr(added, field.name), getattr(one + one, field.name), rtol=1e-6)


def test_shapes_are_those_of_what_is_measured() -> None:
    views = ViewConfig(yaws=(-20.0, 0.0, 20.0, 40.0))
    config = SmileConfig(views=views, model=ModelConfig(dim=16))
    assert moments.shapes(config)["moments.products"] == (6 + 1, 16, 16)
    apart = dataclasses.replace(config, model=ModelConfig(dim=16, streams="apart"))
    assert moments.shapes(apart)["moments.products"] == (66 + 1, 16, 16)
    single = dataclasses.replace(config, views=ViewConfig(yaws=(0.0,)))
    assert moments.shapes(single)["moments.products"] == (1 + 1, 16, 16)


def _spoil(kind: str, sent: dict[str, np.ndarray]) -> None:
    count = sent["moments.count"]
    if kind == "missing":
        del sent["moments.sums"]
    elif kind == "more":
        sent["tower.weight"] = np.zeros(3, np.float32)
    elif kind == "shape":
        sent["moments.products"] = sent["moments.products"][:1]
    elif kind == "nan":
        sent["moments.products"][0, 0, 0] = np.nan
    elif kind == "inf":
        sent["moments.squares"][0, 0, 0] = np.inf
    elif kind == "dtype":
        sent["moments.sums"] = sent["moments.sums"].astype(np.int64)
    elif kind == "objects":
        sent["moments.sums"] = sent["moments.sums"].astype(object)
    elif kind == "negative":
        count[1] = -1
    elif kind == "too many":
        count[1] = 8


KINDS = ("missing", "more", "shape", "nan", "inf", "dtype", "objects", "negative", "too many")


@pytest.mark.parametrize("kind", KINDS)
def test_what_are_no_moments_is_refused(kind: str) -> None:
    sent = some_moments().arrays()
    like = {name: array.shape for name, array in sent.items()}
    _spoil(kind, sent)
    with pytest.raises(ValueError, match=r"moments.*: (run the same|leave this site out)"):
        moments.from_arrays(sent, like=like)


def test_noise_has_the_size_that_is_asked_for_and_spares_the_counts() -> None:
    one = some_moments(dim=60)
    assert moments.noisy(one, 0) is one
    draw = np.random.default_rng(1)
    found = [moments.noisy(one, 0.1, generator=draw) for _ in range(20)]
    for name, axes in (("sums", -1), ("squares", -1), ("products", (-2, -1))):
        value = getattr(one, name)
        size = np.sqrt(np.mean(value**2, axis=axes))
        differences = np.stack([getattr(other, name) - value for other in found])
        spread = np.sqrt(np.mean(differences**2, axis=(0, *np.atleast_1d(axes))))
        np.testing.assert_allclose(spread / size, 0.1, rtol=0.1)
        assert abs(differences.mean()) < 0.1 * spread.max()
    assert all((other.count == one.count).all() and other.captures == one.captures for other in found)


def test_noise_is_of_the_machines_entropy_unless_a_generator_is_given() -> None:
    one = some_moments()
    again = [moments.noisy(one, 0.1, generator=np.random.default_rng(5)).products for _ in range(2)]
    np.testing.assert_array_equal(*again)
    own = [moments.noisy(one, 0.1).products for _ in range(2)]
    assert (own[0] != own[1]).all()


# --- a site -------------------------------------------------------------------------


class Hospital:
    """24 labelled captures of noise of three people, as a prepared site gives them; some lack the second view, all but those of
    one person the third."""

    def __init__(self) -> None:
        number = np.arange(24)
        self.subjects = np.array(["ann", "bob", "cem"])[number // 8]
        self.labels = np.array(["anger", "fear"])[number % 2]
        self.sequences, self.times = number // 2, number % 2 / 1.0
        self.geometry: dict[str, np.ndarray] = {}
        self.rest: dict[str, np.ndarray] = {}
        self.views = np.random.default_rng(0).integers(1, 256, (24, 3, 7, 32, 32), np.uint8)
        self.views[number % 3 == 0, 1] = 0
        self.views[8:, 2] = 0

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray:
        return self.views[rows]


@pytest.fixture(scope="module")
def config() -> SmileConfig:
    return SmileConfig(
        views=ViewConfig(size=32),
        model=ModelConfig(dim=DIM + 3),
        training=TrainingConfig(batch_size=7),
        federation=FederationConfig(min_cohort=2),
    )


@pytest.fixture(scope="module")
def site() -> Hospital:
    return Hospital()


@pytest.fixture(scope="module")
def model(config: SmileConfig) -> SmileModel:
    return build_model(config)


def test_a_site_measures_its_captures_as_its_losses_see_them(
    site: Hospital, model: SmileModel, config: SmileConfig
) -> None:
    views = dataclasses.replace(config, objective=ObjectiveConfig(pairs="views"))
    rows = np.flatnonzero(site.subjects != site.subjects[-1])
    model.train()
    found = moments.measure(model, site, rows, views)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert {name: array.shape for name, array in found.arrays().items()} == moments.shapes(views)
    model.eval()
    with torch.no_grad():
        pictures = torch.from_numpy(site.gather(rows)).float()
        there = pictures.flatten(2).any(dim=2)
        encoding = model(pictures, there)
    z, both = encoding.views.double().numpy(), (there[:, 0] & there[:, 1]).numpy()
    assert found.captures == len(rows) and found.count[0] == both.sum() < len(rows)
    np.testing.assert_allclose(found.products[0], z[both, 0].T @ z[both, 1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        found.sums[0, -1], encoding.fused.double().numpy().sum(axis=0), rtol=1e-4, atol=1e-4
    )
    assert found.count[-1] == len(rows)  # all are labelled
    # Only one person has the third view: nothing of a pair with it leaves.
    assert found.count[1] == found.count[2] == 0
    assert not found.products[1:3].any() and not found.sums[:, 1:3].any() and not found.squares[:, 1:3].any()


@pytest.mark.parametrize("pairs", ["views", "frames", "sentences"])
def test_the_same_weights_give_the_same_moments(
    site: Hospital, model: SmileModel, config: SmileConfig, pairs: str
) -> None:
    config = dataclasses.replace(config, objective=ObjectiveConfig(pairs=pairs))
    rows = np.arange(len(site.subjects))
    one, two = (moments.measure(model, site, rows, config).arrays() for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_a_site_without_sentences_sends_none(site: Hospital, model: SmileModel, config: SmileConfig) -> None:
    config = dataclasses.replace(config, objective=ObjectiveConfig(prompt_source="none"))
    found = moments.measure(model, site, np.arange(len(site.subjects)), config)
    assert found.count[-1] == 0 and not found.sums[:, -1].any() and found.count[0] > 0


def test_fewer_people_than_the_cohort_send_nothing(
    site: Hospital, model: SmileModel, config: SmileConfig
) -> None:
    one = np.flatnonzero(site.subjects == site.subjects[0])
    with pytest.raises(ValueError, match=r"^1 people to measure, .* 2 or more .*: add people"):
        moments.measure(model, site, one, config)
    with pytest.raises(ValueError, match=r"^0 people"):
        moments.measure(model, site, one[:0], config)
    everyone = np.arange(len(site.subjects))
    with pytest.raises(ValueError, match=r"^3 people to measure, .* 4 or more"):
        moments.measure(
            model, site, everyone, config, min_cohort=4
        )  # the site's own word, against the study's 2
    assert moments.measure(model, site, everyone, config, min_cohort=1).captures == len(everyone)


def test_what_is_measured_has_the_noise_of_the_study(
    site: Hospital, model: SmileModel, config: SmileConfig
) -> None:
    loud = dataclasses.replace(config, federation=FederationConfig(min_cohort=2, noise=0.1))
    rows = np.arange(len(site.subjects))
    plain = moments.measure(model, site, rows, config)
    found = moments.measure(model, site, rows, loud, generator=np.random.default_rng(0))
    expected = moments.noisy(plain, 0.1, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(found.products, expected.products)


def test_a_site_trains_against_what_it_has_measured(
    site: Hospital, model: SmileModel, config: SmileConfig
) -> None:
    """The path of a round: measured, sent, added, taken by the losses."""
    sent = moments.measure(model, site, np.arange(len(site.subjects)), config).arrays()
    added = {name: array + array for name, array in sent.items()}
    shared = moments.shared(moments.from_arrays(added, like=moments.shapes(config)))
    views = torch.from_numpy(site.gather(np.arange(5))).float()
    encoding, ids = model(views, views.flatten(2).any(dim=2)), torch.arange(5)
    text = torch.nn.functional.normalize(torch.randn(5, model.dim), dim=1)
    loss, parts = losses.objective(
        encoding,
        Targets(text, ids, ids, ids, ids / 5),
        model.scale(),
        config.objective,
        model.heads,
        shared=shared,
    )
    loss.backward()
    assert torch.isfinite(loss) and parts["decorrelation"] > 0 and parts["redundancy"] > 0
    assert model.projector[0].weight.grad.abs().sum() > 0  # type: ignore[index, union-attr, operator]
    model.zero_grad(set_to_none=True)


def test_importing_moments_needs_no_torch() -> None:
    """A server adds and checks moments without it."""
    source = Path(moments.__file__).read_text()
    assert not [line for line in source.splitlines() if line.startswith(("import torch", "from .losses"))]
