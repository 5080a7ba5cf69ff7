"""Arrays out of the messages of sites, and into those for them: sizes, bytes that lie, weights that are made when they are asked for."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message

from server.checks import Unusable
from smile import protocol, wire


def read_array(array: Array) -> np.ndarray:
    """An array that a site sent. Raises Unusable: any other text might be the site's."""
    try:
        found = protocol.read_array(array)
    except Exception as error:
        raise Unusable(f"its bytes are no array: {type(error).__name__}") from None
    if not isinstance(found, np.ndarray) or (str(found.dtype), found.shape) != (
        array.dtype,
        tuple(array.shape),
    ):
        raise Unusable("its bytes are not what it says of them")  # `bytes_of` goes by what it says
    return found


def inside(array: Array, like: np.ndarray) -> np.ndarray:
    """`like`, float32, as a view of the bytes that a message sends of it: read-only, without memory of its own."""
    return np.frombuffer(array.data, "<f4", offset=len(array.data) - like.nbytes).reshape(like.shape)


def bytes_of(record: Any) -> int:
    """Bytes of the values of an ArrayRecord, by what it says of them."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in record.values())


def let_go(message: Message) -> None:
    """Empty the arrays of a message that nobody needs any more, whoever still holds the message.

    Nothing here or at a site asks for `content.array_records`: what it returns and the content hold each other (flwr 1.41), and only the
    garbage collector, sometime, would free what may be a model.
    """
    for record in arrays_in(message):
        record.clear()


def arrays_in(message: Message) -> list[ArrayRecord]:
    content = message.content.values() if message.has_content() else ()
    return [record for record in content if isinstance(record, ArrayRecord)]


class Weights(Mapping[str, np.ndarray]):
    """A site's weights out of its reply, each made when it is asked for: whole, or the sent ones plus a packed update."""

    def __init__(self, record: ArrayRecord, reference: Mapping[str, np.ndarray], *, packed: bool) -> None:
        self.record, self.reference, self.packed = record, reference, packed
        self.parts: dict[str, list[str]] = {}
        for key in record:
            self.parts.setdefault(key.partition(":")[0] if packed else key, []).append(key)

    def __getitem__(self, name: str) -> np.ndarray:
        if not self.packed:
            return read_array(self.record[name])
        found = {key: read_array(self.record[key]) for key in self.parts[name]}
        try:
            sent = wire.decode(found, {name: self.reference[name].shape})[name]
        except ValueError as error:  # which quotes only names of ours
            raise Unusable(str(error)) from None
        with np.errstate(over="ignore"):  # the checks refuse what is not finite
            return np.asarray(self.reference[name] + sent)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)
