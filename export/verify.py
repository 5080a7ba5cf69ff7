"""Does a bundle say what torch says? On its golden captures, and on people of sites whom nobody trained on. Pass or fail.

n captures, u decisions, D joint embedding.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import parity
from .runtime.smile_edge.files import read_manifest, read_sums
from .runtime.smile_edge.golden import figures, summary, within
from .runtime.smile_edge.model import ExpressionReader

if TYPE_CHECKING:
    from smile.protocols import Task
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


class _Site(NamedTuple):
    """The decisions of one site: those of people trained on fit the probe, those of people held out are tested."""

    site: "Site"
    task: "Task"
    train: np.ndarray
    test: np.ndarray
    reference: np.ndarray  # (n, D) torch's embeddings


class HeldOut:
    """People of one or more sites whom the study held out, and what torch says of them."""

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
        self.parts: list[_Site] = []
        for folder in sites:
            site = open_site(folder, config)
            task = select(Study("", classes=SIX), site)
            (fold,) = splits(
                *(Study("", folds=1), task, config.training),
                people=site.subjects,
                seed=config.training.seed,
            )
            reference = self._embed(lambda views: parity.torch_embeddings(model, views, config), site, task)
            self.parts.append(_Site(site, task, *fold, reference))
        self.classes = [name for name in SIX if any(name in part.task.classes for part in self.parts)]

    def _embed(self, engine: Engine, site: "Site", task: "Task") -> np.ndarray:
        """Embeddings of the task's captures, (n, D), 32 at a time."""
        return np.concatenate(
            [
                engine(site.gather(task.rows[start : start + 32], self.modalities))
                for start in range(0, len(task.rows), 32)
            ]
        )

    def figures(self, reader: ExpressionReader) -> dict[str, float]:
        """`golden.figures` on held-out captures, and what is gained (above 0) or lost in zero-shot and in torch's linear probe."""
        from smile.evaluation import linear_probe, zero_shot

        found = [self._embed(reader.embed, part.site, part.task) for part in self.parts]
        tested = [np.isin(part.task.unit, part.test) for part in self.parts]
        result = figures(
            np.concatenate([z[rows] for z, rows in zip(found, tested, strict=True)]),
            np.concatenate([part.reference[rows] for part, rows in zip(self.parts, tested, strict=True)]),
            text=reader.text,
            scale=reader.scale,
        )
        references = [part.reference for part in self.parts]
        known, names = self._decisions(references, "train")
        _, truth = self._decisions(references, "test")
        words = self._words(reader)
        answers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "zero_shot": lambda z: zero_shot(z, words),
            "linear_probe": lambda z: linear_probe(known, names, z),
        }
        for name, answer in answers.items():
            ours, torchs = (
                (answer(self._decisions(z, "test")[0]) == truth).mean() for z in (found, references)
            )
            result[name] = float(ours - torchs)
        return result | {"decisions": len(truth)}

    def _decisions(self, embeddings: Sequence[np.ndarray], side: str) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of each site's captures -> (u, D) of the decisions of `train` or `test`, and their classes (u,) int."""
        from smile.evaluation import per_sequence

        pairs = []
        for part, z in zip(self.parts, embeddings, strict=True):
            chosen = getattr(part, side)
            place = np.array([self.classes.index(name) for name in part.task.classes])
            pairs.append((per_sequence(z, part.task.unit)[0][chosen], place[part.task.truth[chosen]]))
        return np.concatenate([z for z, _ in pairs]), np.concatenate([truth for _, truth in pairs])

    def _words(self, reader: ExpressionReader) -> np.ndarray:
        missing = [name for name in self.classes if name not in reader.labels]
        if missing:
            raise ValueError(
                f"the bundle has no class {missing[0]!r}: make it without --prompts to verify it on a site"
            )
        return reader.text[[reader.labels.index(name) for name in self.classes]]
