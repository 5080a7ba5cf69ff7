"""What a site sends is checked here before it is averaged; without flwr, so that it can be tested without Flower."""

import math
from collections.abc import Mapping
from statistics import median, median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from smile.protocol import METRICS

if TYPE_CHECKING:
    from smile.moments import Moments

MAX_FIGURE = 1e30  # of seconds and losses; more would overflow the mean
MAX_EXAMPLES = 10_000_000  # more captures than any hospital owns: a larger count is a mistake or an attack
ROUNDS_KEPT = 20  # of the running median: long enough to be steady, short enough to follow the learning rate
BLOCK = 1 << 18  # entries looked at together: a large array is never copied whole


class Unusable(ValueError):
    """Why something that a site sent cannot be used, in words of ours: it may be shown, for it quotes nothing of the site."""


def weights(examples: Mapping[str, int], cap: float) -> dict[str, float]:
    """Site -> its share of the average: proportional to its captures, none above `cap`, together 1.

    What a cap takes from a large site goes to the others in proportion. A cap that would leave the shares below 1
    together (less than 1 / number of sites) gives equal shares.
    """
    cap = max(cap, 1 / len(examples))
    shares, share_left, examples_left = {}, 1.0, sum(examples.values())
    # The largest first: as soon as one stays below the cap, so do all that follow.
    for site in sorted(examples, key=lambda site: (-examples[site], site)):
        shares[site] = min(cap, share_left * (examples[site] / examples_left))
        share_left -= shares[site]
        examples_left -= examples[site]
    return {site: shares[site] for site in sorted(shares)}


def figures_reason(figures: Mapping[str, Any]) -> str | None:
    """Why the figures beside a site's arrays cannot be used, in one sentence, or None."""
    if set(figures) != set(METRICS):
        return "the figures are not the agreed ones"
    if not all(type(value) in (int, float) and abs(value) < MAX_FIGURE for value in figures.values()):
        return "a figure is no number, infinite or NaN"
    examples = figures["num-examples"]
    if type(examples) is not int or not 0 < examples <= MAX_EXAMPLES:
        return f"num-examples is {examples!r}, expected 1 to {MAX_EXAMPLES}"
    return None


def moments_reasons(found: "Mapping[str, Moments]", limit: float) -> dict[str, str]:
    """Site -> why its moments of embeddings, finite and in the right shapes, cannot be added to those of the others.

    One finite entry of 1e12 would be the statistics of everybody. So a site's largest entry a capture may be at most `limit`
    times the usual one, which is the lower median over the sites: all of them encode with the same weights.
    """
    reasons = {
        site: f"moments of {moments.captures:g} captures, expected up to {MAX_EXAMPLES}"
        for site, moments in found.items()
        if moments.captures > MAX_EXAMPLES
    }
    sizes = {site: _largest(found[site]) for site in sorted(found.keys() - reasons.keys())}
    usual = median_low([size for size in sizes.values() if size > 0] or [0.0])
    return reasons | {
        site: f"moments {size / usual:.3g} times the usual size, the limit is {limit:g}"
        for site, size in sizes.items()
        if usual and size > limit * usual
    }


def _largest(moments: "Moments") -> float:
    """The largest sum of the site over the number of captures in it; infinite for a sum over no capture that is not 0."""
    largest = 0.0
    for pair, count in enumerate(moments.count):
        sums = (moments.sums[:, pair], moments.squares[:, pair], moments.products[pair])
        peak = max(float(np.abs(entries).max()) for entries in sums)
        if peak:
            largest = max(largest, peak / count if count else math.inf)
    return largest


def squared_distance(array: np.ndarray, reference: np.ndarray) -> float:
    """Sum of the squared differences of two float32 arrays of one shape, in float64; not finite if `array` is not."""
    total, flat, start_values = 0.0, array.reshape(-1), reference.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        with np.errstate(invalid="ignore"):  # NaN and infinity are an answer here
            step = flat[start : start + BLOCK].astype(np.float64)
            step -= start_values[start : start + BLOCK]
            total += float(
                np.square(step, out=step).sum()
            )  # not `@`, which sums as many parts as there are threads
    return total


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, Unusable) else type(error).__name__


