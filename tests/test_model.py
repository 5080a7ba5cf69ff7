"""The image side: shapes, missing views, every site the same start, other towers and channels."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from smile.config import FUSIONS, ModelConfig, ObjectiveConfig, SmileConfig, TrainingConfig, ViewConfig
from smile.model import SmileModel, ViewFusion, attend, build_model, present
from smile.protocol import get_arrays, load_arrays

SMALL = SmileConfig(views=ViewConfig(size=32))


def views(config: SmileConfig, batch: int = 4) -> torch.Tensor:
    shape = (batch, len(config.views.yaws), config.model.channels, config.views.size, config.views.size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize(
    "modalities", [("texture",), ("depth",), ("depth", "normals"), ("texture", "depth", "normals")]
)
def test_shapes(modalities: tuple[str, ...]) -> None:
    config = dataclasses.replace(SMALL, model=ModelConfig(modalities=modalities, dim=24))
    encoding = build_model(config)(views(config))
    assert (
        encoding.views.shape == (4, 3, 24)
        and encoding.fused.shape == (4, 24)
        and encoding.features.shape == (4, 128)
    )


def test_the_seed_alone_decides_the_start() -> None:
    torch.manual_seed(1)
    first = get_arrays(build_model(SMALL))
    torch.manual_seed(2)
    second = get_arrays(build_model(SMALL))
    other = get_arrays(build_model(dataclasses.replace(SMALL, training=TrainingConfig(seed=9))))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_building_a_model_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model(SMALL)
    assert torch.equal(torch.rand(3), expected)


def awake(model: SmileModel) -> SmileModel:
    """As after some training: the fusion no longer takes the plain mean."""
    with torch.no_grad():
        for name, parameter in model.fusion.named_parameters():
            if name in ("query", "gain"):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("streams", ["together", "apart"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_missing_view_has_no_influence(fusion: str, streams: str, training: bool) -> None:
    config = dataclasses.replace(SMALL, model=ModelConfig(fusion=fusion, streams=streams))
    model = awake(build_model(config)).train(training)
    x, mask = views(config), torch.tensor([[True, True, False]] * 4)
    changed = x.clone()
    changed[:, 2] = 255 - changed[:, 2]
    with torch.inference_mode():
        a, b, whole = model(x, mask), model(changed, mask), model(x)
    torch.testing.assert_close(a.fused, b.fused)
    torch.testing.assert_close(a.features, b.features)
    assert not torch.allclose(a.fused, whole.fused)
    assert a.mask is not None and a.mask.shape == a.views.shape[:2]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("streams", ["together", "apart"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_sample_without_any_view_is_0_and_harms_no_gradient(
    fusion: str, streams: str, training: bool
) -> None:
    config = dataclasses.replace(SMALL, model=ModelConfig(fusion=fusion, streams=streams))
    model, x = awake(build_model(config)).train(training), views(config)
    x[1] = 0
    for batch in (x, x[1:2]):  # beside others, and alone
        encoding = model(batch, present(batch))
        empty = ~present(batch).any(1)
        assert not encoding.fused[empty].any() and not encoding.features[empty].any()
        (encoding.fused.sum() + encoding.views.sum()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_which_views_are_present() -> None:
    x = torch.zeros(2, 3, 7, 4, 4, dtype=torch.uint8)
    x[0, 1, 6, 3, 3] = 1
    for pictures in (x, x.float()):
        assert present(pictures).dtype == torch.bool
        assert present(pictures).tolist() == [[False, True, False], [False] * 3]


def test_a_missing_view_touches_no_batch_statistics() -> None:
    config = SmileConfig(views=ViewConfig(size=32), model=ModelConfig(tower="RN50", dim=16))
    x, mask = views(config, batch=2), torch.tensor([[True, True, False]] * 2)
    states = []
    for value in (0.0, 255.0):
        x[:, 2] = value
        model = build_model(config)
        with torch.no_grad():
            model(x, mask)
        states.append(model.tower.bn1.running_mean)
    assert torch.equal(*states)


def test_streams_apart_make_a_token_of_each_modality_of_each_view() -> None:
    config = dataclasses.replace(SMALL, model=ModelConfig(streams="apart", dim=24))
    model, x = awake(build_model(config)).eval(), views(config)
    x[0, :, 3:] = 0  # a photograph: no depth, no normals
    encoding = model(x)
    assert encoding.views.shape == (4, 9, 24) and encoding.features.shape == (4, 128)
    assert encoding.mask is not None
    assert encoding.mask[0].tolist() == [True, False, False] * 3 and encoding.mask[1:].all()
    normalised = (x - model.mean) / model.std
    for token, (view, channels) in enumerate(
        (v, c) for v in range(3) for c in (slice(0, 3), [3, 3, 3], slice(4, 7))
    ):
        expected = model.projector(model.tower(normalised[:, view, channels]))
        torch.testing.assert_close(encoding.views[:, token], expected)
    assert model.fusion.place.shape == (3, 24) and model.fusion.modality.shape == (3, 24)


def test_text_fusion_follows_its_formula_and_keeps_the_text_side_at_home() -> None:
    torch.manual_seed(0)
    prompts = F.normalize(torch.randn(4, 5), dim=1)
    fusion, z = ViewFusion(5, 3, "text", modalities=2, prompts=prompts), torch.randn(2, 6, 5)
    torch.testing.assert_close(fusion(z, None), z.mean(1))
    with torch.no_grad():
        fusion.gain.fill_(0.7)
    mask = torch.tensor([[True] * 6, [True, False, True, True, False, True]])
    for i in range(2):
        weights = torch.zeros(6)
        for n in range(6):
            place = fusion.place[n // 2] + fusion.modality[n % 2]
            key = torch.tanh(fusion.key.weight @ z[i, n] + place)
            weights[n] = sum((0.7 * 5**0.5 * prompt @ key).exp() for prompt in prompts) * mask[i, n]
        expected = (weights / weights.sum()) @ z[i]
        torch.testing.assert_close(fusion(z, mask)[i], expected)
    assert set(fusion.state_dict()) == {"key.weight", "place", "modality", "gain"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_attends_without_overflow(dtype: torch.dtype) -> None:
    z, score = torch.randn(2, 3, 4).to(dtype), (1e4 * torch.randn(2, 3, 1)).to(dtype)
    mask = torch.tensor([[True, False, True], [False] * 3])
    assert attend(z, score, mask).isfinite().all()


def test_fusion_follows_its_formula() -> None:
    torch.manual_seed(0)
    fusion, z = ViewFusion(5, 3, "attention"), torch.randn(2, 3, 5)
    torch.nn.init.normal_(fusion.query)
    for i in range(2):
        score = [fusion.query @ torch.tanh(fusion.key.weight @ z[i, v] + fusion.place[v]) for v in range(3)]
        alpha = torch.stack(score).softmax(0)
        expected = sum(alpha[v] * z[i, v] for v in range(3))
        torch.testing.assert_close(fusion(z, None)[i], expected)


def test_untrained_fusion_is_the_mean() -> None:
    z = torch.randn(2, 3, 5)
    torch.testing.assert_close(ViewFusion(5, 3, "attention")(z, None), z.mean(1))


def test_an_open_clip_tower_by_name_takes_our_channels_and_size() -> None:
    config = SmileConfig(views=ViewConfig(size=32), model=ModelConfig(tower="RN50", dim=16))
    encoding = build_model(config).eval()(views(config, batch=1))
    assert encoding.fused.shape == (1, 16)


@pytest.mark.parametrize("tower", ["MobileCLIP2-S0", "ViT-B-32"])
def test_large_towers_are_built_and_trained(tower: str) -> None:
    config = SmileConfig(
        views=ViewConfig(size=64, yaws=(0.0,), modalities=("texture",)),
        model=ModelConfig(tower=tower, modalities=("texture",)),
    )
    model = build_model(config)
    encoding = model(views(config, batch=2))
    encoding.fused.square().sum().backward()
    assert encoding.fused.shape == (2, 128)
    assert any(p.grad is not None and p.grad.any() for p in model.tower.parameters())


def test_an_unknown_tower_or_tag_is_named() -> None:
    with pytest.raises(ValueError, match="not an open_clip model"):
        build_model(dataclasses.replace(SMALL, model=ModelConfig(tower="ViT-Z-1")))
    with pytest.raises(ValueError, match="neither a file nor a tag"):
        build_model(dataclasses.replace(SMALL, model=ModelConfig(tower="ViT-B-32", pretrained="nobody")))


def test_arrays_round_trip_and_wrong_ones_are_named() -> None:
    model, other = (
        build_model(SMALL),
        build_model(dataclasses.replace(SMALL, training=TrainingConfig(seed=3))),
    )
    arrays = get_arrays(other)
    load_arrays(model, arrays)
    assert all(np.array_equal(a, arrays[name]) for name, a in get_arrays(model).items())
    with pytest.raises(ValueError, match="logit_scale"):
        load_arrays(model, {name: array for name, array in arrays.items() if name != "logit_scale"})


def test_no_buffer_or_text_is_shared() -> None:
    names = set(get_arrays(build_model(SMALL)))
    assert names == {name for name, _ in build_model(SMALL).named_parameters()}


def test_the_pieces_of_the_losses_travel_with_the_model() -> None:
    config = dataclasses.replace(SMALL, objective=ObjectiveConfig(order=1, sibling="conclugen"))
    names = get_arrays(build_model(config))
    assert {name for name in names if name.startswith("heads.")} == {
        "heads.order.0.weight",
        "heads.order.2.weight",
        "heads.reconstruct.weight",
        "heads.reconstruct.bias",
    }
    assert not len(build_model(SMALL).heads)
