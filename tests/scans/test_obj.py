"""OBJ: the order of the `v` lines, a texture place per corner, every form of a face, several materials."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Scan, read_file
from tests.scans.writers import SIDE, bump, color_at, image, obj, write

VERTICES, FACES, UV = bump()


def from_text(folder: Path, text: str | bytes, *, need_texture: bool = False) -> Scan:
    return read_file(write(folder / "P001_happy_0.obj", text), need_texture=need_texture)


def with_texture(folder: Path, *, name: str = "skin.png", map_line: str | None = None) -> np.ndarray:
    write(folder / "face.mtl", f"newmtl skin\nKd 0.8 0.8 0.8\n{map_line or f'map_Kd {name}'}\n")
    return image(folder / name)


def test_round_trip_with_texture(tmp_path: Path) -> None:
    pixels = with_texture(tmp_path)
    scan = from_text(tmp_path, obj(), need_texture=True)
    np.testing.assert_array_equal(scan.vertices, VERTICES)
    np.testing.assert_array_equal(scan.faces, FACES)
    assert scan.texture is not None
    np.testing.assert_array_equal(scan.texture.image, pixels)
    np.testing.assert_allclose(scan.texture.corner_uv, UV[FACES], atol=1e-6)
    middle = VERTICES[FACES].mean(axis=1)
    assert (
        color_at(pixels, scan.texture.corner_uv)[(middle[:, 1] > 12) & (middle[:, 0] > 12)] == (10, 250, 10)
    ).all()


def test_seams_and_unreferenced_vertices_keep_the_order(tmp_path: Path) -> None:
    """trimesh would split the seam vertices and drop the first line's."""
    with_texture(tmp_path)
    half = "\n".join(f"vt {u / 2:.6f} {v / 2:.6f}" for u, v in UV)
    lines = [
        "f " + " ".join(f"{i + 2}/{i + 1 + (len(UV) if n % 2 else 0)}" for i in face)
        for n, face in enumerate(FACES)
    ]
    text = (
        "v 999 999 999\n"
        + half.join(obj(lines=lines).partition("usemtl")[:1])
        + half
        + "\nusemtl skin\n"
        + "\n".join(lines)
    )
    scan = from_text(tmp_path, text, need_texture=True)
    np.testing.assert_array_equal(scan.vertices[1:], VERTICES)
    np.testing.assert_array_equal(scan.faces, FACES + 1)
    assert scan.texture is not None
    scale = np.where(np.arange(len(FACES)) % 2, 0.5, 1.0)[:, None, None]
    np.testing.assert_allclose(scan.texture.corner_uv, UV[FACES] * scale, atol=1e-6)


@pytest.mark.parametrize(
    "form", ["{v}", "{v}/{v}", "{v}//7", "{v}/{v}/7", "{n}", "{n}/{n}", "{n}//-1", "{n}/{n}/-1"]
)
def test_every_form_of_a_face_corner(tmp_path: Path, form: str) -> None:
    lines = ["f " + " ".join(form.format(v=i + 1, n=i - len(VERTICES)) for i in face) for face in FACES]
    np.testing.assert_array_equal(from_text(tmp_path, obj(lines=lines)).faces, FACES)
    if form.count("/") - form.count("//") * 2 > 0:
        with_texture(tmp_path)
        texture = from_text(tmp_path, obj(lines=lines), need_texture=True).texture
        assert texture is not None
        np.testing.assert_allclose(texture.corner_uv, UV[FACES], atol=1e-6)


def test_relative_indices_count_from_their_own_line(tmp_path: Path) -> None:
    """Each triangle right behind its own three vertices, as some scanners stream them."""
    text = "\n".join(
        "\n".join([*(f"v {x} {y} {z}" for x, y, z in VERTICES[face]), "f -3 -2 -1"])
        for face in FACES.tolist()
    )
    scan = from_text(tmp_path, text)
    np.testing.assert_array_equal(scan.vertices[scan.faces], VERTICES[FACES])


