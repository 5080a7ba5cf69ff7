"""What is in a bundle, and that it appears whole or not at all."""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export import bundle as bundles
from export import parity, to_onnx
from export.__main__ import main
from export.manifest import _config, make_manifest
from smile.checkpoint import load, save
from smile.config import ModelConfig, SmileConfig, TrainingConfig, ViewConfig
from smile.labels import EXPRESSIONS
from smile.prompts import PROMPTS, bank_hash
from smile.protocol import get_arrays
from smile.text import class_embeddings, prompt_embeddings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def exported(bundle, monkeypatch) -> None:
    """The ONNX file of the session's bundle instead of a new export: same checkpoint, same file, no seconds."""
    file = (bundle / "model.fp32.onnx").read_bytes()
    monkeypatch.setattr(to_onnx, "export_onnx", lambda *_, **__: file)


def test_every_file_is_listed_and_whole(bundle):
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {
        p.relative_to(bundle).as_posix(): p
        for p in bundle.rglob("*")
        if p.is_file() and p.name != "SHA256SUMS"
    }
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert {
        "model.fp32.onnx",
        "text_embeddings.npy",
        "golden.npz",
        "manifest.json",
        "parity.json",
        "run.py",
        "LICENSE",
        "reader/__init__.py",
        "reader/labels.py",
        "reader/config.py",
        "reader/geometry.py",
    } <= set(sums)
    assert not [name for name in sums if name.endswith((".pkl", ".pt", ".pth", ".pyc", ".bin"))]


def test_no_file_names_the_build_machine(bundle, checkpoint):
    for path in bundle.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (ROOT, checkpoint.parent, Path.home(), sys.prefix):
                assert str(secret).encode() not in data, (path, secret)


def test_the_manifest_says_what_a_device_must_know(manifest, checkpoint, bundle):
    model, config, _ = load(checkpoint)
    assert manifest["checkpoint"]["round"] == 3
    assert (
        manifest["checkpoint"]["sha256"]
        == hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    )
    assert manifest["text"]["labels"] == list(EXPRESSIONS)
    bank = {name: PROMPTS[name] for name in EXPRESSIONS}  # pain and contempt are no class unless asked for
    assert manifest["text"]["prompts_sha256"] == bank_hash(bank)
    assert manifest["text"]["logit_scale"] == pytest.approx(float(model.scale().detach()))
    assert manifest["preprocessing"]["yaws"] == list(config.views.yaws)
    assert manifest["preprocessing"]["channels"] == ["depth", "normal x", "normal y", "normal z"]
    assert manifest["sequence"].endswith("as in the project's evaluation")
    assert manifest["preprocessing"]["missing_view"] == "0 throughout"
    assert "Simulated faces only" in manifest["training_data"]
    assert "Not a medical device" in manifest["intended_use"]
    text = np.load(bundle / "text_embeddings.npy", allow_pickle=False)
    np.testing.assert_array_equal(text, class_embeddings(prompt_embeddings(config.model, bank)))


def test_a_checkpoint_that_does_not_say_so_is_not_called_simulated(exported, checkpoint, tmp_path):
    model, config, _ = load(checkpoint)
    save(tmp_path / "ck", get_arrays(model), config, {"round": 1})
    assert main(["bundle", str(tmp_path / "ck"), str(tmp_path / "b")]) == 0
    assert "Not stated" in json.loads((tmp_path / "b" / "manifest.json").read_text())["training_data"]


def test_a_checkpoint_with_a_temporal_pool_says_that_the_bundle_has_none(manifest):
    config = SmileConfig(training=TrainingConfig(frames=4))
    found = make_manifest(
        config, {}, prompts={"a": ("x",)}, scale=1.0, dim=8, sampled=False, digest="", batch=(1, 1, 8)
    )
    assert "not part of a bundle" in found["sequence"] != manifest["sequence"]


def test_paths_in_the_settings_stay_behind():
    config = SmileConfig(model=ModelConfig(pretrained="/data/secret/weights.bin"))
    assert _config(config)["model"]["pretrained"] == "weights.bin"
    assert _config(config)["federation"]["output"] == ""


def test_the_copied_reader_is_closed_and_light(bundle):
    """Relative imports lead to files that are there; nothing but numpy is imported before it is needed."""
    for path in (bundle / "reader").rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 10))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = path.parents[node.level - 1]
                for name in [node.module.replace(".", "/")] if node.module else [a.name for a in node.names]:
                    assert (folder / f"{name}.py").is_file() or (folder / name).is_dir(), (
                        path,
                        ast.unparse(node),
                    )
        for node in tree.body:
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            assert {n.split(".")[0] for n in names} <= sys.stdlib_module_names | {"numpy"}, (path, names)


def test_the_runtime_parses_as_python_310():
    for path in (ROOT / "export" / "runtime").rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 10))


