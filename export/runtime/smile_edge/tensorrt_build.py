"""`run.py --build-engine`: the TensorRT engine of a bundle, built, verified and published on the device that will run it."""

import contextlib
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .files import TEXT, read_checked, read_manifest, read_sums
from .golden import figures, read_golden, summary, within
from .tensorrt_engine import (
    Cuda,
    Device,
    TensorRTEngine,
    engine_paths,
    is_legacy,
    load_engine,
    source_of,
    tensorrt_module,
)
from .tensorrt_plan import LEGACY, LEGACY_FLAGS, Shapes, build_plan, builder_flags, network_flags

TEGRA = Path("/etc/nv_tegra_release")
_SMALL = 8 << 10  # MiB: a board on which the builder must be modest
_CAP, _WORKSPACE = 1 << 10, 4 << 10  # MiB: the workspace there, and elsewhere
_KEPT = 50  # lines of TensorRT's log


def _say(line: str) -> None:
    print(line, flush=True)


def build_engine(
    bundle: Path,
    *,
    precision: str | None = None,
    workspace_mb: int | None = None,
    dla: int | None = None,
    trt: Any = None,
    cuda: Cuda | None = None,
    say: Callable[[str], None] = _say,
) -> dict[str, Any]:
    """Build, verify and publish BUNDLE/engines/PRECISION.engine; returns what the JSON beside it says.

    precision: `default` of the manifest when None. workspace_mb: at most 1024 on a board of 8 GB, which is its default there.
    trt, cuda: for tests. An engine of the same key (file, TensorRT, GPU, profile, flags) is not built again.
    Raises ValueError, and publishes nothing, when anything is refused or the golden captures come out wrong.
    """
    sums = read_sums(bundle)
    manifest = read_manifest(bundle, sums)
    trt, cuda = tensorrt_module(trt), cuda or Cuda()
    device = cuda.device()
    say(
        f"{jetpack()}; TensorRT {trt.__version__}; GPU {device.name}, {device.sm}, {device.processors} "
        f"multiprocessors, {device.memory_mb} MiB"
    )
    if TEGRA.exists() and not str(getattr(trt, "__file__", "")).startswith("/usr/lib/"):
        say(
            "this TensorRT is not the one of JetPack: those of pip know no Jetson, use the system's python3 if the build fails"
        )
    order = _order(bundle, manifest, sums, trt, device, precision or manifest["default"], workspace_mb, dla)
    for version, line in order["trtexec"].items():
        say(f"the same with TensorRT {version}: {line}")
    path, beside = engine_paths(bundle, order["precision"])
    with contextlib.suppress(ValueError):  # none, another one or a damaged one: build
        load_engine(bundle, manifest, sums, order["precision"], trt=trt, cuda=cuda).close()
        old = json.loads(beside.read_text(encoding="utf-8"))
        if old.get("key") == order["key"]:
            say(f"{path} is there already, of the same file, TensorRT, GPU and settings")
            return old
    say(f"building {path}: this takes minutes on a small board")
    note = _build(bundle, manifest, sums, order, trt=trt, cuda=cuda, timings=_timings_name(trt, device))
    for line in note["otherwise"]:
        say(line)
    say(
        f"{path}: {note['bytes'] / 2**20:.1f} MiB in {note['seconds']:.0f} s; {summary(note['golden'], note['tolerance'])}"
    )
    return note