def test_quads_continued_lines_tabs_and_crlf(tmp_path: Path) -> None:
    with_texture(tmp_path)
    number = np.arange(1, SIDE * SIDE + 1).reshape(SIDE, SIDE)
    quads = [
        (number[r, c], number[r + 1, c], number[r + 1, c + 1], number[r, c + 1])
        for r in range(SIDE - 1)
        for c in range(SIDE - 1)
    ]
    lines = ["\tf {0}/{0}\t{1}/{1} \\\n {2}/{2} {3}/{3}  # quad".format(*q).split("  #")[0] for q in quads]
    scan = from_text(tmp_path, obj(lines=lines).replace("\n", "\r\n"), need_texture=True)
    expected = np.array([[[a, b, c], [a, c, d]] for a, b, c, d in quads]).reshape(-1, 3) - 1
    np.testing.assert_array_equal(scan.faces, expected)
    assert scan.texture is not None
    np.testing.assert_allclose(scan.texture.corner_uv, UV[expected], atol=1e-6)


@pytest.mark.parametrize(
    "map_line", ["map_Kd my skin.png", "map_Kd MY SKIN.PNG", "map_Kd C:\\scans\\my skin.png"]
)
def test_image_names_with_blanks_cases_and_folders(tmp_path: Path, map_line: str) -> None:
    with_texture(tmp_path, name="my skin.png", map_line=map_line)
    assert from_text(tmp_path, obj(), need_texture=True).texture is not None


def test_image_options_are_passed_over(tmp_path: Path) -> None:
    with_texture(tmp_path, map_line="map_Kd -s 1 1 1 -clamp on skin.png")
    assert from_text(tmp_path, obj(), need_texture=True).texture is not None


def test_several_materials_become_one_texture(tmp_path: Path) -> None:
    """Two images and a plain colour: each face must still show its own."""
    left, right = image(tmp_path / "left.png", height=20, width=10), image(tmp_path / "right.png")
    write(
        tmp_path / "face.mtl",
        "newmtl a\nmap_Kd left.png\nnewmtl b\nmap_Kd right.png\nnewmtl plain\nKd 1 0 0.2\n",
    )
    third = len(FACES) // 3
    lines = ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in FACES[: 2 * third]]
    lines += ["f " + " ".join(f"{i + 1}" for i in face) for face in FACES[2 * third :]]
    lines = [
        "usemtl a",
        *lines[:third],
        "usemtl b",
        *lines[third : 2 * third],
        "usemtl plain",
        *lines[2 * third :],
    ]
    scan = from_text(tmp_path, obj(lines=lines, material=""), need_texture=True)
    np.testing.assert_array_equal(scan.faces, FACES)
    assert scan.texture is not None
    colors = color_at(scan.texture.image, scan.texture.corner_uv)
    away = (np.abs(UV[FACES].mean(axis=1) - 0.5) > 0.05).all(axis=1)  # from the border between two quarters
    for part, pixels in ((slice(0, third), left), (slice(third, 2 * third), right)):
        assert (colors[part][away[part]] == color_at(pixels, UV[FACES[part]])[away[part]]).all()
    assert (colors[2 * third :] == (255, 0, 51)).all()


def test_materials_sharing_one_image_do_not_double_it(tmp_path: Path) -> None:
    pixels = image(tmp_path / "skin.png")
    write(tmp_path / "face.mtl", "newmtl a\nmap_Kd skin.png\nnewmtl b\nmap_Kd skin.png\n")
    lines = ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in FACES]
    scan = from_text(
        tmp_path, obj(lines=["usemtl a", *lines[:100], "usemtl b", *lines[100:]]), need_texture=True
    )
    assert scan.texture is not None
    assert scan.texture.image.shape == pixels.shape
    np.testing.assert_allclose(scan.texture.corner_uv, UV[FACES], atol=1e-6)


