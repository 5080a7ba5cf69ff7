"""Does the ONNX file say what torch says? A verdict, not a warning.

n golden captures, V views, C channels, H W pixels, D joint embedding, K classes.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from smile.config import SmileConfig

if TYPE_CHECKING:
    from smile.model import SmileModel

TOLERANCE = 1e-4  # absolute, fp32, of embedding and of logits
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


def onnx_embeddings(file: bytes, views: np.ndarray, *, batch: int) -> np.ndarray:
    """What ONNX Runtime says of the same views, `batch` captures at a time: (n, D) float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    parts = [
        session.run(None, {"views": views[start : start + batch].astype(np.float32)})[0]
        for start in range(0, len(views), batch)
    ]
    return np.concatenate(parts)


def compare(
    file: bytes, views: np.ndarray, reference: np.ndarray, *, text: np.ndarray, scale: float
) -> dict[str, Any]:
    """The parity report, plain data.

    file: serialised ONNX; views: (n, V, C, H, W) uint8; reference: (n, D) torch embeddings; text: (K, D) class
    embeddings; scale: inverse temperature. `verdict` is pass only when every difference at every batch size is at
    most TOLERANCE.
    """
    expected = scale * reference @ text.T
    batches, passed = {}, bool(np.isfinite(reference).all())
    for batch in BATCHES:
        embedding = onnx_embeddings(file, views, batch=batch)
        logits = scale * embedding @ text.T
        figures = {
            "embedding": float(np.abs(embedding - reference).max()),
            "logits": float(np.abs(logits - expected).max()),
            "same_class": float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        }
        # NaN compares false, so a difference that is no number fails.
        passed &= figures["embedding"] <= TOLERANCE and figures["logits"] <= TOLERANCE
        batches[str(batch)] = figures
    worst = [figures[key] for figures in batches.values() for key in ("embedding", "logits")]
    return {
        "verdict": "pass" if passed else "fail",
        "precision": "fp32",
        "tolerance": TOLERANCE,
        "captures": len(views),
        "reference_is_finite": bool(np.isfinite(reference).all()),
        "max_abs": float(np.max(worst)),
        "batches": batches,
    }
