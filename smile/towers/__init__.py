"""Image towers by open_clip name, ours among them, fitted to any number of image channels."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn


def build_tower(name: str, *, pretrained: str, channels: int, size: int) -> nn.Module:
    """The image side of an open_clip model: (N, channels, size, size) float32 -> (N, W).

    name: any name of `open_clip.list_models()` or `smile-small`. pretrained: an open_clip tag or a local
    weights file; empty for random weights. Raises ValueError for a name or tag that open_clip does not know.
    """
    import open_clip

    from . import conv  # noqa: F401  registers smile_conv with timm

    open_clip.add_model_config(Path(__file__).parent)
    if name not in open_clip.list_models():
        raise ValueError(f"model.tower = {name!r} is not an open_clip model: see open_clip.list_models()")
    if (
        pretrained
        and not Path(pretrained).is_file()
        and pretrained not in open_clip.list_pretrained_tags_by_model(name)
    ):
        raise ValueError(
            f"model.pretrained = {pretrained!r} is neither a file nor a tag of {name}: "
            f"tags are {open_clip.list_pretrained_tags_by_model(name)}"
        )
    with _quiet():
        visual: Any = open_clip.create_model(
            name, pretrained=pretrained or None, force_image_size=size
        ).visual
    if getattr(visual, "output_tokens", False):  # a CoCa gives its tokens to a decoder as well
        visual.output_tokens = False
    _refit_first_convolution(visual, channels, keep_weights=bool(pretrained))
    return visual


def colour_statistics(name: str, pretrained: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of colours in 0..1 that a pretrained tower was trained with.

    A local file, which says nothing of it, is taken for weights like the first published ones of its architecture.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = pretrained if pretrained in tags else next(iter(tags), "")
    found = open_clip.get_pretrained_cfg(name, tag) or {}
    return (
        tuple(found.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        tuple(found.get("std") or open_clip.OPENAI_DATASET_STD),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip warns on the root logger of random weights, which is what was asked for here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _refit_first_convolution(tower: nn.Module, channels: int, *, keep_weights: bool) -> None:
    """Replace the 3-channel stem by one for `channels`; a trained stem is averaged over colour, sum preserved."""
    path, stem = next((p, m) for p, m in tower.named_modules() if isinstance(m, nn.Conv2d))
    if stem.in_channels == channels:
        return
    like: Any = stem  # its sizes are typed as tuples of any length
    new = nn.Conv2d(
        channels, like.out_channels, like.kernel_size, like.stride, like.padding, bias=like.bias is not None
    )
    if keep_weights:
        with torch.no_grad():
            grey = stem.weight.mean(dim=1, keepdim=True) * (stem.in_channels / channels)
            new.weight.copy_(grey.expand_as(new.weight))
            if stem.bias is not None and new.bias is not None:
                new.bias.copy_(stem.bias)
    parent = tower.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], new)
