"""RGB-D frames: units, orientation, sides and background against a face that was photographed by ray casting."""

import json
from pathlib import Path

import numpy as np
import pytest

from simulations import faces as simulated
from smile import geometry
from smile.scans import Scan, find, read, read_file
from tests.scans.writers import color_at, write
from tests.scans.writers_depth import PHONE, Lens, on_its_side, photograph, picture, png16, sides

FACE = simulated.face(simulated.sample_identity(np.random.default_rng(5)), {"AU12": 0.7})
DISTANCE = 380.0  # mm
VERTICES = FACE.vertices + np.array([4.0, -6.0, -DISTANCE])
METRES, HIT = photograph(VERTICES, FACE.faces, PHONE)
SIDES = sides(VERTICES, FACE.faces, HIT)
COUNTS = np.nan_to_num(METRES * 1000).round()
APPLE = on_its_side(PHONE, width=3088)


def write_frame(folder: Path, counts: np.ndarray = COUNTS, *, zoom: int = 1, **more: object) -> Path:
    write(folder / "P001_happy_0.json", PHONE.json(**({"device": "realsense"} | more)))
    picture(folder / "P001_happy_0_color.png", SIDES, zoom=zoom)
    return png16(folder / "P001_happy_0_depth.png", counts)


def from_surface(scan: Scan, vertices: np.ndarray) -> float:
    """The 99th percentile of the distance in mm from the scan to vertices that lie densely on the true surface."""
    from scipy.spatial import cKDTree

    return float(np.quantile(cKDTree(vertices).query(scan.vertices)[0], 0.99))


def red_is_left(scan: Scan) -> float:
    """The share of faces, away from the middle, whose colour is that of their side."""
    assert scan.texture is not None
    x = scan.vertices[scan.faces].mean(axis=1)[:, 0]
    x = x - np.median(x)
    color = color_at(scan.texture.image, scan.texture.corner_uv)
    sure = (np.abs(x) > 8) & ~(color == 90).all(axis=1)
    return float(((color[:, 0] > color[:, 2]) == (x > 0))[sure].mean())


def test_realsense_counts_become_millimetres(tmp_path: Path) -> None:
    scan = read_file(write_frame(tmp_path))
    assert from_surface(scan, VERTICES) < 3.0  # the vertices of the face lie up to 4 mm apart
    assert abs(scan.vertices[:, 2].max() - VERTICES[:, 2].max()) < 1.0  # the nose points to the camera
    np.testing.assert_allclose(scan.vertices[:, :2].max(axis=0), VERTICES[:, :2].max(axis=0), atol=5)
    assert scan.vertices[:, 1].min() < FACE.landmarks["chin"][1]  # the neck behind the chin is another piece
    normals = geometry.vertex_normals(scan.vertices, scan.faces)
    assert normals[:, 2].mean() > 0.5
    assert red_is_left(scan) > 0.99


def test_truedepth_lies_on_its_side_and_its_intrinsics_refer_to_another_size(tmp_path: Path) -> None:
    """float32 metres, landscape with the forehead on the left, 9999 where nothing was seen, intrinsics at 3088 pixels."""
    stored = np.where(np.isnan(METRES), 9999.0, METRES)
    stored[0, 0], stored[0, 1], stored[0, 2] = np.nan, np.inf, 0.0
    path = tmp_path / "a_depth.npy"
    np.save(path, np.rot90(stored).astype(np.float32))
    picture(tmp_path / "a_color.png", np.rot90(SIDES).copy())
    lens = APPLE
    write(
        tmp_path / "camera.json",
        json.dumps({"device": "TrueDepth", "fx": lens.fx, "fy": lens.fy, "ppx": lens.cx, "PPY": lens.cy}),
    )
    scan = read_file(path)
    assert from_surface(scan, VERTICES) < 3.0
    np.testing.assert_allclose(
        scan.vertices.mean(axis=0), read_file(write_frame(tmp_path / "b")).vertices.mean(axis=0), atol=0.5
    )
    assert red_is_left(scan) > 0.99
    upside_down = json.loads((tmp_path / "camera.json").read_text()) | {"rotate": 270}
    write(tmp_path / "camera.json", json.dumps(upside_down))
    turned = read_file(path, need_texture=False).vertices
    np.testing.assert_allclose(turned, scan.vertices * [-1, -1, 1], atol=1e-9)


