"""Several meshes of one capture, as the two halves of a 3dMD face."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile.scans import Frame, read
from tests.scans.writers import bump, color_at, ply, write

VERTICES, FACES, UV = bump()


def half(folder: Path, name: str, side: int, color: tuple[int, int, int] | None) -> Path:
    """One half of the bulge as OBJ with a plain image of its own."""
    faces = FACES[side * VERTICES[FACES, 0].mean(axis=1) > 0]
    lines = [f"v {x} {y} {z}" for x, y, z in VERTICES] + [f"vt {u} {v}" for u, v in UV]
    lines += [" ".join(["f", *(f"{i + 1}/{i + 1}" for i in face)]) for face in faces]
    if color:
        Image.new("RGB", (20 + 5 * side, 10), color).save(folder / f"{name}.png")
    return write(folder / f"{name}.obj", "\n".join(lines))


def test_two_halves_become_one_face(tmp_path: Path) -> None:
    left, right = half(tmp_path, "left", 1, (200, 0, 0)), half(tmp_path, "right", -1, (0, 0, 200))
    scan = read(Frame(left, parts=(right,)))
    assert scan.texture is not None
    assert len(scan.vertices) == 2 * len(VERTICES)
    assert len(scan.faces) == len(FACES)
    x = scan.vertices[scan.faces].mean(axis=1)[:, :1]
    color = color_at(scan.texture.image, scan.texture.corner_uv)
    np.testing.assert_array_equal(color, np.where(x > 0, [[200, 0, 0]], [[0, 0, 200]]))
    np.testing.assert_array_equal(scan.vertices[: len(VERTICES)], read(Frame(left)).vertices)


def test_halves_may_share_one_image_or_none(tmp_path: Path) -> None:
    left, right = half(tmp_path, "left", 1, (200, 0, 0)), half(tmp_path, "right", -1, None)
    scan = read(Frame(left, texture=tmp_path / "left.png", parts=(right,)))
    assert scan.texture is not None
    assert scan.texture.image.shape == (10, 25, 3)
    assert scan.texture.corner_uv.shape == (len(FACES), 3, 2)
    assert read(Frame(left, parts=(right,)), need_texture=False).texture is None
    with pytest.raises(
        ValueError, match=r"left\.obj: part right\.obj: texture image 'right\.jpg' is missing"
    ):
        read(Frame(left, parts=(right,)))
    with pytest.raises(ValueError, match=r"part gone\.obj: no such file"):
        read(Frame(left, parts=(tmp_path / "gone.obj",)), need_texture=False)


def test_halves_with_colours(tmp_path: Path) -> None:
    one = write(tmp_path / "a.ply", ply(VERTICES, FACES, color=(1, 2, 3)))
    two = write(tmp_path / "b.ply", ply(VERTICES + np.array([200, 0, 0]), FACES, color=(4, 5, 6)))
    scan = read(Frame(one, parts=(two,)))
    assert scan.vertex_colors is not None
    np.testing.assert_array_equal(scan.vertex_colors[[0, -1]], [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(ValueError, match="one of its 2 parts has a texture and another one has none"):
        read(Frame(one, parts=(half(tmp_path, "left", 1, (9, 9, 9)),)))
