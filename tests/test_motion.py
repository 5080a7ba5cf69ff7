"""Pictures of motion: rank pooling against its formula, differences, magnification, and what happens at holes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smile import motion
from smile.config import ViewConfig
from smile.motion import difference, dynamic_image, magnify, rank_pooling_weights

COLOUR = slice(0, 3)
STACKS = hnp.arrays(
    np.uint8, st.tuples(*(st.integers(1, n) for n in (5, 2)), st.just(4), st.just(2), st.just(3))
)


def summed(frames: int) -> list[float]:
    """The defining sum, term by term."""
    return [sum((2 * j - frames - 1) / j for j in range(t, frames + 1)) for t in range(1, frames + 1)]


def closed(frames: int) -> list[float]:
    """The closed form with harmonic numbers."""

    def harmonic(n: int) -> float:
        return sum(1 / j for j in range(1, n + 1))

    return [
        2 * (frames - t + 1) - (frames + 1) * (harmonic(frames) - harmonic(t - 1))
        for t in range(1, frames + 1)
    ]


@pytest.mark.parametrize("frames", [2, 3, 16, 100])
def test_the_weights_are_both_forms_of_the_formula_and_sum_to_nothing(frames: int) -> None:
    found = rank_pooling_weights(frames)
    np.testing.assert_allclose(found, summed(frames), atol=1e-10)
    np.testing.assert_allclose(found, closed(frames), atol=1e-10)
    assert abs(found.sum()) < 1e-10


def test_known_weights() -> None:
    np.testing.assert_allclose(rank_pooling_weights(2), [-0.5, 0.5])
    assert rank_pooling_weights(1).tolist() == [1.0]
    np.testing.assert_allclose(
        rank_pooling_weights(16)[[0, 1, 2, -2, -1]], [-25.5, -10.5, -4.0, 1.80, 0.94], atol=0.05
    )
    with pytest.raises(ValueError, match="give one or more"):
        rank_pooling_weights(0)


def slow_present(pixel: np.ndarray, channel: int, colour: slice) -> bool:
    """pixel: (C,) of one frame."""
    return bool(pixel.any() if channel in range(*colour.indices(len(pixel))) else pixel[channel])


def slow_dynamic(stack: np.ndarray, factor: float, colour: slice) -> np.ndarray:
    """Pixel by pixel, from the description."""
    if len(stack) == 1:
        return stack[0]
    weights = summed(len(stack))
    unit = sum(abs(weight) for weight in weights) / 2
    out = np.zeros(stack.shape[1:], np.uint8)
    for c in range(stack.shape[2]):
        pooled = {
            place: sum(w * float(stack[(t, place[0], c, *place[1:])]) for t, w in enumerate(weights)) / unit
            for place in np.ndindex(stack.shape[1], *stack.shape[3:])
            if all(slow_present(frame[place[0], :, place[1], place[2]], c, colour) for frame in stack)
        }
        for place, value in pooled.items():
            low, high = min(pooled.values()), max(pooled.values())
            if c in range(*colour.indices(stack.shape[2])):
                code = 128.0 if high - low < 1e-6 else 1 + 254 * (value - low) / (high - low)
            else:
                code = 128 + factor * value
            out[(place[0], c, *place[1:])] = round(min(255.0, max(1.0, code)))
    return out


def assert_codes(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for one code where a half is rounded to another side, and never something for nothing."""
    assert found.dtype == np.uint8
    assert ((found == 0) == (expected == 0)).all()
    assert np.abs(found.astype(int) - expected).max(initial=0) <= 1


@settings(max_examples=40, deadline=None)
@given(stack=STACKS, factor=st.sampled_from([1.0, 3.5]), colour=st.sampled_from([COLOUR, slice(0, 0)]))
def test_a_dynamic_image_is_what_the_description_says(
    stack: np.ndarray, factor: float, colour: slice
) -> None:
    assert_codes(dynamic_image(stack, factor=factor, colour=colour), slow_dynamic(stack, factor, colour))


@settings(max_examples=40, deadline=None)
@given(stack=STACKS, factor=st.sampled_from([1.0, 2.0, 10.0]))
def test_difference_and_magnification_are_what_the_description_says(stack: np.ndarray, factor: float) -> None:
    magnified = magnify(stack, factor, colour=COLOUR)
    changed = difference(stack[-1], stack[0], factor=factor, colour=COLOUR)
    for place in np.ndindex(*changed.shape):
        view, channel, row, column = place
        there = all(slow_present(frame[view, :, row, column], channel, COLOUR) for frame in stack[[0, -1]])
        first, last = float(stack[(0, *place)]), float(stack[(-1, *place)])
        wanted = [first + factor * (last - first), 128 + factor * (last - first)]
        expected = [round(min(255.0, max(1.0, value))) if there else 0 for value in wanted]
        assert [magnified[(-1, *place)], changed[place]] == expected


