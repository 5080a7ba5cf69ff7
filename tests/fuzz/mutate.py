"""Valid files made wrong: the same seed and case number always give the same bytes."""

import re

import numpy as np

_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_HEAD = 400  # bytes in which counts stand
# fmt: off
_WRONG = (b"", b"0", b"-1", b"1", b"2", b"255", b"65536", b"2147483647", b"4294967296", b"99999999999999999999", b"-99999999999",
          b"1e5", b"1e308", b"1e999", b"-1e30", b"nan", b"inf", b"-inf", b"1.5.2", b"0x10", b"1,5", b"\xd9\xa3", b"--3", b"1e-320")
_BYTES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\x01\0\0\0",
          b"\0\0\0\0\0\0\xf8\x7f", b"\xff\xff\xff\xff\xff\xff\xef\x7f", b"\0\0\0\0\0\0\xf0\xff")
# fmt: on


def mutated(seeds: list[bytes], *, seed: int, case: int) -> bytes:
    """One of `seeds` after one to four changes; case 0.. of a run are the seeds as they are."""
    if case < len(seeds):
        return seeds[case]
    rng = np.random.default_rng([seed, case])
    data = seeds[rng.integers(len(seeds))]
    for _ in range(int(rng.integers(1, 5))):
        change = _CHANGES[rng.integers(len(_CHANGES))]
        data = change(data, rng, seeds)
    return data


def _places(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """(start, stop) of a stretch, mostly a short one."""
    start = int(rng.integers(len(data) + 1))
    longest = int(rng.choice([1, 8, 64, 1024, len(data)]))
    return start, min(start + int(rng.integers(longest + 1)), len(data))


def flip_bits(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    if not data:
        return data
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        out[rng.integers(len(out))] ^= 1 << rng.integers(8)
    return bytes(out)


def overwrite(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """Numbers of a binary file become the largest, the least, NaN."""
    wrong = _BYTES[rng.integers(len(_BYTES))]
    reach = len(data) if rng.random() < 0.5 else min(len(data), _HEAD)
    start = int(rng.integers(reach + 1))
    return data[:start] + wrong + data[start + len(wrong) :]


def truncate(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def delete(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    start, stop = _places(data, rng)
    return data[:start] + data[stop:]


def repeat(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    start, stop = _places(data, rng)
    return data[:stop] + data[start:stop] * int(rng.integers(1, 4)) + data[stop:]


def splice(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    other = seeds[rng.integers(len(seeds))]
    start, stop = _places(other, rng)
    at = int(rng.integers(len(data) + 1))
    return data[:at] + other[start:stop] + data[at + (stop - start) * int(rng.integers(2)) :]


def insert(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at:]


def number(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    return _token(data, rng, len(data))


def count(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """A number near the beginning, where headers state how much follows."""
    return _token(data, rng, _HEAD)


def _token(data: bytes, rng: np.random.Generator, reach: int) -> bytes:
    found = list(_NUMBER.finditer(data, 0, min(reach, len(data))))
    if not found:
        return data
    start, stop = found[rng.integers(len(found))].span()
    return data[:start] + _WRONG[rng.integers(len(_WRONG))] + data[stop:]


def lines(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """A line removed, repeated or brought elsewhere."""
    rows = data.split(b"\n")
    row = rows.pop(rng.integers(len(rows)))
    for _ in range(int(rng.integers(3))):
        rows.insert(int(rng.integers(len(rows) + 1)), row)
    return b"\n".join(rows)


def blanks(data: bytes, rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    old, new = ((b"\n", b"\r\n"), (b"\n", b"\r"), (b" ", b"\t"), (b" ", b"  "), (b"\n", b" "), (b" ", b""))[
        rng.integers(6)
    ]
    return data.replace(old, new, int(rng.choice([1, 3, -1])))


_CHANGES = (
    flip_bits,
    overwrite,
    truncate,
    delete,
    repeat,
    splice,
    insert,
    number,
    number,
    count,
    count,
    lines,
    blanks,
)