BY_ROWS = np.array([[APPLE.fx, 0, APPLE.cx], [0, APPLE.fy, APPLE.cy], [0, 0, 1]])


@pytest.mark.parametrize(
    "stated",
    [
        {"device": "iPhone 12", "fx": APPLE.fx, "fy": APPLE.fy, "cx": APPLE.cx, "cy": APPLE.cy},
        {"device": "iPad Pro", "fx": PHONE.fx, "fy": PHONE.fy, "cx": PHONE.cx, "cy": PHONE.cy, "width": 240, "height": 320},
        {"intrinsicMatrix": BY_ROWS.tolist(), "device": "TrueDepth"},
        {"intrinsicMatrix": BY_ROWS.tolist(), "intrinsicMatrixReferenceDimensions": [3088, 2316]},
        {"intrinsicMatrix": BY_ROWS.T.tolist(), "intrinsicMatrixReferenceDimensions": [3088, 2316]},
        {"intrinsicMatrix": BY_ROWS.T.ravel().tolist(), "intrinsicMatrixReferenceDimensions": [3088, 2316]},
    ],
)  # fmt: skip
def test_truedepth_turned_upright_before_it_was_saved(tmp_path: Path, stated: dict[str, object]) -> None:
    """A portrait image is not turned again, and intrinsics that refer to the landscape one are turned with it."""
    path = tmp_path / "a_depth.npy"
    np.save(path, np.nan_to_num(METRES, nan=9999.0).astype(np.float32))
    picture(tmp_path / "a_color.png", SIDES)
    write(tmp_path / "camera.json", json.dumps(stated))
    scan = read_file(path)
    assert from_surface(scan, VERTICES) < 3.0
    middle = read_file(write_frame(tmp_path / "b")).vertices.mean(axis=0)
    np.testing.assert_allclose(scan.vertices.mean(axis=0), middle, atol=0.5)
    assert red_is_left(scan) > 0.99


def test_upright_phone_intrinsics_without_a_size(tmp_path: Path) -> None:
    zoom = 3088 / PHONE.height
    write(
        tmp_path / "camera.json",
        json.dumps(
            {
                "device": "iPhone",
                "fx": PHONE.fx * zoom,
                "fy": PHONE.fy * zoom,
                "cx": (PHONE.cx + 0.5) * zoom - 0.5,
                "cy": (PHONE.cy + 0.5) * zoom - 0.5,
            }
        ),
    )
    np.save(tmp_path / "a_depth.npy", METRES.astype(np.float32))
    scan = read_file(tmp_path / "a_depth.npy", need_texture=False)
    assert from_surface(scan, VERTICES) < 3.0
    middle = read_file(write_frame(tmp_path / "b")).vertices.mean(axis=0)
    np.testing.assert_allclose(scan.vertices.mean(axis=0), middle, atol=0.5)


def test_a_phone_sees_a_face_up_to_80_cm_and_other_cameras_up_to_150(tmp_path: Path) -> None:
    far = COUNTS + np.where(COUNTS > 0, 500, 0)
    assert read_file(write_frame(tmp_path, far)).vertices[:, 2].max() < -800
    path = write_frame(tmp_path, far, device="iPhone 12", depth_scale=0.001)
    with pytest.raises(ValueError, match=r"nothing lies 0\.15 to 0\.8 m from the camera"):
        read_file(path)
    wall = np.where(COUNTS > 0, COUNTS, 850)  # it would hang together with the face's rim
    scan = read_file(write_frame(tmp_path, wall, device="iPhone 12", depth_scale=0.001))
    assert scan.vertices[:, 2].min() > -800


