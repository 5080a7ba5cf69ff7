"""What a pixel looks like once its face is known: depth, normal and colour by interpolation inside the face.

One page for both renderers, so that they can differ only in which face a pixel sees.

Legend: V views, H W image rows and columns, n pixels that see something, v vertices, f faces.
"""

import numpy as np

from ..config import ViewConfig
from ..face_points import unit
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
    points, at_vertices = np.ascontiguousarray(scan.vertices.T), vertex_normals(scan.vertices, scan.faces).T
    x, y = pixel_centres(config)
    for view, yaw in enumerate(config.yaws):
        rows, columns = np.nonzero(seen[view] >= 0)
        face = seen[view, rows, columns]
        corners = scan.faces.take(face, axis=0).T  # `take` takes a quarter of the time of [...]
        triangles = to_view(points, yaw).astype(np.float32).take(corners, axis=1)  # (3, 3 corners, n)
        weights, front = _barycentric(triangles, x[columns], y[rows])
        depth[view, rows, columns] = (weights * triangles[2]).sum(0)
        turned = (rotation(yaw) @ at_vertices).astype(np.float32)
        blended = (weights * turned.take(corners, axis=1)).sum(1)
        # The inside of the mask, seen through a hole, faces the camera as well.
        normals[view, rows, columns] = unit(blended * np.where(front, 1, -1).astype(np.float32)).T
        if colour is not None:
            colour[view, rows, columns] = _colours(scan, face, weights)
    return depth, normals, colour


def _barycentric(triangles: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """triangles (3, 3 corners, n) in the view frame, pixel centres (n,) -> weights (3, n) >= 0 with sum 1, and whether the
    face is seen from its front (n,).

    The renderers compute in single precision, so a centre may lie a hair outside its face: the weights are clipped.
    """
    across, up = triangles[0] - x.astype(np.float32), triangles[1] - y.astype(np.float32)
    parts = np.stack([across[i] * up[j] - across[j] * up[i] for i, j in ((1, 2), (2, 0), (0, 1))])
    whole = parts.sum(0)
    weights = np.clip(parts / np.where(whole == 0, 1, whole), 0, 1)
    total = weights.sum(0)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), np.float32(1 / 3)), whole > 0


def _colours(scan: Scan, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 from the texture, or else from the vertices. Raises ValueError when the scan has neither."""
    if scan.texture is not None:
        corner_uv = scan.texture.corner_uv.take(face, axis=0)
        return _bilinear(scan.texture, np.einsum("cn,nck->nk", weights, corner_uv))
    if scan.vertex_colors is not None:
        corners = scan.vertex_colors.take(scan.faces.take(face, axis=0).T, axis=0).astype(np.float32)
        return np.rint(np.einsum("cn,cnk->nk", weights, corners)).astype(np.uint8)
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
    across, down = (column - left).astype(np.float32), (row - top).astype(np.float32)
    pixels = texture.image.reshape(-1, 3)

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(pixels.take(row * width + column, axis=0).T)  # (3, n): long rows are fast

    upper = at(top, left) * (1 - across) + at(top, right) * across
    lower = at(bottom, left) * (1 - across) + at(bottom, right) * across
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8).T
