"""Pictures of surfaces with known answers, from both renderers; numpy against rays cast here, and pyrender against numpy."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smile import views
from smile.config import ViewConfig
from smile.geometry import align
from smile.scans import find, read
from smile.scans.scan import Scan
from smile.views import Maps, cameras, egl, raster, render
from smile.views.cameras import PIVOT
from tests.views.shapes import face, grid_faces, plane, sphere

ROOT = Path(__file__).parent.parent.parent
SITES = ROOT.parent / "shared" / "sites"
GEOMETRY = ("depth", "normals")
Draw = Callable[[Scan, ViewConfig], Maps]


def need(renderer: str) -> None:
    try:
        views.choose_renderer(renderer)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(params=views.RENDERERS)
def draw(request: pytest.FixtureRequest) -> Draw:
    need(request.param)
    return lambda scan, config: render(scan, config, renderer=request.param)


def pixels(config: ViewConfig) -> tuple[np.ndarray, np.ndarray]:
    """x and y (H, W) of the pixel centres, written out independently of cameras.py."""
    step = 2 * config.radius / config.size
    rows, columns = np.mgrid[: config.size, : config.size]
    return -config.radius + (columns + 0.5) * step, config.radius - (rows + 0.5) * step


def test_a_sphere_has_its_silhouette_depth_and_normals(draw: Draw) -> None:
    config = ViewConfig(yaws=(-30.0, 0.0, 45.0), size=200, radius=80.0, modalities=GEOMETRY)
    maps = draw(sphere(60.0), config)
    x, y = pixels(config)
    inner = x**2 + y**2 < 55**2
    height = np.sqrt(np.where(inner, 60**2 - x**2 - y**2, 0))
    for depth, normals in zip(maps.depth, maps.normals, strict=True):
        area = np.isfinite(depth).sum() * (160 / 200) ** 2
        assert area == pytest.approx(np.pi * 60**2, rel=0.005)
        assert np.abs(depth - PIVOT[2] - height)[inner].max() < 0.1
        expected = np.stack([x, y, height], axis=-1)[inner] / 60
        assert (normals[inner] * expected).sum(-1).min() > np.cos(np.deg2rad(1))
        outside = np.isnan(depth)
        assert outside.any() and not normals[outside].any()
    assert maps.depth.dtype == maps.normals.dtype == np.float32
    assert maps.colour is None  # texture was not asked for


@pytest.mark.parametrize("yaw", [-40.0, 25.0])
def test_a_plane_at_a_known_angle(draw: Draw, yaw: float) -> None:
    config = ViewConfig(yaws=(yaw,), size=100, radius=80.0, modalities=GEOMETRY)
    maps = draw(plane(half=60.5), config)  # no pixel centre lies on its border
    x, y = pixels(config)
    sine, cosine = np.sin(np.deg2rad(yaw)), np.cos(np.deg2rad(yaw))
    seen = (np.abs(x) < 60.5 * cosine) & (np.abs(y) < 60.5)
    np.testing.assert_array_equal(np.isfinite(maps.depth[0]), seen)
    np.testing.assert_allclose(maps.depth[0][seen], (PIVOT[2] - x * sine / cosine)[seen], atol=0.01)
    np.testing.assert_allclose(
        maps.normals[0][seen], np.broadcast_to([sine, 0, cosine], (seen.sum(), 3)), atol=1e-5
    )


def test_texture_is_upright_and_not_mirrored(draw: Draw) -> None:
    config = ViewConfig(yaws=(0.0,), size=80, radius=80.0)
    colour = draw(plane(half=60.0), config).colour
    assert colour is not None and colour.dtype == np.uint8
    quarters = colour[0, [20, 20, 60, 60], [20, 60, 20, 60]]
    np.testing.assert_array_equal(quarters, [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])
    assert not colour[0, 2, 2].any()


def test_texture_wins_over_vertex_colours_and_these_are_blended(draw: Draw) -> None:
    config = ViewConfig(yaws=(0.0,), size=80, radius=80.0)
    square = plane(half=60.0)
    ramp = np.rint((square.vertices[:, :1] + 60) / 120 * 200).astype(np.uint8).repeat(3, axis=1)
    both, alone = replace(square, vertex_colors=ramp), replace(square, vertex_colors=ramp, texture=None)
    textured, blended = draw(both, config).colour, draw(alone, config).colour
    assert textured is not None and blended is not None
    np.testing.assert_array_equal(textured[0, 20, 20], [255, 0, 0])
    x, _ = pixels(config)
    seen = np.abs(x[40]) < 60
    assert np.abs(blended[0, 40, seen, 0] - (x[40][seen] + 60) / 120 * 200).max() <= 1.01


def test_a_positive_yaw_shows_the_right_cheek(draw: Draw) -> None:
    """Red is the subject's right half, x < 0; green is the nose."""
    ball = sphere(60.0)
    colours = np.zeros(ball.vertices.shape, np.uint8)
    colours[ball.vertices[:, 0] < 0, 0] = 200
    colours[np.linalg.norm(ball.vertices - [0, 0, 10], axis=1) < 12, 1] = 250
    config = ViewConfig(yaws=(-30.0, 0.0, 30.0), size=64, radius=80.0)
    colour = draw(replace(ball, vertex_colors=colours), config).colour
    assert colour is not None
    red = (colour[..., 0] > 150).sum((1, 2))
    assert red[0] < 0.8 * red[1] < 0.7 * red[2]
    nose_columns = [np.nonzero(view[..., 1] > 100)[1].mean() for view in colour]
    assert nose_columns[0] < 25 < 30 < nose_columns[1] < 33 < 38 < nose_columns[2]


