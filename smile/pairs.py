"""Which pictures the correlation losses compare: two views of a capture, two frames of a film, two captures of one sentence.

B batch, V views, P pairs, D embedding.
"""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .losses import Targets


def pictures(
    z: torch.Tensor, *, mask: torch.Tensor | None, partner: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The P pairs of pictures that the decorrelation compares: a and b (B, P, D), and (B, P) bool, where both are there.

    z: (B, V, D); mask and partner as there. The views u < v in the order of `torch.triu_indices`, b of the partner; of a
    single view the one pair is with another capture's.
    """
    first, second = view_pairs(z)
    other = z if partner is None else z[partner]
    seen = torch.ones_like(z[..., 0], dtype=torch.bool) if mask is None else mask
    both = seen[:, first] & (seen if partner is None else seen[partner])[:, second]
    if z.shape[1] == 1:
        rows = torch.arange(len(z), device=z.device)
        both = both & (rows != (rows if partner is None else partner)).unsqueeze(1)
    return z[:, first], other[:, second], both


def view_pairs(z: torch.Tensor) -> torch.Tensor:
    """(B, V, D) -> (2, P) int64: the views u < v, or (0, 0) of a single one."""
    views = z.shape[1]
    return torch.triu_indices(views, views, min(1, views - 1), device=z.device)


def partners(kind: str, targets: "Targets") -> torch.Tensor | None:
    """(B,) int: which capture gives the second picture of each; None with `views`, where it is always the same capture.

    frames: another frame of the sequence. sentences: another capture with the same sentence, of another subject where there
    is one. It is the next such row of the batch, round the corner; a row without one is its own partner.
    """
    if kind == "views":
        return None
    rows = torch.arange(len(targets.classes), device=targets.classes.device)
    steps = (rows[None, :] - rows[:, None] - 1) % len(rows)  # 0 for the next row, B - 1 for the row itself
    if kind == "frames":
        fits = same(targets.sequences)
    else:
        fits = same(targets.classes) & (targets.classes >= 0)
        steps = steps + len(rows) * same(targets.subjects)
    return steps.masked_fill(~fits & (rows[None, :] != rows[:, None]), 3 * len(rows)).argmin(dim=1)


def same(ids: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """(B,), (K,) or the same again -> (B, K) bool, where two are equal."""
    return ids[:, None] == (ids if others is None else others)[None, :]
