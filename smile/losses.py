"""The losses of SMILE-VLM as plain functions, and their weighted sum with named parts.

B batch, V views, N tokens (views, or views x modalities), D embedding. Reconstruction from the paper's abstract: docs/method.md states
each formula. Every loss takes fp16 and bf16 in and computes in float32, float64 in float64, also inside autocast. Rows that
take no part are masked, not cut out: shapes follow from the input alone, and a GPU never waits for the processor.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import nn

from .config import ObjectiveConfig
from .pairs import partners, pictures, same, view_pairs
from .ranks import of_all_ranks

if TYPE_CHECKING:
    from .model import Encoding
    from .moments import Shared, Whole

EPSILON = 1e-5
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


class Targets(NamedTuple):
    """What a batch of captures is compared with."""

    text: torch.Tensor  # (B, D) float32 unit rows: the sentence of each capture, any value without one
    classes: torch.Tensor  # (B,) int64: equal where sentences mean the same; -1: no sentence
    subjects: torch.Tensor  # (B,) int64
    sequences: torch.Tensor  # (B,) int64
    times: torch.Tensor  # (B,) float32, 0..1 within the sequence, NaN unknown
    negatives: torch.Tensor | None = None  # (B, K, D) float32: the sentence with one changed fact (critic)
    expressions: torch.Tensor | None = None  # (K, D) float32: a sentence of each of the classes 0 to K - 1


def full_precision(loss: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """The same function, computed in float32 (float64 where given) whatever goes in and whatever autocast wishes."""

    @wraps(loss)
    def widened(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        first: Any = args[0]
        device = (first if isinstance(first, torch.Tensor) else first.fused).device.type
        wide: Any = [_widen(value) for value in args]
        with torch.autocast(device, enabled=False):
            return loss(*wide, **kwargs)

    return widened


def _widen(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    return value._make(map(_widen, value)) if hasattr(value, "_make") else value


def standardise(x: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """(B, V, D) -> zero mean and unit (biased) variance over the batch; a constant feature becomes 0.

    rows: (B, V) bool, what counts; the rest becomes 0, NaN or not.
    """
    if rows is None:
        # The normalisation of BatchNorm as one kernel, without running statistics: nothing of it is kept or sent.
        flat = torch.batch_norm(x.flatten(1), None, None, None, None, True, 0.0, EPSILON, True)
        return flat.view_as(x)
    there = rows.unsqueeze(-1)
    count = there.sum(dim=0).clamp(min=1)
    mean = torch.where(there, x, 0).sum(dim=0) / count
    centred = torch.where(there, x - mean, 0)
    return centred * (centred.square().sum(dim=0) / count + EPSILON).rsqrt()


def correlations(
    a: torch.Tensor, b: torch.Tensor, first: torch.Tensor, second: torch.Tensor, count: torch.Tensor | int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of C = a_first^T b_second / count, for each of P pairs: the sum of all squares (P,) and the diagonal (P, D).

    a, b: (B, V, D) standardised; first, second: (P,) int, which view of `a` and of `b`; count: (P,) or int, rows that count.
    With fewer samples than features C is never formed: |a^T b|^2 = <a a^T, b b^T>, products of B x B instead of D x D.
    """
    if a.shape[0] < a.shape[2]:
        diagonal = (a.index_select(1, first) * b.index_select(1, second)).sum(dim=0).T / count
        gram = a.transpose(0, 1) @ a.permute(1, 2, 0)
        other = gram if b is a else b.transpose(0, 1) @ b.permute(1, 2, 0)
        product = gram.index_select(0, first) * other.index_select(0, second)
        return product.sum(dim=(1, 2)) / count**2, diagonal.T
    c = a.index_select(1, first).permute(1, 2, 0) @ b.index_select(1, second).transpose(0, 1)
    return c.square().sum(dim=(1, 2)) / count**2, (c.diagonal(dim1=1, dim2=2).T / count).T


