"""The verdict: ONNX Runtime against torch, for both kinds of tower and every number of modalities."""

import json
from functools import partial

import numpy as np
import onnx
import open_clip
import pytest
import torch

from export import parity
from export.to_onnx import _check, export_onnx
from smile.checkpoint import load
from smile.config import ModelConfig, SmileConfig, ViewConfig
from smile.evaluation import unit
from smile.model import build_model
from smile.text import class_embeddings, prompt_embeddings
from smile.tuning import trainable

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}
SMALL_VIEWS = ViewConfig(yaws=(-20.0, 20.0), size=32)


def study(**model) -> SmileConfig:
    return SmileConfig(views=SMALL_VIEWS, model=ModelConfig(**{"dim": 32, **model}))


def verdict(config: SmileConfig) -> tuple[bytes, dict]:
    model = build_model(config).eval()
    views, text = gaps(config), class_embeddings(prompt_embeddings(config.model))
    file = export_onnx(model, config, metadata={"smile.note": "kept"})
    scale = float(model.scale().detach())
    reference = parity.torch_embeddings(model, views, config)
    assert not reference[2].any() and np.linalg.norm(reference[1]) > 0.99
    return file, parity.compare(file, views, reference, text=text, precision="fp32", scale=scale)


def gaps(config: SmileConfig) -> np.ndarray:
    """Golden captures of which the second lacks a view, and the third all."""
    views = parity.with_gap(parity.pseudo_views(config))
    views[2] = 0
    return views


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory) -> str:
    """A vision transformer of two layers, known to open_clip."""
    file = tmp_path_factory.mktemp("towers") / "smile-test-vit.json"
    file.write_text(json.dumps(TINY))
    open_clip.add_model_config(file)
    return file.stem


@pytest.mark.parametrize(
    "config",
    [
        study(modalities=("depth",), fusion="mean"),
        study(modalities=("texture", "depth", "normals")),
    ],
    ids=["one modality, mean", "three modalities, attention"],
)
def test_the_small_tower_passes(config):
    file, report = verdict(config)
    assert report["verdict"] == "pass"
    assert report["logits"] < 2e-5
    assert set(report["batches"]) == {"1", "2", "5"}
    graph = onnx.load_from_string(file).graph
    assert graph.input[0].type.tensor_type.shape.dim[2].dim_value == config.model.channels


def test_a_vision_transformer_passes_without_fused_attention(tiny_vit):
    file, report = verdict(study(tower=tiny_vit, modalities=("texture", "depth", "normals")))
    assert report["verdict"] == "pass"
    assert report["logits"] < 2e-5
    model = onnx.load_from_string(file)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert not {"Attention", "Gelu"} & {node.op_type for node in model.graph.node}
    turned = [node.name for node in model.graph.node if node.op_type == "Transpose"]
    assert len(turned) == 4 * TINY["vision_cfg"]["layers"] + 1, "torch's own attention needs eight a layer"


@pytest.mark.parametrize(
    "settings",
    [{"tuning": "lora", "streams": "apart", "fusion": "text"}, {"tuning": "prompt"}],
    ids=["LoRA, streams apart, text", "prompts, mixed channels"],
)
def test_a_tuned_vision_transformer_passes(tiny_vit, settings):
    config = study(tower=tiny_vit, rank=2, **settings)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in trainable(model):  # as after training: nothing is 0 any more
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    views, text = gaps(config), class_embeddings(prompt_embeddings(config.model))
    views[0, 1, 3:] = 0  # a photograph has no depth
    report = parity.compare(
        export_onnx(model, config),
        views,
        parity.torch_embeddings(model, views, config),
        precision="fp32",
        text=text,
        scale=10.0,
    )
    assert report["verdict"] == "pass", report


@pytest.mark.parametrize(
    "spoil",
    [lambda e: e + 2e-4, lambda e: e * np.nan, lambda e: e[::-1]],
    ids=["too far", "no number", "mixed up"],
)
def test_a_wrong_answer_fails(bundle, golden, spoil):
    text = np.load(bundle / "text_embeddings.npy")
    file = (bundle / "model.fp32.onnx").read_bytes()
    compare = partial(parity.compare, file, golden["views"], precision="fp32", text=text, scale=14.0)
    assert compare(spoil(golden["embedding"]))["verdict"] == "fail"
    assert compare(golden["embedding"])["verdict"] == "pass"


def test_a_file_that_does_not_say_what_is_of_the_tower_is_refused(bundle):
    """Nothing would be in INT8, under its name."""
    model = onnx.load(bundle / "model.fp32.onnx")
    _check(model)
    for node in model.graph.node:
        node.name = node.name.rpartition("/")[2]
    with pytest.raises(ValueError, match="which nodes are of the tower"):
        _check(model)


def test_pseudo_views_look_like_views():
    views = parity.pseudo_views(SmileConfig(model=ModelConfig(modalities=("depth", "normals"))))
    assert views.shape == (5, 3, 4, 64, 64)
    assert views.dtype == np.uint8
    assert (views[..., 0, 0] == 0).all()  # background in the corner
    assert views.any(axis=(2, 3, 4)).all()  # no view is empty
    assert np.array_equal(
        views, parity.pseudo_views(SmileConfig(model=ModelConfig(modalities=("depth", "normals"))))
    )


def test_a_missing_view_has_no_influence_on_the_exported_graph(bundle, checkpoint):
    model, config, _ = load(checkpoint)
    views = parity.pseudo_views(config)
    gap = parity.with_gap(views)
    assert not gap[1, -1].any() and np.array_equal(np.delete(gap, 1, 0), np.delete(views, 1, 0))
    with torch.inference_mode():
        alone = model(torch.from_numpy(gap[1:2]).float(), torch.tensor([[True, True, False]])).fused.numpy()
        unmasked = model(torch.from_numpy(gap[1:2]).float()).fused.numpy()
    found = parity.onnx_embeddings((bundle / "model.fp32.onnx").read_bytes(), gap, batch=5)[1]
    assert np.abs(found - unit(alone)).max() < 2e-5 < 1e-2 < np.abs(found - unit(unmasked)).max()
    one = views[:, :1]
    assert np.array_equal(parity.with_gap(one), one)


def test_the_file_tells_nothing_of_the_machine(bundle, manifest):
    model = onnx.load(bundle / "model.fp32.onnx")
    inside = json.loads(next(p.value for p in model.metadata_props if p.key == "smile.manifest"))
    assert inside == {key: manifest[key] for key in inside} and "preprocessing" in inside
    assert "text" not in inside  # new words must leave the file as it is
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    assert shape == manifest["input"]["shape"][1:] == [3, 4, 64, 64]
