"""Several meshes of one capture, as the two halves of a 3dMD face."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile.scans import Frame, Options, find, read
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


# --- halves in a scanner's export --------------------------------------------


def halves_in(root: Path, *, pattern: str | None = None, labels: str | None = None) -> list[tuple[str, ...]]:
    """(name, files of its first frame ...) of each sequence, then the names of the files set aside."""
    csv = write(root.parent / "labels.csv", labels) if labels else None
    listing = find(root, options=Options(pattern=pattern, labels=csv))
    frames = [(s.name, s.frames[0].path, *s.frames[0].parts) for s in listing.sequences]
    aside = [("aside", problem.path) for problem in listing.problems]
    return [(name, *(path.relative_to(root).as_posix() for path in paths)) for name, *paths in frames + aside]


@pytest.mark.parametrize("marks", [("L", "R"), ("left", "right"), ("l", "R"), ("Left", "RIGHT")])
def test_halves_by_the_projects_own_rule(tmp_path: Path, marks: tuple[str, str]) -> None:
    for mark, side, color in zip(marks, (1, -1), ((200, 0, 0), (0, 0, 200)), strict=True):
        half(tmp_path, f"P001_happy_0_{mark}", side, color)
    (sequence,) = find(tmp_path).sequences
    assert (sequence.subject, sequence.label, sequence.name) == ("P001", "happiness", "P001/happiness_0")
    scan = read(sequence.frames[0])
    assert len(scan.faces) == len(FACES)
    assert scan.texture is not None
    x = scan.vertices[scan.faces].mean(axis=1)[:, :1]
    color = color_at(scan.texture.image, scan.texture.corner_uv)
    np.testing.assert_array_equal(color, np.where(x > 0, [[200, 0, 0]], [[0, 0, 200]]))


def test_halves_of_frames_and_a_half_alone(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("P001_sad_0/000_L", "P001_sad_0/000_R", "P002_sad_0_L", "P003_sad_0_L"):
        write(raw / f"{name}.obj", b"x")
    write(raw / "P003_sad_0_R.ply", b"x")
    assert halves_in(raw) == [
        ("P001/sadness_0", "P001_sad_0/000_L.obj", "P001_sad_0/000_R.obj"),
        ("aside", "P002_sad_0_L.obj"),
        ("aside", "P003_sad_0_L.obj"),
        ("aside", "P003_sad_0_R.ply"),
    ]


def test_halves_and_their_whole_are_not_both_taken(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("P001_sad_0", "P001_sad_0_left", "P001_sad_0_right"):
        write(raw / f"{name}.obj", b"x")
    assert halves_in(raw) == [("P001/sadness_0", "P001_sad_0.obj"), ("aside", "P001_sad_0_left.obj")]


def test_halves_by_a_pattern_and_by_a_csv(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for side in "LR":
        write(raw / f"anna/happy_1_{side}.obj", b"x")
    one, two = "anna/happy_1_L.obj", "anna/happy_1_R.obj"
    merged = [("anna/happy_1", one, two)]
    apart = [("anna/happy_1_L", one), ("anna/happy_1_R", two)]
    assert halves_in(raw, pattern="{subject}/{expression}_{}.obj") == merged
    assert halves_in(raw, pattern="{subject}/{expression}_{}_{}.obj") == apart
    assert halves_in(raw, pattern="{subject}/{expression}_{}_L.obj") == [apart[0], ("aside", two)]
    assert halves_in(raw, labels="file,subject\nanna/happy_1.obj,a\n") == merged
    assert halves_in(raw, labels=f"file,subject\n{one},a\n{two},a\n") == apart
    assert halves_in(raw, labels=f"file\n{one}\n{two}\n", pattern="{subject}/{}.obj") == apart