def _build(
    bundle: Path,
    manifest: dict[str, Any],
    sums: dict[str, str],
    order: dict[str, Any],
    *,
    trt: Any,
    cuda: Cuda,
    timings: str,
) -> dict[str, Any]:
    """Carry out an order; returns it with what came of it. Nothing is published before it has passed."""
    path, beside = engine_paths(bundle, order["precision"])
    draft, cache = path.with_name(f".{path.name}.part"), path.with_name(timings)
    onnx = read_checked(bundle, order["onnx"]["file"], sums)
    with _writing(path.parent):
        path.parent.mkdir(exist_ok=True)
        seen = cache.read_bytes() if cache.is_file() else b""
    start = time.perf_counter()
    made = build_plan(
        trt,
        onnx,
        shapes=order["profile"],
        precision=order["precision"],
        workspace_mb=order["workspace_mb"],
        timing_cache=seen,
        dla=order["dla"],
    )
    seconds = time.perf_counter() - start
    try:
        with _writing(path.parent):
            _write(draft, made.plan)
            plan = draft.read_bytes()  # what is verified is what lies on the disk
        note = {
            **order,
            "golden": _verify(plan, bundle, manifest, sums, order, trt=trt, cuda=cuda),
            "sha256": hashlib.sha256(plan).hexdigest(),
            "bytes": len(plan),
            "seconds": round(seconds, 1),
            "otherwise": _otherwise(made.log),
            "log": made.log[:_KEPT],
        }
        with _writing(path.parent):
            if made.timing_cache:
                _replace(cache, made.timing_cache)
            # The plan, then the JSON with its SHA-256: a pair that was not finished does not match.
            os.replace(draft, path)
            _replace(beside, (json.dumps(note, indent=2) + "\n").encode())
    finally:
        draft.unlink(missing_ok=True)
    return note


def _otherwise(log: list[str]) -> list[str]:
    """What TensorRT did otherwise than it was told: layers that no DLA takes, timings that it did not trust."""
    found = []
    for what in ("DLA", "timing cache"):
        lines = [line for line in log if what in line]
        if lines:
            found.append(f"{lines[0]}" + (f" (the first of {len(lines)} such lines)" if lines[1:] else ""))
    return found


def _order(
    bundle: Path,
    manifest: dict[str, Any],
    sums: dict[str, str],
    trt: Any,
    device: Device,
    precision: str,
    workspace_mb: int | None,
    dla: int | None,
) -> dict[str, Any]:
    """All that decides what the engine will be, and `key`, its hash. Raises ValueError for what cannot be built."""
    models, source = manifest["models"], source_of(trt, precision)
    for name in (precision, source):
        if name not in models:
            raise ValueError(
                f"{bundle} holds {', '.join(models)} and not {name}: choose one of these, or make a bundle with it"
            )
    if sums.get(models[source]["file"]) != models[source]["sha256"]:
        raise ValueError(
            f"{bundle / models[source]['file']} is not the {source} model of manifest.json: copy the bundle again"
        )
    if dla is not None and precision == "fp32":
        raise ValueError(
            "a DLA computes in fp16 and int8 alone: build with --precision fp16, or without the DLA"
        )
    order = {
        "onnx": {key: models[source][key] for key in ("file", "sha256")},
        "precision": precision,
        "tensorrt": trt.__version__,
        "sm": device.sm,
        "device": device.name,
        "processors": device.processors,
        "memory_gb": device.memory_gb,
        "profile": profile(manifest, fixed=dla is not None),
        "flags": [network_flags(trt), *builder_flags(trt, precision)],
        "workspace_mb": _workspace(workspace_mb, device),
        "dla": dla,
    }
    key = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
    return {
        "key": key,
        **order,
        "jetpack": jetpack(),
        "tolerance": models[precision]["tolerance"],
        "trtexec": trtexec(order, legacy=is_legacy(trt)),
    }


def profile(manifest: dict[str, Any], *, fixed: bool = False) -> Shapes:
    """Input -> its smallest, usual and largest shape. fixed: always the usual one, as a DLA wants it."""
    shape, batches = manifest["input"]["shape"][1:], manifest["profile"]["batch"]
    if len(batches) != 3 or not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise ValueError(
            f"manifest.json has the profile {batches}: smallest, usual and largest batch are wanted, in this order"
        )
    low, usual, high = ((batches[1] if fixed else batch, *shape) for batch in batches)
    return {manifest["input"]["name"]: (low, usual, high)}


