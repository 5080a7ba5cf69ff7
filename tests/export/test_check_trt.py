"""`check-trt`: TensorRT-RTX's parser and compiler on a CPU, the real ones where they are installed."""

import argparse
import importlib.util
import json
import sys

import pytest

from export import check_trt
from smile.checkpoint import save
from smile.config import ModelConfig, SmileConfig, ViewConfig
from smile.model import build_model
from smile.protocol import get_arrays
from tests.export.sealing import seal
from tests.export.small_bundle import small_bundle, small_onnx
from tests.random_site import write_random_site

real = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason='tensorrt_rtx is not installed: pip install -e ".[trt-check]"',
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("check") / "bundle")


def command(*arguments):
    parser = argparse.ArgumentParser()
    check_trt.add_arguments(parser)
    return check_trt.command(parser.parse_args(list(map(str, arguments))))


@real
def test_all_precisions_are_built_for_both_targets(small, capsys):
    rows = check_trt.check(small)
    assert [(row["precision"], row["target"], row["verdict"]) for row in rows] == [
        (precision, target, "built") for precision in ("fp32", "fp16", "int8") for target in ("SM86", "SM89")
    ]
    assert all(row["bytes"] > 1000 and row["seconds"] > 0 and "not run" in row["reason"] for row in rows)
    assert command(small, "--precision", "fp16", "--targets", "SM86") == 0
    assert "fp16 for SM86 built" in capsys.readouterr().out


@real
@pytest.mark.slow
@pytest.mark.parametrize(("tower", "size"), [("smile-small", 64), ("ViT-B-32", 224)])
def test_both_towers_in_all_precisions_for_both_targets(tower, size, tmp_path):
    """Random weights: what is built is the graph."""
    from export.bundle import write_bundle

    modalities = ("texture", "depth", "normals")
    config = SmileConfig(
        views=ViewConfig(size=size, modalities=modalities),
        model=ModelConfig(tower=tower, modalities=modalities),
    )
    save(tmp_path / "round-0000", get_arrays(build_model(config)), config, {"round": 0})
    people = write_random_site(tmp_path / "site", config.views, people=4, sequences=2, frames=1)
    bundle = tmp_path / "bundle"
    write_bundle(tmp_path / "round-0000", bundle, precisions=("fp32", "fp16", "int8"), calibrate=[people])
    rows = check_trt.check(bundle)
    assert [row["verdict"] for row in rows] == ["built"] * 6, rows


@real
def test_what_only_the_compiler_refuses_is_a_failure(tmp_path, capsys):
    """A fused Attention in float32: the parser takes it, the compiler of 1.7 refuses it or dies of it."""
    bundle = small_bundle(tmp_path / "bundle", models={"fp32": small_onnx(attention=True)})
    (row,) = check_trt.check(bundle, ("SM86",))
    assert (row["verdict"], row["bytes"]) == ("failed", 0)
    assert "cannot read" not in row["reason"]
    assert command(bundle, "--targets", "SM86", "--json") == 1
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "failed"


@real
def test_a_graph_that_mixes_types_is_a_failure(tmp_path):
    import onnx

    model = onnx.load_from_string(small_onnx("fp16"))
    (cast,) = [node for node in model.graph.node if node.output[0] == "half"]
    cast.op_type = "Identity"
    del cast.attribute[:]
    models = {"fp32": small_onnx(), "fp16": model.SerializeToString()}
    rows = check_trt.check(small_bundle(tmp_path / "bundle", models=models), ("SM89",))
    assert [row["verdict"] for row in rows] == ["built", "failed"]
    assert "\n" not in rows[1]["reason"]


@real
def test_a_target_that_tensorrt_rtx_does_not_know(small, capsys):
    assert command(small, "--targets", "SM87", "--precision", "fp32") == 1
    assert "SM87 is no target of tensorrt_rtx" in capsys.readouterr().out


def test_without_tensorrt_rtx_it_is_skipped_and_said(small, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    rows = check_trt.check(small, ("SM86",), ("fp32", "int8"))
    assert [(row["precision"], row["verdict"], row["bytes"]) for row in rows] == [
        ("fp32", "skipped", 0),
        ("int8", "skipped", 0),
    ]
    assert command(small) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{small}: skipped: tensorrt_rtx is not installed, nothing was checked: ")
    assert 'pip install "tensorrt-rtx>=1.7"' in out
    assert len(out.splitlines()) == 1


def test_a_precision_that_the_bundle_lacks(small):
    with pytest.raises(ValueError, match="holds fp32, fp16, int8 and not fp8: choose one of these"):
        check_trt.check(small, precisions=("fp8",))


def test_a_damaged_bundle(tmp_path):
    bundle = small_bundle(tmp_path / "bundle")
    (bundle / "model.int8.onnx").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"model\.int8\.onnx is damaged"):
        check_trt.check(bundle)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A module under the name of TensorRT-RTX, here and in the processes that build."""

    def place(code):
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "tensorrt_rtx.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path / "modules")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))

    return place


IMITATION = "import sys\nfrom tests.export.fake_trt import Fake\nsys.modules[__name__] = Fake('10.3.0')\n"


def test_any_failure_is_the_exit_code(small, stand_in, capsys):
    stand_in(IMITATION)  # knows no targets
    assert command(small, "--targets", "SM86") == 1
    out = capsys.readouterr().out
    assert out.count("failed: SM86 is no target of tensorrt 10.3.0: choose none") == 3


def test_junk_under_the_name_of_a_model_is_a_failure(tmp_path, stand_in):
    bundle = small_bundle(tmp_path / "bundle")
    (bundle / "model.int8.onnx").write_bytes(b"junk")
    seal(bundle)
    stand_in(IMITATION)
    (row,) = check_trt.check(bundle, ("SM86",), ("int8",))
    assert row["verdict"] == "failed" and "cannot read the int8 ONNX file" in row["reason"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os\nos.kill(os.getpid(), 11)", "ended its own process (exit code -11: no message)"),
        ("raise SystemError('odd')", "ended its own process (exit code 1: SystemError: odd)"),
        (
            "raise ImportError('libcuda is odd')",
            "tensorrt_rtx cannot be loaded (libcuda is odd): install it again",
        ),
        ("import missing_part", "cannot be loaded (No module named 'missing_part')"),
    ],
)
def test_a_compiler_that_dies_is_a_failure_and_not_the_end(small, stand_in, code, reason):
    stand_in(code)
    (row,) = check_trt.check(small, ("SM86",), ("fp32",))
    assert row["verdict"] == "failed" and reason in row["reason"]


def test_a_build_without_end_is_a_failure(small, stand_in, monkeypatch):
    stand_in("import time\ntime.sleep(60)")
    monkeypatch.setattr(check_trt, "_PATIENCE", 2)
    (row,) = check_trt.check(small, ("SM86",), ("fp32",))
    assert (row["verdict"], row["reason"]) == ("failed", "TensorRT-RTX was still building after 2 s")
