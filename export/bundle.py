"""The bundle: one folder that holds the engine, the words, how to make views, and the program that uses them.

n golden captures, V views, C channels, H W pixels, D joint embedding, K classes.
"""

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from smile import checkpoint as checkpoints
from smile.config import CHANNELS, SmileConfig, to_json
from smile.labels import EXPRESSIONS
from smile.prompts import bank_hash, prompts_for
from smile.text import class_embeddings, prompt_embeddings

from . import parity
from .runtime.smile_edge.files import FORMAT, GOLDEN, MANIFEST, MODEL, SCHEMA, SUMS, TEXT

_ROOT = Path(__file__).resolve().parents[1]
# What a device needs of `smile` to turn a raw scan, or new sentences, into numbers; with all that they import, without torch.
READER = ("scans", "geometry.py", "views", "text.py", "labels.py")
INTENDED_USE = (
    "Research on facial expressions in 3D scans. Not a medical device: no clinical decision may rest on it."
)
# What one answer for several frames is made of.
_SEQUENCES = {
    "mean": "mean of the frames' embeddings, as in the project's evaluation",
    "pool": "mean of the frames' embeddings; the project's evaluation weighs frames by the temporal pool of this checkpoint, "
    "which is not part of a bundle, so its figures for sequences are not those of this program",
}


