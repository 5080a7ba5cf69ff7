"""Named evaluation protocols: which samples, which question, which people together, which figures.

Each is ready for whoever holds the licence of its data set; what no source states is in `confirm` and printed with every
figure. Folds follow from the sorted people and a seed, and their hash is printed too. n samples, u decisions, C questions.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .config import TrainingConfig
from .labels import EXPRESSIONS, MICRO
from .split import held_out

if TYPE_CHECKING:
    from .training import Captures

SIX = EXPRESSIONS[1:]  # without neutral
UNITS = tuple(
    f"AU{number:02d}" for number in (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
)  # the 12 of BP4D studies
SINGLE, SEVERAL = ("accuracy", "uar", "macro_f1"), ("uf1", "mean_uar")


@dataclass(frozen=True)
class Study:
    """One protocol. `classes` are expressions, or measures of 0 and 1 where `several` of them may hold at once."""

    line: str
    confirm: str = ""  # to be confirmed with the owners of the data set
    dataset: str = ""  # that it is meant for, a name of `smile.scans`; empty: any
    classes: tuple[str, ...] = ()  # empty: the expressions that are there
    several: bool = False
    frames: bool = False  # a decision a frame instead of a sequence
    levels: tuple[int, int] | None = None  # from, to: of the measure `level`
    complete: bool = False  # only people with all classes
    people: int = 0  # drawn at most; 0: all. Fewer are noted in the report.
    folds: int = 10  # 0: leave one person out; 1: the checkpoint's own held-out people


_BU3DFE = (
    "that Subset I is levels 3-4 and II is 1-4, the draw of 60 people, 10 folds (often repeated 100 times)"
)
PROTOCOLS = {
    "holdout": Study("people that the checkpoint's training held out, probes fitted on the others", folds=1),
    "subjects": Study("any site: its expressions, 5 folds of people", folds=5),
    "bu3dfe-subset1": Study("BU-3DFE Subset I: levels 3-4", _BU3DFE, "bu3dfe", SIX, levels=(3, 4), people=60),
    "bu3dfe-subset2": Study(
        "BU-3DFE Subset II: levels 1-4", _BU3DFE, "bu3dfe", SIX, levels=(1, 4), people=60
    ),
    "bosphorus": Study(
        "Bosphorus: people with all six expressions",
        "the draw of 60 of 65 people, 10 folds",
        "bosphorus",
        SIX,
        complete=True,
        people=60,
    ),
    "bu4dfe": Study(
        "BU-4DFE: a decision a sequence",
        "10 folds over all 101 people (60 in older work)",
        "bu4dfe",
        SIX,
        people=101,
    ),
    "bp4d-au": Study(
        "BP4D: 12 action units, a decision a frame, three folds",
        "who is in which of the three folds, the offset of AU frames (--au-frame-offset of smile prepare)",
        "bp4d",
        UNITS,
        several=True,
        frames=True,
        people=41,
        folds=3,
    ),
    "4dme": Study(
        "4DME: five micro-expression classes of which several may hold, leave one person out",
        "the number of people, and whether macro-expression clips belong to it",
        "4dme",
        tuple(f"micro_{name}" for name in MICRO),
        several=True,
        folds=0,
    ),
}


class Task(NamedTuple):
    """The decisions of a study on a site."""

    rows: np.ndarray  # (n,) samples that are looked at
    unit: np.ndarray  # (n,) int, the decision that each belongs to, 0 to u - 1
    truth: np.ndarray  # (u,) int place in `classes`, or (u, C) of 0, 1 and NaN = not coded
    subjects: np.ndarray  # (u,) str
    classes: tuple[str, ...]
    notes: tuple[str, ...]  # sentences for the report


class Split(NamedTuple):
    """One fold: places of its decisions in the task; nobody is on both sides."""

    train: np.ndarray
    test: np.ndarray


def select(study: Study, site: "Captures", *, dataset: str = "") -> Task:
    """The decisions of a study. Raises ValueError, in one sentence, where the site lacks what the study needs."""
    rows = np.arange(len(site.labels))
    notes = []
    if study.dataset and dataset != study.dataset:
        notes.append(
            f"the site was prepared from {dataset or 'an unknown data set'}, not from {study.dataset}"
        )
    if study.levels is not None:
        level = site.measures.get("level")
        if level is None:
            raise ValueError(
                "the site does not say the level of its expressions: run `smile prepare` again on BU-3DFE with this version"
            )
        rows = rows[(level >= study.levels[0]) & (level <= study.levels[1])]
    keys = np.arange(len(site.labels)) if study.frames else site.sequences
    choose = _coded if study.several else _named
    rows, values, classes = choose(study, site, rows, keys)
    missing = [name for name in study.classes if name not in classes]
    if missing:
        notes.append(f"not there, or only as yes or only as no: {', '.join(missing)}")
    _, first, unit = np.unique(keys[rows], return_index=True, return_inverse=True)
    people = len(np.unique(site.subjects[rows]))
    if people < study.people:
        notes.append(f"{people} of {study.people} people: no figure to compare with published ones")
    return Task(rows, unit, values[first], site.subjects[rows][first], classes, tuple(notes))


def _named(
    study: Study, site: "Captures", rows: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows with an expression of the study, its place in the classes that are there (n,) int, and these classes.

    keys: (n,) of the whole site, the decision that each sample belongs to. Raises ValueError where one has several expressions.
    """
    labels, subjects = site.labels[rows], site.subjects[rows]
    chosen = np.isin(labels, study.classes) if study.classes else labels != ""
    if study.complete:
        whole = [
            name
            for name in np.unique(subjects)
            if set(study.classes) <= set(labels[subjects == name].tolist())
        ]
        chosen &= np.isin(subjects, whole)
    found = np.unique(labels[chosen]).tolist()
    classes = tuple(name for name in study.classes or found if name in found)
    if len(classes) < 2:
        whom = "people with all of " if study.complete else "samples of two or more of "
        what = ", ".join(study.classes) or "the expressions"
        raise ValueError(
            f"the site has no {whom}{what}: prepare it with its labels, or choose another --protocol"
        )
    numbers = np.array([classes.index(name) for name in labels[chosen].tolist()])
    rows = rows[chosen]
    pairs = np.unique(np.stack([keys[rows], numbers], axis=1), axis=0)
    mixed = int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())
    if mixed:
        raise ValueError(
            f"{mixed} sequences have frames of different expressions, and a sequence gets one answer: label all its frames "
            "alike, or prepare its parts as sequences of their own"
        )
    return rows, numbers, classes


