"""An .npy in memory as numpy reads it, or not at all."""

import io

import numpy as np
import pytest

from smile import npy


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int8", "uint8", "uint16", "int64", "bool"]
)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 4, 5), (1, 1)])
def test_what_numpy_saved_is_seen_to_the_bit_and_without_a_copy(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    data = saved(array)
    found = npy.view(data, dtype, shape)
    assert found is not None
    np.testing.assert_array_equal(found, array, strict=True)
    assert not found.flags.writeable
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (saved(np.zeros((3, 4), np.float32)), "float32", (4, 3)),
        (saved(np.zeros((3, 4), np.float32)), "float64", (3, 2)),
        (saved(np.zeros((3, 4), np.float32))[:-1], "float32", (3, 4)),
        (saved(np.zeros((3, 4), np.float32)) + b"x", "float32", (3, 4)),
        (saved(np.asfortranarray(np.zeros((3, 4), np.float32))), "float32", (3, 4)),
        (saved(np.zeros(4, ">f4")), "float32", (4,)),
        (saved(np.zeros((0, 4), np.float32)), "float32", (0, 4)),
        (b"", "float32", (4,)),
        (b"\x93NUMPY", "float32", (1 << 40, 1 << 40)),
    ],
)
def test_anything_else_is_left_to_numpy(data: bytes, dtype: str, shape: tuple[int, ...]) -> None:
    assert npy.view(data, dtype, shape) is None


@pytest.mark.parametrize("dtype", ["object", "O"])
def test_objects_are_never_seen(dtype: str) -> None:
    assert npy.view(b"\x93NUMPY" + bytes(200), dtype, (2,)) is None
