"""Windows of a sequence, and the frames that stand for it: middle, uniform, around the apex."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smile.config import ViewConfig
from smile.scans import Frame, Sequence
from smile.site import sampling
from smile.site.sampling import choose, samples, windows


def sequence(
    length: int, *, first: int = 0, step: int = 1, intensities: dict[int, float] | None = None, **coded
) -> Sequence:
    """Frames numbered first, first + step ...; intensities: position -> AU12_intensity."""
    found = intensities or {}
    frames = tuple(
        Frame(
            Path(f"/raw/{k:04d}.obj"),
            first + k * step,
            measures={"AU12_intensity": found[k], "AU06": 1.0}
            if k in found
            else {"AU12_intensity": float("nan")},
        )
        for k in range(length)
    )
    return Sequence("F001", "fear", "F001/T1", frames, {"pain": 2.0}, **coded)


@given(length=st.integers(1, 300), window=st.integers(2, 60))
def test_windows_cover_every_frame_and_overlap_by_half(length: int, window: int) -> None:
    whole = sequence(length)
    parts = windows(whole, window)
    assert {frame.path for part in parts for frame in part.frames} == {frame.path for frame in whole.frames}
    if length <= window:
        assert parts == [whole]
        return
    assert len({part.name for part in parts}) == len(parts)
    starts = [int(part.name.rpartition("@")[2]) for part in parts]
    for part, start in zip(parts, starts, strict=True):
        assert part.frames == whole.frames[start : start + window]
        assert len(part.frames) == window
        assert part.name == f"F001/T1@{start}"
        assert (part.subject, part.label, part.measures) == (whole.subject, whole.label, whole.measures)
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= window - window // 2 for step in steps)
    assert set(steps[:-1]) <= {window - window // 2}
    assert (starts[0], starts[-1]) == (0, length - window)


def test_a_window_keeps_what_is_coded_in_it() -> None:
    whole = sequence(20, first=100, onset=103, apex=107, offset=112)
    parts = windows(whole, 8)
    assert [part.name for part in parts] == ["F001/T1@0", "F001/T1@4", "F001/T1@8", "F001/T1@12"]
    assert [(part.onset, part.apex, part.offset) for part in parts] == [
        (103, 107, None),
        (None, 107, None),
        (None, None, 112),
        (None, None, 112),
    ]
    assert windows(whole, None) == [whole]


@given(length=st.integers(0, 300), frames=st.integers(1, 40))
def test_uniform_frames_are_distinct_in_order_and_over_the_whole_length(length: int, frames: int) -> None:
    chosen = sampling.uniform(length, frames)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(length, frames)
    edges = [0, *chosen, length]
    if length > frames:
        assert max(b - a for a, b in itertools.pairwise(edges)) <= length / frames + 1


@given(
    length=st.integers(1, 120),
    frames=st.integers(1, 20),
    apex=st.none() | st.integers(0, 130),
    onset=st.none() | st.integers(0, 130),
    offset=st.none() | st.integers(0, 130),
)
def test_frames_around_an_apex_are_neighbours_between_onset_and_offset(
    length, frames, apex, onset, offset
) -> None:
    if onset is not None and offset is not None and onset > offset:
        onset, offset = offset, onset
    chosen = choose(sequence(length, apex=apex, onset=onset, offset=offset), frames, "apex")
    low = min(onset or 0, length - 1)
    high = length - 1 if offset is None else min(offset, length - 1)
    assert chosen == list(range(chosen[0], chosen[-1] + 1))
    assert len(chosen) == min(frames, high - low + 1)
    assert low <= chosen[0] <= chosen[-1] <= high
    if apex is not None and low <= apex <= high:
        assert apex in chosen
        if low + frames <= apex <= high - frames:
            assert abs(sum(chosen) / len(chosen) - apex) <= 0.5


def test_where_the_apex_is_comes_from_the_coders_then_the_intensities_then_the_middle() -> None:
    assert choose(sequence(100, first=500, step=10, apex=520), 1, "apex") == [2]
    assert choose(sequence(100, first=500, step=10, apex=523), 1, "apex") == [2], "the nearest frame there is"
    assert choose(sequence(100, intensities={20: 1.0, 70: 4.0, 80: 3.0}), 3, "apex") == [69, 70, 71]
    assert choose(sequence(100, intensities={20: 1.0, 70: 4.0, 80: 3.0}, offset=60), 3, "apex") == [
        19,
        20,
        21,
    ]
    assert choose(sequence(100, intensities={20: 2.0, 21: 2.0, 22: 2.0}), 1, "apex") == [21], "a plateau"
    assert choose(sequence(100, intensities={3: 0.0}), 2, "apex") == [48, 49]
    assert choose(sequence(100), 3, "middle") == sampling.middle(100, 3)
    assert choose(sequence(100), 4, "uniform") == [12, 37, 62, 87]


@pytest.mark.parametrize(("motion", "magnify"), [("difference", 1.0), ("frames", 3.0)])
def test_a_difference_is_made_of_the_onset_and_the_frame(motion: str, magnify: float) -> None:
    views = ViewConfig(motion=motion, magnify=magnify)
    one = sequence(10, first=1, onset=3)
    assert samples(one, views, frames=3, sampling="uniform") == [(1, (2, 1)), (5, (2, 5)), (8, (2, 8))]
    assert samples(sequence(10), views, frames=1, sampling="uniform") == [(5, (0, 5))]
    assert samples(sequence(1), views, frames=3, sampling="middle") == [], "one frame shows no motion"
    pair = samples(sequence(2), views, frames=2, sampling="middle")
    assert pair == ([(1, (0, 1))] if motion == "difference" else [(0, (0, 0)), (1, (0, 1))])


def test_the_onset_alone_gives_way_to_the_frame_farthest_from_it() -> None:
    assert samples(sequence(7, apex=0), ViewConfig(motion="difference"), frames=1, sampling="apex") == [
        (6, (0, 6))
    ]


def test_a_dynamic_image_is_made_of_all_chosen_frames() -> None:
    views = ViewConfig(motion="dynamic")
    assert samples(sequence(10), views, frames=5, sampling="uniform") == [(5, (1, 3, 5, 7, 9))]
    assert samples(sequence(1), views, frames=5, sampling="uniform") == []
    assert samples(sequence(9, onset=4, offset=4), views, frames=5, sampling="apex") == []


def test_plain_frames_stand_for_themselves() -> None:
    assert samples(sequence(3), ViewConfig(), frames=5, sampling="uniform") == [(k, (k,)) for k in range(3)]
