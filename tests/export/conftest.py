"""One bundle for all tests of the room: the small tower, exported once."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smile.checkpoint import load, save
from smile.config import ModelConfig, SmileConfig, ViewConfig
from smile.model import build_model
from smile.protocol import get_arrays
from tests.random_site import write_random_site
from tests.views.shapes import face

SITES = Path(__file__).parents[2].parent / "shared" / "sites"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of the default study after round 3, weights random."""
    # Fewer modalities than a site holds: a reader must choose the channels.
    config = SmileConfig(model=ModelConfig(modalities=("depth", "normals")))
    folder = tmp_path_factory.mktemp("study") / "round-0003"
    save(folder, get_arrays(build_model(config)), config, {"round": 3, "simulated": True})
    return folder


@pytest.fixture(scope="session")
def bundle(checkpoint, tmp_path_factory) -> Path:
    from export.bundle import write_bundle

    folder = tmp_path_factory.mktemp("device") / "bundle"
    write_bundle(checkpoint, folder)
    return folder


@pytest.fixture(scope="session")
def people(checkpoint, tmp_path_factory) -> Path:
    """A prepared site of noise with the views of the checkpoint's study: 8 people, 4 captures each."""
    views = load(checkpoint)[1].views
    return write_random_site(
        tmp_path_factory.mktemp("noise") / "site", views, people=8, sequences=4, frames=1
    )


@pytest.fixture(scope="session")
def three(checkpoint, people, tmp_path_factory) -> Path:
    """A bundle in all three precisions."""
    folder = tmp_path_factory.mktemp("three") / "bundle"
    from export.bundle import write_bundle

    write_bundle(checkpoint, folder, precisions=("fp16", "fp32", "int8"), calibrate=[people])
    return folder


@pytest.fixture(scope="session")
def manifest(bundle) -> dict:
    return json.loads((bundle / "manifest.json").read_text())


@pytest.fixture(scope="session")
def all_channels(manifest) -> dict:
    """`preprocessing` of a bundle whose model sees texture, too."""
    spec = manifest["preprocessing"]
    names = [f"{modality} {c}" for modality, count in spec["all_channels"].items() for c in range(count)]
    return {**spec, "modalities": list(spec["all_channels"]), "channels": names}


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """One face in several formats: texture.obj and .glb, colour.obj, .ply and .glb (by vertex), cloud.xyz."""
    import trimesh
    from PIL import Image

    folder, scan = tmp_path_factory.mktemp("faces"), face()
    vertices, low, colours = scan.vertices, scan.vertices.min(axis=0), scan.vertex_colors
    uv = ((vertices - low) / np.ptp(vertices, axis=0))[:, :2]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image.save(folder / "texture.png")
    (folder / "texture.mtl").write_text("newmtl skin\nmap_Kd texture.png\n")
    lines = [f"v {x} {y} {z}\n" for x, y, z in vertices] + [f"vt {u} {v}\n" for u, v in uv]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}\n" for a, b, c in scan.faces + 1]
    (folder / "texture.obj").write_text("mtllib texture.mtl\nusemtl skin\n" + "".join(lines))
    points = [" ".join(map(str, row)) + "\n" for row in np.concatenate([vertices, colours], axis=1)]
    (folder / "cloud.xyz").write_text("".join(points))
    rows = [" ".join(map(str, row)) + "\n" for row in np.concatenate([vertices, colours / 255], axis=1)]
    corners = [f"f {a} {b} {c}\n" for a, b, c in scan.faces + 1]
    (folder / "colour.obj").write_text("".join(f"v {row}" for row in rows) + "".join(corners))
    coloured = trimesh.Trimesh(vertices, scan.faces, vertex_colors=colours, process=False)
    skin = trimesh.visual.TextureVisuals(uv=uv, image=image)
    coloured.export(folder / "colour.ply")
    coloured.export(folder / "colour.glb")
    trimesh.Trimesh(vertices, scan.faces, visual=skin, process=False).export(folder / "texture.glb")
    return folder


@pytest.fixture(scope="session")
def reader(bundle):
    from export.runtime.smile_edge import ExpressionReader

    return ExpressionReader(bundle, threads=1)


@pytest.fixture(scope="session")
def golden(bundle) -> dict[str, np.ndarray]:
    with np.load(bundle / "golden.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The sample site `west-ply`, prepared."""
    if not SITES.is_dir():
        pytest.skip("the sample sites are not beside this checkout")
    from smile.site.prepare import prepare

    folder = tmp_path_factory.mktemp("sites") / "west"
    prepare(SITES / "west-ply", folder, views=ViewConfig(), jobs=1, progress=False)
    return folder


@pytest.fixture
def copied(bundle, tmp_path) -> Path:
    """A bundle of one's own, to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture
def run(bundle) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The bundle's own program, or Python code beside it, in its own process away from the checkout."""

    def start(*arguments: object, code: str = "", **options) -> subprocess.CompletedProcess[str]:
        command = ["-c", code] if code else [str(bundle / "run.py"), *map(str, arguments)]
        return subprocess.run(
            [sys.executable, *command],
            cwd=bundle.parent,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    return start


@pytest.fixture
def refusal(bundle, capsys) -> Callable[..., str]:
    """The one sentence with which an input is refused, the same on standard error and in the JSON."""
    from export.runtime.smile_edge import main

    def refuse(path: Path, *, by: Path = bundle) -> str:
        assert main(["--bundle", str(by), "--json", "--threads", "1", str(path)]) == 2
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == 1, err
        assert json.loads(out) == {"input": str(path), "error": err.strip()}
        return err

    return refuse
