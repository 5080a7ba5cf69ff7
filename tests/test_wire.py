"""Small messages: the format against a slow reader, the largest entries, error feedback."""

import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smile.wire import BITS, decode, decode_array, encode, packed_bytes

Arrays = dict[str, np.ndarray]
FLOAT_MAX = float(np.finfo(np.float32).max)
LARGEST = {16: 1, 8: 127, 4: 7}
# Shares of the entries, and the list of places that each needs when they lie at random.
PLACES = {1.0: "", 0.25: ":i1", 0.1: ":i4", 0.01: ":i8", 0.0003: ":i16"}


def update(*, size: float = 1e-4, seed: int = 0, shape: tuple[int, ...] = (40, 500)) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "tower.0.weight": (size * rng.standard_normal(shape)).astype(np.float32),
        "tower.0.bias": (size * rng.standard_normal(63)).astype(np.float32),
        "logit_scale": np.asarray(2.5, np.float32),
    }


def shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def one(array: np.ndarray, *, bits: int, top_k: float = 1.0) -> Arrays:
    return encode({"w": np.asarray(array, np.float32)}, bits=bits, top_k=top_k)[0]


def gaussian(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(n).astype(np.float32)


# --- the format -------------------------------------------------------------


def slow_read(packed: Arrays, name: str, n: int) -> list[float]:
    """An array of n entries as the first lines of the module describe it, one entry at a time."""

    def halves(data: bytes) -> list[int]:
        return [half for byte in data for half in (byte & 15, byte >> 4)]

    if name in packed:
        return [float(x) for x in packed[name].ravel()]
    parts = {key.removeprefix(name): part for key, part in packed.items() if key.startswith(name + ":")}
    where = list(range(n))
    if ":i1" in parts:
        bits = "".join(f"{byte:08b}" for byte in parts[":i1"].tolist())
        where = [i for i, bit in enumerate(bits) if bit == "1"]
    elif gaps := {":i4", ":i8", ":i16"} & parts.keys():
        suffix = gaps.pop()
        units = halves(parts[suffix].tobytes()) if suffix == ":i4" else parts[suffix].tolist()
        where, at = [], 0
        for unit in units:
            at += unit
            if unit != 2 ** int(suffix[2:]) - 1:
                where.append(at)
                at += 1
    if ":q32" in parts:
        codes = parts[":q32"].tolist()
    elif {":q4", ":z4"} & parts.keys():
        data = parts[":q4"].tobytes() if ":q4" in parts else zlib.decompress(parts[":z4"].tobytes(), -15)
        codes = [half - 16 if half > 7 else half for half in halves(data)]
    else:
        codes = parts[":q16" if ":q16" in parts else ":q8"].tolist()
    out = [0.0] * n
    for place, (index, code) in enumerate(zip(where, codes, strict=False)):
        scale = 1.0
        if ":s" in parts:
            (scale,) = struct.unpack("<f", b"\0\0" + struct.pack("<H", int(parts[":s"][place // 64])))
        out[index] = code * scale
    return out


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("top_k", PLACES)
def test_decoding_is_the_slow_reading_of_the_documented_format(bits: int, top_k: float) -> None:
    arrays = update(shape=(201, 199))
    packed, _ = encode(arrays, bits=bits, top_k=top_k)
    form = {":i1", ":i4", ":i8", ":i16"} & {key.removeprefix("tower.0.weight") for key in packed}
    assert form == ({PLACES[top_k]} if top_k < 1 else set())
    found = decode(packed, shapes(arrays))
    assert list(found) == list(arrays)
    for name, array in found.items():
        assert array.dtype == np.float32 and array.shape == arrays[name].shape
        assert array.ravel().tolist() == slow_read(packed, name, array.size)


def test_the_bytes_of_a_message_stay_what_they_are() -> None:
    """A server of today reads the sites of tomorrow: a change of these bytes is a change of the protocol."""
    array = np.zeros(67, np.float32)
    array[[0, 1, 2, 3, 66]] = [7, -7, 3, 0.4, -14]
    whole = one(array, bits=4)
    assert {key: part.dtype.name for key, part in whole.items()} == {"w:q4": "uint8", "w:s": "uint16"}
    assert whole["w:q4"].tobytes().hex() == "9703" + "00" * 31 + "09"
    assert whole["w:s"].tolist() == [0x3F80, 0x4000]  # 1 and 2
    few = one(array, bits=8, top_k=4 / 67)
    assert list(few) == ["w:q8", "w:s", "w:i4"]
    # Gaps 0, 0, 0 and 63 = four escapes and 3.
    assert few["w:i4"].tobytes().hex() == "00f0ff3f"
    assert few["w:q8"].tolist() == [63, -63, 27, -127]
    assert few["w:s"].tolist() == [0x3DE2]  # 14 / 127 = 0.11024, rounded up to 0.11035
    # Of codes that deflate makes shorter, the raw stream: zlib's own, so that its bytes are not ours to fix.
    long = one(np.tile(array[:64], 40), bits=4)
    assert {key: part.dtype.name for key, part in long.items()} == {"w:z4": "uint8", "w:s": "uint16"}
    assert zlib.decompress(long["w:z4"].tobytes(), -15).hex() == ("9703" + "00" * 30) * 40


def test_codes_that_deflate_cannot_shorten_go_as_they_are() -> None:
    even = np.random.default_rng(0).integers(-7, 8, 64_000).astype(np.float32)
    even[::64] = 7  # every scale is 1
    few = one(even[:2046], bits=4)  # 1,023 bytes: not tried
    assert "w:q4" in few and "w:q4" in one(np.tile(np.arange(-7, 9, dtype=np.float32).clip(-7, 7), 4), bits=4)
    assert packed_bytes(one(even, bits=4)) <= 32_000 + 2_000


@pytest.mark.parametrize("n", [64, 65, 127, 128, 129, 1000])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_an_entry_is_off_by_no_more_than_half_a_step_of_its_block(n: int, bits: int) -> None:
    array = gaussian(n) * np.float32(10.0) ** np.repeat(np.arange(-8, 8, dtype=np.float32), 64)[:n]
    found = decode(one(array, bits=bits), {"w": (n,)})["w"]
    for start in range(0, n, 64):
        block, read = array[start : start + 64].astype(np.float64), found[start : start + 64]
        step = np.abs(block).max() / LARGEST[bits] * (1 + 2**-7)  # a scale is rounded up to 8 bits
        allowed = np.maximum(np.abs(block) * 2**-11, step * 2**-25) if bits == 16 else step / 2
        assert (np.abs(read - block) <= allowed * (1 + 1e-6)).all()


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-9, 1e-6, 1.0, 1e6, 1e30, 1e38])
def test_no_update_is_too_small_or_too_large_for_the_scales(bits: int, size: float) -> None:
    array = (gaussian(640).clip(-3, 3) * size).astype(np.float32)
    found = decode(one(array, bits=bits), {"w": (640,)})["w"].astype(np.float64)
    noise = np.linalg.norm(found - array) / np.linalg.norm(array.astype(np.float64))
    assert noise < {16: 4e-4, 8: 0.01, 4: 0.15}[bits]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [FLOAT_MAX, -FLOAT_MAX, 1e-38, 1e-40, 1.4e-45, -1.4e-45])
@pytest.mark.parametrize("top_k", [1.0, 0.1])
def test_the_ends_of_float32_stay_finite(bits: int, value: float, top_k: float) -> None:
    array = np.zeros(100, np.float32)
    array[[3, 70]] = value, value / 2
    packed, residual = encode({"w": array}, bits=bits, top_k=top_k)
    found = decode(packed, {"w": (100,)})["w"]
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found + residual.get("w", 0), array)


def test_small_arrays_and_scalars_go_as_they_are() -> None:
    arrays = update()
    packed, residual = encode(arrays, bits=4, top_k=0.1)
    assert list(residual) == ["tower.0.weight"]
    for name in ("tower.0.bias", "logit_scale"):
        np.testing.assert_array_equal(packed[name], arrays[name], strict=True)


@pytest.mark.parametrize(("bits", "top_k"), [(32, 1.0), (16, 1.0), (8, 1.0), (4, 1.0), (4, 0.25), (4, 0.1)])
def test_bytes(bits: int, top_k: float) -> None:
    """Bits an entry: of the value, 16 / 64 of its scale; and of its place 1, or 0.5 at one entry in ten."""
    of_code = {(4, 1.0): 3.52, (4, 0.25): 3.08, (4, 0.1): 2.8}.get(
        (bits, top_k), bits
    )  # what Huffman makes of 4
    expected = top_k * (of_code + (0.25 if bits < 32 else 0)) + {1.0: 0, 0.25: 1, 0.1: 0.51}[top_k]
    assert packed_bytes(one(gaussian(64_000), bits=bits, top_k=top_k)) == pytest.approx(
        64_000 * expected / 8, rel=0.01
    )
    assert packed_bytes({}) == 0


# --- the largest entries ----------------------------------------------------


@pytest.mark.parametrize("k", [1, 10, 40])
def test_the_largest_entries_are_sent_and_among_equals_the_first(k: int) -> None:
    array = np.random.default_rng(2).integers(-5, 6, size=100).astype(np.float32)
    found = decode(one(array, bits=32, top_k=k / 100), {"w": (100,)})["w"]
    first = sorted(range(100), key=lambda i: (-abs(array[i]), i))[:k]
    expected = np.zeros(100, np.float32)
    expected[first] = array[first]
    np.testing.assert_array_equal(found, expected)


def test_zeros_are_not_sent_and_nothing_at_all_is_a_message_too() -> None:
    array = np.zeros(1000, np.float32)
    for bits in BITS:
        packed, residual = encode({"w": array}, bits=bits, top_k=0.1)
        assert packed_bytes(packed) == 0
        np.testing.assert_array_equal(decode(packed, {"w": (1000,)})["w"], array)
        np.testing.assert_array_equal(residual["w"], array)
        np.testing.assert_array_equal(decode(one(array, bits=bits), {"w": (1000,)})["w"], array)
    array[7] = 1
    assert packed_bytes(one(array, bits=8, top_k=0.1)) == 1 + 2 + 1  # code, scale, place


@pytest.mark.parametrize("bits", BITS)
def test_an_array_goes_whole_where_places_cost_more_than_they_save(bits: int) -> None:
    """Places in a bitmap cost 1 bit: above 1 - 1/4.25 of the entries in 4 bits, choosing saves nothing."""
    share = 1 - 1 / (bits + (0.25 if bits < 32 else 0))
    array = gaussian(1600)  # too few for deflate, which takes away from both
    above, below = (one(array, bits=bits, top_k=share + change) for change in (0.005, -0.005))
    assert "w:i1" in below and "w:i1" not in above
    assert packed_bytes(below) <= packed_bytes(above)


def test_places_take_the_fewest_bytes_of_the_four_lists() -> None:
    """Also where they crowd together, so that the share of the entries says little."""
    array = np.zeros(20_000, np.float32)
    array[12_000:13_000] = 1  # 12,000 left out, then 1,000 side by side: one 16-bit unit costs 1,000 of them
    packed = one(array, bits=4, top_k=0.05)
    assert packed["w:i4"].size == (1000 + 12_000 // 15 + 1) // 2
    array[:] = 0
    array[[5, 12_000]] = 1
    assert one(array, bits=4, top_k=0.05)["w:i16"].tolist() == [5, 11_994]
    array[:64] = 1
    assert one(array[:64], bits=32, top_k=0.9)["w:i1"].size == 8


# --- error feedback ---------------------------------------------------------

finite = st.floats(-FLOAT_MAX, FLOAT_MAX, width=32) | st.floats(-1, 1, width=32)


@settings(deadline=None, max_examples=150)
@given(
    array=hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=12), elements=finite),
    bits=st.sampled_from(BITS),
    top_k=st.floats(0.001, 1),
)
def test_what_is_decoded_and_what_is_left_are_the_update(array: np.ndarray, bits: int, top_k: float) -> None:
    packed, residual = encode({"w": array}, bits=bits, top_k=top_k)
    found = decode(packed, {"w": array.shape})["w"]
    rest = residual.get("w", np.zeros_like(array))
    assert found.dtype == rest.dtype == np.float32 and found.shape == rest.shape == array.shape
    assert np.isfinite(found).all() and np.isfinite(rest).all()
    np.testing.assert_array_equal(found + rest, array)
    np.testing.assert_array_equal(found, decode_array(packed, "w", array.shape))
    assert packed_bytes(packed) <= max(array.nbytes, 4) or array.size < 64


