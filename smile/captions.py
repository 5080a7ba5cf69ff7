"""Measurements of faces -> sentences in FACS words. No label is ever read.

n samples, m described rows. Lengths in mm. The phrases and their thresholds: `smile.facs.PHRASES`.
"""

from collections.abc import Mapping

import numpy as np

from .facs import ALMOST, PHRASES, REST, Phrase

ONSET = 0.1  # share of a sequence in which a face has not yet left rest
FEW = 3.0  # samples of a person that weigh as much as the whole site (see `rest`)
SPREAD = 0.5  # robust standard deviations of a site's differences that a phrase needs besides its mm
ENOUGH = 20  # rows from which that deviation is worth knowing
FEW_PHRASES = (
    2  # up to so many phrases of the first grade, which noise alone may say, a face is called almost at rest
)
# Muscles can only close this gap and only open these: rest lies near the end from which they move, not in the middle.
_REST_QUANTILE = {
    "brow_gap": 0.75,
    "nose_length": 0.75,
    "mouth_opening": 0.25,
    "jaw_drop": 0.25,
    "cheek_raise": 0.25,
}


def describe(
    geometry: Mapping[str, np.ndarray],
    subjects: np.ndarray,
    sequences: np.ndarray,
    times: np.ndarray,
    rows: np.ndarray | None = None,
) -> list[str]:
    """What each face does, as phrases: "inner brows raised, mouth wide open"; "face at rest" where nothing is said.

    geometry: measurement -> (n,) float mm, NaN unknown; subjects (n,) str; sequences (n,) int; times (n,) float, 0..1
    within the sequence, NaN unknown. rows: (m,) int, whom to describe, all when None; nothing is learnt from others.
    Returns m sentences; an empty one where fewer than half of the measurements are known.

    A phrase needs two things: so many mm off the person's rest (`rest`), and `SPREAD` robust standard deviations of
    the site's differences, which a site with poor landmarks has more of.
    """
    names = list(dict.fromkeys(phrase.measurement for phrase in PHRASES))
    missing = [name for name in names if name not in geometry]
    if missing:
        raise ValueError(
            f"measurements {missing} are missing: prepare the site again with this version of smile"
        )
    rows = np.arange(len(subjects)) if rows is None else rows
    values = np.stack([np.asarray(geometry[name], dtype=float)[rows] for name in names], axis=1)
    moved = values - rest(values, names, subjects[rows], sequences[rows], times[rows])
    least = SPREAD * _deviation(moved) if len(rows) >= ENOUGH else np.zeros(len(names))
    known = np.isfinite(moved).mean(axis=1) >= 0.5
    return [
        _sentence(dict(zip(names, row, strict=True)), dict(zip(names, least, strict=True))) if there else ""
        for row, there in zip(moved, known, strict=True)
    ]


def rest(
    values: np.ndarray, names: list[str], subjects: np.ndarray, sequences: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Each person's face at rest: (n, M) measurements -> (n, M).

    Where the sequence has frames within its first tenth, and later ones: the median of the former, together with such
    frames of the person's other sequences. Else (n_p q_p + k q) / (n_p + k): q_p is the median of the person's n_p
    sequences (samples, where each is its own sequence), q that of the site, k = `FEW`: a person seen once is told mostly
    from others, one seen in seven expressions mostly from themself. Not fitted; on simulated faces 1 to 5 read the six
    expressions alike (93 %), more reads them worse, because people differ. Where muscles only move one way
    (`_REST_QUANTILE`) a quartile stands for the median.
    """
    # A scan alone is a sequence of one frame at time 0 and not at rest for that: there must be later frames.
    onset = (times <= ONSET) & np.isin(sequences, sequences[times > ONSET])
    result = np.empty_like(values)
    centre = _quantiles(values, names)
    for person in np.unique(subjects):
        own = subjects == person
        count = len(np.unique(sequences[own]))
        result[own] = (count * _or(_quantiles(values[own], names), centre) + FEW * centre) / (count + FEW)
        started = own & np.isin(sequences, sequences[own & onset])
        if started.any():
            result[started] = _or(_median(values[own & onset]), result[started])
    return result


def _quantiles(values: np.ndarray, names: list[str]) -> np.ndarray:
    """(n, M) -> (M,) what stands for rest, NaN where nothing is known."""
    columns = [column[np.isfinite(column)] for column in values.T]
    return np.array(
        [
            np.quantile(column, _REST_QUANTILE.get(name, 0.5)) if len(column) else np.nan
            for name, column in zip(names, columns, strict=True)
        ]
    )


def _median(values: np.ndarray) -> np.ndarray:
    return _quantiles(values, [""] * values.shape[1])


def _or(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, otherwise)


def _deviation(moved: np.ndarray) -> np.ndarray:
    """(n, M) -> (M,) robust standard deviation: 1.4826 x the median of the differences' size."""
    return 1.4826 * _or(_median(np.abs(moved)), np.zeros(moved.shape[1]))


def _sentence(moved: dict[str, float], least: dict[str, float]) -> str:
    said: dict[tuple[str, int], Phrase] = {}
    for phrase in PHRASES:  # a comparison with NaN is False
        distance = moved[phrase.measurement] * phrase.sign if phrase.sign else abs(moved[phrase.measurement])
        if distance >= max(phrase.mm, least[phrase.measurement]):
            said[phrase.measurement, phrase.sign] = phrase
    texts = [phrase.text for phrase in said.values()]
    first = {(phrase.measurement, phrase.sign): phrase for phrase in reversed(PHRASES)}
    slight = len(said) <= FEW_PHRASES and all(phrase is first[key] for key, phrase in said.items())
    return ", ".join([ALMOST, *texts]) if said and slight else ", ".join(texts) or REST
