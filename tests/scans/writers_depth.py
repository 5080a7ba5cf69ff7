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


def photograph(vertices: np.ndarray, faces: np.ndarray, lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """((H, W) metres along the axis of the camera, NaN where nothing is, (H, W) face of each pixel or -1)."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    row, column = np.mgrid[0 : lens.height, 0 : lens.width]
    way = np.stack(
        [(column - lens.cx) / lens.fx, -(row - lens.cy) / lens.fy, -np.ones(row.shape)], axis=-1
    ).reshape(-1, 3)
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
    hit = np.asarray(scene.run(np.zeros_like(way, np.float32), way.astype(np.float32)))
    corner = vertices[faces[hit]]  # where the ray meets the plane of the face
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    along = np.einsum("ni,ni->n", normal, corner[:, 0]) / np.einsum("ni,ni->n", normal, way)
    depth = np.where(hit >= 0, along / 1000.0, NOTHING).reshape(row.shape)
    return depth, hit.reshape(row.shape)


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