@full_precision
def decorrelation(
    z: torch.Tensor,
    *,
    off_diagonal: float,
    mask: torch.Tensor | None = None,
    partner: torch.Tensor | None = None,
    shared: "Whole | None" = None,
) -> torch.Tensor:
    """Multi-view decorrelation: the Barlow Twins loss averaged over all view pairs u < v.

    z: (B, V, D); mask: (B, V) bool. A pair counts only the samples that have both views, and only where there are two of
    them. partner: (B,) int, the capture that gives the second picture (`partners`); None: the same. A single view pairs
    with that of the partner. shared: the correlations are those of all sites, and one capture is enough.
    Returns a scalar, 0 where no pair can be formed. Bounds: method.md, trap 5.
    """
    batch, views, _ = z.shape
    if mask is not None:
        z = torch.where(mask.unsqueeze(-1), z, 0)
    if shared is not None:
        found = shared.correlations(*pictures(z, mask=mask, partner=partner))
        return _mean(_barlow(*found, off_diagonal), shared.both >= 2)
    if batch < 2 or (views < 2 and partner is None):
        return z.sum() * 0
    if mask is None and views > 1:
        other = z if partner is None else z[partner]
        a = standardise(z)
        b = a if partner is None else standardise(other)
        first, second = view_pairs(z)
        return _barlow(*correlations(a, b, first, second, batch), off_diagonal).mean()
    a, b, both = pictures(z, mask=mask, partner=partner)
    each, count = torch.arange(both.shape[1], device=z.device), both.sum(dim=0)
    a, b = standardise(a, both), standardise(b, both)
    return _mean(_barlow(*correlations(a, b, each, each, count.clamp(min=1)), off_diagonal), count >= 2)


def _barlow(squares: torch.Tensor, diagonal: torch.Tensor, off_diagonal: float) -> torch.Tensor:
    """(P,), (P, D) -> (P,): sum_k (1 - C_kk)^2 + off_diagonal x the sum of the other squares."""
    return (1 - diagonal).square().sum(dim=1) + off_diagonal * (squares - diagonal.square().sum(dim=1))


def inverse_length(x: torch.Tensor) -> torch.Tensor:
    """(..., D) -> (...) 1 / |x|. Below EPSILON it is 0: such a row has no direction, and its gradient would be without bounds."""
    length = torch.linalg.vector_norm(x, dim=-1)
    return torch.where(length > EPSILON, 1 / length.clamp(min=EPSILON), 0)


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., B, D), (..., M, D) -> (..., B, M); 0 with a row of zeros."""
    return a @ (b * inverse_length(b).unsqueeze(-1)).mT * inverse_length(a).unsqueeze(-1)


@full_precision
def alignment(
    a: torch.Tensor,
    text: torch.Tensor,
    classes: torch.Tensor,
    scale: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    graded: bool = False,
    expressions: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric InfoNCE with every sample of the same class as a positive; -> the loss, and its floor, the mean entropy of q.

    a: (B, D), or (B, S, D) for S pictures of each sample, each compared on its own; text: (B, D); classes: (B,) int, -1 takes
    no part; scale: inverse temperature; mask: (B, S) bool, which pictures are there. Both results are () or (S,) as `a` is;
    0 where nothing takes part. graded: a sentence is a positive as far as it says the same (`likeness`). expressions: (K, D), a
    sentence of each of the classes 0 to K - 1: a picture is told from those of which the batch has none, too (`_absent`).
    """
    if a.dim() == 2:
        mask = None if mask is None else mask.unsqueeze(1)
        loss, floor = alignment(
            a.unsqueeze(1), text, classes, scale, mask=mask, graded=graded, expressions=expressions
        )
        return loss[0], floor[0]
    if mask is not None:
        a = torch.where(mask.unsqueeze(-1), a, 0)
    unit = text * inverse_length(text).unsqueeze(1)
    rows, pair = takes_part(classes, mask)
    least = torch.finfo(unit.dtype).min
    logits = a @ unit.T * (scale * inverse_length(a)).unsqueeze(2)
    hidden = logits.masked_fill(~pair, least)
    sentences = hidden
    if expressions is not None:
        sentences = torch.cat([hidden, _absent(a, expressions, classes, rows, scale)], dim=2)
    total = 0.5 * (sentences.logsumexp(dim=2) + hidden.logsumexp(dim=0).T)
    wanted = likeness(unit, classes, scale if graded else None).unsqueeze(1).masked_fill(~pair, least)
    q = torch.where(pair, wanted.softmax(dim=2), 0)
    # (i, s, j): row i of q, wanted of picture s of i among the sentences and of sentence i among the pictures s.
    matched = 0.5 * (q * (logits + logits.permute(2, 1, 0))).sum(dim=2)
    return _mean(total - matched, rows), _mean(torch.special.entr(q).sum(dim=2), rows).expand(a.shape[1])


