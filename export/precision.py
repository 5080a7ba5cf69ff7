"""fp16 and INT8 out of the fp32 ONNX file: inputs and outputs stay float32, the precision is inside.

n captures, V views, C channels, H W pixels, D joint embedding.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .to_onnx import TOWER

PRECISIONS = ("fp32", "fp16", "int8")
QUANTISED = ("Conv", "Gemm", "MatMul")  # the rest costs little and loses much
AT_A_TIME = 4  # captures that are calibrated together


def to_fp16(file: bytes) -> bytes:
    """Weights and arithmetic in half precision, inputs and outputs float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with _quiet():
        half = OnnxModel(convert_float_to_float16(onnx.load_from_string(file), keep_io_types=True))
    half.topological_sort()  # its casts are appended, which ONNX does not allow and not every parser forgives
    onnx.checker.check_model(half.model)
    return half.model.SerializeToString()


def to_int8(
    file: bytes, calibration: np.ndarray, judge: Callable[[bytes], dict[str, Any]]
) -> tuple[bytes, list[str], dict[str, Any]]:
    """Static, symmetric Q/DQ of the tower's convolutions and matrix products with weights, a scale for each channel of these.

    What is behind the tower stays float32: it takes no time, and its eight bits were most of what was lost.

    calibration: (n, V, C, H, W) uint8 views of faces. judge: a file -> its parity report on views of other people. Where all layers
    together leave the tolerance, those whose inputs lose most by eight bits stay float32: none, then 1, 2, 4 ... to half of them.
    Returns the file, the names of the layers that stayed float32, and the report, whose verdict is fail when no choice is good enough.
    """
    import onnx

    graph = onnx.load_from_string(file).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = [node for node in graph.node if node.op_type in QUANTISED]
    # The products of attention hold no weights: their eight bits cost more time than they save, and accuracy too.
    layers = [node.name for node in found if weights & set(node.input) and node.name.startswith(TOWER)]
    free = [node.name for node in found if node.name not in layers]
    # A layer adds up in 32 bits and what follows is float32: eight bits between them cost digits, and after a product time.
    # A lone convolution is the stem of a transformer, which ONNX Runtime computes in eight bits only with both ends in them.
    convolutions = sum(node.op_type == "Conv" for node in found)
    wide = [kind for kind in QUANTISED if kind != "Conv" or convolutions > 1]
    with tempfile.TemporaryDirectory() as name, _quiet():
        folder = Path(name)
        (folder / "fp32.onnx").write_bytes(file)
        kept, ranked = list[str](), list[str]()
        while True:
            quantised = _quantise(folder, calibration, free + kept, wide)
            report = judge(quantised)
            # With most layers in float32 any file would pass, under a name that it does not deserve.
            if report["verdict"] == "pass" or len(kept) == len(layers) // 2:
                return quantised, kept, report
            ranked = ranked or _most_lossy(folder, calibration[:AT_A_TIME], layers)
            kept = ranked[: min(max(1, 2 * len(kept)), len(layers) // 2)]


def _quantise(folder: Path, calibration: np.ndarray, excluded: list[str], wide: list[str]) -> bytes:
    """excluded: names of nodes that stay float32; wide: the kinds whose output does."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        folder / "fp32.onnx",
        folder / "int8.onnx",
        _reader(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTISED),
        nodes_to_exclude=excluded,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        calibration_cache_path=folder / "ranges.json",  # the ranges are the same for every choice of layers
        extra_options={
            "ActivationSymmetric": True,  # TensorRT knows no other zero point than 0
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "DedicatedQDQPair": True,
            "OpTypesToExcludeOutputQuantization": wide,
        },
    )
    return (folder / "int8.onnx").read_bytes()


def _reader(views: np.ndarray) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Views(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(range(0, len(views), AT_A_TIME))

        def get_next(self) -> dict[str, np.ndarray] | None:
            start = next(self.left, None)
            return None if start is None else {"views": views[start : start + AT_A_TIME].astype(np.float32)}

    return Views()


def _most_lossy(folder: Path, views: np.ndarray, layers: list[str]) -> list[str]:
    """The layers, those first whose input is farthest from itself after eight bits."""
    import onnx
    from onnxruntime.quantization import qdq_loss_debug as loss

    inputs = {node.name: node.input[0] for node in onnx.load(folder / "fp32.onnx").graph.node}
    found = {}
    for precision in ("fp32", "int8"):
        loss.modify_model_output_intermediate_tensors(folder / f"{precision}.onnx", folder / "open.onnx")
        found[precision] = loss.collect_activations(folder / "open.onnx", _reader(views))
    errors = loss.compute_activation_error(loss.create_activation_matching(found["int8"], found["fp32"]))
    # Decibels of signal to noise; layers that share an input lose the same. What was not seen comes last.
    noise = {layer: errors.get(inputs[layer], {}).get("qdq_err", np.inf) for layer in layers}
    return sorted(layers, key=lambda layer: noise[layer])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converters warn of their own defaults: nothing a user could act on."""
    import warnings

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
