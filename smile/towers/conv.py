"""`smile_conv`: four strided convolutions for CPUs, registered with timm so that open_clip can name it.

GroupNorm keeps no running statistics: nothing of a site's data distribution is stored in a buffer or aggregated.
"""

from typing import Any

import torch
from timm.models import register_model
from torch import nn

GRID = 4  # cells a side in which the last stage is pooled: views are aligned, so where something is matters


class SmileConv(nn.Module):
    """(N, 3, H, W) -> (N, 128): each stage halves the resolution and doubles the width."""

    def __init__(self, width: int = 16, features: int = 128) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 4 * width, 8 * width):
            stages += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.GELU()]
            channels = out
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(GRID)
        self.head = nn.Linear(channels * GRID * GRID, features)
        self.num_features = features

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.stages(image)).flatten(1))


@register_model
def smile_conv(pretrained: bool = False, **_: Any) -> SmileConv:
    """timm entry point."""
    if pretrained:
        raise ValueError("smile_conv has no pretrained weights")
    return SmileConv()
