"""Several meshes of one capture, such as the two halves of a face, side by side as one `Scan`.

Arrays: v vertices, f faces.
"""

import numpy as np

from . import images
from .arrays import NO_TEXTURE
from .scan import Scan, Texture


def merged(scans: list[Scan], *, need_texture: bool) -> Scan:
    """One `Scan` with the vertices, faces and textures of all, in their order: vertex numbers of the first stay.

    Raises ValueError where `need_texture` and one part has a texture and another one only vertex colours.
    """
    if len(scans) == 1:
        return scans[0]
    first = np.cumsum([0, *(len(scan.vertices) for scan in scans)])
    textures = [scan.texture for scan in scans if scan.texture is not None]
    colors = [scan.vertex_colors for scan in scans if scan.vertex_colors is not None]
    texture = None
    if len(textures) == len(scans):
        which = np.repeat(np.arange(len(scans)), [len(scan.faces) for scan in scans])
        corner_uv = np.concatenate([one.corner_uv for one in textures])
        if all(np.array_equal(one.image, textures[0].image) for one in textures[1:]):
            texture = Texture(textures[0].image, corner_uv)
        else:
            texture = images.side_by_side([one.image for one in textures], corner_uv, which)
    elif need_texture and len(colors) < len(scans):
        raise ValueError(
            f"one of its {len(scans)} parts has a texture and another one has none: restore it, {NO_TEXTURE}"
        )
    return Scan(
        vertices=np.concatenate([scan.vertices for scan in scans]),
        faces=np.concatenate([scan.faces + start for scan, start in zip(scans, first, strict=False)]),
        vertex_colors=np.concatenate(colors) if len(colors) == len(scans) else None,
        texture=texture,
    )
