"""Does a bundle say what torch says? On its golden captures, and on people of a site that nobody trained on. Pass or fail.

n captures, u decisions, D joint embedding.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import parity
from .runtime.smile_edge.files import read_manifest, read_sums
from .runtime.smile_edge.golden import figures, summary, within
from .runtime.smile_edge.model import ExpressionReader

# What an engine may lose on held-out people: half a point of accuracy.
LIMITS = {"zero_shot": -0.005, "linear_probe": -0.005}
Engine = Callable[[np.ndarray], np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `command` reads."""
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE")
    add("--checkpoint", type=Path, metavar="CHECKPOINT", help="that the bundle was made of; with --site")
    add(
        "--site",
        type=Path,
        metavar="SITE",
        help="prepared site with labels: its held-out people are read by torch and every engine",
    )
    add("--json", action="store_true", help="the rows as JSON")


def command(options: argparse.Namespace) -> int:
    """Print a row for every engine and every data; exit code 1 when one fails."""
    if (options.checkpoint is None) != (options.site is None):
        raise ValueError(
            "give --checkpoint and --site together, or neither: torch and faces are needed for both"
        )
    rows = verify(options.bundle, checkpoint=options.checkpoint, site=options.site)
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(f"{row['verdict']:8}{row['engine']:32}{row['precision']:6}{row['data']:10}{row['words']}")
    return int(any(row["verdict"] == "fail" for row in rows))


def verify(bundle: Path, *, checkpoint: Path | None = None, site: Path | None = None) -> list[dict[str, Any]]:
    """One row for every precision, by ONNX Runtime on the CPU and by the TensorRT engines that were built on this machine.

    Raises ValueError: a damaged bundle, a checkpoint that it was not made of, or a site of other views.
    """
    models = read_manifest(bundle, read_sums(bundle))["models"]
    readers = [ExpressionReader(bundle, precision=precision) for precision in models]
    readers += [
        ExpressionReader(bundle, precision=path.stem, provider="tensorrt")
        for path in sorted((bundle / "engines").glob("*.engine"))
    ]
    rows = [row(reader, "golden", reader.self_test(), reader.tolerance) for reader in readers]
    if checkpoint is not None and site is not None:
        people = HeldOut(bundle, checkpoint, site)
        for reader in readers:
            found = people.figures(reader)
            rows.append(row(reader, "held-out", found, {**reader.tolerance, **LIMITS}))
    return rows


def row(
    reader: ExpressionReader, data: str, found: dict[str, float], limits: dict[str, float]
) -> dict[str, Any]:
    """What an engine says of some captures, and whether that is within the limits."""
    return {
        "engine": reader.engine.name,
        "precision": reader.engine.precision,
        "data": data,
        "verdict": "pass" if within(found, limits) else "fail",
        "words": "; ".join(
            [
                summary(found, limits),
                *(f"{name.replace('_', ' ')} {found[name]:.3g}" for name in found if name not in limits),
            ]
        ),
        **found,
    }


class HeldOut:
    """People of a site whom the study held out, and what torch says of them."""

    def __init__(self, bundle: Path, checkpoint: Path, site: Path) -> None:
        from smile import checkpoint as checkpoints
        from smile.protocols import SIX, Study, select, splits
        from smile.site.disk import sha256

        from .bundle import open_site

        model, self.config, _ = checkpoints.load(checkpoint)
        digest = sha256(checkpoint / "model.safetensors")
        made_of = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["checkpoint"]["sha256"]
        if digest != made_of:
            raise ValueError(
                f"{bundle} was not made of {checkpoint}: give the checkpoint of SHA-256 {made_of[:12]}..."
            )
        self.site = open_site(site, self.config)
        self.task = select(Study("", classes=SIX), self.site)
        people, training = self.site.subjects, self.config.training
        (fold,) = splits(Study("", folds=1), self.task, training, people=people, seed=training.seed)
        self.train, self.test = fold
        self.reference = self._embed(lambda views: parity.torch_embeddings(model, views, self.config))

    def _embed(self, engine: Engine) -> np.ndarray:
        """Embeddings of the task's captures, (n, D), 32 at a time."""
        rows = self.task.rows
        return np.concatenate(
            [
                engine(self.site.gather(rows[start : start + 32], self.config.model.modalities))
                for start in range(0, len(rows), 32)
            ]
        )

    def figures(self, reader: ExpressionReader) -> dict[str, float]:
        """`golden.figures` on held-out captures, and what is gained (above 0) or lost in zero-shot and in torch's linear probe."""
        from smile.evaluation import linear_probe, per_sequence, zero_shot

        found = self._embed(reader.embed)
        tested = np.isin(self.task.unit, self.test)
        result = figures(found[tested], self.reference[tested], text=reader.text, scale=reader.scale)
        torch_says, engine_says = (per_sequence(z, self.task.unit)[0] for z in (self.reference, found))
        truth, known = self.task.truth, (torch_says[self.train], self.task.truth[self.train])
        words = self._classes(reader)
        right = {
            name: [(answer(z[self.test]) == truth[self.test]).mean() for z in (engine_says, torch_says)]
            for name, answer in {
                "zero_shot": lambda z: zero_shot(z, words),
                "linear_probe": lambda z: linear_probe(*known, z),
            }.items()
        }
        return result | {name: float(ours - theirs) for name, (ours, theirs) in right.items()}

    def _classes(self, reader: ExpressionReader) -> np.ndarray:
        missing = [name for name in self.task.classes if name not in reader.labels]
        if missing:
            raise ValueError(
                f"the bundle has no class {missing[0]!r}: make it without --prompts to verify it on a site"
            )
        return reader.text[[reader.labels.index(name) for name in self.task.classes]]
