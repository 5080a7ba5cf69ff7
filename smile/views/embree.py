"""Which face each pixel sees, by ray casting on the CPU with Intel Embree: no display, no driver, no OpenGL."""

import numpy as np

from ..config import ViewConfig
from .cameras import rays


def visible_faces(vertices: np.ndarray, faces: np.ndarray, config: ViewConfig) -> np.ndarray:
    """vertices (v, 3) mm in the project frame, faces (f, 3) -> (V, H, W) int32 face numbers, -1 where nothing is.

    Both sides of a face are seen. One search tree serves all views.
    """
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene(robust=True)  # robust: no ray slips through the edge between two faces
    TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
    origins, directions = rays(config)
    hits = scene.run(origins.reshape(-1, 3).astype(np.float32), directions.reshape(-1, 3).astype(np.float32))
    return np.asarray(hits, dtype=np.int32).reshape(origins.shape[:-1])
