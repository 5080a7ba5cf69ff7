"""How good an encoder is on people nobody trained on: linear probe, k-NN, zero-shot. Returns plain dicts.

n captures, s sequences, W tower width, D joint embedding, K classes.
"""

from typing import Any

import numpy as np

from .config import SmileConfig
from .model import SmileModel
from .text import class_embeddings, prompt_embeddings
from .training import Captures


def encode(
    model: SmileModel,
    captures: Captures,
    rows: np.ndarray,
    config: SmileConfig,
    *,
    batch: int = 128,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """rows (n,) -> features (n, W) and fused embeddings (n, D), float32."""
    import torch

    model.to(device).eval()
    features, fused = [], []
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            views = torch.from_numpy(captures.gather(rows[start : start + batch], config.model.modalities))
            encoding = model(views.to(device).float())
            features.append(encoding.features.cpu().numpy())
            fused.append(encoding.fused.cpu().numpy())
    return np.concatenate(features), np.concatenate(fused)


def per_sequence(values: np.ndarray, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each sequence's frames: (n, W), (n,) -> (s, W) and the row (s,) where each sequence starts."""
    _, first, member = np.unique(sequences, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), values.shape[1]))
    np.add.at(sums, member, values)
    return sums / np.bincount(member)[:, None], first


def evaluate(
    model: SmileModel,
    captures: Captures,
    config: SmileConfig,
    *,
    train: np.ndarray,
    test: np.ndarray,
    device: str = "cpu",
) -> dict[str, Any]:
    """Fit probes on the labelled rows `train`, test them on the rows `test`; one decision a sequence.

    Returns accuracies in [0, 1], chance, the classes, a confusion matrix (true class by row) for each method and
    the numbers of sequences and people behind them. Raises ValueError when a side has no labelled capture.
    """
    labelled = captures.labels != ""
    train, test = train[labelled[train]], test[labelled[test]]
    if len(train) == 0 or len(test) == 0:
        raise ValueError("no labelled captures to evaluate on: hold out labelled subjects (training.holdout)")
    shared = np.intersect1d(captures.subjects[train], captures.subjects[test])
    assert len(shared) == 0, f"{len(shared)} subjects are on both sides of the evaluation"
    features, fused = encode(model, captures, np.concatenate([train, test]), config, device=device)
    train_x, first = per_sequence(features[: len(train)], captures.sequences[train])
    train_y = captures.labels[train][first]
    test_x, first = per_sequence(features[len(train) :], captures.sequences[test])
    test_y = captures.labels[test][first]
    test_z, _ = per_sequence(_unit(fused[len(train) :]), captures.sequences[test])
    classes = np.unique(test_y)
    answers = {
        "linear_probe": linear_probe(train_x, train_y, test_x),
        "knn": nearest_neighbours(train_x, train_y, test_x),
        "zero_shot": zero_shot(test_z, config, classes),
    }
    return {
        **{name: float((answer == test_y).mean()) for name, answer in answers.items()},
        "chance": 1 / len(classes),
        "classes": classes.tolist(),
        "confusion": {name: confusion(test_y, answer, classes) for name, answer in answers.items()},
        "test_sequences": len(test_y),
        "test_subjects": len(np.unique(captures.subjects[test])),
        "train_sequences": len(train_y),
        "train_subjects": len(np.unique(captures.subjects[train])),
    }


def linear_probe(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    """Logistic regression on standardised frozen features; (s, W) -> predicted labels (s,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_y)) == 1:
        return np.full(len(test_x), train_y[0])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return probe.fit(train_x, train_y).predict(test_x)


def nearest_neighbours(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, *, k: int = 5
) -> np.ndarray:
    """Majority of the k training sequences nearest by cosine; (s, W) -> predicted labels (s,)."""
    from sklearn.neighbors import KNeighborsClassifier

    mean = train_x.mean(axis=0)
    model = KNeighborsClassifier(n_neighbors=min(k, len(train_x)), metric="cosine")
    return model.fit(train_x - mean, train_y).predict(test_x - mean)


def zero_shot(embeddings: np.ndarray, config: SmileConfig, classes: np.ndarray) -> np.ndarray:
    """The class whose prompts are nearest; (s, D) -> (s,). No label of any site is used here."""
    bank = prompt_embeddings(config.model)
    prototypes = class_embeddings({name: bank[name] for name in classes.tolist()})
    return classes[(embeddings @ prototypes.T).argmax(axis=1)]


def confusion(truth: np.ndarray, answer: np.ndarray, classes: np.ndarray) -> list[list[int]]:
    """Counts, row = true class, column = answer; answers outside `classes` are left out."""
    return [[int(((truth == t) & (answer == a)).sum()) for a in classes] for t in classes]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