@pytest.mark.parametrize(("bits", "top_k"), [(16, 1.0), (8, 1.0), (4, 1.0), (4, 0.1), (32, 0.02)])
def test_over_rounds_nothing_is_lost_and_little_is_owed(bits: int, top_k: float) -> None:
    """EF-SGD: all that was ever decoded, and the last residual, are all that there ever was to send."""
    sent, owed, residual = np.zeros(4000), [], None
    total = np.zeros(4000)
    rng = np.random.default_rng(3)
    drift = 1e-4 * rng.standard_normal(4000)
    for _ in range(120):
        array = (drift + 1e-4 * rng.standard_normal(4000)).astype(np.float32)
        packed, residual = encode({"w": array}, bits=bits, top_k=top_k, residual=residual)
        total += array
        sent += decode(packed, {"w": (4000,)})["w"]
        owed.append(float(np.linalg.norm(residual["w"])))
    np.testing.assert_allclose(sent + residual["w"], total, rtol=0, atol=1e-8)
    # Bounded by (1 - d) / d norms of an update, where d is the share that a message keeps; far below in practice.
    assert max(owed) < np.linalg.norm(array) / top_k
    assert np.linalg.norm(sent - total) < (0.5 if top_k < 0.1 else 0.1) * np.linalg.norm(total)


