"""Checking and averaging what sites send; numpy only, so that it can be tested without Flower."""

import numpy as np

MAX_EXAMPLES = 10_000_000  # more captures than any hospital owns: a larger count is a mistake or an attack


def reject_reason(
    arrays: dict[str, np.ndarray],
    metrics: dict[str, float],
    reference: dict[str, np.ndarray],
) -> str | None:
    """Why a site's reply cannot be averaged, in one sentence, or None. `reference`: the arrays it was sent."""
    if arrays.keys() != reference.keys():
        odd = sorted(arrays.keys() ^ reference.keys())
        return f"{len(odd)} array names are missing or unknown, first {odd[0]!r}"
    for name, expected in reference.items():
        if arrays[name].shape != expected.shape or arrays[name].dtype != expected.dtype:
            return (
                f"array {name!r} is {arrays[name].dtype} {arrays[name].shape}, "
                f"expected {expected.dtype} {expected.shape}"
            )
        if not np.isfinite(arrays[name]).all():
            return f"array {name!r} holds NaN or infinity"
    examples = metrics.get("num-examples")
    if not isinstance(examples, int) or not 0 < examples <= MAX_EXAMPLES:
        return f"num-examples is {examples!r}, expected 1 to {MAX_EXAMPLES}"
    if not all(np.isfinite(value) for value in metrics.values()):
        return "a figure is NaN or infinite"
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