def test_holes_stay_empty_and_both_sides_are_seen(draw: Draw) -> None:
    config = ViewConfig(yaws=(0.0,), size=80, radius=80.0, modalities=GEOMETRY)
    square = plane(half=60.0)
    centres = square.vertices[square.faces].mean(1)
    holed = replace(square, faces=square.faces[np.abs(centres[:, :2]).max(1) > 20], texture=None)
    x, y = pixels(config)
    expected = (np.maximum(np.abs(x), np.abs(y)) < 60) & (np.maximum(np.abs(x), np.abs(y)) > 20)
    front, back = draw(holed, config), draw(replace(holed, faces=holed.faces[:, ::-1]), config)
    for maps in (front, back):
        np.testing.assert_array_equal(np.isfinite(maps.depth[0]), expected)
        np.testing.assert_allclose(
            maps.normals[0][expected], np.broadcast_to([0, 0, 1.0], (expected.sum(), 3))
        )


def test_the_nearer_of_two_surfaces_is_seen(draw: Draw) -> None:
    config = ViewConfig(yaws=(0.0,), size=32, radius=80.0, modalities=GEOMETRY)
    far, near = plane(half=70.0, z=-80.0), plane(half=30.0, z=-20.0)
    faces = np.concatenate([far.faces, near.faces + len(far.vertices)])
    both = Scan(np.concatenate([far.vertices, near.vertices]), faces)
    depth = draw(both, config).depth[0]
    assert depth[16, 16] == pytest.approx(-20, abs=0.01)
    assert depth[4, 16] == pytest.approx(-80, abs=0.01)


def test_a_scan_without_colours_is_refused_when_texture_is_asked_for(draw: Draw) -> None:
    with pytest.raises(ValueError, match=r"neither a texture nor vertex colours.*--modalities depth,normals"):
        draw(sphere(), ViewConfig(size=16))


def test_pictures_of_several_sizes_in_turn(draw: Draw) -> None:
    shares = [
        np.isfinite(draw(sphere(), ViewConfig(yaws=(0.0,), size=size, modalities=GEOMETRY)).depth).mean()
        for size in (64, 200, 32, 64)
    ]
    assert np.ptp(shares) < 0.01


# --- the renderers --------------------------------------------------------------------------------------


def cast(scan: Scan, config: ViewConfig, *, view: int, row: int, column: int) -> tuple[int, float]:
    """(face, z in the view frame) that a ray through one pixel centre meets first, or (-1, nan): Moeller and Trumbore 1997.

    Slow and written out in full, so that nothing is shared with the renderers: the ray is turned, the scan stays where it is.
    """
    angle = np.deg2rad(config.yaws[view])
    step = 2 * config.radius / config.size
    across, up = -config.radius + (column + 0.5) * step, config.radius - (row + 0.5) * step
    right = np.array([np.cos(angle), 0, np.sin(angle)])
    towards = np.array([-np.sin(angle), 0, np.cos(angle)])  # from the pivot to the camera
    pivot = np.array([0, 0, -50.0])
    origin = pivot + across * right + np.array([0, up, 0]) + 1000 * towards
    a, b, c = scan.vertices[scan.faces.T]
    beside = np.cross(-towards, c - a)
    volume = (beside * (b - a)).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        second = (beside * (origin - a)).sum(1) / volume
        around = np.cross(origin - a, b - a)
        third = around @ -towards / volume
        way = (around * (c - a)).sum(1) / volume
        met = np.flatnonzero((second >= 0) & (third >= 0) & (second + third <= 1))
    if not len(met):
        return -1, np.nan
    first = met[way[met].argmin()]
    return int(first), pivot[2] + 1000 - way[first]