def test_vertex_colours(tmp_path: Path) -> None:
    lines = ["f " + " ".join(str(i + 1) for i in face) for face in FACES]
    text = "\n".join(
        line for line in obj(colors=True, lines=lines, library="").splitlines() if not line.startswith("vt")
    )
    scan = from_text(tmp_path, text, need_texture=True)
    assert scan.texture is None
    assert scan.vertex_colors is not None
    assert (scan.vertex_colors == (128, 64, 255)).all()


def test_a_missing_library_falls_back_to_the_image_of_the_stem(tmp_path: Path) -> None:
    image(tmp_path / "P001_happy_0.jpg")
    assert from_text(tmp_path, obj(), need_texture=True).texture is not None


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (None, r"material file 'face\.mtl', which names the texture, is missing.*depth,normals"),
        ("newmtl skin\nmap_Kd gone.png\n", r"texture image 'gone\.png' is missing.*depth,normals"),
        ("newmtl skin\nKd 1 1 1\n", r"texture image 'P001_happy_0\.jpg' is missing"),
    ],
)
def test_missing_textures_are_named(tmp_path: Path, library: str | None, message: str) -> None:
    if library is not None:
        write(tmp_path / "face.mtl", library)
    with pytest.raises(ValueError, match=message):
        from_text(tmp_path, obj(), need_texture=True)
    assert from_text(tmp_path, obj()).texture is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "no vertices"),
        (b"just a letter to the editor\n" * 9, "no vertices"),
        (bytes(range(256)) * 20, "no vertices"),
        (obj().partition("usemtl")[0], "144 points but no faces"),
        (obj().replace("v -60.0000 ", "v -60.0000 -60.0000 ", 1), "numbers and the first line"),
        (obj().replace("v -60.0000 60.0000 10.0000", "v nan inf 0", 1), "1 of 144 vertices are not finite"),
        (obj().replace("v -60.0000", "v -60,0000", 1), "is not a number"),
        (obj().replace("f 1/1 ", "f 145/1 "), "face index 144 is outside the 144 vertices"),
        (obj().replace("f 1/1 ", "f 0/1 "), "face index -1"),
        (obj().replace("f 1/1 ", "f -200/1 "), "face index -2"),
        (obj().replace("f 1/1 ", "f 1/1/1/1 "), "not of the form"),
        (obj().rstrip().rpartition("/")[0] + "/", "not of the form"),
        (obj().rstrip().rpartition(" ")[0], "fewer than three corners"),
        (obj().rstrip() + "/", "not of the form"),
        ("\n".join(obj().splitlines()[:-200]), "too few"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_text(tmp_path, text)
    assert "P001_happy_0.obj: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("f 1/1 ", "f 1/145 "), "texture index 144 is outside the 144 vt lines"),
        (("f 1/1 ", "f 1 "), "1 of 242 faces have no texture coordinates"),
        (("vt 0.000000 1.000000", "vt 0"), "numbers and the first line"),
        (("vt 0.090909", "vt nan"), "texture coordinates are not finite"),
    ],
)
def test_damaged_texture_coordinates(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with_texture(tmp_path)
    text = obj().replace(*change, 2 if "nan" in change[1] else 1)
    with pytest.raises(ValueError, match=message):
        from_text(tmp_path, text, need_texture=True)
    assert len(from_text(tmp_path, text).faces) == len(FACES)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + obj(library="", material="").lstrip(),
        obj().replace("v -60.0000 60.0000 10.0000", "v -60.0000 60.0000 10.0000 # corner", 1),
        obj().replace("f 1/1 ", "  f 1/1 ", 1).rstrip() + " # the last face\n",
    ],
)
def test_byte_order_marks_and_comments_after_numbers(tmp_path: Path, text: str) -> None:
    scan = read_file(write(tmp_path / "a.obj", text), need_texture=False)
    np.testing.assert_allclose(scan.vertices, bump()[0], atol=1e-4)
    np.testing.assert_array_equal(scan.faces, bump()[1])
