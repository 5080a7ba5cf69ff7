"""A built engine: what it computes, what it holds on the device, and which engines are refused."""

import ctypes
import gc
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import tensorrt_engine
from export.runtime.smile_edge.files import read_sums
from export.runtime.smile_edge.tensorrt_build import build_engine
from export.runtime.smile_edge.tensorrt_engine import (
    Cuda,
    TensorRTEngine,
    listen,
    load_engine,
    tensorrt_module,
)
from export.runtime.smile_edge.tensorrt_plan import build_plan
from tests.export.fake_trt import Fake, FakeCudart
from tests.export.sealing import seal
from tests.export.small_bundle import DIM, SHAPE, small_bundle, small_onnx


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A bundle with an fp16 engine of TensorRT 10.3.0 for an Orin, and an int8 one beside it."""
    bundle = small_bundle(tmp_path_factory.mktemp("engines") / "bundle")
    for precision in ("fp16", "int8"):
        build_engine(
            bundle, precision=precision, trt=Fake("10.3.0"), cuda=Cuda(FakeCudart()), say=lambda line: None
        )
    return bundle


@pytest.fixture
def copied(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "copy"))


def load(bundle, precision="fp16", *, trt=None, library=None):
    manifest = json.loads((bundle / "manifest.json").read_text())
    trt, cuda = trt or Fake("10.3.0"), Cuda(library or FakeCudart())
    return load_engine(bundle, manifest, read_sums(bundle), precision, trt=trt, cuda=cuda)


def views(count):
    return np.random.default_rng(3).integers(0, 256, (count, *SHAPE)).astype(np.float32)


def reference(data, file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"views": data})[0]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 21])
def test_any_batch_is_cut_to_the_profile(built, count):
    data = views(count)
    found = load(built)(data)
    assert (found.shape, found.dtype) == ((count, DIM), np.float32)
    if count:
        np.testing.assert_allclose(found, reference(data, built / "model.fp16.onnx"), atol=1e-6)


def engine_of(profile, *, onnx=None, library=None, dla=None):
    trt = Fake("10.3.0", dla=2)
    shapes = {"views": tuple((batch, *SHAPE) for batch in profile)}
    plan = build_plan(
        trt, onnx or small_onnx(), shapes=shapes, precision="fp32", workspace_mb=64, dla=dla
    ).plan
    return TensorRTEngine(plan, trt=trt, cuda=Cuda(library or FakeCudart()), precision="fp32", dla=dla)


@pytest.mark.parametrize("profile", [(4, 4, 4), (3, 4, 5)])
def test_a_batch_below_the_profile_is_padded(profile, tmp_path):
    data = views(6)
    found = engine_of(profile)(data)
    np.testing.assert_allclose(found, reference(data, small_onnx()), atol=1e-6)


def test_views_need_be_neither_float32_nor_contiguous():
    data = views(3)
    engine = engine_of((1, 1, 8))
    expected = engine(data)
    np.testing.assert_array_equal(engine(data.astype(np.uint8)), expected)
    np.testing.assert_array_equal(engine(np.asfortranarray(data.astype(np.float64))), expected)


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE[:-1], 9), (1, 2, *SHAPE[1:])])
def test_views_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"views have shape \(.*this engine takes \(batch, 3, 4, 8, 8\)"):
        engine_of((1, 1, 8))(np.zeros(shape, np.float32))


def test_the_memory_of_the_device_is_steady_and_comes_back():
    library = FakeCudart()
    engine = engine_of((1, 1, 8), library=library)
    assert len(library.held) == 3  # views, embedding, stream
    sizes = sorted(len(block) for block in library.held.values() if block != "stream")
    assert sizes == [4 * 8 * DIM, 4 * 8 * int(np.prod(SHAPE))]
    for _ in range(50):
        engine(views(9))
    assert len(library.held) == 3
    engine.close()
    engine.close()
    assert library.held == {}
    engine = engine_of((1, 1, 8), library=library)
    del engine
    gc.collect()
    assert library.held == {}, "an engine that nobody holds must free its buffers"


def test_the_log_of_a_long_run_is_bounded():
    log, lines = listen(Fake("10.3.0"))
    for number in range(5000):
        log.log(2, f"warning {number}")
        log.log(3, "information")
    assert len(lines) == 1000
    assert lines[-1] == "[W] warning 4999"


def test_a_dla_core_is_asked_for_before_the_plan_is_read(monkeypatch):
    engine = engine_of((4, 4, 4), dla=1)
    assert engine._runtime.DLA_core == 1


def test_no_engine_yet(copied):
    shutil.rmtree(copied / "engines")
    remedy = r"run `python3 run\.py --build-engine --precision fp16` on this device$"
    with pytest.raises(ValueError, match=r"copy has no fp16 engine yet: " + remedy):
        load(copied)


def test_a_plan_without_its_json_is_no_engine(copied):
    (copied / "engines" / "fp16.engine.json").unlink()
    with pytest.raises(ValueError, match="no fp16 engine yet"):
        load(copied)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"trt": Fake("10.13.3")}, r"was built for TensorRT 10\.3\.0 and here it is 10\.13\.3"),
        ({"trt": Fake("11.4")}, r"was built for TensorRT 10\.3\.0 and here it is 11\.4"),
        ({"library": FakeCudart(sm=(11, 0))}, "was built for GPU architecture SM87 and here it is SM110"),
        ({"library": FakeCudart(name="Orin NX")}, "was built for GPU Orin and here it is Orin NX"),
        # Three boards that CUDA calls Orin, SM87.
        ({"library": FakeCudart(processors=16)}, "was built for multiprocessors 8 and here it is 16"),
        ({"library": FakeCudart(memory_mb=15_389)}, "was built for GiB of memory 7 and here it is 15"),
    ],
)
def test_an_engine_of_elsewhere(built, given, reason):
    with pytest.raises(ValueError, match=reason + r": run `python3 run\.py --build-engine") as error:
        load(built, **given)
    assert "\n" not in str(error.value)


def test_memory_that_a_new_kernel_keeps_for_itself_is_no_other_device(built):
    assert load(built, library=FakeCudart(memory_mb=7500))(views(1)).shape == (1, DIM)


def test_a_warning_of_another_model_of_device_is_told(built, capsys):
    load(built)
    assert capsys.readouterr().err == ""
    load(built, trt=Fake("10.3.0", elsewhere=True))
    err = capsys.readouterr().err
    assert "another model of device: compare it with --self-test" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("onnx", "reason"),
    [
        ({"file": "nothing", "sha256": None}, r"the ONNX file nothing and here it is model\.fp16\.onnx"),
        ({"file": "model.fp16.onnx", "sha256": None}, "SHA-256 of the ONNX file None"),
        ({"file": "manifest.json", "sha256": "manifest"}, r"the ONNX file manifest\.json"),
    ],
)
def test_an_engine_of_no_file_of_the_bundle(copied, onnx, reason):
    path = copied / "engines" / "fp16.engine.json"
    if onnx["sha256"] == "manifest":
        onnx = {**onnx, "sha256": read_sums(copied)["manifest.json"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "onnx": onnx}))
    with pytest.raises(ValueError, match="was built for " + reason):
        load(copied)


def test_an_unreadable_plan_is_one_sentence(copied, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"fp16\.engine cannot be read \(Permission denied\): run `python3"):
        load(copied)


def test_an_engine_of_another_round(copied):
    (copied / "model.fp16.onnx").write_bytes(small_onnx("fp16", seed=5))
    seal(copied)
    with pytest.raises(ValueError, match="was built for SHA-256 of the ONNX file"):
        load(copied)


def test_an_engine_under_another_name(copied):
    folder = copied / "engines"
    for end in ("engine", "engine.json"):
        shutil.copy(folder / f"int8.{end}", folder / f"fp16.{end}")
    with pytest.raises(ValueError, match="was built for precision int8 and here it is fp16"):
        load(copied)


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:200] + b"x" + d[201:], lambda d: b""])
def test_a_damaged_plan(copied, damage):
    path = copied / "engines" / "fp16.engine"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"fp16\.engine is damaged \(its SHA-256 is not the one in fp16\.engine\.json\): run"
    ):
        load(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"precision": "fp16"}', '"x"', "\udcff"])
def test_a_damaged_json(copied, text):
    path = copied / "engines" / "fp16.engine.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        ValueError, match=r"fp16\.engine\.json is damaged: run `python3 run\.py --build-engine"
    ):
        load(copied)


def test_a_plan_that_tensorrt_refuses():
    trt = Fake("10.3.0")
    with pytest.raises(
        ValueError, match=r"cannot load the fp16 engine \(Error Code 1: Serialization .*\): run"
    ):
        TensorRTEngine(b"junk", trt=trt, cuda=Cuda(FakeCudart()), precision="fp16")


def test_borders_must_be_float32_and_named_as_in_the_manifest():
    import onnx

    model = onnx.load_from_string(small_onnx())
    model.graph.node[-1].output[0] = "wide"
    model.graph.node.append(
        onnx.helper.make_node("Cast", ["wide"], ["embedding"], to=onnx.TensorProto.FLOAT16)
    )
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(
        ValueError, match=r"has the tensors \['embedding', 'views'\] and .* in float32 are wanted"
    ):
        engine_of((1, 1, 8), onnx=model.SerializeToString())
    model = onnx.load_from_string(small_onnx())
    model.graph.node[-1].output[0] = model.graph.output[0].name = "answer"
    with pytest.raises(ValueError, match=r"has the tensors \['answer', 'views'\]"):
        engine_of((1, 1, 8), onnx=model.SerializeToString())


def test_a_run_that_fails_is_an_error_and_not_an_answer(monkeypatch):
    engine = engine_of((1, 1, 8))
    monkeypatch.setattr(type(engine._context), "execute_async_v3", lambda self, stream: False)
    with pytest.raises(ValueError, match=r"tensorrt 10\.3\.0 fp32 failed"):
        engine(views(1))


@pytest.mark.parametrize(
    "call", ["cudaMalloc", "cudaStreamCreate", "cudaMemcpyAsync", "cudaStreamSynchronize"]
)
def test_a_refusal_of_cuda_is_one_sentence(call):
    library = FakeCudart(refuse={call: 2})
    with pytest.raises(
        ValueError, match=rf"CUDA refuses {call} \(2: out of memory\): free memory of the GPU, or use"
    ):
        engine_of((1, 1, 8), library=library)(views(1))


def test_tensorrt_that_is_missing_or_too_old(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ValueError, match=r"apt install python3-libnvinfer.*never a TensorRT from pip"):
        tensorrt_module()
    old = Fake("8.6.1")
    del old.IExecutionContext.execute_async_v3
    with pytest.raises(ValueError, match="is too old"):
        tensorrt_module(old)


def _cudart() -> list[Path]:
    """libcudart as torch brings it, or as CUDA installs it."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return [
        file for place in (*places, Path("/usr/local/cuda/lib64")) for file in place.glob("**/libcudart.so*")
    ]


