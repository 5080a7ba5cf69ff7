"""Updates as small messages: fp16, 8 or 4 bits, or only the largest entries; what is lost goes with the next update.

An array `name` of n entries, flat in C order, travels as one of these groups of arrays:

    name                 float32 in its own shape: all of it, or fewer than 64 entries (nothing is to be gained there)
    name:q16 + name:s    float16 (n,), codes -1..1; one scale for each block of 64 entries
    name:q8  + name:s    int8 (n,), codes -127..127
    name:q4  + name:s    uint8 (ceil(n/2),): codes -7..7 in two's complement, two a byte, the first in the low half;
                         after an odd number the high half is 0
    name:z4 + name:s     the bytes of q4 as a raw deflate stream (RFC 1951), uint8, where that is shorter: Gaussian entries need 3.5 bits

An entry is code x scale. A scale is the upper half of a float32, uint16 (ceil(n/64),), that is a bfloat16, for float16 has no
range: an update of 1e-6 has 8-bit scales of 8e-9, of which float16 makes 0. It is rounded up, so that no code is clipped. fp16
has scales too: bare, it would round that update to multiples of 6e-8, 6 % of it.

Of the k entries largest in magnitude only their values are sent, as above (`name:q32` is float32) with k in the place of n,
and beside them one of four lists of where they are, whichever takes the fewest bytes:

    name:i1              uint8 (ceil(n/8),), one bit an entry, the first entry in the highest bit
    name:i4 :i8 :i16     gaps in units of 4, 8, 16 bits (uint8, two a byte and the first in the low half; uint8; uint16):
                         the number of entries left out before each sent one. The largest unit, 15, 255 or 65535, is an
                         escape: so many are left out, and the gap goes on in the next unit. Escapes at the end mean nothing.

Packing 4 bits loses nothing more; leaving out the smaller entries does (docs/log.md).

Error feedback: Seide et al., "1-bit stochastic gradient descent", Interspeech 2014; Karimireddy et al., "Error feedback fixes
SignSGD", ICML 2019; with the largest entries alone: Stich et al., "Sparsified SGD with memory", NeurIPS 2018. One scale a block:
Dettmers et al., "8-bit optimizers via block-wise quantization", ICLR 2022.
"""

import math
import zlib
from collections.abc import Mapping

import numpy as np

BITS = (32, 16, 8, 4)
BLOCK = 64  # entries that share a scale: 0.25 bit an entry
DEFLATED = 1024  # bytes of 4-bit codes from which deflate is tried
_LARGEST_CODE = {":q16": 1, ":q8": 127, ":q4": 7, ":z4": 7}
_VALUES = {":q32": np.float32, ":q16": np.float16, ":q8": np.int8, ":q4": np.uint8, ":z4": np.uint8}
_PLACES = {":i1": np.uint8, ":i4": np.uint8, ":i8": np.uint8, ":i16": np.uint16}
_SUFFIXES = ("", ":s", *_VALUES, *_PLACES)

Arrays = dict[str, np.ndarray]


def encode(
    arrays: Mapping[str, np.ndarray],
    *,
    bits: int,
    top_k: float,
    residual: Mapping[str, np.ndarray] | None = None,
) -> tuple[Arrays, Arrays]:
    """An update, float32 by name, as the arrays of a message, and what the message lost of it, to be given with the next.

    bits: 32, 16, 8 or 4 an entry. top_k: share of an array's entries that is sent, 0 < top_k <= 1; zeros never are, ties go to
    the first. An array goes whole where the list of places would cost more than the entries left out. residual: what the last
    message lost; names may be absent. Of what is returned, decoded + residual is update + old residual, but for the rounding of
    that sum to float32; arrays sent exactly have no residual, and share memory with `arrays`. The same input gives the same bytes.

    Raises ValueError for settings out of range, arrays that are not float32 or not finite, and a residual of another model.
    """
    if bits not in BITS:
        raise ValueError(f"{bits} bits an entry cannot be sent: set federation.bits to 32, 16, 8 or 4")
    if not 0 < top_k <= 1:
        raise ValueError(f"federation.top-k = {top_k} is no share of the entries: set it above 0, at most 1")
    if alien := sorted((residual or {}).keys() - arrays.keys()):
        raise ValueError(f"the residual belongs to another model, which has {alien[0]!r}: remove it")
    packed: Arrays = {}
    lost: Arrays = {}
    for name, array in arrays.items():
        total = _total(name, array, (residual or {}).get(name))
        parts, rest = _encode_array(total, bits=bits, top_k=top_k)
        packed |= {name + suffix: part for suffix, part in parts.items()}
        if rest is not None:
            lost[name] = rest
    return packed, lost


