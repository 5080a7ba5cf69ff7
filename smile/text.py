"""The frozen text side: sentences -> unit vectors, the same at every site, never trained and never sent.

P sentences, D embedding.
"""

import hashlib
import re

import numpy as np

from .config import ModelConfig
from .prompts import PROMPTS

_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "by",
        "can",
        "face",
        "in",
        "is",
        "of",
        "on",
        "person",
        "showing",
        "that",
        "the",
        "to",
        "with",
        "looking",
        "expression",
    ]
)


def embed(sentences: list[str], model: ModelConfig) -> np.ndarray:
    """Sentences -> (P, D) float32 of unit length.

    With pretrained weights: open_clip's own text tower. Without: `word_embedding`, because the text tower of a
    randomly initialised CLIP puts all sentences within a few degrees of each other.
    """
    if model.pretrained:
        return _open_clip_embedding(sentences, model)
    return word_embedding(sentences, model.dim)


def word_embedding(sentences: list[str], dim: int) -> np.ndarray:
    """Bag of content words, each a fixed Gaussian direction drawn from the word's SHA-256: (P, dim) float32.

    Compositional (sentences that share words are near) but not a language model: it knows no synonyms.
    Raises ValueError for a sentence without a single content word.
    """
    rows = []
    for sentence in sentences:
        words = [word for word in re.findall(r"[a-z]+", sentence.lower()) if word not in _STOP_WORDS]
        if not words:
            raise ValueError(f"prompt {sentence!r} has no content word: write what the face shows")
        rows.append(np.sum([_direction(word, dim) for word in words], axis=0))
    matrix = np.asarray(rows)
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def _direction(word: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(dim)


def _open_clip_embedding(sentences: list[str], model: ModelConfig) -> np.ndarray:
    import open_clip
    import torch

    clip = open_clip.create_model(model.tower, pretrained=model.pretrained).eval()
    with torch.inference_mode():
        features = clip.encode_text(open_clip.get_tokenizer(model.tower)(sentences), normalize=True)
    return features.float().numpy()


def prompt_embeddings(
    model: ModelConfig, prompts: dict[str, tuple[str, ...]] = PROMPTS
) -> dict[str, np.ndarray]:
    """Expression -> (P, D) float32, the embeddings of its sentences."""
    sentences = [sentence for group in prompts.values() for sentence in group]
    matrix, start, result = embed(sentences, model), 0, {}
    for name, group in prompts.items():
        result[name] = matrix[start : start + len(group)]
        start += len(group)
    return result


def class_embeddings(embeddings: dict[str, np.ndarray]) -> np.ndarray:
    """Class prototypes: the normalised mean of each expression's sentences, (K, D) float32, in dict order."""
    means = np.stack([group.mean(axis=0) for group in embeddings.values()])
    return means / np.linalg.norm(means, axis=1, keepdims=True)