@settings(deadline=None, max_examples=50)
@given(
    array=hnp.arrays(np.float32, 200, elements=st.floats(-1, 1, width=32)),
    top_k=st.floats(0.005, 0.9),
)
def test_what_is_left_has_at_most_the_energy_that_stich_bounds(array: np.ndarray, top_k: float) -> None:
    _, residual = encode({"w": array}, bits=32, top_k=top_k)
    k = max(1, round(top_k * 200))
    left = float((residual["w"].astype(np.float64) ** 2).sum())
    assert left <= (1 - k / 200) * float((array.astype(np.float64) ** 2).sum()) * (1 + 1e-9)


def test_a_residual_is_paid_back_by_whatever_is_sent_next() -> None:
    arrays = update()
    _, residual = encode(arrays, bits=4, top_k=0.1)
    still = {name: np.zeros_like(array) for name, array in arrays.items()}
    packed, rest = encode(still, bits=32, top_k=1.0, residual=residual)
    assert rest == {}
    np.testing.assert_array_equal(packed["tower.0.weight"], residual["tower.0.weight"])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("top_k", [1.0, 0.2])
def test_the_same_update_gives_the_same_bytes_whatever_its_layout(bits: int, top_k: float) -> None:
    array = gaussian(6000).reshape(60, 100)
    kept = array.copy()
    first, again = one(array, bits=bits, top_k=top_k), one(np.asfortranarray(array), bits=bits, top_k=top_k)
    assert list(first) == list(again)
    assert all(first[key].tobytes() == again[key].tobytes() for key in first)
    np.testing.assert_array_equal(array, kept)


