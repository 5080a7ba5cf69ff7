"""Checking and averaging what sites send; without flwr, so that it can be tested without Flower."""

import numpy as np

from smile.protocol import METRICS

MAX_FIGURE = 1e30  # of seconds and losses; more would overflow the mean
MAX_EXAMPLES = 10_000_000  # more captures than any hospital owns: a larger count is a mistake or an attack


def reject_reason(
    arrays: dict[str, np.ndarray],
    metrics: dict[str, float],
    reference: dict[str, np.ndarray],
) -> str | None:
    """Why a site's reply cannot be averaged, in one sentence, or None. `reference`: the arrays it was sent."""
    missing, unknown = reference.keys() - arrays.keys(), len(arrays.keys() - reference.keys())
    if missing or unknown:
        # Only names of ours are quoted: a site could write anything into one of its own.
        return f"{len(missing)} array names are missing {sorted(missing)[:1]}, {unknown} are unknown"
    for name, expected in reference.items():
        array = arrays[name]
        if (
            not isinstance(array, np.ndarray)
            or array.shape != expected.shape
            or array.dtype != expected.dtype
        ):
            return f"array {name!r} has another shape or type, expected {expected.dtype} {expected.shape}"
        if not np.isfinite(array).all():
            return f"array {name!r} holds NaN or infinity"
    if set(metrics) != set(METRICS):
        return "the figures are not the agreed ones"
    if not all(type(value) in (int, float) and abs(value) < MAX_FIGURE for value in metrics.values()):
        return "a figure is no number, infinite or NaN"
    examples = metrics["num-examples"]
    if type(examples) is not int or not 0 < examples <= MAX_EXAMPLES:
        return f"num-examples is {examples!r}, expected 1 to {MAX_EXAMPLES}"
    return None


class WeightedMean:
    """Streaming weighted mean in float64: memory does not grow with the number of sites."""

    def __init__(self, reference: dict[str, np.ndarray]) -> None:
        self.sums = {name: np.zeros(array.shape, np.float64) for name, array in reference.items()}
        self.dtypes = {name: array.dtype for name, array in reference.items()}
        self.weight = 0.0

    def add(self, arrays: dict[str, np.ndarray], weight: float) -> None:
        for name, array in arrays.items():
            self.sums[name] += weight * array.astype(np.float64)
        self.weight += weight

    def result(self) -> dict[str, np.ndarray]:
        """The mean in the dtypes of the reference; needs at least one `add`."""
        assert self.weight > 0
        return {name: np.asarray(total / self.weight, self.dtypes[name]) for name, total in self.sums.items()}
