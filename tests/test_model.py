"""The image side: shapes, missing views, every site the same start, other towers and channels."""

import dataclasses

import numpy as np
import pytest
import torch

from smile.config import ModelConfig, SmileConfig, TrainingConfig, ViewConfig
from smile.model import ViewFusion, build_model
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


@pytest.mark.parametrize("fusion", ["attention", "mean"])
def test_a_missing_view_has_no_influence(fusion: str) -> None:
    config = dataclasses.replace(SMALL, model=ModelConfig(fusion=fusion))
    model = build_model(config).eval()
    x, mask = views(config), torch.tensor([[True, True, False]] * 4)
    changed = x.clone()
    changed[:, 2] = 255 - changed[:, 2]
    with torch.inference_mode():
        a, b = model(x, mask), model(changed, mask)
    torch.testing.assert_close(a.fused, b.fused)
    torch.testing.assert_close(a.features, b.features)


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
