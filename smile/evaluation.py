"""How good an encoder is on people nobody trained on: linear probe, k-NN, zero-shot, few-shot, fine-tuning.

n captures, s sequences (or other units of decision), W tower width, D joint embedding, K classes, C yes/no questions.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import SmileConfig

if TYPE_CHECKING:
    from torch import nn

    from .model import SmileModel
    from .training import Captures


def encode(
    model: "SmileModel",
    captures: "Captures",
    rows: np.ndarray,
    config: SmileConfig,
    *,
    batch: int = 128,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """rows (n,) -> features (n, W) and fused embeddings (n, D), float32."""
    import torch

    from .model import present

    model.to(device).eval()
    features, fused = [], []
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            found = captures.gather(rows[start : start + batch], config.model.modalities)
            views = torch.from_numpy(found).to(device).float()
            there = present(views)
            encoding = model(views, None if bool(there.all()) else there)
            features.append(encoding.features.cpu().numpy())
            fused.append(encoding.fused.cpu().numpy())
    return np.concatenate(features), np.concatenate(fused)


def per_sequence(values: np.ndarray, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each sequence's frames: (n, W), (n,) -> (s, W) and the row (s,) where each sequence starts."""
    _, first, member = np.unique(sequences, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), values.shape[1]))
    np.add.at(sums, member, values)
    return sums / np.bincount(member)[:, None], first


def sequence_embeddings(
    model: "SmileModel", fused: np.ndarray, times: np.ndarray, sequences: np.ndarray
) -> np.ndarray:
    """Fused embeddings (n, D), times (n,), sequences (n,) -> (s, D): by the model's temporal pool where it was trained with
    one (`training.frames` above 1), else the mean of the frames at length 1."""
    if "pool" not in model.heads:
        return per_sequence(unit(fused), sequences)[0]
    import torch

    from .temporal import by_sequence

    pool, device = model.heads["pool"], model.logit_scale.device
    with torch.inference_mode():
        frames, when, mask, _ = by_sequence(
            torch.from_numpy(fused).to(device),
            torch.from_numpy(np.asarray(sequences, np.int64)).to(device),
            torch.from_numpy(np.asarray(times, np.float32)).to(device),
        )
        found: np.ndarray = pool(frames, when, mask).cpu().numpy()
    return found


