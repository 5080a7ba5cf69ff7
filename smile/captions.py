"""Measurements of faces -> sentences in FACS words. No label is ever read.

n samples, m described rows, M measurements. Lengths in mm. The phrases and their thresholds: `smile.facs.PHRASES`.
"""

from collections.abc import Mapping

import numpy as np

from .facs import ALMOST, PHRASES, REST, Phrase

FEW = 3.0  # sequences of a person that weigh as much as the whole site (see `rest`)
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
    first: Mapping[str, np.ndarray],
    subjects: np.ndarray,
    sequences: np.ndarray,
    rows: np.ndarray | None = None,
) -> list[str]:
    """What each face does, as phrases: "inner brows raised, mouth wide open"; "face at rest" where nothing is said.

    geometry: measurement -> (n,) float mm, NaN unknown; first: the same of the first frame of the film that a sample is of,
    NaN where there is none (`Site.rest`); subjects (n,) str; sequences (n,) int. rows: (m,) int, whom to describe, all when
    None; nothing is learnt from others.
    Returns m sentences; an empty one where fewer than half of the measurements are known. Raises ValueError for a measurement that
    is missing in `geometry` or `first`.

    A phrase needs two things: so many mm off the person's rest (`rest`), and `SPREAD` robust standard deviations of
    the site's differences, which a site with poor landmarks has more of.
    """
    names = list(dict.fromkeys(phrase.measurement for phrase in PHRASES))
    missing = [name for name in names if name not in geometry or name not in first]
    if missing:
        raise ValueError(
            f"measurements {missing} are missing: prepare the site again with this version of smile"
        )
    rows = np.arange(len(subjects)) if rows is None else rows
    values, started = (
        np.stack([np.asarray(table[name], dtype=float)[rows] for name in names], axis=1)
        for table in (geometry, first)
    )
    moved = values - rest(values, started, names, subjects[rows], sequences[rows])
    least = SPREAD * _deviation(moved) if len(rows) >= ENOUGH else np.zeros(len(names))
    known = np.isfinite(moved).mean(axis=1) >= 0.5
    return [
        _sentence(dict(zip(names, row, strict=True)), dict(zip(names, least, strict=True))) if there else ""
        for row, there in zip(moved, known, strict=True)
    ]


def rest(
    values: np.ndarray, first: np.ndarray, names: list[str], subjects: np.ndarray, sequences: np.ndarray
) -> np.ndarray:
    """Each person's face at rest: values and first, (n, M) measurements of the samples and of their films' first frames,
    -> (n, M).

    The median over the first frames of the person's films, each film once. Where none is known: (n_p q_p + k q) / (n_p + k);
    q_p is the median over the person's n_p sequences (a scan alone is one), each of which counts by its own median, q that
    over all sequences of the site, k = `FEW`: a person seen once is told mostly from others, one seen in seven expressions
    mostly from themself. Not fitted; on simulated faces 1 to 5 read the six expressions alike (93 %), more reads them worse,
    because people differ. Where muscles only move one way (`_REST_QUANTILE`) a quartile stands for the median.
    """
    shares = np.array([_REST_QUANTILE.get(name, 0.5) for name in names])
    people = np.unique(subjects, return_inverse=True)[1]
    pairs = np.stack([people, np.asarray(sequences)], axis=1)
    owners, group = np.unique(pairs, axis=0, return_inverse=True)
    owners, each = owners[:, 0], _quantiles(values, group.reshape(-1), shares)
    centre = _quantiles(each, np.zeros_like(owners), shares)
    count = np.bincount(owners)[:, None]
    shrunk = (count * _or(_quantiles(each, owners, shares), centre) + FEW * centre) / (count + FEW)
    # Windows of one film share its first frame. NaN is unequal to itself, so it stands as infinity here.
    films = np.unique(np.column_stack([people, np.where(np.isfinite(first), first, np.inf)]), axis=0)
    starts = _quantiles(films[:, 1:], films[:, 0].astype(int), np.full(len(names), 0.5))
    return _or(starts, shrunk)[people]


def _quantiles(values: np.ndarray, groups: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(n, M) and (n,) int, all of 0 .. G - 1 -> (G, M): of each column the quantile in `shares` (M,) of what is known in
    each group, NaN where nothing is."""
    starts = np.cumsum(np.bincount(groups)) - np.bincount(groups)
    result = np.full((len(starts), values.shape[1]), np.nan)
    for column, (figures, share) in enumerate(zip(values.T, shares, strict=True)):
        ordered = figures[np.lexsort((figures, ~np.isfinite(figures), groups))]  # the unknown ones last
        known = np.bincount(groups, np.isfinite(figures)).astype(int)
        there = known > 0
        place = share * (known[there] - 1)
        low = starts[there] + np.floor(place).astype(int)
        high = starts[there] + np.ceil(place).astype(int)
        result[there, column] = ordered[low] + (place % 1) * (ordered[high] - ordered[low])
    return result


def _or(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, otherwise)


def _deviation(moved: np.ndarray) -> np.ndarray:
    """(n, M) -> (M,) robust standard deviation: 1.4826 x the median of the differences' size."""
    median = _quantiles(np.abs(moved), np.zeros(len(moved), int), np.full(moved.shape[1], 0.5))[0]
    return 1.4826 * _or(median, np.zeros_like(median))


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
