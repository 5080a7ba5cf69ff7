"""A bundle in a fresh environment, as on a device: only numpy and onnxruntime, then what raw scans need."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge.views import read_views

pytestmark = pytest.mark.slow
SITES = Path(__file__).parents[2].parent / "shared" / "sites"


def command(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(a) for a in arguments], capture_output=True, text=True, check=False, timeout=600, **options
    )


def interpreters() -> list[str]:
    """This Python, and the 3.10 of JetPack 6 where there is one that starts."""
    old = shutil.which("python3.10")
    return [sys.executable, *([old] if old and command(old, "-c", "").returncode == 0 else [])]


def install(python: Path, *packages: str) -> None:
    """Into the environment of `python`; skips when the package index cannot be reached."""
    if importlib.util.find_spec("uv"):
        done = command(sys.executable, "-m", "uv", "pip", "install", "--python", python, *packages)
    else:
        done = command(python, "-m", "pip", "install", "--disable-pip-version-check", *packages)
    if done.returncode:
        pytest.skip(
            f"{', '.join(packages)} cannot be installed here: {(done.stderr.strip() or 'no reason').splitlines()[-1]}"
        )


@pytest.fixture(scope="module", params=interpreters(), ids=lambda path: Path(path).name)
def device(request, tmp_path_factory) -> Path:
    """The Python of a new environment with numpy and onnxruntime."""
    folder = tmp_path_factory.mktemp("device") / "environment"
    if importlib.util.find_spec("uv"):
        done = command(
            sys.executable, "-m", "uv", "venv", "--no-python-downloads", "--python", request.param, folder
        )
    else:
        done = command(request.param, "-m", "venv", folder)
    assert done.returncode == 0, done.stderr
    python = folder / "bin" / "python"
    install(python, "numpy", "onnxruntime")
    return python


def test_a_bundle_needs_numpy_and_onnxruntime_alone(device, bundle, reader, golden, tmp_path):
    moved = Path(shutil.copytree(bundle, tmp_path / "somewhere else"))
    done = command(device, moved / "run.py", "--self-test", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    np.save(tmp_path / "clip.npy", golden["views"])
    done = command(device, moved / "run.py", "clip.npy", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer["probabilities"] == pytest.approx(
        reader.predict(golden["views"])["probabilities"], abs=1e-5
    )

    (tmp_path / "face.ply").write_bytes(b"ply\n")
    done = command(device, moved / "run.py", "face.ply", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "python3 -m pip install trimesh" in done.stderr


@pytest.mark.skipif(not SITES.is_dir(), reason="the sample sites are not beside this checkout")
def test_the_named_packages_are_enough_for_raw_scans(device, bundle, manifest, reader, tmp_path):
    install(device, "trimesh", "embreex", "pillow")
    scans = [
        next((SITES / site).rglob(f"*{suffix}"))
        for site, suffix in (
            ("west-ply", ".ply"),
            ("east-obj", ".obj"),
            ("south-bosphorus", ".bnt"),
            ("north-bu4dfe", ".wrl"),
        )
    ]
    done = command(device, bundle / "run.py", *scans, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for path, line in zip(scans, done.stdout.splitlines(), strict=True):
        expected = reader.predict(read_views(path, bundle, manifest["preprocessing"])[0])
        assert json.loads(line)["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
