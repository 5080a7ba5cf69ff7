"""What a site does beside training: the model of a round, arrays out of messages."""

import io

import numpy as np
import pytest
import torch
from flwr.app import Array

from client.rounds import fresh_model
from smile.config import SmileConfig
from smile.model import build_model
from smile.protocol import get_arrays, read_array


def all_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that are not saved too."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_a_model_that_begins_anew_is_the_one_that_is_built(small_config: SmileConfig) -> None:
    expected, given = all_of(build_model(small_config)), []
    for _ in range(4):
        model = fresh_model(small_config)
        given.append(id(model))
        found = all_of(model)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert model.training and all(p.grad is None for p in model.parameters())
        with torch.no_grad():  # a round: everything moves, and an evaluation follows
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.copy_(torch.full_like(tensor, 7))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        model.eval()
    assert given[2] == given[3]  # from the third on it is not built again


def test_the_model_of_other_settings_is_another(small_config: SmileConfig) -> None:
    from dataclasses import replace

    for _ in range(3):
        fresh_model(small_config)
    other = replace(small_config, training=replace(small_config.training, seed=5))
    for config in (other, small_config, other, other, other):
        found, expected = get_arrays(fresh_model(config)), get_arrays(build_model(config))
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


ARRAYS = [
    np.zeros(0, np.float32),
    np.zeros((3, 0), np.int8),
    np.array(2.5, np.float32),
    np.array(7),
    np.array([True, False]),
    np.arange(6, dtype=">f4").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24, dtype=np.float16).reshape(2, 3, 4)[:, ::2],
    np.array([np.nan, -np.inf, -0.0], np.float32),
]


@pytest.mark.parametrize("values", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
def test_an_array_is_read_as_numpy_reads_it(values: np.ndarray) -> None:
    sent, unread = Array(values), Array(values)
    if values.flags.c_contiguous or not values.flags.f_contiguous:
        unread.numpy = None  # type: ignore[method-assign,assignment]  # numpy's reader is not asked
    found, expected = read_array(unread), sent.numpy()
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes() and found.flags.writeable
    assert not np.shares_memory(found, np.frombuffer(sent.data, np.uint8))


HEADER = len(Array(np.zeros((2, 3), np.float32)).data) - 24


@pytest.mark.parametrize(
    ("stype", "data"),
    [
        ("torch.tensor", Array(np.zeros((2, 3), np.float32)).data),
        ("numpy.ndarray", Array(np.zeros((2, 3), np.float32)).data[:-4]),
        ("numpy.ndarray", Array(np.zeros((2, 3), np.float32)).data + b"abcd"),
        ("numpy.ndarray", Array(np.zeros((2, 3), np.float32)).data[:HEADER]),
        ("numpy.ndarray", b""),
        ("numpy.ndarray", b"\x93NUMPY"),
    ],
)
def test_bytes_that_are_no_array_are_refused(stype: str, data: bytes) -> None:
    with pytest.raises((ValueError, TypeError, EOFError)):
        read_array(Array("float32", (2, 3), stype, data))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("object", (2, 3)), ("float32", (-1,)), ("float32", (2, -3)), ("f4,f4", (3,)), ("float33", (2, 3))],
)
def test_a_lie_of_what_the_bytes_are_is_refused(dtype: str, shape: tuple[int, ...]) -> None:
    header = io.BytesIO()
    descr = np.dtype(dtype).str if dtype != "float33" else "<f4"
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    with pytest.raises((ValueError, TypeError, EOFError)):
        read_array(Array(dtype, shape, "numpy.ndarray", header.getvalue() + bytes(23)))