def evaluate(
    model: "SmileModel",
    captures: "Captures",
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
    from .sentences import class_prototypes

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
    test_z = sequence_embeddings(model, fused[len(train) :], captures.times[test], captures.sequences[test])
    classes = np.unique(test_y)
    answers = {
        "linear_probe": linear_probe(train_x, train_y, test_x),
        "knn": nearest_neighbours(train_x, train_y, test_x),
        "zero_shot": classes[zero_shot(test_z, class_prototypes(config, classes.tolist()))],
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


def linear_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, *, balanced: bool = False
) -> np.ndarray:
    """Logistic regression on standardised frozen features; (s, W) -> predicted labels (s,).

    balanced: each class weighs the same, for questions whose "yes" is rare.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_y)) == 1:
        return np.full(len(test_x), train_y[0])
    weight = "balanced" if balanced else None
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight=weight))
    return probe.fit(train_x, train_y).predict(test_x)


def nearest_neighbours(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, *, k: int = 5
) -> np.ndarray:
    """Majority of the k training sequences nearest by cosine; (s, W) -> predicted labels (s,)."""
    from sklearn.neighbors import KNeighborsClassifier

    mean = train_x.mean(axis=0)
    model = KNeighborsClassifier(n_neighbors=min(k, len(train_x)), metric="cosine")
    return model.fit(train_x - mean, train_y).predict(test_x - mean)


def each_question(
    method: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
) -> np.ndarray:
    """One `method` for each yes/no question: train_y (s, C) of 0, 1, NaN = not coded -> answers (s, C) of 0 and 1.

    What is not coded is left out of the fit, never taken for "no"; a question without any code is answered "no".
    """
    answers = np.zeros((len(test_x), train_y.shape[1]), np.int64)
    for column, codes in enumerate(train_y.T):
        coded = np.isfinite(codes)
        if coded.any():
            answers[:, column] = method(train_x[coded], codes[coded].astype(int), test_x)
    return answers


def zero_shot(embeddings: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """The class whose sentences are nearest; (s, D), (K, D) -> places (s,). No label of any site is used here."""
    return (embeddings @ prototypes.T).argmax(axis=1)


def few_shot(
    train_x: np.ndarray,
    train_y: np.ndarray,
    people: np.ndarray,
    test_x: np.ndarray,
    *,
    shots: int,
    draws: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Linear probe on `shots` labelled sequences of each class, drawn `draws` times: (draws, s) predicted labels.

    people: (s,) of the training sequences. The sequences of a class are of as many people as there are: one of each
    before a second one of any.
    """
    rng = np.random.default_rng(seed)
    answers = []
    for _ in range(draws):
        chosen: list[int] = []
        for name in np.unique(train_y):
            places = rng.permutation(np.flatnonzero(train_y == name))
            turn = [int((people[places[:i]] == people[place]).sum()) for i, place in enumerate(places)]
            chosen += places[np.argsort(turn, kind="stable")][:shots].tolist()
        answers.append(linear_probe(train_x[chosen], train_y[chosen], test_x))
    return np.stack(answers)


def pretrain(
    captures: "Captures", config: SmileConfig, *, rows: np.ndarray, device: str = "cpu"
) -> "SmileModel":
    """A new model, trained on `rows` (m,) for all rounds of the study on one machine."""
    from .model import build_model
    from .state import State
    from .training import train

    model = build_model(config)
    state = State(model, config.training, device=device)
    for index in range(config.federation.rounds):
        first = index * config.training.local_steps
        train(model, captures, config, rows=rows, first_step=first, device=device, state=state)
    state.finish()
    return model


def fine_tune(
    model: "SmileModel",
    captures: "Captures",
    config: SmileConfig,
    *,
    rows: np.ndarray,
    targets: np.ndarray,
    steps: int,
    device: str = "cpu",
) -> "nn.Linear":
    """Train tower and a new head on labels, in place, by cross-entropy, for `steps` steps; returns the head (W -> K).

    rows: (m,) int; targets: (m,) int, the class of each. Rate, batches, augmentation and what of the tower is trained
    are those of the study.
    """
    import torch
    from torch import nn

    from .augment import augment
    from .loader import Order, random_seed
    from .model import present
    from .training import schedule
    from .tuning import decay_groups

    settings = config.training
    frames = min(settings.frames, len(rows))
    order = Order(
        np.arange(len(rows)),
        captures.sequences[rows],
        size=settings.batch_size,
        frames=frames,
        seed=settings.seed,
    )
    model.to(device).train()
    with torch.random.fork_rng():
        torch.manual_seed(random_seed(settings.seed, 2))
        head = nn.Linear(model.width, int(targets.max()) + 1).to(device)
        trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
        optimiser = torch.optim.AdamW(decay_groups(trained, settings.weight_decay))
        for step in range(steps):
            batch = order[step]
            views = torch.from_numpy(captures.gather(rows[batch], config.model.modalities)).to(device)
            views = augment(views, config, torch.Generator().manual_seed(random_seed(settings.seed, 1, step)))
            there = present(views)
            features = model(views, None if bool(there.all()) else there).features
            loss = nn.functional.cross_entropy(head(features), torch.from_numpy(targets[batch]).to(device))
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * schedule(step, steps, settings.warm_up)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, settings.clip)
            optimiser.step()
    model.eval()
    return head


def head_answers(head: "nn.Linear", features: np.ndarray) -> np.ndarray:
    """The classes that a fine-tuned head gives, (s, W) -> places (s,)."""
    weight, bias = head.weight.detach().cpu().numpy(), head.bias.detach().cpu().numpy()
    return (features @ weight.T + bias).argmax(axis=1)


def confusion(truth: np.ndarray, answer: np.ndarray, classes: np.ndarray) -> list[list[int]]:
    """Counts, row = true class, column = answer; answers outside `classes` are left out."""
    return [[int(((truth == t) & (answer == a)).sum()) for a in classes] for t in classes]


def unit(x: np.ndarray) -> np.ndarray:
    """Rows (s, D) at length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