def test_the_command_prints_its_verdict_and_replaces_an_older_bundle(exported, checkpoint, tmp_path, capsys):
    target = tmp_path / "b"
    assert main(["bundle", str(checkpoint), str(target)]) == 0
    assert "fp32 pass" in capsys.readouterr().out
    (target / "left-over").write_text("x")
    assert main(["bundle", str(checkpoint), str(target), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    report = answer["models"]["fp32"]
    assert report["verdict"] == "pass"
    assert report["logits"] <= parity.TOLERANCES["fp32"]["logits"] == 1e-4
    assert not (target / "left-over").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]  # no scratch is left beside it


@pytest.mark.parametrize(
    "prepare",
    [
        lambda p: (p / "thesis.tex").write_text("years of work"),
        lambda p: (p / "manifest.json").write_text('{"format": "smile prepared site"}'),
        lambda p: (p / "manifest.json").write_text("[]"),
    ],
)
def test_another_folder_is_never_overwritten(exported, checkpoint, tmp_path, capsys, prepare):
    target = tmp_path / "b"
    target.mkdir()
    prepare(target)
    before = {p.name: p.read_text() for p in target.iterdir()}
    assert main(["bundle", str(checkpoint), str(target)]) == 1
    assert "is not a bundle" in capsys.readouterr().err
    assert {p.name: p.read_text() for p in target.iterdir()} == before


def test_a_file_in_the_way_is_never_overwritten(exported, checkpoint, tmp_path, capsys):
    (tmp_path / "b").write_text("notes")
    assert main(["bundle", str(checkpoint), str(tmp_path / "b")]) == 1
    assert (tmp_path / "b").read_text() == "notes"


def test_failed_parity_publishes_nothing(exported, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(parity.TOLERANCES, "fp32", {"embedding": 0.0})
    assert main(["bundle", str(checkpoint), str(tmp_path / "b")]) == 1
    assert "parity failed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_checkpoint_publishes_nothing(exported, checkpoint, tmp_path, capsys):
    model, config, _ = load(checkpoint)
    save(
        tmp_path / "ck",
        {name: np.full_like(array, np.nan) for name, array in get_arrays(model).items()},
        config,
        {},
    )
    assert main(["bundle", str(tmp_path / "ck"), str(tmp_path / "b")]) == 1
    assert "NaN" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("in_one_step", [True, False])
@pytest.mark.parametrize("stopped", [True, False])
def test_ctrl_c_between_the_names_leaves_the_old_bundle(tmp_path, monkeypatch, in_one_step, stopped):
    draft, bundle = tmp_path / "draft", tmp_path / "bundle"
    for folder in (draft, bundle):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    rename, calls = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path.name)
        if stopped and len(calls) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    if not in_one_step:
        monkeypatch.setattr(bundles, "exchanged", lambda *_: False)
    if stopped and not in_one_step:
        with pytest.raises(KeyboardInterrupt):
            bundles._publish(draft, bundle, aside=tmp_path / "aside")
    else:
        bundles._publish(draft, bundle, aside=tmp_path / "aside")
    assert (bundle / "name").read_text() == ("bundle" if stopped and not in_one_step else "draft")
    assert bool(calls) != in_one_step


def test_a_failed_self_test_publishes_nothing_and_keeps_the_old(
    exported, checkpoint, tmp_path, capsys, monkeypatch
):
    target = tmp_path / "b"
    assert main(["bundle", str(checkpoint), str(target)]) == 0
    before = (target / "SHA256SUMS").read_text()
    write_sums = bundles._write_sums

    def damage(draft: Path) -> None:
        write_sums(draft)
        (draft / "text_embeddings.npy").write_bytes(b"damage")

    monkeypatch.setattr(bundles, "_write_sums", damage)
    assert main(["bundle", str(checkpoint), str(target)]) == 1
    assert "self-test failed" in capsys.readouterr().err
    assert (target / "SHA256SUMS").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_words_of_another_version_are_refused(exported, checkpoint, tmp_path, capsys):
    model, config, _ = load(checkpoint)
    save(tmp_path / "ck", get_arrays(model), config, {"prompts": "0" * 64, "version": "0.0.9"})
    assert main(["bundle", str(tmp_path / "ck"), str(tmp_path / "b")]) == 1
    assert "0.0.9" in capsys.readouterr().err


def test_own_prompts_become_the_classes(exported, checkpoint, tmp_path):
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"smile": ["a smiling face"], "rest": ["a face at rest", "a blank face"]}))
    assert main(["bundle", str(checkpoint), str(tmp_path / "b"), "--prompts", str(words)]) == 0
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["text"]["labels"] == ["smile", "rest"]
    assert np.load(tmp_path / "b" / "text_embeddings.npy").shape == (2, 128)


def test_a_site_gives_the_golden_captures(exported, checkpoint, site, tmp_path, capsys):
    from smile.site.store import Site

    assert main(["bundle", str(checkpoint), str(tmp_path / "b"), "--sample", str(site)]) == 0
    assert "must not leave it" in capsys.readouterr().err
    with np.load(tmp_path / "b" / "golden.npz", allow_pickle=False) as golden:
        views = golden["views"]
    opened = Site(site)
    np.testing.assert_array_equal(
        views[[0, -1]], opened.gather(np.array([0, len(opened) - 1]), ("depth", "normals"))
    )
    assert "show its subjects" in json.loads((tmp_path / "b" / "manifest.json").read_text())["golden"]


def test_a_site_of_other_views_is_refused(site):
    with pytest.raises(ValueError, match=r"size = 64 and the checkpoint wants 32"):
        bundles.site_views(site, SmileConfig(views=ViewConfig(size=32)))
    with pytest.raises(ValueError, match=r"motion = frames and the checkpoint wants dynamic"):
        bundles.site_views(site, SmileConfig(views=ViewConfig(motion="dynamic")))


@pytest.mark.parametrize("arguments", [["nowhere", "b"], ["nowhere", "b", "--sample", "nothing"]])
def test_mistakes_end_in_one_sentence(arguments, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "export",
            "bundle",
            *(str(tmp_path / a) if a[0] != "-" else a for a in arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "is not a checkpoint" in done.stderr.splitlines()[-1]
