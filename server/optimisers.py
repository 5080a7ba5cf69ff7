"""What the coordinator does with the average: a step of its own optimiser, and the average of the last rounds.

x the global weights, D = average - x the pseudo-gradient (pointing downhill), m and v its moments, r the rate.
Moments are kept in float32, as they are stored, so that a resumed run has the same bits; arithmetic is float64.
"""

from collections.abc import Iterator, Mapping

import numpy as np

KINDS = ("none", "momentum", "adam", "yogi")
MOMENTUM = 0.9  # FedAvgM (Hsu et al. 2019, arXiv 1909.06335); Reddi et al. 2021 use the same
# Adaptive Federated Optimization (Reddi et al. 2021, arXiv 2003.00295), algorithm 2 and section 5
BETA1, BETA2, TAU = 0.9, 0.99, 1e-3
LARGEST = float(np.finfo(np.float32).max)
BLOCK = 1 << 18  # entries that are in float64 at a time


def _single(values: np.ndarray) -> np.ndarray:
    """float64 -> float32 that stays finite: one moment at infinity would hold its weight still for ever."""
    return np.clip(values, -LARGEST, LARGEST).astype(np.float32)


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, size, BLOCK))


def _check_fit(state: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], what: str) -> None:
    if {name: array.shape for name, array in state.items()} != {
        name: array.shape for name, array in arrays.items()
    }:
        raise ValueError(
            f"the {what} kept in the checkpoint is of another model: resume with the settings of that run"
        )


def _check_sound(arrays: Mapping[str, np.ndarray], what: str) -> None:
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"the {what} kept in the checkpoint is damaged: resume from an earlier round")


class ServerOptimiser:
    """`step` makes the next global weights of the old ones and the sites' average. `rate`: r above 0.

    - none: x + r D, which for r = 1 is the average itself
    - momentum: m = 0.9 m + D; x + r m
    - adam, yogi: m = 0.9 m + 0.1 D; x + r m / (sqrt(v) + tau), m from 0 and v from tau^2, no bias correction, where
      adam: v = 0.99 v + 0.01 D^2;  yogi: v = v - 0.01 D^2 sign(v - D^2)
    """

    def __init__(self, kind: str, rate: float) -> None:
        assert kind in KINDS and rate > 0
        self.kind, self.rate = kind, rate
        self._moments: dict[str, dict[str, np.ndarray]] = {
            key: {} for key in {"none": "", "momentum": "m"}.get(kind, "mv")
        }

    def step(self, old: Mapping[str, np.ndarray], mean: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """float32 arrays by name -> new ones; `old` and `mean` stay as they are.

        Raises ValueError where the moments were loaded from a run with another model.
        """
        if self.kind == "none" and self.rate == 1:
            return dict(mean)  # x + (average - x) would differ in the last bit
        for key, moments in self._moments.items():
            if not moments:
                start = TAU**2 if key == "v" else 0.0
                moments.update({name: np.full(array.shape, start, np.float32) for name, array in old.items()})
            _check_fit(moments, old, "state of the server's optimiser")
        return {name: self._step_array(name, array, mean[name]) for name, array in old.items()}

    def _step_array(self, name: str, old: np.ndarray, mean: np.ndarray) -> np.ndarray:
        flat_old, flat_mean = old.reshape(-1), mean.reshape(-1)
        moments = {key: kept[name].reshape(-1) for key, kept in self._moments.items()}
        new = np.empty(old.size, np.float32)
        for part in _blocks(old.size):
            start = flat_old[part].astype(np.float64)
            move = flat_mean[part] - start
            if self.kind == "momentum":
                moments["m"][part] = _single(MOMENTUM * moments["m"][part].astype(np.float64) + move)
                move = moments["m"][part].astype(np.float64)
            elif self.kind != "none":
                move = self._adaptive(moments["m"][part], moments["v"][part], move)
            new[part] = _single(start + self.rate * move)
        return new.reshape(old.shape)

    def _adaptive(self, m: np.ndarray, v: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Update float32 views of the moments in place; float64 direction of the step."""
        m[:] = _single(BETA1 * m.astype(np.float64) + (1 - BETA1) * gradient)
        second, square = v.astype(np.float64), gradient**2
        if self.kind == "adam":
            second = BETA2 * second + (1 - BETA2) * square
        else:
            second -= (1 - BETA2) * square * np.sign(second - square)
        v[:] = _single(second)
        return m.astype(np.float64) / (np.sqrt(v.astype(np.float64)) + TAU)

    def arrays(self) -> dict[str, np.ndarray]:
        """State for the checkpoint, float32 by `m/NAME` and `v/NAME`; empty before the first step."""
        return {f"{key}/{name}": array for key, kept in self._moments.items() for name, array in kept.items()}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from `arrays()`. Raises ValueError where they are damaged or of another kind of optimiser."""
        _check_sound(arrays, "state of the server's optimiser")
        moments: dict[str, dict[str, np.ndarray]] = {key: {} for key in self._moments}
        for name, array in arrays.items():
            key, _, weight = name.partition("/")
            if key not in moments or (key == "v" and (array < 0).any()):
                raise ValueError(
                    f"the checkpoint was not made with federation.server-optimiser = {self.kind!r}: "
                    "resume with the setting of that run"
                )
            moments[key][weight] = np.array(array)  # a copy: it is changed in place
        if len({frozenset(kept) for kept in moments.values()}) > 1:
            raise ValueError(
                f"the checkpoint does not hold the whole state of federation.server-optimiser = {self.kind!r}: "
                "resume with the setting of that run"
            )
        self._moments = moments


class RunningAverage:
    """The plain mean of the weights of several rounds (SWA, Izmailov et al. 2018, arXiv 1803.05407).

    It is not sent to the sites; it is a second model to evaluate and export. Kept in float32: one model of memory.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: dict[str, np.ndarray] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take in one round's float32 arrays. Raises ValueError where the mean was loaded from another model."""
        if self.count == 0:
            self._mean = {name: np.zeros(array.shape, np.float32) for name, array in arrays.items()}
        _check_fit(self._mean, arrays, "average of the rounds")
        self.count += 1
        for name, array in arrays.items():
            kept, flat = self._mean[name].reshape(-1), array.reshape(-1)
            for part in _blocks(flat.size):
                before = kept[part].astype(np.float64)
                kept[part] = before + (flat[part] - before) / self.count

    def mean(self) -> dict[str, np.ndarray]:
        """Copies of the averaged arrays; needs at least one `add`."""
        assert self.count > 0
        return {name: array.copy() for name, array in self._mean.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """State for the checkpoint: `mean/NAME`, float32, and `count`, int64; empty before the first `add`."""
        if self.count == 0:
            return {}
        kept = {f"mean/{name}": array for name, array in self._mean.items()}
        return {**kept, "count": np.array(self.count, np.int64)}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from `arrays()`. Raises ValueError where they are damaged."""
        mean = {name.removeprefix("mean/"): array for name, array in arrays.items() if name != "count"}
        _check_sound(mean, "average of the rounds")
        count = arrays.get("count", np.array(0, np.int64))
        if count.shape != () or count.dtype != np.int64 or (count < 1) != (not mean):
            raise ValueError(
                "the average of the rounds kept in the checkpoint is damaged: resume from an earlier round"
            )
        self.count, self._mean = int(count), {name: np.array(array) for name, array in mean.items()}
