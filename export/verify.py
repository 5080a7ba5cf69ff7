"""Does a bundle say what torch says? On its golden captures, and on people of sites whom nobody trained on. Pass or fail.

n captures, u decisions, D joint embedding.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import parity
from .runtime.smile_edge.files import read_manifest, read_sums
from .runtime.smile_edge.golden import figures, summary, within
from .runtime.smile_edge.model import ExpressionReader

if TYPE_CHECKING:
    from smile.site.store import Site

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
        nargs="+",
        default=[],
        metavar="SITE",
        help="prepared sites with labels: their held-out people are read by torch and every engine, and counted together; "
        "half a point of fewer than 200 decisions is no decision at all",
    )
    add("--json", action="store_true", help="the rows as JSON")


def command(options: argparse.Namespace) -> int:
    """Print a row for every engine and every data; exit code 1 when one fails."""
    if (options.checkpoint is None) != (not options.site):
        raise ValueError(
            "give --checkpoint and --site together, or neither: torch and faces are needed for both"
        )
    rows = verify(options.bundle, checkpoint=options.checkpoint, sites=options.site)
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(f"{row['verdict']:8}{row['engine']:32}{row['precision']:6}{row['data']:10}{row['words']}")
    return int(any(row["verdict"] == "fail" for row in rows))


def verify(
    bundle: Path, *, checkpoint: Path | None = None, sites: Sequence[Path] = ()
) -> list[dict[str, Any]]:
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
    if checkpoint is not None and sites:
        people = HeldOut(bundle, checkpoint, sites)
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
                *(f"{name.replace('_', ' ')} {found[name]:.4g}" for name in found if name not in limits),
            ]
        ),
        **found,
    }


class HeldOut:
    """People of one or more sites whom the study held out, and what torch says of them; decisions are counted over all sites."""

    def __init__(self, bundle: Path, checkpoint: Path, sites: Sequence[Path]) -> None:
        from smile import checkpoint as checkpoints
        from smile.protocols import SIX, Study, select, splits
        from smile.site.disk import sha256

        from .bundle import open_site

        model, config, _ = checkpoints.load(checkpoint)
        digest = sha256(checkpoint / "model.safetensors")
        made_of = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["checkpoint"]["sha256"]
        if digest != made_of:
            raise ValueError(
                f"{bundle} was not made of {checkpoint}: give the checkpoint of SHA-256 {made_of[:12]}..."
            )
        self.modalities = config.model.modalities
        self.captures: list[tuple[Site, np.ndarray]] = []  # of each site its rows
        unit, names, train, test = (list[np.ndarray]() for _ in range(4))
        for folder in sites:
            site = open_site(folder, config)
            task = select(Study("", classes=SIX), site)
            (fold,) = splits(
                *(Study("", folds=1), task, config.training),
                people=site.subjects,
                seed=config.training.seed,
            )
            before = sum(map(len, names))
            self.captures.append((site, task.rows))
            unit.append(task.unit + before)
            names.append(np.array(task.classes)[task.truth])
            train.append(fold.train + before)
            test.append(fold.test + before)
        self.unit, self.train, self.test = map(np.concatenate, (unit, train, test))
        self.classes, self.truth = np.unique(np.concatenate(names), return_inverse=True)
        self.reference = self._embed(lambda views: parity.torch_embeddings(model, views, config))

    def _embed(self, engine: Engine) -> np.ndarray:
        """Embeddings of the captures of all sites, (n, D), 32 at a time."""
        return np.concatenate(
            [
                engine(site.gather(rows[start : start + 32], self.modalities))
                for site, rows in self.captures
                for start in range(0, len(rows), 32)
            ]
        )

    def figures(self, reader: ExpressionReader) -> dict[str, float]:
        """`golden.figures` on held-out captures, and what is gained (above 0) or lost in zero-shot and in torch's linear probe."""
        from smile.evaluation import linear_probe, per_sequence, zero_shot

        found = self._embed(reader.embed)
        tested = np.isin(self.unit, self.test)
        result = figures(found[tested], self.reference[tested], text=reader.text, scale=reader.scale)
        torch_says, engine_says = (per_sequence(z, self.unit)[0] for z in (self.reference, found))
        both, truth = np.concatenate([engine_says[self.test], torch_says[self.test]]), self.truth[self.test]
        answers = {
            "zero_shot": zero_shot(both, self._words(reader)),
            "linear_probe": linear_probe(torch_says[self.train], self.truth[self.train], both),
        }
        for name, answer in answers.items():
            ours, torchs = (answer.reshape(2, -1) == truth).mean(axis=1)
            result[name] = float(ours - torchs)
        return result | {"decisions": len(truth)}

    def _words(self, reader: ExpressionReader) -> np.ndarray:
        missing = [name for name in self.classes if name not in reader.labels]
        if missing:
            raise ValueError(
                f"the bundle has no class {str(missing[0])!r}: make it without --prompts to verify it on a site"
            )
        return reader.text[[reader.labels.index(name) for name in self.classes]]
