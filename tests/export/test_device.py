"""A bundle in a fresh environment, as on a device: only numpy and onnxruntime, then what each raw scan asks for."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge.views import read_views
from simulations import faces as simulated
from tests.export.updates import other_words
from tests.scans.writers_depth import PHONE, photograph

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


def test_every_way_to_use_it_works_there(device, three, checkpoint, golden, tmp_path):
    """All precisions, a folder, a stream, a depth frame, the service and an update, by the same two packages."""
    moved = Path(shutil.copytree(three, tmp_path / "bundle"))
    for precision in ("fp32", "fp16", "int8"):
        done = command(device, moved / "run.py", "--self-test", "--precision", precision, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, views in enumerate(golden["views"][:3]):
        np.save(frames / f"{number}.npy", views)
    for words in ([frames], ["--stream", frames, "--idle", "1"]):
        done = command(device, moved / "run.py", *words, "--json", cwd=tmp_path)
        assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 3)
    _depth_frame(tmp_path)
    done = command(
        device,
        moved / "run.py",
        "--depth",
        "depth.npy",
        "--intrinsics",
        "camera.json",
        "--json",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "") and len(json.loads(done.stdout)["probabilities"]) == 7
    assert _served(device, moved, frames / "0.npy") == 200
    other_words(moved, checkpoint, tmp_path)
    done = command(device, moved / "run.py", "--update", "w.update", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command(device, moved / "run.py", frames / "0.npy", "--json", cwd=tmp_path)
    assert set(json.loads(done.stdout)["probabilities"]) == {"smile", "rest"}


def _depth_frame(folder: Path) -> None:
    """A simulated face as a phone's depth camera sees it: metres, with the numbers of its lens."""
    face = simulated.face(simulated.sample_identity(np.random.default_rng(5)), {})
    metres, _ = photograph(face.vertices + np.array([4.0, -6.0, -380.0]), face.faces, PHONE)
    np.save(folder / "depth.npy", metres.astype(np.float32))
    (folder / "camera.json").write_text(
        json.dumps({name: getattr(PHONE, name) for name in ("fx", "fy", "cx", "cy")})
    )


def _served(device: Path, bundle: Path, views: Path) -> int:
    """Status of one POST /predict to the bundle's own service, which ends by SIGTERM."""
    words = [str(device), str(bundle / "run.py"), "--serve", "127.0.0.1:0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = re.search(r"http://(\S+)", process.stderr.readline())
            assert address
            connection = HTTPConnection(address[1], timeout=30)
            connection.request("POST", "/predict", views.read_bytes())
            status = connection.getresponse().status
        finally:
            process.terminate()
    assert process.returncode == 0
    return status


READ = """
import json, sys
from pathlib import Path
import numpy as np
bundle, spec, scan, out = sys.argv[1:]
sys.path.insert(0, bundle)
from smile_edge.views import read_views
np.save(out, read_views(Path(scan), Path(bundle), json.loads(spec))[0])
"""


def test_a_scan_asks_for_what_it_needs_until_it_is_read(device, bundle, all_channels, faces, tmp_path):
    """The sentences are followed to the letter, and the views are those that are seen here."""
    asked = {}
    for name in ("colour.obj", "texture.obj", "colour.ply", "texture.glb", "cloud.xyz"):
        asked[name] = []
        arguments = (bundle, json.dumps(all_channels), faces / name, tmp_path / "views.npy")
        while (done := command(device, "-c", READ, *arguments)).returncode:
            package = re.search(r"run `python3 -m pip install (\w+)`, or give", done.stderr)
            assert package and package[1] not in asked[name], done.stderr
            install(device, package[1])
            asked[name].append(package[1])
        here, _ = read_views(faces / name, bundle, all_channels)
        assert (
            np.load(tmp_path / "views.npy") != here
        ).mean() < 0.001  # another numpy may round the other way
    assert asked == {
        "colour.obj": [],
        "texture.obj": ["pillow"],
        "colour.ply": ["trimesh"],
        "texture.glb": [],
        "cloud.xyz": ["scipy"],
    }


@pytest.mark.skipif(not SITES.is_dir(), reason="the sample sites are not beside this checkout")
def test_pillow_and_trimesh_are_enough_for_the_sample_sites(device, bundle, manifest, reader, tmp_path):
    install(device, "trimesh", "pillow")
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
