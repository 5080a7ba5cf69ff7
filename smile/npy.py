"""The values of an .npy of known type and shape in memory, without a copy."""

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np


def values(array: Any) -> np.ndarray:
    """The values of a Flower `Array`, read-only where they can be had without a copy; raises what its `numpy()` raises."""
    found = view(array.data, array.dtype, array.shape) if array.stype == "numpy.ndarray" else None
    return array.numpy() if found is None else found


def view(data: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray | None:
    """The array that `numpy.save` wrote into `data`, read-only and in the memory of `data`.

    None where the header is not to the byte the one that `numpy.save` writes for this type and shape, where the length is another,
    and for an empty array: then numpy must read it, in five times the time. Raises what numpy raises for an impossible type.
    """
    head = _header(dtype, tuple(shape))
    values = memoryview(data)[len(head) :]
    found = np.dtype(dtype)
    size = int(np.prod(shape, dtype=object)) * found.itemsize
    if not size or found.hasobject or len(values) != size or not data.startswith(head):
        return None
    return np.frombuffer(values, found).reshape(shape)


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()