class Checks:
    """The checks of a run. A round is `begin`, one `reason` for each reply, in any order, and `outliers` at its end.

    `norm_limit`: how many times the usual L2 norm an update may have; 0 = any. What is usual is the larger of the
    running median over the last rounds and the lower median of this round. The first keeps a reply that comes alone
    in bounds and keeps honest sites in where faulty ones send next to nothing; the second lets updates grow where
    most sites' do, after a warm-up for example, and protects the first round. Half of the sites may be faulty.
    """

    def __init__(self, *, norm_limit: float) -> None:
        self.norm_limit = norm_limit
        self._reference: Mapping[str, np.ndarray] = {}
        self._norms: dict[str, float] = {}
        self._medians: list[float] = []

    def begin(self, reference: Mapping[str, np.ndarray]) -> None:
        """Start a round. `reference`: the float32 arrays that the sites were sent, by name."""
        self._reference, self._norms = reference, {}

    def reason(
        self,
        site: str,
        arrays: Mapping[str, np.ndarray] | Exception,
        figures: Mapping[str, Any],
    ) -> str | None:
        """Why this reply cannot be averaged, in one sentence, or None.

        `arrays`: a site's weights by name, or the error met in reading them. A mapping that makes each array when
        asked for it keeps memory at one array; whatever it raises counts against the site. No text of a site is
        quoted: it could write anything there.
        """
        if site in self._norms:
            return "a second reply in one round"
        if isinstance(arrays, Exception):
            return f"the reply cannot be read ({_why(arrays)})"
        expected_names, names = set(self._reference), set(arrays)
        missing, unknown = expected_names - names, len(names - expected_names)
        if missing or unknown:
            return f"{len(missing)} array names are missing {sorted(missing)[:1]}, {unknown} are unknown"
        if reason := figures_reason(figures):
            return reason
        total = 0.0
        for name, expected in self._reference.items():
            try:
                array = arrays[name]
            except (
                Exception
            ) as error:  # reading what a site sent may fail in any way; that is the site's loss
                return f"array {name!r} cannot be read ({_why(error)})"
            if (
                not isinstance(array, np.ndarray)
                or array.shape != expected.shape
                or array.dtype != expected.dtype
            ):
                return f"array {name!r} has another shape or type, expected {expected.dtype} {expected.shape}"
            # NaN and infinity stay what they are in a sum of squares, and finite float32 cannot overflow it.
            total += squared_distance(array, expected)
            if not math.isfinite(total):
                return f"array {name!r} holds NaN or infinity"
        self._norms[site] = math.sqrt(total)
        return None

    @property
    def norms(self) -> dict[str, float]:
        """L2 norm of the update of each site that passed `reason` in this round, for the log."""
        return {site: self._norms[site] for site in sorted(self._norms)}

    def outliers(self) -> dict[str, str]:
        """Site -> reason, for the sites whose update is too large beside the others'; ends the round.

        Only the end of a round can tell: before it the answer would hang on who was first.
        """
        usual = self._usual()
        reasons = {
            site: f"its update is {norm / usual:.3g} times the usual size, the limit is {self.norm_limit:g}"
            for site, norm in self.norms.items()
            if self.norm_limit and usual and norm > self.norm_limit * usual
        }
        kept = [norm for site, norm in self._norms.items() if site not in reasons and norm > 0]
        if kept:
            self._medians = [*self._medians, median(kept)][-ROUNDS_KEPT:]
        self._norms = {}
        return reasons

    def _usual(self) -> float:
        """The norm to compare with; 0 where nothing is known, as for a single site in its first round."""
        history = median(self._medians) if self._medians else 0.0
        # An update of zero says nothing on how large the others should be.
        norms = [norm for norm in self._norms.values() if norm > 0]
        # A reply that comes alone must not be its own measure, unless there is no other.
        return history if history and len(self._norms) == 1 else max(history, median_low(norms or [0.0]))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain data for JSON; taken between rounds."""
        return {"medians": list(self._medians)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`. Raises ValueError where the state is none of ours."""
        medians = state.get("medians")
        if not isinstance(medians, list) or not all(
            type(value) is float and 0 < value < math.inf for value in medians
        ):
            raise ValueError(
                "the state of the checks is damaged: resume from the checkpoint of an earlier round"
            )
        self._medians = medians[-ROUNDS_KEPT:]
