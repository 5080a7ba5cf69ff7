"""Every rule against a slow reference from its formula; poisoned sites; memory."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server import averaging
from server.averaging import RULES, Reply, Spool, average, faulty, too_few

SHAPES = {"layer": (7, 5), "gain": (4,), "one": (1,), "scale": ()}
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces to an array, so that their seams are tested."""
    if "real_pieces" not in request.fixturenames:
        monkeypatch.setattr(averaging, "PIECE", 8)
        monkeypatch.setattr(averaging, "HELD", 40)


def _random(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}


def _average(folder: Path, rule: str, sites: dict[str, Arrays], reference: Arrays, **options: Any) -> Arrays:
    shares = options.pop("weights", None) or dict.fromkeys(sites, 1.0)
    with Spool(folder / "spool", reference) as spool:
        replies = {site: spool.add(site, arrays) for site, arrays in sites.items()}
        return average(rule, replies, shares, reference, **options)


# --- slow references ----------------------------------------------------------


def _slow(rule: str, sites: dict[str, Arrays], shares: dict[str, float], reference: Arrays, f: int) -> Arrays:
    stacks = {
        name: np.stack([sites[k][name].astype(np.float64) for k in sorted(sites)]) for name in reference
    }
    w = np.array([shares[k] for k in sorted(sites)])
    if rule == "multi-krum":
        chosen = _slow_krum(np.stack([_flat(sites[k]) for k in sorted(sites)]), f)
        return {name: stack[chosen].mean(0) for name, stack in stacks.items()}
    if rule == "mean":
        return {name: np.tensordot(w, stack, 1) for name, stack in stacks.items()}
    if rule == "ldawa":
        return {name: _slow_ldawa(stack, w, reference[name]) for name, stack in stacks.items()}
    if rule == "median":
        return {name: np.median(stack, axis=0) for name, stack in stacks.items()}
    return {name: np.sort(stack, axis=0)[f : len(w) - f].mean(0) for name, stack in stacks.items()}


def _flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


def _slow_ldawa(stack: np.ndarray, w: np.ndarray, sent: np.ndarray) -> np.ndarray:
    g, norms = sent.ravel().astype(np.float64), [float(np.linalg.norm(array)) for array in stack]
    c = w.copy()
    if g.size > 1 and np.linalg.norm(g) > 0 and min(norms) > 0:
        cosines = [
            max(array.ravel() @ g / (norm * np.linalg.norm(g)), 0)
            for array, norm in zip(stack, norms, strict=True)
        ]
        c = c * cosines if sum(cosines) > 0 else c
    return sum(share * array for share, array in zip(c, stack, strict=True)) / sum(c)


