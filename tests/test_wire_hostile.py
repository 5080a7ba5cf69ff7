"""What a hostile or broken peer can send instead of a small message: read or refused, in bounds of memory."""

import math
import tracemalloc
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile.wire import BITS, decode, encode

Arrays = dict[str, np.ndarray]
SHARES = (1.0, 0.25, 0.1, 0.01, 0.0003)  # of the entries: each has another list of places


def one(array: np.ndarray, *, bits: int, top_k: float = 1.0) -> Arrays:
    return encode({"w": np.asarray(array, np.float32)}, bits=bits, top_k=top_k)[0]


def gaussian(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(n).astype(np.float32)


N = 20_000


def deflated(part: np.ndarray) -> np.ndarray:
    return np.frombuffer(zlib.compress(part.tobytes(), wbits=-15), np.uint8)


def replaced(packed: Arrays, suffix: str, at: int, value: Any) -> Arrays:
    part = packed["w" + suffix].copy()
    part[at] = value
    return packed | {"w" + suffix: part}


def hostile_streams(whole: Arrays, plain: np.ndarray) -> dict[str, tuple[Any, str]]:
    """Of 4-bit codes that are deflated, `plain` before they were."""
    stream, undeflated = whole["w:z4"], {"w:q4": plain, "w:s": whole["w:s"]}
    return {
        "deflated code -8": (whole | {"w:z4": deflated(plain & 0 | 0x88)}, "codes that stand for nothing"),
        "deflated codes and codes": (whole | undeflated, "do not belong together"),
        "deflated cut short": (whole | {"w:z4": stream[:-3]}, "are damaged"),
        "deflated and more": (whole | {"w:z4": np.append(stream, np.uint8(0))}, "are damaged"),
        "deflated junk": (whole | {"w:z4": np.full(5000, 0xFF, np.uint8)}, "are damaged"),
        "deflated codes too few": (whole | {"w:z4": deflated(plain[1:])}, "are damaged"),
        "deflated codes too many": (whole | {"w:z4": deflated(np.append(plain, plain))}, "are damaged"),
        "a bomb": (whole | {"w:z4": deflated(np.zeros(5_000_000, np.uint8))}, "are damaged"),
        "deflated longer than the codes": (whole | {"w:z4": np.zeros(N // 2, np.uint8)}, "longer than the codes"),
        "deflated in two dimensions": (whole | {"w:z4": stream[None]}, "longer than the codes"),
        "deflated as int8": (whole | {"w:z4": stream.view(np.int8)}, "not uint8"),
        "deflated as a list": (whole | {"w:z4": stream.tolist()}, "longer than the codes"),
    }  # fmt: skip


def hostile() -> dict[str, tuple[Any, str]]:
    """What was sent for one array `w` of N entries, and the part of the sentence that it is to meet."""
    array = gaussian(N)
    whole = {bits: one(array, bits=bits) for bits in BITS}
    plain = np.frombuffer(zlib.decompress(whole[4]["w:z4"], -15), np.uint8)
    undeflated = {"w:q4": plain, "w:s": whole[4]["w:s"]}
    few = {top_k: one(array, bits=8, top_k=top_k) for top_k in SHARES if top_k < 1}
    cases: dict[str, tuple[Any, str]] = {
        "nothing": ({}, "'w' is missing"),
        "another name": ({"v": array}, "1 arrays of the message are unknown"),
        "a name too many": (whole[8] | {"secret of a patient": array}, "1 arrays of the message are unknown"),
        "a number as name": (whole[8] | {7: array}, "1 arrays of the message are unknown"),
        "scales alone": ({"w:s": whole[8]["w:s"]}, "do not belong together"),
        "codes alone": ({"w:q8": whole[8]["w:q8"]}, "do not belong together"),
        "places alone": ({"w:i8": few[0.01]["w:i8"]}, "do not belong together"),
        "two forms": (whole[32] | whole[8], "do not belong together"),
        "two codes": (whole[8] | whole[4], "do not belong together"),
        "two places": (few[0.1] | {"w:i8": few[0.01]["w:i8"]}, "do not belong together"),
        "float32 with scales": ({"w:q32": array, "w:s": whole[8]["w:s"]}, "do not belong together"),
        "float32 in the form of a choice": ({"w:q32": array}, "do not belong together"),
        "float64": ({"w": array.astype(np.float64)}, "'w' of the message is not float32"),
        "big-endian": ({"w": array.astype(">f4")}, "not float32"),
        "shape": ({"w": array.reshape(2, -1)}, "not float32 of shape (20000,)"),
        "a list": ({"w": array.tolist()}, "not float32"),
        "objects": ({"w": array.astype(object)}, "not float32"),
        "codes as floats": (whole[8] | {"w:q8": array}, "'w:q8' of the message is not int8"),
        "codes too few": (whole[8] | {"w:q8": whole[8]["w:q8"][1:]}, "not int8 of shape (20000,)"),
        "codes in two dimensions": (whole[8] | {"w:q8": whole[8]["w:q8"][None]}, "not int8"),
        "code -128": (replaced(whole[8], ":q8", 5, -128), "codes that stand for nothing"),
        "code -8": (replaced(undeflated, ":q4", 5, 0x80), "codes that stand for nothing"),
        "code above 1": (replaced(whole[16], ":q16", 5, 1.001), "codes that stand for nothing"),
        "scales too few": (whole[8] | {"w:s": whole[8]["w:s"][1:]}, "'w:s' of the message is not uint16"),
        "scales as float16": (whole[8] | {"w:s": whole[8]["w:s"].view(np.float16)}, "not uint16"),
        "bitmap too short": (few[0.25] | {"w:i1": few[0.25]["w:i1"][1:]}, "not uint8 of shape (2500,)"),
        "a bit more in the bitmap": (replaced(few[0.25], ":i1", slice(0, 9), 255), "not int8 of shape"),
        "gaps longer than a bitmap": (few[0.01] | {"w:i8": np.zeros(N, np.uint8)}, "longer than a bitmap"),
        "gaps of another type": (few[0.01] | {"w:i8": few[0.01]["w:i8"].view(np.int8)}, "not uint8"),
        "gaps in two dimensions": (few[0.01] | {"w:i8": few[0.01]["w:i8"][None]}, "longer than a bitmap"),
        "gaps as a list": (few[0.01] | {"w:i8": [1, 2]}, "longer than a bitmap"),
        "a gap less": (few[0.01] | {"w:i8": few[0.01]["w:i8"][1:]}, "not int8 of shape"),
        "nothing but escapes": (few[0.01] | {"w:i8": np.full(9, 255, np.uint8)}, "not int8 of shape (0,)"),
        "beyond the end, 4 bits": (few[0.1] | {"w:i4": np.full(2500, 0xEE, np.uint8)}, "entries beyond its 20000"),
        "beyond the end, 8 bits": (few[0.01] | {"w:i8": np.full(200, 254, np.uint8)}, "entries beyond its 20000"),
        "beyond the end, 16 bits": (few[0.0003] | {"w:i16": np.full(6, 65_534, np.uint16)}, "entries beyond"),
    }  # fmt: skip
    cases |= hostile_streams(whole[4], plain)
    for bits in (16, 8, 4):
        for name, scale in {"nan": 0x7FC0, "inf": 0x7F80, "negative": 0xBF80, "most of all": 0xFFFF}.items():
            cases[f"scale {name}, {bits} bits"] = (replaced(whole[bits], ":s", 3, scale), "not finite")
    for value in (math.nan, math.inf, -math.inf):
        cases[f"{value} in 32 bits"] = (replaced(whole[32], "", 5, value), "'w' is not finite")
        cases[f"{value} in 16 bits"] = (replaced(whole[16], ":q16", 5, value), "stand for nothing")
        cases[f"{value} among the largest"] = (
            replaced(one(array, bits=32, top_k=0.1), ":q32", 5, value),
            "'w' is not finite",
        )
    return cases


@pytest.mark.parametrize("case", hostile().items(), ids=lambda case: case[0])
def test_a_hostile_message_is_refused_in_one_sentence_of_our_own_words(
    case: tuple[str, tuple[Any, str]],
) -> None:
    _, (packed, sentence) = case
    with pytest.raises(ValueError, match=r".") as error:
        decode(packed, {"w": (N,)})
    text = str(error.value)
    assert sentence in text and "\n" not in text and len(text) < 150
    assert "secret" not in text


def test_filled_up_bytes_must_be_empty() -> None:
    """N - 1 entries end in the middle of a byte: what stands in the other half would be a way to hide something."""
    array = gaussian(N - 1)
    for bits, top_k, suffix in ((4, 1.0, ":q4"), (8, 0.25, ":i1")):
        packed = one(array, bits=bits, top_k=top_k)
        if bits == 4:
            codes = np.frombuffer(zlib.decompress(packed.pop("w:z4"), -15), np.uint8)
            packed["w:q4"] = codes
        dirty = replaced(packed, suffix, -1, packed["w" + suffix][-1] | (0x10 if bits == 4 else 0x01))
        decode(packed, {"w": (N - 1,)})
        with pytest.raises(ValueError, match=r"stand for nothing|beyond its 19999"):
            decode(dirty, {"w": (N - 1,)})


@pytest.mark.parametrize(
    ("form", "units"),
    [(":i4", [0xFF] * 9 + [0x9F]), (":i8", [255, 39]), (":i16", [294])],  # 19 x 15 + 9 = 255 + 39 = 294
)
def test_the_last_place_is_the_end_and_no_further(form: str, units: list[int]) -> None:
    part = np.array(units, np.uint16 if form == ":i16" else np.uint8)
    packed = {"w:q32": np.float32([3]), "w" + form: part}
    found = decode(packed, {"w": (295,)})["w"]
    assert found[294] == 3 and np.count_nonzero(found) == 1
    with pytest.raises(ValueError, match="entries beyond its 294"):
        decode(packed, {"w": (294,)})


def test_the_largest_codes_and_scales_that_pass_stay_finite() -> None:
    for bits, codes in ((16, np.float16([1, -1])), (8, np.int8([127, -127])), (4, np.uint8([0x97, 0x97]))):
        packed = {f"w:q{bits}": np.tile(codes, 32 if bits != 4 else 16), "w:s": np.uint16([0])}
        refused = 0
        for scale in range(0x10000):
            if scale in (0, 0x7F7F, 0x7F80) or scale % 997 == 0 or 0x7B00 < scale < 0x7E20:
                try:
                    found = decode(packed | {"w:s": np.uint16([scale])}, {"w": (64,)})["w"]
                    assert np.isfinite(found).all()
                except ValueError:
                    refused += 1
        assert refused


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damaged_messages_are_read_or_refused(data: st.DataObject) -> None:
    arrays = {"tower.0.weight": 1e-3 * gaussian(2460).reshape(60, 41), "logit_scale": gaussian(1).reshape(())}
    packed, _ = encode(
        arrays, bits=data.draw(st.sampled_from(BITS)), top_k=data.draw(st.sampled_from(SHARES))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(packed)))
        raw = packed[key].tobytes()
        match data.draw(st.sampled_from(["bytes", "cut", "repeat", "type", "rename", "drop"])):
            case "bytes" if raw:
                at = data.draw(st.integers(0, len(raw) - 1))
                raw = raw[:at] + data.draw(st.binary(min_size=1, max_size=1)) + raw[at + 1 :]
                packed[key] = np.frombuffer(raw, packed[key].dtype).reshape(packed[key].shape)
            case "cut":
                packed[key] = packed[key].ravel()[: data.draw(st.integers(0, packed[key].size))]
            case "repeat":
                packed[key] = np.tile(packed[key].ravel(), data.draw(st.integers(0, 3)))
            case "type":
                types = ["u1", "i1", "u2", "f2", "f4", "f8", "M8[s]", "c8"]
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    # Of a second damage that takes the imaginary part away again.
                    warnings.simplefilter("ignore")
                    packed[key] = packed[key].astype(data.draw(st.sampled_from(types)), casting="unsafe")
            case "rename":
                suffix = data.draw(
                    st.sampled_from(["", ":s", ":q4", ":z4", ":q8", ":i1", ":i4", ":i8", ":i16"])
                )
                packed[key.split(":")[0] + suffix] = packed.pop(key)
            case "drop" if len(packed) > 1:
                del packed[key]
    try:
        found = decode(packed, {name: array.shape for name, array in arrays.items()})
    except ValueError:
        return
    assert list(found) == list(arrays)
    for name, array in found.items():
        assert array.dtype == np.float32 and array.shape == arrays[name].shape and np.isfinite(array).all()


@pytest.mark.parametrize("form", [":i1", ":i4", ":i8", ":i16"])
def test_a_long_list_takes_no_more_memory_than_the_array(form: str) -> None:
    """Lists are checked before anything is allocated: 100 MB of places for an array of 80 KB."""
    packed = {"w:q32": np.zeros(5, np.float32), "w" + form: np.zeros(100_000_000, np.uint8)}
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bitmap|not uint8"):
        decode(packed, {"w": (N,)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * N + 10_000


@pytest.mark.parametrize("top_k", [1.0, 0.25, 0.1])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_reading_takes_about_twice_the_memory_of_what_is_read(bits: int, top_k: float) -> None:
    packed = one(gaussian(1_000_000), bits=bits, top_k=top_k)
    tracemalloc.start()
    decode(packed, {"w": (1000, 1000)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.1 * 4_000_000
