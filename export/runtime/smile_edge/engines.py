"""What computes the embeddings, chosen openly: an engine that was asked for and is not there is an error, never another engine.

B batch, V views, C channels, H W pixels, D joint embedding.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .files import first_line, read_checked

PROVIDERS = ("cpu", "cuda", "tensorrt-ort", "tensorrt")
# Name in onnxruntime, and what brings it.
_ONNXRUNTIME = {
    "cpu": ("CPUExecutionProvider", "run `python3 -m pip install --upgrade onnxruntime`"),
    "cuda": (
        "CUDAExecutionProvider",
        "install the onnxruntime-gpu built for this CUDA, or take --provider cpu",
    ),
    "tensorrt-ort": (
        "TensorrtExecutionProvider",
        "install an onnxruntime-gpu built for this TensorRT, or take --provider tensorrt, which needs no onnxruntime",
    ),
}

# onnxruntime 1.31 dies of a segmentation fault when it lays out the half-precision convolution of a ViT in blocks of channels.
SKIPPED = {"fp16": ["NchwcTransformer"]}

# All that onnxruntime may compute on the CPU beside a GPU: the shapes, a few whole numbers that it leaves there for speed.
_SHAPES = {"Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast"}


class Engine(Protocol):
    """(B, V, C, H, W) float32, 0 to 255 -> (B, D) float32 of unit length, at most the profile's largest B at once."""

    name: str  # for people: what computes, its version, where
    precision: str

    def __call__(self, views: np.ndarray) -> np.ndarray: ...


def open_engine(
    bundle: Path,
    manifest: dict[str, Any],
    sums: dict[str, str],
    *,
    precision: str | None = None,
    provider: str = "cpu",
    threads: int = 0,
) -> Engine:
    """The engine of a bundle. precision: `default` of the manifest when None. threads: on a CPU, 0 for one a core.

    Raises ValueError, one sentence with the remedy, when the bundle or this device has no such engine.
    """
    models = manifest["models"]
    chosen = precision or manifest["default"]
    if provider not in PROVIDERS:
        raise ValueError(f"provider {provider!r} is unknown: choose {', '.join(PROVIDERS)}")
    if chosen not in models:
        raise ValueError(
            f"{bundle} holds {', '.join(models)} and not {chosen}: choose one of these, or make a bundle with "
            f"`python -m export bundle CHECKPOINT BUNDLE --precision {','.join([*models, chosen])}`"
        )
    if provider == "tensorrt":
        from .tensorrt_engine import load_engine

        return load_engine(bundle, manifest, sums, chosen)
    model = models[chosen]
    file = read_checked(bundle, model["file"], sums)
    if hashlib.sha256(file).hexdigest() != model["sha256"]:
        raise ValueError(
            f"{bundle / model['file']} is not the {chosen} model of manifest.json: copy the bundle again"
        )
    return _OnnxRuntime(
        bundle / model["file"], file, manifest, precision=chosen, provider=provider, threads=threads
    )


class _OnnxRuntime:
    """An ONNX file in a session of onnxruntime."""

    def __init__(
        self,
        path: Path,
        file: bytes,
        manifest: dict[str, Any],
        *,
        precision: str,
        provider: str,
        threads: int,
    ) -> None:
        name, remedy = _ONNXRUNTIME[provider]
        try:
            import onnxruntime
        except ImportError as error:
            if error.name != "onnxruntime":  # it is there, and something that it needs is not
                raise ValueError(f"onnxruntime cannot be loaded ({error}): {remedy}") from None
            raise ValueError(
                "onnxruntime is not installed: run `python3 -m pip install numpy onnxruntime`"
            ) from None
        self.precision, self.name = precision, f"onnxruntime {onnxruntime.__version__} {provider}"
        if name not in onnxruntime.get_available_providers():
            raise ValueError(f"this onnxruntime {onnxruntime.__version__} has no {name}: {remedy}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that wait busily for the next frame take the cores from whatever makes its views.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if provider == "tensorrt-ort" and precision == "fp32":
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # its TensorRT has no option for it
        try:
            # Without enable_fallback=0 a provider that fails is replaced by the CPU.
            self._session = onnxruntime.InferenceSession(
                file,
                options,
                providers=_providers(provider, manifest, precision),
                enable_fallback=0,
                disabled_optimizers=SKIPPED.get(precision),
            )
        except Exception as error:
            raise ValueError(
                f"{path} cannot be loaded by {self.name} ({first_line(error)}): {remedy}"
            ) from None
        if (
            self._session.get_providers()[0] != name
        ):  # dropped while the session was made: a library is missing
            raise ValueError(
                f"onnxruntime {onnxruntime.__version__} could not start {name} on this device: {remedy}"
            )
        if provider != "cpu":
            self._check_share(name, remedy)
        self._session.disable_fallback()  # nor may a run that fails be tried again on the CPU
        self._session._model_bytes = None  # the whole file, which it keeps for such a try
        self._input = manifest["input"]["name"]

    def __call__(self, views: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: views})[0]

    def _check_share(self, name: str, remedy: str) -> None:
        """Raises ValueError where the provider left more than shapes to the CPU: onnxruntime always has that one, too.

        Its session.disable_cpu_ep_fallback is no help, since it refuses the shapes as well.
        """
        if not hasattr(self._session, "get_provider_graph_assignment_info"):  # before onnxruntime 1.24
            self.name += " (its share of the nodes is unknown)"
            return
        parts = self._session.get_provider_graph_assignment_info()
        left = {node.op_type for part in parts if part.ep_name != name for node in part.get_nodes()} - _SHAPES
        if left:
            raise ValueError(f"{self.name} leaves {', '.join(sorted(left))} to the CPU: {remedy}")


def _providers(provider: str, manifest: dict[str, Any], precision: str) -> list[Any]:
    """For onnxruntime, in order of preference."""
    name = _ONNXRUNTIME[provider][0]
    if provider == "cuda":
        return [(name, {"use_tf32": "0"} if precision == "fp32" else {})]  # ten bits of mantissa are not fp32
    if provider == "cpu":
        return [name]
    low, best, high = (
        f"{manifest['input']['name']}:{'x'.join(map(str, (batch, *manifest['input']['shape'][1:])))}"
        for batch in manifest["profile"]["batch"]
    )
    shapes = {"trt_profile_min_shapes": low, "trt_profile_opt_shapes": best, "trt_profile_max_shapes": high}
    # The precision is in the file; onnxruntime must still allow it.
    allowed = {"fp16": {"trt_fp16_enable": True}, "int8": {"trt_int8_enable": True}}.get(precision, {})
    return [(name, {**shapes, **allowed})]
