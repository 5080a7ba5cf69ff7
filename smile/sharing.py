"""Which arrays of a model a federation shares, and which stay at each site."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .tuning import shared_names

if TYPE_CHECKING:
    from .model import SmileModel

WORDS = ("norms", "fusion", "projector", "heads")


def split_names(model: "SmileModel", personal: str) -> tuple[list[str], list[str]]:
    """Names of the arrays that are averaged, and of those that each site keeps to itself, in the model's order.

    personal: `a,b,c` of `norms` (parameters and statistics of every normalisation layer, as in FedBN, Li et al. 2021), `fusion`,
    `projector`, `heads` (parts of the model) and patterns of names (`tower.layers.0.*`). What is never sent for another reason
    (`tuning.shared_names`) is in neither list. Raises ValueError for a word that fits no array, and where nothing is left to share.
    """
    names = shared_names(model)
    kept: set[str] = set()
    for word in filter(None, (word.strip() for word in personal.split(","))):
        found = _fits(model, word, names)
        if not found:
            raise ValueError(
                f"federation.personal = {word!r} fits no array of the model: give {', '.join(WORDS)} or patterns of names like {names[0]!r}"
            )
        kept |= found
    shared = [name for name in names if name not in kept]
    if not shared:
        raise ValueError(f"federation.personal = {personal!r} leaves nothing to share: name fewer arrays")
    return shared, [name for name in names if name in kept]


def _fits(model: "SmileModel", word: str, names: list[str]) -> set[str]:
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    if word == "norms":
        norms = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)
        layers = {path for path, module in model.named_modules() if isinstance(module, norms)}
        return {name for name in names if name.rpartition(".")[0] in layers}
    if word in WORDS:
        return {name for name in names if name.startswith(f"{word}.")}
    return {name for name in names if fnmatchcase(name, word)}