def _slow_krum(rows: np.ndarray, f: int) -> list[int]:
    n, scores = len(rows), []
    for i in range(n):
        distances = sorted(float(((rows[i] - rows[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append(sum(distances[: n - f - 2]))
    return sorted(sorted(range(n), key=lambda i: scores[i])[: n - f])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("count", "trim"), [(5, 0.2), (7, 0.3), (12, 0.25)])
def test_a_rule_is_its_formula(tmp_path: Path, rule: str, count: int, trim: float) -> None:
    reference = _random(99)
    sites = {f"s{index}": _random(index) for index in range(count)}
    shares = {site: (index + 1) / (count * (count + 1) / 2) for index, site in enumerate(sorted(sites))}
    result = _average(tmp_path, rule, sites, reference, weights=shares, trim=trim)
    expected = _slow(rule, sites, shares, reference, faulty(rule, count, trim))
    for name, array in reference.items():
        assert result[name].shape == array.shape and result[name].dtype == array.dtype
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-6, atol=1e-7)


@given(order=st.permutations(range(6)), rule=st.sampled_from(RULES))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_arrival_changes_no_bit(tmp_path: Path, order: list[int], rule: str) -> None:
    sites, reference = {f"s{index}": _random(index) for index in range(6)}, _random(99)
    expected = _average(tmp_path, rule, sites, reference, trim=0.2)
    result = _average(
        tmp_path, rule, {f"s{index}": sites[f"s{index}"] for index in order}, reference, trim=0.2
    )
    assert {name: array.tobytes() for name, array in result.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


@pytest.mark.parametrize("rule", RULES)
def test_equal_replies_are_their_average(tmp_path: Path, rule: str) -> None:
    sites = dict.fromkeys("abcde", _random(1))
    for name, array in _average(tmp_path, rule, sites, _random(1), trim=0.2).items():
        np.testing.assert_array_equal(array, sites["a"][name])


@pytest.mark.parametrize("rule", ["mean", "ldawa"])
def test_one_site_alone_is_its_own_average(tmp_path: Path, rule: str) -> None:
    for name, array in _average(tmp_path, rule, {"a": _random(1)}, _random(2)).items():
        np.testing.assert_array_equal(array, _random(1)[name])


def test_many_small_parts_are_summed_in_double_precision(tmp_path: Path) -> None:
    sites = {f"s{index:04d}": {"a": np.full(1, 0.1, np.float32)} for index in range(300)}
    assert _average(tmp_path, "mean", sites, {"a": np.zeros(1, np.float32)})["a"][0] == np.float32(0.1)


@pytest.mark.parametrize("rule", RULES)
def test_the_largest_finite_weights_do_not_overflow(tmp_path: Path, rule: str) -> None:
    largest = {"a": np.full(9, np.finfo(np.float32).max)}
    result = _average(tmp_path, rule, dict.fromkeys("abcde", largest), {"a": -largest["a"]}, trim=0.2)
    np.testing.assert_array_equal(result["a"], largest["a"])


# --- L-DAWA -------------------------------------------------------------------


def test_ldawa_leaves_out_what_turned_round_and_does_not_shrink(tmp_path: Path) -> None:
    sent = {"a": np.array([2.0, 0.0], np.float32)}
    sites = {"same": sent, "turned": {"a": -sent["a"]}, "wide": {"a": np.array([1.0, 1.0], np.float32)}}
    c = np.sqrt(0.5)
    expected = (sent["a"] + c * sites["wide"]["a"]) / (1 + c)
    np.testing.assert_allclose(_average(tmp_path, "ldawa", sites, sent)["a"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("sent", "replies"),
    [
        ([0.0, 0.0], [[1.0, 2.0], [3.0, 4.0]]),  # LoRA's second matrix starts at zero
        ([1.0, 0.0], [[0.0, 0.0], [3.0, 4.0]]),
        ([1.0, 0.0], [[0.0, 1.0], [0.0, 3.0]]),  # no cosine above 0
        ([1.0, 0.0], [[-1.0, 1.0], [-2.0, 3.0]]),
        (1.0, [-1.0, 5.0]),
        ([1.0], [[-1.0], [5.0]]),
    ],
)
def test_ldawa_is_the_plain_mean_where_a_cosine_says_nothing(
    tmp_path: Path, sent: Any, replies: list
) -> None:
    sites = {f"s{index}": {"a": np.array(reply, np.float32)} for index, reply in enumerate(replies)}
    result = _average(
        tmp_path, "ldawa", sites, {"a": np.array(sent, np.float32)}, weights={"s0": 0.25, "s1": 0.75}
    )
    np.testing.assert_array_equal(result["a"], 0.25 * np.array(replies[0]) + 0.75 * np.array(replies[1]))


# --- poisoned sites -----------------------------------------------------------


def _federation(seed: int, poison: str) -> tuple[dict[str, Arrays], list[str], Arrays]:
    """Ten sites, two of them faulty; honest updates have a common direction and a third of its length in noise."""
    rng = np.random.default_rng(seed)
    reference, common = _random(seed), _random(seed + 1)
    sites = {}
    for index in range(10):
        noise = {name: np.asarray(rng.normal(size=a.shape), np.float32) for name, a in common.items()}
        update = {name: common[name] + 0.1 * noise[name] for name in common}
        if index < 2 and poison == "flipped":
            update = {name: -array for name, array in update.items()}
        if index < 2 and poison == "shuffled":  # of usual size, in a direction of its own
            update = noise
        if index < 2 and poison == "huge":
            update = {name: 1e6 * array for name, array in update.items()}
        sites[f"s{index}"] = {name: np.asarray(reference[name] + update[name], np.float32) for name in update}
    return sites, [f"s{index}" for index in range(2, 10)], reference


@given(seed=st.integers(0, 10_000), poison=st.sampled_from(["flipped", "shuffled", "huge"]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_robust_rules_stay_within_the_honest_sites_and_the_mean_does_not(
    tmp_path: Path, seed: int, poison: str
) -> None:
    sites, honest, reference = _federation(seed, poison)
    rows = np.stack([_flat(sites[site]) for site in honest])

    def outside(rule: str) -> float:
        """Share of the entries outside what the honest sites sent."""
        result = _flat(_average(tmp_path, rule, sites, reference, trim=0.2))
        return float(((result < rows.min(0)) | (result > rows.max(0))).mean())

    assert [outside(rule) for rule in ("trimmed-mean", "median", "multi-krum")] == [0, 0, 0]
    assert outside("mean") > 0.25


@pytest.mark.parametrize("poison", ["flipped", "shuffled", "huge"])
def test_multi_krum_is_the_mean_of_the_honest_sites(tmp_path: Path, poison: str) -> None:
    sites, honest, reference = _federation(5, poison)
    result = _average(tmp_path, "multi-krum", sites, reference, trim=0.2)
    expected = _average(tmp_path, "mean", {site: sites[site] for site in honest}, reference)
    for name in reference:
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-6, atol=1e-7)


def test_krum_tells_sites_apart_whose_weights_are_large_and_updates_small(tmp_path: Path) -> None:
    reference = {"a": np.full(50, 1000.0, np.float32)}
    sites = {f"s{index}": {"a": reference["a"] + np.float32(1e-3 * (1 + (index == 3)))} for index in range(5)}
    result = _average(tmp_path, "multi-krum", sites, reference, trim=0.2)
    np.testing.assert_array_equal(result["a"], sites["s0"]["a"])


def test_a_site_cannot_buy_influence_in_a_robust_rule(tmp_path: Path) -> None:
    sites = {f"s{index}": _random(index) for index in range(5)}
    for rule in ("trimmed-mean", "median", "multi-krum"):
        plain = _average(tmp_path, rule, sites, _random(9), trim=0.2)
        claimed = dict.fromkeys(sites, 0.001) | {"s0": 0.996}
        for name, array in _average(tmp_path, rule, sites, _random(9), weights=claimed, trim=0.2).items():
            np.testing.assert_array_equal(array, plain[name])


# --- how many are faulty, how many are needed ---------------------------------


@pytest.mark.parametrize(
    ("rule", "sites", "trim", "count"),
    [
        ("mean", 10, 0.2, 0),
        ("ldawa", 10, 0.2, 0),
        ("median", 5, 0.0, 2),
        ("median", 4, 0.0, 1),
        ("trimmed-mean", 10, 0.2, 2),
        ("trimmed-mean", 10, 0.0, 0),
        ("trimmed-mean", 3, 0.2, 1),  # a share above 0 protects from one at least
        ("trimmed-mean", 4, 0.5, 1),
        ("trimmed-mean", 5, 0.5, 2),
        ("trimmed-mean", 100, 0.29, 29),
        ("multi-krum", 10, 0.2, 2),
        ("multi-krum", 9, 0.2, 1),
    ],
)
def test_faulty(rule: str, sites: int, trim: float, count: int) -> None:
    assert faulty(rule, sites, trim) == count


@given(sites=st.integers(1, 200), trim=st.floats(0, 0.5), rule=st.sampled_from(RULES))
def test_a_rule_always_has_somebody_left_or_says_why_not(sites: int, trim: float, rule: str) -> None:
    if too_few(rule, sites, trim) is None:
        f = faulty(rule, sites, trim)
        assert sites - 2 * f >= (3 if rule == "multi-krum" else 1)
        assert f >= 1 or trim == 0 or rule in ("mean", "ldawa")


@pytest.mark.parametrize(
    ("rule", "count", "trim", "needed"),
    [
        ("median", 2, 0.0, 3),
        ("trimmed-mean", 2, 0.1, 3),
        ("multi-krum", 4, 0.2, 5),
        ("multi-krum", 6, 0.4, 7),
        ("multi-krum", 2, 0.0, 3),
        ("mean", 0, 0.0, 1),
    ],
)
def test_too_few_sites_are_said(tmp_path: Path, rule: str, count: int, trim: float, needed: int) -> None:
    sites = {f"s{index}": _random(index) for index in range(count)}
    with pytest.raises(ValueError, match=f"^{rule}.* needs {needed} sites and has {count}: wait for more"):
        _average(tmp_path, rule, sites, _random(9), trim=trim)


# --- memory -------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_pieces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Reply], Arrays]]:
    """40 replies of 8 MB on disk, and pieces of the size that users have."""
    reference = {"large": np.ones((1500, 1000), np.float32), "small": np.ones((500, 1000), np.float32)}
    with Spool(tmp_path_factory.mktemp("memory"), reference) as spool:
        replies = {}
        for index, site in enumerate(f"s{index}" for index in range(40)):
            replies[site] = spool.add(
                site, {name: array + np.float32(index) for name, array in reference.items()}
            )
        yield replies, reference


@pytest.mark.parametrize("rule", ["mean", "ldawa", "median", "multi-krum"])
def test_memory_is_below_three_models_with_forty_sites(
    real_pieces: tuple[dict[str, Reply], Arrays], rule: str
) -> None:
    replies, reference = real_pieces
    model = sum(array.nbytes for array in reference.values())
    tracemalloc.start()
    try:
        result = average(rule, replies, dict.fromkeys(replies, 1 / 40), reference, trim=0.2)
        peak = tracemalloc.get_traced_memory()[1] + model  # the reference was there before
    finally:
        tracemalloc.stop()
    assert {float(value) for array in result.values() for value in array.flat[::999]} == {20.5}
    assert peak < 3 * model + 4e6
