"""Where the sentence of a capture comes from, and the labels that are made up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smile.config import ModelConfig, ObjectiveConfig, SmileConfig
from smile.facs import DEFINITIONS, PHRASES
from smile.labels import EXPRESSIONS
from smile.measurements import MEASUREMENTS
from smile.prompts import PROMPTS
from smile.pseudo import assign, sinkhorn
from smile.sentences import CHANGES, _source, changes, class_prototypes, sentence_source
from smile.text import class_embeddings, phrase_embedding

COUNT = 8
LABELS = np.array(["anger", "", "fear", "anger", "sadness", "fear", "", "neutral"])


def captures() -> SimpleNamespace:
    """Four people with a sequence of two frames each: rest, then a wide open mouth, or raised and lowered brows."""
    geometry = {name: np.full(COUNT, 40.0) for name in MEASUREMENTS}
    geometry["mouth_opening"][[1, 3]] = 60.0
    geometry["inner_brow_height"][5] = 46.0
    geometry["inner_brow_height"][7] = 34.0
    return SimpleNamespace(
        subjects=np.array(list("aabbccdd")),
        labels=LABELS,
        sequences=np.repeat(np.arange(4), 2),
        times=np.tile([0.0, 0.5], 4).astype(np.float32),
        geometry=geometry,
        rest={name: np.full(COUNT, 40.0) for name in MEASUREMENTS},
    )


def config(source: str, **objective: float) -> SmileConfig:
    return SmileConfig(
        model=ModelConfig(dim=64),
        objective=ObjectiveConfig(prompt_source=source, **objective),  # type: ignore[arg-type]
    )


def draw(source, rows, seed: int = 0):
    return source(np.array(rows), torch.Generator().manual_seed(seed))


EVERYBODY = np.arange(COUNT)


def test_the_sentences_of_what_a_batch_lacks_are_those_of_zero_shot_in_the_order_of_the_classes() -> None:
    asked = config("label")
    source = sentence_source(captures(), asked, EVERYBODY)
    assert source.expressions is not None
    found = torch.nn.functional.normalize(source.expressions, dim=1)
    np.testing.assert_allclose(found, class_prototypes(asked, list(EXPRESSIONS)), atol=1e-6)
    classes = source.classes[EVERYBODY].tolist()
    assert [EXPRESSIONS[k] if k >= 0 else "" for k in classes] == LABELS.tolist()
    for other in (config("label", contrast="batch"), config("geometry"), config("none")):
        assert sentence_source(captures(), other, EVERYBODY).expressions is None


def test_a_label_draws_from_its_bank() -> None:
    source = sentence_source(captures(), config("label"), EVERYBODY)
    text, classes, negatives = draw(source, [0, 1, 2, 3])
    assert (text.dtype, classes.dtype, negatives) == (torch.float32, torch.int64, None)
    assert classes[1] == -1 and classes[0] == classes[3] != classes[2]
    bank = torch.from_numpy(phrase_embedding(PROMPTS["anger"], 64))
    drawn = {int((draw(source, [0], seed)[0] @ bank.T).argmax()) for seed in range(60)}
    assert drawn == set(range(len(PROMPTS["anger"])))
    np.testing.assert_allclose(text.norm(dim=1), [1, 0, 1, 1], atol=1e-6)


def test_the_generator_decides() -> None:
    source = sentence_source(captures(), config("geometry"), EVERYBODY)
    assert torch.equal(draw(source, EVERYBODY)[0], draw(source, EVERYBODY)[0])


def test_only_the_rows_given_get_a_sentence() -> None:
    for name in ("label", "geometry"):
        _, classes, _ = draw(sentence_source(captures(), config(name), np.array([0, 3])), EVERYBODY)
        assert (classes >= 0).tolist() == [True, False, False, True, False, False, False, False]


def test_none_says_nothing() -> None:
    text, classes, negatives = draw(
        sentence_source(captures(), config("none", critic=1.0), EVERYBODY), [0, 1]
    )
    assert classes.tolist() == [-1, -1] and not text.any()
    assert negatives is not None and negatives.shape == (2, CHANGES, 64) and not negatives.any()


def test_geometry_never_looks_at_labels() -> None:
    site = captures()
    del site.labels
    text, classes, _ = draw(sentence_source(site, config("geometry"), EVERYBODY), EVERYBODY)
    assert classes[1] == classes[3] and classes[0] == classes[2] == classes[4] == classes[6]
    assert len({int(k) for k in classes}) == 4
    wide_open = torch.from_numpy(phrase_embedding(("mouth wide open",), 64))[0]
    assert text[1] @ wide_open > 0.99
    assert text[5] @ text[7] < -0.3  # brows raised, brows lowered


def test_captions_come_in_several_wordings() -> None:
    site = captures()
    for name in ("eye_opening", "jaw_drop", "mouth_width"):
        site.geometry[name][1] = 60.0
    source = sentence_source(site, config("geometry"), EVERYBODY)
    drawn = torch.cat([draw(source, [1], seed)[0] for seed in range(40)])
    likeness = drawn @ drawn.T
    assert likeness.min() < 0.99 and likeness.min() > 0.1
    assert len({int(draw(source, [1], seed)[1]) for seed in range(5)}) == 1


def test_a_site_without_measurements_is_told() -> None:
    site = captures()
    site.geometry = {name: np.full(COUNT, np.nan) for name in MEASUREMENTS}
    with pytest.raises(ValueError, match=r"objective\.prompt-source = geometry"):
        sentence_source(site, config("geometry"), EVERYBODY)


def test_changes_turn_one_fact_round() -> None:
    assert changes("inner brows raised, mouth wide open") == [
        "inner brows lowered, mouth wide open",
        "inner brows raised, mouth closed",
    ]
    for sentence in (
        "a happy face",
        "a face that looks down on someone",
        "a closed relaxed mouth",
        "one lip corner tightened and dimpled",
    ):
        assert changes(sentence) == []
    assert changes("raised tense brows, wide eyes and an open mouth") == [
        "raised tense brows, wide eyes and closed mouth"
    ]
    assert all(len(changes(phrase.text)) == 1 for phrase in PHRASES)


def test_a_sentence_is_never_its_own_falsehood() -> None:
    settings = config("label", critic=1.0)
    found = _source(np.array([0, 1, 2]), [("face at rest",), ("face at rest",), ("mouth open",)], settings)
    assert found.changed is not None
    assert (torch.einsum("sd,skd->sk", found.text[:2], found.text[found.changed]) < 0.99).all()


@pytest.mark.parametrize("name", ["label", "geometry"])
def test_the_critic_gets_false_sentences(name: str) -> None:
    source = sentence_source(captures(), config(name, critic=1.0), EVERYBODY)
    rows = [0, 2, 4, 5, 7]
    for seed in range(10):
        text, _, negatives = draw(source, rows, seed)
        assert negatives is not None and negatives.shape == (5, CHANGES, 64)
        np.testing.assert_allclose(negatives.norm(dim=2), 1, atol=1e-6)
        assert torch.einsum("bd,bkd->bk", text, negatives).max() < 0.99


def test_prototypes_follow_the_source() -> None:
    names = ["fear", "anger"]
    for source, bank in (("geometry", DEFINITIONS), ("label", PROMPTS), ("none", PROMPTS)):
        groups = {name: phrase_embedding(bank[name], 64) for name in names}
        np.testing.assert_allclose(class_prototypes(config(source), names), class_embeddings(groups))


def test_balanced_shares() -> None:
    similarity = np.random.default_rng(0).normal(size=(60, 5)) + np.array([3, 0, 0, 0, 0])
    shares = sinkhorn(similarity, temperature=0.5)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares.sum(axis=0), 12, rtol=1e-3)
    assert np.isfinite(sinkhorn(1000 * similarity, temperature=1e-3)).all()


def test_pseudo_labels_of_embeddings_that_match_text(monkeypatch) -> None:
    """Captures that lie round the prototypes get their names back; which rows are given changes nothing else."""
    truth = np.repeat(EXPRESSIONS, 6)
    random = np.random.default_rng(0)
    rows = random.permutation(len(truth))
    prototypes = dict(zip(EXPRESSIONS, class_prototypes(config("pseudo"), list(EXPRESSIONS)), strict=True))
    z = np.stack([prototypes[name] for name in truth]) + 0.03 * random.normal(size=(len(truth), 64))
    monkeypatch.setattr("smile.evaluation.encode", lambda model, captures, rows, config, **_: (None, z[rows]))
    model = torch.nn.Linear(2, 2)
    site = SimpleNamespace(subjects=truth)
    found = assign(site, config("pseudo"), rows, model)  # type: ignore[arg-type]
    assert (found == truth[rows]).mean() > 0.9
    source = sentence_source(site, config("pseudo"), rows[:30], model=model)  # type: ignore[arg-type]
    _, classes, _ = draw(source, np.arange(len(truth)))
    assert set(np.flatnonzero(classes >= 0)) == set(rows[:30])
    assert model.training
