"""The frozen text side: the same everywhere, compositional, one sentence set for each expression."""

import numpy as np
import pytest

from smile.config import ModelConfig
from smile.labels import VOCABULARY, expression
from smile.prompts import PROMPTS, bank_hash
from smile.text import class_embeddings, prompt_embeddings, word_embedding


def test_the_bank_covers_the_vocabulary() -> None:
    assert tuple(PROMPTS) == VOCABULARY
    assert all(len(set(sentences)) >= 8 for sentences in PROMPTS.values())
    words = " ".join(" ".join(sentences) for sentences in PROMPTS.values()).split()
    assert not {"man", "woman", "old", "young", "male", "female", "boy", "girl"} & set(words)


def test_the_bank_has_one_hash() -> None:
    assert bank_hash() == bank_hash() != bank_hash({**PROMPTS, "anger": ("a cross face",)})


def test_words_are_unit_vectors_fixed_for_ever() -> None:
    found = word_embedding(["a happy face", "raised brows"], 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    # A change here means that every trained model reads other words.
    np.testing.assert_allclose(found[0, :3], word_embedding(["a happy face"], 16)[0, :3])


def test_sentences_that_share_words_are_near() -> None:
    a, b, c = word_embedding(["raised brows and open mouth", "open mouth", "wrinkled nose"], 512)
    assert a @ b > 0.5 > abs(a @ c) + 0.2


def test_class_prototypes_are_far_apart() -> None:
    prototypes = class_embeddings(prompt_embeddings(ModelConfig()))
    assert prototypes.shape == (10, 128)
    similarity = prototypes @ prototypes.T - np.eye(10)
    assert similarity.max() < 0.5


def test_a_sentence_without_content_is_refused() -> None:
    with pytest.raises(ValueError, match="no content word"):
        word_embedding(["a face of the person"], 8)


@pytest.mark.parametrize(
    ("word", "name"), [("Angry", "anger"), ("HAPPY", "happiness"), ("AN", "anger"), ("NE", "neutral")]
)
def test_spellings(word: str, name: str) -> None:
    assert expression(word) == name


def test_an_unknown_expression_is_named() -> None:
    with pytest.raises(ValueError, match="'bored'"):
        expression("bored")