def test_holes_of_any_frame_are_holes_and_black_is_a_colour() -> None:
    stack = np.full((3, 1, 4, 2, 2), 100, np.uint8)
    stack[:, :, :3, 0, 0] = 0  # black skin of a shadow: depth is there
    stack[1, :, :, 1, 1] = 0  # a hole in the second frame
    for found in (
        dynamic_image(stack, colour=COLOUR),
        difference(stack[1], stack[0], colour=COLOUR),
        difference(stack[0], stack[1], colour=COLOUR),
        magnify(stack, 2, colour=COLOUR)[1],
    ):
        assert (found[0, :, 1, 1] == 0).all()
        assert (found[0, :, 0, 0] > 0).all()


def test_no_motion_is_128_and_one_frame_is_itself() -> None:
    stack = np.random.default_rng(0).integers(1, 256, (1, 2, 7, 4, 4), np.uint8)
    np.testing.assert_array_equal(dynamic_image(stack, colour=COLOUR), stack[0])
    still = stack.repeat(6, axis=0)
    assert (dynamic_image(still) == motion.STILL).all()
    assert (dynamic_image(still, colour=COLOUR) == motion.STILL).all(), "rounding is no motion"
    assert (difference(still[1], still[0], factor=9) == motion.STILL).all()
    np.testing.assert_array_equal(magnify(still, 20), still)


def test_two_frames_pool_to_their_difference_and_time_reverses_the_sign() -> None:
    stack = np.random.default_rng(1).integers(60, 120, (2, 1, 4, 5, 5), np.uint8)
    np.testing.assert_array_equal(dynamic_image(stack, factor=2), difference(stack[1], stack[0], factor=2))
    long = np.random.default_rng(2).integers(100, 110, (2, 1, 4, 5, 5), np.uint8)
    forth, back = dynamic_image(long).astype(int), dynamic_image(long[::-1]).astype(int)
    np.testing.assert_array_equal(forth - 128, 128 - back)


def test_a_mirrored_sequence_gives_the_mirrored_picture() -> None:
    """Augmentation negates the x of a normal by 256 - code: motion must keep that true."""
    x = np.random.default_rng(3).integers(90, 160, (4, 1, 1, 3, 3), np.uint8)
    found, mirrored = (
        dynamic_image(x, factor=2).astype(int),
        dynamic_image((0 - x).astype(np.uint8), factor=2),
    )
    inside = (found > 1) & (found < 255)
    assert inside.any()
    assert np.abs(256 - found - mirrored)[inside].max() <= 1


@pytest.mark.parametrize("kind", ["frames", "difference", "dynamic"])
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_what_a_study_sees_of_a_stack(kind: str, factor: float) -> None:
    stack = np.random.default_rng(4).integers(1, 256, (3, 1, 7, 4, 4), np.uint8)
    views = ViewConfig(yaws=(0.0,), size=16, motion=kind, magnify=factor)
    found = motion.of_frames(stack, views)
    expected = {
        "frames": magnify(stack, factor, colour=COLOUR)[2],
        "difference": difference(stack[2], stack[0], factor=factor, colour=COLOUR),
        "dynamic": dynamic_image(stack, factor=factor, colour=COLOUR),
    }
    np.testing.assert_array_equal(found, expected[kind])
    assert views.needs_sequence == ((kind, factor) != ("frames", 1.0))
    if kind == "dynamic":
        assert found[:, COLOUR].min() == 1
        assert found[:, COLOUR].max() == 255


def test_a_picture_pair_keeps_its_missing_geometry_missing() -> None:
    stack = np.zeros((3, 3, 7, 4, 4), np.uint8)
    stack[:, :2, :3] = np.random.default_rng(5).integers(1, 256, (3, 2, 3, 4, 4))
    for found in (dynamic_image(stack, colour=COLOUR), difference(stack[1], stack[0], colour=COLOUR)):
        assert found[:2, :3].all()
        assert not found[:, 3:].any()
        assert not found[2].any()


def test_a_bad_motion_is_named() -> None:
    with pytest.raises(ValueError, match="choose frames, difference or dynamic"):
        ViewConfig(motion="optical-flow")
    for factor in (0.5, 101.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"views\.magnify"):
            ViewConfig(magnify=factor)
