"""`run.py`: the same answer as torch, from prepared views, a prepared site or a raw scan."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import ExpressionReader, main
from export.runtime.smile_edge import views as edge_views
from smile.checkpoint import load
from smile.config import ModelConfig
from smile.labels import EXPRESSIONS
from smile.model import present
from smile.text import class_embeddings, prompt_embeddings

SITES = Path(__file__).parents[2].parent / "shared" / "sites"
needs_sites = pytest.mark.skipif(not SITES.is_dir(), reason="the sample sites are not beside this checkout")


# --- the answer ---------------------------------------------------------------------------------------------------


def test_the_program_says_what_torch_says(checkpoint, golden, tmp_path, run):
    import torch

    np.save(tmp_path / "faces.npy", golden["views"])
    done = run(tmp_path / "faces.npy", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    model, config, _ = load(checkpoint)
    bank = {name: rows for name, rows in prompt_embeddings(config.model).items() if name in EXPRESSIONS}
    text = torch.from_numpy(class_embeddings(bank))
    with torch.inference_mode():
        views = torch.from_numpy(golden["views"]).float()
        assert not present(views).all(), "one golden capture lacks a view"
        fused = torch.nn.functional.normalize(model(views, present(views)).fused, dim=-1)
        each = (model.scale() * fused @ text.T).softmax(-1).numpy()
        mean = (model.scale() * fused.mean(0) @ text.T).softmax(-1).numpy()
    labels = list(bank)
    for found, expected in zip([answer, *answer["frames"]], [mean, *each], strict=True):
        np.testing.assert_allclose([found["probabilities"][name] for name in labels], expected, atol=1e-4)
        assert found["expression"] == labels[expected.argmax()]
        assert list(found["probabilities"].values()) == sorted(found["probabilities"].values(), reverse=True)
    assert set(answer["milliseconds"]) == {"read", "views", "engine"}
    assert answer["round"] == 3


def test_nothing_heavy_is_imported(bundle, run):
    code = (
        "import sys; sys.path.insert(0, 'bundle'); import run; run.ExpressionReader('bundle').set_prompts("
        "{'a': ['a smile'], 'b': ['a frown']}); "
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'smile', 'flwr', 'open_clip', 'trimesh', 'PIL', 'onnx', 'onnxscript', 'pyrender', 'export'}))"
    )
    done = run(code=code)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_self_test_passes_and_leaves_no_trace(bundle, run):
    before = sorted(p.relative_to(bundle) for p in bundle.rglob("*"))
    done = run("--self-test")
    assert (done.returncode, done.stderr) == (0, "")
    assert "self-test passed" in done.stdout
    assert sorted(p.relative_to(bundle) for p in bundle.rglob("*")) == [
        p for p in before if p.name != "__pycache__"
    ]


def test_the_self_test_fails_when_the_engine_is_another(reader, monkeypatch, capsys):
    from export.runtime.smile_edge import command

    embed = reader.embed
    monkeypatch.setattr(reader, "embed", lambda views: embed(views) + np.float32(2e-4))
    assert command._self_test(reader) == 1
    assert "FAILED" in capsys.readouterr().out
    monkeypatch.setattr(reader, "embed", lambda views: embed(views) * np.float32(np.nan))
    assert command._self_test(reader) == 1


def test_how_captures_are_grouped_changes_nothing(reader, golden):
    views = np.concatenate([golden["views"]] * 7)  # more than one chunk
    together = reader.embed(views)
    np.testing.assert_allclose(together, np.concatenate([golden["embedding"]] * 7), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(reader.embed(views[0]), together[:1], atol=1e-6)


def test_views_may_be_floats_or_hold_all_modalities(reader, golden):
    views = golden["views"]
    np.testing.assert_array_equal(reader.embed(views.astype(np.float32)), reader.embed(views))
    texture = np.random.default_rng(0).integers(0, 256, (5, 3, 3, 64, 64), dtype=np.uint8)
    np.testing.assert_array_equal(reader.embed(np.concatenate([texture, views], axis=2)), reader.embed(views))


def test_other_classes_without_another_engine(bundle, golden):
    reader = ExpressionReader(bundle, threads=1)
    prompts = {"smile": ["a smiling face", "raised cheeks"], "frown": ["lowered brows"]}
    reader.set_prompts(prompts)
    bank = prompt_embeddings(ModelConfig(), {name: tuple(group) for name, group in prompts.items()})
    np.testing.assert_allclose(reader.text, class_embeddings(bank), atol=1e-6)
    answer = reader.predict(golden["views"][0])
    assert set(answer["probabilities"]) == {"smile", "frown"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert "frames" not in answer
    reader.set_text(["it", "not it"], np.stack([golden["embedding"][0], -golden["embedding"][0]]))
    assert reader.predict(golden["views"][0])["expression"] == "it"


@pytest.mark.parametrize(
    ("labels", "embeddings"),
    [
        (["a"], np.ones((1, 128))),
        (["a", "a"], np.ones((2, 128))),
        (["a", "b"], np.ones((2, 64))),
        (["a", "b"], np.ones((3, 128))),
        (["a", "b"], np.full((2, 128), np.nan)),
        (["a", "b"], np.zeros((2, 128))),
        (["a", "b"], np.ones((2, 128), int)),
    ],
)
def test_classes_that_make_no_sense_are_refused(reader, labels, embeddings):
    before = reader.labels
    with pytest.raises(ValueError, match="text embeddings"):
        reader.set_text(labels, embeddings)
    assert reader.labels == before


def test_prompts_that_need_a_text_tower_are_refused(bundle, monkeypatch):
    reader = ExpressionReader(bundle, threads=1)
    monkeypatch.setitem(reader.manifest["text"], "encoder", "open_clip ViT-B-32")
    with pytest.raises(ValueError, match="python -m export prompts CHECKPOINT FILE OUT"):
        reader.set_prompts({"a": ["x"], "b": ["y"]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "\x00",
        '{"a": ["x"]}',
        '{"a": "x", "b": ["y"]}',
        '{"a": [], "b": ["y"]}',
        '{"a": [1], "b": ["y"]}',
        '{"a": ["the"], "b": ["y"]}',
    ],
)
def test_a_bad_prompt_file_is_one_sentence(bundle, golden, tmp_path, capsys, text):
    np.save(tmp_path / "face.npy", golden["views"][0])
    (tmp_path / "words.json").write_text(text)
    arguments = [
        "--bundle",
        str(bundle),
        str(tmp_path / "face.npy"),
        "--prompts",
        str(tmp_path / "words.json"),
    ]
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_text_output_has_bars_for_the_top(bundle, golden, tmp_path, capsys):
    np.save(tmp_path / "face.npy", golden["views"][0])
    np.save(tmp_path / "clip.npy", golden["views"][:2])
    assert (
        main(["--bundle", str(bundle), "--top", "2", str(tmp_path / "face.npy"), str(tmp_path / "clip.npy")])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'face.npy'}: ")
    assert lines[1].split()[2].strip("#") == ""
    assert lines[3].split()[0::3] == ["read", "views", "engine"]
    assert lines[4].endswith("(mean of 2 frames)")
    assert [line.split()[0] for line in lines[7:9]] == ["frame", "frame"]


def test_photographs_may_lack_a_view_and_a_scan_may_not(
    bundle, manifest, golden, faces, tmp_path, monkeypatch
):
    spec, views = manifest["preprocessing"], golden["views"][1]
    assert not views[-1].any() and views[:-1].any()
    np.save(tmp_path / "pair.npy", views)
    np.testing.assert_array_equal(edge_views.read_views(tmp_path / "pair.npy", bundle, spec)[0], views[None])
    monkeypatch.setattr(edge_views, "_render", lambda *_: views)
    with pytest.raises(ValueError, match="the view at 30 degrees is empty: is it a scan"):
        edge_views.read_views(faces / "colour.ply", bundle, spec)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--key", "k", "x.npy"],
        ["--self-test", "--serve", "0"],
        ["--self-test", "x.npy"],
        ["--workspace-mb", "-1", "--build-engine"],
    ],
)
def test_one_thing_at_a_time(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "error: " in capsys.readouterr().err


def test_an_update_that_is_none_leaves_the_bundle(copied, tmp_path, capsys):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    (tmp_path / "update.zip").write_bytes(b"junk")
    assert main(["--bundle", str(copied), "--update", str(tmp_path / "update.zip")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_an_engine_is_built_as_it_was_asked_for(copied, monkeypatch):
    from export.runtime.smile_edge import tensorrt_build

    asked = []
    monkeypatch.setattr(tensorrt_build, "build_engine", lambda bundle, **more: asked.append((bundle, more)))
    assert main(["--bundle", str(copied), "--build-engine", "--precision", "fp16", "--dla", "0"]) == 0
    assert asked == [(copied, {"precision": "fp16", "workspace_mb": None, "dla": 0})]


# --- a prepared site ----------------------------------------------------------------------------------------------


def test_a_shard_of_a_site_is_read_by_its_manifest(bundle, site, reader, capsys, tmp_path, refusal):
    from smile.site.store import Site

    shard = sorted((site / "shards").glob("*.npy"))[0]
    rows = Site(site).rows_of(0)
    assert main(["--bundle", str(bundle), "--json", str(shard)]) == 0
    answer = json.loads(capsys.readouterr().out)
    expected = reader.predict(Site(site).gather(rows, ("depth", "normals")))
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)

    other = Path(shutil.copytree(site, tmp_path / "site"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["views"]["radius"] = 120.0
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert "radius = 120.0" in refusal(other / "shards" / shard.name)
    # Texture and depth have as many channels as depth and normals: only the manifest can tell.
    manifest["views"].update(radius=95.0, modalities=["texture", "depth"])
    (other / "manifest.json").write_text(json.dumps(manifest))
    np.save(other / "shards" / shard.name, np.load(shard)[:, :, :4])
    assert "prepared without normals" in refusal(other / "shards" / shard.name)


@needs_sites
def test_a_raw_scan_becomes_the_views_that_were_trained_on(bundle, manifest, capsys):
    from smile import geometry, scans, views
    from smile.config import ViewConfig

    path = next((SITES / "west-ply").rglob("*.ply"))
    found, milliseconds = edge_views.read_views(path, bundle, manifest["preprocessing"])
    config = ViewConfig()
    scan = geometry.align(scans.read_file(path), radius=config.radius).scan
    np.testing.assert_array_equal(found[0], views.encode(views.render(scan, config), config)[:, 3:])
    assert min(milliseconds.values()) > 0
    assert main(["--bundle", str(bundle), "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["input"] == str(path)


@pytest.mark.parametrize(
    ("motion", "magnify", "seen"),
    [
        ("dynamic", 1.0, "dynamic pictures of a sequence"),
        ("difference", 2.0, "difference pictures of a sequence"),
        ("frames", 4.0, "frames with their motion magnified 4 times"),
    ],
)
def test_a_bundle_that_reads_motion_refuses_a_single_scan(bundle, manifest, tmp_path, motion, magnify, seen):
    assert (manifest["preprocessing"]["motion"], manifest["preprocessing"]["magnify"]) == ("frames", 1.0)
    spec = {**manifest["preprocessing"], "motion": motion, "magnify": magnify}
    path = tmp_path / "face.obj"
    path.write_text("v 0 0 0\n")
    with pytest.raises(
        ValueError, match=rf"is a single scan and this bundle reads {seen}: prepare the sequence"
    ):
        edge_views.read_views(path, bundle, spec)


@needs_sites
def test_a_shard_of_a_site_of_frames_is_none_of_motion(site, manifest, bundle):
    spec = {**manifest["preprocessing"], "motion": "dynamic"}
    with pytest.raises(ValueError, match="motion = frames and this bundle wants dynamic"):
        edge_views.read_views(next((site / "shards").glob("*.npy")), bundle, spec)


def block(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if they were not installed."""
    loaded = [name for name in sys.modules if name.split(".")[0] in packages]
    for name in (*packages, *loaded):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("texture.obj", "PIL", "pillow"),
        ("colour.ply", "trimesh", "trimesh"),
        ("texture.glb", "trimesh", "trimesh"),
        ("texture.glb", "PIL", "pillow"),
        ("cloud.xyz", "scipy", "scipy"),
    ],
)
def test_the_package_that_a_file_needs_is_named(
    bundle, all_channels, faces, monkeypatch, name, module, package
):
    block(monkeypatch, module)
    with pytest.raises(
        ValueError, match=rf"{name}: reading this file needs {package} .*pip install {package}`, or give"
    ):
        edge_views.read_views(faces / name, bundle, all_channels)


@pytest.mark.parametrize(
    ("name", "idle"),
    [
        ("colour.obj", ("PIL", "trimesh", "scipy", "pyrender")),
        ("texture.obj", ("trimesh", "scipy", "pyrender")),
        ("colour.glb", ("PIL", "scipy", "pyrender")),
    ],
)
def test_a_file_asks_for_no_package_that_it_does_not_need(
    bundle, all_channels, faces, monkeypatch, name, idle
):
    expected, _ = edge_views.read_views(faces / name, bundle, all_channels)
    block(monkeypatch, *idle)
    np.testing.assert_array_equal(edge_views.read_views(faces / name, bundle, all_channels)[0], expected)


def test_a_model_that_sees_no_texture_needs_no_pillow(bundle, manifest, faces, monkeypatch):
    assert "texture" not in manifest["preprocessing"]["modalities"]
    block(monkeypatch, "PIL", "trimesh")
    assert edge_views.read_views(faces / "texture.obj", bundle, manifest["preprocessing"])[0].any()
