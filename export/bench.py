"""Every precision of a bundle beside torch, in turn and on the same threads: how long an engine takes, and a scan to its label."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .runtime.smile_edge.bench import RUNS, machine, measure, table
from .runtime.smile_edge.command import positive
from .runtime.smile_edge.engines import PROVIDERS
from .runtime.smile_edge.files import read_manifest, read_sums
from .runtime.smile_edge.model import ExpressionReader
from .runtime.smile_edge.views import read_views


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `command` reads."""
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE")
    add("inputs", nargs="*", type=Path, metavar="INPUT", help="scans or prepared views, from file to label")
    add(
        "--checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="measure torch beside the engines, eager and on a GPU compiled",
    )
    add("--provider", choices=PROVIDERS, default="cpu", help="default: %(default)s")
    add("--device", default="cpu", help="of torch (default: %(default)s)")
    add("--precision", metavar="P,...", help="default: all that the bundle holds")
    add("--threads", type=positive, default=2, metavar="N", help="default: %(default)s")
    add("--batch", type=positive, default=1, metavar="N", help="captures at once (default: %(default)s)")
    add(
        "--runs",
        type=positive,
        default=RUNS,
        metavar="N",
        help="of each, after the warm-up (default: %(default)s)",
    )
    add("--json", action="store_true", help="the report as JSON")


def command(options: argparse.Namespace) -> int:
    """Measure and print. Exit code 0."""
    manifest = read_manifest(options.bundle, read_sums(options.bundle))
    precisions = options.precision.split(",") if options.precision else list(manifest["models"])
    readers = [
        ExpressionReader(
            options.bundle, precision=precision, provider=options.provider, threads=options.threads
        )
        for precision in precisions
    ]
    shape = manifest["input"]["shape"][1:]
    views = np.random.default_rng(0).integers(1, 256, (options.batch, *shape)).astype(np.float32)
    calls: dict[str, Callable[[], Any]] = _torch(options, views) if options.checkpoint else {}
    calls |= {
        f"{reader.engine.name} {reader.engine.precision}": partial(reader.engine, views) for reader in readers
    }
    for path in options.inputs:
        for reader in readers:
            calls[f"{path.name} to label, {reader.engine.precision}"] = partial(_read, reader, path)
    rows = measure(calls, runs=options.runs)
    report = {
        "engine": f"batch {options.batch}",
        "precision": ", ".join(reader.engine.precision for reader in readers),
        "views": shape[0],
        **machine(),
        "threads": options.threads,
        "rows": rows,
    }
    print(json.dumps(report) if options.json else table(report))
    return 0


def _read(reader: ExpressionReader, path: Path) -> dict[str, Any]:
    return reader.predict(read_views(path, reader.bundle, reader.manifest["preprocessing"])[0])


def _torch(options: argparse.Namespace, views: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The exported module in torch, eager; compiled too where `--device` is a GPU."""
    import torch

    from smile import checkpoint as checkpoints
    from smile.tuning import merged

    from .to_onnx import Embedder

    torch.set_num_threads(options.threads)
    try:
        torch.empty(1, device=options.device)
    except RuntimeError as error:
        raise ValueError(
            f"--device {options.device} is not there ({str(error).splitlines()[0]}): give cpu or cuda"
        ) from None
    model, _, _ = checkpoints.load(options.checkpoint)
    eager = Embedder(merged(model)).to(options.device)
    modules: dict[str, Callable[[Any], Any]] = {"torch eager": eager}
    if torch.device(options.device).type == "cuda":
        modules["torch compiled"] = torch.compile(eager)

    def call(module: Callable[[Any], Any]) -> np.ndarray:
        with torch.inference_mode():
            # To the device and back, as an engine does it.
            return module(torch.from_numpy(views).to(options.device)).cpu().numpy()

    return {name: partial(call, module) for name, module in modules.items()}
