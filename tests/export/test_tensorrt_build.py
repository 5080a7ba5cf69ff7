"""`run.py --build-engine` against imitations of TensorRT 8.6.1 to 11.4 that are made from the matrix of its names."""

import hashlib
import json

import numpy as np
import onnx
import pytest

from export.runtime.smile_edge import tensorrt_build
from export.runtime.smile_edge.files import read_sums
from export.runtime.smile_edge.tensorrt_build import build_engine, jetpack
from export.runtime.smile_edge.tensorrt_engine import Cuda, load_engine
from tests.export.fake_trt import VERSIONS, Fake, FakeCudart
from tests.export.sealing import seal
from tests.export.small_bundle import DIM, SHAPE, small_bundle, small_onnx

TYPED = [version for version in VERSIONS if version != "8.6.1"]
SHAPES = {"views": ((1, *SHAPE), (1, *SHAPE), (8, *SHAPE))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Bundles by opset: 18 as they are made, and 17, which is all that 8.6 reads."""
    return {
        opset: small_bundle(tmp_path_factory.mktemp("opset") / str(opset), opset=opset) for opset in (17, 18)
    }


@pytest.fixture
def small(made, tmp_path):
    """A bundle of one's own; small(17) for 8.6."""
    import shutil

    return lambda opset=18: shutil.copytree(made[opset], tmp_path / f"bundle-{opset}", dirs_exist_ok=True)


def build(bundle, version="10.3.0", *, trt=None, library=None, **options):
    """build_engine on an imitation; returns what it returns, what it printed, the module and the library."""
    trt, library, lines = trt or Fake(version), library or FakeCudart(), []
    note = build_engine(bundle, trt=trt, cuda=Cuda(library), say=lines.append, **options)
    return note, lines, trt, library


def read(bundle):
    return json.loads((bundle / "manifest.json").read_text()), read_sums(bundle)


@pytest.mark.parametrize("version", TYPED)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_is_built_verified_and_published(small, version, precision):
    bundle = small()
    note, lines, trt, library = build(bundle, version, precision=precision)
    path = bundle / "engines" / f"{precision}.engine"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == note["sha256"]
    assert json.loads((path.parent / f"{precision}.engine.json").read_text()) == json.loads(json.dumps(note))
    assert trt.seen.profile == SHAPES
    assert trt.seen.limits == {"workspace": 1 << 30}
    assert trt.seen.flags == (set() if precision == "fp32" else {7}), (
        "TF32 is no fp32, and no flag may set a precision"
    )
    assert (trt.seen.builds, trt.seen.dla) == (1, ("gpu", -1))
    assert library.held == {}, "memory of the device was not given back"
    assert lines[0] == f"{jetpack()}; TensorRT {version}; GPU Orin, SM87, 8 multiprocessors, 7620 MiB"
    assert note["golden"]["cosine"] > 0.99
    manifest, sums = read(bundle)
    engine = load_engine(bundle, manifest, sums, precision, trt=Fake(version), cuda=Cuda(library))
    with np.load(bundle / "golden.npz") as golden:
        assert np.abs(engine(golden["views"]) - golden["embedding"]).max() < 0.1
    assert engine.name == f"tensorrt {version} {precision}"
    assert not [name for name in sums if name.startswith("engines")]


@pytest.mark.parametrize(
    ("precision", "flags", "file"),
    [("fp32", set(), "fp32"), ("fp16", {0, 7}, "fp32"), ("int8", {2, 7}, "int8")],
)
def test_8_6_takes_flags_and_the_fp32_file(small, precision, flags, file):
    note, lines, trt, _ = build(small(17), "8.6.1", precision=precision)
    assert trt.seen.flags == flags
    assert note["onnx"]["file"] == f"model.{file}.onnx"
    assert list(note["trtexec"]) == ["8.6"]
    assert ("--fp16" in lines[1], "--int8" in lines[1]) == (precision == "fp16", precision == "int8")


def test_8_6_says_that_it_cannot_read_opset_18(small):
    bundle = small()
    with pytest.raises(
        ValueError,
        match=r"^TensorRT 8\.6\.1 cannot read the fp16 .*ReduceL2.*opset 17.*opset 18: use TensorRT 10 ",
    ) as error:
        build(bundle, "8.6.1")
    assert "\n" not in str(error.value)
    assert list((bundle / "engines").iterdir()) == []


def test_the_default_precision_is_that_of_the_manifest(small):
    assert build(small())[0]["precision"] == "fp16"


def test_trtexec_lines(small):
    lines = build(small(), precision="fp32")[0]["trtexec"]
    assert lines["11.x"] == (
        "trtexec --onnx=model.fp32.onnx --minShapes=views:1x3x4x8x8 --optShapes=views:1x3x4x8x8 --maxShapes=views:8x3x4x8x8 "
        "--memPoolSize=workspace:1024 --noTF32 --saveEngine=fp32.trtexec.engine"
    )
    assert lines["10.x"] == lines["11.x"] + " --stronglyTyped"
    dla = build(small(), trt=Fake("10.3.0", dla=2), dla=1)[0]["trtexec"]["10.x"]
    assert "--useDLACore=1 --allowGPUFallback" in dla
    assert "noTF32" not in dla


def test_an_engine_of_the_same_key_is_not_built_again(small):
    bundle = small()
    first, _, trt, library = build(bundle)
    again, lines, *_ = build(bundle, trt=trt, library=library)
    assert (trt.seen.builds, again["sha256"], library.held) == (1, first["sha256"], {})
    assert "there already" in lines[-1]


@pytest.mark.parametrize(
    "change",
    [
        {"version": "10.13.3"},
        {"library": FakeCudart(name="Orin NX")},
        {"library": FakeCudart(processors=16)},
        {"library": FakeCudart(memory_mb=15_389)},
        {"library": FakeCudart(sm=(8, 6)), "trt": Fake("10.3.0", sm="SM86")},
        {"workspace_mb": 512},
        {"trt": Fake("10.3.0", dla=1), "dla": 0},
    ],
    ids=["version", "device", "processors", "memory", "architecture", "workspace", "dla"],
)
def test_an_engine_of_another_key_is_built(small, change):
    bundle = small()
    first = build(bundle)[0]
    note, _, trt, _ = build(bundle, **change)
    assert trt.seen.builds == 1
    assert note["key"] != first["key"]


def test_another_profile_and_another_file_are_built(small):
    bundle = small()
    keys = [build(bundle)[0]["key"]]
    manifest, _ = read(bundle)
    manifest["profile"]["batch"] = [1, 2, 4]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    seal(bundle)
    keys.append(build(bundle)[0]["key"])
    model = onnx.load(bundle / "model.fp16.onnx")
    model.producer_name = "another round"
    (bundle / "model.fp16.onnx").write_bytes(model.SerializeToString())
    manifest["models"]["fp16"]["sha256"] = hashlib.sha256(model.SerializeToString()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    seal(bundle)
    keys.append(build(bundle)[0]["key"])
    assert len(set(keys)) == 3


def test_a_damaged_engine_is_built_anew(small):
    bundle = small()
    trt = build(bundle)[2]
    path = bundle / "engines" / "fp16.engine"
    path.write_bytes(path.read_bytes()[:-1])
    build(bundle, trt=trt)
    assert trt.seen.builds == 2


def test_a_wrong_engine_is_never_published(small):
    bundle = small()
    before = build(bundle)[0]["sha256"]
    with pytest.raises(
        ValueError,
        match=r"fp16 engine is not published.*cosine 0\.\d+ \(at least 0\.999\); try another --precision",
    ):
        build(bundle, trt=Fake("10.16.1", wrong=0.9))
    folder = bundle / "engines"
    assert hashlib.sha256((folder / "fp16.engine").read_bytes()).hexdigest() == before, (
        "the old engine must stay"
    )
    assert not list(folder.glob(".*")), "a draft was left behind"
    assert not list(folder.glob("timing-10.16.1*")), "nothing of a failed build is kept"


def test_an_engine_that_gives_no_number_is_never_published(small):
    with pytest.raises(ValueError, match=r"not published.*nan"):
        build(small(), trt=Fake("10.3.0", wrong=float("nan")))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_build_that_dies_while_it_publishes_leaves_no_pair_that_passes(small, monkeypatch, step):
    """Power is lost at the n-th rename: an older pair is whole, or the new plan does not match the old JSON."""
    bundle = small()
    build(bundle)
    manifest, sums = read(bundle)
    done = []

    def replace(source, target):
        done.append(target)
        if len(done) == step:
            raise SystemExit  # no handler of ours may tidy up after this
        rename(source, target)

    rename = tensorrt_build.os.replace
    monkeypatch.setattr(tensorrt_build.os, "replace", replace)
    with pytest.raises(SystemExit):
        # Other bytes for the same key cannot come from the imitation: another version makes them.
        build(bundle, "10.13.3")
    monkeypatch.undo()
    for version, whole in (("10.3.0", step < 3), ("10.13.3", False)):
        load = lambda: load_engine(bundle, manifest, sums, "fp16", trt=Fake(version), cuda=Cuda(FakeCudart()))  # noqa: B023, E731
        if whole:
            assert load()(np.zeros((1, *SHAPE), np.float32)).shape == (1, DIM)
        else:
            with pytest.raises(ValueError, match="--build-engine"):
                load()


def test_timings_are_kept_for_one_version_and_one_device(small):
    bundle = small()
    trt = build(bundle, precision="fp16")[2]
    assert trt.seen.cache == b""
    assert (bundle / "engines" / "timing-10.3.0-SM87-Orin.cache").read_bytes() == b"timings of SM87"
    trt = build(bundle, precision="int8")[2]
    assert trt.seen.cache == b"timings of SM87"
    trt = build(bundle, "10.13.3", precision="int8")[2]
    assert trt.seen.cache == b""


@pytest.mark.parametrize("data", [b"\0 no timings", b"timings of SM110"])
def test_timings_that_tensorrt_refuses_are_replaced_and_said(small, data):
    bundle = small()
    (bundle / "engines").mkdir()
    path = bundle / "engines" / "timing-10.3.0-SM87-Orin.cache"
    path.write_bytes(data)
    note, lines, *_ = build(bundle)
    assert any("timing cache is damaged or of another device" in line for line in lines)
    assert note["golden"]["cosine"] > 0.99
    assert path.read_bytes() == b"timings of SM87"


def test_memory_on_a_small_board(small):
    assert build(small(), workspace_mb=256)[2].seen.limits == {"workspace": 256 << 20}
    with pytest.raises(
        ValueError, match="workspace of 2048 MiB is too much for a device of 7620 MiB: give 1024 or less"
    ):
        build(small(), workspace_mb=2048)
    with pytest.raises(ValueError, match="workspace of 0 MiB"):
        build(small(), workspace_mb=0)
    big = FakeCudart(memory_mb=62_000)
    assert build(small(), library=big)[2].seen.limits == {"workspace": 4 << 30}
    assert build(small(), library=big, workspace_mb=8192)[2].seen.limits == {"workspace": 8 << 30}


def test_a_dla_takes_one_shape_and_says_what_falls_back(small):
    bundle = small_bundle(small().parent / "four", batch=(1, 4, 8))
    note, lines, trt, library = build(bundle, trt=Fake("10.3.0", dla=2), dla=1)
    assert trt.seen.dla == ("dla", 1)
    assert trt.seen.flags == {3, 7}
    assert trt.seen.profile == {"views": ((4, *SHAPE),) * 3}
    assert note["dla"] == 1
    assert any("device type to GPU. (the first of 2 such lines)" in line for line in lines)
    manifest, sums = read(bundle)
    engine = load_engine(bundle, manifest, sums, "fp16", trt=trt, cuda=Cuda(library))
    assert engine(np.ones((5, *SHAPE), np.float32)).shape == (5, DIM)


def test_a_dla_that_is_not_there(small):
    with pytest.raises(ValueError, match=r"DLA core 0 is not there, TensorRT 11\.4 sees 0 on this device"):
        build(small(), "11.4", dla=0)
    with pytest.raises(ValueError, match="a DLA computes in fp16 and int8 alone"):
        build(small(), trt=Fake("10.3.0", dla=2), dla=0, precision="fp32")


def test_a_precision_that_the_bundle_lacks(small, tmp_path):
    with pytest.raises(ValueError, match="holds fp32, fp16, int8 and not fp8"):
        build(small(), precision="fp8")
    half = small_bundle(tmp_path / "half", models={"fp32": small_onnx(), "int8": small_onnx("int8")})
    with pytest.raises(ValueError, match="holds fp32, int8 and not fp16"):
        build(half, "8.6.1")


def test_a_swapped_file_is_refused(small):
    bundle = small()
    (bundle / "model.fp16.onnx").write_bytes((bundle / "model.int8.onnx").read_bytes())
    with pytest.raises(ValueError, match=r"model\.fp16\.onnx is damaged"):
        build(bundle)
    seal(bundle)
    with pytest.raises(ValueError, match=r"model\.fp16\.onnx is not the fp16 model of manifest\.json"):
        build(bundle)


@pytest.mark.parametrize("batch", [[1, 8], [0, 1, 8], [2, 1, 8], [1, 9, 8]])
def test_a_profile_that_is_none(small, batch):
    bundle = small()
    manifest, _ = read(bundle)
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "profile": {"batch": batch}}))
    seal(bundle)
    with pytest.raises(ValueError, match=r"manifest\.json has the profile \["):
        build(bundle)


