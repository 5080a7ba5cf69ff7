"""`ExpressionReader`: a bundle, loaded. The same calls whatever engine is behind them.

n frames, V views, C channels, H W pixels, D joint embedding, K classes.
"""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import golden
from .engines import open_engine
from .files import TEXT, read_checked, read_manifest, read_sums
from .views import check_views, reader_module

PROMPTS_FORMAT = "smile-edge prompts"


class ExpressionReader:
    """Views of a face in, expression out.

    bundle: the folder that `python -m export bundle` wrote. precision: one of the bundle's, its `default` when None.
    provider: one of `engines.PROVIDERS`. threads: of an engine on the CPU, 0 for one a core.
    Raises ValueError when a file of the bundle is missing, damaged or of another format, or the engine is not there.
    """

    def __init__(
        self, bundle: Path | str, *, precision: str | None = None, provider: str = "cpu", threads: int = 0
    ) -> None:
        self.bundle = Path(bundle)
        self._sums = read_sums(self.bundle)
        self.manifest = read_manifest(self.bundle, self._sums)
        self.scale = float(self.manifest["text"]["logit_scale"])
        self.engine = open_engine(
            self.bundle, self.manifest, self._sums, precision=precision, provider=provider, threads=threads
        )
        # At once: what the engine was made for, and a long sequence must not fill the memory.
        self._most = int(self.manifest["profile"]["batch"][2])
        text = np.load(io.BytesIO(read_checked(self.bundle, TEXT, self._sums)), allow_pickle=False)
        self.labels: tuple[str, ...] = ()
        self.text = text
        try:
            self.set_text(self.manifest["text"]["labels"], text)
        except ValueError as error:
            raise ValueError(
                f"{self.bundle}: manifest.json and text_embeddings.npy do not fit: {error}"
            ) from None
        # The first run of an engine is a slow one: have it now.
        self._embed(np.zeros((1, *self.manifest["input"]["shape"][1:]), np.float32))

    def embed(self, views: np.ndarray) -> np.ndarray:
        """(V, C, H, W) or (n, V, C, H, W), uint8 or float in [0, 255] -> (n, D) float32 of unit length.

        C may also be all channels of a prepared site. Raises ValueError for views that do not fit the bundle.
        """
        return self._embed(check_views(np.asarray(views), self.manifest["preprocessing"]))

    def predict(self, views: np.ndarray) -> dict[str, Any]:
        """Views as for `embed` -> plain data: `expression`, `probabilities` (largest first), `milliseconds`.

        Several frames are one sequence: the answer comes from their mean embedding and `frames` holds the answer for each.
        `sequence` of the manifest says whether the project's evaluation of this model does the same.
        """
        views = check_views(np.asarray(views), self.manifest["preprocessing"])
        start = time.perf_counter()
        embedding = self._embed(views)
        answer = self.classify(embedding.mean(axis=0))
        if len(embedding) > 1:
            answer["frames"] = [self.classify(row) for row in embedding]
        answer["milliseconds"] = {"engine": 1e3 * (time.perf_counter() - start)}
        return answer

    def classify(self, embedding: np.ndarray) -> dict[str, Any]:
        """(D,) -> `expression` and `probabilities`, softmax over the classes."""
        logits = self.scale * (self.text @ embedding).astype(np.float64)
        weights = np.exp(logits - logits.max())
        order = np.argsort(-weights, kind="stable")
        return {
            "expression": self.labels[order[0]],
            "probabilities": {self.labels[k]: float(weights[k] / weights.sum()) for k in order},
        }

    def set_text(self, labels: list[str], embeddings: np.ndarray) -> None:
        """Other classes for the same engine. labels: K names; embeddings: (K, D), normalised here."""
        width = self.manifest["output"]["shape"][1]
        embeddings = np.asarray(embeddings)
        if embeddings.shape != (len(labels), width) or len(labels) < 2 or len(set(labels)) != len(labels):
            raise ValueError(
                f"{len(labels)} labels with text embeddings of shape {embeddings.shape}: give two or more "
                f"different labels and one row of {width} numbers for each"
            )
        if (
            embeddings.dtype.kind != "f"
            or not np.isfinite(embeddings).all()
            or not embeddings.any(axis=1).all()
        ):
            raise ValueError("the text embeddings hold NaN, infinite or all-zero rows: compute them again")
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        self.labels, self.text = tuple(labels), (embeddings / norms).astype(np.float32)

    def set_prompts(self, prompts: dict[str, Any]) -> None:
        """Other classes, by what `read_prompts` read: sentences, where the text side of the bundle is light, or their embeddings.

        Raises ValueError where sentences need a text side that does not run on a device, or embeddings are another one's.
        """
        encoder = self.manifest["text"]["encoder"]
        if prompts.get("format") == PROMPTS_FORMAT:
            if prompts["encoder"] != encoder:
                raise ValueError(
                    f"the prompts were embedded by {prompts['encoder']!r} and this bundle's text side is {encoder!r}: make them "
                    "again with a checkpoint of its study"
                )
            return self.set_text(
                list(prompts["embeddings"]), np.array(list(prompts["embeddings"].values()), np.float32)
            )
        if encoder != "words":
            raise ValueError(
                f"the text side of this bundle ({encoder}) does not run on a device: where the checkpoint is, make a file for "
                "it with `python -m export prompts CHECKPOINT FILE OUT`, and give OUT"
            )
        text, config = reader_module(self.bundle, "text"), reader_module(self.bundle, "config")
        model = config.ModelConfig(dim=self.manifest["output"]["shape"][1])
        bank = text.prompt_embeddings(model, {name: tuple(sentences) for name, sentences in prompts.items()})
        self.set_text(list(bank), text.class_embeddings(bank))

    def self_test(self) -> dict[str, float]:
        """How this engine differs from torch on the golden captures, see `golden.figures`; every file is checked first."""
        for name in self._sums:
            read_checked(self.bundle, name, self._sums)
        views, expected = golden.read_golden(self.bundle, self._sums, self.engine.precision)
        together, alone = self.embed(views), np.concatenate([self.embed(view) for view in views])
        return golden.figures(
            np.concatenate([together, alone]),
            np.concatenate([expected, expected]),
            text=self.text,
            scale=self.scale,
        )

    @property
    def tolerance(self) -> dict[str, float]:
        """What the engine's precision may differ from torch, by the names of `self_test`."""
        return self.manifest["models"][self.engine.precision]["tolerance"]

    @property
    def provenance(self) -> dict[str, Any]:
        """What an answer came from: `engine`, `precision`, `checkpoint` (SHA-256) and federated `round`."""
        checkpoint = self.manifest["checkpoint"]
        return {
            "engine": self.engine.name,
            "precision": self.engine.precision,
            "checkpoint": checkpoint["sha256"],
            "round": checkpoint["round"],
        }

    def _embed(self, views: np.ndarray) -> np.ndarray:
        starts = range(0, len(views), self._most)
        return np.concatenate(
            [self.engine(views[start : start + self._most].astype(np.float32)) for start in starts]
        )


