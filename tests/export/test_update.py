"""A bundle on a device becomes that of the next round: what is sent, what stays, and what tests it there."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import main
from export.bundle import site_views
from export.parity import with_gap
from export.runtime.smile_edge import ExpressionReader
from export.runtime.smile_edge.files import read_sums
from export.runtime.smile_edge.tensorrt_build import build_engine
from export.runtime.smile_edge.tensorrt_engine import Cuda
from export.runtime.smile_edge.update import patched
from export.update import _stretches
from smile.checkpoint import load, save
from smile.protocol import get_arrays
from tests.export.fake_trt import Fake, FakeCudart
from tests.export.sealing import seal
from tests.export.updates import about, files, make, other_words, use

KEY = b"0123456789abcdef"
# An imitated Jetson for the processes that an update starts: TensorRT and a GPU, and no onnxruntime but inside the imitation.
DEVICE = """
import ctypes, sys
import onnxruntime
sys.path.append({root!r})
from tests.export.fake_trt import Fake, FakeCudart

trt, cudart, real = Fake("10.3.0", wrong={wrong}), FakeCudart(), ctypes.CDLL
free, load = cudart.cudaFree, trt.Runtime.deserialize_cuda_engine
cudart.cudaGetErrorString = lambda code: b""
cudart.cudaFree = lambda pointer: free(pointer) if pointer else 0
ctypes.CDLL = lambda name, *more, **words: cudart if "cudart" in str(name) else real(name, *more, **words)


def deserialize_cuda_engine(runtime, plan):
    sys.modules["onnxruntime"] = onnxruntime
    try:
        return load(runtime, plan)
    finally:
        sys.modules["onnxruntime"] = None