# --- what encode refuses ----------------------------------------------------


@pytest.mark.parametrize("bits", [0, 1, 2, 64, 4.5])
def test_bits_out_of_range(bits: Any) -> None:
    with pytest.raises(ValueError, match=r"federation\.bits"):
        encode({}, bits=bits, top_k=1.0)


@pytest.mark.parametrize("top_k", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_top_k_out_of_range(top_k: float) -> None:
    with pytest.raises(ValueError, match=r"federation\.top-k"):
        encode({}, bits=8, top_k=top_k)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(), (3,), (128,)])
def test_an_update_that_is_not_finite(value: float, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'w' of the update is not finite"):
        one(np.full(shape, value), bits=8)
    huge = {"w": np.full(shape, FLOAT_MAX, np.float32)}
    with pytest.raises(ValueError, match="not finite"):  # nor is its sum with the residual
        encode(huge, bits=8, top_k=1.0, residual=huge)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64])
def test_an_update_that_is_not_float32(dtype: type) -> None:
    with pytest.raises(ValueError, match="only float32 is sent"):
        encode({"w": np.zeros(100, dtype)}, bits=8, top_k=1.0)


def test_a_name_that_looks_like_a_part() -> None:
    with pytest.raises(ValueError, match="colon"):
        encode({"w:q8": np.zeros(100, np.float32)}, bits=8, top_k=1.0)


@pytest.mark.parametrize(
    "residual",
    [{"other": np.zeros(100, np.float32)}, {"w": np.zeros(99, np.float32)}, {"w": np.zeros(100)}],
    ids=["name", "shape", "dtype"],
)
def test_a_residual_of_another_model(residual: Arrays) -> None:
    with pytest.raises(ValueError, match="belongs to another model"):
        encode({"w": np.zeros(100, np.float32)}, bits=8, top_k=1.0, residual=residual)
