"""Captions: from millimetres to FACS words, without a label, and the definitions in the same words."""

import numpy as np
import pytest

from smile.captions import describe, rest
from smile.facs import ALMOST, DEFINITIONS, PHRASES, REST
from smile.labels import EXPRESSIONS, VOCABULARY
from smile.measurements import MEASUREMENTS
from smile.text import phrase_embedding


def site(moved: list[dict[str, float]], *, times: list[float] | None = None, people: list[str] | None = None):
    """One person's sequence, at rest in the first frame unless told otherwise: what `describe` takes."""
    count = len(moved)
    geometry = {name: np.array([40.0 + row.get(name, 0.0) for row in moved]) for name in MEASUREMENTS}
    names = np.array(people or ["a"] * count)
    sequences = np.unique(names, return_inverse=True)[1] if times else np.arange(count)
    return geometry, names, sequences, np.array(times or [np.nan] * count)


def test_a_frame_is_told_against_the_onset() -> None:
    moved = [
        {},
        {"inner_brow_height": 3.0, "eye_opening": 4.0, "mouth_opening": 20.0},
        {"mouth_opening": 0.5},
    ]
    found = describe(*site(moved, times=[0.0, 0.5, 1.0]))
    assert found == [REST, "inner brows raised, eyes very wide open, mouth wide open", REST]


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.text)
def test_each_phrase_is_said_from_its_threshold_on(phrase) -> None:
    for sign in (phrase.sign,) if phrase.sign else (-1, 1):
        at, below = (sign * (phrase.mm + off) for off in (1e-6, -1e-6))
        steps = [{}, {phrase.measurement: at}, {phrase.measurement: below}]
        _, said, unsaid = describe(*site(steps, times=[0.0, 0.5, 1.0]))
        assert phrase.text in said.split(", ")
        assert phrase.text not in unsaid.split(", ")


def test_two_slight_phrases_may_be_noise() -> None:
    slight = {"inner_brow_height": 2.5}
    assert describe(*site([{}, slight], times=[0.0, 1.0]))[1] == f"{ALMOST}, inner brows raised"
    strong = {"inner_brow_height": 5.5}
    assert describe(*site([{}, strong], times=[0.0, 1.0]))[1] == "inner brows strongly raised"


def test_rest_without_an_onset_is_shrunk_to_the_site() -> None:
    values = np.array([[0.0], [0.0], [0.0], [9.0]])
    people = np.array(["a", "a", "a", "b"])
    found = rest(values, ["inner_brow_height"], people, np.arange(4), np.full(4, np.nan))
    np.testing.assert_allclose(found.ravel(), [0, 0, 0, (1 * 9 + 3 * 0) / 4])


def test_rest_of_a_one_way_muscle_is_a_quartile() -> None:
    values = np.array([[0.0, 0.0], [4.0, 4.0], [8.0, 8.0], [12.0, 12.0], [16.0, 16.0]])
    names = ["mouth_opening", "brow_gap"]
    found = rest(values, names, np.full(5, "a"), np.arange(5), np.full(5, np.nan))
    np.testing.assert_allclose(found[0], [4, 12])


def test_sequences_of_one_person_share_their_onsets() -> None:
    values = np.array([[1.0], [9.0], [3.0], [9.0]])
    found = rest(
        values, ["jaw_drop"], np.full(4, "a"), np.array([0, 0, 1, 1]), np.array([0.0, 0.5, 0.05, 0.5])
    )
    np.testing.assert_allclose(found, 2.0)


def test_scans_alone_are_not_onsets() -> None:
    """A prepared site gives a scan alone the time 0."""
    values, stills = np.array([[0.0], [0.0], [0.0], [6.0]]), np.arange(4)
    found = rest(values, ["inner_brow_height"], np.full(4, "a"), stills, np.zeros(4))
    np.testing.assert_allclose(found, 0.0)


def test_nothing_is_learnt_from_rows_that_were_not_given() -> None:
    moved = [{"mouth_opening": float(i)} for i in range(8)]
    geometry, people, sequences, times = site(moved, people=list("aabbccdd"))
    rows = np.array([0, 1, 4, 5])
    before = describe(geometry, people, sequences, times, rows)
    others = {name: np.where(np.isin(np.arange(8), rows), v, 1e6) for name, v in geometry.items()}
    assert describe(others, people, sequences, times, rows) == before


def test_unknown_measurements_say_nothing() -> None:
    geometry, *others = site([{}, {"inner_brow_height": 9.0}], times=[0.0, 1.0])
    some = {
        n: v if n in ("inner_brow_height", *MEASUREMENTS[:9]) else v * np.nan for n, v in geometry.items()
    }
    assert describe(some, *others)[1] == "inner brows strongly raised"
    none = {name: v * np.nan for name, v in geometry.items()}
    assert describe(none, *others) == ["", ""]
    with pytest.raises(ValueError, match="prepare the site again"):
        describe({}, *others)


def test_a_noisy_site_needs_more_than_millimetres() -> None:
    random = np.random.default_rng(0)
    geometry, people, sequences, times = site([{} for _ in range(200)])
    noisy = {**geometry, "jaw_drop": 40 + random.normal(0, 20, 200)}
    quiet = {**geometry, "jaw_drop": 40 + random.normal(0, 5, 200)}
    said = [sum("jaw" in c for c in describe(g, people, sequences, times)) for g in (noisy, quiet)]
    shares = np.abs(noisy["jaw_drop"] - 40) > 3.0
    assert said[0] < 0.9 * shares.sum()  # mm alone would have said so
    assert said[1] > 0


def test_definitions_use_the_phrases_of_captions() -> None:
    phrases = {phrase.text for phrase in PHRASES} | {REST}
    assert tuple(DEFINITIONS) == VOCABULARY
    assert {phrase.measurement for phrase in PHRASES} <= set(MEASUREMENTS)
    for sentences in DEFINITIONS.values():
        assert {part for sentence in sentences for part in sentence.split(", ")} <= phrases


def test_simulated_people_are_read_by_the_definitions() -> None:
    """Known landmarks, 1 mm of noise, neutral faces as onsets, no network: the nearest definition is the expression."""
    from simulations.faces import face, perform, sample_identity
    from smile.face_landmarks import own
    from smile.measurements import measure

    random = np.random.default_rng(3)
    rows, people, labels = [], [], []
    for number in range(8):
        who = sample_identity(random)
        for expression in EXPRESSIONS:
            points = face(who, perform(expression, random)).landmarks
            noisy = {name: point + random.normal(0, 1.0, 3) for name, point in points.items()}
            rows.append(measure(own(noisy)))
            people.append(number)
            labels.append(expression)
    geometry = {name: np.array([row[name] for row in rows]) for name in MEASUREMENTS}
    truth, sequences = np.array(labels), np.array(people)
    times = np.where(truth == "neutral", 0.0, 0.5)
    captions = describe(geometry, sequences.astype(str), sequences, times)
    text = phrase_embedding(tuple(captions), 512)
    prototypes = np.stack([phrase_embedding(DEFINITIONS[name], 512).mean(axis=0) for name in EXPRESSIONS])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    answer = np.array(EXPRESSIONS)[(text @ prototypes.T).argmax(axis=1)]
    assert (answer == truth).mean() > 0.8