def test_a_depth_frame_comes_out_aligned_like_its_mesh(tmp_path: Path) -> None:
    mesh = Scan(FACE.vertices, FACE.faces)
    own = geometry.align(mesh, radius=95).scan
    scan = geometry.align(read_file(write_frame(tmp_path)), radius=95).scan
    assert from_surface(scan, own.vertices) < 3.0
    assert red_is_left(scan) > 0.97


def test_walls_and_people_further_back_stay_away(tmp_path: Path) -> None:
    counts = COUNTS.copy()
    counts[counts == 0] = 1100  # a wall behind, larger than the face
    counts[:40, :30] = 1300
    counts[5:9, 5:9] = 200  # a speck in front
    scan = read_file(write_frame(tmp_path, counts))
    assert from_surface(scan, VERTICES) < 3.0
    assert scan.vertices[:, 2].min() > -DISTANCE - 150


def test_depth_scale_and_colour_of_another_size(tmp_path: Path) -> None:
    scan = read_file(write_frame(tmp_path, COUNTS * 8, zoom=3, depth_scale=0.000125, device="other"))
    assert from_surface(scan, VERTICES) < 3.0
    assert scan.texture is not None
    assert scan.texture.image.shape == (3 * PHONE.height, 3 * PHONE.width, 3)
    assert red_is_left(scan) > 0.99
    picture(tmp_path / "P001_happy_0_color.png", SIDES[:200])
    with pytest.raises(
        ValueError, match=r"of 240 x 200 pixels does not cover the depth image of 240 x 320: export colour al"
    ):
        read_file(tmp_path / "P001_happy_0_depth.png")
    (tmp_path / "P001_happy_0_color.png").unlink()
    with pytest.raises(
        ValueError,
        match=r"no colour image lies beside it: restore P001_happy_0_color\.png, or prepare without",
    ):
        read_file(tmp_path / "P001_happy_0_depth.png")
    assert read_file(tmp_path / "P001_happy_0_depth.png", need_texture=False).texture is None


@pytest.mark.parametrize("name", ["depth_scale", "depth_units", "units", "Depth_Units"])
def test_metres_of_one_count_by_any_of_their_names(tmp_path: Path, name: str) -> None:
    scan = read_file(write_frame(tmp_path, COUNTS * 4, **{name: 0.00025}))  # an L515, whose counts are finer
    assert from_surface(scan, VERTICES) < 3.0
    assert abs(scan.vertices[:, 2].max() - VERTICES[:, 2].max()) < 1.0


def test_metres_of_one_count_said_twice(tmp_path: Path) -> None:
    same = {"depth_scale": 0.001, "depth_units": 0.0010000000474974513, "units": "mm"}
    assert from_surface(read_file(write_frame(tmp_path, **same)), VERTICES) < 3.0
    message = r"intrinsics P001_happy_0\.json: depth_scale 0\.001 and depth_units 0\.0001 differ: keep the one that is right"
    with pytest.raises(ValueError, match=message):
        read_file(write_frame(tmp_path, **same | {"depth_units": 0.0001}))


def test_tiff_in_metres(tmp_path: Path) -> None:
    from PIL import Image

    write_frame(tmp_path)
    (tmp_path / "P001_happy_0_depth.png").unlink()
    Image.fromarray(METRES.astype(np.float32)).save(tmp_path / "P001_happy_0_depth.tiff")
    write(tmp_path / "P001_happy_0.json", PHONE.json())
    assert from_surface(read_file(tmp_path / "P001_happy_0_depth.tiff"), VERTICES) < 3.0


def test_arrays_with_fractions_are_metres_or_counts_by_their_size(tmp_path: Path) -> None:
    write(tmp_path / "camera.json", PHONE.json(device="realsense"))
    for factor in (1.0, 1000.0):
        np.save(tmp_path / "a_depth.npy", (METRES * factor).astype(np.float32))
        assert from_surface(read_file(tmp_path / "a_depth.npy", need_texture=False), VERTICES) < 3.0
    write(tmp_path / "camera.json", PHONE.json())
    with pytest.raises(ValueError, match=r"intrinsics camera\.json: depth_scale is missing"):
        read_file(tmp_path / "a_depth.npy", need_texture=False)


