"""STL, GLB, glTF and OFF: geometry, colour and texture against what was written, and files that lie about themselves."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile.scans import Scan, read_file
from tests.scans.writers import bump, color_at, image, write
from tests.scans.writers_meshes import Gltf, off, stl, stl_text

VERTICES, FACES, UV = bump()
COLORS = np.stack(
    [np.arange(len(VERTICES)), 255 - np.arange(len(VERTICES)), np.full(len(VERTICES), 7)], axis=1
)


def from_bytes(folder: Path, name: str, data: bytes, *, need_texture: bool = False) -> Scan:
    return read_file(write(folder / name, data), need_texture=need_texture)


def png(folder: Path) -> bytes:
    image(folder / "quarters.png")
    return (folder / "quarters.png").read_bytes()


def textured(folder: Path) -> Gltf:
    scene = Gltf()
    scene.mesh(VERTICES, FACES, uv=UV, material=scene.image(png(folder)))
    return scene


def places(scan: Scan) -> np.ndarray:
    """(f, 3, 3) corners, however the vertices are numbered."""
    return scan.vertices[scan.faces]


def quarters(corners: np.ndarray) -> np.ndarray:
    """(f, 3) the colour that `writers.image` has where a face lies."""
    middle = corners.mean(axis=1)
    upper = np.where(middle[:, :1] < 0, [[250, 10, 10]], [[10, 250, 10]])
    lower = np.where(middle[:, :1] < 0, [[10, 10, 250]], [[250, 250, 10]])
    return np.where(middle[:, 1:2] > 0, upper, lower)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.stl", stl(VERTICES, FACES)),
        ("a.stl", stl(VERTICES, FACES, head=b"solid although it is binary")),
        ("a.STL", stl_text(VERTICES, FACES)),
        ("a.stl", stl_text(VERTICES, FACES).replace(b"\n", b"\r\n").replace(b"vertex", b"  VERTEX ")),
        ("a.off", off(VERTICES, FACES)),
    ],
)
def test_geometry_and_vertices_in_one_place_are_one(tmp_path: Path, name: str, data: bytes) -> None:
    scan = from_bytes(tmp_path, name, data)
    assert len(scan.vertices) == len(VERTICES)
    np.testing.assert_allclose(places(scan), VERTICES[FACES], atol=1e-5)
    assert scan.texture is None
    assert scan.vertex_colors is None


def test_glb_texture_and_seams(tmp_path: Path) -> None:
    scan = from_bytes(tmp_path, "a.glb", textured(tmp_path).glb(), need_texture=True)
    assert scan.texture is not None
    np.testing.assert_allclose(places(scan), VERTICES[FACES], atol=1e-5)
    np.testing.assert_allclose(scan.texture.corner_uv, UV[FACES], atol=1e-6)
    inner = np.abs(places(scan).mean(axis=1)[:, :2]).min(axis=1) > 1
    colors = color_at(scan.texture.image, scan.texture.corner_uv)
    np.testing.assert_array_equal(colors[inner], quarters(places(scan))[inner])
    corners = VERTICES[FACES].reshape(
        -1, 3
    )  # a seam round every face: the vertices are one, the texture places are not
    scene = Gltf()
    seams = np.linspace(0, 1, 2 * len(corners)).reshape(-1, 2)
    scene.mesh(corners, np.arange(len(corners)).reshape(-1, 3), uv=seams, material=scene.image(png(tmp_path)))
    scan = from_bytes(tmp_path, "b.glb", scene.glb(), need_texture=True)
    assert scan.texture is not None
    assert len(scan.vertices) == len(VERTICES)
    np.testing.assert_allclose(scan.texture.corner_uv.reshape(-1, 2), seams, atol=1e-6)


def test_glb_vertex_colours(tmp_path: Path) -> None:
    scene = Gltf()
    scene.mesh(VERTICES, FACES, colors=np.c_[COLORS, np.full(len(COLORS), 255)])
    scan = from_bytes(tmp_path, "a.glb", scene.glb(), need_texture=True)
    assert scan.vertex_colors is not None
    np.testing.assert_allclose(scan.vertices, VERTICES, atol=1e-5)
    np.testing.assert_array_equal(scan.vertex_colors, COLORS)


def test_the_meshes_of_a_scene_lie_where_its_nodes_put_them(tmp_path: Path) -> None:
    """Left and right half with a texture each; the second is stored mirrored and its node mirrors it back."""
    scene = Gltf()
    red = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 0, 0)).save(red, "PNG")
    left, right = (FACES[(side * VERTICES[FACES, 0].mean(axis=1)) > 0] for side in (-1, 1))
    scene.mesh(VERTICES, left, uv=UV, material=scene.image(png(tmp_path)))
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[:3, 3] = 0, 5, -3
    stored = (VERTICES - [0, 5, -3]) * [-1, 1, 1]
    scene.mesh(stored, right[:, ::-1], uv=UV, material=scene.image(red.getvalue()), matrix=mirror)
    scan = from_bytes(tmp_path, "a.glb", scene.glb(), need_texture=True)
    assert scan.texture is not None
    normal = np.cross(*(np.diff(places(scan), axis=1).transpose(1, 0, 2)))
    assert (normal[:, 2] > 0).all()
    on_surface = 100 - (places(scan)[..., 0] ** 2 + places(scan)[..., 1] ** 2) / 80
    np.testing.assert_allclose(places(scan)[..., 2], on_surface, atol=1e-3)
    colors = color_at(scan.texture.image, scan.texture.corner_uv)
    is_right = places(scan)[..., 0].mean(axis=1) > 0
    assert (colors[is_right] == (200, 0, 0)).all()
    assert is_right.sum() == len(right)
    assert not (colors[~is_right] == (200, 0, 0)).all(axis=1).any()


def test_gltf_with_its_files_beside(tmp_path: Path) -> None:
    image(tmp_path / "scan skin.png")
    scene = Gltf()
    scene.mesh(VERTICES, FACES, uv=UV, material=scene.image("scan%20skin.png"))
    write(tmp_path / "scan.bin", scene.data)
    scan = from_bytes(tmp_path, "a.gltf", scene.gltf("scan.bin"), need_texture=True)
    assert scan.texture is not None
    np.testing.assert_allclose(places(scan), VERTICES[FACES], atol=1e-5)
    (tmp_path / "scan skin.png").unlink()
    with pytest.raises(
        ValueError, match=r"texture image 'scan%20skin\.png' is missing beside the mesh: restore"
    ):
        read_file(tmp_path / "a.gltf")
    assert len(read_file(tmp_path / "a.gltf", need_texture=False).vertices) == len(VERTICES)
    (tmp_path / "scan.bin").unlink()
    with pytest.raises(ValueError, match=r"its file 'scan\.bin' is missing beside it"):
        read_file(tmp_path / "a.gltf", need_texture=False)


def test_gltf_never_reads_outside_its_folder(tmp_path: Path) -> None:
    scene = Gltf()
    scene.mesh(VERTICES, FACES)
    write(tmp_path / "secret.bin", scene.data)
    for uri in ("../secret.bin", str(tmp_path / "secret.bin"), "http://localhost:9/secret.bin"):
        with pytest.raises(ValueError, match="is missing beside it"):
            from_bytes(tmp_path / "inner", "a.gltf", scene.gltf(uri))


def test_without_colour(tmp_path: Path) -> None:
    scene = Gltf()
    scene.mesh(VERTICES, FACES)
    for name, data in (
        ("a.stl", stl(VERTICES, FACES)),
        ("a.off", off(VERTICES, FACES)),
        ("a.glb", scene.glb()),
    ):
        with pytest.raises(ValueError, match=r"it holds no colour.*export OBJ, PLY or GLB.*depth,normals"):
            from_bytes(tmp_path, name, data, need_texture=True)
        assert len(from_bytes(tmp_path, name, data).vertices) == len(VERTICES)


def test_draco_is_one_clear_sentence(tmp_path: Path) -> None:
    data = textured(tmp_path).glb(extensionsRequired=["KHR_draco_mesh_compression"])
    with pytest.raises(
        ValueError, match="compressed with Draco, which is not read: export it without compression"
    ):
        from_bytes(tmp_path, "a.glb", data)


def test_a_bomb_of_repeated_parts_is_refused(tmp_path: Path) -> None:
    """A megabyte of text can show one mesh a million times: nothing is built before the sum is known."""
    scene = Gltf()
    scene.mesh(VERTICES, FACES)
    part = scene.tree["meshes"][0]["primitives"][0]
    with pytest.raises(ValueError, match="vertices and corners together"):
        from_bytes(tmp_path, "a.glb", scene.glb(meshes=[{"primitives": [part] * 20_000}]))
    nodes = [{"mesh": 0} for _ in range(40_000)]
    with pytest.raises(ValueError, match="more than 10,000,000 vertices and faces"):
        from_bytes(tmp_path, "b.glb", scene.glb(nodes=nodes, scenes=[{"nodes": list(range(len(nodes)))}]))


SCENE = Gltf()
SCENE.mesh(VERTICES, FACES)
GLB = SCENE.glb()
STL, TEXT, OFF = stl(VERTICES, FACES), stl_text(VERTICES, FACES), off(VERTICES, FACES)


def longer(accessor: int, **changes: int) -> bytes:
    accessors = [dict(one) for one in SCENE.tree["accessors"]]
    accessors[accessor] |= changes
    return SCENE.glb(accessors=accessors)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.stl", b"", "the file is empty"),
        ("a.stl", b"Dear diary", "or no STL"),
        ("a.stl", STL[:-1], r"12183 bytes, but a binary STL of 242 triangles has 12184"),
        (
            "a.stl",
            stl(VERTICES, FACES, count=4_000_000_000),
            "binary STL of 4000000000 triangles has 200000000084",
        ),
        ("a.stl", stl(VERTICES, FACES[:5]), "too few"),
        ("a.stl", stl(VERTICES * np.nan, FACES), "are not finite numbers"),
        ("a.stl", TEXT[: len(TEXT) // 2], "facets begin"),
        ("a.stl", TEXT.replace(b"vertex -60 60 10\n", b"", 1), "corners are there"),
        (
            "a.stl",
            TEXT.replace(b"vertex -60 60 10\n", b"vertex -60 sixty 10\n", 1),
            "trimesh cannot read it|not finite",
        ),
        ("a.off", b"PLY\n1 1 1\n", "not with OFF and its counts"),
        ("a.off", OFF[: len(OFF) // 2], "announces 386 vertices and faces in"),
        ("a.off", OFF.replace(b"144 242", b"99999999999 242"), "announces 100000000241 vertices and faces"),
        (
            "a.off",
            OFF.replace(b"\n3 0 12 1\n", b"\n3 0 999 1\n"),
            "trimesh cannot read it .*outside the range",
        ),
        ("a.glb", GLB[:-1], "its header announces"),
        ("a.glb", GLB[:40], "its header announces"),
        ("a.glb", GLB[:10], "too short"),
        ("a.glb", b"glTF" + b"\1\0\0\0" + GLB[8:], "it is glTF 1 and not 2"),
        ("a.glb", b"ply\n" + GLB, "not with 'glTF'"),
        ("a.glb", GLB.replace(b'{"asset"', b'["asset"', 1), "its JSON cannot be read"),
        (
            "a.glb",
            longer(0, count=4_000_000_000),
            "announces 4000000000 rows of 12 bytes where 1728 bytes follow",
        ),
        ("a.glb", longer(0, count=-1), "'-1' for count"),
        ("a.glb", longer(0, bufferView=99), "where 0 bytes follow"),
        (
            "a.glb",
            SCENE.glb(accessors=[{"count": 9**9, "componentType": 5126, "type": "VEC3"}] * 2),
            "nowhere in the file",
        ),
        ("a.glb", SCENE.glb(nodes=[{"children": [0]}]), "it holds no triangles"),
        ("a.glb", SCENE.glb(meshes="none"), "trimesh cannot read it"),
        ("a.gltf", b"[1, 2]", "its JSON holds no scene"),
        ("a.gltf", b'{"a":' * 100_000, "its JSON cannot be read"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_bytes(tmp_path, name, data)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)
