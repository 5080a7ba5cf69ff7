"""Captions: from millimetres to FACS words, without a label, and the definitions in the same words."""

import numpy as np
import pytest

from smile.captions import _quantiles, describe, rest
from smile.facs import ALMOST, DEFINITIONS, PHRASES, REST
from smile.labels import EXPRESSIONS, VOCABULARY
from smile.measurements import MEASUREMENTS
from smile.text import phrase_embedding


def site(moved: list[dict[str, float]], *, film: bool = False, people: list[str] | None = None):
    """Scans of one person unless told otherwise, or a film of each that starts at 40 mm: what `describe` takes."""
    count = len(moved)
    geometry = {name: np.array([40.0 + row.get(name, 0.0) for row in moved]) for name in MEASUREMENTS}
    first = {name: np.full(count, 40.0 if film else np.nan) for name in MEASUREMENTS}
    names = np.array(people or ["a"] * count)
    return geometry, first, names, np.unique(names, return_inverse=True)[1] if film else np.arange(count)


def unknown(values: np.ndarray) -> np.ndarray:
    return np.full_like(values, np.nan)


def test_a_frame_is_told_against_the_first_one() -> None:
    moved = [
        {"jaw_drop": 0.5},
        {"inner_brow_height": 3.0, "eye_opening": 4.0, "mouth_opening": 20.0},
        {"mouth_opening": 0.5},
    ]
    found = describe(*site(moved, film=True))
    assert found == [REST, "inner brows raised, eyes very wide open, mouth wide open", REST]


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.text)
def test_each_phrase_is_said_from_its_threshold_on(phrase) -> None:
    for sign in (phrase.sign,) if phrase.sign else (-1, 1):
        at, below = (sign * (phrase.mm + off) for off in (1e-6, -1e-6))
        steps = [{phrase.measurement: at}, {phrase.measurement: below}]
        said, unsaid = describe(*site(steps, film=True))
        assert phrase.text in said.split(", ")
        assert phrase.text not in unsaid.split(", ")


def test_two_slight_phrases_may_be_noise() -> None:
    slight = {"inner_brow_height": 2.5}
    assert describe(*site([slight], film=True))[0] == f"{ALMOST}, inner brows raised"
    strong = {"inner_brow_height": 5.5}
    assert describe(*site([strong], film=True))[0] == "inner brows strongly raised"


def test_rest_without_a_film_is_shrunk_to_the_site() -> None:
    values = np.array([[0.0], [0.0], [0.0], [9.0]])
    people = np.array(["a", "a", "a", "b"])
    found = rest(values, unknown(values), ["inner_brow_height"], people, np.arange(4))
    np.testing.assert_allclose(found.ravel(), [0, 0, 0, (1 * 9 + 3 * 0) / 4])


def test_rest_of_a_one_way_muscle_is_a_quartile() -> None:
    values = np.array([[0.0, 0.0], [4.0, 4.0], [8.0, 8.0], [12.0, 12.0], [16.0, 16.0]])
    names = ["mouth_opening", "brow_gap"]
    found = rest(values, unknown(values), names, np.full(5, "a"), np.arange(5))
    np.testing.assert_allclose(found[0], [4, 12])


def test_rest_of_a_person_is_the_median_first_frame_of_their_films() -> None:
    """Two windows of one film, two more films, a film with a broken first frame, and a scan alone; each film counts once."""
    values = np.array([[9.0], [9.0], [8.0], [7.0], [50.0], [5.0]])
    first = np.array([[1.0], [1.0], [2.0], [6.0], [np.nan], [np.nan]])
    found = rest(values, first, ["jaw_drop"], np.full(6, "a"), np.array([0, 1, 2, 3, 4, 5]))
    np.testing.assert_allclose(found, 2.0)
    people = np.array(["b", *"aaaaa"])
    found = rest(values, first, ["asymmetry"], people, np.arange(6))
    np.testing.assert_allclose(found.ravel(), [1, 2, 2, 2, 2, 2])


def test_a_measurement_unknown_in_the_first_frame_is_told_from_the_sequences() -> None:
    values, first = np.array([[4.0, 4.0], [4.0, 4.0]]), np.array([[1.0, np.nan], [1.0, np.nan]])
    found = rest(values, first, ["jaw_drop", "nose_length"], np.full(2, "a"), np.zeros(2, int))
    np.testing.assert_allclose(found, [[1, 4]] * 2)


