"""What is trained of a tower, what is sent of it, and that the rest stays what it was."""

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch

from smile.config import ModelConfig, ObjectiveConfig, SmileConfig, TrainingConfig, ViewConfig
from smile.model import SmileModel, build_model
from smile.sentences import sentence_source
from smile.state import State
from smile.towers import colour_statistics
from smile.training import train
from smile.tuning import SelfAttention, merged, shared_names, trainable

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TUNED = ("lora", "adapter", "prompt")


@pytest.fixture(scope="module", autouse=True)
def tiny_towers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A vision transformer of two layers, a CLIP ResNet of four blocks and a CoCa, known to open_clip."""
    folder = tmp_path_factory.mktemp("towers")
    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    (folder / "smile-tiny-vit.json").write_text(json.dumps(TINY))
    (folder / "smile-tiny-resnet.json").write_text(json.dumps(TINY | {"vision_cfg": resnet}))
    pooled = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}
    coca = TINY["vision_cfg"] | pooled | {"output_tokens": True}  # type: ignore[operator]
    (folder / "smile-tiny-coca.json").write_text(json.dumps(TINY | {"embed_dim": 32, "vision_cfg": coca}))
    open_clip.add_model_config(folder)


def study(tuning: str, **model: object) -> SmileConfig:
    settings = {"tower": "smile-tiny-vit", "dim": 16, "rank": 4, "tuning": tuning, **model}
    return SmileConfig(views=ViewConfig(size=32), model=ModelConfig(**settings))  # type: ignore[arg-type]


def pictures(config: SmileConfig) -> torch.Tensor:
    shape = (3, 3, config.model.channels, config.views.size, config.views.size)
    return torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(0)).float()


def train_a_little(model: SmileModel, views: torch.Tensor) -> None:
    optimiser = torch.optim.AdamW(trainable(model), lr=0.01)
    for _ in range(3):
        encoding = model(views)
        loss = encoding.fused[:, 0].sum() + encoding.views.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def state(model: SmileModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_what_a_site_sends_is_trained_or_a_batch_statistic_of_a_trained_tower() -> None:
    everything = ObjectiveConfig(order=1.0, intensity=1.0, sibling="conclugen")
    for tower, tuning in [*cases(), ("smile-tiny-resnet", "full"), ("smile-tiny-vit", "full")]:
        for fusion in ("attention", "text"):
            config = dataclasses.replace(
                study(tuning, tower=tower, fusion=fusion),
                objective=everything,
                training=TrainingConfig(frames=4),
            )
            model = build_model(config)
            names, trained = (
                shared_names(model),
                {n for n, p in model.named_parameters() if p.requires_grad},
            )
            others = [name for name in names if name not in trained]
            assert trained <= set(names) and bool(others) == (
                (tower, tuning) == ("smile-tiny-resnet", "full")
            )
            assert all(n.startswith("tower.") and n.endswith(("running_mean", "running_var")) for n in others)
            assert "heads.centroids.centroids" in model.state_dict()
            assert not [name for name in names if "centroid" in name or "prompts" in name]


def test_a_trained_tower_with_a_frozen_weight_still_sends_its_batch_statistics() -> None:
    model = build_model(study("full", tower="smile-tiny-resnet"))
    before = shared_names(model)
    frozen = "tower.conv1.weight"
    model.get_parameter(frozen).requires_grad_(False)
    assert "tower.bn1.running_mean" in before and shared_names(model) == [n for n in before if n != frozen]


def test_only_matrices_and_kernels_decay() -> None:
    model = build_model(study("full", tower="smile-tiny-resnet"))
    gain = torch.nn.Parameter(torch.ones(4, 1, 1))
    model.heads["gain"] = torch.nn.ParameterList([gain])
    state = State(model, TrainingConfig(weight_decay=0.5))
    for parameter in state.trained:
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state.update(0.1)
    kept = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert kept == {n for n, p in before.items() if p.ndim < 2 or n == "heads.gain.0" or not p.any()}
    assert {"logit_scale", "tower.bn1.weight", "projector.0.bias", "fusion.query"} <= kept
    for name in ("projector.0.weight", "tower.conv1.weight", "fusion.place"):
        torch.testing.assert_close(model.get_parameter(name).detach(), 0.95 * before[name])


def test_lora_leaves_attention_that_is_no_self_attention_alone() -> None:
    config = study("lora", tower="smile-tiny-coca", modalities=("texture",))
    plain = build_model(dataclasses.replace(config, model=dataclasses.replace(config.model, tuning="full")))
    model, views = build_model(config).eval(), pictures(config)
    torch.testing.assert_close(model(views).features, plain.eval()(views).features)
    assert not torch.allclose(model(views).features[0], model(views).features[1]), "the picture is seen"
    kinds = {name: type(m).__name__ for name, m in model.named_modules() if name.endswith("attn")}
    assert sorted(kinds.values()) == ["MultiheadAttention", "SelfAttention", "SelfAttention"]
    before = state(model)
    train_a_little(model, views)
    frozen = [n for n in before if "pool" in n]
    assert frozen and all(torch.equal(before[n], model.state_dict()[n]) for n in frozen)
    x = torch.randn(1, 3, 32)
    attention = next(m for m in model.modules() if isinstance(m, SelfAttention))
    with pytest.raises(AssertionError, match="one sequence with another"):
        attention(x, x.clone(), x)


@pytest.mark.parametrize("source", ["none", "label"])
def test_a_pretrained_tower_of_another_width_trains_with_and_without_text(
    source: str, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pt"
    torch.save(open_clip.create_model("smile-tiny-vit").state_dict(), file)
    config = dataclasses.replace(
        study("adapter", pretrained=str(file)),
        objective=ObjectiveConfig(prompt_source=source, critic=1.0),
        training=TrainingConfig(batch_size=4, local_steps=1),
    )
    site = SimpleNamespace(
        subjects=np.array(list("aabb")),
        labels=np.array(["anger", "fear"] * 2),
        sequences=np.arange(4),
        times=np.zeros(4, np.float32),
        gather=lambda rows, modalities: np.full(
            (len(rows), 3, 7, 32, 32), 1 + rows[:, None, None, None, None]
        ).astype(np.uint8),
    )
    text, _, negatives = sentence_source(site, config, np.arange(4))(np.arange(4), torch.Generator())
    assert text.shape == (4, 24) and negatives is not None and negatives.shape[2] == 24
    assert math.isfinite(train(build_model(config), site, config, rows=np.arange(4))["loss"])


def cases() -> list[tuple[str, str]]:
    return [("smile-tiny-vit", tuning) for tuning in TUNED] + [
        (tower, tuning) for tower in ("smile-small", "smile-tiny-resnet") for tuning in ("lora", "adapter")
    ]


@pytest.mark.parametrize(("tower", "tuning"), cases())
def test_what_is_not_sent_never_changes_and_what_is_sent_is_enough(tower: str, tuning: str) -> None:
    config = study(tuning, tower=tower)
    model, views = build_model(config), pictures(config)
    before, names = state(model), shared_names(model)
    train_a_little(model, views)
    after = state(model)
    assert list(before) == list(after)
    kept = [name for name in before if name not in names]
    assert kept and all(name.startswith("tower.") for name in kept)
    assert all(torch.equal(before[name], after[name]) for name in kept), "to the bit, batch statistics too"
    towers = [name for name in names if name.startswith("tower.")]
    assert any(not torch.equal(before[name], after[name]) for name in towers)
    fresh = build_model(config)
    fresh.load_state_dict({name: after[name] for name in names}, strict=False)
    torch.testing.assert_close(fresh.eval()(views).fused, model.eval()(views).fused, rtol=0, atol=0)


@pytest.mark.parametrize("tuning", TUNED)
def test_a_tuned_tower_trains_little(tuning: str) -> None:
    full, tuned = build_model(study("full")), build_model(study(tuning))
    count = sum(p.numel() for p in trainable(tuned) if p.requires_grad)
    assert count < 0.5 * sum(p.numel() for p in trainable(full))
    assert set(shared_names(tuned)) == {n for n, p in tuned.named_parameters() if p.requires_grad}
    assert shared_names(full) == list(full.state_dict())


@pytest.mark.parametrize("tuning", ["lora", "adapter"])
def test_tuning_starts_from_the_tower_as_it_was(tuning: str) -> None:
    plain = build_model(study("full", modalities=("texture",))).eval()
    tuned = build_model(study(tuning, modalities=("texture",))).eval()
    views = pictures(study("full", modalities=("texture",)))
    torch.testing.assert_close(tuned(views).features, plain(views).features)


def test_prompts_are_seen_by_every_token_and_taken_out_again() -> None:
    model = build_model(study("prompt")).eval()
    views = pictures(study("prompt"))
    prompted = model.tower[1].transformer
    before = model(views).features
    with torch.no_grad():
        prompted.tokens.add_(1.0)
    assert not torch.allclose(model(views).features, before)
    tokens = torch.randn(2, 17, 32)
    assert prompted(tokens).shape == tokens.shape
    expected = prompted.transformer(
        torch.cat([tokens[:, :1], prompted.tokens.expand(2, -1, -1), tokens[:, 1:]], 1)
    )
    torch.testing.assert_close(prompted(tokens)[:, 1:], expected[:, 5:])


@pytest.mark.parametrize("tower", ["smile-small", "smile-tiny-resnet"])
def test_a_tower_without_tokens_takes_no_prompts(tower: str) -> None:
    with pytest.raises(ValueError, match=r"needs a tower of tokens.*choose lora or adapter"):
        build_model(study("prompt", tower=tower))


@pytest.mark.parametrize("tower", ["smile-tiny-vit", "smile-small"])
def test_merged_lora_is_the_same_function_without_lora(tower: str) -> None:
    config = study("lora", tower=tower)
    model, views = build_model(config), pictures(config)
    train_a_little(model, views)
    before = state(model)
    plain = merged(model.eval())
    assert not any("lora" in name for name, _ in plain.named_modules())
    torch.testing.assert_close(plain(views).fused, model(views).fused, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert merged(plain) is plain


def test_the_seed_alone_decides_the_pieces() -> None:
    for tuning in TUNED:
        first, second = state(build_model(study(tuning))), state(build_model(study(tuning)))
        assert all(torch.equal(first[name], second[name]) for name in first)
        other = dataclasses.replace(study(tuning), training=TrainingConfig(seed=5))
        assert any(not torch.equal(first[name], t) for name, t in state(build_model(other)).items())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_pretrained_weights_come_from_a_local_file(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = open_clip.create_model("smile-tiny-vit")
    file = tmp_path / f"weights.{suffix}"
    tensors = {name: tensor.contiguous() for name, tensor in source.state_dict().items()}
    save_file(tensors, file) if suffix == "safetensors" else torch.save(tensors, file)
    views = pictures(study("full", modalities=("texture",)))
    mean, std = colour_statistics("smile-tiny-vit", str(file))
    shape = (3, 1, 1)
    colours = (views / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    with torch.inference_mode():
        expected = source.eval().visual(colours.flatten(0, 1)).unflatten(0, (3, 3))
        for tuning in ("full", "lora", "adapter"):
            model = build_model(study(tuning, modalities=("texture",), pretrained=str(file))).eval()
            assert model.dim == 24
            torch.testing.assert_close(model(views).views, expected)


def test_colours_are_normalised_as_a_pretrained_tower_wants_them() -> None:
    assert colour_statistics("MobileCLIP2-S0", "a local file") == ((0.0,) * 3, (1.0,) * 3)
    assert math.isclose(colour_statistics("ViT-B-32", "openai")[0][0], 0.48145466)


def test_mixed_channels_start_as_a_sum_that_shows_every_modality() -> None:
    mix = build_model(study("adapter")).tower[0]
    x = torch.randn(2, 7, 4, 4)
    expected = (x[:, :3] + x[:, 3:4] + x[:, 4:]) / math.sqrt(3)
    torch.testing.assert_close(mix(x), expected)
    assert mix.weight.requires_grad
