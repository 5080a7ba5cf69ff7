"""The three losses of SMILE-VLM as plain functions, and their weighted sum with named parts.

B batch, V views, D embedding. Reconstruction from the paper's abstract: docs/method.md states each formula.
"""

from itertools import combinations

import torch
import torch.nn.functional as F

from .config import ObjectiveConfig
from .model import Encoding

EPSILON = 1e-5


def standardise(x: torch.Tensor) -> torch.Tensor:
    """(B, D) -> zero mean and unit (biased) variance per feature; a constant feature becomes 0."""
    centred = x.float() - x.float().mean(dim=0)
    return centred / (centred.square().mean(dim=0) + EPSILON).sqrt()


def cross_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(B, D), (B, E) -> (D, E): correlation of each feature of `a` with each of `b` over the batch."""
    return standardise(a).T @ standardise(b) / len(a)


def decorrelation(z: torch.Tensor, *, off_diagonal: float, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Multi-view decorrelation: the Barlow Twins loss averaged over all view pairs.

    z: (B, V, D); mask: (B, V) bool. A pair counts only the samples that have both views, and only where there
    are two of them. Returns a scalar, 0 where no pair can be formed.
    """
    losses = []
    for u, v in combinations(range(z.shape[1]), 2):
        both = slice(None) if mask is None else mask[:, u] & mask[:, v]
        a, b = z[both, u], z[both, v]
        if len(a) < 2:
            continue
        correlation = cross_correlation(a, b)
        diagonal = correlation.diagonal()
        losses.append(
            (1 - diagonal).square().sum()
            + off_diagonal * (correlation.square().sum() - diagonal.square().sum())
        )
    return torch.stack(losses).mean() if losses else z.sum() * 0


def alignment(
    a: torch.Tensor, text: torch.Tensor, classes: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE with every sample of the same class as a positive.

    a, text: (B, D); classes: (B,) int; scale: inverse temperature. Returns a scalar, never below `entropy(classes)`.
    """
    logits = (
        scale * F.normalize(a.float(), dim=1, eps=EPSILON) @ F.normalize(text.float(), dim=1, eps=EPSILON).T
    )
    target = positives(classes)
    return -0.5 * (target * (logits.log_softmax(dim=1) + logits.T.log_softmax(dim=1))).sum(dim=1).mean()


def positives(classes: torch.Tensor) -> torch.Tensor:
    """q_ij = [c_i = c_j] / |{m : c_m = c_i}|, (B, B) float32: rows sum to 1."""
    same = (classes[:, None] == classes[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def entropy(classes: torch.Tensor) -> torch.Tensor:
    """H(q), the least value that `alignment` can take; it depends on batch and class mix (method.md, trap 6)."""
    return (classes[:, None] == classes[None, :]).float().sum(dim=1).log().mean()


def redundancy(a: torch.Tensor, text: torch.Tensor, *, reading: str) -> torch.Tensor:
    """Cross-modal redundancy: mean squared correlation of image features with *other* text features.

    a: (B, D); text: (B, D). reading: `off-diagonal`, or `full` that also punishes the diagonal.
    """
    square = cross_correlation(a, text).square()
    if reading == "full":
        return square.mean()
    dim = len(square)
    return (square.sum() - square.diagonal().sum()) / (dim * (dim - 1))


def objective(
    encoding: Encoding,
    text: torch.Tensor,
    classes: torch.Tensor,
    scale: torch.Tensor,
    config: ObjectiveConfig,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum and its named, detached parts.

    text: (B, D), the sentence of each sample; classes: (B,) int, -1 for a sample without a sentence.
    Parts: loss, decorrelation, alignment (above its floor), redundancy, redundancy_skipped.
    """
    zero = encoding.fused.sum() * 0
    mv = decorrelation(encoding.views, off_diagonal=config.off_diagonal, mask=mask)
    paired = classes >= 0
    vl = floor = cm = zero
    skipped = torch.ones(())
    if int(paired.sum()) >= 2:
        fused, t, c = encoding.fused[paired], text[paired], classes[paired]
        floor = entropy(c)
        vl = alignment(fused, t, c, scale)
        if config.view_alignment:
            per_view = _view_alignment(
                encoding.views[paired], t, c, scale, None if mask is None else mask[paired]
            )
            vl, floor = vl + config.view_alignment * per_view[0], floor + config.view_alignment * per_view[1]
        # One sentence in the whole batch: the text does not vary and has no correlation (method.md, trap 2).
        if bool((t != t[0]).any()):
            cm, skipped = redundancy(fused, t, reading=config.redundancy_reading), torch.zeros(())
    loss = config.decorrelation * mv + config.alignment * vl + config.redundancy * cm
    parts = {
        "loss": loss,
        "decorrelation": mv,
        "alignment": vl - floor,
        "redundancy": cm,
        "redundancy_skipped": skipped,
    }
    return loss, {name: value.detach() for name, value in parts.items()}


def _view_alignment(
    z: torch.Tensor,
    text: torch.Tensor,
    classes: torch.Tensor,
    scale: torch.Tensor,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over the views of the alignment and of its floor; a view with fewer than two samples is left out."""
    losses, floors = [z.sum() * 0], [z.new_zeros(())]
    for v in range(z.shape[1]):
        rows = torch.ones(len(z), dtype=torch.bool, device=z.device) if mask is None else mask[:, v]
        if int(rows.sum()) >= 2:
            losses.append(alignment(z[rows, v], text[rows], classes[rows], scale))
            floors.append(entropy(classes[rows]))
    count = max(1, len(losses) - 1)
    return torch.stack(losses).sum() / count, torch.stack(floors).sum() / count