def test_a_folder_that_cannot_be_written(small):
    bundle = small()
    (bundle / "engines").write_text("in the way")
    with pytest.raises(ValueError, match=r"engines cannot be written \(File exists\)"):
        build(bundle)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
            "JetPack 6 (L4T R36.4.3)",
        ),
        ("# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic", "JetPack 7 (L4T R39.2.0)"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "JetPack 5 (L4T R35.4.1)"),
        ("# R99 (release), REVISION: 1.0", "JetPack unknown (L4T R99.1.0)"),
        ("nonsense", "JetPack unknown (nonsense)"),
        ("", "JetPack unknown (an empty file)"),
    ],
)
def test_jetpack(tmp_path, text, said):
    (tmp_path / "release").write_text(text)
    assert jetpack(tmp_path / "release") == said
    assert jetpack(tmp_path / "nothing").startswith("no Jetson")


def test_a_tensorrt_of_pip_on_a_jetson_is_named(small, monkeypatch, tmp_path):
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3, GCID: 1")
    monkeypatch.setattr(tensorrt_build, "TEGRA", tmp_path / "release")
    assert "of pip" not in " ".join(build(small())[1])
    trt = Fake("10.3.0")
    trt.__file__ = "/home/me/venv/lib/python3.10/site-packages/tensorrt/__init__.py"
    lines = build(small(), trt=trt)[1]
    assert lines[0].startswith("JetPack 6 (L4T R36.4.3)")
    assert "not the one of JetPack" in lines[1]
