"""What a site does with the weights before and after it trains: its own layers, FedEMA's blend, kept moments, what to keep."""

from typing import TYPE_CHECKING

import numpy as np

from smile.config import SmileConfig

if TYPE_CHECKING:
    import torch

    from client.app import Round
    from smile.model import SmileModel
    from smile.state import State

Arrays = dict[str, np.ndarray]
# The last model, and what it began with where it was asked for twice.
_last: "list[tuple[SmileConfig, SmileModel, list[torch.Tensor]]]" = []


def fresh_model(config: SmileConfig) -> "SmileModel":
    """`build_model`, which takes as long as a short round: where one process plays many sites, the same model begins anew.

    The one given before is then no longer to be used. A site's own process sees one message and holds nothing beside its model.
    With pretrained weights a file could change between two calls.
    """
    import torch

    from smile.model import build_model

    if config.model.pretrained:
        return build_model(config)
    known, model, start = _last[0] if _last else (None, None, [])
    if model is not None and known == config and start:
        with torch.no_grad():
            for tensor, first in zip((*model.parameters(), *model.buffers()), start, strict=True):
                tensor.copy_(first)
        model.zero_grad()
        return model.train()
    model = build_model(config)
    tensors = (*model.parameters(), *model.buffers()) if known == config else ()
    _last[:] = [(config, model, [tensor.detach().clone() for tensor in tensors])]
    return model


def part(kept: Arrays, name: str) -> Arrays:
    """The arrays that were kept under `name`: `personal`, `own`, `base`, `residual`, `optimiser`, `blend`."""
    return {key.partition("|")[2]: array for key, array in kept.items() if key.startswith(f"{name}|")}


def together(**parts: Arrays) -> Arrays:
    """The other way: one table for `client.memory`."""
    return {f"{name}|{key}": array for name, arrays in parts.items() for key, array in arrays.items()}


def wants_memory(config: SmileConfig) -> bool:
    """Whether the study lets a site keep anything between rounds."""
    f = config.federation
    return bool(f.personal or f.blend or f.optimiser == "kept" or f.bits < 32 or f.top_k < 1)


def begin(model: "SmileModel", config: SmileConfig, incoming: Arrays, kept: Arrays) -> None:
    """Put into the model the weights that came in, the site's own layers, and with `federation.blend` a share of its own model.

    FedEMA (Zhuang et al. 2022): W = (1 - mu) W_g + mu W_k, mu = min(1, lambda d), lambda = tau / d of the first round, d the distance
    that the site's last training went. Published for convolutions; we take all arrays with two or more dimensions.
    """
    import torch

    own, state = part(kept, "own"), model.state_dict()
    blend = part(kept, "blend")
    share = 0.0
    if config.federation.blend and own and blend:
        share = min(
            1.0, config.federation.blend * float(blend["distance"]) / max(float(blend["first"]), 1e-12)
        )
    with torch.no_grad():
        for name, array in incoming.items():
            if share and name in own and own[name].shape == array.shape:
                array = (1 - share) * array + share * own[name]
            state[name].copy_(torch.from_numpy(np.array(array, np.float32)))
        for name, array in part(kept, "personal").items():
            if name in state and tuple(state[name].shape) == array.shape:
                state[name].copy_(torch.from_numpy(np.array(array)))


def distance(before: Arrays, after: Arrays) -> float:
    """Mean over the arrays with two or more dimensions of the L2 distance between them."""
    names = [name for name, array in before.items() if array.ndim > 1]
    return (
        float(np.mean([np.linalg.norm((after[name] - before[name]).ravel()) for name in names]))
        if names
        else 0.0
    )


def optimiser(model: "SmileModel", config: SmileConfig, kept: Arrays, *, device: str) -> "State | None":
    """The state to train with: with kept moments one that goes on; else None, and a new one is made, but for FedProx's pull."""
    import torch

    from smile.state import State

    settings = config.federation
    if settings.optimiser == "fresh":
        return None
    state = State(model, config.training, device=device, proximal=settings.proximal)
    moments = part(kept, "optimiser")
    if moments:
        state.restore_moments(
            {f"optimiser.{name}": torch.from_numpy(array) for name, array in moments.items()}
        )
    return state


def keep(r: "Round", state: "State | None", before: Arrays, after: Arrays, residual: Arrays) -> Arrays:
    """What the site keeps of this round, as the study's settings ask, for `client.memory`."""
    settings, parts = r.config.federation, {"personal": {name: after[name] for name in r.personal}}
    if settings.bits < 32 or settings.top_k < 1:
        # The model after `number - 1` rounds, to which the next message may be a difference.
        parts |= {"residual": residual, "base": {**r.incoming, "round": np.array(r.number - 1)}}
    if settings.optimiser == "kept" and state is not None:
        moments = {
            name.removeprefix("optimiser."): tensor.cpu().numpy() for name, tensor in state.moments().items()
        }
        parts["optimiser"] = moments
    if settings.blend:
        went = np.array(distance(before, after))
        parts["own"] = {name: after[name] for name in r.incoming}
        parts["blend"] = {"distance": went, "first": part(r.kept, "blend").get("first", went)}
    return together(**parts)
