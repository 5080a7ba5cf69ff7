"""`python -m export check-trt BUNDLE`: do TensorRT's parser and compiler accept the graphs? On a CPU, with TensorRT-RTX.

It proves that an engine is built, not that it runs, and TensorRT-RTX has no target of a Jetson (docs/edge.md).
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .runtime.smile_edge.files import read_checked, read_manifest, read_sums
from .runtime.smile_edge.tensorrt_build import build_plan, profile

TARGETS = ("SM86", "SM89")
_WORKSPACE = 1024  # MiB
_PATIENCE = 1800  # seconds for one engine; a ViT-B takes five
_SKIPPED = 'tensorrt_rtx is not installed, nothing was checked: run `pip install "tensorrt-rtx>=1.7"` (x86-64 or ARM, no GPU)'


def check(
    bundle: Path, targets: tuple[str, ...] = TARGETS, precisions: tuple[str, ...] | None = None
) -> list[dict[str, Any]]:
    """One row for each precision (all of the bundle when None) and target: parsed and built, or why not.

    A row: precision, target, verdict ("built", "failed" or "skipped"), seconds, bytes of the engine, reason.
    Raises ValueError for a damaged bundle, or a precision that is not in it.
    """
    sums = read_sums(bundle)
    manifest = read_manifest(bundle, sums)
    models = manifest["models"]
    for precision in precisions or ():
        if precision not in models:
            raise ValueError(f"{bundle} holds {', '.join(models)} and not {precision}: choose one of these")
    found = importlib.util.find_spec("tensorrt_rtx") is not None
    pairs = [(precision, target) for precision in precisions or tuple(models) for target in targets]
    for precision in precisions or tuple(models):  # one sentence now, not one for each target
        read_checked(bundle, models[precision]["file"], sums)
    return [_apart(bundle, *pair) if found else _row(*pair, "skipped", _SKIPPED) for pair in pairs]


def _row(
    precision: str, target: str, verdict: str, reason: str, seconds: float = 0.0, size: int = 0
) -> dict[str, Any]:
    return {
        "precision": precision,
        "target": target,
        "verdict": verdict,
        "seconds": round(seconds, 2),
        "bytes": size,
        "reason": reason,
    }


def _apart(bundle: Path, precision: str, target: str) -> dict[str, Any]:
    """One build in a process of its own: TensorRT-RTX 1.7 ends its process on some graphs that its parser takes."""
    words = [sys.executable, "-m", "export.check_trt", str(bundle.resolve()), precision, target]
    root, start = Path(__file__).resolve().parents[1], time.perf_counter()
    try:
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False, timeout=_PATIENCE)
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        reason = f"TensorRT-RTX was still building after {_PATIENCE} s"
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        reason = f"TensorRT-RTX ended its own process (exit code {done.returncode}: {last})"
    return _row(precision, target, "failed", reason, time.perf_counter() - start)


def build(bundle: Path, precision: str, target: str) -> dict[str, Any]:
    """One row, in this process."""
    sums = read_sums(bundle)
    manifest = read_manifest(bundle, sums)
    onnx = read_checked(bundle, manifest["models"][precision]["file"], sums)
    start = time.perf_counter()
    try:
        import tensorrt_rtx as trt

        # The parser's word is not enough: it takes an Attention that the compiler then refuses.
        made = build_plan(
            trt,
            onnx,
            shapes=profile(manifest),
            precision=precision,
            workspace_mb=_WORKSPACE,
            target=target,
            timing_cache=None,
        )
    except ImportError as error:
        return _row(precision, target, "failed", f"tensorrt_rtx cannot be loaded ({error}): install it again")
    except ValueError as error:
        return _row(precision, target, "failed", str(error), time.perf_counter() - start)
    reason = f"TensorRT-RTX {trt.__version__}, built and not run"
    return _row(precision, target, "built", reason, time.perf_counter() - start, len(made.plan))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `command` reads."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--targets", default=",".join(TARGETS), metavar="SM,...", help="default: %(default)s")
    parser.add_argument(
        "--precision", metavar="P,...", help="fp32, fp16, int8; default: all that the bundle holds"
    )
    parser.add_argument("--json", action="store_true", help="the rows as JSON")


def command(options: argparse.Namespace) -> int:
    """Print the rows; exit code 1 when one failed, 0 when all were built or nothing could be checked."""
    precisions = tuple(options.precision.split(",")) if options.precision else None
    rows = check(options.bundle, tuple(options.targets.split(",")), precisions)
    if options.json:
        print(json.dumps(rows))
    elif all(row["verdict"] == "skipped" for row in rows):
        print(f"{options.bundle}: skipped: {rows[0]['reason']}")
    else:
        for row in rows:
            figures = f"{row['bytes'] / 2**20:.1f} MiB, {row['seconds']:.1f} s, " if row["bytes"] else ""
            print(
                f"{options.bundle}: {row['precision']} for {row['target']} {row['verdict']}: {figures}{row['reason']}"
            )
    return int(any(row["verdict"] == "failed" for row in rows))


if __name__ == "__main__":  # the child of `_apart`
    print(json.dumps(build(Path(sys.argv[1]), *sys.argv[2:])))