trt.Runtime.deserialize_cuda_engine = deserialize_cuda_engine
sys.modules |= {{"tensorrt": trt, "onnxruntime": None}}
"""


def _next(checkpoint: Path, folder: Path, change, **meta: object) -> Path:
    """The checkpoint of a later round; change: name, array -> array."""
    model, config, old = load(checkpoint)
    arrays = {name: change(name, array) for name, array in get_arrays(model).items()}
    save(folder, arrays, config, {**old, **meta})
    return folder


@pytest.fixture(scope="module")
def next_round(checkpoint, tmp_path_factory) -> Path:
    """The checkpoint of round 4: every weight has moved."""
    folder = tmp_path_factory.mktemp("next") / "round-0004"
    return _next(checkpoint, folder, lambda name, array: array + np.float32(1e-3), round=4)


@pytest.fixture(scope="module")
def update(bundle, next_round, tmp_path_factory) -> Path:
    return make(bundle, next_round, tmp_path_factory.mktemp("update") / "r4.update")


@pytest.fixture(scope="module")
def few(bundle, checkpoint, tmp_path_factory) -> Path:
    """The update to round 10, a longer number, in which two matrices of the projector have moved."""
    folder = tmp_path_factory.mktemp("few")

    def change(name: str, array: np.ndarray) -> np.ndarray:
        moved = name.startswith("projector") and array.ndim == 2
        return array + np.float32(1e-2) if moved else array

    return make(bundle, _next(checkpoint, folder / "round-0010", change, round=10), folder / "r10.update")


@pytest.fixture(scope="module")
def words(bundle, checkpoint, tmp_path_factory) -> Path:
    return other_words(bundle, checkpoint, tmp_path_factory.mktemp("words"))


def test_the_next_round_is_what_an_export_of_it_gives(update, copied, next_round, golden, tmp_path):
    before = files(copied)
    assert use(update, copied) == 0
    assert main(["bundle", str(next_round), str(tmp_path / "fresh")]) == 0
    assert files(copied) == files(tmp_path / "fresh") != before
    assert files(copied.with_name("copy.previous")) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "copy.previous", "fresh"]
    found = [ExpressionReader(folder).embed(golden["views"]) for folder in (copied, tmp_path / "fresh")]
    np.testing.assert_array_equal(*found)
    said = about(update)
    assert (said["kind"], said["files"]["model.fp32.onnx"]["how"]) == ("whole encoder", "whole")


def test_layers_that_stayed_are_not_sent_again(few, bundle, copied, checkpoint):
    said, size = about(few), (bundle / "model.fp32.onnx").stat().st_size
    assert said["kind"] == "some layers of the encoder"
    assert said["files"]["model.fp32.onnx"]["how"] == "stretches"
    moved = sum(a.nbytes for n, a in get_arrays(load(checkpoint)[0]).items() if n.startswith("projector"))
    with zipfile.ZipFile(few) as archive:
        assert archive.getinfo("files/model.fp32.onnx").file_size < moved + 1000 < size / 8
    before = (copied / "model.fp32.onnx").read_bytes()
    assert use(few, copied) == 0
    after = (copied / "model.fp32.onnx").read_bytes()
    assert len(after) == len(before) and after != before
    assert ExpressionReader(copied).provenance["round"] == 10


def test_new_words_leave_every_engine_as_it_is(words, copied):
    model = (copied / "model.fp32.onnx").read_bytes()
    (copied / "engines").mkdir()
    (copied / "engines" / "fp32.engine").write_bytes(b"a plan")
    (copied / "engines" / "int8.engine").write_bytes(b"of a precision that is not there")
    assert use(words, copied) == 0
    assert (copied / "model.fp32.onnx").read_bytes() == model
    assert [p.name for p in (copied / "engines").iterdir()] == ["fp32.engine"]
    assert set(ExpressionReader(copied).labels) == {"smile", "rest"}
    assert about(words)["kind"] == "text only, engines stay"
    with zipfile.ZipFile(words) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".onnx")]
    assert words.stat().st_size < 0.1 * len(model)


def test_an_engine_of_the_old_weights_does_not_go_along_and_its_timings_do(update, copied):
    (copied / "engines").mkdir()
    (copied / "engines" / "fp32.engine").write_bytes(b"a plan")
    (copied / "engines" / "timing-10.3.0-SM87-Orin.cache").write_bytes(b"timings")
    assert use(update, copied) == 0
    assert [p.name for p in (copied / "engines").iterdir()] == ["timing-10.3.0-SM87-Orin.cache"]
    assert (copied / "engines" / "timing-10.3.0-SM87-Orin.cache").read_bytes() == b"timings"


def test_a_bundle_with_classes_of_its_own_keeps_them(words, copied, checkpoint, tmp_path):
    assert use(words, copied) == 0
    later = _next(checkpoint, tmp_path / "round-0005", lambda name, array: array, round=5)
    assert use(make(copied, later, tmp_path / "r5.update"), copied) == 0
    reader = ExpressionReader(copied)
    assert (set(reader.labels), reader.provenance["round"]) == ({"smile", "rest"}, 5)
    assert reader.manifest["text"]["prompts"] == {"smile": ["a smiling face"], "rest": ["a face at rest"]}


def test_golden_captures_of_a_site_do_not_become_others_in_silence(
    copied, checkpoint, people, tmp_path, capsys
):
    seal(copied, golden="views of a prepared site: they show its subjects")
    assert main(["update", str(copied), str(checkpoint), str(tmp_path / "u")]) == 1
    assert "with --sample SITE" in capsys.readouterr().err and not (tmp_path / "u").exists()
    assert use(make(copied, checkpoint, tmp_path / "u", "--sample", people), copied) == 0
    assert "must not leave it" in capsys.readouterr().err
    with np.load(copied / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["views"], with_gap(site_views(people, load(checkpoint)[1])))


def test_weights_that_learned_another_prompt_bank_need_their_sentences(
    copied, manifest, checkpoint, tmp_path, capsys
):
    seal(copied, checkpoint={**manifest["checkpoint"], "meta": {"prompts": "aa"}})
    later = _next(checkpoint, tmp_path / "round-0005", lambda name, array: array, round=5, prompts="bb")
    assert main(["update", str(copied), str(later), str(tmp_path / "u")]) == 1
    said = capsys.readouterr().err
    assert "another prompt bank" in said and "--prompts FILE" in said and not (tmp_path / "u").exists()
    other_words(copied, later, tmp_path)


@pytest.fixture
def jetson(copied, monkeypatch, tmp_path_factory):
    """`copied` on an imitated device with TensorRT and without onnxruntime, its engine built; jetson(wrong): how wrong it computes."""
    build_engine(copied, workspace_mb=700, trt=Fake("10.3.0"), cuda=Cuda(FakeCudart()), say=lambda line: None)
    folder = tmp_path_factory.mktemp("jetson")
    (folder / "tensorrt.py").touch()  # to be found; the imitation is in its place before anybody imports it
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def start(wrong: float = 0.0) -> dict:
        code = DEVICE.format(root=str(Path(__file__).parents[2]), wrong=wrong)
        (folder / "sitecustomize.py").write_text(code)
        return json.loads((copied / "engines" / "fp32.engine.json").read_text())

    return start


def test_without_onnxruntime_the_engine_that_stays_tests_the_update(words, copied, jetson, capfd):
    jetson()
    before = files(copied / "engines")
    assert use(words, copied) == 0, capfd.readouterr().err
    assert files(copied / "engines") == before
    assert "is there already" in capfd.readouterr().out


def test_without_onnxruntime_an_engine_of_the_new_weights_is_built_as_the_old_one_was(
    few, copied, jetson, capfd
):
    old = jetson()
    assert use(few, copied) == 0, capfd.readouterr().err
    assert "building" in capfd.readouterr().out
    new = json.loads((copied / "engines" / "fp32.engine.json").read_text())
    assert new["onnx"]["sha256"] == files(copied)["model.fp32.onnx"] != old["onnx"]["sha256"]
    assert new["workspace_mb"] == old["workspace_mb"] == 700
    assert (copied.with_name("copy.previous") / "engines" / "fp32.engine").is_file()


def test_without_onnxruntime_an_engine_that_computes_wrongly_stops_the_update(few, copied, jetson, capfd):
    jetson(wrong=0.5)
    before = files(copied)
    assert use(few, copied) == 2
    said = capfd.readouterr().err
    assert "the old one stays" in said and "disagrees with torch" in said and len(said.splitlines()) == 1
    assert files(copied) == before


def test_with_neither_onnxruntime_nor_tensorrt_there_is_a_sentence(words, copied, monkeypatch, capsys):
    for name in ("onnxruntime", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)
    before = files(copied)
    assert use(words, copied) == 2
    assert "neither onnxruntime nor TensorRT" in capsys.readouterr().err and files(copied) == before


def test_an_update_is_for_one_bundle_and_once(words, copied, capsys):
    assert use(words, copied) == 0
    before = files(copied)
    assert use(words, copied) == 2
    assert "another bundle" in capsys.readouterr().err and files(copied) == before


@pytest.mark.parametrize(
    ("made", "used", "reason"),
    [(KEY, None, "is signed"), (None, KEY, "is not signed"), (KEY, KEY[::-1], "not signed with this key")],
)
def test_keys(bundle, checkpoint, copied, tmp_path, capsys, made, used, reason):
    names = {}
    for name, key in (("made", made), ("used", used)):
        (tmp_path / name).write_bytes(key or b"")
        names[name] = ["--key", str(tmp_path / name)] if key else []
    path = make(bundle, checkpoint, tmp_path / "k.update", *names["made"])
    capsys.readouterr()
    assert use(path, copied, *names["used"]) == 2
    assert reason in capsys.readouterr().err
    if made and used:
        assert use(path, copied, *names["made"]) == 0


def test_a_short_key_is_refused(bundle, checkpoint, tmp_path, capsys):
    (tmp_path / "key").write_text("secret\n")
    arguments = ["update", bundle, checkpoint, tmp_path / "u", "--key", tmp_path / "key"]
    assert main(list(map(str, arguments))) == 1
    assert "16 or more" in capsys.readouterr().err and not (tmp_path / "u").exists()


@pytest.mark.parametrize("seed", range(20))
def test_stretches_make_the_new_file_of_the_old_one(seed):
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 256, 5000 + seed, dtype=np.uint8)
    new = old.copy()
    for start in rng.integers(0, 5000 + seed, seed % 5):
        new[start : start + rng.integers(1, 300)] = rng.integers(0, 256)
    stretches = _stretches(old.tobytes(), new.tobytes())
    assert stretches is not None and patched(old.tobytes(), stretches) == new.tobytes()
    assert len(stretches) <= (new != old).sum() * 2 + 5 * (16 + 128)


def test_stretches_that_do_not_fit_are_refused():
    stretches = _stretches(b"a" * 100, b"a" * 90 + b"b" * 10)
    assert stretches is not None and _stretches(b"a", b"ab") is None and _stretches(b"", b"") == b""
    for wrong in (stretches[:-1], stretches[:10]):
        with pytest.raises(ValueError, match="stretch"):
            patched(b"a" * 100, wrong)
    with pytest.raises(ValueError, match="outside"):
        patched(b"a" * 95, stretches)


def test_the_sums_of_an_updated_bundle_are_true(words, copied):
    assert use(words, copied) == 0
    sums, found = read_sums(copied), files(copied)
    assert {name: found[name] for name in sums} == sums
