"""The losses of related systems on the same pieces, each an option beside the objective; formulas: docs/method.md, section 7.

B batch, N tokens (views), D joint embedding. Names and ideas are theirs; sums are means here, so that weights do not depend on the
batch. `unit` rows throughout: their similarity is the cosine. Every loss: (encoding, targets, scale, heads) -> scalar.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from .config import SmileConfig
from .losses import EPSILON, Targets, cosines, inverse_length

if TYPE_CHECKING:
    from .model import Encoding

MARGINS = (0.1, 0.9)  # AffectVLM: the range that the learned margin may not leave; ours
CLUSTERS = 16  # ConCluGen: published range 2 to 128
DELTA = 0.001  # ConCluGen, published code
MOMENTUM = 0.9  # of the centroids; ours


def build_heads(config: SmileConfig, width: int) -> nn.ModuleDict:
    """What the settings' temporal and sibling losses train beside the model. width: D, of the joint embedding."""
    from .temporal import build_heads as temporal_heads

    heads = temporal_heads(config, width)
    apart = len(config.model.modalities) if config.model.streams == "apart" else 1
    if config.objective.sibling == "affectvlm":
        heads["margin"] = Margin()
    if config.objective.sibling == "conclugen":
        heads["centroids"] = Centroids(width)
        heads["reconstruct"] = nn.Linear(width, (len(config.views.yaws) * apart + 1) * width)
    return heads


def affectvlm(
    encoding: "Encoding", targets: Targets, scale: torch.Tensor, heads: nn.ModuleDict
) -> torch.Tensor:
    """L_mc + L_mt of AffectVLM over all pictures. It looks at the classes: with labels as prompts it is supervised.

    L_mc: mean of 1 - cos over pairs of one class plus mean of max(0, cos - margin) over pairs of two. L_mt: mean over anchors of
    max(0, |a - p|^2 - |a - n|^2 + margin) with the farthest p of the class and the nearest n of another (our choice of triplets).
    """
    z, seen = _pictures(encoding)
    classes = targets.classes.repeat_interleave(encoding.views.shape[1])
    seen, margin = seen & (classes >= 0), heads["margin"]()
    similarity = cosines(z, z)
    pair = seen[:, None] & seen[None, :] & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    same = classes[:, None] == classes[None, :]
    near, far = pair & same, pair & ~same
    contrast = _mean(1 - similarity, near) + _mean(F.relu(similarity - margin), far)
    hardest = similarity.masked_fill(~near, 2).amin(dim=1), similarity.masked_fill(~far, -2).amax(dim=1)
    # |a - p|^2 - |a - n|^2 = 2 (cos_an - cos_ap) between unit vectors.
    triplets = F.relu(2 * (hardest[1] - hardest[0]) + margin)
    return contrast + _mean(triplets, near.any(dim=1) & far.any(dim=1))


def multiviewvlm(
    encoding: "Encoding", targets: Targets, scale: torch.Tensor, heads: nn.ModuleDict
) -> torch.Tensor:
    """L_image-to-text + L_text-to-image of MultiviewVLM: softmax over cosine x scale, several positives.

    Positive: all pictures of the same subject and class. Pictures of another subject with the same class are neither positive nor
    negative, for their sentence says the same: our reading of its stable sampling of positives and negatives.
    """
    z, seen = _pictures(encoding)
    views = encoding.views.shape[1]
    classes, subjects = (x.repeat_interleave(views) for x in (targets.classes, targets.subjects))
    told = targets.classes >= 0
    same = classes[:, None] == targets.classes[None, :]
    positive = same & (subjects[:, None] == targets.subjects[None, :])
    there = (seen & (classes >= 0))[:, None] & told[None, :]
    logits = scale * cosines(z, targets.text)
    part, positive = there & (positive | ~same), there & positive
    hidden = logits.masked_fill(~part, torch.finfo(logits.dtype).min)
    total = torch.zeros_like(logits[0, 0])
    for dim in (1, 0):
        count = positive.sum(dim=dim)
        matched = torch.where(positive, logits, 0).sum(dim=dim) / count.clamp(min=1)
        total = total + _mean(hidden.logsumexp(dim=dim) - matched, count > 0)
    return total


