"""Numbers out of text: to the bit as Python reads them, and the counting that the readers build on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile.scans.arrays import holds_pair, numbers, up_to

FIXED = st.tuples(
    st.floats(-1e12, 1e12, allow_subnormal=False), st.integers(0, 12), st.sampled_from(["", " ", "\n", "\t"])
)


@given(st.lists(FIXED, min_size=1, max_size=40), st.booleans())
@settings(max_examples=300, deadline=None)
def test_decimals_are_read_to_the_bit(values: list[tuple[float, int, str]], plus: bool) -> None:
    words = [f"{value:{'+' if plus else ''}.{digits}f}" for value, digits, _ in values]
    text = "".join(word + " " + blank for word, (_, _, blank) in zip(words, values, strict=True))
    np.testing.assert_array_equal(numbers(text.encode(), float, what="v"), [float(word) for word in words])


@pytest.mark.parametrize(
    "text",
    [
        "-.5 5. +3.25",
        "1.e5 2.0",
        "1 .5",
        "1.5 nan",
        "-0.0 1.0",
        "12345678901234567890.5 1.5",
        "1.5 0.12345678901234567890",
        "0. -0.",
    ],
)
def test_every_way_to_write_a_number_counts(text: str) -> None:
    np.testing.assert_array_equal(numbers(text.encode(), float, what="v"), [float(w) for w in text.split()])


@pytest.mark.parametrize(
    "text",
    [
        "1.5.3 2",
        ". .",
        "0x1.8 2.0",
        "12-3.5 1.0",
        "1. 2.3.4",
        "1.5 2.5x",
        "- 1.0",
        "-. 1.0",
        "1_0.5 2.0",
        "--1.5 2.0",
        "+-1.5 2.0",
    ],
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"v: .* is not a number \(damaged file\?\)"):
        numbers(text.encode(), float, what="v")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.booleans())
def test_up_to_counts_as_a_loop_does(counts: list[int], equal: bool) -> None:
    counts = [counts[0]] * len(counts) if equal else counts
    places, ends, at = [], [], 0
    for count in counts:
        places += range(at, at + count)
        at += count
        ends.append(at)
        at += 1
    np.testing.assert_array_equal(up_to(np.array(places, np.int64), np.array(ends)), counts)


def test_equal_sums_in_unequal_parts_are_counted_one_by_one() -> None:
    np.testing.assert_array_equal(up_to(np.array([0, 1, 2, 6]), np.array([3, 7])), [3, 1])
    np.testing.assert_array_equal(up_to(np.array([0, 5, 6, 7]), np.array([3, 8])), [1, 3])


@given(st.binary(max_size=40))
def test_a_pair_is_seen_as_python_sees_it(text: bytes) -> None:
    text = text.replace(b"\x01", b"\n").replace(b"\x02", b" ")
    assert holds_pair(text, b"\n ") == (b"\n " in text)
