"""The image side of SMILE-VLM: one shared view encoder, a projector, and view-aware fusion.

B batch, V views, C channels, H W pixels, W tower width, D joint embedding.
Formulas: docs/method.md.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from .config import CHANNELS, SmileConfig

# Views are normalised inside the model, so that every user of it feeds the bytes of a prepared site.
_STATISTICS = {
    "texture": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),  # open_clip's, for pretrained towers
    "depth": ((0.5,), (0.25,)),
    "normals": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
}
MAX_LOGIT_SCALE = math.log(100.0)


class Encoding(NamedTuple):
    """What the model says of a batch of captures."""

    views: torch.Tensor  # (B, V, D) projected view embeddings
    fused: torch.Tensor  # (B, D)
    features: torch.Tensor  # (B, W) tower output, mean over views: what probes are fitted on


class ViewFusion(nn.Module):
    """alpha_v = softmax_v(w . tanh(W z_v + e_v)); fused = sum_v alpha_v z_v. Missing views get no weight."""

    def __init__(self, dim: int, views: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.key = nn.Linear(dim, dim, bias=False)
            self.place = nn.Parameter(torch.randn(views, dim) * 0.02)
            self.query = nn.Parameter(torch.zeros(dim))  # zero: training starts from the plain mean

    def forward(self, z: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """z: (B, V, D); mask: (B, V) bool, True where the view exists -> (B, D)."""
        if self.kind == "attention":
            score = torch.tanh(self.key(z) + self.place) @ self.query
        else:
            score = z.new_zeros(z.shape[:2])
        if mask is not None:
            score = score.masked_fill(~mask, float("-inf"))
        return (score.softmax(dim=1).unsqueeze(-1) * z).sum(dim=1)


class SmileModel(nn.Module):
    """Views of a capture -> embeddings. Only what is trained lives here; the text side is in smile.text."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: SmileConfig) -> None:
        from .towers import build_tower

        super().__init__()
        model, views = config.model, config.views
        self.tower = build_tower(
            model.tower, pretrained=model.pretrained, channels=model.channels, size=views.size
        )
        with torch.inference_mode():
            width = self.tower.eval()(torch.zeros(1, model.channels, views.size, views.size)).shape[-1]
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
        self.fusion = ViewFusion(self.dim, len(views.yaws), model.fusion)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        mean = [value for m in model.modalities for value in _STATISTICS[m][0]]
        std = [value for m in model.modalities for value in _STATISTICS[m][1]]
        assert len(mean) == sum(CHANNELS[m] for m in model.modalities)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.train()

    def forward(self, views: torch.Tensor, mask: torch.Tensor | None = None) -> Encoding:
        """views: (B, V, C, H, W) float32 in [0, 255]; mask: (B, V) bool, True where a view exists."""
        batch, count = views.shape[:2]
        features = self.tower(((views - self.mean) / self.std).flatten(0, 1)).unflatten(0, (batch, count))
        z = self.projector(features)
        weight = torch.ones_like(z[..., 0]) if mask is None else mask.to(z.dtype)
        mean_features = (features * weight.unsqueeze(-1)).sum(1) / weight.sum(1, keepdim=True)
        return Encoding(views=z, fused=self.fusion(z, mask), features=mean_features)

    def scale(self) -> torch.Tensor:
        """Inverse temperature of the alignment, clamped at 100 as in CLIP."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()


def build_model(config: SmileConfig) -> SmileModel:
    """A model whose random weights follow from `training.seed` alone, so that every site starts alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return SmileModel(config)