def _coded(
    study: Study, site: "Captures", rows: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows with a code of any of the measures, (n, C) of 0, 1, NaN, and the measures that are there as 0 and as 1.

    keys: (n,) of the whole site, the decision that each sample belongs to: "yes" where any of its frames says so.
    """
    nothing = np.full(len(site.labels), np.nan)
    member = np.unique(keys[rows], return_inverse=True)[1]
    own = {name: site.measures.get(name, nothing)[rows] for name in study.classes}
    columns = {name: _any_yes(codes, member) for name, codes in own.items()}
    classes = tuple(name for name, column in columns.items() if {0, 1} <= set(column.tolist()))
    if not classes:
        raise ValueError(
            f"the site has none of {', '.join(study.classes)} as 0 and 1: prepare it from raw scans with their tables of codes"
        )
    values = np.stack([columns[name] for name in classes], axis=1)
    coded = np.isin([own[name] for name in classes], (0, 1)).any(axis=0)
    return rows[coded], values[coded], classes


def _any_yes(codes: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Codes of frames (n,), the decision of each (n,) int -> for each frame the largest code of its decision: 0, 1, NaN."""
    most = np.full(member.max(initial=-1) + 1, -1.0)
    np.maximum.at(most, member, np.where(np.isin(codes, (0, 1)), codes, -1.0))
    return np.where(most < 0, np.nan, most)[member]


def splits(
    study: Study, task: Task, training: TrainingConfig, *, people: np.ndarray, seed: int
) -> list[Split]:
    """The folds of a task, by person. people: (n,) str of the whole site, which `holdout` was drawn from.

    Raises ValueError with fewer than two people on the sides of a fold.
    """
    names = np.unique(task.subjects)
    if study.folds == 1:
        out = held_out(people, share=training.holdout, seed=training.seed)
        groups = [np.intersect1d(people[out], names)]
        drawn = names
    else:
        order = np.random.default_rng(seed).permutation(names)
        drawn = order[: study.people] if study.people else order
        folds = min(study.folds or len(drawn), len(drawn))
        groups = [np.sort(drawn[start::folds]) for start in range(folds)]
    if not all(0 < len(group) < len(drawn) for group in groups):
        raise ValueError(
            f"{len(drawn)} labelled people cannot be split into those who train and those who test "
            f"(training.holdout = {training.holdout:g}): two or more are needed"
        )
    used = np.isin(task.subjects, drawn)
    tests = [np.isin(task.subjects, group) for group in groups]
    return [Split(np.flatnonzero(used & ~test), np.flatnonzero(test)) for test in tests]


def folds_hash(task: Task, folds: list[list[Split]]) -> str:
    """SHA-256 over who is tested in which fold of which repetition, its first 16 digits."""
    people = [[np.unique(task.subjects[split.test]).tolist() for split in splits] for splits in folds]
    return hashlib.sha256(json.dumps(people).encode()).hexdigest()[:16]