def read_prompts(path: Path) -> dict[str, Any]:
    """A JSON file {expression: [sentence, ...]}, or what `python -m export prompts` made of one. Raises ValueError for anything else."""
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): give a JSON file with sentences for each expression"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} is not JSON ({error}): write {{"smile": ["a smiling face"], ...}}'
        ) from None
    if isinstance(prompts, dict) and prompts.get("format") == PROMPTS_FORMAT:
        if not _embedded(prompts):
            raise ValueError(f"{path} is damaged: make it again with `python -m export prompts`")
        return prompts
    if not _described(prompts):
        raise ValueError(
            f"{path} does not hold sentences for two or more expressions: write "
            '{"smile": ["a smiling face"], "rest": ["a face at rest"]}'
        )
    return prompts


def read_sentences(path: Path) -> dict[str, list[str]]:
    """As `read_prompts`; of a file of `python -m export prompts` the sentences that it was made of."""
    prompts = read_prompts(path)
    return prompts["prompts"] if prompts.get("format") == PROMPTS_FORMAT else prompts


def _described(prompts: Any) -> bool:
    """Whether these are sentences for two or more expressions."""
    return (
        isinstance(prompts, dict)
        and len(prompts) >= 2
        and all(
            isinstance(group, list) and group and all(isinstance(sentence, str) for sentence in group)
            for group in prompts.values()
        )
    )


def _embedded(prompts: dict[str, Any]) -> bool:
    """Whether a file of `python -m export prompts` holds its sentences, an encoder and a row of numbers, all as long, for each class."""
    rows = prompts.get("embeddings")
    if not isinstance(prompts.get("encoder"), str) or not isinstance(rows, dict) or not rows:
        return False
    if not _described(prompts.get("prompts")):
        return False
    return all(isinstance(row, list) and all(type(x) is float for x in row) for row in rows.values()) and (
        len({len(row) for row in rows.values()}) == 1
    )
