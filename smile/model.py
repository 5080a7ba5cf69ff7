"""The image side of SMILE-VLM: one shared view encoder, a projector, and view-aware fusion.

B batch, V views, C channels, H W pixels, N tokens (the V views, or views x modalities), W tower width, D joint embedding.
Formulas: docs/method.md.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import nn

from .config import CHANNELS, SmileConfig

# Views are normalised inside the model, so that every user of it feeds the bytes of a prepared site.
_STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "texture": (
        (0.4815, 0.4578, 0.4082),
        (0.2686, 0.2613, 0.2758),
    ),  # CLIP's; a pretrained tower brings its own
    "depth": ((0.5,), (0.25,)),
    "normals": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
}
MAX_LOGIT_SCALE = math.log(100.0)


class Encoding(NamedTuple):
    """What the model says of a batch of captures."""

    views: torch.Tensor  # (B, N, D) projected embeddings of the N tokens: views, or views x modalities
    fused: torch.Tensor  # (B, D)
    features: torch.Tensor  # (B, W) tower output, mean over the tokens there: what probes are fitted on
    mask: torch.Tensor | None = None  # (B, N) bool, True where a token is there; None: everywhere


def _slices(modalities: tuple[str, ...]) -> Iterator[slice]:
    start = 0
    for modality in modalities:
        yield slice(start, start + CHANNELS[modality])
        start += CHANNELS[modality]


def _prototypes(config: SmileConfig) -> torch.Tensor:
    from .prompts import PROMPTS
    from .sentences import class_prototypes

    return torch.from_numpy(class_prototypes(config, list(PROMPTS)))


def present(views: torch.Tensor) -> torch.Tensor:
    """(B, V, C, H, W) of any type -> (B, V) bool: False where a view is 0 throughout, which says it is missing."""
    return views.flatten(2).amax(dim=2) != 0  # any() becomes two casts of every pixel in ONNX


def attend(z: torch.Tensor, score: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """sum_n softmax_n(score) z_n over the tokens that are there; 0 where none is, never NaN.

    z: (B, N, D); score: (B, N, K), one column for each query: the softmax is over all pairs of a query and a token, and a
    token weighs what its pairs weigh together. mask: (B, N) bool, True where the token is there -> (B, D).
    """
    if mask is not None:
        score = score.masked_fill(~mask.unsqueeze(-1), torch.finfo(score.dtype).min)
    weight = score.flatten(1).softmax(dim=1).unflatten(1, score.shape[1:]).sum(dim=2)
    if mask is not None:
        weight = weight * mask  # with no token at all the softmax is uniform over nothing
    return (weight.unsqueeze(-1) * z).sum(dim=1)


class ViewFusion(nn.Module):
    """alpha_n = sum_k softmax_{k,n}(w_k . tanh(W z_n + e_n)); fused = sum_n alpha_n z_n over the N tokens of a capture.

    attention: one learned query w. text: the class prototypes of the prompt bank as queries, times one learned gain, in the
    spirit of FACET-VLM's text-guided fusion. mean: no queries. Both learned kinds start from the plain mean.
    e_n: learned, one vector for each view, plus one for each modality where these are tokens of their own.
    """

    prompts: torch.Tensor

    def __init__(
        self, dim: int, views: int, kind: str, *, modalities: int = 1, prompts: torch.Tensor | None = None
    ) -> None:
        """prompts: (K, D) unit rows, needed by `text`. They are the frozen text side: neither trained nor sent."""
        super().__init__()
        self.kind = kind
        if kind == "mean":
            return
        self.key = nn.Linear(dim, dim, bias=False)
        self.place = nn.Parameter(torch.randn(views, dim) * 0.02)
        if modalities > 1:
            self.modality = nn.Parameter(torch.randn(modalities, dim) * 0.02)
        if kind == "text":
            assert prompts is not None
            self.register_buffer("prompts", prompts * dim**0.5, persistent=False)
            self.gain = nn.Parameter(torch.zeros(()))
        else:
            self.query = nn.Parameter(torch.zeros(dim))

    def forward(self, z: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """z: (B, N, D), modalities varying faster than views; mask: (B, N) bool, True where the token is there -> (B, D)."""
        if self.kind == "mean":
            return attend(z, z.new_zeros(*z.shape[:2], 1), mask)
        place: torch.Tensor = self.place
        if hasattr(self, "modality"):
            place = (place.unsqueeze(1) + self.modality).flatten(0, 1)
        queries = self.gain * self.prompts if self.kind == "text" else self.query.unsqueeze(0)
        return attend(z, torch.tanh(self.key(z) + place) @ queries.T, mask)


class SmileModel(nn.Module):
    """Views of a capture -> embeddings. Only what is trained lives here; the text side is in smile.text."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: SmileConfig) -> None:
        from .siblings import build_heads
        from .towers import colour_statistics
        from .tuning import build_tuned_tower

        super().__init__()
        model, views = config.model, config.views
        self.slices = list(_slices(model.modalities)) if model.streams == "apart" else []
        channels = 3 if self.slices else model.channels
        self.tower = build_tuned_tower(model, channels=channels, size=views.size)
        self.tower_is_frozen = model.tuning != "full"
        with torch.inference_mode():
            width = self.tower.eval()(torch.zeros(1, channels, views.size, views.size)).shape[-1]
        self.width = width
        # A pretrained tower already ends in the space of its text tower.
        self.dim = width if model.pretrained else model.dim
        self.projector: nn.Module = (
            nn.Identity()
            if model.pretrained
            else nn.Sequential(
                nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, model.dim)
            )
        )
        self.fusion = ViewFusion(
            self.dim,
            len(views.yaws),
            model.fusion,
            modalities=max(1, len(self.slices)),
            prompts=_prototypes(config) if model.fusion == "text" else None,
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.heads = build_heads(config, self.dim)
        statistics = dict(_STATISTICS)
        if model.pretrained:
            statistics["texture"] = colour_statistics(model.tower, model.pretrained)
        mean = [value for m in model.modalities for value in statistics[m][0]]
        std = [value for m in model.modalities for value in statistics[m][1]]
        assert len(mean) == sum(CHANNELS[m] for m in model.modalities)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """As of any module, but a frozen tower keeps its batch statistics: they are neither trained nor sent."""
        super().train(mode)
        if self.tower_is_frozen:
            self.tower.eval()
        return self

    def forward(self, views: torch.Tensor, mask: torch.Tensor | None = None) -> Encoding:
        """views: (B, V, C, H, W) float32 in [0, 255]; mask: (B, V) bool, True where a view exists.

        With streams apart, a modality that a view lacks (a photograph has no depth) is masked as well.
        """
        pictures = (views - self.mean) / self.std
        if self.slices:
            there = torch.stack([present(views[:, :, s]) for s in self.slices], dim=2)
            mask = (there if mask is None else there & mask.unsqueeze(-1)).flatten(1)
            apart = [pictures[:, :, s].expand(-1, -1, 3, -1, -1) for s in self.slices]
            pictures = torch.stack(apart, dim=2).flatten(1, 2)
        features = self._features(pictures, mask)
        z = self.projector(features)
        weight = torch.ones_like(z[..., :1]) if mask is None else mask.to(z.dtype).unsqueeze(-1)
        mean_features = (features * weight).sum(1) / weight.sum(1).clamp(min=1)
        return Encoding(views=z, fused=self.fusion(z, mask), features=mean_features, mask=mask)

    def _features(self, pictures: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, N, C, H, W), (B, N) -> (B, N, W). Training leaves missing pictures out: they cost and touch no batch statistics."""
        shape = pictures.shape[:2]
        if mask is None or not self.training or not mask.any():
            return self.tower(pictures.flatten(0, 1)).unflatten(0, shape)
        found = self.tower(pictures[mask])
        return found.new_zeros(*shape, self.width).index_put((mask,), found)

    def scale(self) -> torch.Tensor:
        """Inverse temperature of the alignment, clamped at 100 as in CLIP."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()


def build_model(config: SmileConfig) -> SmileModel:
    """A model whose random weights follow from `training.seed` alone, so that every site starts alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return SmileModel(config)