@pytest.fixture
def cudart(monkeypatch) -> ctypes.CDLL:
    """The real library, found as on a device."""
    if not _cudart():
        pytest.skip("libcudart is not installed")
    library = ctypes.CDLL(str(_cudart()[0]))
    library.cudaGetErrorString.restype = ctypes.c_char_p
    monkeypatch.setattr(tensorrt_engine, "_CUDART", ("libcudart.so.of.nobody", str(_cudart()[0])))
    return library


def test_the_real_libcudart_without_a_gpu(cudart):
    if cudart.cudaFree(None) == 0:
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        ValueError, match=r"no GPU can be used here \(.*libcudart.*: \w.*\): install NVIDIA's driver"
    ):
        Cuda()
    with pytest.raises(ValueError, match=r"CUDA refuses cudaMalloc \(\d+: \w"):
        Cuda(cudart).allocate(100)


def test_the_real_libcudart_with_a_gpu(cudart):
    if cudart.cudaFree(None) != 0:
        pytest.skip("this machine has no GPU")
    cuda, sent = Cuda(), np.arange(1000, dtype=np.float32)
    device, back = cuda.device(), np.zeros_like(sent)
    assert device.name and device.sm.startswith("SM") and device.memory_mb > 100
    pointer, stream = cuda.allocate(sent.nbytes), cuda.stream()
    cuda.upload(pointer, sent, stream)
    cuda.download(back, pointer, stream)
    cuda.wait(stream)
    np.testing.assert_array_equal(back, sent)
    cuda.free(pointer)
    cuda.end_stream(stream)


def test_no_libcudart_at_all(monkeypatch):
    monkeypatch.setattr(tensorrt_engine, "_CUDART", ("libcudart.so.of.nobody",))
    with pytest.raises(ValueError, match=r"no GPU can be used here \(libcudart is not installed\)"):
        Cuda()


def test_these_modules_need_numpy_alone():
    """In a process of its own: no torch, no onnxruntime, no cuda-python."""
    code = (
        "import sys, types, importlib\n"
        "package = types.ModuleType('edge'); package.__path__ = [sys.argv[1]]; sys.modules['edge'] = package\n"
        "for name in ('tensorrt_engine', 'tensorrt_plan', 'tensorrt_build'): importlib.import_module('edge.' + name)\n"
        "wrong = {'torch', 'onnx', 'onnxruntime', 'cuda', 'tensorrt', 'smile', 'export'} & set(sys.modules)\n"
        "sys.exit(str(wrong) if wrong else 0)\n"
    )
    folder = Path(tensorrt_engine.__file__).parent
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
