"""Batches for the training loop, made one step ahead in a thread of their own.

Batch number i follows from the seed and i alone: neither the order of threads nor where a run was stopped can change it.
B batch, V views, C channels, H W pixels, D joint embedding.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch

from .augment import augment
from .config import SmileConfig
from .losses import Targets
from .model import present

if TYPE_CHECKING:
    from .sentences import Source
    from .training import Captures

Made = TypeVar("Made")


def ahead(make: Callable[[int], Made], numbers: range, *, depth: int = 2) -> Generator[Made, None, None]:
    """make(n) for each of `numbers`, in order, with up to `depth` of them made or in the making in one other thread.

    Reading memory-mapped shards and torch's operations let go of Python's lock, so a step runs meanwhile. What `make`
    raises is raised here, in its turn.
    """
    left = iter(numbers)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as thread:
        ready = deque(thread.submit(make, number) for number in islice(left, depth))
        try:
            while ready:
                made = ready.popleft().result()
                ready.extend(thread.submit(make, number) for number in islice(left, 1))
                yield made
        finally:
            for future in ready:
                future.cancel()


def random_seed(*numbers: int) -> int:
    """One seed from several numbers, so that (1, 2) and (2, 1) share nothing."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class Order:
    """Which rows make batch number i: pass after pass over the shuffled rows, none twice in a batch.

    rows: (m,) int; sequences: (m,) int, of each row; frames: how many of a sequence lie side by side in a pass, fewer
    where it has fewer. The end of a pass that fills no batch is left out; every pass leaves out others.
    """

    def __init__(self, rows: np.ndarray, sequences: np.ndarray, *, size: int, frames: int, seed: int) -> None:
        self.rows, self.sequences = rows, sequences
        self.size, self.frames, self.seed = min(size, len(rows)), frames, seed
        self.turn, self.order = -1, rows

    def __getitem__(self, number: int) -> np.ndarray:
        turn, place = divmod(number, len(self.rows) // self.size)
        if turn != self.turn:
            self.turn, self.order = turn, self._shuffled(np.random.default_rng([self.seed, turn]))
        return self.order[place * self.size : (place + 1) * self.size]

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(len(self.rows))
        if self.frames > 1:
            order = order[np.argsort(self.sequences[order], kind="stable")]  # shuffled within each sequence
            starts = np.searchsorted(self.sequences[order], self.sequences[order])
            group = (np.arange(len(order)) - starts) // self.frames
            firsts = np.flatnonzero(np.diff(self.sequences[order] * len(order) + group, prepend=-1))
            groups = np.split(order, firsts[1:])
            order = np.concatenate([groups[i] for i in rng.permutation(len(groups))])
        return self.rows[order]


class Batch(NamedTuple):
    """What a step needs, on its device."""

    views: torch.Tensor  # (B, V, C, H, W) float32, 0..255, augmented
    mask: torch.Tensor | None  # (B, V) bool, None where every view is there
    targets: Targets


class Batches:
    """`batches(i)`: gather, augment, draw sentences. On a GPU the copy and the augmentation take a stream of their own."""

    def __init__(
        self,
        captures: "Captures",
        source: "Source",
        config: SmileConfig,
        *,
        rows: np.ndarray,
        device: str = "cpu",
    ) -> None:
        settings = config.training
        self.captures, self.source, self.config = captures, source, config
        self.order = Order(
            rows,
            captures.sequences[rows],
            size=settings.batch_size,
            frames=settings.frames,
            seed=settings.seed,
        )
        self.subjects = torch.from_numpy(np.unique(captures.subjects, return_inverse=True)[1])
        self.sequences = torch.from_numpy(np.asarray(captures.sequences, np.int64))
        self.times = torch.from_numpy(np.asarray(captures.times, np.float32))
        self.device = torch.device(device)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def __call__(self, number: int) -> Batch:
        generator = torch.Generator().manual_seed(random_seed(self.config.training.seed, 1, number))
        rows = self.order[number]
        views = torch.from_numpy(self.captures.gather(rows, self.config.model.modalities))
        if self.stream is None:
            return self._finish(rows, views, generator)
        with torch.cuda.stream(self.stream):
            batch = self._finish(rows, views.pin_memory(), generator)
        self.stream.synchronize()  # this thread waits, not the step
        return batch

    def _finish(self, rows: np.ndarray, views: torch.Tensor, generator: torch.Generator) -> Batch:
        whole = bool(present(views).all())  # of bytes on the CPU: a hundredth of what it costs afterwards
        views = augment(self._moved(views), self.config, generator)
        text, classes, negatives = self.source(rows, generator)
        expressions = self.source.expressions
        targets = Targets(
            text=self._moved(text),
            classes=self._moved(classes),
            subjects=self._moved(self.subjects[rows]),
            sequences=self._moved(self.sequences[rows]),
            times=self._moved(self.times[rows]),
            negatives=None if negatives is None else self._moved(negatives),
            expressions=None if expressions is None else self._moved(expressions),
        )
        return Batch(views, None if whole else present(views), targets)

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)

    def claim(self, batch: Batch) -> Batch:
        """Tell the GPU's allocator that the step's stream uses what the loader's stream made."""
        if self.stream is not None:
            tensors: list[Any] = [batch.views, batch.mask, *batch.targets]
            for tensor in tensors:
                if tensor is not None:
                    tensor.record_stream(torch.cuda.current_stream(self.device))
        return batch
