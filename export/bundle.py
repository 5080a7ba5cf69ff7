"""The bundle: one folder that holds the engine, the words, how to make views, and the program that uses them.

n golden captures, V views, C channels, H W pixels, D joint embedding, K classes.
"""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from smile import checkpoint as checkpoints
from smile.config import SmileConfig
from smile.labels import EXPRESSIONS
from smile.prompts import bank_hash, prompts_for
from smile.site.disk import sha256
from smile.text import class_embeddings, prompt_embeddings

from . import parity, to_onnx
from .manifest import about_file, make_manifest
from .precision import to_fp16, to_int8
from .runtime.smile_edge.files import FORMAT, GOLDEN, MANIFEST, SUMS, TEXT
from .runtime.smile_edge.publish import exchanged, sync

if TYPE_CHECKING:
    from smile.model import SmileModel
    from smile.site.store import Site

_ROOT = Path(__file__).resolve().parents[1]
CALIBRATED = 256  # captures that set the ranges of INT8, and as many that judge it
JUDGED_AT_A_TIME = 4
REMEDY = {
    "fp32": "the checkpoint or the versions of torch, onnxscript and onnxruntime are at fault",
    "fp16": "its numbers leave the range of half precision: leave fp16 out of --precision",
    "int8": "no choice of layers is good enough: leave int8 out of --precision",
}
# What a device needs of `smile` to turn a raw scan, or new sentences, into numbers; with all that they import, without torch.
READER = ("scans", "geometry.py", "views", "text.py", "labels.py", "motion.py", "heap.py")


class Faces(NamedTuple):
    """Views of a prepared site for INT8, (n, V, C, H, W) uint8: ranges are set on some people and judged on others."""

    ranges: np.ndarray
    judged: np.ndarray
    about: dict[str, Any]  # for the manifest


class Golden(NamedTuple):
    """Captures (n, V, C, H, W) uint8 and torch's embeddings (n, D) of them."""

    views: np.ndarray
    embeddings: np.ndarray


class Models(NamedTuple):
    """The ONNX files of a bundle by precision, what `parity.compare` says of each, and the faces that INT8 was made with."""

    files: dict[str, bytes]
    reports: dict[str, dict[str, Any]]
    calibration: dict[str, Any] | None