def write_bundle(
    checkpoint: Path,
    bundle: Path,
    *,
    sample: Path | None = None,
    prompts: dict[str, tuple[str, ...]] | None = None,
) -> dict[str, Any]:
    """Checkpoint folder -> bundle folder; returns the parity report.

    sample: a prepared site whose views become the golden captures; without it they are seeded pseudo-views.
    prompts: expression -> sentences, the classes of the bundle; the seven basic expressions when None.
    The bundle appears whole or not at all.
    Raises ValueError: not a checkpoint, a folder in the way, a site of other views, or a failed parity.
    """
    _check_target(bundle)
    model, config, meta = checkpoints.load(checkpoint)
    prompts = _own_prompts(checkpoint, config, meta) if prompts is None else prompts
    views = parity.with_gap(site_views(sample, config) if sample else parity.pseudo_views(config))
    text, scale = class_embeddings(prompt_embeddings(config.model, prompts)), float(model.scale().detach())
    manifest = make_manifest(
        config,
        meta,
        prompts=prompts,
        scale=scale,
        dim=model.dim,
        sampled=sample is not None,
        digest=_sha256((checkpoint / "model.safetensors").read_bytes()),
    )

    from . import to_onnx

    file = to_onnx.export_onnx(model, config, metadata={"smile.manifest": json.dumps(manifest)})
    reference = parity.torch_embeddings(model, views, config)
    report = parity.compare(file, views, reference, text=text, scale=scale)
    if report["verdict"] != "pass":
        raise ValueError(
            f"parity failed, {bundle} is not published: {_figures(report)}; the checkpoint or the versions of "
            "torch, onnxscript and onnxruntime are at fault"
        )
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{bundle.name}.", dir=bundle.parent) as scratch:
        draft = Path(scratch) / "bundle"
        _copy_code(draft)
        (draft / MODEL).write_bytes(file)
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        (draft / "parity.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        np.save(draft / TEXT, text, allow_pickle=False)
        np.savez_compressed(
            draft / GOLDEN, views=views, embedding=reference, logits=scale * reference @ text.T
        )
        _write_sums(draft)
        _self_test(draft, bundle)
        _publish(draft, bundle, aside=Path(scratch) / "old")
    return report


def _own_prompts(checkpoint: Path, config: SmileConfig, meta: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The sentences of the seven expressions that the model was trained with. Raises ValueError where these are gone."""
    if meta.get("prompts", bank_hash()) != bank_hash():
        raise ValueError(
            f"{checkpoint} was trained with another prompt bank than this program holds: export it with version "
            f"{meta.get('version')} of smile"
        )
    return {name: prompts_for(config)[name] for name in EXPRESSIONS}


def make_manifest(
    config: SmileConfig,
    meta: dict[str, Any],
    *,
    prompts: dict[str, tuple[str, ...]],
    scale: float,
    dim: int,
    sampled: bool,
    digest: str,
) -> dict[str, Any]:
    """`manifest.json`: all that a device, or the person in front of it, must know of the engine."""
    views, model = config.views, config.model
    channels = sum(CHANNELS[m] for m in model.modalities)
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "intended_use": INTENDED_USE,
        "training_data": _training_data(meta),
        "checkpoint": {"sha256": digest, "round": meta.get("round"), "meta": meta},
        "input": {
            "name": "views",
            "dtype": "float32",
            "range": [0, 255],
            "shape": ["batch", len(views.yaws), channels, views.size, views.size],
        },
        "output": {"name": "embedding", "dtype": "float32", "shape": ["batch", dim], "norm": 1},
        "preprocessing": _preprocessing(config),
        "text": {
            "labels": list(prompts),
            "prompts": {name: list(group) for name, group in prompts.items()},
            "prompts_sha256": bank_hash(prompts),
            "logit_scale": scale,
            "encoder": f"open_clip {model.tower}" if model.pretrained else "words",
        },
        "sequence": _SEQUENCES["pool" if config.training.frames > 1 else "mean"],
        "tolerance": parity.TOLERANCE,
        "golden": "views of a prepared site: they show its subjects"
        if sampled
        else "seeded pseudo-views, no faces",
        "config": _config(config),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")},
        },
    }


def _preprocessing(config: SmileConfig) -> dict[str, Any]:
    """How a scan becomes the engine's input."""
    views, model = config.views, config.model
    names = {
        "texture": ("red", "green", "blue"),
        "depth": ("depth",),
        "normals": ("normal x", "normal y", "normal z"),
    }
    channels = [name for m in CHANNELS if m in model.modalities for name in names[m]]
    return {
        "yaws": list(views.yaws),
        "size": views.size,
        "radius": views.radius,
        "modalities": [m for m in CHANNELS if m in model.modalities],
        "motion": views.motion,
        "magnify": views.magnify,
        "channels": channels,
        "stored": list(views.modalities),
        "all_channels": dict(CHANNELS),
        "background": 0,
        "missing_view": "0 throughout",
        "dtype": "uint8",
        "normalisation": "inside the model",
    }


def _training_data(meta: dict[str, Any]) -> str:
    if meta.get("simulated"):
        return "Simulated faces only: no figure of this model says anything about people."
    return "Not stated by the checkpoint: ask the coordinator of the study before using the model on anybody."


def _config(config: SmileConfig) -> dict[str, Any]:
    nested = json.loads(to_json(config))
    # Paths of the machines that trained and exported are no business of a device.
    nested["model"]["pretrained"] = Path(config.model.pretrained).name
    nested["federation"]["output"] = ""
    return nested


def site_views(folder: Path, config: SmileConfig, *, count: int = parity.CAPTURES) -> np.ndarray:
    """Some captures of a prepared site, evenly spread: (count, V, C, H, W) uint8. Raises ValueError if views differ."""
    from smile.site.store import Site

    site = Site(folder)
    for key in ("yaws", "size", "radius", "motion", "magnify"):
        found, wanted = getattr(site.views, key), getattr(config.views, key)
        if found != wanted:
            raise ValueError(
                f"{folder} was prepared with {key} = {found} and the checkpoint wants {wanted}: prepare it again "
                "or choose another site"
            )
    rows = np.linspace(0, len(site) - 1, count).round().astype(int)
    return site.gather(rows, config.model.modalities)


def _copy_code(draft: Path) -> None:
    """The runtime, the licence and `reader/`, a copy of `smile`'s torch-free part with relative imports."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(_ROOT / "export" / "runtime", draft, ignore=ignore)
    shutil.copy(_ROOT / "LICENSE", draft)
    (draft / "reader").mkdir()
    (draft / "reader" / "__init__.py").write_text(
        '"""Raw scan -> views: the modules of smile that the training data went through."""\n',
        encoding="utf-8",
    )
    for source in reader_files():
        target = draft / "reader" / source.relative_to(_ROOT / "smile")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def reader_files() -> list[Path]:
    """The files of READER and of every module that they import relatively, in turn."""
    waiting = [_ROOT / "smile" / name for name in READER]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path.is_dir():
            waiting += [file for file in path.iterdir() if file.name != "__pycache__"]
        elif path not in found:
            found.add(path)
            waiting += _relative_imports(path) if path.suffix == ".py" else []
    return sorted(found)


def _relative_imports(path: Path) -> list[Path]:
    """Files and folders that `from .x import y` and `from . import x` in this file lead to."""
    places = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1]
            if node.module:
                places.append(folder / node.module.replace(".", "/"))
            else:
                places += [folder / alias.name for alias in node.names]
    files = [place.with_suffix(".py") if place.with_suffix(".py").is_file() else place for place in places]
    return [file for file in files if file.exists()]


def _write_sums(draft: Path) -> None:
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    lines = [f"{_sha256(path.read_bytes())}  {path.relative_to(draft).as_posix()}\n" for path in files]
    (draft / SUMS).write_text("".join(lines), encoding="utf-8")


def _self_test(draft: Path, bundle: Path) -> None:
    """Run the draft as a device would. Raises ValueError when its own program disagrees with torch."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, str(draft / "run.py"), "--self-test"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"{bundle} is not published, its own self-test failed: {reason[-1]}")


def _check_target(bundle: Path) -> None:
    """Raises ValueError when `bundle` is something other than a bundle or an empty folder."""
    if not bundle.exists() or (bundle.is_dir() and not any(bundle.iterdir())):
        return
    try:
        ours = json.loads((bundle / MANIFEST).read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise ValueError(f"{bundle} exists and is not a bundle: give another name, nothing in it was touched")


def _publish(draft: Path, bundle: Path, *, aside: Path) -> None:
    """Give the finished folder its name; an old bundle stays in place until the new one is on the disk."""
    for path in (*draft.rglob("*"), draft):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    if bundle.exists():
        bundle.rename(aside)
    try:
        draft.rename(bundle)
    except OSError:
        if aside.exists():
            aside.rename(bundle)
        raise


def _figures(report: dict[str, Any]) -> str:
    if not report["reference_is_finite"]:
        return "torch itself gives NaN or infinite embeddings"
    worst = {key: max(batch[key] for batch in report["batches"].values()) for key in ("embedding", "logits")}
    return (
        f"largest difference between torch and ONNX Runtime {worst['embedding']:.2e} (embedding), "
        f"{worst['logits']:.2e} (logits), allowed {report['tolerance']:.0e}"
    )


def summary(report: dict[str, Any]) -> str:
    """The parity report as one sentence."""
    return f"parity {report['verdict']}: {_figures(report)}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