def assert_as_cast(scan: Scan, config: ViewConfig, *, count: int) -> None:
    """`count` random pixels of every view against the rays: the same face, at the same depth, and nothing where nothing is."""
    seen = raster.visible_faces(scan.vertices, scan.faces, config)
    depth = render(scan, config, renderer="numpy").depth
    random = np.random.default_rng(0)
    hits = 0
    for view in range(len(config.yaws)):
        for row, column in random.integers(0, config.size, (count, 2)):
            face_number, z = cast(scan, config, view=view, row=row, column=column)
            hits += face_number >= 0
            assert seen[view, row, column] == face_number, (view, row, column)
            np.testing.assert_allclose(depth[view, row, column], z, atol=0.002)
    assert 0.1 < hits / (count * len(config.yaws)) < 1  # the pixels show both


@pytest.mark.parametrize("size", [64, 224])
def test_numpy_sees_what_rays_meet(size: int) -> None:
    config = ViewConfig(yaws=(-75.0, -30.0, 0.0, 30.0), size=size, modalities=GEOMETRY)
    assert_as_cast(align(face(spacing=2.5), radius=95.0).scan, config, count=150)


@pytest.mark.parametrize("seed", range(4))
def test_numpy_sees_what_rays_meet_in_a_heap_of_triangles(seed: int) -> None:
    """Slivers, large and tiny ones, turned both ways, through each other and over the border of the picture."""
    random = np.random.default_rng(seed)
    middle = random.uniform(-110, 110, (150, 1, 3))
    size = 10 ** random.uniform(-0.5, 1.9, (150, 1, 1))
    vertices = (middle + size * random.normal(size=(150, 3, 3))).reshape(-1, 3)
    config = ViewConfig(yaws=(-40.0, 0.0, 65.0), size=48, radius=80.0, modalities=GEOMETRY)
    assert_as_cast(Scan(vertices, np.arange(450).reshape(-1, 3)), config, count=300)


def assert_alike(scan: Scan, config: ViewConfig) -> None:
    need("pyrender")
    one, two = (render(scan, config, renderer=name) for name in views.RENDERERS)
    seen_one, seen_two = np.isfinite(one.depth), np.isfinite(two.depth)
    both = seen_one & seen_two
    assert both.sum() / (seen_one | seen_two).sum() >= 0.99  # the contract; measured: above 0.9999
    assert np.median(np.abs(one.depth - two.depth)[both]) <= 0.5
    assert np.quantile(np.abs(one.depth - two.depth)[both], 0.99) <= 0.5
    assert np.quantile((one.normals * two.normals).sum(-1)[both], 0.01) >= np.cos(np.deg2rad(2))
    if one.colour is not None and two.colour is not None:
        assert np.quantile(np.abs(one.colour[both].astype(int) - two.colour[both]), 0.99) <= 2


@pytest.mark.parametrize("size", [64, 224])
def test_both_renderers_see_the_same_face(size: int) -> None:
    assert_alike(align(face(spacing=1.5), radius=95.0).scan, ViewConfig(size=size))


@pytest.mark.skipif(not SITES.is_dir(), reason="the sample sites are not beside the checkout")
@pytest.mark.parametrize("site", ["north-bu4dfe", "centre-bu3dfe", "south-bosphorus", "east-obj", "west-ply"])
def test_both_renderers_see_the_same_sample(site: str) -> None:
    sequence = find(SITES / site).sequences[0]
    assert_alike(align(read(sequence.frames[0]), radius=95.0).scan, ViewConfig(size=128))


def test_large_faces_are_tested_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    config, scan = ViewConfig(size=64), sphere(60.0, steps=40)
    whole = raster.visible_faces(scan.vertices, scan.faces, config)
    monkeypatch.setattr(raster, "MOST_PAIRS", 10)
    np.testing.assert_array_equal(raster.visible_faces(scan.vertices, scan.faces, config), whole)


