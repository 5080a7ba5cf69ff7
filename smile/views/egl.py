"""Which face each pixel sees, with pyrender on EGL: a GPU, or Mesa's software renderer, without a display.

Every face is painted in a flat colour that spells its number, so one unlit 8-bit pass a view is all that OpenGL does; depth,
normals and texture are then computed from the face as for the other renderer (shading.py), and the two agree.

Two traps of pyrender 0.1.45 are contained here. Its off-screen buffers are multisampled, which would mix the numbers of
neighbouring faces: `_renderer` asks for one sample. And `np.infty`, which numpy 2 lacks, sits in `Mesh.bounds` alone, which
nothing here calls.
"""

import contextlib
import os
import warnings
from functools import cache
from typing import Any

import numpy as np

from ..config import ViewConfig
from .cameras import EYE, from_view, rotation

MOST_FACES = 2**24 - 1  # what three bytes can spell; 0 is the background


def visible_faces(vertices: np.ndarray, faces: np.ndarray, config: ViewConfig) -> np.ndarray:
    """vertices (v, 3) mm in the project frame, faces (f, 3) -> (V, H, W) int32 face numbers, -1 where nothing is.

    Both sides of a face are seen. The mesh is uploaded once and the camera moves. Raises ValueError beyond 16.7 million faces.
    """
    if len(faces) > MOST_FACES:
        raise ValueError(f"{len(faces)} faces, but pyrender is used for at most {MOST_FACES}: choose numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyrender predates today's numpy; its warnings help no user
        renderer = _renderer(os.getpid())
        import pyrender

        renderer.viewport_width = renderer.viewport_height = config.size
        scene = pyrender.Scene(bg_color=[0.0, 0.0, 0.0, 0.0])
        scene.add(_painted(vertices, faces))
        camera = scene.add(pyrender.OrthographicCamera(config.radius, config.radius, znear=1.0, zfar=2 * EYE))
        scene.main_camera_node = camera
        flags = pyrender.RenderFlags.FLAT | pyrender.RenderFlags.SKIP_CULL_FACES
        views = []
        for yaw in config.yaws:
            scene.set_pose(camera, _camera_pose(yaw))
            colour, _ = renderer.render(scene, flags)
            views.append(colour.astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32) - 1)
    return np.stack(views)


def _painted(vertices: np.ndarray, faces: np.ndarray) -> Any:
    """A pyrender mesh with its own three corners for each face, coloured with the face's number + 1."""
    import pyrender

    numbers = np.arange(1, len(faces) + 1, dtype=np.uint32)
    colours = np.ones((len(faces), 4), dtype=np.float32)
    for byte in range(3):
        colours[:, byte] = ((numbers >> (8 * byte)) & 255) / np.float32(255)
    material = pyrender.MetallicRoughnessMaterial(baseColorFactor=[1.0] * 4, alphaMode="OPAQUE")
    corners = vertices[faces].reshape(-1, 3).astype(np.float32)
    return pyrender.Mesh([pyrender.Primitive(corners, color_0=colours.repeat(3, axis=0), material=material)])


def _camera_pose(yaw: float) -> np.ndarray:
    """(4, 4) camera to project frame."""
    pose = np.eye(4)
    pose[:3, :3] = rotation(yaw).T
    pose[:3, 3] = from_view(np.array([0.0, 0.0, EYE]), yaw)
    return pose


@cache
def _first_process() -> int:
    return os.getpid()


@cache
def _renderer(process: int) -> Any:
    """The one OffscreenRenderer of a process, for pictures of any size.

    It is kept for good: contexts are costly, and pyrender's `delete` ends every context of the display.
    """
    if _first_process() != process:  # a driver's threads do not survive a fork: the child would hang
        raise RuntimeError("OpenGL was started before this process was forked: start workers by spawn")
    # Mesa's software OpenGL and triton, which torch loads, each bring an LLVM of their own; when triton comes second, the
    # process dies (segmentation fault, Mesa 22.3 and triton 3). When it comes first, both work.
    with contextlib.suppress(ImportError, OSError):
        import triton._C.libtriton  # noqa: F401
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    import pyrender
    from pyrender import renderer as internals

    storage = internals.glRenderbufferStorageMultisample
    internals.glRenderbufferStorageMultisample = lambda target, samples, *rest: storage(target, 0, *rest)
    return pyrender.OffscreenRenderer(64, 64)


@cache
def probe(process: int) -> tuple[str, str]:
    """(name of the OpenGL device, ""), or ("", one clause that says what is wrong). Never raises.

    Draws two faces and reads their numbers back, because a driver that dithers or mixes colours would be silently wrong.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _renderer(process)
            from OpenGL.GL import GL_RENDERER, glGetString

            device = glGetString(GL_RENDERER).decode()
        square = np.array([[-60.0, -60, 0], [60, -60, 0], [60, 60, 0], [-60, 60, 0]])
        empty = np.zeros((70000, 3), dtype=np.int64)  # so that the numbers of the two fill three bytes
        faces = np.concatenate([empty, [[0, 1, 2], [0, 2, 3]]])
        seen = visible_faces(square, faces, ViewConfig(yaws=(0.0,), size=16))
        if set(np.unique(seen)) != {-1, 70000, 70001}:
            return "", f"{device} does not return the colours that were drawn"
        return device, ""
    except Exception as error:  # OpenGL fails in many ways, and any of them only means: not here
        return "", f"{type(error).__name__}: {str(error).strip() or 'no EGL device'}".splitlines()[0]
