"""Augmentation of views on the fly: what another scanner, pose or person might have changed.

B batch, V views, C channels, H W pixels; values 0 to 255, 0 = background.
"""

import torch

from .config import CHANNELS, SmileConfig


def augment(views: torch.Tensor, config: SmileConfig, generator: torch.Generator) -> torch.Tensor:
    """(B, V, C, H, W) uint8 -> float32 of the same shape: mirrored half of the time, shifted, scaled, re-lit.

    A missing view stays 0. Shift, scale and exposure differ from view to view (AffectVLM's mixed view augmentation), mirroring
    and the light's colour do not: a mirrored left view beside a right view that is not would be no face. Nothing is turned in its
    plane: the normals would have to turn with it.
    """
    return relight(jitter(mirror(views, config, generator), generator).float(), config, generator)


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
    """Each view shifted by up to `shift` of the picture and scaled by up to `scale`, each on its own; 0 comes in at the sides.

    Nearest pixels, as codes must not be blended with background. Rows and columns are looked up in the bytes: on a CPU five times
    as fast as `grid_sample`, of which a test holds it to be the same.
    """
    flat = views.flatten(0, 1).flatten(2)
    count, (height, width) = len(flat), views.shape[-2:]
    zoom = 1 + scale * (2 * torch.rand(count, 1, generator=generator) - 1)
    offset = 2 * shift * (2 * torch.rand(count, 2, generator=generator) - 1)  # the picture is 2 wide
    rows, row_there = _nearest(zoom, offset[:, 1:], height)
    columns, column_there = _nearest(zoom, offset[:, :1], width)
    pixels = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1).unsqueeze(1)
    there = (row_there.unsqueeze(2) & column_there.unsqueeze(1)).flatten(1).unsqueeze(1)
    found = flat.gather(2, pixels.to(views.device).expand(-1, flat.shape[1], -1))
    return (found * there.to(views.device)).view_as(views)


def _nearest(zoom: torch.Tensor, offset: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """zoom, offset: (n, 1) -> (n, size) int, the pixel that is seen at each place, and whether it lies in the picture."""
    centres = (2 * torch.arange(size) + 1) / size - 1
    pixels = (((zoom * centres + offset + 1) * size - 1) / 2).round().long()
    return pixels.clamp(0, size - 1), (pixels >= 0) & (pixels < size)


def relight(views: torch.Tensor, config: SmileConfig, generator: torch.Generator) -> torch.Tensor:
    """Texture brightness and colour cast by up to 20 %, the same for all views of a capture, and exposure by up to 5 % more
    for each view, as by cameras of their own; in place.

    Another light scales a difference about its 128, and leaves a dynamic image, which is spread over its range, as it is.
    """
    texture = _slices(config).get("texture")
    if texture is None or config.views.motion == "dynamic":
        return views
    batch, count = views.shape[:2]
    gain = 1 + 0.2 * (2 * torch.rand(batch, 1, 3, 1, 1, generator=generator) - 1)
    gain = gain * (1 + 0.05 * (2 * torch.rand(batch, count, 1, 1, 1, generator=generator) - 1))
    if config.views.motion == "difference":
        there, still = views[:, :, texture] > 0, 128.0
        scaled = (still + (views[:, :, texture] - still) * gain.to(views.device)).clamp(1, 255)
        views[:, :, texture] = torch.where(there, scaled, 0.0)
    else:
        views[:, :, texture] = (views[:, :, texture] * gain.to(views.device)).clamp(0, 255)
    return views