def _absent(
    a: torch.Tensor,
    expressions: torch.Tensor,
    classes: torch.Tensor,
    rows: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """(B, S, K) logits of the classes that no row (B, S) has, each for as many rows as it would have in a batch of all K alike.

    A site with two expressions else never learns what its pictures are not, and averaging does not make up for that.
    """
    known = same(classes, torch.arange(len(expressions), device=classes.device))
    absent = ~(known.unsqueeze(1) & rows.unsqueeze(2)).any(dim=0)
    share = rows.sum(dim=0).clamp(min=1) / len(expressions)
    logits = cosines(a, expressions) * scale + share.log().unsqueeze(1)
    return logits.masked_fill(~absent, torch.finfo(logits.dtype).min)


def takes_part(classes: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (B, S) and pairs (B, S, B) of the alignment, bool. classes: (B,) int, -1 no; mask: (B, S) bool, without it S is 1."""
    rows = (classes >= 0).unsqueeze(1)
    if mask is not None:
        rows = rows & mask
    return rows, rows.unsqueeze(2) & rows.T.unsqueeze(0)


def likeness(unit: torch.Tensor, classes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """(B, B) logits of the targets: a softmax of a row spreads it over what says the same. No gradient.

    unit: (B, D) sentences of unit length; classes: (B,). scale None: all of the same class alike, others not at all. Else
    cosine x scale, 1 within a class: what the sentence itself would get for an embedding, so that the least value is reached
    where a picture's embedding is its sentence's. Captions that differ in a shade are then no negatives of each other.
    """
    alike = same(classes)
    if scale is None:
        return torch.zeros_like(unit[:, :1]).masked_fill(~alike, torch.finfo(unit.dtype).min)
    return (torch.where(alike, 1.0, unit @ unit.T) * scale).detach()


def _mean(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Mean over the first axis of what `rows` (broadcast) lets in; 0 where that is nothing."""
    return torch.where(rows, values, 0).sum(dim=0) / rows.sum(dim=0).clamp(min=1)


@full_precision
def redundancy(
    a: torch.Tensor,
    text: torch.Tensor,
    *,
    reading: str,
    rows: torch.Tensor | None = None,
    shared: "Whole | None" = None,
) -> torch.Tensor:
    """Cross-modal redundancy: mean squared correlation of image features with *other* text features.

    a, text: (B, D); reading: `off-diagonal`, or `full` that also punishes the diagonal; rows: (B,) bool, what counts.
    shared: the correlations are those of all sites.
    """
    rows = torch.ones_like(a[:, 0], dtype=torch.bool) if rows is None else rows
    a, text, there, dim = a.unsqueeze(1), text.unsqueeze(1), rows.unsqueeze(1), a.shape[-1]
    if shared is None:
        count, zero = rows.sum().clamp(min=1), torch.zeros(1, dtype=torch.long, device=a.device)
        squares, diagonal = correlations(standardise(a, there), standardise(text, there), zero, zero, count)
    else:
        squares, diagonal = shared.correlations(a, text, there)
    if reading == "full":
        return squares[0] / dim**2
    return (squares[0] - diagonal.square().sum()) / max(1, dim * (dim - 1))


def with_sentence(encoding: "Encoding", targets: Targets) -> torch.Tensor:
    """(B,) bool: the captures that have a picture and a sentence."""
    told = targets.classes >= 0
    return told if encoding.mask is None else told & encoding.mask.any(dim=1)


def varies(text: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """() bool: whether the rows (B,) of text (B, D) hold two different sentences; else no correlation is defined (trap 2)."""
    first = text[rows.to(torch.uint8).argmax()]
    return ((text != first) & rows.unsqueeze(1)).any()


@full_precision
def critic(
    a: torch.Tensor,
    text: torch.Tensor,
    negatives: torch.Tensor,
    scale: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of telling a capture's sentence from the same sentence with one changed fact, in the spirit of ViCrit.

    a, text: (B, D); negatives: (B, K, D); scale: inverse temperature; rows: (B,) bool, what counts. Returns a scalar.
    """
    sentences = torch.cat([text.unsqueeze(1), negatives], dim=1)
    logits = scale * cosines(a.unsqueeze(1), sentences).squeeze(1)
    rows = torch.ones_like(a[:, 0], dtype=torch.bool) if rows is None else rows
    return _mean(logits.logsumexp(dim=1) - logits[:, 0], rows)


@full_precision
def objective(
    encoding: "Encoding",
    targets: Targets,
    scale: torch.Tensor,
    config: ObjectiveConfig,
    heads: nn.ModuleDict | None = None,
    shared: "Shared | None" = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum and its named, detached parts.

    Parts, unweighted unless said: loss, decorrelation, alignment (excess over its floor), redundancy, redundancy_skipped (1 where the
    sentences of the batch do not vary), temporal (weighted order + intensity), sibling, critic. heads: what a sibling or
    temporal loss trains, `smile.siblings.build_heads`.

    shared: decorrelation and redundancy are then those of the captures of all sites, and so are these two figures; the
    gradient is that of the batch's part in them, which is additive over batches and over sites (`smile.moments`).

    Several GPUs: where torch.distributed is initialised, the captures of all ranks are one batch, and every rank returns the loss of the
    whole. The mean over ranks of the gradients, which DistributedDataParallel takes, is the gradient of that loss (divide
    by the ranks where gradients are summed). All ranks must bring the same number of captures.

    Gradient accumulation: correlations and contrasts compare the samples of a batch, so they are **not** additive over
    micro-batches. Accumulating A batches of B averages A gradients of losses with B samples, less noisy, but with the
    bounds and the negatives of B (method.md, traps 5 and 6); it is not the gradient of a batch of A x B.
    """
    encoding, targets = of_all_ranks(encoding, targets)
    z, fused, mask = encoding.views, encoding.fused, encoding.mask
    paired, partner = with_sentence(encoding, targets), partners(config.pairs, targets)
    whole = (None, None) if shared is None else (shared.views, shared.text)
    zero = fused.sum() * 0
    mv = decorrelation(z, off_diagonal=config.off_diagonal, mask=mask, partner=partner, shared=whole[0])
    vl, floor = _alignments(encoding, targets, scale, config, heads)
    told = varies(targets.text, paired) if shared is None else shared.told
    reading = config.redundancy_reading
    cm = redundancy(fused, targets.text, reading=reading, rows=paired, shared=whole[1])
    cm = torch.where(told, cm, 0)
    temporal = _temporal(fused, targets, config, heads) + zero
    sibling = told_apart = zero
    if config.sibling != "none":
        from .siblings import LOSSES

        sibling = LOSSES[config.sibling](encoding, targets, scale, heads or nn.ModuleDict())
    if config.critic:
        assert targets.negatives is not None, "objective.critic needs negatives in the targets"
        told_apart = critic(fused, targets.text, targets.negatives, scale, rows=paired)
    loss = config.decorrelation * mv + config.alignment * vl + config.redundancy * cm + temporal
    loss = loss + config.sibling_weight * sibling + config.critic * told_apart
    parts = {
        "loss": loss,
        "decorrelation": mv,
        "alignment": vl - floor,
        "redundancy": cm,
        "redundancy_skipped": (~told).to(loss.dtype),
        "temporal": temporal,
        "sibling": sibling,
        "critic": told_apart,
    }
    return loss, {name: value.detach() for name, value in parts.items()}


def _alignments(
    encoding: "Encoding",
    targets: Targets,
    scale: torch.Tensor,
    config: ObjectiveConfig,
    heads: nn.ModuleDict | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """l(fused) + view_alignment x mean over the views of l(view) + l(pool) where there is a pool, and the floor of that.

    A view with fewer than two samples is left out. l(pool): `smile.temporal.pooled_alignment`.
    """
    z, mask, graded = encoding.views, encoding.mask, config.prompt_source == "geometry"
    pictures, there = encoding.fused.unsqueeze(1), None if mask is None else mask.any(dim=1, keepdim=True)
    if config.view_alignment:
        pictures = torch.cat([pictures, z], dim=1)
        there = None if there is None or mask is None else torch.cat([there, mask], dim=1)
    known = targets.expressions
    losses, floors = alignment(
        pictures, targets.text, targets.classes, scale, mask=there, graded=graded, expressions=known
    )
    used = (takes_part(targets.classes, there)[0].sum(dim=0) >= 2).to(losses.dtype).expand_as(losses)
    weight = torch.cat([used[:1], config.view_alignment * used[1:] / used[1:].sum().clamp(min=1)])
    total, floor = (weight * losses).sum(), (weight * floors).sum()
    if heads is None or "pool" not in heads:
        return total, floor
    from .temporal import pooled_alignment

    pooled, least = pooled_alignment(encoding.fused, mask, targets, scale, heads["pool"], graded=graded)
    return total + pooled, floor + least


def _temporal(
    fused: torch.Tensor, targets: Targets, config: ObjectiveConfig, heads: nn.ModuleDict | None
) -> torch.Tensor | float:
    if not config.order and not config.intensity:
        return 0.0
    from .temporal import intensity_loss, order_loss

    assert heads is not None, "objective.order and objective.intensity need the model's heads"
    total: torch.Tensor | float = 0.0
    for weight, name, loss in (
        (config.order, "order", order_loss),
        (config.intensity, "intensity", intensity_loss),
    ):
        if weight:
            total = total + weight * loss(fused, targets.sequences, targets.times, heads[name])
    return total
