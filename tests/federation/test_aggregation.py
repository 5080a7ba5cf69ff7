"""The weighted mean, and every kind of reply that must not get into it."""

import numpy as np
import pytest

from server.aggregation import WeightedMean, reject_reason
from smile.protocol import METRICS

REFERENCE = {"a": np.zeros((2, 3), np.float32), "scale": np.zeros((), np.float32)}
GOOD = {"a": np.ones((2, 3), np.float32), "scale": np.array(2, np.float32)}
FIGURES = {**dict.fromkeys(METRICS, 1.0), "num-examples": 10}


def test_the_mean_is_weighted_and_keeps_shape_and_dtype() -> None:
    mean = WeightedMean(REFERENCE)
    mean.add(GOOD, 1)
    mean.add({"a": np.full((2, 3), 4, np.float32), "scale": np.array(5, np.float32)}, 2)
    result = mean.result()
    np.testing.assert_array_equal(result["a"], np.full((2, 3), 3, np.float32))
    assert result["scale"].shape == () and result["scale"] == 4
    assert all(result[name].dtype == array.dtype for name, array in REFERENCE.items())


def test_a_large_and_a_small_site_are_summed_in_double_precision() -> None:
    mean = WeightedMean({"a": np.zeros(1, np.float32)})
    for _ in range(1000):
        mean.add({"a": np.full(1, 0.1, np.float32)}, 1)
    assert mean.result()["a"][0] == np.float32(0.1)


def test_a_good_reply_passes() -> None:
    assert reject_reason(GOOD, FIGURES, REFERENCE) is None


@pytest.mark.parametrize(
    ("arrays", "figures", "word"),
    [
        ({**GOOD, "a": np.full((2, 3), np.nan, np.float32)}, FIGURES, "NaN"),
        ({**GOOD, "a": np.full((2, 3), np.inf, np.float32)}, FIGURES, "infinity"),
        ({**GOOD, "a": np.ones((1,), np.float32)}, FIGURES, "expected float32"),
        ({**GOOD, "a": "text"}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((2, 3), np.float64)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((2, 3), np.int64)}, FIGURES, "expected float32"),
        ({**GOOD, "b": np.ones(1, np.float32)}, FIGURES, "unknown"),
        ({"a": GOOD["a"]}, FIGURES, "missing"),
        (GOOD, {**FIGURES, "num-examples": 0}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": -5}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": 10**12}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": 3.5}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": True}, "figure"),
        (GOOD, {"loss": 1.0}, "agreed"),
        (GOOD, {**FIGURES, "patient": 7}, "agreed"),
        (GOOD, {**FIGURES, "loss": float("nan")}, "figure"),
        (GOOD, {**FIGURES, "loss": 1e308}, "figure"),
        (GOOD, {**FIGURES, "loss": [1.0, 2.0]}, "figure"),
        (GOOD, {**FIGURES, "loss": []}, "figure"),
    ],
)
def test_a_bad_reply_is_named(arrays: dict, figures: dict, word: str) -> None:
    reason = reject_reason(arrays, figures, REFERENCE)
    assert reason is not None and word in reason
