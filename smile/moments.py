"""First and second moments of the embeddings of many sites, so that their correlation losses are those of the pooled captures.

P pairs of pictures: the views u < v (or the one view with that of another capture), and last picture and sentence. B batch,
D embedding. The principle is that of DCCO (arXiv 2210.00092), which states no equations; these are ours: docs/method.md.

What a site sends (`Moments`) are sums: a server adds them by name and needs neither torch nor to know a single site's, so
secure aggregation fits. What they tell whoever sees them, beside the model's weights:
- how many captures a site has, how many of them lack a view or a sentence, and from the sums over sentences, whose bank is
  public, how many captures it has of each expression;
- the mean embedding of its people, which is a mean face to whoever can invert the tower;
- the subspace of its embeddings where it has fewer captures than D, and with one capture the embedding itself, up to its sign.
A site that knows the sum and its own part knows the sum of the others': with two sites, the other's. Therefore a pair of which
fewer than `federation.min-cohort` people have both pictures is left out, and no site sends moments of fewer. Noise
(`federation.noise`) blurs; it is **no** formal guarantee of privacy: nothing is clipped, no budget is kept, and the noise of
many rounds averages out.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .config import SmileConfig

if TYPE_CHECKING:
    import torch

    from .losses import Targets
    from .model import Encoding, SmileModel
    from .training import Captures

PREFIX = "moments."


def shapes(config: SmileConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all that a site of this study sends; float32 each, about 4 P D^2 bytes together."""
    from .text import text_width

    model = config.model
    views = len(config.views.yaws) * (len(model.modalities) if model.streams == "apart" else 1)
    pairs, dim = max(1, views * (views - 1) // 2) + 1, text_width(model)
    each = {"captures": (), "count": (pairs,), "sums": (2, pairs, dim), "squares": (2, pairs, dim)}
    return {PREFIX + name: shape for name, shape in {**each, "products": (pairs, dim, dim)}.items()}


def from_arrays(arrays: dict[str, np.ndarray], *, like: dict[str, tuple[int, ...]]) -> "Moments":
    """What `Moments.arrays` gave, of one site or summed by name, as float64.

    like: `shapes` of the study. Raises ValueError for what are no moments: a peer may send anything. Counts need not be
    whole numbers, so that a server may cap the weight of a site by a factor on all of its arrays.
    """
    found = {name: np.shape(array) for name, array in arrays.items()}
    if found != like:
        wrong = sorted(n for n in like.keys() | found.keys() if like.get(n) != found.get(n))
        raise ValueError(
            f"the moments do not fit the study, first {wrong[0]!r} with shape {found.get(wrong[0])} instead of "
            f"{like.get(wrong[0])}: run the same release and settings everywhere"
        )
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64) or not np.isfinite(array).all():
            raise ValueError(
                f"{name} of {array.dtype} is not finite float32: leave this site out of the round"
            )
    moments = Moments(
        **{name.removeprefix(PREFIX): array.astype(np.float64) for name, array in arrays.items()}
    )
    if not 0 <= moments.count.min() <= moments.count.max() <= moments.captures * (1 + 1e-6):
        raise ValueError(
            f"moments count {moments.count.tolist()} of {moments.captures:g} captures: leave this site out of the round"
        )
    return moments


def measure(
    model: "SmileModel",
    captures: "Captures",
    rows: np.ndarray,
    config: SmileConfig,
    *,
    min_cohort: int = 1,
    device: str = "cpu",
    generator: np.random.Generator | None = None,
) -> "Moments":
    """The moments of rows (m,) int of a site, ready to be sent: the model in eval mode, no augmentation, `federation.noise` on them.

    Partners and sentences are drawn as training draws them, in batches of `training.batch-size` of one shuffled pass, and
    the same weights give the same moments. A pair counts the captures that have both pictures.
    min_cohort: the site's own; it can only raise `federation.min-cohort`. generator: of the noise, else the machine's entropy.
    Raises ValueError for fewer people than that, and for what `sentence_source` refuses.
    """
    import torch

    from .loader import Order, random_seed
    from .sentences import sentence_source

    settings, cohort = config.training, max(config.federation.min_cohort, min_cohort)
    people = np.unique(captures.subjects[rows])
    if len(people) < cohort:
        raise ValueError(
            f"{len(people)} people to measure, and moments leave a site for {cohort} or more (federation.min-cohort): "
            "add people, or train with federation.statistics = local"
        )
    source = sentence_source(captures, config, rows, model=model)
    draws = torch.Generator().manual_seed(random_seed(settings.seed, 3))
    size, frames = len(rows), min(settings.frames, len(rows))
    order = Order(rows, captures.sequences[rows], size=size, frames=frames, seed=settings.seed)[0]
    parts: list[Moments] = []
    seen = np.zeros((len(people), *shapes(config)[f"{PREFIX}count"]), bool)
    training = model.training
    model.to(device).eval()
    for chosen in np.split(order, range(settings.batch_size, size, settings.batch_size)):
        text, classes, _ = source(chosen, draws)
        a, b, both = _compared(model, captures, chosen, text, classes, config)
        parts = [sum_up(a, b, both, *parts)]
        np.logical_or.at(seen, np.searchsorted(people, captures.subjects[chosen]), both.cpu().numpy())
    model.train(training)
    return noisy(parts[0].of_pairs(seen.sum(axis=0) >= cohort), config.federation.noise, generator=generator)


