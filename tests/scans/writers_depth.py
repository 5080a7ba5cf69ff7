"""Depth cameras: a mesh before a lens, photographed by casting a ray through every pixel, and the files they leave."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NOTHING = np.nan


@dataclass(frozen=True)
class Lens:
    """A camera at the origin that looks along -z, x right, y up; pixels count from the top left."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def json(self, **more: object) -> str:
        names = ("fx", "fy", "cx", "cy", "width", "height")
        return json.dumps({name: getattr(self, name) for name in names} | more)


PHONE = Lens(240, 320, 290.0, 288.0, 117.0, 163.0)


def on_its_side(lens: Lens, *, width: int) -> Lens:
    """The same lens for the picture turned by a quarter counter-clockwise and as wide as `width`, as Apple states it."""
    zoom = width / lens.height
    return Lens(
        width,
        round(lens.width * zoom),
        lens.fy * zoom,
        lens.fx * zoom,
        (lens.cy + 0.5) * zoom - 0.5,
        (lens.width - 1 - lens.cx + 0.5) * zoom - 0.5,
    )


def photograph(vertices: np.ndarray, faces: np.ndarray, lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """((H, W) metres along the axis of the camera, NaN where nothing is, (H, W) face of each pixel or -1)."""
    way = np.empty((lens.height, lens.width, 3))  # of the ray through each pixel, one unit deep
    way[..., 0] = (np.arange(lens.width) - lens.cx) / lens.fx
    way[..., 1] = -(np.arange(lens.height)[:, None] - lens.cy) / lens.fy
    way[..., 2] = -1.0
    corners = vertices[faces]
    sides = np.cross(
        corners, np.roll(corners, -1, axis=1)
    )  # normals of the planes through the lens and an edge
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    along = np.einsum("ni,ni->n", normals, corners[:, 0])
    columns = lens.cx - lens.fx * corners[..., 0] / corners[..., 2]
    rows = lens.cy + lens.fy * corners[..., 1] / corners[..., 2]
    lows = np.clip(np.floor([rows.min(axis=1), columns.min(axis=1)]), 0, None).astype(int).T
    highs = np.clip(np.ceil([rows.max(axis=1), columns.max(axis=1)]) + 1, 0, None).astype(int).T
    depth, hit = np.full(way.shape[:2], np.inf), np.full(way.shape[:2], -1)
    for face in np.flatnonzero(along):  # the others are seen along their edge
        window = tuple(slice(low, high) for low, high in zip(lows[face], highs[face], strict=True))
        inside = (way[window] @ sides[face].T) * np.sign(along[face])
        there = along[face] / (way[window] @ normals[face])
        nearer = (inside >= 0).all(axis=-1) & (there < depth[window])
        depth[window][nearer], hit[window][nearer] = there[nearer], face
    return np.where(hit >= 0, depth / 1000.0, NOTHING), hit


def sides(vertices: np.ndarray, faces: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """(H, W, 3) a picture in which the subject's left half is red, the right half blue and the rest grey."""
    left = vertices[faces].mean(axis=1)[:, 0] > vertices[:, 0].mean()
    picture = np.where(left[hit][..., None], [220, 20, 20], [20, 20, 220])
    picture[hit < 0] = 90
    return picture.astype(np.uint8)


def png16(path: Path, counts: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(counts.astype(np.uint16)).save(path)
    return path


def picture(path: Path, pixels: np.ndarray, *, zoom: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(
        (pixels.shape[1] * zoom, pixels.shape[0] * zoom), Image.Resampling.NEAREST
    ).save(path)
    return path
