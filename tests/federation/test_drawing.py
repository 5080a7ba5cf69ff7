"""Curves, ranges and figures of the status page against known answers."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.drawing import duration, path, percent, ranges, size, whole


def test_a_curve_of_many_rounds_is_short_and_hides_no_spike() -> None:
    values: list[float | None] = [1.0] * 1000
    values[617] = 50.0
    drawn = path(values, width=1000, height=100, points=160)
    points = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", drawn)]
    assert len(points) <= 160 and (617.5, 0.0) in points
    assert sum(y == 100.0 for _, y in points) == len(points) - 1


def test_a_curve_is_broken_where_nothing_is_known() -> None:
    assert path([1.0, None, 3.0, 2.0], width=4, height=10, points=9) == "M0.5 10.0h0M2.5 0.0h0L3.5 5.0"
    assert path([None], width=4, height=10, points=9) == ""
    assert path([2.0, 2.0], width=4, height=10, points=9) == "M1.0 5.0h0L3.0 5.0"


@settings(max_examples=40)
@given(st.lists(st.none() | st.floats(-1e15, 1e15), max_size=300), st.integers(2, 80))
@example([None, None, 0.0, 0.0, 0.0, 0.0], 3)  # an odd number: two a stretch of four were one too many
def test_a_curve_stays_in_its_frame(values: list[float | None], points: int) -> None:
    found = re.findall(r"([-\d.]+) ([-\d.]+)", path(values, width=90, height=22, points=points))
    assert all(0 <= float(x) <= 90 and 0 <= float(y) <= 22 for x, y in found)
    assert len(found) <= max(points, 2)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([5], "round 5"),
        ([3, 5, 6, 7], "rounds 3, 5–7"),
        (list(range(1, 20, 2)), "10 rounds, the last of them 9, 11, 13, 15, 17, 19"),
    ],
)
def test_rounds_are_told_as_ranges(numbers: list[int], told: str) -> None:
    assert ranges(numbers) == told


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        (duration(59.6), "1 min"),
        (duration(0.2), "0 s"),
        (duration(90), "1 min 30 s"),
        (duration(1433), "24 min"),
        (duration(86400), "1 day"),
        (duration(45), "45 s"),
        (duration(3 * 3600 + 20 * 60), "3 h 20 min"),
        (duration(2 * 86400 + 3 * 3600), "2 days 3 h"),
        (size(999), "999 bytes"),
        (size(1500), "1.5 kB"),
        (size(3.5e8), "350.0 MB"),
        (size(7.25e12), "7,250.0 GB"),
        (size(None), "–"),
        (percent(0.125), "12.5 %"),
        (whole(1234567.0), "1\u202f234\u202f567"),
    ],
)
def test_figures_are_told_plainly(drawn: str, told: str) -> None:
    assert drawn == told
