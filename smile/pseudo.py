"""Labels made up from the model itself, for the prompt source `pseudo`: clusters, named by balanced similarity to text.

m captures, D joint embedding, K classes. In the manner of MultiviewVLM (second-hand: docs/method.md), reconstructed.
"""

from typing import TYPE_CHECKING

import numpy as np

from .config import SmileConfig
from .labels import EXPRESSIONS
from .prompts import PROMPTS
from .text import class_embeddings, prompt_embeddings

if TYPE_CHECKING:
    from .model import SmileModel
    from .training import Captures

TEMPERATURE = 0.05  # of the balanced assignment
ITERATIONS = 50


def assign(captures: "Captures", config: SmileConfig, rows: np.ndarray, model: "SmileModel") -> np.ndarray:
    """rows (m,) int -> (m,) str, one of the seven basic expressions for each capture; no label is read.

    1. k-means of the fused embeddings, K clusters: what looks alike is called alike.
    2. Each capture's unit embedding less the mean of all of them, over the mean length of these differences, times the unit
       class prototypes: a cosine but for each capture's own length, so one near the mean says little. Made balanced over all
       captures by `sinkhorn` at TEMPERATURE: no class takes everything.
    3. Each cluster gets the name with the most of its captures' balanced share, each name once.

    What it is worth: a model that was never trained on text has embeddings with no relation to it, so the *names* are
    arbitrary, and clusters of faces tend to be people or scanners rather than expressions. A zero-shot figure means
    something only with a pretrained tower; without one this is the baseline that `geometry` has to beat.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    from .evaluation import encode

    device = str(next(model.parameters()).device)
    training = model.training
    _, fused = encode(model, captures, rows, config, device=device)
    model.train(training)
    z = fused / np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), 1e-12)
    z = z - z.mean(axis=0)  # what all faces share names none of them
    prototypes = class_embeddings(
        prompt_embeddings(config.model, {name: PROMPTS[name] for name in EXPRESSIONS})
    )
    count = min(len(EXPRESSIONS), len(np.unique(z, axis=0)))
    clusters = KMeans(count, n_init=4, random_state=config.training.seed).fit_predict(z)
    size = max(float(np.linalg.norm(z, axis=1).mean()), 1e-12)
    shares = sinkhorn(z / size @ prototypes.T, temperature=TEMPERATURE)
    votes = np.stack([shares[clusters == cluster].sum(axis=0) for cluster in range(count)])
    cluster, name = linear_sum_assignment(-votes)
    names = np.empty(count, dtype=object)
    names[cluster] = np.array(EXPRESSIONS, dtype=object)[name]
    return names[clusters].astype(str)


def sinkhorn(similarity: np.ndarray, *, temperature: float) -> np.ndarray:
    """(m, K) similarities -> (m, K) shares: each row sums to 1, each column to m / K (Sinkhorn & Knopp 1967).

    In logarithms, so that no temperature overflows; the rows are exact, the columns after `ITERATIONS` nearly.
    """
    from scipy.special import logsumexp

    shares = similarity.astype(np.float64) / temperature
    target = np.log(len(shares) / shares.shape[1])
    for _ in range(ITERATIONS):
        shares = shares - logsumexp(shares, axis=0, keepdims=True) + target
        shares = shares - logsumexp(shares, axis=1, keepdims=True)
    return np.exp(shares)
