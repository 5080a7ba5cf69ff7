"""`run.py`: one sentence, and exit code 2, for everything that is not a face."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import main

NOISE = np.random.default_rng(0).bytes(400)


def _arrays() -> dict[str, tuple[object, str]]:
    good = np.full((3, 4, 64, 64), 9, np.uint8)
    return {
        "other size": (good[..., :32], "(3, 4, 64, 32)"),
        "other views": (good[:2], "(2, 4, 64, 64)"),
        "other channels": (good[:, :2], "(3, 2, 64, 64)"),
        "flat": (good[0, 0], "(64, 64)"),
        "no frame": (good[None][:0], "(0, 3"),
        "scalar": (np.uint8(3), "()"),
        "integers": (good.astype(np.int64), "int64"),
        "yes or no": (good > 3, "bool"),
        "words": (np.array(["a"]), "<U1"),
        "complex": (good * 1j, "complex128"),
        "nan": (good * np.float32(np.nan), "NaN"),
        "infinite": (good * np.float32(np.inf), "NaN"),
        "unit": (good / np.float32(255), "0 to 255"),
        "negative": (good * np.float32(-1), "0 to 255"),
        "blank": (good * 0, "every view is empty in frame 0"),
        "blank view": (np.stack([good, good * 0]), "every view is empty in frame 1"),
    }


@pytest.mark.parametrize("case", _arrays())
def test_arrays_that_are_not_views(tmp_path, case, refusal):
    array, reason = _arrays()[case]
    np.save(tmp_path / "x.npy", array)
    assert reason in refusal(tmp_path / "x.npy")


def _good_npy(path: Path) -> bytes:
    np.save(path, np.full((3, 4, 64, 64), 9, np.uint8))
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:3],
        lambda data: data[:100],
        lambda data: data[:1000],
        lambda data: b"x" * 500,
        lambda data: data.replace(b"|u1", b"|O8"),
        lambda data: data.replace(b"(3, 4,", b"(3e9,4"),
        lambda data: data[:8] + b"\xff" + data[9:],
        lambda data: data.replace(b"(3, 4, 64, 64), }         ", b"(99999999999999, 4, 64), }"),
        lambda data: b"PK\x03\x04" + data,
    ],
    ids=["empty", "magic", "header", "cut", "junk", "objects", "shape", "length", "huge", "archive"],
)
def test_damaged_npy_files(tmp_path, damage, refusal):
    path = tmp_path / "x.npy"
    path.write_bytes(damage(_good_npy(path)))
    text = refusal(path)
    assert str(path) in text
    assert "allow_pickle" not in text


def test_python_objects_are_refused(tmp_path, refusal):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "Python objects" in refusal(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.obj", b""),
        ("a.obj", b"v 1 2 nan\nf 1 2 3\n"),
        ("a.obj", NOISE),
        ("a.ply", b"ply\nformat ascii 1.0\n"),
        (
            "a.ply",
            b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\nproperty float x\nend_header\n",
        ),
        ("a.wrl", NOISE),
        ("a.bnt", NOISE),
        ("a.jpg", b"\xff\xd8\xff"),
        ("a", b"x"),
        ("a.npz", b"PK\x03\x04"),
    ],
)
def test_damaged_scans(tmp_path, name, data, refusal):
    (tmp_path / name).write_bytes(data)
    assert str(tmp_path / name) in refusal(tmp_path / name)


def test_what_is_no_file(tmp_path, refusal):
    assert "not there" in refusal(tmp_path / "nothing.npy")
    assert "folder" in refusal(tmp_path)
    assert "name too long" in refusal(tmp_path / ("x" * 300 + ".npy"))


def test_one_bad_input_does_not_stop_the_others(bundle, golden, tmp_path, capsys):
    np.save(tmp_path / "face.npy", golden["views"][0])
    assert (
        main(["--bundle", str(bundle), "--json", str(tmp_path / "nothing.npy"), str(tmp_path / "face.npy")])
        == 2
    )
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "error" in first
    assert "expression" in second


@pytest.mark.parametrize("name", ["model.fp32.onnx", "text_embeddings.npy", "manifest.json", "SHA256SUMS"])
def test_a_damaged_bundle_is_one_sentence(copied, golden, tmp_path, capsys, name):
    np.save(tmp_path / "face.npy", golden["views"][0])
    data = bytearray((copied / name).read_bytes())
    data[10] ^= 1
    (copied / name).write_bytes(data)
    assert main(["--bundle", str(copied), "--self-test"]) == 2
    assert "damaged" in capsys.readouterr().err
    (copied / name).unlink()
    assert main(["--bundle", str(copied), str(tmp_path / "face.npy")]) == 2
    text = capsys.readouterr().err
    assert name in text
    assert len(text.splitlines()) == 1


def test_a_changed_reader_is_never_run(copied, tmp_path, refusal):
    with (copied / "reader" / "config.py").open("a") as file:
        file.write("raise SystemExit('this must not run')\n")
    (tmp_path / "face.obj").write_text("v 0 0 0\n")
    assert "damaged" in refusal(tmp_path / "face.obj", by=copied)


def test_another_schema_is_refused(copied, capsys):
    import hashlib

    text = (copied / "manifest.json").read_text().replace('"schema": 2', '"schema": 1')
    sums = (copied / "SHA256SUMS").read_text()
    old = hashlib.sha256((copied / "manifest.json").read_bytes()).hexdigest()
    (copied / "manifest.json").write_text(text)
    (copied / "SHA256SUMS").write_text(sums.replace(old, hashlib.sha256(text.encode()).hexdigest()))
    assert main(["--bundle", str(copied), "--self-test"]) == 2
    assert "schema 1" in capsys.readouterr().err


def test_the_command_line_survives_odd_surroundings(bundle, golden, tmp_path, run):
    np.save(tmp_path / "fäce 你.npy", golden["views"][0])
    done = run(tmp_path / "fäce 你.npy", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    reader, writer = os.pipe()
    os.close(reader)  # as `run.py ... | head` does
    done = subprocess.run(
        [sys.executable, bundle / "run.py", *[tmp_path / "fäce 你.npy"] * 3],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""
    for arguments in ((), ("x.npy", "--threads", "0"), ("x.npy", "--top", "none")):
        done = run(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_missing_engine_is_one_sentence(bundle, run):
    code = (
        "import sys, runpy; sys.modules['onnxruntime'] = None; sys.path.insert(0, 'bundle'); sys.argv = ['run.py', 'x.npy']; "
        "runpy.run_path('bundle/run.py', run_name='__main__')"
    )
    done = run(code=code)
    assert done.returncode == 2
    assert (
        done.stderr.strip() == "onnxruntime is not installed: run `python3 -m pip install numpy onnxruntime`"
    )
