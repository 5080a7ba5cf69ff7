"""Augmentation: what it may change of a face, and what it must leave."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from smile.augment import augment, jitter, mirror, relight
from smile.config import ModelConfig, SmileConfig, ViewConfig

MOTIONS = ("frames", "difference", "dynamic")


def study(motion: str = "frames", **views: object) -> SmileConfig:
    return SmileConfig(views=ViewConfig(size=16, motion=motion, **views))  # type: ignore[arg-type]


def faces(batch: int = 6) -> torch.Tensor:
    """(B, 3, 7, 16, 16) uint8, 0 = background around a disc of codes."""
    y, x = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(16) - 7.5, indexing="ij")
    codes = torch.randint(1, 256, (batch, 3, 7, 16, 16), generator=seeded(9))
    return (codes * (x.hypot(y) < 6)).to(torch.uint8)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_missing_view_stays_missing_and_codes_stay_codes(motion: str) -> None:
    views = faces()
    views[0, 1] = 0
    views[2] = 0
    views[3, :, 3:] = 0  # a photograph: colours alone
    for number in range(5):
        found = augment(views, study(motion), seeded(number))
        assert found.dtype == torch.float32 and found.shape == views.shape
        assert found.min() >= 0 and found.max() <= 255
        there = found.flatten(3).any(3)
        assert (there[0].any(1).sum(), there[2].any()) == (2, False)
        assert not there[3, :, 3:].any() and there[3, :, :3].all()


def test_the_seed_decides_and_the_input_is_left_alone() -> None:
    views = faces()
    before = views.clone()
    first, second = (augment(views, study(), seeded(3)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(views, before)
    assert not torch.equal(first, augment(views, study(), seeded(4)))


def test_jitter_is_what_grid_sample_does() -> None:
    views, count = faces(), 18
    found = jitter(views, seeded(1), shift=0.2, scale=0.3)
    draws = seeded(1)
    zoom = 1 + 0.3 * (2 * torch.rand(count, 1, generator=draws) - 1)
    offset = 0.4 * (2 * torch.rand(count, 2, generator=draws) - 1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom[:, 0]
    theta[:, :, 2] = offset
    grid = F.affine_grid(theta, [count, 7, 16, 16], align_corners=False)
    expected = F.grid_sample(views.flatten(0, 1).float(), grid, mode="nearest", align_corners=False)
    assert torch.equal(found.flatten(0, 1).float(), expected)
    assert torch.equal(jitter(views, seeded(), shift=0, scale=0), views)


def test_views_of_a_capture_are_moved_and_exposed_each_on_their_own() -> None:
    views = torch.zeros(1, 3, 7, 16, 16, dtype=torch.uint8)
    views[..., 5:11, 5:11] = 100
    moved = jitter(views, seeded(2), shift=0.3)[0]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(moved, 2))
    lit = relight(views.float(), study(), seeded(2))[0, :, :3, 8, 8]
    assert len(lit[:, 0].unique()) == 3
    torch.testing.assert_close(lit / lit[:, :1], (lit[:1] / lit[:1, :1]).expand(3, 3))  # one colour of light
    assert ((lit > 100 * 0.8 * 0.95 - 1e-3) & (lit < 100 * 1.2 * 1.05 + 1e-3)).all()


def test_mirroring_flips_exchanges_the_sides_and_turns_the_normals() -> None:
    views = faces(20)
    found = mirror(views, study(), seeded())
    expected = views[:, [2, 1, 0]].flip(-1)
    x = expected[:, :, 4].int()
    expected[:, :, 4] = torch.where(x > 0, 256 - x, 0).to(torch.uint8)
    same, mirrored = ((found == other).flatten(1).all(1) for other in (views, expected))
    assert (same ^ mirrored).all() and same.any() and mirrored.any()


def test_nothing_is_mirrored_where_a_side_is_missing() -> None:
    views = faces()
    assert mirror(views, study(yaws=(-30.0, 0.0, 20.0)), seeded()) is views


@pytest.mark.parametrize("motion", MOTIONS)
def test_light_acts_on_pictures_of_motion_as_light_does(motion: str) -> None:
    """No motion stays none, background stays background, geometry is not lit, and motion keeps its sign."""
    views = faces().float()
    views[..., 8, 8] = 128
    found = relight(views.clone(), study(motion), seeded())
    assert torch.equal(found[:, :, 3:], views[:, :, 3:])
    assert ((found == 0) == (views == 0)).all()
    if motion == "dynamic":
        assert torch.equal(found, views)
    if motion == "difference":
        assert (found[..., 8, 8] == 128).all()
        colours = views[:, :, :3]
        there = colours > 0
        assert ((found[:, :, :3] - 128).sign() == (colours - 128).sign())[there].all()


def test_modalities_that_the_model_does_not_see_are_not_expected() -> None:
    config = dataclasses.replace(study(), model=ModelConfig(modalities=("depth", "normals")))
    views = faces()[:, :, 3:]
    found = augment(views, config, seeded())
    assert found.shape == views.shape
    assert set(found.unique().tolist()) <= set(range(256)), "geometry is moved, never lit"
