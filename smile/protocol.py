"""The plain data in which `client` and `server` meet: array names, metric names, error codes, fingerprints."""

import hashlib
import io
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .site.disk import sha256

if TYPE_CHECKING:
    from .model import SmileModel

# The only numbers beside the arrays that a site sends, each a plain figure over all its captures.
METRICS = (
    "num-examples",
    "seconds",
    "loss",
    "decorrelation",
    "alignment",
    "redundancy",
    "redundancy_skipped",
    "temporal",
    "sibling",
    "critic",
)

# Everything a server ever learns of a failure at a site. The details stay in the site's own log.
ERRORS = {
    101: "the site's prepared data cannot be opened",
    102: "the site was prepared with other view settings than the study asks for",
    103: "the site runs another version of the program, of the prompt bank or of the pretrained weights",
    104: "the site's data cannot be trained on (too few captures, or the loss is not finite)",
    106: "the site does not allow the study's pretrained weights (node config `pretrained`)",
    105: "the site failed for a reason that only its own log tells",
    107: "the site no longer has the model of the round before",
    108: "the site cannot keep what the study wants kept (node config `state`)",
    109: "the site has fewer people than the study's smallest cohort",
}
NO_BASE = 107  # the server then sends the whole model


class MessageArray(Protocol):
    """`flwr.app.Array`: what it says of itself, and bytes as `np.save` writes them."""

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: bytes

    def numpy(self) -> np.ndarray: ...


def read_array(array: MessageArray) -> np.ndarray:
    """`array.numpy()`, a copy, in a tenth of the time: numpy parses the header as Python, here it is compared with the one expected.

    Raises what numpy raises where the bytes are no array.
    """
    dtype, shape = np.dtype(array.dtype), array.shape
    plain = array.stype == "numpy.ndarray" and dtype.kind in "fiub" and all(n >= 0 for n in shape)
    header = _npy_header(dtype.str, shape) if plain else b""
    if not header or not array.data.startswith(header):
        return array.numpy()  # in Fortran's order, or not what it says
    return np.frombuffer(array.data, dtype, offset=len(header)).reshape(shape).copy()


@lru_cache(maxsize=512)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def get_arrays(model: "SmileModel") -> dict[str, np.ndarray]:
    """What is shared and stored, float32 by name, as copies: see `tuning.shared_names`."""
    from .tuning import shared_names

    state = model.state_dict()
    return {name: state[name].detach().cpu().float().numpy().copy() for name in shared_names(model)}


def load_arrays(model: "SmileModel", arrays: dict[str, np.ndarray]) -> None:
    """Put arrays into the model. Raises ValueError unless names and shapes are exactly the model's."""
    import torch

    from .tuning import shared_names

    state = model.state_dict()
    expected = {name: tuple(state[name].shape) for name in shared_names(model)}
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    if found != expected:
        wrong = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise ValueError(
            f"{len(wrong)} arrays do not fit the model, first {wrong[0]!r}: "
            f"expected {expected.get(wrong[0])}, found {found.get(wrong[0])}"
        )
    with torch.no_grad():
        for name in expected:
            state[name].copy_(torch.from_numpy(np.array(arrays[name])))


def weights_hash(pretrained: str) -> str:
    """SHA-256 of the file that `model.pretrained` names, "" for a published tag or none.

    What is frozen is not sent, so the pieces beside it may only be averaged where all sites hold the same file.
    """
    return sha256(Path(pretrained)) if Path(pretrained).is_file() else ""


@cache
def source_fingerprint() -> str:
    """SHA-256 over this package's source: server and sites must run the same mathematics.

    Read once a process: what counts is the code that was loaded, not what is edited meanwhile.
    """
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
