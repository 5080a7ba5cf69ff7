"""Engines are chosen openly: the one that was asked for, or one sentence."""

import hashlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from export.runtime.smile_edge import ExpressionReader, engines, golden, main
from export.runtime.smile_edge.files import read_manifest, read_sums
from tests.export.sealing import seal

GPU = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def two(bundle, manifest, tmp_path) -> Path:
    """A bundle with a second model that answers exactly the opposite."""
    import onnx
    from onnx import helper

    copy = Path(shutil.copytree(bundle, tmp_path / "two"))
    model = onnx.load(copy / manifest["models"]["fp32"]["file"])
    last = next(node for node in model.graph.node if "embedding" in node.output)
    last.output[0] = "positive"
    model.graph.node.append(helper.make_node("Neg", ["positive"], ["embedding"]))
    onnx.save(model, copy / "model.other.onnx")
    digest = hashlib.sha256((copy / "model.other.onnx").read_bytes()).hexdigest()
    other = {"file": "model.other.onnx", "sha256": digest, "tolerance": {"cosine": 0.99}}
    seal(copy, models={**manifest["models"], "other": other}, default="fp32")
    return copy


@pytest.fixture
def captures(bundle) -> dict[str, np.ndarray]:
    with np.load(bundle / "golden.npz", allow_pickle=False) as file:
        return dict(file)


def opened(bundle: Path, **options) -> engines.Engine:
    sums = read_sums(bundle)
    return engines.open_engine(bundle, read_manifest(bundle, sums), sums, **options)


# --- which one ----------------------------------------------------------------------------------------------------


def test_the_default_engine_says_what_it_is(bundle, captures):
    engine = opened(bundle, threads=1)
    assert (engine.name, engine.precision) == (f"onnxruntime {onnxruntime.__version__} cpu", "fp32")
    answer = engine(captures["views"].astype(np.float32))
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, captures["embedding"], atol=1e-4)


def test_a_precision_is_another_file(two, captures):
    views = captures["views"].astype(np.float32)
    np.testing.assert_allclose(opened(two, precision="other")(views), -opened(two)(views), atol=1e-6)
    seal(two, default="other")
    assert ExpressionReader(two, threads=1).engine.precision == "other"


