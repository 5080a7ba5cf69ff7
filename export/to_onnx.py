"""The image side of a model as one ONNX file: views in, unit embedding out.

B batch (dynamic), V views, C channels, H W pixels, D joint embedding.
The text side stays outside the graph, so that new words or a new class list never touch the engine.
"""

import ast
import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from smile.config import SmileConfig
from smile.model import SmileModel, present
from smile.tuning import merged, write_out_attention

TOWER = "model.tower."  # how the name of a node of the tower begins
OPSET = 18  # the newest without a fused Attention or Gelu; inside every TensorRT 10 and 11 parser
INPUT, OUTPUT = "views", "embedding"
_LIMIT = 2**31 - 2**20  # protobuf cannot hold 2 GiB, and one file is easier to check than weights beside it


class Embedder(nn.Module):
    """What is exported: (B, V, C, H, W) float32 in [0, 255] -> (B, D) float32 of unit length, 0 for a capture without any view.

    A view that is 0 throughout is missing and has no influence, as in training and evaluation.
    """

    def __init__(self, model: SmileModel) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.model(views, present(views)).fused, dim=-1)


def export_onnx(model: SmileModel, config: SmileConfig, *, metadata: dict[str, str] | None = None) -> bytes:
    """The model as a serialised ONNX file, opset 18, batch dynamic, number of views fixed.

    metadata: goes into the file's `metadata_props`. Raises ValueError when the tower cannot be exported.
    """
    views, tower = config.views, config.model.tower
    # Two captures: a batch of one is specialised away by torch.export.
    example = torch.zeros(2, len(views.yaws), config.model.channels, views.size, views.size)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _LIMIT:
        raise ValueError(
            f"model.tower = {tower!r} has {size / 2**30:.1f} GiB of weights: one ONNX file holds 2 GiB, "
            "choose a smaller tower"
        )
    with _silence():
        try:
            program = torch.onnx.export(
                Embedder(_written_out(model, example)),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"views": {0: torch.export.Dim("batch")}},
            )
        except Exception as error:  # torch.export raises many kinds; a user can do the same about all of them
            reason = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                if str(error).strip()
                else repr(error)
            )
            raise ValueError(
                f"model.tower = {tower!r} cannot be exported to ONNX ({reason}): choose another tower"
            ) from error
        assert program is not None
        proto = program.model_proto
    _name(proto.graph)
    _strip(proto)
    _order_gelu(proto.graph)
    _check(proto)
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def _written_out(model: SmileModel, example: torch.Tensor) -> SmileModel:
    """A copy without LoRA, its self-attention as two products and a softmax: torch's own is exported with twice the transposes.

    example: (B, V, C, H, W).
    """
    result = merged(model)
    if result is model:
        result = copy.deepcopy(model)
    channels = 3 if result.slices else example.shape[2]
    write_out_attention(result.tower, example[0, :1, :channels], fused=False)
    return result


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter prints its progress, logs and warns of its own internals: nothing a user could act on."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _name(graph) -> None:
    """Each node gets the name of its module before its own: `model.tower.trunk.head/node_linear`."""
    for node in graph.node:
        for note in node.metadata_props:
            if note.key == "pkg.torch.onnx.name_scopes":
                *modules, _ = ast.literal_eval(note.value)
                node.name = "/".join([*modules[-1:], node.name])


def _strip(proto) -> None:
    """Remove the exporter's notes: they hold stack traces with the paths of the build machine."""
    graph = proto.graph
    for item in (
        proto,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *graph.value_info,
    ):
        del item.metadata_props[:]
        item.ClearField("doc_string")


def _order_gelu(graph) -> None:
    """x * (0.5 * (1 + erf)) becomes (x * (1 + erf)) * 0.5, in which ONNX Runtime knows a GELU and computes it in one pass."""
    after: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            after.setdefault(name, []).append(node)
    for erf in [node for node in graph.node if node.op_type == "Erf"]:
        chain = [erf]
        while len(chain) < 4 and len(after.get(chain[-1].output[0], [])) == 1:
            chain.append(after[chain[-1].output[0]][0])
        if [node.op_type for node in chain] == ["Erf", "Add", "Mul", "Mul"]:
            _, add, inner, outer = chain
            (half,) = set(inner.input) - set(add.output)
            (x,) = set(outer.input) - set(inner.output)
            inner.input[:], outer.input[:] = [x, add.output[0]], [inner.output[0], half]


def _check(proto) -> None:
    """Hold the promises of the file. Raises ValueError: torch or onnxscript changed what they write."""
    import onnx

    onnx.checker.check_model(proto)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    operators = {node.op_type for node in proto.graph.node}
    if opsets != {"": OPSET} or proto.functions or operators & {"Attention", "Gelu"}:
        raise ValueError(
            f"the exporter wrote opsets {opsets} with {sorted(operators & {'Attention', 'Gelu'})}: "
            f"plain opset {OPSET} is needed; install the versions of torch and onnxscript that this project's pyproject.toml asks for"
        )
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.dim_param or not any(node.name.startswith(TOWER) for node in proto.graph.node):
        raise ValueError(
            "the exporter fixed the batch size, or does not say which nodes are of the tower: install the versions of torch and "
            "onnxscript that this project's pyproject.toml asks for"
        )
