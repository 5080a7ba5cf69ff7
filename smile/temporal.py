"""What time alone teaches about a sequence: which frame comes first, which is further from rest, and pooling over frames.

B batch (frames of several sequences), P pairs of frames of one sequence, S sequences, T frames, D joint embedding. Times are 0 to 1
within a sequence, NaN where unknown. Ours, not of the SMILE-VLM paper.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .config import SmileConfig
from .losses import Targets, alignment, full_precision
from .model import attend

EPSILON = 1e-5
MARGIN = 0.1  # by which the frame further from rest must lead; embeddings have unit length
_WAVES = 3  # time is seen as sine and cosine of half a turn, one turn and two turns over the sequence


def build_heads(config: SmileConfig, dim: int) -> nn.ModuleDict:
    """The trainable pieces that the settings ask for: `order`, `intensity`, and `pool` where frames are drawn together."""
    heads = nn.ModuleDict()
    if config.objective.order:
        # Without biases and with tanh the head is odd: swapping two frames flips its answer, so it cannot guess a side.
        heads["order"] = nn.Sequential(
            nn.Linear(dim, 64, bias=False), nn.Tanh(), nn.Linear(64, 1, bias=False)
        )
    if config.objective.intensity:
        heads["intensity"] = nn.Linear(dim, 1, bias=False)
    if config.training.frames > 1:
        heads["pool"] = TemporalPool(dim)
    return heads


@full_precision
def order_loss(
    fused: torch.Tensor, sequences: torch.Tensor, times: torch.Tensor, head: nn.Module
) -> torch.Tensor:
    """Binary cross-entropy of telling, from the difference of two frames' embeddings, that the later one is later.

    fused: (B, D); sequences: (B,) int; times: (B,); head: odd, (P, D) -> (P, 1). Mean over all pairs of one sequence with
    different known times; 0 where there is none. On a sequence that rises and falls again a direction alone decides little:
    use it with films that end at the apex, or expect ln 2.
    """
    earlier, later = _pairs(sequences, times[:, None] < times[None, :])
    unit = F.normalize(fused, dim=1, eps=EPSILON)
    return _mean(F.softplus(-head(unit[later] - unit[earlier])))


@full_precision
def intensity_loss(
    fused: torch.Tensor,
    sequences: torch.Tensor,
    times: torch.Tensor,
    head: nn.Module,
    *,
    apex: float | torch.Tensor = 0.5,
) -> torch.Tensor:
    """Margin ranking: of two frames on one side of the apex, the one nearer to the apex shows more.

    fused: (B, D); sequences: (B,) int; times: (B,); head: (B, D) -> (B, 1), the intensity; apex: time of the strongest frame, one
    for all or (B,) of each frame's sequence. That rest lies at both ends and the apex in the middle is a weak assumption: it
    fits posed films (neutral, apex, neutral), not talk. Frames on different sides are not compared. 0 where there is no pair.
    """
    rising, falling = times <= apex, times >= apex
    sides = (rising[:, None] & rising[None, :]) | (falling[:, None] & falling[None, :])
    distance = (times - apex).abs()
    more, less = _pairs(sequences, sides & (distance[:, None] < distance[None, :]))
    shown = head(F.normalize(fused, dim=1, eps=EPSILON))
    return _mean(F.relu(MARGIN - (shown[more] - shown[less])))


def by_sequence(
    fused: torch.Tensor, sequences: torch.Tensor, times: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames in a batch -> frames of each sequence, for `TemporalPool`.

    fused: (B, D), or (B,) anything else of each frame; sequences: (B,) int; times: (B,). Returns frames (S, T, D), times (S, T),
    mask (S, T) bool, and first (S,) int, a row of the batch for each sequence, by increasing number of the sequence.
    """
    _, group, counts = sequences.unique(return_inverse=True, return_counts=True)
    order, starts = group.argsort(stable=True), counts.cumsum(0) - counts
    place = torch.arange(len(order), device=order.device) - starts[group[order]]
    mask = torch.arange(int(counts.max()), device=order.device) < counts[:, None]
    index = torch.zeros_like(mask, dtype=torch.long).index_put((group[order], place), order)
    return fused[index], times[index], mask, order[starts]


@full_precision
def pooled_alignment(
    fused: torch.Tensor,
    mask: torch.Tensor | None,
    targets: Targets,
    scale: torch.Tensor,
    pool: nn.Module,
    *,
    graded: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """l(pool), the alignment of the pooled sequences of a batch with their sentences, and its floor; weight 1, like l(fused).

    fused: (B, D); mask: (B, N) bool, frames without any token stay out. The sentence of a sequence is that of its first row
    in the batch which has pictures and a sentence: the loader shuffles, so no part of a film is preferred. 0, both, with
    fewer than two such sequences.
    """
    each = torch.arange(len(fused), device=fused.device)
    rows, times, there, _ = by_sequence(each, targets.sequences, targets.times)
    if mask is not None:
        there = there & mask.any(dim=1)[rows]
    told = there & (targets.classes[rows] >= 0)
    chosen = rows.gather(1, told.to(torch.uint8).argmax(dim=1, keepdim=True)).squeeze(1)
    classes = torch.where(told.any(dim=1), targets.classes[chosen], -1)
    pooled = pool(fused[rows], times, there)
    enough = (classes >= 0).sum() >= 2
    loss, floor = alignment(
        pooled, targets.text[chosen], classes, scale, graded=graded, expressions=targets.expressions
    )
    return torch.where(enough, loss, 0), torch.where(enough, floor, 0)


def _pairs(sequences: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,), (B, B) bool -> two (P,) int: rows i, j of one sequence with wanted[i, j]. NaN compares false, so it takes no part."""
    first, second = ((sequences[:, None] == sequences[None, :]) & wanted).nonzero(as_tuple=True)
    return first, second


def _mean(losses: torch.Tensor) -> torch.Tensor:
    return losses.sum() / max(1, losses.numel())


class TemporalPool(nn.Module):
    """alpha_t = softmax_t(w . tanh(W z_t + U phi(time_t))); pooled = sum_t alpha_t z_t. It starts from the plain mean.

    kind `mean` is the ablation. phi: sine and cosine of the time within the sequence, 0 where it is unknown.
    """

    def __init__(self, dim: int, kind: str = "attention") -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.key = nn.Linear(dim, dim, bias=False)
            self.time = nn.Linear(2 * _WAVES, dim, bias=False)
            self.query = nn.Parameter(torch.zeros(dim))

    def forward(
        self, frames: torch.Tensor, times: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """frames: (S, T, D); times: (S, T); mask: (S, T) bool, True where a frame is -> (S, D), 0 for a sequence without frames."""
        if self.kind == "mean":
            return attend(frames, frames.new_zeros(*frames.shape[:2], 1), mask)
        angles = math.pi * times.unsqueeze(-1) * 2.0 ** torch.arange(_WAVES, device=times.device)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).nan_to_num(nan=0.0).to(frames.dtype)
        score = torch.tanh(self.key(frames) + self.time(waves)) @ self.query
        return attend(frames, score.unsqueeze(-1), mask)