def write_bundle(
    checkpoint: Path,
    bundle: Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    calibrate: Sequence[Path] = (),
    sample: Path | None = None,
    prompts: dict[str, tuple[str, ...]] | None = None,
    batch: tuple[int, int, int] = (1, 1, 8),
    models: Models | None = None,
) -> dict[str, dict[str, Any]]:
    """Checkpoint folder -> bundle folder; returns the parity reports by precision, see `parity.compare`.

    calibrate: prepared sites, for int8. sample: one whose views become the golden captures; without it they are seeded
    pseudo-views. prompts: expression -> sentences, the classes of the bundle; the seven basic expressions when None.
    batch: least, usual and most captures that an engine takes at once. models: of these weights, where they are made already.
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
        digest=sha256(checkpoint / "model.safetensors"),
        batch=batch,
    )
    reference = parity.torch_embeddings(model, views, config)
    if models is None:
        faces = _faces(calibrate, config) if "int8" in precisions else None
        compare = partial(parity.compare, text=text, scale=scale)
        models = _convert(model, config, manifest, precisions, faces, Golden(views, reference), compare)
    _refuse_failures(models.reports, bundle)
    files = {precision: models.files[precision] for precision in precisions}
    manifest |= {"calibration": models.calibration, "default": precisions[0]}
    manifest["models"] = {
        precision: {
            "file": f"model.{precision}.onnx",
            "sha256": _sha256(file),
            "tolerance": parity.TOLERANCES[precision],
        }
        for precision, file in files.items()
    }
    reports = {precision: models.reports[precision] for precision in precisions}
    golden = {"views": views, "embedding": reference}
    if "int8" in files:
        golden["embedding_int8"] = parity.onnx_embeddings(files["int8"], views, batch=len(views))
    _write(bundle, files, manifest, reports, text=text, golden=golden)
    return reports


def _convert(
    model: "SmileModel",
    config: SmileConfig,
    manifest: dict[str, Any],
    precisions: Sequence[str],
    faces: Faces | None,
    golden: Golden,
    compare: Callable[..., dict[str, Any]],
) -> Models:
    """Every precision, each compared with torch: int8 on faces, the others on the golden captures. fp32 is always among them."""
    fp32 = to_onnx.export_onnx(model, config, metadata=about_file(manifest))
    files = {"fp32": fp32}
    if "fp16" in precisions:
        files["fp16"] = to_fp16(fp32)
    reports = {precision: compare(file, *golden, precision=precision) for precision, file in files.items()}
    if faces:
        wanted = parity.torch_embeddings(model, faces.judged, config)
        judge = partial(
            compare, views=faces.judged, reference=wanted, precision="int8", batches=(JUDGED_AT_A_TIME,)
        )
        files["int8"], kept, reports["int8"] = to_int8(fp32, faces.ranges, judge)
        reports["int8"]["layers_in_fp32"] = kept
    return Models(files, reports, faces.about if faces else None)


def _refuse_failures(reports: dict[str, dict[str, Any]], bundle: Path) -> None:
    for precision, report in reports.items():
        if report["verdict"] != "pass":
            raise ValueError(
                f"parity failed, {bundle} is not published: {precision}: {parity.said(report)}; {REMEDY[precision]}"
            )


def _write(
    bundle: Path,
    files: dict[str, bytes],
    manifest: dict[str, Any],
    reports: dict[str, Any],
    *,
    text: np.ndarray,
    golden: dict[str, np.ndarray],
) -> None:
    """Write a draft beside the bundle, let its own program test it, and give it the name."""
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{bundle.name}.", dir=bundle.parent) as scratch:
        draft = Path(scratch) / "bundle"
        _copy_code(draft)
        for precision, file in files.items():
            (draft / manifest["models"][precision]["file"]).write_bytes(file)
        for name, content in ((MANIFEST, manifest), ("parity.json", reports)):
            (draft / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        np.save(draft / TEXT, text, allow_pickle=False)
        np.savez_compressed(draft / GOLDEN, allow_pickle=False, **golden)
        _write_sums(draft)
        for precision in files:
            _self_test(draft, bundle, precision)
        _publish(draft, bundle, aside=Path(scratch) / "old")


def _faces(folders: Sequence[Path], config: SmileConfig) -> Faces:
    """At most CALIBRATED captures of three people of four of all sites together, and as many of the others. Raises ValueError."""
    if not folders:
        raise ValueError(
            "int8 needs views of faces to set its ranges: give prepared sites with --calibrate SITE, or leave int8 out of "
            "--precision"
        )
    ranges, judged, count = list[np.ndarray](), list[np.ndarray](), 0
    for folder in folders:
        site = open_site(folder, config)
        people = np.unique(site.subjects)
        count += len(people)
        held = np.isin(site.subjects, people[:: min(4, len(people))] if len(people) > 1 else [])
        for rows, views in ((~held, ranges), (held, judged)):
            chosen = _spread(np.flatnonzero(rows), max(1, CALIBRATED // len(folders)))
            views.append(site.gather(chosen, config.model.modalities))
    if not sum(map(len, judged)):
        raise ValueError(
            f"{folders[0]}: no site of --calibrate holds two people, and int8 is judged on others than its ranges are set on: give "
            "one that does"
        )
    setting, judging = np.concatenate(ranges), np.concatenate(judged)
    about = {
        "sites": len(folders),
        "captures": len(setting),
        "judged": len(judging),
        "people": count,
        "sha256": _sha256(np.ascontiguousarray(setting).tobytes()),
    }
    return Faces(setting, judging, about)


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int)]


def _own_prompts(checkpoint: Path, config: SmileConfig, meta: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The sentences of the seven expressions that the model was trained with. Raises ValueError where these are gone."""
    if meta.get("prompts", bank_hash()) != bank_hash():
        raise ValueError(
            f"{checkpoint} was trained with another prompt bank than this program holds: export it with version "
            f"{meta.get('version')} of smile"
        )
    return {name: prompts_for(config)[name] for name in EXPRESSIONS}


def site_views(folder: Path, config: SmileConfig, *, count: int = parity.CAPTURES) -> np.ndarray:
    """Some captures of a prepared site, evenly spread: (count, V, C, H, W) uint8. Raises ValueError if views differ."""
    site = open_site(folder, config)
    rows = np.linspace(0, len(site) - 1, count).round().astype(int)
    return site.gather(rows, config.model.modalities)


def open_site(folder: Path, config: SmileConfig) -> "Site":
    """A prepared site whose views are those of the study. Raises ValueError."""
    from smile.site.store import Site

    site = Site(folder)
    for key in ("yaws", "size", "radius", "motion", "magnify"):
        found, wanted = getattr(site.views, key), getattr(config.views, key)
        if found != wanted:
            raise ValueError(
                f"{folder} was prepared with {key} = {found} and the checkpoint wants {wanted}: prepare it again "
                "or choose another site"
            )
    return site


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
    lines = [f"{sha256(path)}  {path.relative_to(draft).as_posix()}\n" for path in files]
    (draft / SUMS).write_text("".join(lines), encoding="utf-8")


def _self_test(draft: Path, bundle: Path, precision: str) -> None:
    """Run the draft as a device would. Raises ValueError when its own program disagrees with torch."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, str(draft / "run.py"), "--self-test", "--precision", precision],
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
    """Give the finished folder its name; an old bundle stays in place until the new one is on the disk, Ctrl-C included."""
    sync(draft)
    if not bundle.exists():
        draft.rename(bundle)
    elif not exchanged(draft, bundle):
        bundle.rename(aside)
        try:
            draft.rename(bundle)
        except BaseException:
            aside.rename(bundle)
            raise


def summary(reports: dict[str, Any]) -> str:
    """The parity reports in one line."""
    return "; ".join(
        f"{precision} {report['verdict']}: {parity.said(report)}" for precision, report in reports.items()
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
