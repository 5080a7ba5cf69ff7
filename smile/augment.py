"""Augmentation of views on the fly: what another scanner, pose or person might have changed.

B batch, V views, C channels, H W pixels; values 0 to 255, 0 = background.
"""

import torch
import torch.nn.functional as F

from .config import CHANNELS, SmileConfig


def augment(views: torch.Tensor, config: SmileConfig, generator: torch.Generator) -> torch.Tensor:
    """(B, V, C, H, W) uint8 -> float32 of the same shape: mirrored half of the time, shifted, scaled, re-lit."""
    return relight(jitter(mirror(views, config, generator).float(), generator), config, generator)


def _slices(config: SmileConfig) -> dict[str, slice]:
    slices, start = {}, 0
    for modality in config.model.modalities:
        slices[modality] = slice(start, start + CHANNELS[modality])
        start += CHANNELS[modality]
    return slices


def mirror(views: torch.Tensor, config: SmileConfig, generator: torch.Generator) -> torch.Tensor:
    """The mirrored face, uint8: pictures flipped, left and right views exchanged, x of the normals negated.

    Needs yaw angles that are symmetric about 0; otherwise nothing is mirrored.
    """
    yaws = config.views.yaws
    if any(-yaw not in yaws for yaw in yaws):
        return views
    chosen = torch.rand(len(views), generator=generator) < 0.5
    flipped = views[chosen.to(views.device)][:, [yaws.index(-yaw) for yaw in yaws]].flip(-1)
    normals = _slices(config).get("normals")
    if normals is not None:
        # 1..255 encodes -1..1 (smile.views.encode), so negation is 256 - code, and 0 stays background: both are
        # what an unsigned byte does when it is subtracted from 0.
        flipped[:, :, normals.start] = 0 - flipped[:, :, normals.start]
    result = views.clone()
    result[chosen.to(views.device)] = flipped
    return result


def jitter(
    views: torch.Tensor, generator: torch.Generator, *, shift: float = 0.06, scale: float = 0.08
) -> torch.Tensor:
    """Each view shifted by up to `shift` of the picture and scaled by up to `scale`, each on its own."""
    count = views.shape[0] * views.shape[1]
    zoom = 1 + scale * (2 * torch.rand(count, generator=generator) - 1)
    offset = (
        shift * 2 * (2 * torch.rand(count, 2, generator=generator) - 1)
    )  # grid_sample's picture is 2 wide
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = offset
    flat = views.flatten(0, 1)
    grid = F.affine_grid(theta.to(views.device), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, mode="nearest", align_corners=False).view_as(views)


def relight(views: torch.Tensor, config: SmileConfig, generator: torch.Generator) -> torch.Tensor:
    """Texture brightness and colour cast by up to 20 %, the same for all views of a capture; in place.

    Another light scales a difference about its 128, and leaves a dynamic image, which is spread over its range, as it is.
    """
    texture = _slices(config).get("texture")
    if texture is None or config.views.motion == "dynamic":
        return views
    gain = 1 + 0.2 * (2 * torch.rand(len(views), 1, 3, 1, 1, generator=generator) - 1)
    if config.views.motion == "difference":
        there, still = views[:, :, texture] > 0, 128.0
        scaled = (still + (views[:, :, texture] - still) * gain.to(views.device)).clamp(1, 255)
        views[:, :, texture] = torch.where(there, scaled, 0.0)
    else:
        views[:, :, texture] = (views[:, :, texture] * gain.to(views.device)).clamp(0, 255)
    return views
