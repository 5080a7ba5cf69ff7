"""A bundle small enough to build engines from in milliseconds: two layers, three precisions, five golden captures."""

import hashlib
import json
from pathlib import Path

import numpy as np

from export.runtime.smile_edge.files import FORMAT, GOLDEN, MANIFEST, SCHEMA, TEXT
from tests.export.sealing import seal

SHAPE, DIM = (3, 4, 8, 8), 16  # V C H W; D


def small_onnx(precision: str = "fp32", *, opset: int = 18, seed: int = 0, attention: bool = False) -> bytes:
    """Two layers of random weights: views (batch, 3, 4, 8, 8) -> embedding (batch, 16) of unit length, with the precision inside.

    attention: through a fused Attention of opset 23, which parsers take and TensorRT-RTX's compiler does not in float32.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    half = np.float16 if precision == "fp16" else np.float32
    first = rng.normal(0, 1 / 400, (int(np.prod(SHAPE)), 32)).astype(half)
    second = rng.normal(0, 0.2, (32, DIM)).astype(half)
    constants = {"flat": np.array([0, -1]), "tiny": np.array(1e-12, np.float32)}
    node, nodes, x = helper.make_node, [], "flattened"
    nodes.append(node("Reshape", ["views", "flat"], [x]))
    if precision == "fp16":
        nodes.append(node("Cast", [x], ["half"], to=TensorProto.FLOAT16))
        x = "half"
    for name, weight, low in (("first", first, 255 / 127), ("second", second, 8 / 127)):
        w = name
        if precision == "int8":
            weight, w, x = _quantised(name, weight, low, x, constants, nodes)
        constants[name] = weight
        nodes.append(node("MatMul", [x, w], [f"{name}.y"]))
        x = f"{name}.y"
        if name == "first":
            nodes.append(node("Tanh", [x], ["bent"]))
            x = "bent"
    if precision == "fp16":
        nodes.append(node("Cast", [x], ["single"], to=TensorProto.FLOAT))
        x = "single"
    if attention:
        constants |= {"heads": np.array([0, 4, 2, 2]), "back": np.array([0, -1])}
        nodes.append(node("Reshape", [x, "heads"], ["heads4"]))
        nodes.append(node("Attention", ["heads4", "heads4", "heads4"], ["attended"]))
        nodes.append(node("Reshape", ["attended", "back"], ["together"]))
        x = "together"
    if opset < 18:
        length = node("ReduceL2", [x], ["length"], keepdims=1, axes=[1])
    else:
        length = node("ReduceL2", [x, "axes"], ["length"], keepdims=1)
        constants["axes"] = np.array([1])
    nodes += [
        length,
        node("Max", ["length", "tiny"], ["divisor"]),
        node("Div", [x, "divisor"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("views", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 23 if attention else opset)], ir_version=10
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def small_bundle(
    folder: Path, *, opset: int = 18, batch: tuple = (1, 1, 8), models: dict[str, bytes] | None = None
) -> Path:
    """A bundle of the small model in three precisions, with golden captures: all that an engine is built and checked from."""
    import onnxruntime

    folder.mkdir(parents=True)
    tolerance = {"fp32": {"embedding": 1e-4}, "fp16": {"cosine": 0.999}, "int8": {"cosine": 0.99}}
    models = models or {precision: small_onnx(precision, opset=opset) for precision in tolerance}
    rng = np.random.default_rng(1)
    views = rng.integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    session = onnxruntime.InferenceSession(models["fp32"], providers=["CPUExecutionProvider"])
    embedding = session.run(None, {"views": views.astype(np.float32)})[0]
    text = rng.normal(size=(4, DIM)).astype(np.float32)
    np.savez(folder / GOLDEN, views=views, embedding=embedding, logits=10 * embedding @ text.T)
    np.save(folder / TEXT, text)
    for precision, data in models.items():
        (folder / f"model.{precision}.onnx").write_bytes(data)
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "input": {"name": "views", "shape": ["batch", *SHAPE]},
        "output": {"name": "embedding", "shape": ["batch", DIM]},
        "text": {"logit_scale": 10.0},
        "default": "fp16",
        "profile": {"batch": list(batch)},
        "models": {
            precision: {
                "file": f"model.{precision}.onnx",
                "sha256": hashlib.sha256(data).hexdigest(),
                "tolerance": tolerance[precision],
            }
            for precision, data in models.items()
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    seal(folder)
    return folder


def _quantised(
    name: str, weight: np.ndarray, low: float, x: str, constants: dict[str, np.ndarray], nodes: list
) -> tuple[np.ndarray, str, str]:
    """Q/DQ before a layer: its weights in int8, and the names of the weights and the input that it reads. low: step of the input."""
    from onnx import helper

    scale = np.abs(weight).max(axis=0) / 127
    constants |= {f"{name}.s": scale.astype(np.float32), f"{name}.z": np.zeros(len(scale), np.int8)}
    constants |= {f"{name}.as": np.array(low, np.float32), f"{name}.az": np.array(0, np.int8)}
    node = helper.make_node
    nodes.append(node("DequantizeLinear", [name, f"{name}.s", f"{name}.z"], [f"{name}.w"], axis=1))
    nodes.append(node("QuantizeLinear", [x, f"{name}.as", f"{name}.az"], [f"{name}.q"]))
    nodes.append(node("DequantizeLinear", [f"{name}.q", f"{name}.as", f"{name}.az"], [f"{name}.x"]))
    return np.clip(np.round(weight / scale), -127, 127).astype(np.int8), f"{name}.w", f"{name}.x"
