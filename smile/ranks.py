"""Several GPUs of one site as one batch: embeddings and targets of all ranks, with gradients to each rank's own."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from .losses import Targets
    from .model import Encoding


def of_all_ranks(encoding: "Encoding", targets: "Targets") -> tuple["Encoding", "Targets"]:
    """The captures of all ranks, with gradients to each rank's own; as they are where there is one rank."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return encoding, targets
    both: torch.Tensor = AllGather.apply(torch.cat([encoding.fused.unsqueeze(1), encoding.views], dim=1))
    mask = encoding.mask
    if mask is None:  # another rank may have one
        mask = torch.ones_like(encoding.views[..., 0], dtype=torch.bool)
    everyone: list[Any] = [None if x is None else _gather(x) for x in targets._replace(expressions=None)]
    mask = _gather(mask.to(torch.uint8)).bool()
    gathered = type(targets)(*everyone)._replace(expressions=targets.expressions)  # the same at every rank
    return encoding._replace(views=both[:, 1:], fused=both[:, 0], mask=mask), gathered


def _gather(x: torch.Tensor) -> torch.Tensor:
    found = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(found, x.contiguous())
    return torch.cat(found)


class AllGather(torch.autograd.Function):
    """(B, ...) of each rank -> (ranks x B, ...), by rank; backwards each rank gets its rows of the gradients of all ranks, added."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return _gather(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