def test_no_pixel_slips_between_two_faces() -> None:
    """Every pixel centre lies on a grid line or on a diagonal of the mesh."""
    config = ViewConfig(yaws=(0.0,), size=32, radius=80.0)
    centres, _ = cameras.pixel_centres(config)
    x, y = np.meshgrid(centres, centres[::-1])
    vertices = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
    assert (raster.visible_faces(vertices, grid_faces(*x.shape), config) >= 0).all()


def test_faces_without_an_area_or_outside_the_picture_are_not_seen() -> None:
    config = ViewConfig(yaws=(0.0,), size=16, radius=80.0)
    vertices = np.array([[-5.0, 0, 0], [5, 0, 0], [0, 0, 50], [500, 0, 0], [600, 0, 0], [500, 90, 0]])
    faces = np.array([[0, 0, 0], [0, 1, 2], [0, 1, 1], [3, 4, 5]])
    assert (raster.visible_faces(vertices, faces, config) == -1).all()


def test_meshes_do_not_pile_up_in_the_driver() -> None:
    need("pyrender")
    from OpenGL.GL import glDeleteBuffers, glGenBuffers, glIsBuffer

    config, scan = ViewConfig(yaws=(0.0,), size=16, modalities=GEOMETRY), sphere(60.0, steps=10)
    for _ in range(20):
        render(scan, config, renderer="pyrender")
    newest = int(glGenBuffers(1))
    glDeleteBuffers(1, [newest])
    assert (
        sum(bool(glIsBuffer(name)) for name in range(1, newest + 1)) <= 4
    )  # the last mesh waits for the next


# --- which renderer -----------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="choose auto, numpy or pyrender"):
        views.choose_renderer("opengl")


@pytest.mark.parametrize("name", views.RENDERERS)
def test_a_renderer_asked_for_by_name_is_given(name: str) -> None:
    need(name)
    chosen, why = views.choose_renderer(name)
    assert chosen == name and why.endswith(".")


EGL_GONE = "ImportError: libEGL.so.1 is missing"
LLVMPIPE, GPU = "llvmpipe (LLVM 15)", "NVIDIA H100/PCIe"


@pytest.mark.parametrize(
    ("gpu_in_sight", "device", "expected", "why"),
    [
        (False, GPU, "numpy", "no GPU is visible"),
        (True, "", "numpy", "EGL offers no GPU.*libEGL.so.1 is missing"),
        (True, LLVMPIPE, "numpy", "EGL offers no GPU.*llvmpipe"),
        (True, GPU, "pyrender", "a GPU, NVIDIA"),
    ],
)
def test_the_automatic_choice(
    monkeypatch: pytest.MonkeyPatch, gpu_in_sight: bool, device: str, expected: str, why: str
) -> None:
    monkeypatch.setattr(views, "_gpu_in_sight", lambda: gpu_in_sight)
    monkeypatch.setattr(egl, "probe", lambda process: (device, "" if device else EGL_GONE))
    chosen, reason = views.choose_renderer("auto")
    assert chosen == expected
    assert re.search(why, reason)


def test_a_renderer_that_is_not_there_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(egl, "probe", lambda process: ("", EGL_GONE))
    with pytest.raises(ValueError, match=r"pip install pyrender.*choose numpy"):
        views.choose_renderer("pyrender")


def test_a_machine_without_egl_is_a_reason_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(process: int) -> None:
        raise OSError("libEGL.so.1: cannot open shared object file\nand more")

    monkeypatch.setattr(egl, "_renderer", broken)
    device, problem = egl.probe.__wrapped__(os.getpid())
    assert device == ""
    assert problem == "OSError: libEGL.so.1: cannot open shared object file"


def test_a_forked_process_is_told_instead_of_hanging() -> None:
    egl._first_process()
    with pytest.raises(RuntimeError, match="start workers by spawn"):
        egl._renderer.__wrapped__(os.getpid() + 1)


def test_torch_can_be_imported_after_opengl_was_started() -> None:
    """In a fresh process: with Mesa's software OpenGL, triton's LLVM must come first."""
    need("pyrender")
    pytest.importorskip("triton")
    code = (
        "import os; from smile.views import egl; assert egl.probe(os.getpid())[0]; import triton._C.libtriton"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