def facet(encoding: "Encoding", targets: Targets, scale: torch.Tensor, heads: nn.ModuleDict) -> torch.Tensor:
    """Multi-view consistency: mean of 1 - cos(z_v, fused). FACET-VLM states such a loss, not its formula: our reading."""
    z, seen = _pictures(encoding)
    views = encoding.views.shape[1]
    similarity = (_unit(z) * _unit(encoding.fused).repeat_interleave(views, dim=0)).sum(dim=1)
    return _mean(1 - similarity, seen)


def conclugen(
    encoding: "Encoding", targets: Targets, scale: torch.Tensor, heads: nn.ModuleDict
) -> torch.Tensor:
    """L_clu + L_rec of ConCluGen; its contrastive term is our alignment.

    L_clu: cross-entropy of each capture's cosines with the centroids, less DELTA at its own. L_rec: mean squared error of
    telling sentence and pictures, as unit vectors x sqrt(D) and without gradient, linearly from the fused embedding.
    """
    fused, (pictures, seen) = _unit(encoding.fused), _pictures(encoding)
    batch, views, dim = encoding.views.shape
    there = seen.view(batch, views)
    rows = there.any(dim=1)
    centroids, own = heads["centroids"](fused.detach(), rows)
    logits = fused @ centroids.T - DELTA * F.one_hot(own, len(centroids))
    clusters = _mean(-logits.log_softmax(dim=1).gather(1, own[:, None])[:, 0], rows)
    wanted = torch.cat([targets.text.unsqueeze(1), pictures.view(batch, views, dim)], dim=1).detach()
    found = heads["reconstruct"](fused).view_as(wanted)
    error = (found - dim**0.5 * _unit(wanted)).square().mean(dim=2)
    return clusters + _mean(
        error, torch.cat([(targets.classes >= 0).unsqueeze(1), there], 1) & rows.unsqueeze(1)
    )


LOSSES = {"affectvlm": affectvlm, "multiviewvlm": multiviewvlm, "facet": facet, "conclugen": conclugen}


def _pictures(encoding: "Encoding") -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures of a batch (B x N, D), 0 where one is missing, and which are there (B x N,) bool."""
    z, mask = encoding.views.flatten(0, 1), encoding.mask
    if mask is None:
        return z, torch.ones_like(z[:, 0], dtype=torch.bool)
    return torch.where(mask.flatten().unsqueeze(1), z, 0), mask.flatten()


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * inverse_length(x).unsqueeze(-1)


def _mean(values: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    return torch.where(taken, values, 0).sum() / taken.sum().clamp(min=1)


class Margin(nn.Module):
    """A learned number between MARGINS. A sigmoid instead of a hard clamp: at a bound it can still turn back."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.zeros(()))

    def forward(self) -> torch.Tensor:
        return MARGINS[0] + (MARGINS[1] - MARGINS[0]) * self.free.sigmoid()


class Centroids(nn.Module):
    """Cosine k-means, a step of it each batch.

    ConCluGen clusters a queue of past features, a list of embeddings of single people; here the centroids themselves are the memory.
    Still they are embeddings: one that a single capture moved points at it. So they never leave a site (`smile.tuning.shared_names`)
    and no checkpoint holds them: every round of a federation starts from those of the seed, a resumed run from its own state.
    """

    centroids: torch.Tensor

    def __init__(self, dim: int, clusters: int = CLUSTERS) -> None:
        super().__init__()
        self.register_buffer("centroids", F.normalize(torch.randn(clusters, dim), dim=1))

    @torch.no_grad()
    def forward(self, unit: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """unit: (B, D); rows: (B,) bool, what counts -> centroids (K, D) after the step, and the nearest of each row (B,) int.

        A centroid that no row is near moves towards the row that its own centroid fits worst.
        """
        similarity = unit @ self.centroids.to(unit.dtype).T
        best, own = similarity.max(dim=1)
        member = (F.one_hot(own, len(self.centroids)) * rows.unsqueeze(1)).to(unit.dtype)
        worst = unit[best.masked_fill(~rows, 2).argmin()]
        idle = (member.sum(dim=0) == 0).unsqueeze(1)
        mean = torch.where(idle, worst, member.T @ unit / member.sum(dim=0).clamp(min=1).unsqueeze(1))
        moved = MOMENTUM * self.centroids + (1 - MOMENTUM) * F.normalize(mean, dim=1, eps=EPSILON)
        if self.training:
            self.centroids.copy_(torch.where(rows.any(), F.normalize(moved, dim=1), self.centroids))
        centroids = self.centroids.to(unit.dtype).clone()
        return centroids, (unit @ centroids.T).argmax(dim=1)
