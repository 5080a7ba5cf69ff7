"""ONNX -> TensorRT plan: what differs between 8.6, 10, 11 and TensorRT-RTX, behind one function.

One way for TensorRT 10 and 11 (strongly typed: the precision is in the ONNX file) and a small one for 8.6 (builder flags).
What a module offers is probed, its version never compared. `trt` is tensorrt, tensorrt_rtx or an imitation of the tests.
"""

import re
from typing import Any, NamedTuple

from .tensorrt_engine import first_error, is_legacy, listen

Shape = tuple[int, ...]
Shapes = dict[str, tuple[Shape, Shape, Shape]]  # input -> smallest, usual and largest shape

LEGACY_FLAGS = {"fp16": ("FP16",), "int8": ("INT8",)}
LEGACY = (
    "TensorRT 8 reads ONNX up to opset 17 and a bundle is opset 18: use TensorRT 10 (JetPack 6.1) or later"
)


class Plan(NamedTuple):
    plan: bytes
    timing_cache: bytes
    log: list[str]


def network_flags(trt: Any) -> int:
    """What `create_network` wants: strongly typed from 10.0 (a no-op in 11), explicit batch in 8.6, nothing where neither exists."""
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(flags, name):
            return 1 << int(getattr(flags, name))
    return 0


def builder_flags(trt: Any, precision: str) -> list[str]:
    """Names of BuilderFlag to set; those with a minus are cleared."""
    flags = list(LEGACY_FLAGS.get(precision, ())) if is_legacy(trt) else []
    if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        flags.append("-TF32")  # on by default: ten bits of mantissa are not fp32
    return flags


def build_plan(
    trt: Any,
    onnx: bytes,
    *,
    shapes: Shapes,
    precision: str,
    workspace_mb: int,
    target: str | None = None,
    timing_cache: bytes | None = b"",
    dla: int | None = None,
) -> Plan:
    """A serialised engine with one optimisation profile.

    target: `SM86` ..., to compile for another GPU than this one (TensorRT-RTX alone). timing_cache: of an earlier build, or
    None for none at all, as TensorRT-RTX wants it. dla: number of the DLA core; what it cannot do, the GPU does.
    Raises ValueError with TensorRT's own reason when the file is not parsed or not built.
    """
    log, lines = listen(trt)
    try:
        builder = trt.Builder(log)
    except TypeError:  # how pybind says that the C++ side returned nothing
        raise ValueError(
            f"TensorRT {trt.__version__} cannot start a builder ({first_error(lines)}): is the NVIDIA driver running?"
        ) from None
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        reason = parser.get_error(0).desc().strip() if parser.num_errors else first_error(lines)
        advice = LEGACY if is_legacy(trt) else "make the bundle again with the versions in docs/edge.md"
        raise ValueError(
            f"TensorRT {trt.__version__} cannot read the {precision} ONNX file ({reason.splitlines()[0]}): {advice}"
        )
    inputs = {network.get_input(i).name for i in range(network.num_inputs)}
    if inputs != set(shapes):
        raise ValueError(
            f"the {precision} ONNX file has the inputs {sorted(inputs)} and the manifest {sorted(shapes)}"
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    for name in builder_flags(trt, precision):
        (config.clear_flag if name[0] == "-" else config.set_flag)(getattr(trt.BuilderFlag, name.lstrip("-")))
    if target is not None:
        _aim(trt, config, target)
    if dla is not None:
        _use_dla(trt, builder, config, dla)
    profile = builder.create_optimization_profile()
    for name, (low, usual, high) in shapes.items():
        profile.set_shape(name, low, usual, high)
    if config.add_optimization_profile(profile) < 0:
        raise ValueError(f"TensorRT {trt.__version__} refuses the profile {shapes} ({first_error(lines)})")
    if timing_cache is not None:
        _set_timing_cache(config, timing_cache, lines)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(
            f"TensorRT {trt.__version__} cannot build the {precision} engine: {first_error(lines)}"
        )
    cache = None if timing_cache is None else config.get_timing_cache()
    return Plan(bytes(plan), bytes(cache.serialize()) if cache is not None else b"", list(lines))


def _aim(trt: Any, config: Any, target: str) -> None:
    known = [name for name in dir(getattr(trt, "ComputeCapability", None)) if re.fullmatch(r"SM\d+", name)]
    if target not in known:
        raise ValueError(
            f"{target} is no target of {trt.__name__} {trt.__version__}: choose {', '.join(known) or 'none'}"
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)


def _use_dla(trt: Any, builder: Any, config: Any, core: int) -> None:
    if not 0 <= core < builder.num_DLA_cores:
        raise ValueError(
            f"DLA core {core} is not there, TensorRT {trt.__version__} sees {builder.num_DLA_cores} on this device: build without it"
        )
    config.default_device_type, config.DLA_core = trt.DeviceType.DLA, core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _set_timing_cache(config: Any, data: bytes, lines: Any) -> None:
    """The timings of an earlier build, or an empty cache where TensorRT does not want them."""
    for blob in dict.fromkeys((data, b"")):
        cache = config.create_timing_cache(blob)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return
        lines.append("[W] the timing cache is damaged or of another device: every layer is timed again")
