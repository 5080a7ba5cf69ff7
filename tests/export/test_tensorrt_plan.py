"""The adapter between TensorRT 8.6.1 to 11.4 and one call; the versions are imitations made from the matrix of their names."""

import pytest

from export.runtime.smile_edge.tensorrt_engine import listen
from export.runtime.smile_edge.tensorrt_plan import build_plan, network_flags
from tests.export.fake_trt import MATRIX, VERSIONS, Fake
from tests.export.small_bundle import SHAPE, small_onnx

SHAPES = {"views": ((1, *SHAPE), (1, *SHAPE), (8, *SHAPE))}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_imitation_has_the_names_of_its_version_and_no_other(version):
    trt, column = Fake(version), VERSIONS.index(version)
    for name, row in MATRIX.items():
        owner, _, attribute = name.partition(".")
        assert hasattr(getattr(trt, owner), attribute) == (row.split()[column] == "Y"), name
    assert not hasattr(trt, "OnnxParserRefitter")
    with pytest.raises(AttributeError):  # as pybind: no attribute is made by setting it
        trt.Builder(listen(trt)[0]).max_workspace = 1


@pytest.mark.parametrize(
    ("version", "flags"),
    [("8.6.1", 1), ("10.3.0", 2), ("10.13.3", 2), ("10.16.1", 2), ("11.0", 2), ("11.4", 2)],
)
def test_network_flags(version, flags):
    assert network_flags(Fake(version)) == flags


def test_network_flags_of_a_version_that_has_none():
    class Bare:
        pass

    assert network_flags(Bare()) == 0


def test_reasons_of_tensorrt_are_passed_on():
    trt = Fake("10.3.0")
    options = {"precision": "fp32", "workspace_mb": 64}
    with pytest.raises(
        ValueError, match=r"TensorRT 10\.3\.0 cannot read the fp32 ONNX file \(Failed to parse ONNX model"
    ):
        build_plan(trt, b"\xff\xff junk", shapes=SHAPES, **options)
    with pytest.raises(ValueError, match=r"has the inputs \['views'\] and the manifest \['pictures'\]"):
        build_plan(trt, small_onnx(), shapes={"pictures": SHAPES["views"]}, **options)
    with pytest.raises(ValueError, match="refuses the profile"):
        build_plan(trt, small_onnx(), shapes={"views": SHAPES["views"][::-1]}, **options)
    with pytest.raises(ValueError, match=r"SM86 is no target of tensorrt 10\.3\.0: choose none"):
        build_plan(trt, small_onnx(), shapes=SHAPES, target="SM86", **options)


def test_a_builder_that_fails_gives_its_first_error(monkeypatch):
    trt = Fake("10.3.0")

    def fail(self, network, config):
        self._log.log(2, "a warning")
        self._log.log(1, "Target GPU SM 87 is not supported by this TensorRT release.\nmore")
        self._log.log(1, "a consequence")

    monkeypatch.setattr(trt.Builder, "build_serialized_network", fail)
    with pytest.raises(
        ValueError,
        match=r"cannot build the fp32 engine: Target GPU SM 87 is not supported by this TensorRT release\.$",
    ):
        build_plan(trt, small_onnx(), shapes=SHAPES, precision="fp32", workspace_mb=64)


def test_a_builder_without_a_driver(monkeypatch):
    trt = Fake("10.3.0")

    def start(self, log):
        log.log(1, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt.Builder, "__init__", start)
    with pytest.raises(
        ValueError, match=r"cannot start a builder \(CUDA initialization failure with error: 35\)"
    ):
        build_plan(trt, small_onnx(), shapes=SHAPES, precision="fp32", workspace_mb=64)
