"""Every kind of reply that must not get into the average, the size of updates, and the sites' shares."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import checks as module
from server.averaging import Spool, average
from server.checks import Checks, Unusable, moments_reasons, squared_distance, weights
from smile.moments import Moments
from smile.protocol import METRICS

REFERENCE = {"a": np.zeros((2, 3), np.float32), "scale": np.zeros((), np.float32)}
GOOD = {"a": np.ones((2, 3), np.float32), "scale": np.array(2, np.float32)}
FIGURES = {**dict.fromkeys(METRICS, 1.0), "num-examples": 10}
COUNTS = st.dictionaries(st.text(max_size=3), st.integers(1, 10_000_000), min_size=1, max_size=8)


def _begun(limit: float = 10.0) -> Checks:
    checks = Checks(norm_limit=limit)
    checks.begin(REFERENCE)
    return checks


def _update(norm: float) -> dict[str, np.ndarray]:
    return {"a": np.full((2, 3), norm / math.sqrt(6), np.float32), "scale": np.zeros((), np.float32)}


def _round(checks: Checks, norms: dict[str, float]) -> dict[str, str]:
    """A round of updates of these sizes, in this order of arrival -> who is left out."""
    checks.begin(REFERENCE)
    for site, norm in norms.items():
        assert checks.reason(site, _update(norm), FIGURES) is None
    return checks.outliers()


def test_a_good_reply_passes_and_its_norm_is_told() -> None:
    checks = _begun()
    assert checks.reason("x", GOOD, FIGURES) is None
    assert checks.norms == {"x": pytest.approx(math.sqrt(6 + 4))}


@pytest.mark.parametrize(
    ("arrays", "figures", "word"),
    [
        ({**GOOD, "a": np.full((2, 3), np.nan, np.float32)}, FIGURES, "NaN"),
        ({**GOOD, "a": np.full((2, 3), np.inf, np.float32)}, FIGURES, "infinity"),
        ({**GOOD, "a": np.full((2, 3), -np.inf, np.float32)}, FIGURES, "infinity"),
        ({**GOOD, "scale": np.array(np.nan, np.float32)}, FIGURES, "NaN"),
        ({**GOOD, "a": np.ones((3, 2), np.float32)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones(6, np.float32)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((1, 2, 3), np.float32)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((1, 1), np.float32)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((0, 3), np.float32)}, FIGURES, "expected float32"),
        ({**GOOD, "scale": np.ones(1, np.float32)}, FIGURES, "expected float32 ()"),
        ({**GOOD, "scale": np.float32(1)}, FIGURES, "expected float32 ()"),
        ({**GOOD, "scale": 1.0}, FIGURES, "expected float32 ()"),
        ({**GOOD, "a": np.ones((2, 3), np.float64)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((2, 3), np.float16)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((2, 3), np.int64)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((2, 3), np.complex64)}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.ones((2, 3), ">f4")}, FIGURES, "expected float32"),
        ({**GOOD, "a": np.zeros((2, 3), "V2")}, FIGURES, "expected float32"),  # how numpy meets bfloat16
        ({**GOOD, "a": np.full((2, 3), None)}, FIGURES, "expected float32"),
        ({**GOOD, "a": [[1.0] * 3] * 2}, FIGURES, "expected float32"),
        ({**GOOD, "a": "text"}, FIGURES, "expected float32"),
        ({**GOOD, "a": b"\x80\x3f" * 6}, FIGURES, "expected float32"),  # bfloat16 as bare bytes
        ({**GOOD, "a": None}, FIGURES, "expected float32"),
        ({**GOOD, "b": np.ones(1, np.float32)}, FIGURES, "1 are unknown"),
        ({**GOOD, 7: np.ones(1, np.float32)}, FIGURES, "1 are unknown"),
        ({"a": GOOD["a"]}, FIGURES, "1 array names are missing ['scale']"),
        ({"A": GOOD["a"], "scale": GOOD["scale"]}, FIGURES, "missing"),
        ({}, FIGURES, "2 array names are missing"),
        (EOFError("a path of the site"), FIGURES, "cannot be read (EOFError)"),
        (Unusable("words of ours"), FIGURES, "cannot be read (words of ours)"),
        (GOOD, {**FIGURES, "num-examples": 0}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": -5}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": -(10**12)}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": 10**12}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": 10**9999}, "figure"),  # more digits than Python prints
        (GOOD, {**FIGURES, "num-examples": 3.5}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": 10.0}, "num-examples"),
        (GOOD, {**FIGURES, "num-examples": float("nan")}, "figure"),
        (GOOD, {**FIGURES, "num-examples": True}, "figure"),
        (GOOD, {**FIGURES, "num-examples": "10"}, "figure"),
        (GOOD, {**FIGURES, "num-examples": np.int64(10)}, "figure"),
        (GOOD, {"loss": 1.0}, "agreed"),
        (GOOD, {**FIGURES, "patient": 7}, "agreed"),
        (GOOD, {}, "agreed"),
        (GOOD, {**FIGURES, "loss": float("nan")}, "figure"),
        (GOOD, {**FIGURES, "loss": 1e308}, "figure"),
        (GOOD, {**FIGURES, "loss": [1.0, 2.0]}, "figure"),
        (GOOD, {**FIGURES, "loss": []}, "figure"),
    ],
)
def test_a_bad_reply_is_named_and_leaves_no_trace(arrays: dict, figures: dict, word: str) -> None:
    checks = _begun()
    reason = checks.reason("bad", arrays, figures)
    assert reason is not None and word in reason and "\n" not in reason and "a path" not in reason
    assert checks.norms == {} and checks.outliers() == {}
    assert checks.state_dict() == {"medians": []}


def test_one_bad_entry_anywhere_in_a_large_array_is_found() -> None:
    reference = {"a": np.zeros(2 * module.BLOCK + 3, np.float32)}
    checks = Checks(norm_limit=0)
    for position in (0, module.BLOCK, 2 * module.BLOCK + 2):
        checks.begin(reference)
        array = np.zeros_like(reference["a"])
        array[position] = np.nan
        assert "NaN" in (checks.reason("x", {"a": array}, FIGURES) or "")


def test_the_largest_finite_weights_do_not_overflow_the_norm() -> None:
    checks = Checks(norm_limit=10)
    largest = np.finfo(np.float32).max
    checks.begin({"a": np.full(1000, -largest)})
    assert checks.reason("x", {"a": np.full(1000, largest)}, FIGURES) is None
    assert checks.norms["x"] == pytest.approx(2 * float(largest) * math.sqrt(1000))


def test_the_distance_is_the_formula_for_any_layout() -> None:
    rng = np.random.default_rng(0)
    size = (3, module.BLOCK // 2)
    array, reference = (rng.normal(size=size).astype(np.float32) for _ in range(2))
    expected = float(((array.astype(np.float64) - reference) ** 2).sum())
    assert squared_distance(array, reference) == pytest.approx(expected, rel=1e-12)
    assert squared_distance(np.asfortranarray(array), reference) == squared_distance(array, reference)


def test_arrays_are_asked_for_one_at_a_time_and_what_reading_raises_counts_against_the_site() -> None:
    class Lazy(Mapping[str, np.ndarray]):
        def __init__(self) -> None:
            self.asked: list[str] = []

        def __getitem__(self, name: str) -> np.ndarray:
            self.asked.append(name)
            if name == "scale":
                raise MemoryError("10 TB, said the header")
            return GOOD[name]

        def __iter__(self) -> Iterator[str]:
            return iter(GOOD)

        def __len__(self) -> int:
            return len(GOOD)

    lazy = Lazy()
    assert _begun().reason("x", lazy, FIGURES) == "array 'scale' cannot be read (MemoryError)"
    assert lazy.asked == ["a", "scale"]


def test_a_site_has_one_reply_a_round() -> None:
    checks = _begun()
    assert checks.reason("x", GOOD, FIGURES) is None
    assert checks.reason("x", GOOD, FIGURES) == "a second reply in one round"
    checks.begin(REFERENCE)
    assert checks.reason("x", GOOD, FIGURES) is None


# --- the size of updates ------------------------------------------------------


def test_a_million_fold_update_is_left_out_in_the_first_round_already() -> None:
    reasons = _round(Checks(norm_limit=10), {"a": 1.0, "huge": 1e6, "b": 1.1})
    assert list(reasons) == ["huge"] and "the limit is 10" in reasons["huge"]


@pytest.mark.parametrize("sites", [2, 3, 4, 10])
def test_half_of_the_sites_may_send_huge_updates(sites: int) -> None:
    bad = {f"bad{index}": 1e6 for index in range(sites // 2)}
    good = {f"good{index}": 1.0 for index in range(sites - sites // 2)}
    checks = Checks(norm_limit=10)
    assert set(_round(checks, {**bad, **good})) == set(bad)
    assert checks.state_dict() == {"medians": [pytest.approx(1.0)]}  # the history learnt nothing of them


@given(
    norms=st.lists(st.sampled_from([0.0, 1e-6, 0.5, 1.0, 3.0, 1e6]), min_size=1, max_size=7), data=st.data()
)
def test_who_is_left_out_does_not_hang_on_the_order_of_arrival(
    norms: list[float], data: st.DataObject
) -> None:
    sites = {f"s{index}": norm for index, norm in enumerate(norms)}
    shuffled = {site: sites[site] for site in data.draw(st.permutations(list(sites)))}
    one, two = Checks(norm_limit=2), Checks(norm_limit=2)
    assert list(_round(one, sites).items()) == list(_round(two, shuffled).items())
    assert one.state_dict() == two.state_dict()


def test_tiny_and_zero_updates_do_not_make_the_others_outliers() -> None:
    checks = Checks(norm_limit=10)
    assert _round(checks, {"idle": 0.0, "b": 1.0}) == {}
    assert _round(checks, {"tiny": 1e-9, "tiny2": 1e-9, "tiny3": 1e-9, "b": 1.0}) == {}
    assert _round(checks, {"idle": 0.0, "idle2": 0.0}) == {}
    assert _round(Checks(norm_limit=10), {"alone": 1e6}) == {}  # nothing to compare with


def test_a_lone_reply_is_measured_by_the_rounds_before() -> None:
    checks = Checks(norm_limit=10)
    for _ in range(3):
        assert _round(checks, {"a": 1.0, "b": 1.0}) == {}
    assert list(_round(checks, {"a": 1e3})) == ["a"]
    assert _round(checks, {"a": 5.0}) == {}


def test_updates_that_grow_everywhere_are_no_outliers() -> None:
    checks = Checks(norm_limit=3)
    for size in (1.0, 10.0, 100.0, 1000.0):
        assert _round(checks, {"a": size, "b": 1.1 * size, "c": 0.9 * size}) == {}


def test_a_limit_of_zero_is_no_limit() -> None:
    assert _round(Checks(norm_limit=0), {"a": 1.0, "b": 1e6, "c": 1.0}) == {}


def test_the_history_is_short_and_survives_a_restart() -> None:
    checks = Checks(norm_limit=10)
    for step in range(2 * module.ROUNDS_KEPT):
        _round(checks, {"a": 1.0 + step, "b": 1.0 + step})
    state = json.loads(json.dumps(checks.state_dict()))
    assert len(state["medians"]) == module.ROUNDS_KEPT
    resumed = Checks(norm_limit=10)
    resumed.load(state)
    assert resumed.state_dict() == checks.state_dict()
    assert _round(resumed, {"a": 1e5}) == _round(checks, {"a": 1e5}) != {}


@pytest.mark.parametrize("medians", [None, "1", [1], [True], [float("nan")], [-1.0], [0.0], [float("inf")]])
def test_a_damaged_state_is_refused(medians: object) -> None:
    with pytest.raises(ValueError, match="resume from the checkpoint of an earlier round"):
        Checks(norm_limit=10).load({"medians": medians})


# --- moments of embeddings ------------------------------------------------------


def _moments(captures: float = 10, count: float = 8, **changes: float) -> Moments:
    """Two pairs of pictures, three features; one entry as `changes` says."""
    rng = np.random.default_rng(0)
    arrays = {"sums": (2, 2, 3), "squares": (2, 2, 3), "products": (2, 3, 3)}
    found = {name: count * rng.uniform(0.1, 1, shape) for name, shape in arrays.items()}
    for name, value in changes.items():
        found[name].flat[-1] = value
    return Moments(np.array(captures), np.array([count, count]), **found)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (_moments(sums=1e12), "times the usual size, the limit is 10"),
        (_moments(squares=-1e12), "times the usual size"),
        (_moments(products=1e12), "times the usual size"),
        (_moments(captures=1e12), "expected up to 10000000"),
        (_moments(count=0, products=1.0), "inf times the usual size"),
    ],
)
def test_finite_moments_that_would_drown_the_others_are_named(bad: Moments, word: str) -> None:
    good = {"a": _moments(), "b": _moments(captures=1000, count=900), "c": _moments(count=0)}
    reasons = moments_reasons({"bad": bad, **good}, 10)
    assert list(reasons) == ["bad"] and word in reasons["bad"]
    assert moments_reasons(good, 10) == moments_reasons({}, 10) == {}
    assert moments_reasons({"bad": _moments(sums=1e12), "a": _moments()}, 10).keys() == {"bad"}


# --- a round with a poisoner --------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "figures"),
    [
        ({**GOOD, "a": np.full((2, 3), np.nan, np.float32)}, FIGURES),
        ({**GOOD, "a": np.full((2, 3), np.inf, np.float32)}, FIGURES),
        ({name: 1e6 * array for name, array in GOOD.items()}, FIGURES),
        ({**GOOD, "a": np.ones((3, 2), np.float32)}, FIGURES),
        ({**GOOD, "a": np.ones((2, 3))}, FIGURES),
        ({**GOOD, "scale": np.ones(1, np.float32)}, FIGURES),
        ({**GOOD, "b": np.ones(1, np.float32)}, FIGURES),
        ({"a": GOOD["a"]}, FIGURES),
        (GOOD, {**FIGURES, "num-examples": 10**12}),
        (GOOD, {**FIGURES, "num-examples": -10}),
    ],
)
@pytest.mark.parametrize("name", ["a-first", "z-last"])
def test_the_round_is_bit_for_bit_the_round_without_the_poisoner(
    tmp_path: Path, arrays: dict, figures: dict, name: str
) -> None:
    rng = np.random.default_rng(0)
    honest = {
        f"h{index}": {key: np.asarray(rng.normal(size=a.shape), np.float32) for key, a in GOOD.items()}
        for index in range(4)
    }

    def result(sites: dict) -> dict[str, bytes]:
        checks = _begun()
        with Spool(tmp_path / "spool", REFERENCE) as spool:
            replies = {
                site: spool.add(site, sent)
                for site, (sent, said) in sites.items()
                if checks.reason(site, sent, said) is None
            }
            for site in checks.outliers():
                del replies[site]
            shares = weights(dict.fromkeys(replies, 10), 1.0)
            return {key: a.tobytes() for key, a in average("mean", replies, shares, REFERENCE).items()}

    clean = {site: (sent, FIGURES) for site, sent in honest.items()}
    assert result({name: (arrays, figures), **clean}) == result(clean)


# --- shares -------------------------------------------------------------------


def _slow_weights(examples: dict[str, int], cap: float) -> dict[str, float]:
    """min(cap, s n_k) with the s for which they sum to 1, by bisection."""
    cap = max(cap, 1 / len(examples))
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        total = math.fsum(min(cap, middle * count) for count in examples.values())
        low, high = (middle, high) if total < 1 else (low, middle)
    return {site: min(cap, high * count) for site, count in examples.items()}


@given(examples=COUNTS, cap=st.floats(0.01, 1))
def test_shares_are_those_of_the_slow_reference(examples: dict[str, int], cap: float) -> None:
    shares = weights(examples, cap)
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-12)
    assert max(shares.values()) <= max(cap, 1 / len(examples))
    assert shares == pytest.approx(_slow_weights(examples, cap), abs=1e-9)
    assert list(shares) == sorted(examples)
    assert shares == weights(dict(reversed(examples.items())), cap)


def test_known_shares() -> None:
    assert weights({"a": 1, "b": 3}, 1.0) == {"a": 0.25, "b": 0.75}
    assert weights({"big": 10_000_000, "b": 10, "c": 30}, 0.5) == {"b": 0.125, "big": 0.5, "c": 0.375}
    assert weights({"a": 1, "b": 1000}, 0.1) == {"a": 0.5, "b": 0.5}
    assert weights({"alone": 7}, 0.2) == {"alone": 1.0}
