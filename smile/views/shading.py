"""What a pixel looks like once its face is known: depth, normal and colour by interpolation inside the face.

One page for both renderers, so that they can differ only in which face a pixel sees.

Legend: V views, H W image rows and columns, n pixels that see something, v vertices, f faces.
"""

import numpy as np

from ..config import ViewConfig
from ..face_fit import unit
from ..geometry import vertex_normals
from ..scans.scan import Scan, Texture
from .cameras import pixel_centres, rotation, to_view


def shade(
    scan: Scan, seen: np.ndarray, config: ViewConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """seen (V, H, W) int32 face numbers or -1 -> depth (V, H, W) float32 mm, NaN where nothing is; normals (V, H, W, 3) float32
    unit, 0 where nothing is; colour (V, H, W, 3) uint8, 0 where nothing is, or None when texture is not asked for.
    """
    depth = np.full(seen.shape, np.nan, dtype=np.float32)
    normals = np.zeros((*seen.shape, 3), dtype=np.float32)
    colour = np.zeros((*seen.shape, 3), dtype=np.uint8) if "texture" in config.modalities else None
    of_vertices = vertex_normals(scan.vertices, scan.faces)
    x, y = pixel_centres(config)
    for view, yaw in enumerate(config.yaws):
        rows, columns = np.nonzero(seen[view] >= 0)
        face = seen[view, rows, columns]
        corners = scan.faces[face]
        triangles = to_view(scan.vertices[corners], yaw)  # (n, 3 corners, 3)
        weights, front = _barycentric(triangles, x[columns], y[rows])
        depth[view, rows, columns] = (weights * triangles[..., 2]).sum(1)
        blended = np.einsum("nc,nck->nk", weights, of_vertices[corners]) @ rotation(yaw).T
        # The inside of the mask, seen through a hole, faces the camera as well.
        normals[view, rows, columns] = unit(blended * np.where(front, 1.0, -1.0)[:, None])
        if colour is not None:
            colour[view, rows, columns] = _colours(scan, face, weights)
    return depth, normals, colour


def _barycentric(triangles: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """triangles (n, 3, 3) in the view frame, pixel centres (n,) -> weights (n, 3) >= 0 with sum 1, seen from the front (n,).

    The renderers compute in single precision, so a centre may lie a hair outside its face: the weights are clipped.
    """
    a, b, c = triangles[:, 0, :2], triangles[:, 1, :2], triangles[:, 2, :2]
    point = np.stack([x, y], axis=1)

    def area(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0])

    whole = area(a, b, c)
    parts = np.stack([area(point, b, c), area(a, point, c), area(a, b, point)], axis=1)
    weights = np.clip(parts / np.where(whole == 0, 1.0, whole)[:, None], 0.0, 1.0)
    total = weights.sum(1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1.0), 1 / 3), whole > 0


def _colours(scan: Scan, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 from the texture, or else from the vertices. Raises ValueError when the scan has neither."""
    if scan.texture is not None:
        uv = np.einsum("nc,nck->nk", weights, scan.texture.corner_uv[face].astype(np.float64))
        return _bilinear(scan.texture, uv)
    if scan.vertex_colors is not None:
        blended = np.einsum("nc,nck->nk", weights, scan.vertex_colors[scan.faces[face]].astype(np.float64))
        return np.rint(blended).astype(np.uint8)
    raise ValueError(
        "the scan has neither a texture nor vertex colours, but texture is among the modalities: "
        "prepare without it (--modalities depth,normals) or export the scan with its texture"
    )


def _bilinear(texture: Texture, uv: np.ndarray) -> np.ndarray:
    """uv (n, 2), v up from the bottom -> (n, 3) uint8; beyond the border the border's colour."""
    height, width = texture.image.shape[:2]
    column = np.clip(uv[:, 0] * width - 0.5, 0, width - 1)
    row = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1)
    left, top = column.astype(np.intp), row.astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (column - left)[:, None], (row - top)[:, None]
    image = texture.image
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)
