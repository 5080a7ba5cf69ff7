"""fp16 and INT8: what the files promise, and which layers stay float32 where eight bits are too few."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export import precision
from export.__main__ import main
from export.bundle import _faces
from export.to_onnx import TOWER
from smile.checkpoint import load
from smile.config import SmileConfig
from tests.export.small_bundle import SHAPE, small_onnx
from tests.random_site import write_random_site

VIEWS = np.random.default_rng(3).integers(0, 256, (12, *SHAPE), dtype=np.uint8)


def test_a_bundle_of_three_precisions_says_how_each_was_made(three, people):
    manifest = json.loads((three / "manifest.json").read_text())
    reports = json.loads((three / "parity.json").read_text())
    assert list(manifest["models"]) == list(reports) == ["fp16", "fp32", "int8"]
    assert manifest["default"] == "fp16" and manifest["profile"]["batch"] == [1, 1, 8]
    assert {name: report["verdict"] for name, report in reports.items()} == dict.fromkeys(reports, "pass")
    assert reports["int8"]["cosine"] >= 0.99 and reports["fp16"]["cosine"] >= 0.999
    assert manifest["calibration"]["captures"] + manifest["calibration"]["judged"] == 32
    assert manifest["calibration"]["people"] == 8 and len(manifest["calibration"]["sha256"]) == 64
    sizes = {name: (three / model["file"]).stat().st_size for name, model in manifest["models"].items()}
    assert sizes["int8"] < 0.4 * sizes["fp32"] and sizes["fp16"] < 0.6 * sizes["fp32"]


def test_nobody_who_sets_the_ranges_judges_them(checkpoint, people):
    config = load(checkpoint)[1]
    faces = _faces([people], config)
    whole = {view.tobytes() for view in faces.ranges}
    assert len(whole) == len(faces.ranges) and not whole & {view.tobytes() for view in faces.judged}


def test_ranges_of_several_sites_are_set_together(checkpoint, people, tmp_path):
    config = load(checkpoint)[1]
    single = write_random_site(tmp_path / "one", config.views, people=1, sequences=3, frames=1)
    one, two = _faces([people], config), _faces([people, single], config)
    assert len(two.judged) == len(one.judged) and len(two.ranges) == len(one.ranges) + 3
    assert two.about["sites"] == 2 and two.about["people"] == one.about["people"] + 1


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_inputs_and_outputs_stay_float32(three, name):
    model = onnx.load(three / f"model.{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_quantised_layers_are_symmetric_and_signed(three):
    """TensorRT takes no other zero point than 0, and no uint8."""
    graph = onnx.load(three / "model.int8.onnx").graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    points = [values[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert points and all(point.dtype == np.int8 and not point.any() for point in points)
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in values]
    assert weights and all(values[node.input[0]].dtype == np.int8 for node in weights)


def test_what_is_behind_the_tower_stays_in_float32(three):
    graph = onnx.load(three / "model.int8.onnx").graph
    eight_bits = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in graph.node if node.op_type in precision.QUANTISED]
    inside = {node.name.startswith(TOWER) for node in layers if set(node.input[:2]) & eight_bits}
    outside = [node.name for node in layers if not node.name.startswith(TOWER)]
    assert inside == {True} and any("projector" in name for name in outside)


def _judge(passes: Callable[[set[str]], bool], seen: list[set[str]]) -> Callable[[bytes], dict[str, Any]]:
    def judge(file: bytes) -> dict[str, Any]:
        graph = onnx.load_from_string(file).graph
        quantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        whole = {
            node.name for node in graph.node if node.op_type == "MatMul" and not set(node.input) & quantised
        }
        seen.append(whole)
        return {"verdict": "pass" if passes(whole) else "fail"}

    return judge


def _named(file: bytes) -> bytes:
    model = onnx.load_from_string(file)
    for number, node in enumerate(model.graph.node):
        node.name = f"{TOWER}{node.op_type}-{number}"
    return model.SerializeToString()


def test_layers_stay_in_float32_until_it_is_good_enough():
    seen: list[set[str]] = []
    file = _named(small_onnx())
    _, kept, report = precision.to_int8(file, VIEWS, _judge(lambda whole: len(whole) >= 1, seen))
    assert [len(whole) for whole in seen] == [0, 1] and seen[-1] == set(kept) and report["verdict"] == "pass"


def outlier() -> np.ndarray:
    """VIEWS between 0 and 2, but for one entry of 255."""
    views = VIEWS % 3
    views[0, 0, 0, 0, 0] = 255
    return views


def test_the_layer_whose_input_loses_most_is_the_first_to_stay():
    """One outlier takes all eight bits of the first layer's input; Tanh keeps the second's in -1 to 1."""
    _, kept, _ = precision.to_int8(_named(small_onnx()), outlier(), _judge(lambda whole: bool(whole), []))
    assert kept == [f"{TOWER}MatMul-1"]


def test_layers_that_share_an_input_can_all_stay():
    """A residual's short way and its first layer read the same: one after the other is kept, not one of the two."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(size=(2, int(np.prod(SHAPE)), 4)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["views", "flat"], ["x"]),
        helper.make_node("MatMul", ["x", "w0"], ["a"], name=f"{TOWER}left"),
        helper.make_node("MatMul", ["x", "w1"], ["b"], name=f"{TOWER}right"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["d"], name=f"{TOWER}next"),
        helper.make_node("MatMul", ["d", "w2"], ["embedding"], name=f"{TOWER}last"),
    ]
    constants = {
        "w0": weights[0],
        "w1": weights[1],
        "w2": np.eye(4, dtype=np.float32),
        "flat": np.array([0, -1]),
    }
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("views", kind, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("embedding", kind, ["batch", 4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    seen: list[set[str]] = []
    _, kept, _ = precision.to_int8(
        file.SerializeToString(), outlier(), _judge(lambda whole: len(whole) == 2, seen)
    )
    assert set(kept) == seen[-1] == {f"{TOWER}left", f"{TOWER}right"}


def test_where_no_choice_is_good_enough_it_ends():
    seen: list[set[str]] = []
    _, kept, report = precision.to_int8(_named(small_onnx()), VIEWS, _judge(lambda whole: False, seen))
    # Half of the layers at most: a file with none in eight bits would pass, and be none.
    assert [len(whole) for whole in seen] == [0, 1] and len(kept) == 1 and report["verdict"] == "fail"


def test_half_precision_is_half_precision():
    file = precision.to_fp16(small_onnx())
    kinds = {t.data_type for t in onnx.load_from_string(file).graph.initializer if len(t.dims) == 2}
    assert kinds == {onnx.TensorProto.FLOAT16}
    found = [
        onnxruntime.InferenceSession(f, providers=["CPUExecutionProvider"]).run(
            None, {"views": VIEWS.astype(np.float32)}
        )[0]
        for f in (file, small_onnx())
    ]
    assert 0 < np.abs(found[0] - found[1]).max() < 5e-3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--precision", "int8"], "--calibrate SITE"),
        (["--precision", "fp32,fp64"], "some of fp32, fp16, int8"),
        (["--precision", "fp32,fp32"], "each once"),
        (["--batch", "8:1:1"], "three rising whole numbers"),
        (["--batch", "1:2"], "three rising whole numbers"),
    ],
)
def test_mistakes_end_in_one_sentence(checkpoint, tmp_path, capsys, words, reason):
    assert main(["bundle", str(checkpoint), str(tmp_path / "b"), *words]) == 1
    said = capsys.readouterr().err
    assert reason in said and len(said.splitlines()) == 1 and not (tmp_path / "b").exists()


def test_a_site_of_one_person_judges_nothing(tmp_path):
    config = SmileConfig()
    site = write_random_site(tmp_path / "one", config.views, people=1, sequences=2, frames=1)
    with pytest.raises(ValueError, match="holds two people"):
        _faces([site], config)


def test_a_swapped_model_is_refused(three, tmp_path, capsys):
    """Both files are whole, and one has the other's name."""
    from export.runtime.smile_edge import main as run
    from tests.export.sealing import seal

    copy = Path(shutil.copytree(three, tmp_path / "copy"))
    shutil.copy(copy / "model.fp16.onnx", copy / "model.fp32.onnx")
    seal(copy)
    assert run(["--bundle", str(copy), "--self-test", "--precision", "fp32"]) == 2
    assert "is not the fp32 model of manifest.json" in capsys.readouterr().err
