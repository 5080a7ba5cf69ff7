"""THE local training loop. B batch, V views, C channels, H W pixels, D joint embedding."""

import math
from typing import Protocol

import numpy as np
import torch

from .augment import augment
from .config import SmileConfig
from .losses import objective
from .model import SmileModel
from .text import prompt_embeddings


class Captures(Protocol):
    """What training and evaluation need of a prepared site (smile.site.Site) or of several."""

    @property
    def subjects(self) -> np.ndarray: ...  # (n,) str

    @property
    def labels(self) -> np.ndarray: ...  # (n,) str, "" where unlabelled

    @property
    def sequences(self) -> np.ndarray: ...  # (n,) int

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray: ...


def train(
    model: SmileModel,
    captures: Captures,
    config: SmileConfig,
    *,
    rows: np.ndarray,
    first_step: int = 0,
    device: str = "cpu",
) -> dict[str, float]:
    """Train in place for `training.local_steps` steps and return the mean of each loss part.

    rows: (m,) int, the captures to train on. first_step: global step of the study (round x local steps), which
    sets the learning rate and the random draws, so that a round can be repeated exactly.
    Raises ValueError when there are fewer than two captures or the loss is no longer finite.
    """
    settings = config.training
    if len(rows) < 2:
        raise ValueError(
            f"{len(rows)} captures to train on: a site needs two or more outside the held-out subjects"
        )
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + first_step)
    total = config.federation.rounds * settings.local_steps
    prompts = PromptDraw(captures.labels, config)
    model.to(device).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    sums: dict[str, float] = {}
    for step, batch in enumerate(
        batches(rows, settings.batch_size, settings.local_steps, generator), start=first_step
    ):
        # AdamW starts each round without moments, and its first steps are as long as the rate allows.
        fresh = min(1.0, (step - first_step + 1) / max(1, settings.local_steps // 4))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, total) * fresh
        views = torch.from_numpy(captures.gather(batch, config.model.modalities)).to(device)
        views = augment(views, config, generator)
        text, classes = prompts(batch, generator)
        loss, parts = objective(
            model(views), text.to(device), classes.to(device), model.scale(), config.objective
        )
        if not torch.isfinite(loss):
            raise ValueError(
                f"loss is {loss.item()} at step {step}: lower training.learning-rate = {settings.learning_rate}"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: value / settings.local_steps for name, value in sums.items()}


def schedule(step: int, total: int) -> float:
    """Factor on the peak learning rate: linear warm-up over 5 % of all steps, then half a cosine to 1 %."""
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    progress = min(1.0, (step - warm) / max(1, total - warm))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def batches(rows: np.ndarray, size: int, steps: int, generator: torch.Generator) -> list[np.ndarray]:
    """`steps` batches of row numbers: pass after pass over shuffled `rows`, no row twice in one batch."""
    size = min(size, len(rows))
    result: list[np.ndarray] = []
    while len(result) < steps:
        order = rows[torch.randperm(len(rows), generator=generator).numpy()]
        result += [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    return result[:steps]


class PromptDraw:
    """Draws one sentence for each capture of a batch; captures without one get class -1."""

    def __init__(self, labels: np.ndarray, config: SmileConfig) -> None:
        bank = prompt_embeddings(config.model)
        names = list(bank)
        self.sentences = torch.from_numpy(np.stack(list(bank.values())))  # (K, P, D)
        use_labels = config.objective.prompt_source == "label"
        self.classes = torch.tensor([names.index(x) if use_labels and x else -1 for x in labels.tolist()])

    def __call__(self, rows: np.ndarray, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """rows: (B,) -> text (B, D) float32, classes (B,) int."""
        classes = self.classes[rows]
        sentence = torch.randint(self.sentences.shape[1], (len(rows),), generator=generator)
        return self.sentences[classes.clamp(min=0), sentence], classes