# --- where the files of a frame lie ------------------------------------------


def test_frames_of_depth_cameras_are_found_with_colour_and_intrinsics(tmp_path: Path) -> None:
    write(tmp_path / "camera.json", PHONE.json(device="realsense"))
    for number in (2, 10):
        png16(tmp_path / f"a/P001_sad_0/depth/{number}.png", COUNTS)
        picture(tmp_path / f"a/P001_sad_0/color/{number}.jpg", SIDES)
    write_frame(tmp_path / "b")
    png16(tmp_path / "P002_fear_1.depth.png", COUNTS)
    listing = find(tmp_path)
    assert listing.problems == ()
    assert [(s.name, s.label, [f.number for f in s.frames]) for s in listing.sequences] == [
        ("P001/happiness_0", "happiness", [0]),
        ("P001/sadness_0", "sadness", [2, 10]),
        ("P002/fear_1", "fear", [0]),
    ]
    frames = [frame for sequence in listing.sequences for frame in sequence.frames]
    assert [frame.camera.name for frame in frames if frame.camera] == [
        "P001_happy_0.json",
        *["camera.json"] * 3,
    ]
    assert [frame.texture and frame.texture.name for frame in frames] == [
        "P001_happy_0_color.png",
        "2.jpg",
        "10.jpg",
        None,
    ]
    assert len(read(frames[1]).vertices) > 5000


@pytest.mark.parametrize("folder", ["P001_happy_0", "P001_happy_0/depth"])
@pytest.mark.parametrize(
    ("depth", "color"), [("depth_", "color_"), ("depth-", "Colour-"), ("Depth_", "rgb_")]
)
def test_depth_and_colour_as_the_first_words_of_names(
    tmp_path: Path, folder: str, depth: str, color: str
) -> None:
    write(tmp_path / "camera.json", PHONE.json(device="realsense"))
    for number in ("0002", "0010"):
        png16(tmp_path / folder / f"{depth}{number}.png", COUNTS)
        picture(tmp_path / folder.replace("depth", "rgb") / f"{color}{number}.png", SIDES)
    listing = find(tmp_path)
    assert listing.problems == ()
    (sequence,) = listing.sequences
    assert (sequence.name, [f.number for f in sequence.frames]) == ("P001/happiness_0", [2, 10])
    names = [frame.texture and frame.texture.name for frame in sequence.frames]
    assert names == [f"{color}0002.png", f"{color}0010.png"]
    assert red_is_left(read(sequence.frames[0])) > 0.99


def test_a_missing_colour_image_is_asked_for_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "camera.json", PHONE.json(device="realsense"))
    for name, wanted in (("depth_0001", "color_0001"), ("a.depth", "a.color"), ("depth/7", "7_color")):
        with pytest.raises(ValueError, match=rf"restore {wanted}\.png, or prepare without"):
            read_file(png16(tmp_path / f"{name}.png", COUNTS))


def test_a_depth_image_without_intrinsics_is_set_aside(tmp_path: Path) -> None:
    png16(tmp_path / "P001_sad_0_depth.png", COUNTS)
    listing = find(tmp_path)
    assert listing.sequences == ()
    assert "has no intrinsics: put P001_sad_0.json or camera.json with fx, fy" in listing.problems[0].reason
    with pytest.raises(ValueError, match="has no intrinsics"):
        read_file(tmp_path / "P001_sad_0_depth.png")


