"""VRML 2.0: every point of the grammar that the data-set notes list, and every way to damage a file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile.scans import Scan, read_file
from smile.scans.vrml import parse
from tests.scans.writers import SIDE, bump, bump_wrl, color_at, image, indices, joined, write, wrl

VERTICES, FACES, UV = bump()


def from_text(folder: Path, text: str | bytes, *, need_texture: bool = False) -> Scan:
    return read_file(write(folder / "000.wrl", text), need_texture=need_texture)


def test_round_trip_keeps_order_faces_and_corners(tmp_path: Path) -> None:
    pixels = image(tmp_path / "000.png")
    scan = from_text(tmp_path, bump_wrl(url="000.png"), need_texture=True)
    np.testing.assert_array_equal(scan.vertices, VERTICES)
    np.testing.assert_array_equal(scan.faces, FACES)
    assert scan.texture is not None
    np.testing.assert_array_equal(scan.texture.image, pixels)
    np.testing.assert_allclose(scan.texture.corner_uv, UV[FACES], atol=1e-6)


def test_texture_v_counts_from_the_bottom(tmp_path: Path) -> None:
    image(tmp_path / "000.png")
    scan = from_text(tmp_path, bump_wrl(url="000.png"), need_texture=True)
    assert scan.texture is not None
    colors, middle = color_at(scan.texture.image, scan.texture.corner_uv), VERTICES[FACES].mean(axis=1)
    upper_left = (middle[:, 1] > 12) & (middle[:, 0] < -12)
    lower_left = (middle[:, 1] < -12) & (middle[:, 0] < -12)
    assert (colors[upper_left] == (250, 10, 10)).all()
    assert (colors[lower_left] == (10, 10, 250)).all()


def test_seams_keep_vertices_whole(tmp_path: Path) -> None:
    """Two places in the image for one vertex: its number must not change, each corner keeps its own place."""
    image(tmp_path / "000.jpg")
    uv = np.concatenate([UV, UV * 0.5])
    uv_index = np.where(np.arange(len(FACES))[:, None] % 2 == 0, FACES, FACES + len(UV))
    scan = from_text(tmp_path, bump_wrl(uv=joined(uv), uv_index=indices(uv_index)), need_texture=True)
    assert len(scan.vertices) == len(VERTICES)
    assert scan.texture is not None
    np.testing.assert_allclose(scan.texture.corner_uv, uv[uv_index], atol=1e-6)


@pytest.mark.parametrize("last", [True, False])
def test_missing_tex_coord_index_means_coord_index(tmp_path: Path, last: bool) -> None:
    image(tmp_path / "000.jpg")
    scan = from_text(tmp_path, bump_wrl(uv_index="", coord=indices(FACES, last=last)), need_texture=True)
    assert scan.texture is not None
    np.testing.assert_allclose(scan.texture.corner_uv, UV[FACES], atol=1e-6)


def test_quads_and_larger_polygons_become_fans(tmp_path: Path) -> None:
    image(tmp_path / "000.jpg")
    number = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    polygons = [
        [number[r, c], number[r + 1, c], number[r + 1, c + 1], number[r, c + 1]]
        for r in range(SIDE - 1)
        for c in range(SIDE - 1)
    ]
    polygons.append([0, 1, 2, 3, 4])
    expected = [[p[0], p[i], p[i + 1]] for p in polygons for i in range(1, len(p) - 1)]
    scan = from_text(
        tmp_path, bump_wrl(coord=indices(polygons), uv_index=indices(polygons)), need_texture=True
    )
    np.testing.assert_array_equal(scan.faces, expected)
    assert scan.texture is not None
    np.testing.assert_allclose(scan.texture.corner_uv, UV[np.array(expected)], atol=1e-6)


@pytest.mark.parametrize(
    "url", ["elsewhere.jpg", "C:\\\\scans\\\\000.JPG", "000.JPG", "../../etc/passwd", "sub/dir/000.jpg", ""]
)
def test_a_wrong_texture_url_falls_back_to_the_image_beside_the_mesh(tmp_path: Path, url: str) -> None:
    pixels = image(tmp_path / "000.jpg")
    scan = from_text(tmp_path, bump_wrl(url=url), need_texture=True)
    assert scan.texture is not None
    assert scan.texture.image.shape == pixels.shape


def test_a_url_with_a_folder_and_another_case_is_followed(tmp_path: Path) -> None:
    image(tmp_path / "Images" / "SKIN.png", height=8, width=8)
    scan = from_text(tmp_path, bump_wrl(url="images/skin.png"), need_texture=True)
    assert scan.texture is not None
    assert scan.texture.image.shape == (8, 8, 3)


def test_a_url_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    image(tmp_path / "secret.png")
    text = bump_wrl(url=str(tmp_path / "secret.png"))
    with pytest.raises(ValueError, match=r"secret\.png' is missing beside the mesh"):
        from_text(tmp_path / "scans", text, need_texture=True)


def test_missing_texture_names_the_image_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"000\.wrl: texture image '000\.jpg' is missing.*--modalities depth,normals"
    ):
        from_text(tmp_path, bump_wrl(), need_texture=True)
    assert from_text(tmp_path, bump_wrl(), need_texture=False).texture is None


@pytest.mark.parametrize("damage", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(20), "cut"])
def test_damaged_texture_is_one_sentence(tmp_path: Path, damage: bytes | str) -> None:
    image(tmp_path / "000.jpg", height=400, width=300)
    data = (tmp_path / "000.jpg").read_bytes()
    write(tmp_path / "000.jpg", data[: len(data) // 2] if isinstance(damage, str) else damage)
    with pytest.raises(ValueError, match=r"texture image 000\.jpg: .*restore it, or prepare without texture"):
        from_text(tmp_path, bump_wrl(), need_texture=True)


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("1", (12_000, 12_000)).save(tmp_path / "000.png")
    with pytest.raises(ValueError, match=r"texture image 000\.png: .* pixels"):
        from_text(tmp_path, bump_wrl(url="000.png"), need_texture=True)


@pytest.mark.parametrize("cut", np.linspace(0.02, 0.98, 25).tolist())
def test_truncated_anywhere_is_one_sentence(tmp_path: Path, cut: float) -> None:
    text = bump_wrl().rstrip()
    with pytest.raises(ValueError, match=r"000\.wrl: .*: (copy or )?export"):
        from_text(tmp_path, text[: int(len(text) * cut)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b"#VRML V1.0 ascii\nSeparator {}", "starts with '#VRML V1.0"),
        (b"\x1f\x8b\x08" + bytes(50), "not with '#VRML V2.0'"),
        ("#VRML V2.0 utf8\nShape { geometry IndexedLineSet { coordIndex [ 0 1 -1 ] } }", "no IndexedFaceSet but IndexedLineSet"),
        ("#VRML V2.0 utf8\n", "no IndexedFaceSet"),
        ("#VRML V2.0 utf8\n" + "Group { children [ " * 5000, "nested"),
        ("#VRML V2.0 utf8\nPROTO x [ ] { }", "PROTO"),
        ("#VRML V2.0 utf8\nUSE nobody", "USE nobody comes before its DEF"),
        ("#VRML V2.0 utf8\nShape { geometry [ 1 2 ", "stops inside"),
        ('#VRML V2.0 utf8\nShape { geometry Text { string "unclosed } }', "quoted string"),
        (bump_wrl(vertices=joined(VERTICES) + ", 1 2"), r"434 numbers, not a multiple of 3"),
        (bump_wrl(vertices=joined(VERTICES).replace("60", "6O", 1)), "is not a number"),
        (bump_wrl(vertices=joined(VERTICES).replace(".", ".5.", 1)), "is not a number"),
        (bump_wrl(coord=indices(FACES).replace("13", "144", 1)), "coordIndex 144 is outside the 144 points"),
        (bump_wrl(coord=indices(FACES).replace("13", "99999999999999999999", 1)), "is outside the 144 points"),
        (bump_wrl(coord=indices(FACES).replace("-1", "-2", 1)), "coordIndex -2"),
        (bump_wrl(coord=indices(FACES).replace("13", "1.5", 1)), "is not a number"),
        (bump_wrl(coord=""), "no faces"),
        (bump_wrl(coord=indices(FACES[:99])), "too few for a face"),
        (bump_wrl(vertices=joined(VERTICES * 1e7)), "millimetres"),
    ],
)  # fmt: skip
def test_damaged_or_foreign_files_are_one_sentence(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_text(tmp_path, text)
    assert "000.wrl: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uv_index": indices(FACES[:-1])}, "texCoordIndex holds other polygons"),
        ({"uv_index": indices(FACES + 1)}, "texCoordIndex 144 is outside the 144 texture coordinates"),
        ({"uv": joined(UV) + ", 1"}, "not a multiple of 2"),
        ({"uv": "", "uv_index": ""}, "no texture coordinates"),
        (
            {"uv": joined(np.where(np.arange(len(UV))[:, None] == 3, np.nan, UV))},
            "texture coordinates are not finite",
        ),
    ],
)
def test_damaged_texture_coordinates_are_one_sentence(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    image(tmp_path / "000.jpg")
    with pytest.raises(ValueError, match=message):
        from_text(tmp_path, bump_wrl(**changes), need_texture=True)


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "NaN", "1e999"])
def test_vertices_that_are_not_finite_are_counted(tmp_path: Path, word: str) -> None:
    rows = joined(VERTICES).split(", ")
    for row in (0, 5):
        rows[row] = f"{word} 1 2"
    with pytest.raises(ValueError, match=r"2 of 144 vertices are not finite"):
        from_text(tmp_path, bump_wrl(vertices=", ".join(rows)))


def test_a_transform_is_applied_with_a_warning(tmp_path: Path) -> None:
    shape = bump_wrl().split("\n", 2)[2]
    values = "translation 1 2 3 scale 2 2 2 rotation 0 0 1 1.5707963267948966"
    moved = f"#VRML V2.0 utf8\nTransform {{ {values} children [ {shape} ] }}"
    with pytest.warns(UserWarning, match="Transform"):
        scan = from_text(tmp_path, moved)
    x, y, z = VERTICES.T
    np.testing.assert_allclose(scan.vertices, np.stack([-2 * y + 1, 2 * x + 2, 2 * z + 3], axis=1), atol=1e-9)
    np.testing.assert_array_equal(scan.faces, FACES)


def test_a_transform_without_values_is_silent_and_a_mirror_turns_the_faces(tmp_path: Path) -> None:
    shape = bump_wrl().split("\n", 2)[2]
    scan = from_text(tmp_path, f"#VRML V2.0 utf8\nTransform {{ children [ {shape} ] }}")
    np.testing.assert_array_equal(scan.vertices, VERTICES)
    with pytest.warns(UserWarning, match="Transform"):
        mirrored = from_text(tmp_path, f"#VRML V2.0 utf8\nTransform {{ scale -1 1 1 children {shape} }}")
    for one in (scan, mirrored):
        corners = one.vertices[one.faces]
        assert (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0).all()


def test_clockwise_faces_are_turned(tmp_path: Path) -> None:
    scan = from_text(tmp_path, bump_wrl(coord=indices(FACES[:, ::-1])).replace("ccw TRUE", "ccw FALSE"))
    np.testing.assert_array_equal(scan.faces, FACES)


def test_def_and_use_share_points(tmp_path: Path) -> None:
    half = len(FACES) // 2
    body = bump_wrl(coord=indices(FACES[:half]), uv_index="", uv="", url="").replace(
        "coord Coord", "coord DEF P Coord"
    )
    second = f"Shape {{ geometry IndexedFaceSet {{ coord USE P coordIndex [ {indices(FACES[half:])} ] }} }}"
    scan = from_text(tmp_path, body + second)
    assert len(scan.vertices) == 2 * len(VERTICES)
    np.testing.assert_array_equal(scan.faces, np.concatenate([FACES[:half], FACES[half:] + len(VERTICES)]))


def test_a_bomb_of_uses_is_refused(tmp_path: Path) -> None:
    lines = ["#VRML V2.0 utf8", "DEF n0 Group { }"]
    lines += [f"DEF n{i} Group {{ children [ {f'USE n{i - 1} ' * 10} ] }}" for i in range(1, 60)]
    with pytest.raises(ValueError, match="more than 10000 nodes"):
        from_text(tmp_path, "\n".join(lines))


def test_shapes_with_an_image_each_become_one_texture(tmp_path: Path) -> None:
    left, right = image(tmp_path / "left.png", height=20, width=10), image(tmp_path / "right.png")
    upper, lower = (
        FACES[VERTICES[FACES].mean(axis=1)[:, 1] > 0],
        FACES[VERTICES[FACES].mean(axis=1)[:, 1] <= 0],
    )
    text = bump_wrl(url="left.png", coord=indices(upper), uv_index=indices(upper))
    text += bump_wrl(url="right.png", coord=indices(lower), uv_index=indices(lower)).split("\n", 2)[2]
    scan = from_text(tmp_path, text, need_texture=True)
    assert scan.texture is not None
    assert scan.texture.image.shape == (40, 40, 3)
    both = np.concatenate([upper, lower])
    expected = np.concatenate([color_at(left, UV[upper]), color_at(right, UV[lower])])
    away = (np.abs(UV[both].mean(axis=1) - 0.5) > 0.05).all(axis=1)  # from the border between two quarters
    assert (color_at(scan.texture.image, scan.texture.corner_uv)[away] == expected[away]).all()


def test_vertex_colours_stand_in_for_a_texture(tmp_path: Path) -> None:
    colors = np.linspace(0, 1, len(VERTICES))[:, None] * [1, 0.5, 0]
    text = bump_wrl(url="", uv="", uv_index="", extra=f"color Color {{ color [ {joined(colors)} ] }}")
    scan = from_text(tmp_path, text, need_texture=True)
    assert scan.texture is None
    assert scan.vertex_colors is not None
    np.testing.assert_array_equal(scan.vertex_colors, np.rint(colors * 255))


SEPARATORS = st.sampled_from([" ", "\t", "\n", "\r\n", ",", ", ", " ,\n", "  ", ' # 1 2 ] } "\n', " #\r\n"])


@settings(max_examples=40, deadline=None)
@given(
    separators=st.lists(SEPARATORS, min_size=1, max_size=40),
    style=st.sampled_from(["g", ".6e", ".4f", "+.5f"]),
)
def test_numbers_in_any_spacing(separators: list[str], style: str) -> None:
    """White space, commas, comments and line ends between numbers mean nothing."""
    words = [format(value, style) for value in VERTICES.ravel()]
    text = "".join(word + separators[i % len(separators)] for i, word in enumerate(words))
    source = wrl(vertices=text, coord=separators[0].join(indices(FACES).split(", ")))
    geometry = parse(source.encode())[0].node("geometry")
    assert geometry is not None
    coord = geometry.node("coord")
    assert coord is not None
    np.testing.assert_array_equal(coord.numbers("point"), [float(word) for word in words])
    np.testing.assert_array_equal(
        geometry.numbers("coordIndex", np.int64), np.insert(FACES, 3, -1, axis=1).ravel()
    )


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1), junk=st.binary(min_size=1, max_size=6))
def test_junk_anywhere_is_read_or_refused_but_never_crashes(place: float, junk: bytes) -> None:
    source = wrl(
        vertices="0 0 0, 1 0 0, 0 1 0", coord="0 1 2 -1", uv="0 0, 1 0, 0 1", uv_index="0 1 2 -1"
    ).encode()
    at = int(place * len(source))
    try:
        parse(source[:at] + junk + source[at:])
    except ValueError as error:
        reason = str(error)
    else:
        reason = "none: it means nothing there"
    assert ": " in reason  # and a remedy
