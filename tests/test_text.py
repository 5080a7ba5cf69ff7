"""The frozen text side: the same everywhere, compositional, one sentence set for each expression."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from smile import prompts
from smile.config import ModelConfig, ObjectiveConfig, SmileConfig
from smile.facs import DEFINITIONS
from smile.labels import VOCABULARY, expression
from smile.prompts import PROMPTS, bank_hash, prompts_for
from smile.text import class_embeddings, embed, phrase_embedding, prompt_embeddings

KNOWN = [
    [0.19030579924583435, -0.31065741181373596, -0.14659710228443146],
    [0.14639240503311157, 0.13456909358501434, -0.10446789860725403],
]  # of the phrases below, 16 dimensions


def test_the_bank_covers_the_vocabulary() -> None:
    assert tuple(PROMPTS) == VOCABULARY
    assert all(len(set(sentences)) >= 8 for sentences in PROMPTS.values())
    words = " ".join(" ".join(sentences) for sentences in PROMPTS.values()).split()
    assert not {"man", "woman", "old", "young", "male", "female", "boy", "girl"} & set(words)


def test_the_bank_has_one_hash() -> None:
    assert bank_hash() == bank_hash() != bank_hash({**PROMPTS, "anger": ("a cross face",)})


def test_the_hash_covers_the_phrases_of_captions(monkeypatch) -> None:
    before = bank_hash()
    monkeypatch.setattr(prompts, "PHRASES", prompts.PHRASES[1:])
    assert bank_hash() != before


def test_phrases_are_unit_vectors_fixed_for_ever() -> None:
    found = phrase_embedding(("a happy face", "raised brows"), 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    # A change here means that every trained model reads other words.
    np.testing.assert_allclose(found[:, :3], KNOWN, atol=1e-6)


def cosine(a: str, b: str) -> float:
    x, y = phrase_embedding((a, b), 2048)
    return float(x @ y)


def test_sentences_that_share_phrases_are_near() -> None:
    assert (
        cosine("raised brows and open mouth", "open mouth")
        > 0.6
        > abs(cosine("raised brows and open mouth", "wrinkled nose")) + 0.5
    )


def test_neither_the_order_of_words_nor_of_phrases_matters() -> None:
    assert cosine("raised brows, open mouth", "mouth open and brows raised") == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [("raised", "lowered"), ("open", "closed"), ("open", "narrowed"), ("stretched", "tightened")],
)
def test_opposites_point_away(one: str, other: str) -> None:
    assert cosine(f"lips {one}", f"lips {other}") < -0.3
    assert cosine(f"lips {one}, face at rest", f"lips {other}, face at rest") < 0.5


def test_what_is_said_belongs_to_what_it_is_said_of() -> None:
    assert cosine("brows raised, lip corners lowered", "brows lowered, lip corners raised") < -0.3
    assert abs(cosine("brows raised", "cheeks raised")) < 0.1


def test_grades_are_near_and_parts_are_related() -> None:
    assert 0.85 < cosine("mouth open", "mouth wide open") < 0.99
    assert 0.85 < cosine("inner brows raised", "inner brows strongly raised") < 0.99
    assert 0.4 < cosine("brows raised", "inner brows raised") < 0.8
    assert 0.1 < cosine("outer brows raised", "inner brows raised") < 0.6


def test_a_strong_phrase_weighs_more() -> None:
    both = "nose strongly wrinkled, mouth open"
    assert cosine(both, "nose wrinkled") > cosine(both, "mouth open") + 0.1


def test_embeddings_are_computed_once_and_safe_to_change() -> None:
    model = ModelConfig(dim=32)
    first = embed(["brows raised"], model)
    hits = phrase_embedding.cache_info().hits
    again = embed(["brows raised"], model)
    assert phrase_embedding.cache_info().hits == hits + 1
    again[:] = 0
    np.testing.assert_array_equal(embed(["brows raised"], model), first)


def test_an_open_clip_text_tower_is_built_once(monkeypatch) -> None:
    import torch

    class Clip(torch.nn.Module):
        visual = None
        built = 0

        def encode_text(self, tokens, *, normalize):
            assert normalize
            return torch.nn.functional.normalize(tokens.float(), dim=1)

    def create(name, *, pretrained):
        Clip.built += 1
        return Clip()

    def tokenizer(name):
        return lambda texts: torch.tensor([[len(text), 1] for text in texts])

    library = SimpleNamespace(create_model=create, get_tokenizer=tokenizer)
    monkeypatch.setitem(sys.modules, "open_clip", library)
    model = ModelConfig(tower="imaginary-tower", pretrained="nowhere")
    first = embed(["a happy face"] * 300, model)  # more than one batch
    embed(["another face"], model)
    assert first.shape == (300, 2) and Clip.built == 1


def test_class_prototypes_are_far_apart() -> None:
    prototypes = class_embeddings(prompt_embeddings(ModelConfig()))
    assert prototypes.shape == (10, 128)
    similarity = prototypes @ prototypes.T - np.eye(10)
    assert similarity.max() < 0.5


def test_a_sentence_without_content_is_refused() -> None:
    with pytest.raises(ValueError, match="no content word"):
        phrase_embedding(("a face of the person",), 8)


@pytest.mark.parametrize("sentence", ["raised, lowered", "open closed", "up and down"])
def test_a_sentence_that_says_a_thing_and_its_opposite_is_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match=f"{sentence}.*opposite"):
        phrase_embedding(("brows raised", sentence), 16)


@pytest.mark.parametrize(
    ("word", "name"), [("Angry", "anger"), ("HAPPY", "happiness"), ("AN", "anger"), ("NE", "neutral")]
)
def test_spellings(word: str, name: str) -> None:
    assert expression(word) == name


def test_an_unknown_expression_is_named() -> None:
    with pytest.raises(ValueError, match="'bored'"):
        expression("bored")


def test_captions_are_read_by_definitions() -> None:
    assert prompts_for(SmileConfig()) is PROMPTS
    assert prompts_for(SmileConfig(objective=ObjectiveConfig(prompt_source="geometry"))) is DEFINITIONS
