"""Does the ONNX file say what torch says? A verdict, not a warning.

n golden captures, V views, C channels, H W pixels, D joint embedding, K classes.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from smile.config import SmileConfig

from .runtime.smile_edge.engines import SKIPPED
from .runtime.smile_edge.golden import MOST, figures, summary, within

if TYPE_CHECKING:
    from smile.model import SmileModel

# Against torch, by the names of `golden.figures`: at most, of differences; at least, of the others.
TOLERANCES = {
    "fp32": {"embedding": 1e-4, "logits": 1e-4},
    "fp16": {"cosine": 0.999},
    "int8": {"cosine": 0.99, "same_class": 0.99},
}
BATCHES = (1, 2, 5)
CAPTURES = max(BATCHES)


def pseudo_views(config: SmileConfig, *, count: int = CAPTURES, seed: int = 0) -> np.ndarray:
    """Seeded pictures with the statistics of views, though no faces: (count, V, C, H, W) uint8.

    Smooth blobs in 1..255 on a disc, 0 = background outside.
    """
    rng, size = np.random.default_rng(seed), config.views.size
    shape = (count, len(config.views.yaws), config.model.channels)
    cells = rng.integers(1, 256, (*shape, 8, 8))
    step = -(-size // 8)
    smooth = cells.repeat(step, axis=-2).repeat(step, axis=-1)[..., :size, :size]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.where(np.hypot(x, y) < 0.45 * size, smooth, 0).astype(np.uint8)


def with_gap(views: np.ndarray) -> np.ndarray:
    """(n, V, C, H, W) -> a copy whose second capture lacks its last view, which devices meet too; as it is with V = 1."""
    views = views.copy()
    if views.shape[1] > 1:
        views[1, -1] = 0
    return views


def torch_embeddings(model: "SmileModel", views: np.ndarray, config: SmileConfig) -> np.ndarray:
    """What the project's evaluation says: (n, V, C, H, W) uint8 -> (n, D) float32 of unit length."""
    from smile.evaluation import encode, unit

    captures: Any = SimpleNamespace(gather=lambda rows, modalities: views[rows])
    return unit(encode(model, captures, np.arange(len(views)), config)[1])


def onnx_embeddings(file: bytes, views: np.ndarray, *, batch: int, precision: str = "fp32") -> np.ndarray:
    """What ONNX Runtime says of the same views, `batch` captures at a time: (n, D) float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"], disabled_optimizers=SKIPPED.get(precision)
    )
    parts = [
        session.run(None, {"views": views[start : start + batch].astype(np.float32)})[0]
        for start in range(0, len(views), batch)
    ]
    return np.concatenate(parts)


def compare(
    file: bytes,
    views: np.ndarray,
    reference: np.ndarray,
    *,
    precision: str,
    text: np.ndarray,
    scale: float,
    batches: Sequence[int] = BATCHES,
) -> dict[str, Any]:
    """The parity report of one ONNX file, plain data, as ONNX Runtime runs it on a CPU.

    views: (n, V, C, H, W) uint8; reference: (n, D) torch embeddings; text: (K, D) class embeddings; scale: inverse
    temperature. `verdict` is pass only when every figure at every batch size is within TOLERANCES of the precision.
    """
    each = {
        str(batch): figures(
            onnx_embeddings(file, views, batch=batch, precision=precision), reference, text=text, scale=scale
        )
        for batch in batches
    }
    tolerance, finite = TOLERANCES[precision], bool(np.isfinite(reference).all())
    worst = {
        name: (max if name in MOST else min)(found[name] for found in each.values())
        for name in next(iter(each.values()))
    }
    return {
        "verdict": "pass" if finite and all(within(found, tolerance) for found in each.values()) else "fail",
        "tolerance": tolerance,
        "captures": len(views),
        "reference_is_finite": finite,
        **worst,
        "batches": each,
    }


def said(report: dict[str, Any]) -> str:
    """The figures that count, each with its limit, as one sentence."""
    if not report["reference_is_finite"]:
        return "torch itself gives NaN or infinite embeddings"
    return summary(report, report["tolerance"])