def decode(packed: Mapping[str, np.ndarray], like: Mapping[str, tuple[int, ...]]) -> Arrays:
    """What `encode` was given, less what it lost: finite float32 in the names and shapes of `like`, and in its order.

    Beside the result it takes, one array at a time, about the memory of that array. Raises ValueError, quoting only names of
    `like`, for anything that `encode` does not write for these shapes.
    """
    if unknown := len(packed.keys() - {name + suffix for name in like for suffix in _SUFFIXES}):
        raise ValueError(f"{unknown} arrays of the message are unknown: send those of the model alone")
    return {name: decode_array(packed, name, shape) for name, shape in like.items()}


def decode_array(packed: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One array of `decode`, for who cannot hold all of them. An array sent whole in 32 bits shares memory with `packed`."""
    found = [suffix for suffix in _SUFFIXES if name + suffix in packed]
    if not found:
        raise ValueError(f"array {name!r} is missing: send every array of the model")
    if found == [""]:
        return _finite(name, _part(packed, name, "", np.float32, shape))
    values = [suffix for suffix in found if suffix in _VALUES]
    places = [suffix for suffix in found if suffix in _PLACES]
    scales = [] if values == [":q32"] else [":s"]
    whole = not places and scales  # float32 without places has a form of its own
    if len(values) != 1 or not (whole or len(places) == 1) or set(found) != {*values, *scales, *places}:
        raise ValueError(f"the parts of array {name!r} do not belong together: send it in one form")
    n = math.prod(shape)
    if whole:
        return _decode_values(packed, name, values[0], n).reshape(shape)
    out = np.zeros(n, np.float32)
    where, count = _decode_places(packed, name, places[0], n)
    out[where] = _decode_values(packed, name, values[0], count)
    return out.reshape(shape)


def packed_bytes(packed: Mapping[str, np.ndarray]) -> int:
    """Bytes of the arrays of a message, without their names and headers."""
    return sum(array.nbytes for array in packed.values())


def _total(name: str, array: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
    """What there is to be sent: the update and what the last message lost, float32 in the update's shape."""
    if ":" in name:
        raise ValueError(
            f"the array name {name!r} has a colon, which marks the parts of a message: rename it"
        )
    if array.dtype != np.float32:
        raise ValueError(f"array {name!r} is {array.dtype}: only float32 is sent")
    total = array
    if residual is not None:
        if residual.dtype != np.float32 or residual.shape != array.shape:
            raise ValueError(f"the residual of array {name!r} belongs to another model: remove it")
        with np.errstate(over="ignore"):  # refused below
            total = np.asarray(array + residual)
    if not np.isfinite(total).all():
        raise ValueError(f"array {name!r} of the update is not finite: lower the learning rate")
    return total


def _encode_array(total: np.ndarray, *, bits: int, top_k: float) -> tuple[Arrays, np.ndarray | None]:
    """Suffix -> part of the message, and what is lost in the shape of `total`, None where nothing can be."""
    flat = total.reshape(-1)
    n = flat.size
    k = max(1, round(top_k * n))
    # A bitmap is the dearest list of places that is ever sent.
    sparse = _bytes_of_values(k, bits) + -(-n // 8) < _bytes_of_values(n, bits)
    if n < BLOCK or (bits == 32 and not sparse):
        return {"": total}, None
    if not sparse:
        parts, sent = _encode_values(flat, bits)
        return parts, (flat - sent).reshape(total.shape)
    keep = _largest(flat, k)
    values = flat[keep]
    parts, sent = _encode_values(values, bits)
    rest = flat.copy()
    rest[keep] = values - sent
    return parts | _encode_places(keep), rest.reshape(total.shape)


def _bytes_of_values(n: int, bits: int) -> int:
    """Bytes of n entries with their scales."""
    return -(-n * bits // 8) + (0 if bits == 32 else 2 * -(-n // BLOCK))


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """(n,) -> (n,) bool: the k largest in magnitude without the zeros; among equals the first."""
    size = np.abs(values)
    edge = np.partition(size, size.size - k)[size.size - k]
    keep = size > edge
    if edge > 0:
        keep[np.flatnonzero(size == edge)[: k - np.count_nonzero(keep)]] = True
    return keep


def _encode_values(values: np.ndarray, bits: int) -> tuple[Arrays, np.ndarray]:
    """Values (n,) float32 -> suffix -> part, and what a receiver will read, (n,) float32."""
    if bits == 32:
        return {":q32": values}, values
    codes, scales = _quantise(values, bits)
    suffix, part = f":q{bits}", codes
    if bits == 4:
        suffix, part = _shortest(_two_a_byte(codes.view(np.uint8)))
    return {suffix: part, ":s": scales}, _times_scales(codes, scales)


def _shortest(part: np.ndarray) -> tuple[str, np.ndarray]:
    """4-bit codes, two a byte, as they are or deflated, and the suffix that says so."""
    if part.size >= DEFLATED:
        # Huffman codes alone: there are no repetitions to be found, and looking for them takes four times as long.
        deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
        shorter = deflate.compress(part.tobytes()) + deflate.flush()
        if len(shorter) < part.size:
            return ":z4", np.frombuffer(shorter, np.uint8)
    return ":q4", part


def _inflated(packed: Mapping[str, np.ndarray], name: str, size: int) -> np.ndarray:
    """The (size,) uint8 that were deflated. Raises ValueError where they are others, before more than `size` are made."""
    part = packed[name + ":z4"]
    if not isinstance(part, np.ndarray) or part.ndim != 1 or size < DEFLATED or part.nbytes >= size:
        raise ValueError(f"the deflated codes of array {name!r} are longer than the codes: send these")
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # A byte too many is asked for, so that the end of the stream is read, and no more than that is made of a bomb.
        codes = stream.decompress(_part(packed, name, ":z4", np.uint8, part.shape).tobytes(), size + 1)
    except zlib.error:
        codes = b""
    if len(codes) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"the deflated codes of array {name!r} are damaged: send them again")
    return np.frombuffer(codes, np.uint8)


def _decode_values(packed: Mapping[str, np.ndarray], name: str, suffix: str, n: int) -> np.ndarray:
    """The n values of an array, flat float32."""
    if suffix == ":z4":
        codes = _inflated(packed, name, -(-n // 2))
    else:
        stored = -(-n // 2) if suffix == ":q4" else n
        codes = _part(packed, name, suffix, _VALUES[suffix], (stored,))
    if suffix == ":q32":
        return _finite(name, codes)
    if suffix in (":q4", ":z4"):
        codes = _sign(_one_a_byte(codes))
    scales, largest = _part(packed, name, ":s", np.uint16, (-(-n // BLOCK),)), _LARGEST_CODE[suffix]
    if suffix == ":q16":  # as integers, which are faster to compare; Inf and NaN lie above 1
        inside = not n or (codes.view(np.uint16) & np.uint16(0x7FFF)).max() <= np.float16(1).view(np.uint16)
    else:
        inside = not n or (codes.min() >= -largest and not codes[n:].any())
    if not inside:
        raise ValueError(f"array {name!r} has codes that stand for nothing: send -{largest} to {largest}")
    if n and scales.max() > _largest_scale(largest):
        # Again as integers: negative scales, Inf and NaN lie above the largest one too.
        raise ValueError(f"array {name!r} has scales that are negative, too large or not finite: send others")
    return _times_scales(codes[:n], scales)


def _quantise(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) float32 -> codes (n,), float16 or int8, and scales (ceil(n/64),) uint16."""
    n, largest = values.size, _LARGEST_CODE[f":q{bits}"]
    padded = values if n % BLOCK == 0 else np.pad(values, (0, -n % BLOCK))
    blocks = padded.reshape(-1, BLOCK)
    peaks = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    halves = ((peaks / np.float32(largest)).view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)
    scales = np.minimum(halves, _largest_scale(largest)).astype(np.uint16)
    steps = _floats(scales)
    steps[steps == 0] = 1  # a block of zeros, or of values below 1e-43, which all get the code 0
    ratios = blocks / steps[:, None]
    if bits != 16:
        np.rint(ratios, out=ratios)
    np.clip(ratios, -largest, largest, out=ratios)  # at the end of float32 a scale cannot be rounded up
    return ratios.astype(np.float16 if bits == 16 else np.int8).reshape(-1)[:n], scales


def _times_scales(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Codes (n,) and scales (ceil(n/64),) uint16 -> (n,) float32; exact, for at most 11 bits x 8 bits fit into 24."""
    out, steps = codes.astype(np.float32), _floats(scales)
    whole = codes.size // BLOCK
    blocks = out[: whole * BLOCK].reshape(whole, BLOCK)  # a view
    blocks *= steps[:whole, None]
    out[whole * BLOCK :] *= steps[whole:]
    return out


def _floats(scales: np.ndarray) -> np.ndarray:
    """Upper halves of float32, uint16 -> float32."""
    return (scales.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _largest_scale(largest: int) -> int:
    """The largest scale, as uint16, with which no code overflows float32."""
    return int((np.finfo(np.float32).max / np.float32(largest)).view(np.uint32) >> 16)


def _two_a_byte(units: np.ndarray, *, filler: int = 0) -> np.ndarray:
    """Units (n,) uint8, of which the low halves count -> (ceil(n/2),) uint8; `filler` follows an odd number."""
    if units.size % 2:
        units = np.append(units, np.uint8(filler))
    return (units[0::2] & np.uint8(15)) | (units[1::2] << np.uint8(4))


def _one_a_byte(part: np.ndarray) -> np.ndarray:
    """(m,) uint8 -> units 0..15, (2m,) uint8."""
    out = np.empty(2 * part.size, np.uint8)
    out[0::2] = part & np.uint8(15)
    out[1::2] = part >> np.uint8(4)
    return out


def _sign(units: np.ndarray) -> np.ndarray:
    """Units 0..15, uint8 -> -8..7, int8."""
    return (units << np.uint8(4)).view(np.int8) >> np.int8(4)


def _encode_places(keep: np.ndarray) -> Arrays:
    """(n,) bool -> the shortest list of places, as one part by its suffix."""
    index = np.flatnonzero(keep)
    best, units = -(-keep.size // 8), 1
    if 4 * index.size < keep.size:  # else gaps cannot be shorter
        gaps = np.diff(index, prepend=-1) - 1
        for width in (4, 8, 16):
            size = -(-(index.size + int((gaps // (2**width - 1)).sum())) * width // 8)
            if size < best:
                best, units = size, width
    if units == 1:
        return {":i1": np.packbits(keep)}
    escape = 2**units - 1
    places = np.arange(index.size) + np.cumsum(gaps // escape)
    out = np.full(places[-1] + 1 if index.size else 0, escape, _PLACES[f":i{units}"])
    out[places] = gaps % escape
    return {f":i{units}": _two_a_byte(out, filler=escape) if units == 4 else out}


def _decode_places(
    packed: Mapping[str, np.ndarray], name: str, suffix: str, n: int
) -> tuple[np.ndarray, int]:
    """What picks the sent entries out of n, a mask (n,) bool or indices in rising order, and their number."""
    bitmap = -(-n // 8)
    if suffix == ":i1":
        part = _part(packed, name, suffix, np.uint8, (bitmap,))
        mask = np.unpackbits(part).view(bool)
        if mask[n:].any():
            raise ValueError(f"array {name!r} has entries beyond its {n}: send places within it")
        return mask[:n], int(np.count_nonzero(mask))
    part = packed[name + suffix]
    if not isinstance(part, np.ndarray) or part.ndim != 1 or part.nbytes > bitmap:
        # So long a list would also be the way to fill a server's memory.
        raise ValueError(f"the places of array {name!r} are longer than a bitmap: send a bitmap")
    part = _part(packed, name, suffix, _PLACES[suffix], part.shape)
    units = _one_a_byte(part) if suffix == ":i4" else part
    sent = units != 2 ** int(suffix[2:]) - 1
    index = np.cumsum(units, dtype=np.int64)[sent]
    index += np.arange(index.size)
    if index.size and index[-1] >= n:  # they rise, so that the last is the largest
        raise ValueError(f"array {name!r} has entries beyond its {n}: send places within it")
    return index, index.size


def _part(
    packed: Mapping[str, np.ndarray], name: str, suffix: str, dtype: type, shape: tuple[int, ...]
) -> np.ndarray:
    """A part of the message, once it is known to be what the form asks for; nothing is allocated before."""
    part = packed[name + suffix]
    if not isinstance(part, np.ndarray) or part.dtype != dtype or part.shape != tuple(shape):
        expected = f"{np.dtype(dtype)} of shape {tuple(shape)}"
        raise ValueError(f"part {name + suffix!r} of the message is not {expected}: send it as such")
    return part


def _finite(name: str, part: np.ndarray) -> np.ndarray:
    if not np.isfinite(part).all():
        raise ValueError(f"array {name!r} is not finite: send finite values")
    return part
