"""THE training loop. B batch, V views, C channels, H W pixels, D joint embedding."""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from .config import SmileConfig
from .loader import Batches, ahead, random_seed
from .losses import objective
from .model import Encoding, SmileModel
from .sentences import sentence_source
from .state import State

if TYPE_CHECKING:
    from .moments import Shared

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Captures(Protocol):
    """What training and evaluation need of a prepared site (smile.site.Site) or of several."""

    @property
    def subjects(self) -> np.ndarray: ...  # (n,) str

    @property
    def labels(self) -> np.ndarray: ...  # (n,) str, "" where unlabelled

    @property
    def sequences(self) -> np.ndarray: ...  # (n,) int

    @property
    def times(self) -> np.ndarray: ...  # (n,) float, 0 to 1 within the whole film, NaN unknown

    @property
    def measures(self) -> Mapping[str, np.ndarray]: ...  # name -> (n,) float, NaN where not coded

    @property
    def geometry(self) -> Mapping[str, np.ndarray]: ...  # smile.measurements -> (n,) float mm, NaN unknown

    @property
    def rest(
        self,
    ) -> Mapping[str, np.ndarray]: ...  # the same of the first frame of a film, NaN unknown or no film

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray: ...


def train(
    model: SmileModel,
    captures: Captures,
    config: SmileConfig,
    *,
    rows: np.ndarray,
    first_step: int = 0,
    device: str = "cpu",
    state: State | None = None,
    shared: "Shared | None" = None,
    watch: Callable[[int, dict[str, float]], None] = lambda step, parts: None,
) -> dict[str, float]:
    """Train in place for `training.local_steps` steps, one round, and return the mean of each loss part.

    rows: (m,) int, the captures to train on. first_step: global step of the study (round x local steps), which
    sets the learning rate and every random draw, so that a round can be repeated exactly. state: of the rounds before, where one
    machine trains alone; without it the optimiser starts anew and the averaged weights end in the model. shared: the moments of all
    sites, `smile.moments`. watch: see each step.
    Raises ValueError when there are fewer than two captures or the loss is no longer finite.
    """
    settings, total = config.training, config.federation.rounds * config.training.local_steps
    if len(rows) < 2:
        raise ValueError(
            f"{len(rows)} captures to train on: a site needs two or more outside the held-out subjects"
        )
    kind, alone = torch.device(device).type, state is not None
    state = state or State(model, settings, device=device, proximal=config.federation.proximal)
    source = sentence_source(captures, config, rows, model=model)
    make = Batches(captures, source, config, rows=rows, device=device)
    last_step, sums = first_step + settings.local_steps, dict[str, float]()
    numbers = range(first_step * settings.accumulate, last_step * settings.accumulate)
    model.train()
    with (
        torch.random.fork_rng(devices=[torch.device(device)] if kind == "cuda" else []),
        closing(ahead(make, numbers)) as ready,
    ):
        for step in range(first_step, last_step):
            # Of dropout: a resumed run must draw the same.
            torch.manual_seed(random_seed(settings.seed, 0, step))
            found: list[dict[str, torch.Tensor]] = []
            for _ in range(settings.accumulate):
                batch = make.claim(next(ready))
                with torch.autocast(kind, PRECISIONS[settings.precision], settings.precision != "fp32"):
                    encoding = model(batch.views, batch.mask)
                loss, parts = objective(
                    _full(encoding), batch.targets, model.scale(), config.objective, model.heads, shared
                )
                state.scaler.scale(loss / settings.accumulate).backward()
                found.append(parts)
            rate = settings.learning_rate * schedule(step, total, settings.warm_up)
            if not alone:
                rate *= _gently(step - first_step, settings.local_steps)
            norm = state.update(rate)
            figures = _means(found, norm, step, settings.learning_rate, scaled=state.scaler.is_enabled())
            sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
            watch(step, figures)
    if not alone:
        state.finish()
    return {name: value / settings.local_steps for name, value in sums.items()}


def _gently(step: int, steps: int) -> float:
    """Factor in a round: AdamW starts it without moments, and its first steps are as long as the rate allows."""
    return min(1.0, (step + 1) / max(1, steps // 4))


def schedule(step: int, total: int, warm_up: float = 0.05) -> float:
    """Factor on the peak learning rate: a linear rise over the share `warm_up` of all steps, then half a cosine to 1 %."""
    warm = round(total * warm_up)
    if step < warm:
        return (step + 1) / warm
    progress = min(1.0, (step - warm) / max(1, total - warm))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def _full(encoding: Encoding) -> Encoding:
    """Losses are taken in fp32 whatever the precision of the model."""
    return encoding._replace(
        views=encoding.views.float(), fused=encoding.fused.float(), features=encoding.features.float()
    )


def _means(
    found: list[dict[str, torch.Tensor]], norm: torch.Tensor, step: int, rate: float, *, scaled: bool
) -> dict[str, float]:
    """Loss parts of a step, fetched from the device at once. Raises ValueError where they are not finite.

    scaled: under fp16 a gradient that is not finite skips the step and lowers the scale, which is no fault.
    """
    means = {name: torch.stack([parts[name].to(norm.device) for parts in found]).mean() for name in found[0]}
    *values, length = torch.stack([*means.values(), norm.to(torch.float32)]).tolist()
    figures = dict(zip(means, values, strict=True))
    if not math.isfinite(figures["loss"]) or not (math.isfinite(length) or scaled):
        what = f"loss is {figures['loss']}, its gradient {length}"
        raise ValueError(f"{what} at step {step}: lower training.learning-rate = {rate}")
    return figures