def test_the_self_test_is_of_the_chosen_precision(two, capsys):
    assert main(["--bundle", str(two), "--self-test"]) == 0
    assert main(["--bundle", str(two), "--self-test", "--precision", "other"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "self-test passed" in out[0] and "fp32" in out[0]
    assert "self-test FAILED" in out[1] and "cosine -1 (at least 0.99)" in out[1]


def test_no_engine_is_asked_for_more_than_its_profile_holds(bundle, manifest, captures, monkeypatch):
    reader = ExpressionReader(bundle, threads=1)
    engine, asked = reader.engine, []
    monkeypatch.setattr(reader, "engine", lambda views: asked.append(len(views)) or engine(views))
    reader.embed(np.concatenate([captures["views"]] * 4))
    most = manifest["profile"]["batch"][2]
    assert asked == [most] * (20 // most) + [20 % most] * (20 % most > 0)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_precision_that_is_not_in_the_bundle(bundle, capsys):
    assert main(["--bundle", str(bundle), "--self-test", "--precision", "fp8"]) == 2
    err = capsys.readouterr().err
    assert "holds fp32" in err and "not fp8" in err and "python -m export bundle" in err
    assert len(err.splitlines()) == 1


def test_an_unknown_provider(bundle):
    with pytest.raises(
        ValueError, match="provider 'openvino' is unknown: choose cpu, cuda, tensorrt-ort, tensorrt"
    ):
        opened(bundle, provider="openvino")


@pytest.mark.skipif(GPU, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize(
    ("provider", "name"), [("cuda", "CUDAExecutionProvider"), ("tensorrt-ort", "TensorrtExecutionProvider")]
)
def test_a_provider_that_this_onnxruntime_lacks(bundle, capsys, provider, name):
    assert main(["--bundle", str(bundle), "--self-test", "--provider", provider]) == 2
    out, err = capsys.readouterr()
    assert f"has no {name}: install" in err
    assert (out, len(err.splitlines())) == ("", 1)


@pytest.mark.skipif(GPU, reason="this onnxruntime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_dropped_in_silence(bundle, monkeypatch):
    """onnxruntime itself goes on with the CPU here."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ValueError, match=r"could not start CUDAExecutionProvider on this device: install"):
        opened(bundle, provider="cuda")


def test_a_provider_that_fails_is_not_replaced(bundle, monkeypatch, capsys):
    """onnxruntime's own second try, on the CPU, prints a banner and goes on."""

    def fail(self, *_):
        raise RuntimeError("libcudnn.so.9: cannot open shared object file\nand more")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(ValueError, match=r"cpu \(libcudnn.so.9: cannot open shared object file\): run"):
        opened(bundle)
    assert capsys.readouterr().out == ""


def test_tensorrt_inside_onnxruntime_gets_the_profile(manifest, monkeypatch, bundle):
    asked = {}

    def session(file, options, **more):
        asked.update(more)
        return SimpleNamespace(
            get_providers=lambda: ["TensorrtExecutionProvider", "CPUExecutionProvider"],
            disable_fallback=lambda: None,
            get_provider_graph_assignment_info=lambda: [],
        )

    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    engine = opened(bundle, provider="tensorrt-ort")
    assert engine.name.endswith("tensorrt-ort")
    ((name, options),) = asked["providers"]  # no second one that would take what this one leaves
    assert name == "TensorrtExecutionProvider"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    low, _, high = manifest["profile"]["batch"]
    shape = "x".join(map(str, manifest["input"]["shape"][1:]))
    assert options["trt_profile_min_shapes"] == f"views:{low}x{shape}"
    assert options["trt_profile_max_shapes"] == f"views:{high}x{shape}"
    assert not any(key.endswith("_enable") for key in options)  # fp32 stays fp32
    fp16 = engines._providers("tensorrt-ort", manifest, "fp16")[0][1]
    assert fp16["trt_fp16_enable"] and "trt_int8_enable" not in fp16


def share(monkeypatch, provider, *nodes, **more):
    """A session of onnxruntime whose nodes, pairs of provider and operator, were dealt out so; and what it was asked."""
    asked = {}

    def session(file, options, **given):
        asked.update(
            given, record=options.get_session_config_entry("session.record_ep_graph_assignment_info")
        )
        part = lambda ep, op: SimpleNamespace(ep_name=ep, get_nodes=lambda: [SimpleNamespace(op_type=op)])  # noqa: E731
        parts = {"get_provider_graph_assignment_info": lambda: [part(*node) for node in nodes], **more}
        found = SimpleNamespace(
            get_providers=lambda: [provider, "CPUExecutionProvider"], disable_fallback=lambda: None, **parts
        )
        if parts["get_provider_graph_assignment_info"] is None:
            del found.get_provider_graph_assignment_info
        return found

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return asked


def test_a_gpu_that_leaves_nodes_to_the_cpu_is_refused(bundle, monkeypatch):
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    share(monkeypatch, gpu, (gpu, "MatMul"), (cpu, "Erf"), (cpu, "Shape"), (cpu, "Conv"))
    with pytest.raises(ValueError, match="cuda leaves Conv, Erf to the CPU: install the onnxruntime-gpu"):
        opened(bundle, provider="cuda")


def test_the_shapes_may_lie_on_the_cpu(bundle, monkeypatch):
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    asked = share(monkeypatch, gpu, (gpu, "MatMul"), (cpu, "Shape"), (cpu, "Concat"))
    assert opened(bundle, provider="cuda").name.endswith(" cuda")
    assert asked["record"] == "1"
    assert asked["providers"] == [(gpu, {"use_tf32": "0"})]  # fp32 stays fp32


def test_fp16_needs_no_word_about_tf32(manifest):
    assert engines._providers("cuda", manifest, "fp16") == [("CUDAExecutionProvider", {})]


def test_an_onnxruntime_that_cannot_tell_the_share_is_named(bundle, monkeypatch):
    share(monkeypatch, "CUDAExecutionProvider", get_provider_graph_assignment_info=None)
    assert opened(bundle, provider="cuda").name.endswith("cuda (its share of the nodes is unknown)")


def test_what_onnxruntime_records_has_these_names(bundle):
    """The imitation above must not drift from the real thing."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(
        next(bundle.glob("*.onnx")), options, providers=["CPUExecutionProvider"]
    )
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("before onnxruntime 1.24")
    parts = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {"CPUExecutionProvider"}
    assert {"Conv", "Shape"} <= {node.op_type for part in parts for node in part.get_nodes()}


def test_tensorrt_without_an_engine(bundle, capsys):
    assert main(["--bundle", str(bundle), "--self-test", "--provider", "tensorrt"]) == 2
    assert "--build-engine" in capsys.readouterr().err


def test_tensorrt_needs_no_onnxruntime(bundle, monkeypatch):
    def load_engine(bundle, manifest, sums, precision):
        return SimpleNamespace(name="tensorrt", precision=precision)

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    module = "export.runtime.smile_edge.tensorrt_engine"
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(load_engine=load_engine))
    assert opened(bundle, provider="tensorrt").precision == "fp32"
    with pytest.raises(
        ValueError, match="onnxruntime is not installed: run `python3 -m pip install numpy onnx"
    ):
        opened(bundle, provider="cpu")


def test_swapped_models_are_refused(two, manifest):
    fp32 = two / manifest["models"]["fp32"]["file"]
    swapped = fp32.read_bytes()
    fp32.write_bytes((two / "model.other.onnx").read_bytes())
    with pytest.raises(ValueError, match="is damaged"):
        opened(two)
    (two / "model.other.onnx").write_bytes(swapped)
    seal(two)  # even where the checksums were made to fit
    for precision in ("fp32", "other"):
        with pytest.raises(ValueError, match=f"is not the {precision} model of manifest.json"):
            opened(two, precision=precision)


# --- the verdict --------------------------------------------------------------------------------------------------


def test_the_figures_follow_their_formulas():
    expected = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = np.array([[0.8, 0.6], [0.0, 1.0]])
    figures = golden.figures(found, expected, text=np.eye(2), scale=10.0)
    assert figures == pytest.approx({"embedding": 0.6, "logits": 6.0, "cosine": 0.8, "same_class": 1.0})
    figures = golden.figures(found[::-1], expected, text=np.eye(2), scale=10.0)
    assert (figures["same_class"], figures["cosine"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changed", "passes"),
    [
        ({}, True),
        ({"embedding": 2e-4}, False),
        ({"logits": np.nan}, False),
        ({"cosine": 0.98}, False),
        ({"cosine": np.nan}, False),
        ({"same_class": 0.8}, False),
    ],
)
def test_every_figure_of_the_tolerance_counts(changed, passes):
    found = {"embedding": 1e-4, "logits": 1e-4, "cosine": 0.99, "same_class": 0.99, **changed}
    assert (
        golden.within(found, {"embedding": 1e-4, "logits": 1e-4, "cosine": 0.99, "same_class": 0.99})
        is passes
    )


def test_a_tolerance_that_says_nothing_passes_nothing():
    assert not golden.within({"embedding": 0.0}, {})
    with pytest.raises(KeyError):
        golden.within({"embedding": 0.0}, {"beauty": 1.0})