def trtexec(order: dict[str, Any], *, legacy: bool) -> dict[str, str]:
    """TensorRT version -> the command line that builds the same plan, to be run in the bundle; it overwrites no verified engine."""
    precision = order["precision"]
    (name, shapes), *_ = order["profile"].items()
    words = [f"trtexec --onnx={order['onnx']['file']}"]
    words += [
        f"--{which}Shapes={name}:{'x'.join(map(str, shape))}"
        for which, shape in zip(("min", "opt", "max"), shapes, strict=True)
    ]
    words += [
        f"--memPoolSize=workspace:{order['workspace_mb']}",
        *(["--noTF32"] if precision == "fp32" else []),
    ]
    if order["dla"] is not None:
        words += [f"--useDLACore={order['dla']}", "--allowGPUFallback"]
    words.append(f"--saveEngine={precision}.trtexec.engine")
    line = " ".join(words)
    if legacy:
        return {"8.6": line + "".join(f" --{flag.lower()}" for flag in LEGACY_FLAGS.get(precision, ()))}
    return {"10.x": line + " --stronglyTyped", "11.x": line}


def jetpack(path: Path | None = None) -> str:
    """The JetPack of this board from /etc/nv_tegra_release, `JetPack 6 (L4T R36.4.3)`."""
    try:
        text = (path or TEGRA).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"no Jetson ({path or TEGRA} is missing)"
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    if not found:
        return f"JetPack unknown ({text.splitlines()[0] if text.strip() else 'an empty file'})"
    major = {"35": "5", "36": "6", "38": "7", "39": "7"}.get(found[1], "unknown")
    return f"JetPack {major} (L4T R{found[1]}.{found[2]})"


def _workspace(asked: int | None, device: Device) -> int:
    limit = _CAP if device.memory_mb <= _SMALL else _WORKSPACE
    if asked is not None and asked < 1:
        raise ValueError(f"a workspace of {asked} MiB is too small: give 64 or more")
    if asked is not None and device.memory_mb <= _SMALL and asked > limit:
        raise ValueError(
            f"a workspace of {asked} MiB is too much for a device of {device.memory_mb} MiB: give {limit} or less"
        )
    return asked or limit


def _timings_name(trt: Any, device: Device) -> str:
    """A timing cache serves one TensorRT and one device, so these are in its name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"timing-{trt.__version__}-{device.sm}-{device.name}") + ".cache"


def _verify(
    plan: bytes,
    bundle: Path,
    manifest: dict[str, Any],
    sums: dict[str, str],
    order: dict[str, Any],
    *,
    trt: Any,
    cuda: Cuda,
) -> dict[str, float]:
    """The worst figures of the golden captures, together and one by one. Raises ValueError where they leave the tolerance."""
    views, expected = read_golden(bundle, sums, order["precision"])
    text = np.load(io.BytesIO(read_checked(bundle, TEXT, sums)), allow_pickle=False)
    names = {"source": manifest["input"]["name"], "target": manifest["output"]["name"]}
    engine = TensorRTEngine(plan, trt=trt, cuda=cuda, precision=order["precision"], dla=order["dla"], **names)
    try:
        answers = np.concatenate([engine(views), *(engine(view[None]) for view in views)])
    finally:
        engine.close()
    found = figures(
        answers, np.concatenate([expected, expected]), text=text, scale=manifest["text"]["logit_scale"]
    )
    if not within(found, order["tolerance"]):
        raise ValueError(
            f"the {order['precision']} engine is not published, on the golden captures it disagrees with torch: "
            f"{summary(found, order['tolerance'])}; {LEGACY if is_legacy(trt) else 'try another --precision'}"
        )
    return found


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror}): make room, or copy the bundle elsewhere"
        ) from None


def _replace(path: Path, data: bytes) -> None:
    """A whole file or the old one, whatever happens."""
    part = path.with_name(f".{path.name}.part")
    _write(part, data)
    os.replace(part, path)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
