"""What of a tower is trained: all of it, or little pieces beside a frozen one (LoRA, an adapter, prompt tokens).

N pictures, C channels, H W pixels, L tokens, E token width, W tower width, r rank.
"""

import copy
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from .config import CHANNELS, ModelConfig
from .towers import build_tower

if TYPE_CHECKING:
    from .model import SmileModel


def build_tuned_tower(model: ModelConfig, *, channels: int, size: int) -> nn.Module:
    """The tower of `model` with what `model.tuning` trains of it: (N, channels, size, size) float32 -> (N, W).

    A frozen tower keeps its own colour stem; other channels are first mixed to three by a learned 1 x 1 convolution.
    Raises ValueError where the tower is unknown or cannot be tuned in this way.
    """
    if model.tuning == "full":
        return build_tower(model.tower, pretrained=model.pretrained, channels=channels, size=size)
    tower = build_tower(model.tower, pretrained=model.pretrained, channels=3, size=size)
    tower.requires_grad_(False)
    if model.tuning == "lora":
        tower = _with_lora(tower, rank=model.rank, size=size)
    elif model.tuning == "adapter":
        with torch.inference_mode():
            width = tower.eval()(torch.zeros(1, 3, size, size)).shape[-1]
        tower = nn.Sequential(tower, Adapter(width, model.rank))
    else:
        _add_prompts(tower, name=model.tower, count=model.rank)
    return tower if channels == 3 else nn.Sequential(_mix(model.modalities), tower)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser gets."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """The two groups of an optimiser: matrices and kernels, which decay, and the rest: biases, gains, the temperature.

    A gain of shape (C, 1, 1) has one number a channel and is no kernel.
    """
    taken = list(parameters)
    decays = [p.ndim > 1 and p.numel() > p.shape[0] for p in taken]
    kernels = [p for p, decay in zip(taken, decays, strict=True) if decay]
    others = [p for p, decay in zip(taken, decays, strict=True) if not decay]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def shared_names(model: "SmileModel") -> list[str]:
    """Names of the arrays that a federation sends and a checkpoint stores, in the order of `state_dict`.

    What is trained, and the batch statistics of a tower that is trained. Nothing else: what is frozen, every site builds from
    the same pretrained weights or from the seed, and other buffers may hold single people (`smile.siblings.Centroids`).
    """
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not model.tower_is_frozen:
        names |= {name for name, buffer in model.named_buffers() if name.startswith("tower.")}
    return [name for name, t in model.state_dict().items() if name in names and t.is_floating_point()]


def merged(model: "SmileModel") -> "SmileModel":
    """The same function without LoRA layers: a copy whose tower's weights hold what they learned.

    The model itself where nothing was tuned by LoRA.
    """
    from peft import PeftModel

    if not any(isinstance(module, PeftModel) for module in model.modules()):
        return model
    result = copy.deepcopy(model)
    for path, module in list(result.named_modules()):
        if isinstance(module, PeftModel):
            parent, _, name = path.rpartition(".")
            plain: Any = module
            setattr(result.get_submodule(parent), name, plain.merge_and_unload())
    return result


def _mix(modalities: tuple[str, ...]) -> nn.Conv2d:
    """Channels -> three that a colour stem takes. It starts from the sum of the modalities, depth being grey, at unit variance."""
    mix = nn.Conv2d(sum(CHANNELS[m] for m in modalities), 3, 1, bias=False)
    parts = [torch.eye(3) if CHANNELS[m] == 3 else torch.ones(3, 1) for m in modalities]
    with torch.no_grad():
        mix.weight.copy_((torch.cat(parts, dim=1) / len(modalities) ** 0.5)[:, :, None, None])
    return mix


def _with_lora(tower: nn.Module, *, rank: int, size: int) -> nn.Module:
    """LoRA (Hu et al. 2021) by peft on every linear layer and dense convolution that the tower calls, but the stem."""
    from peft import LoraConfig, get_peft_model

    write_out_attention(tower, torch.zeros(1, 3, size, size))
    targets = "|".join(re.escape(name) for name in _called_layers(tower, size=size))
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    wrapped: Any = tower
    return get_peft_model(wrapped, settings)


def write_out_attention(tower: nn.Module, picture: torch.Tensor, *, fused: bool = True) -> None:
    """Put `SelfAttention` in the place of every nn.MultiheadAttention that can be: the same function with the same parameters.

    picture: (1, C, H, W) that the tower takes. fused: by one kernel of torch, else by products and a softmax.
    """
    for path in _self_attention(tower, picture):
        parent, _, name = path.rpartition(".")
        attention: Any = tower.get_submodule(path)
        setattr(tower.get_submodule(parent), name, SelfAttention(attention, fused=fused))


def _self_attention(tower: nn.Module, picture: torch.Tensor) -> list[str]:
    """Names of the plain nn.MultiheadAttention that the tower calls with one sequence as query, key and value, and no mask.

    Others stay as they are: the pooling of a CoCa asks the picture with learned queries.
    """
    fits: dict[nn.Module, bool] = {}

    def note(module: Any, inputs: tuple[torch.Tensor, ...], options: dict[str, Any]) -> None:
        one = len(inputs) == 3 and inputs[0] is inputs[1] is inputs[2]
        plain = (
            module.batch_first and module.bias_k is None and not module.add_zero_attn and not module.dropout
        )
        masked = any(options[name] is not None for name in options.keys() - {"need_weights"})
        fits[module] = fits.get(module, True) and one and plain and not masked

    found = {path: m for path, m in tower.named_modules() if isinstance(m, nn.MultiheadAttention)}
    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in found.values()]
    _call(tower, picture)
    for hook in hooks:
        hook.remove()
    return [path for path, module in found.items() if fits.get(module)]


def _call(tower: nn.Module, picture: torch.Tensor) -> None:
    with torch.inference_mode():
        tower.eval()(picture)


def _called_layers(tower: nn.Module, *, size: int) -> list[str]:
    """Names of the layers that LoRA can change, in the order of their calls.

    Only a layer that is called can be wrapped: open_clip's attention pooling, for one, reads its layers' weights instead.
    """
    names: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: names.append(name))
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and getattr(module, "groups", 1) == 1
    ]
    _call(tower, torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    stem = next(name for name, module in tower.named_modules() if isinstance(module, nn.Conv2d))
    return [name for name in names if name != stem]


def _add_prompts(tower: Any, *, name: str, count: int) -> None:
    from open_clip.transformer import VisionTransformer

    if not isinstance(tower, VisionTransformer):
        raise ValueError(
            f"model.tuning = 'prompt' needs a tower of tokens with a class token, and model.tower = {name!r} is none: "
            "choose lora or adapter, or one of open_clip's own ViT towers such as ViT-B-32"
        )
    width = tower.class_embedding.shape[-1]
    tower.transformer = Prompted(tower.transformer, width=width, count=count)


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of a token sequence with itself, its weights as two linear layers that peft can wrap.

    peft also wraps nn.MultiheadAttention, by adding and subtracting the change of the weights at every call: the frozen weights
    drift by rounding, so that no site could rebuild them.
    """

    def __init__(self, like: nn.MultiheadAttention, *, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = like.num_heads, fused
        self.qkv = nn.Linear(like.embed_dim, 3 * like.embed_dim, bias=like.in_proj_bias is not None)
        self.qkv.weight, self.qkv.bias = like.in_proj_weight, like.in_proj_bias
        self.out: nn.Linear = like.out_proj

    def forward(
        self,
        x: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        need_weights: bool = False,
        attn_mask: None = None,
    ) -> tuple[torch.Tensor, None]:
        """x: (N, L, E), which is query, key and value -> (N, L, E), None."""
        assert x is key is value and attn_mask is None, (
            "attention of one sequence with another, or with a mask"
        )
        width = x.shape[-1] // self.heads
        q, k, v = (
            part.unflatten(-1, (self.heads, width)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        if self.fused:
            result = F.scaled_dot_product_attention(q, k, v)
        else:
            result = (q @ k.mT * width**-0.5).softmax(dim=-1) @ v
        return self.out(result.transpose(1, 2).flatten(2)), None


class Adapter(nn.Module):
    """x + up(gelu(down(x))): a bottleneck on the features of a frozen tower (FedCLIP style); it starts as the identity."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, W) -> (N, W)."""
        return x + self.up(F.gelu(self.down(x)))


class Prompted(nn.Module):
    """A transformer that also sees `count` learned tokens after the class token (visual prompt tuning, shallow)."""

    def __init__(self, transformer: nn.Module, *, width: int, count: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.tokens = nn.Parameter(torch.randn(count, width) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, L, E), class token first -> (N, L, E): the prompts are taken out again."""
        tokens = self.tokens.to(x.dtype).expand(x.shape[0], -1, -1)  # len() would fix the batch at export
        x = self.transformer(torch.cat([x[:, :1], tokens, x[:, 1:]], dim=1))
        return torch.cat([x[:, :1], x[:, 1 + len(self.tokens) :]], dim=1)
