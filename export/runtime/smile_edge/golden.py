"""Does this engine say what torch said? The golden captures of a bundle, and the tolerance of a precision.

n captures, V views, C channels, H W pixels, D joint embedding, K classes.
"""

import io
from pathlib import Path

import numpy as np

from .files import GOLDEN, read_checked

MOST = ("embedding", "logits")  # a tolerance is the most of these, and the least of the others


def read_golden(bundle: Path, sums: dict[str, str], precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Views (n, V, C, H, W) uint8 and embeddings (n, D) of them: torch's, or of int8 ONNX Runtime's on the build machine.

    INT8 was compared with torch there, on views of faces; golden views may be none, and it was not made for these.
    """
    with np.load(io.BytesIO(read_checked(bundle, GOLDEN, sums)), allow_pickle=False) as golden:
        name = f"embedding_{precision}"
        return golden["views"], golden[name if name in golden else "embedding"]


def figures(found: np.ndarray, expected: np.ndarray, *, text: np.ndarray, scale: float) -> dict[str, float]:
    """How two sets of embeddings (n, D) differ, and the answers that follow from the classes `text` (K, D) at `scale`.

    embedding, logits: the largest absolute difference; cosine: the smallest; same_class: share of captures.
    """
    logits, wanted = scale * found @ text.T, scale * expected @ text.T
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(axis=1) / np.maximum(lengths, 1e-12)
    cosines[~found.any(axis=1) & ~expected.any(axis=1)] = 1.0  # captures without a view
    return {
        "embedding": float(np.abs(found - expected).max()),
        "logits": float(np.abs(logits - wanted).max()),
        "cosine": float(cosines.min()),
        "same_class": float((logits.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
    }


def within(found: dict[str, float], tolerance: dict[str, float]) -> bool:
    """Whether every figure that the tolerance names is good enough; NaN never is. KeyError for a figure that is none."""
    return bool(tolerance) and all(
        found[name] <= limit if name in MOST else found[name] >= limit for name, limit in tolerance.items()
    )


def summary(found: dict[str, float], tolerance: dict[str, float]) -> str:
    """The figures that count, each with its limit."""
    return ", ".join(
        f"{name.replace('_', ' ')} {found[name]:.6g} ({'at most' if name in MOST else 'at least'} {limit:g})"
        for name, limit in tolerance.items()
    )
