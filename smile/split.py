"""Which subjects nobody trains on. Splits are by subject, never by scan: two scans of one face are not independent."""

import numpy as np


def held_out(subjects: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """(n,) str subject of each sample -> (n,) bool, True where the subject is held out.

    share: of the subjects, rounded, but at least one is held out and at least one trains when there are two or
    more and `share` is above 0. The same site, share and seed give the same split at every stage.
    """
    names = np.unique(subjects)
    count = int(np.clip(round(share * len(names)), 1, len(names) - 1)) if share > 0 and len(names) > 1 else 0
    chosen = np.random.default_rng(seed).permutation(names)[:count]
    return np.isin(subjects, chosen)