# --- what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"device": "other"}, "depth_scale is missing: give the metres of one count"),
        ({"depth_scale": 1000}, "depth_scale 1000 is not the metres of one count"),
        ({"depth_scale": "thin"}, "depth_scale is 'thin' and no number"),
        (
            {"depth_scale": 0.01},
            "nothing lies 0.15 to 1.5 m from the camera: check depth_scale in P001_happy_0.json",
        ),
        ({"fx": None}, "fx is missing"),
        ({"fx": -290}, "fx -290, fy 288 for 240 x 320 pixels do not fit"),
        ({"width": 640}, "do not fit a depth image of 240 x 320: give the width and height"),
        ({"cx": 1544, "cy": 1158}, "do not fit 240 x 320 pixels"),
        ({"depth_units": 1000}, "depth_units 1000 is not the metres of one count"),
        (
            {"intrinsicMatrix": [[290, 0, 117], [0, 288, 0], [0, 0, 1]], "fx": 300},
            "fx 300 and intrinsicMatrix fx 290 differ",
        ),
        (
            {"intrinsicMatrix": [[290, 1, 117], [3, 288, 163], [0, 0, 1]]},
            r"intrinsicMatrix is no matrix \[\[fx, 0, cx\]",
        ),
        (
            {"intrinsicMatrixReferenceDimensions": 3088},
            r"intrinsicMatrixReferenceDimensions is no \[width, height\]",
        ),
        ({"rotate": 45}, "rotate 45 is none of 0, 90, 180, 270"),
    ],
)
def test_intrinsics_that_make_no_sense(tmp_path: Path, more: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_file(write_frame(tmp_path, **more))
    assert str(caught.value).startswith(f"{tmp_path / 'P001_happy_0_depth.png'}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ('{"fx": 290}', "fy is missing"),
        ("", "it is no JSON"),
    ],
)
def test_intrinsics_that_are_no_json(tmp_path: Path, text: str, message: str) -> None:
    path = write_frame(tmp_path)
    write(tmp_path / "P001_happy_0.json", text)
    with pytest.raises(ValueError, match=rf"intrinsics P001_happy_0\.json: {message}"):
        read_file(path)


def test_colourised_depth_is_refused(tmp_path: Path) -> None:
    path = write_frame(tmp_path)
    for pixels in (SIDES, SIDES[..., 0].copy()):
        picture(path, pixels)
        with pytest.raises(
            ValueError, match=r"8-bit colours or greys .* and no depth .*: export 16-bit depth"
        ):
            read_file(path)


def test_damaged_depth(tmp_path: Path) -> None:
    path = write_frame(tmp_path)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:20], b"Dear diary"):
        write(path, damaged)
        with pytest.raises(ValueError, match="the depth image cannot be read"):
            read_file(path)
    other = path.with_suffix(".npy")
    np.save(other, METRES.astype(np.float32))
    data = other.read_bytes()
    huge = data.replace(b"(320, 240)", b"(99999, 99999)")
    for damaged in (data[:-100], data[:30], b"Dear diary", huge):
        write(other, damaged)
        with pytest.raises(ValueError, match="the depth array cannot be read"):
            read_file(other)
    np.save(other, np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(ValueError, match="the depth array cannot be read"):
        read_file(other)
    np.save(other, np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="no rows and columns of numbers"):
        read_file(other)


def test_an_empty_view(tmp_path: Path) -> None:
    for counts in (np.zeros_like(COUNTS), np.full_like(COUNTS, 9999)):
        with pytest.raises(ValueError, match=r"nothing lies 0\.15 to 1\.5 m from the camera"):
            read_file(write_frame(tmp_path, counts))


def test_the_writer_itself() -> None:
    """A plane at 500 mm has the depth 0.5 everywhere, and a point lands where the formula of the pinhole says."""
    lens = Lens(40, 30, 50.0, 60.0, 18.0, 12.0)
    corners = np.array([[-900.0, -900, -500], [900, -900, -500], [900, 900, -500], [-900, 900, -500]])
    depth, _ = photograph(corners, np.array([[0, 1, 2], [0, 2, 3]]), lens)
    np.testing.assert_allclose(depth, 0.5, atol=1e-6)
    small = np.array([[100.0, 60, -500], [110, 60, -500], [100, 70, -500]])
    depth, _ = photograph(small, np.array([[0, 1, 2]]), lens)
    row, column = np.argwhere(np.isfinite(depth)).T
    assert column.min() == round(18 + 50 * 100 / 500)
    assert row.max() == pytest.approx(12 - 60 * 60 / 500, abs=1)
