"""The frozen text side: sentences -> unit vectors, the same at every site, never trained and never sent.

P sentences, D embedding.
"""

import hashlib
import re
from functools import lru_cache
from typing import Any

import numpy as np

from .config import ModelConfig
from .facs import GRADES, SCALES
from .prompts import PROMPTS

# fmt: off
_STOP_WORDS = frozenset((
    "a", "an", "and", "at", "by", "can", "drawn", "expression", "face", "in", "is", "looking", "of", "on", "person", "pulled",
    "showing", "that", "the", "to", "with",
))
# fmt: on
_POLES = {
    word: (ends[0][0], sign)
    for ends in SCALES
    for sign, words in zip((1, -1), ends, strict=True)
    for word in words
}
_TOPIC = 0.5  # weight of what a phrase is about, beside what it says of it


def embed(sentences: list[str] | tuple[str, ...], model: ModelConfig) -> np.ndarray:
    """Sentences -> (P, D) float32 of unit length, computed once for each list and model.

    With pretrained weights: open_clip's own text tower. Without: `phrase_embedding`, because the text tower of a
    randomly initialised CLIP puts all sentences within a few degrees of each other.
    """
    if model.pretrained:
        return _open_clip_embedding(tuple(sentences), model.tower, model.pretrained).copy()
    return phrase_embedding(tuple(sentences), model.dim).copy()


def text_width(model: ModelConfig) -> int:
    """D of `embed`, without loading any weights."""
    if not model.pretrained:
        return model.dim
    import open_clip

    settings: Any = open_clip.get_model_config(model.tower)
    return int(settings["embed_dim"])


@lru_cache(maxsize=32)
def phrase_embedding(sentences: tuple[str, ...], dim: int) -> np.ndarray:
    """Sum of the unit vectors of a sentence's phrases, (P, dim) float32 of unit length; do not write into it.

    Commas, semicolons and "and" part phrases, and their order does not matter. A phrase is the sum of
    - its *statement*: words of a scale ("raised", "lowered": `smile.facs.SCALES`) are one direction with a sign, bound to
      each word that they are said of, and to all of them together, by flipping signs with those words' directions. So
      "brows raised" is the opposite of "brows lowered", says nothing of "lip corners raised", and is near to "inner brows
      raised"; "brows raised, lip corners lowered" is not "brows lowered, lip corners raised".
    - half of its *topic*: the directions of its other words.
    Directions are Gaussian, drawn from the SHA-256 of a word; two that have nothing in common have a cosine of
    1 / sqrt(dim) or so.

    Compositional but not a language model: it knows no synonyms beyond the few of the scales, no grammar, no negation and
    nothing of the world. "A happy face" is as far from "lip corners raised" as from "lip corners lowered".
    Raises ValueError for a sentence without a single content word, or whose phrases cancel each other out.
    """
    matrix = np.asarray([_sentence(sentence, dim) for sentence in sentences]).reshape(-1, dim)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    for sentence, length in zip(sentences, lengths, strict=True):
        if length < 1e-9:
            raise ValueError(f"prompt {sentence!r} says a thing and its opposite: write what the face shows")
    return (matrix / lengths).astype(np.float32)


def _sentence(sentence: str, dim: int) -> np.ndarray:
    phrases = [
        tuple(word for word in re.findall(r"[a-z]+", phrase) if word not in _STOP_WORDS)
        for phrase in re.split(r"[,;]|\band\b", sentence.lower())
    ]
    if not any(phrases):
        raise ValueError(f"prompt {sentence!r} has no content word: write what the face shows")
    return np.sum([_phrase(phrase, dim) for phrase in phrases if phrase], axis=0)


@lru_cache(maxsize=4096)
def _phrase(words: tuple[str, ...], dim: int) -> np.ndarray:
    things = [word for word in words if word not in _POLES and word not in GRADES]
    topic = _unit(np.sum([np.zeros(dim), *(_direction(w, dim) for w in words if w not in _POLES)], axis=0))
    said = [_POLES[word] for word in words if word in _POLES]
    if not said:
        return topic
    flips = [np.sign(_direction(thing, dim)) for thing in things]
    if len(flips) != 1:  # all of them together; of nothing: the bare statement
        flips.append(np.prod([np.ones(dim), *flips], axis=0))
    statement = np.sum(flips, axis=0) * np.sum([sign * _direction(pole, dim) for pole, sign in said], axis=0)
    return max([1.0, *(GRADES.get(word, 1.0) for word in words)]) * _unit(_unit(statement) + _TOPIC * topic)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


@lru_cache(maxsize=4096)
def _direction(word: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return _unit(np.random.Generator(np.random.PCG64(seed)).standard_normal(dim))


@lru_cache(maxsize=8)
def _open_clip_embedding(sentences: tuple[str, ...], tower: str, pretrained: str) -> np.ndarray:
    import torch

    clip, tokenizer = _open_clip_text(tower, pretrained)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(sentences), 256):
            tokens = tokenizer(list(sentences[start : start + 256]))
            parts.append(clip.encode_text(tokens, normalize=True).float().numpy())
    return np.concatenate(parts)


@lru_cache(maxsize=1)
def _open_clip_text(tower: str, pretrained: str) -> tuple[Any, Any]:
    """The text half of a CLIP and its tokenizer; the image half is let go."""
    import open_clip
    import torch

    clip = open_clip.create_model(tower, pretrained=pretrained).eval()
    clip.visual = torch.nn.Identity()
    return clip, open_clip.get_tokenizer(tower)


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