def test_a_sequence_counts_once_however_many_frames_it_has() -> None:
    values = np.array([[10.0]] * 7 + [[0.0], [1.0]])
    sequences = np.array([0] * 7 + [1, 2])
    found = rest(values, unknown(values), ["asymmetry"], np.full(9, "a"), sequences)
    np.testing.assert_allclose(found, 1.0)


def test_quantiles_of_groups_are_those_of_numpy() -> None:
    random = np.random.default_rng(1)
    values, groups = random.normal(size=(60, 3)), random.permutation(np.arange(60) % 7)
    values[random.uniform(size=values.shape) < 0.2] = np.nan
    values[groups == 2, 1] = np.nan
    shares = np.array([0.25, 0.5, 0.75])
    found = _quantiles(values, groups, shares)
    for group in range(7):
        for column, share in enumerate(shares):
            known = values[groups == group, column]
            known = known[np.isfinite(known)]
            expected = np.quantile(known, share) if len(known) else np.nan
            np.testing.assert_allclose(found[group, column], expected)


def test_nothing_is_learnt_from_rows_that_were_not_given() -> None:
    moved = [{"mouth_opening": float(i)} for i in range(8)]
    rows = np.array([0, 1, 4, 5])
    for film in (False, True):
        geometry, first, *others = site(moved, people=list("aabbccdd"), film=film)
        before = describe(geometry, first, *others, rows)
        wrong = [
            {name: np.where(np.isin(np.arange(8), rows), v, 1e6) for name, v in table.items()}
            for table in (geometry, first)
        ]
        assert describe(*wrong, *others, rows) == before


def test_unknown_measurements_say_nothing() -> None:
    geometry, *others = site([{}, {"inner_brow_height": 9.0}], film=True)
    some = {
        n: v if n in ("inner_brow_height", *MEASUREMENTS[:9]) else v * np.nan for n, v in geometry.items()
    }
    assert describe(some, *others)[1] == "inner brows strongly raised"
    none = {name: v * np.nan for name, v in geometry.items()}
    assert describe(none, *others) == ["", ""]
    with pytest.raises(ValueError, match="prepare the site again"):
        describe({}, *others)
    with pytest.raises(ValueError, match="prepare the site again"):
        describe(geometry, {}, *others[1:])


def test_a_noisy_site_needs_more_than_millimetres() -> None:
    random = np.random.default_rng(0)
    geometry, *others = site([{} for _ in range(200)])
    noisy = {**geometry, "jaw_drop": 40 + random.normal(0, 20, 200)}
    quiet = {**geometry, "jaw_drop": 40 + random.normal(0, 5, 200)}
    said = [sum("jaw" in c for c in describe(g, *others)) for g in (noisy, quiet)]
    shares = np.abs(noisy["jaw_drop"] - 40) > 3.0
    assert said[0] < 0.9 * shares.sum()  # mm alone would have said so
    assert said[1] > 0


def test_no_two_phrases_mean_the_same_to_the_text_side() -> None:
    text = phrase_embedding(tuple(dict.fromkeys(phrase.text for phrase in PHRASES)), 512)
    assert (text @ text.T - np.eye(len(text))).max() < 0.98
    opened, narrowed, closed = phrase_embedding(("eyes wide open", "eyes narrowed", "eyes fully closed"), 512)
    assert narrowed @ closed > 0.5 > 0 > max(narrowed @ opened, closed @ opened)


def test_definitions_use_the_phrases_of_captions() -> None:
    phrases = {phrase.text for phrase in PHRASES} | {REST}
    assert tuple(DEFINITIONS) == VOCABULARY
    assert {phrase.measurement for phrase in PHRASES} <= set(MEASUREMENTS)
    for sentences in DEFINITIONS.values():
        assert {part for sentence in sentences for part in sentence.split(", ")} <= phrases


def test_simulated_people_are_read_by_the_definitions() -> None:
    """Known landmarks, 1 mm of noise, neutral faces as first frames, no network: the nearest definition is the expression."""
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
    neutral = np.flatnonzero(truth == "neutral")[sequences]
    first = {name: values[neutral] for name, values in geometry.items()}
    captions = describe(geometry, first, sequences.astype(str), sequences)
    text = phrase_embedding(tuple(captions), 512)
    prototypes = np.stack([phrase_embedding(DEFINITIONS[name], 512).mean(axis=0) for name in EXPRESSIONS])
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    answer = np.array(EXPRESSIONS)[(text @ prototypes.T).argmax(axis=1)]
    assert (answer == truth).mean() > 0.8
