"""`ExpressionReader`: a bundle, loaded. The same calls whatever engine is behind them.

n frames, V views, C channels, H W pixels, D joint embedding, K classes.
"""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .files import GOLDEN, MODEL, TEXT, read_checked, read_manifest, read_sums
from .views import check_views, reader_module

_CHUNK = 16  # frames at once: a long sequence must not fill the memory


class ExpressionReader:
    """Views of a face in, expression out.

    bundle: the folder that `python -m export` wrote. threads: of the engine, 0 for one a core.
    Raises ValueError when a file of the bundle is missing, damaged or of another format.
    """

    def __init__(self, bundle: Path | str, *, threads: int = 0) -> None:
        self.bundle = Path(bundle)
        self._sums = read_sums(self.bundle)
        self.manifest = read_manifest(self.bundle, self._sums)
        self.scale = float(self.manifest["text"]["logit_scale"])
        self._session = _open_session(
            self.bundle / MODEL, read_checked(self.bundle, MODEL, self._sums), threads
        )
        text = np.load(io.BytesIO(read_checked(self.bundle, TEXT, self._sums)), allow_pickle=False)
        self.labels: tuple[str, ...] = ()
        self.text = text
        self.set_text(self.manifest["text"]["labels"], text)
        # The first run of a session is a slow one: have it now.
        self._run(np.zeros((1, *self.manifest["input"]["shape"][1:]), np.float32))

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

    def set_prompts(self, prompts: dict[str, list[str]]) -> None:
        """Other classes, described by sentences: expression -> sentences. Only for bundles whose text side is light."""
        encoder = self.manifest["text"]["encoder"]
        if encoder != "words":
            raise ValueError(
                f"the text side of this bundle ({encoder}) does not run on a device: build a bundle with "
                "`python -m export CHECKPOINT BUNDLE --prompts FILE`"
            )
        text, config = reader_module(self.bundle, "text"), reader_module(self.bundle, "config")
        model = config.ModelConfig(dim=self.manifest["output"]["shape"][1])
        bank = text.prompt_embeddings(model, {name: tuple(sentences) for name, sentences in prompts.items()})
        self.set_text(list(bank), text.class_embeddings(bank))

    def self_test(self) -> float:
        """Largest absolute difference between this engine and torch on the golden captures of the bundle."""
        for name in self._sums:
            read_checked(self.bundle, name, self._sums)
        with np.load(io.BytesIO(read_checked(self.bundle, GOLDEN, self._sums)), allow_pickle=False) as golden:
            views, expected = golden["views"], golden["embedding"]
        together, alone = self.embed(views), np.concatenate([self.embed(view) for view in views])
        return float(max(np.abs(together - expected).max(), np.abs(alone - expected).max()))

    def _embed(self, views: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [self._run(views[start : start + _CHUNK]) for start in range(0, len(views), _CHUNK)]
        )

    def _run(self, views: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self.manifest["input"]["name"]: views.astype(np.float32)})[0]


def _open_session(path: Path, file: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__} ({reason}): run `python3 -m pip "
            "install --upgrade onnxruntime`"
        ) from None


def read_prompts(path: Path) -> dict[str, list[str]]:
    """A JSON file {expression: [sentence, ...]}. Raises ValueError when it is anything else."""
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): give a JSON file with sentences for each expression"
        ) from None
    except ValueError as error:
        raise ValueError(
            f'{path} is not JSON ({error}): write {{"smile": ["a smiling face"], ...}}'
        ) from None
    if (
        not isinstance(prompts, dict)
        or len(prompts) < 2
        or not all(
            isinstance(group, list) and group and all(isinstance(sentence, str) for sentence in group)
            for group in prompts.values()
        )
    ):
        raise ValueError(
            f"{path} does not hold sentences for two or more expressions: write "
            '{"smile": ["a smiling face"], "rest": ["a face at rest"]}'
        )
    return prompts