def _compared(
    model: "SmileModel",
    captures: "Captures",
    rows: np.ndarray,
    text: "torch.Tensor",
    classes: "torch.Tensor",
    config: SmileConfig,
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """`compared` of these captures."""
    import torch

    from .losses import Targets
    from .model import present

    device = model.logit_scale.device
    views = torch.from_numpy(captures.gather(rows, config.model.modalities))
    subjects = torch.from_numpy(np.unique(captures.subjects[rows], return_inverse=True)[1].reshape(-1))
    sequences, times = (
        torch.from_numpy(np.asarray(captures.sequences[rows], np.int64)),
        torch.zeros(len(rows)),
    )
    there = present(views)
    with torch.inference_mode():
        encoding = model(views.to(device).float(), None if bool(there.all()) else there.to(device))
        targets = Targets(*(x.to(device) for x in (text, classes, subjects, sequences, times)))
        return compared(encoding, targets, pairs=config.objective.pairs)


def compared(
    encoding: "Encoding", targets: "Targets", *, pairs: str
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """What the objective correlates of a batch: a and b (B, P, D), and (B, P) bool, where both are there. pairs: `objective.pairs`."""
    import torch

    from .losses import with_sentence
    from .pairs import partners, pictures

    a, b, both = pictures(encoding.views, mask=encoding.mask, partner=partners(pairs, targets))
    told = with_sentence(encoding, targets).unsqueeze(1)
    a, b = (torch.cat([x, last.unsqueeze(1)], dim=1) for x, last in ((a, encoding.fused), (b, targets.text)))
    return a, b, torch.cat([both, told], dim=1)


def sum_up(a: "torch.Tensor", b: "torch.Tensor", both: "torch.Tensor", *before: "Moments") -> "Moments":
    """a, b (B, P, D); both (B, P) bool -> their moments, in float64, and those `before` added."""
    import torch

    there = both.unsqueeze(-1).cpu()
    a, b = (torch.where(there, x.detach().cpu().double(), 0).transpose(0, 1) for x in (a, b))
    sums, squares = (torch.stack([x.sum(dim=1) for x in pair]) for pair in ((a, b), (a.square(), b.square())))
    count, captures = both.sum(dim=0).double(), torch.tensor(float(len(both)), dtype=torch.float64)
    found = (captures, count.cpu(), sums, squares, a.mT @ b)
    return sum(before, Moments(*(x.numpy() for x in found)))


def noisy(moments: "Moments", noise: float, *, generator: np.random.Generator | None = None) -> "Moments":
    """Gaussian noise on sums, squares and products, its deviation `noise` x the root mean square of each pair's matrix.

    Counts stay as they are. Without a generator the noise is of the machine's entropy, which nobody can draw again. Noise of
    0.01 on squares hides the variance of a feature whose mean is 10 deviations from 0. No formal guarantee: see above.
    """
    if noise == 0:
        return moments
    draw = np.random.default_rng() if generator is None else generator

    def blurred(matrices: np.ndarray, features: int) -> np.ndarray:
        axes = tuple(range(-features, 0))
        size = np.sqrt(np.square(matrices).mean(axis=axes, keepdims=True))
        return matrices + noise * size * draw.standard_normal(matrices.shape)

    return Moments(
        captures=moments.captures,
        count=moments.count,
        sums=blurred(moments.sums, 1),
        squares=blurred(moments.squares, 1),
        products=blurred(moments.products, 2),
    )


def correlation(moments: "Moments", pair: int) -> np.ndarray:
    """C (D, D) float64 of a pair, -1 that of picture and sentence: what the losses call C of the pooled captures."""
    return _standard(moments)[2][pair]


def _standard(moments: "Moments") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (2, P, D), 1 / deviation (2, P, D) and correlation (P, D, D); 0 of a pair that no capture has."""
    from .losses import EPSILON

    count = np.maximum(moments.count, 1)
    mean = moments.sums / count[:, None]
    # Rounding and noise can take a variance below 0.
    scale = 1 / np.sqrt(np.maximum(moments.squares / count[:, None] - mean**2, 0) + EPSILON)
    covariance = moments.products / count[:, None, None] - mean[0][:, :, None] * mean[1][:, None, :]
    return mean, scale, covariance * scale[0][:, :, None] * scale[1][:, None, :]


def shared(moments: "Moments", *, device: str = "cpu", dtype: "torch.dtype | None" = None) -> "Shared":
    """The moments of all sites -> what `smile.losses.objective` takes for a round. dtype: float32 unless given.

    Exact for one step: from the same weights, with sites that take all their captures as one batch (and pair them as they
    were measured), the mean of their gradients weighted by their captures is the gradient of the pooled batch. A site that
    takes several batches is so on average, for the gradient is linear in the batch's moments. After the first local step the
    values are those of the weights that the round began with, and grow stale.
    """
    import torch

    from .losses import EPSILON

    mean, scale, matrix = _standard(moments)
    weight = np.where(moments.count > 0, moments.captures / np.maximum(moments.count, 1), 0)
    found = (mean, scale, matrix, moments.count, weight)
    whole = Whole(*(torch.from_numpy(x).to(dtype or torch.float32).to(device) for x in found))
    # Of unit rows: half their mean squared distance. Less than EPSILON is rounding, and no correlation is defined (trap 2).
    told = moments.count[-1] >= 2 and (scale[1, -1] ** -2 - EPSILON).sum() > EPSILON
    return Shared(
        whole.of_pairs(slice(0, -1)), whole.of_pairs(slice(-1, None)), torch.tensor(bool(told), device=device)
    )


@dataclass(frozen=True)
class Moments:
    """Sums over captures, float64 numpy; `a + b` is those of both sites, in any order."""

    captures: np.ndarray  # () all captures of the site
    count: np.ndarray  # (P,) those of them that have both pictures
    sums: np.ndarray  # (2, P, D) of the first and of the second picture
    squares: np.ndarray  # (2, P, D)
    products: np.ndarray  # (P, D, D) first x second

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def of_pairs(self, kept: np.ndarray) -> "Moments":
        """Without the pairs that are not kept, (P,) bool: as if no capture had them."""
        mask = kept.astype(np.float64)
        rows, matrices = mask[:, None], mask[:, None, None]
        return Moments(
            self.captures, self.count * mask, self.sums * rows, self.squares * rows, self.products * matrices
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """float32 by name, to be sent. float32 has 7 digits: enough where a mean is below some 100 deviations."""
        return {PREFIX + f.name: np.asarray(getattr(self, f.name), np.float32) for f in fields(self)}


class Whole(NamedTuple):
    """What a loss needs to know of P pairs over the captures of all sites. It has no gradient."""

    mean: "torch.Tensor"  # (2, P, D) of the first and of the second picture
    scale: "torch.Tensor"  # (2, P, D) 1 / deviation
    correlation: "torch.Tensor"  # (P, D, D)
    both: "torch.Tensor"  # (P,) captures that have both pictures
    weight: "torch.Tensor"  # (P,) all captures / those that have both pictures; 0 where none has

    def of_pairs(self, kept: slice) -> "Whole":
        mean, scale, *rest = self
        return Whole(mean[:, kept], scale[:, kept], *(x[kept] for x in rest))

    def correlations(
        self, a: "torch.Tensor", b: "torch.Tensor", rows: "torch.Tensor"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """As `smile.losses.correlations`: the values are those of all sites, the gradient is that of these captures.

        a, b: (B, P, D), not standardised; rows: (B, P) bool, what counts. s~ = s + sg(s_all - s), s the moments of this batch
        over its share of all captures. Taken about the mean of all, in deviations of all, s_all is 0 and 1 and C: so its
        gradient is the same, and no digits are lost to a mean that is far from 0.
        """
        import torch

        there, weight = rows.unsqueeze(-1), self.weight / len(rows)
        x, y = (
            torch.where(there, (x - mean) * scale, 0)
            for x, mean, scale in zip((a, b), self.mean, self.scale, strict=True)
        )
        c = self.correlation + _rise(x.permute(1, 2, 0) @ y.transpose(0, 1) * weight[:, None, None])
        of_x, of_y = (1 + _rise(z.square().sum(dim=0) * weight[:, None]) for z in (x, y))
        c = c * of_x.rsqrt().unsqueeze(2) * of_y.rsqrt().unsqueeze(1)
        return c.square().sum(dim=(1, 2)), c.diagonal(dim1=1, dim2=2)


def _rise(x: "torch.Tensor") -> "torch.Tensor":
    """0, with the gradient of x."""
    return x - x.detach()


class Shared(NamedTuple):
    """What decorrelation and redundancy compare with where sites share their moments; made once a round by `shared`."""

    views: Whole
    text: Whole  # of the one pair of picture and sentence
    told: "torch.Tensor"  # () bool: whether the sentences of all sites vary
