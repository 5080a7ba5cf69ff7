"""Pictures of surfaces with known answers, from both renderers; and the two against each other."""

import os
import re
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
from smile.views import Maps, egl, render
from smile.views.cameras import PIVOT
from tests.views.shapes import face, plane, sphere

SITES = Path(__file__).parent.parent.parent.parent / "shared" / "sites"
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


# --- the two renderers --------------------------------------------------------------------------------------


def assert_alike(scan: Scan, config: ViewConfig) -> None:
    need("embree")
    need("pyrender")
    one, two = render(scan, config, renderer="embree"), render(scan, config, renderer="pyrender")
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
    with pytest.raises(ValueError, match="choose auto, embree or pyrender"):
        views.choose_renderer("opengl")


@pytest.mark.parametrize("name", views.RENDERERS)
def test_a_renderer_asked_for_by_name_is_given(name: str) -> None:
    need(name)
    chosen, why = views.choose_renderer(name)
    assert chosen == name and why.endswith(".")


EMBREE_GONE, EGL_GONE = "No module named 'embreex'", "ImportError: libEGL.so.1 is missing"
LLVMPIPE, GPU = "llvmpipe (LLVM 15)", "NVIDIA H100/PCIe"


@pytest.mark.parametrize(
    ("gpu_in_sight", "embree", "device", "expected", "why"),
    [
        (False, "", "", "embree", "no GPU is visible"),
        (True, "", "", "embree", "EGL offers no GPU.*libEGL.so.1 is missing"),
        (True, "", LLVMPIPE, "embree", "EGL offers no GPU.*llvmpipe"),
        (True, "", GPU, "pyrender", "a GPU, NVIDIA"),
        (False, EMBREE_GONE, LLVMPIPE, "pyrender", "embree cannot be used.*in software"),
        (False, EMBREE_GONE, GPU, "pyrender", "a GPU, NVIDIA"),
    ],
)
def test_the_automatic_choice(
    monkeypatch: pytest.MonkeyPatch, gpu_in_sight: bool, embree: str, device: str, expected: str, why: str
) -> None:
    monkeypatch.setattr(views, "_gpu_in_sight", lambda: gpu_in_sight)
    monkeypatch.setattr(views, "_embree_problem", lambda: embree)
    monkeypatch.setattr(egl, "probe", lambda process: (device, "" if device else EGL_GONE))
    chosen, reason = views.choose_renderer("auto")
    assert chosen == expected
    assert re.search(why, reason)


def test_without_any_renderer_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_embree_problem", lambda: EMBREE_GONE)
    monkeypatch.setattr(egl, "probe", lambda process: ("", EGL_GONE))
    for name in ("auto", "embree", "pyrender"):
        with pytest.raises(ValueError, match="pip install"):
            views.choose_renderer(name)


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


def test_embree_that_cannot_be_imported_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    assert "embreex" in views._embree_problem.__wrapped__()
