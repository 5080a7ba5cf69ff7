"""The contestants: each takes one scan from its file to pictures (3 yaws, 7 channels, 224, 224) uint8, in this process.

All read the file and the texture, draw 3 yaws at 224 x 224 and return colour, depth and normals. `ours` also finds the face,
aligns and crops it, tests the numbers of the file and keeps colours bilinear; the others draw the scan where it lies (simulated
faces are nearly upright, so they get away with it) and normals are the interpolated vertex normals as colours.
Functions are importable at the top level, because worker processes are handed them by name.
"""

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

YAWS, SIZE, RADIUS = (-30.0, 0.0, 30.0), 224, 95.0
NEAR, FAR, DISTANCE = 1.0, 1200.0, 600.0  # mm


def ours(path: Path) -> np.ndarray:
    """`scans.read` -> `geometry.align` -> `views.render` -> `views.encode`, as the workers of `smile prepare` do it."""
    from smile import geometry, scans, views
    from smile.config import ViewConfig

    config = ViewConfig(yaws=YAWS, size=SIZE, radius=RADIUS)
    aligned = geometry.align(scans.read(scans.Frame(path)), radius=RADIUS).scan
    return views.encode(views.render(aligned, config), config)


def pyrender_loop(path: Path) -> np.ndarray:
    """The tutorials' way: a new Scene and a new OffscreenRenderer for each view.

    Where tutorials differ it takes the faster way: meshes are made once a scan, both passes of a view share a renderer, and the
    shader is the flat one.
    """
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.__dict__["infty"] = np.inf  # pyrender 0.1.45 predates numpy 2
        import pyrender
        import trimesh

        textured = trimesh.load(path, force="mesh")
        shown = (
            pyrender.Mesh.from_trimesh(textured),
            pyrender.Mesh.from_trimesh(_normals_as_colours(textured)),
        )
        pictures = []
        for yaw in YAWS:
            renderer = pyrender.OffscreenRenderer(SIZE, SIZE)
            drawn = []
            for mesh in shown:
                scene = pyrender.Scene(bg_color=[0, 0, 0, 0], ambient_light=[1.0, 1.0, 1.0])
                scene.add(mesh)
                scene.add(
                    pyrender.OrthographicCamera(RADIUS, RADIUS, znear=NEAR, zfar=FAR), pose=_camera(yaw)
                )
                drawn.append(renderer.render(scene, pyrender.RenderFlags.FLAT))
            renderer.delete()
            (colour, depth), (normals, _) = drawn
            depth = np.where(
                depth > 0, NEAR + FAR - NEAR * FAR / np.where(depth > 0, depth, 1), 0
            )  # it assumes perspective
            pictures.append(_channels(colour, depth, normals))
    return np.stack(pictures)


def vtk_loop(path: Path) -> np.ndarray:
    """PyVista: one off-screen plotter a pass for all views, which is its faster way; only the camera moves."""
    import pyvista

    mesh, image = pyvista.read(path), pyvista.read_texture(path.with_suffix(".jpg"))
    mesh = mesh.compute_normals(cell_normals=False, split_vertices=False, consistent_normals=False)
    mesh["rgb"] = np.clip((mesh.point_data["Normals"] + 1) * 127.5, 0, 255).astype(np.uint8)
    passes = []
    for options in ({"texture": image}, {"scalars": "rgb", "rgb": True}):
        plotter = pyvista.Plotter(off_screen=True, window_size=[SIZE, SIZE])
        plotter.set_background("black")
        plotter.add_mesh(mesh, lighting=False, **options)
        plotter.enable_parallel_projection()
        plotter.show(auto_close=False, interactive=False)
        passes.append(plotter)
    pictures = []
    for yaw in YAWS:
        eye, up = _camera(yaw)[:3, 3], (0.0, 1.0, 0.0)
        for plotter in passes:
            plotter.camera_position = [tuple(eye), (0.0, 0.0, 0.0), up]
            plotter.camera.parallel_scale = RADIUS
            plotter.camera.clipping_range = (NEAR, FAR)
            plotter.render()
        colour = passes[0].screenshot(return_img=True)
        depth = -np.nan_to_num(passes[0].get_image_depth())
        pictures.append(_channels(colour, depth, passes[1].screenshot(return_img=True)))
    for plotter in passes:
        plotter.close()
    return np.stack(pictures)


def open3d_loop(path: Path) -> np.ndarray:
    """Open3D: the one off-screen renderer of the process, the mesh uploaded once a pass and the camera moved."""
    import open3d

    rendering = open3d.visualization.rendering
    renderer = _filament()
    mesh = open3d.io.read_triangle_mesh(str(path), enable_post_processing=True)
    mesh.compute_vertex_normals()
    colours, normals = rendering.MaterialRecord(), rendering.MaterialRecord()
    colours.shader, normals.shader = "defaultUnlit", "normals"
    colours.albedo_img = open3d.io.read_image(str(path.with_suffix(".jpg")))
    projection = rendering.Camera.Projection.Ortho
    drawn: list[list[np.ndarray]] = []
    for material in (colours, normals):
        renderer.scene.add_geometry("scan", mesh, material)
        for yaw in YAWS:
            renderer.scene.camera.set_projection(projection, -RADIUS, RADIUS, -RADIUS, RADIUS, NEAR, FAR)
            renderer.scene.camera.look_at([0, 0, 0], _camera(yaw)[:3, 3], [0, 1, 0])
            drawn.append([np.asarray(renderer.render_to_image())])
            if material is colours:
                drawn[-1].append(np.asarray(renderer.render_to_depth_image(z_in_view_space=True)))
        renderer.scene.remove_geometry("scan")
    views = len(YAWS)
    return np.stack([_channels(*drawn[view], drawn[views + view][0]) for view in range(views)])


@cache
def _filament() -> Any:
    """Open3D ends the process when a second off-screen renderer is made after the first was deleted."""
    import open3d

    return open3d.visualization.rendering.OffscreenRenderer(SIZE, SIZE)


def _camera(yaw: float) -> np.ndarray:
    """(4, 4) camera to world: on a circle round the origin, looking at it, so that the head turns by `yaw` degrees."""
    angle = -np.deg2rad(yaw)
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = DISTANCE * pose[:3, 2]
    return pose


def _normals_as_colours(mesh: Any) -> Any:
    """A trimesh with its vertex normals as vertex colours."""
    import trimesh

    colours = np.clip((mesh.vertex_normals + 1) * 127.5, 0, 255).astype(np.uint8)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colours, process=False)


def _channels(colour: np.ndarray, depth: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """colour (H, W, 3), depth (H, W) mm, normals (H, W, 3) -> (7, H, W) uint8 as the others would store them."""
    code = np.where(
        np.isfinite(depth) & (depth > 0), np.clip((DISTANCE + 120 - depth) / 160 * 254 + 1, 1, 255), 0
    )
    return np.concatenate(
        [colour[..., :3].transpose(2, 0, 1), code[None].astype(np.uint8), normals[..., :3].transpose(2, 0, 1)]
    )
