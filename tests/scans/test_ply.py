"""PLY in text and binary: colours, textures, quads, and headers that promise what the file does not hold."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Scan, read_file
from tests.scans.writers import SIDE, bump, image, ply, write

VERTICES, FACES, UV = bump()
TEXT = ply(VERTICES, FACES, color=(200, 150, 100))


def from_bytes(folder: Path, data: bytes, *, need_texture: bool = False) -> Scan:
    return read_file(write(folder / "P020_sad_0.ply", data), need_texture=need_texture)


def binary(*, order: str = "<", colors: bool = True) -> bytes:
    fields = [(axis, f"{order}f4") for axis in "xyz"] + (
        [("red", "u1"), ("green", "u1"), ("blue", "u1")] if colors else []
    )
    vertex = np.zeros(len(VERTICES), fields)
    for axis, column in zip("xyz", VERTICES.T, strict=True):
        vertex[axis] = column
    if colors:
        vertex["red"] = np.arange(len(VERTICES))
    face = np.zeros(len(FACES), [("n", "u1"), ("i", f"{order}i4", 3)])
    face["n"], face["i"] = 3, FACES
    kind = "little" if order == "<" else "big"
    header = [
        "ply",
        f"format binary_{kind}_endian 1.0",
        f"element vertex {len(vertex)}",
        *(f"property float {a}" for a in "xyz"),
    ]
    header += [f"property uchar {c}" for c in ("red", "green", "blue")] if colors else []
    header += [f"element face {len(face)}", "property list uchar int vertex_indices", "end_header\n"]
    return "\n".join(header).encode() + vertex.tobytes() + face.tobytes()


def test_text_with_vertex_colours(tmp_path: Path) -> None:
    scan = from_bytes(tmp_path, TEXT, need_texture=True)
    np.testing.assert_allclose(scan.vertices, VERTICES, atol=1e-4)
    np.testing.assert_array_equal(scan.faces, FACES)
    assert scan.texture is None
    assert scan.vertex_colors is not None
    assert (scan.vertex_colors == (200, 150, 100)).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_with_vertex_colours_keeps_the_order(tmp_path: Path, order: str) -> None:
    scan = from_bytes(tmp_path, binary(order=order), need_texture=True)
    np.testing.assert_allclose(scan.vertices, VERTICES, atol=1e-4)
    np.testing.assert_array_equal(scan.faces, FACES)
    assert scan.vertex_colors is not None
    np.testing.assert_array_equal(scan.vertex_colors[:, 0], np.arange(len(VERTICES)))


def test_unreferenced_vertices_stay(tmp_path: Path) -> None:
    more = np.concatenate([[[500.0, 500.0, 500.0]], VERTICES])
    scan = from_bytes(tmp_path, ply(more, FACES + 1, color=(1, 2, 3)), need_texture=True)
    assert len(scan.vertices) == len(more)
    np.testing.assert_array_equal(scan.faces, FACES + 1)


@pytest.mark.parametrize("mixed", [False, True])
def test_quads_in_text(tmp_path: Path, mixed: bool) -> None:
    number = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    quads = [
        [number[r, c], number[r + 1, c], number[r + 1, c + 1], number[r, c + 1]]
        for r in range(SIDE - 1)
        for c in range(SIDE - 1)
    ]
    polygons: list[list[int]] = [*quads, [0, 1, 2]] if mixed else quads
    expected = [
        [a, b, c] for q in polygons for a, b, c in ([q[:3]] if len(q) == 3 else [q[:3], [q[0], *q[2:]]])
    ]
    scan = from_bytes(tmp_path, ply(VERTICES, polygons, color=(9, 9, 9)), need_texture=True)
    np.testing.assert_array_equal(scan.faces, expected)


@pytest.mark.parametrize("per_face", [False, True])
def test_texture_per_vertex_and_per_face(tmp_path: Path, per_face: bool) -> None:
    pixels = image(tmp_path / "skin.png")
    head = ["ply", "format ascii 1.0", "comment TextureFile skin.png", f"element vertex {len(VERTICES)}"]
    head += ["property float x", "property float y", "property float z"]
    head += [] if per_face else ["property float s", "property float t"]
    head += [f"element face {len(FACES)}", "property list uchar int vertex_indices"]
    head += ["property list uchar float texcoord"] if per_face else []
    corner_uv = (
        UV[FACES] * np.where(np.arange(len(FACES)) % 2, 0.5, 1.0)[:, None, None] if per_face else UV[FACES]
    )
    body = [" ".join(map(str, v if per_face else [*v, *uv])) for v, uv in zip(VERTICES, UV, strict=True)]
    body += [
        " ".join(map(str, [3, *face, *([6, *uv.ravel()] if per_face else [])]))
        for face, uv in zip(FACES, corner_uv, strict=True)
    ]
    scan = from_bytes(tmp_path, "\n".join([*head, "end_header", *body]).encode(), need_texture=True)
    np.testing.assert_array_equal(scan.faces, FACES)
    np.testing.assert_allclose(scan.vertices, VERTICES, atol=1e-4)
    assert scan.texture is not None
    np.testing.assert_array_equal(scan.texture.image, pixels)
    np.testing.assert_allclose(scan.texture.corner_uv, corner_uv, atol=1e-5)
    (tmp_path / "skin.png").unlink()
    with pytest.raises(ValueError, match=r"texture image 'skin\.png' is missing"):
        read_file(tmp_path / "P020_sad_0.ply")


def test_no_colour_at_all(tmp_path: Path) -> None:
    data = ply(VERTICES, FACES, color=None)
    with pytest.raises(ValueError, match=r"neither vertex colours nor texture coordinates.*depth,normals"):
        from_bytes(tmp_path, data, need_texture=True)
    assert from_bytes(tmp_path, data).vertex_colors is None


def test_float_colours_count_to_one(tmp_path: Path) -> None:
    data = (
        TEXT.replace(b"uchar red", b"float red")
        .replace(b"uchar green", b"float green")
        .replace(b"uchar blue", b"float blue")
    )
    colors = from_bytes(
        tmp_path, data.replace(b" 200 150 100", b" 1.0 0.5 0.0"), need_texture=True
    ).vertex_colors
    assert colors is not None
    assert (colors == (255, 128, 0)).all()


BINARY = binary()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n \n", "not with 'ply'"),
        (b"Dear diary, this is a text file.\n" * 50, "starts with 'Dear diary"),
        (b"ply\nformat ascii 1.0\nelement vertex 5\n", "no end_header"),
        (TEXT[: len(TEXT) // 2], "truncated"),
        (TEXT[:-400], "truncated"),
        (BINARY[:-1], "truncated"),
        (BINARY[: len(BINARY) // 2], "truncated"),
        (BINARY.replace(b"vertex 144", b"vertex 99999999999"), "announces at least .* bytes and .* follow"),
        (TEXT.replace(b"face 242", b"face 99999999999"), "announces at least"),
        (TEXT.replace(b"vertex 144", b"vertex -144"), "states no count"),
        (TEXT.replace(b"vertex 144", b"vertex 143"), "trimesh cannot read it|is outside|not finite"),
        (TEXT.replace(b"float x", b"string x"), "trimesh cannot read it"),
        (TEXT.replace(b"float x", b"float q"), "no vertices with x, y and z"),
        (TEXT.replace(b"vertex_indices", b"something"), "points but no faces"),
        (TEXT.replace(b"-60.0000 60.0000", b"nan 60.0000", 1), "1 of 144 vertices are not finite"),
        (TEXT.replace(b"\n3 0 12 1\n", b"\n3 0 144 1\n"), "face index 144 is outside the 144 vertices"),
        (ply(VERTICES, FACES[:9], color=None), "too few"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_bytes(tmp_path, data)
    assert "P020_sad_0.ply: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mixed_polygons_in_binary_are_refused_and_not_misread(tmp_path: Path) -> None:
    head, _, _ = BINARY.partition(b"end_header\n")
    vertices = BINARY[len(head) + len(b"end_header\n") :][: 15 * len(VERTICES)]
    faces = b"".join(bytes([3]) + np.array(f, "<i4").tobytes() for f in FACES[:-1])
    faces += bytes([4]) + np.array([0, 1, 2, 3], "<i4").tobytes()
    with pytest.raises(ValueError, match="triangles and quads mixed"):
        from_bytes(tmp_path, head + b"end_header\n" + vertices + faces)
