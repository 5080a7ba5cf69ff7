"""Which samples, questions and folds each named protocol takes."""

import dataclasses

import numpy as np
import pytest

from smile.config import TrainingConfig
from smile.labels import MICRO
from smile.protocols import PROTOCOLS, SIX, UNITS, folds_hash, select, splits
from smile.split import held_out

TRAINING = TrainingConfig(holdout=0.4)


class Posed:
    """`people` people, each with a neutral face and six expressions at four levels; one sequence a capture."""

    def __init__(self, people: int = 12) -> None:
        kinds = [("neutral", 0), *((name, level) for name in SIX for level in (1, 2, 3, 4))]
        self.subjects = np.repeat([f"subject-{i:03d}" for i in range(people)], len(kinds))
        self.labels = np.tile([name for name, _ in kinds], people)
        self.sequences = np.arange(len(self.labels))
        self.measures = {"level": np.tile([float(level) for _, level in kinds], people)}


class Coded:
    """Six people, four sequences of five frames each, action units by frame, micro-expressions by sequence."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.subjects = np.repeat([f"s{i}" for i in range(6)], 20)
        self.labels = np.full(120, "")
        self.sequences = np.arange(120) // 5
        self.measures = {name: rng.integers(0, 2, 120).astype(float) for name in UNITS}
        self.measures["AU06"][::3] = np.nan
        self.measures["AU24"][:] = 0
        for name in MICRO:
            self.measures[f"micro_{name}"] = np.repeat(rng.integers(0, 2, 24).astype(float), 5)


@pytest.mark.parametrize(("name", "levels"), [("bu3dfe-subset1", {3, 4}), ("bu3dfe-subset2", {1, 2, 3, 4})])
def test_subsets_of_bu3dfe_are_levels(name: str, levels: set[int]) -> None:
    site = Posed()
    task = select(PROTOCOLS[name], site, dataset="bu3dfe")
    assert set(site.measures["level"][task.rows]) == levels
    assert len(task.truth) == 12 * 6 * len(levels) and task.classes == SIX
    assert [task.classes[t] for t in task.truth] == site.labels[task.rows].tolist()
    assert task.notes == ("12 of 60 people: no figure to compare with published ones",)


def test_levels_that_are_not_there_are_named() -> None:
    site = Posed()
    site.measures = {}
    with pytest.raises(ValueError, match=r"level of its expressions.*prepare"):
        select(PROTOCOLS["bu3dfe-subset1"], site)


def test_only_complete_people_of_bosphorus() -> None:
    site = Posed(5)
    site.labels[(site.subjects == "subject-001") & (site.labels == "fear")] = ""
    task = select(PROTOCOLS["bosphorus"], site, dataset="bu3dfe")
    assert set(task.subjects) == {f"subject-{i:03d}" for i in (0, 2, 3, 4)}
    assert "not from bosphorus" in task.notes[0]
    site.labels[site.labels == "fear"] = ""
    with pytest.raises(ValueError, match="people with all of"):
        select(PROTOCOLS["bosphorus"], site)


def test_a_sequence_with_frames_of_several_expressions_is_refused() -> None:
    site = Posed(4)
    site.sequences = (
        np.arange(len(site.labels)) // 5
    )  # a neutral face and four levels of anger, and so on, shifted by one
    for name in ("subjects", "bu4dfe"):
        with pytest.raises(ValueError, match=r"\d+ sequences have frames of different expressions.*alike"):
            select(PROTOCOLS[name], site, dataset="bu4dfe")
    films = Posed(4)
    films.labels[films.labels == "neutral"] = ""  # frames without a label are no other expression
    films.sequences = np.unique(np.char.add(films.subjects, films.labels), return_inverse=True)[1]
    task = select(PROTOCOLS["subjects"], films)
    assert len(task.truth) == 4 * 6 and set(films.labels[task.rows]) == set(SIX)


def test_a_sequence_is_coded_yes_where_any_of_its_frames_is() -> None:
    site = Coded()
    for name, codes in (("negative", [0, 1, 0, 0, 0]), ("positive", [np.nan, 0, 1, 1, 0])):
        site.measures[f"micro_{name}"] = np.concatenate([np.tile(codes, 12), np.zeros(60)])
    for name in set(MICRO) - {"negative", "positive"}:
        site.measures[f"micro_{name}"] = np.full(120, np.nan)
    site.measures["micro_positive"][-5:] = np.nan
    task = select(PROTOCOLS["4dme"], site, dataset="4dme")
    assert task.classes == tuple(f"micro_{name}" for name in MICRO if name in ("negative", "positive"))
    assert task.truth[:12].tolist() == [[1, 1]] * 12 and task.truth[12:23].tolist() == [[0, 0]] * 11
    assert np.array_equal(np.isnan(task.truth[23]), [name.endswith("positive") for name in task.classes])


def test_a_decision_a_sequence_and_a_decision_a_frame() -> None:
    site = Coded()
    micro = select(PROTOCOLS["4dme"], site, dataset="4dme")
    assert micro.truth.shape == (24, 5) and len(micro.rows) == 120 and not micro.notes
    assert np.array_equal(np.bincount(micro.unit), np.full(24, 5))
    assert np.array_equal(micro.truth[:, 1], site.measures["micro_positive"][::5])
    units = select(PROTOCOLS["bp4d-au"], site, dataset="bp4d")
    assert units.truth.shape == (120, 11) and "AU24" in units.notes[0]
    assert np.array_equal(units.truth[:, 3], site.measures["AU06"], equal_nan=True)


def test_rows_without_any_code_are_left_out_and_none_at_all_is_named() -> None:
    site = Coded()
    for name in UNITS:
        site.measures[name][:50] = np.nan
    assert select(PROTOCOLS["bp4d-au"], site).rows.tolist() == list(range(50, 120))
    site.measures = {}
    with pytest.raises(ValueError, match="none of AU01"):
        select(PROTOCOLS["bp4d-au"], site)
    with pytest.raises(ValueError, match="two or more of the expressions"):
        select(PROTOCOLS["subjects"], site)


@pytest.mark.parametrize(
    ("name", "expected"), [("subjects", 5), ("bu4dfe", 10), ("bu3dfe-subset2", 10), ("bosphorus", 10)]
)
def test_everybody_is_tested_once_and_nobody_is_on_both_sides(name: str, expected: int) -> None:
    study, site = PROTOCOLS[name], Posed()
    task = select(study, site)
    found = splits(study, task, TRAINING, people=site.subjects, seed=3)
    assert len(found) == expected
    assert sorted(np.concatenate([split.test for split in found])) == list(range(len(task.truth)))
    for train, test in found:
        assert not set(task.subjects[train]) & set(task.subjects[test])
        assert len(train) + len(test) == len(task.truth)


def test_folds_follow_from_people_and_seed_alone() -> None:
    study, site = PROTOCOLS["bu4dfe"], Posed()
    task = select(study, site)

    def named(seed: int) -> str:
        return folds_hash(task, [splits(study, task, TRAINING, people=site.subjects, seed=seed)])

    assert named(0) == named(0) != named(1)
    shuffled = Posed()
    order = np.random.default_rng(0).permutation(len(shuffled.labels))
    shuffled.subjects, shuffled.labels = shuffled.subjects[order], shuffled.labels[order]
    other = select(study, shuffled)
    assert folds_hash(other, [splits(study, other, TRAINING, people=site.subjects, seed=0)]) == named(0)


def test_people_are_drawn() -> None:
    study, site = dataclasses.replace(PROTOCOLS["bosphorus"], people=7, folds=3), Posed()
    task = select(study, site)
    found = [splits(study, task, TRAINING, people=site.subjects, seed=seed) for seed in range(4)]
    drawn = [{name for split in splits for name in task.subjects[split.test]} for splits in found]
    assert all(len(names) == 7 for names in drawn) and len(set(map(frozenset, drawn))) > 1
    for names, folds in zip(drawn, found, strict=True):
        assert {name for train, _ in folds for name in task.subjects[train]} == names


def test_leave_one_person_out_and_the_held_out_people() -> None:
    site = Coded()
    task = select(PROTOCOLS["4dme"], site)
    found = splits(PROTOCOLS["4dme"], task, TRAINING, people=site.subjects, seed=0)
    assert [len(set(task.subjects[split.test])) for split in found] == [1] * 6
    posed, study = Posed(), PROTOCOLS["holdout"]
    task = select(study, posed)
    (split,) = splits(study, task, TRAINING, people=posed.subjects, seed=9)
    out = held_out(posed.subjects, share=0.4, seed=TRAINING.seed)
    assert set(task.subjects[split.test]) == set(posed.subjects[out])
    with pytest.raises(ValueError, match="cannot be split"):
        splits(study, task, TrainingConfig(holdout=0), people=posed.subjects, seed=0)
    lonely = Posed(1)
    with pytest.raises(ValueError, match="1 labelled people"):
        splits(PROTOCOLS["bu4dfe"], select(study, lonely), TRAINING, people=lonely.subjects, seed=0)
