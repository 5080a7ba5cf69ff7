"""A frame of a depth camera gives the views of the scan that it is, by the same code as `smile prepare`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import main
from export.runtime.smile_edge.depth import read_depth
from export.runtime.smile_edge.views import read_views
from simulations import faces as simulated
from smile import geometry, scans, views
from smile.config import ViewConfig
from tests.scans.writers_depth import PHONE, photograph, picture, png16, sides

FACE = simulated.face(simulated.sample_identity(np.random.default_rng(5)), {"AU12": 0.7})
VERTICES = FACE.vertices + np.array([4.0, -6.0, -380.0])
METRES, HIT = photograph(VERTICES, FACE.faces, PHONE)


@pytest.fixture
def frame(tmp_path) -> dict[str, Path]:
    """One frame in all its forms; the intrinsics are fx, fy, cx, cy alone."""
    (tmp_path / "camera.json").write_text(
        json.dumps({name: getattr(PHONE, name) for name in ("fx", "fy", "cx", "cy")})
    )
    np.save(tmp_path / "metres.npy", METRES.astype(np.float32))
    picture(tmp_path / "colour.png", sides(VERTICES, FACE.faces, HIT))
    return {
        "intrinsics": tmp_path / "camera.json",
        "png": png16(tmp_path / "counts.png", np.nan_to_num(METRES * 1000).round()),
        "npy": tmp_path / "metres.npy",
        "colour": tmp_path / "colour.png",
    }


def prepared(path: Path, camera: Path, *, colour: Path | None = None) -> np.ndarray:
    """What `smile prepare` makes of it, all channels."""
    config = ViewConfig(modalities=("texture", "depth", "normals") if colour else ("depth", "normals"))
    scan = scans.rgbd.read(path, camera=camera, texture=colour, need_texture=colour is not None)
    aligned = geometry.align(scan, radius=config.radius).scan
    return views.encode(views.render(aligned, config), config)


def test_counts_are_millimetres_unless_the_intrinsics_say_otherwise(bundle, manifest, frame, tmp_path):
    spec = manifest["preprocessing"]
    found, milliseconds = read_depth(frame["png"], bundle, spec, intrinsics=frame["intrinsics"])
    said = tmp_path / "said.json"
    said.write_text(json.dumps({**json.loads(frame["intrinsics"].read_text()), "depth_scale": 0.001}))
    np.testing.assert_array_equal(found[0], prepared(frame["png"], said))
    assert set(milliseconds) == {"read", "views"} and min(milliseconds.values()) > 0
    tenths = png16(tmp_path / "tenths.png", np.nan_to_num(METRES * 10000).round())
    said.write_text(json.dumps({**json.loads(said.read_text()), "depth_scale": 0.0001}))
    finer, _ = read_depth(tenths, bundle, spec, intrinsics=said)
    np.testing.assert_array_equal(finer[0], prepared(tenths, said))
    finer, found = finer[:, :, 0].astype(int), found[:, :, 0]  # depth
    assert (
        np.median(np.abs(finer - found)[(finer > 0) & (found > 0)]) <= 2
    )  # rounding to millimetres, steps of 0.63
    assert frame["intrinsics"].read_text().count("scale") == 0  # the file of the user stays as it was


def test_floats_are_metres(bundle, manifest, frame):
    found, _ = read_depth(frame["npy"], bundle, manifest["preprocessing"], intrinsics=frame["intrinsics"])
    np.testing.assert_array_equal(found[0], prepared(frame["npy"], frame["intrinsics"]))


def test_a_depth_frame_looks_like_the_mesh_that_it_was_taken_of(bundle, manifest, frame, tmp_path):
    import trimesh

    trimesh.Trimesh(FACE.vertices, FACE.faces, process=False).export(tmp_path / "mesh.ply")
    spec = manifest["preprocessing"]
    mesh = read_views(tmp_path / "mesh.ply", bundle, spec)[0][0, 1, 0].astype(int)  # depth from the front
    seen = read_depth(frame["npy"], bundle, spec, intrinsics=frame["intrinsics"])[0][0, 1, 0].astype(int)
    both = (mesh > 0) & (seen > 0)
    assert both.sum() > 0.8 * (mesh > 0).sum()
    assert np.median(np.abs(mesh - seen)[both]) < 5  # 3 mm


def test_a_folder_of_depth_images_beside_its_camera(bundle, frame, tmp_path, capsys):
    folder = tmp_path / "visits"
    folder.mkdir()
    lens = {**json.loads(frame["intrinsics"].read_text()), "depth_scale": 0.001}
    (folder / "camera.json").write_text(json.dumps(lens))
    for number in (10, 2):
        shutil.copy(frame["png"], folder / f"a_{number}_depth.png")
        shutil.copy(frame["colour"], folder / f"a_{number}_color.png")
    assert main(["--bundle", str(bundle), "--json", str(folder)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(answer["input"]).name for answer in found] == ["a_2_depth.png", "a_10_depth.png"]
    assert (
        main(
            [
                "--bundle",
                str(bundle),
                "--json",
                "--depth",
                str(frame["png"]),
                "--intrinsics",
                str(frame["intrinsics"]),
            ]
        )
        == 0
    )
    alone = json.loads(capsys.readouterr().out)["probabilities"]
    assert found[0]["probabilities"] == pytest.approx(alone, abs=1e-6)


def test_colour_for_a_model_that_sees_texture(bundle, all_channels, frame):
    found, _ = read_depth(
        frame["npy"], bundle, all_channels, intrinsics=frame["intrinsics"], colour=frame["colour"]
    )
    np.testing.assert_array_equal(
        found[0], prepared(frame["npy"], frame["intrinsics"], colour=frame["colour"])
    )
    with pytest.raises(ValueError, match=r"metres\.npy has no colours .* give them with --colour"):
        read_depth(frame["npy"], bundle, all_channels, intrinsics=frame["intrinsics"])


def arguments(bundle: Path, frame: dict[str, Path]) -> list[str]:
    given = {"bundle": bundle, "depth": frame["png"], "intrinsics": frame["intrinsics"]}
    return ["--json", *(word for name, path in given.items() for word in (f"--{name}", str(path)))]


def test_the_command(bundle, frame, capsys):
    assert main(arguments(bundle, frame)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["input"] == str(frame["png"])
    assert set(answer["milliseconds"]) == {"read", "views", "engine"}


@pytest.mark.parametrize(
    "words",
    [
        ["--depth", "a.png"],
        ["--colour", "a.png", "x.npy"],
        ["--intrinsics", "a.json", "x.npy"],
        ["--depth", "a.png", "--intrinsics", "a.json", "x.npy"],
        ["--depth", "a.png", "--intrinsics", "a.json", "--self-test"],
    ],
)
def test_options_that_do_not_go_together(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("intrinsics", "reason"),
    [
        ("", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"fx": 500}', "is missing"),
        ('{"fx": 0, "fy": 0, "cx": 120, "cy": 160}', "do not fit"),
        ('{"fx": "wide", "fy": 1, "cx": 1, "cy": 1}', "no number"),
        ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "depth_scale": 5}', ""),
    ],
)
def test_intrinsics_that_make_no_sense(bundle, frame, capsys, intrinsics, reason):
    frame["intrinsics"].write_text(intrinsics)
    assert main(arguments(bundle, frame)) == 2
    out, err = capsys.readouterr()
    assert reason in err and "counts.png" in err and "camera.json" in err
    assert len(err.splitlines()) == 1
    assert json.loads(out)["error"] == err.strip()


@pytest.mark.parametrize("missing", ["png", "intrinsics"])
def test_files_that_are_not_there(bundle, manifest, frame, missing):
    frame[missing].unlink()
    with pytest.raises(ValueError, match=f"{frame[missing].name} is not there"):
        read_depth(frame["png"], bundle, manifest["preprocessing"], intrinsics=frame["intrinsics"])


def test_an_empty_or_a_colourised_image(bundle, manifest, frame, tmp_path):
    spec = manifest["preprocessing"]
    with pytest.raises(ValueError, match="8-bit"):
        read_depth(frame["colour"], bundle, spec, intrinsics=frame["intrinsics"])
    blank = png16(tmp_path / "blank.png", np.zeros(METRES.shape))
    with pytest.raises(ValueError, match="nothing lies"):
        read_depth(blank, bundle, spec, intrinsics=frame["intrinsics"])


def test_a_bundle_that_reads_motion_wants_a_stream(bundle, manifest, frame):
    spec = {**manifest["preprocessing"], "motion": "dynamic"}
    with pytest.raises(ValueError, match="reads motion: give its frames with --stream"):
        read_depth(frame["png"], bundle, spec, intrinsics=frame["intrinsics"])
