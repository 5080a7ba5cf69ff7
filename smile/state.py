"""What a training step changes, and how it is put on disk so that a killed run goes on to the bit.

One state is `step-NNNNNNNN.safetensors` and a `.json` with its checksum, written last: without it the state is absent.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .checkpoint import write_arrays
from .config import TrainingConfig
from .model import SmileModel
from .site.disk import TEMPORARY, sha256, sync_folder, write_json
from .tuning import decay_groups

KEEP = 2  # states on disk: the newest, and the one before should the newest be damaged


class State:
    """The model, its averaged weights, the optimiser, the scale of fp16 losses, and the number of steps done.

    Random numbers and the place in the data are no part of it: both follow from the seed and the step alone.
    """

    def __init__(
        self, model: SmileModel, settings: TrainingConfig, *, device: str = "cpu", proximal: float = 0.0
    ) -> None:
        """proximal: mu of FedProx (Li et al. 2020), whose term mu/2 |w - w_0|^2 pulls towards the weights of this moment."""
        self.model, self.settings, self.step = model.to(device), settings, 0
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names, self.trained = list(trained), list(trained.values())
        # One kernel for all weights; it goes by memory and not by strides, and moments that were stored lie in C order.
        fused = all(parameter.is_contiguous() for parameter in self.trained) or None  # None: as torch does
        groups = decay_groups(self.trained, settings.weight_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
        self.scaler = torch.amp.GradScaler(torch.device(device).type, enabled=settings.precision == "fp16")
        self.average = [p.detach().clone() for p in self.trained] if settings.ema else []
        self.proximal = proximal
        self.anchor = [p.detach().clone() for p in self.trained] if proximal else []

    def update(self, rate: float) -> torch.Tensor:
        """One step along the gradients that are there, clipped; returns their norm before clipping, a scalar tensor."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.scaler.unscale_(self.optimiser)
        for parameter, start in zip(self.trained, self.anchor, strict=bool(self.anchor)):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.proximal)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.average:
            # Rising at first, else the average of a short run would be little but the weights it began with.
            decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.trained], 1 - decay)
        return norm

    def finish(self) -> None:
        """Put the averaged weights, where they are kept, into the model."""
        with torch.no_grad():
            for parameter, average in zip(self.trained, self.average, strict=bool(self.average)):
                parameter.copy_(average)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything to keep, by name; frozen weights are not among it, they come from the settings again."""
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        kept = {f"model.{n}": t for n, t in self.model.state_dict().items() if n not in frozen}
        kept |= {f"average.{n}": t for n, t in zip(self.names, self.average, strict=bool(self.average))}
        return {name: tensor.detach() for name, tensor in (kept | self.moments()).items()}

    def moments(self) -> dict[str, torch.Tensor]:
        """What AdamW remembers, `optimiser.INDEX.KEY`."""
        state = self.optimiser.state_dict()["state"]
        return {f"optimiser.{i}.{key}": tensor for i, kept in state.items() for key, tensor in kept.items()}

    def restore_moments(self, tensors: dict[str, torch.Tensor]) -> None:
        """What `moments` gave, back in its place; other names are passed over. Raises ValueError where they do not fit."""
        found: dict[int, dict[str, torch.Tensor]] = {}
        for name in [name for name in tensors if name.startswith("optimiser.")]:
            _, index, key = name.split(".")
            found.setdefault(int(index), {})[key] = tensors[name]
        if any(i >= len(self.trained) for i in found):
            raise ValueError("the optimiser's moments do not fit the model")
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": found, "param_groups": groups})

    def restore(self, tensors: dict[str, torch.Tensor], *, step: int, scaler: dict[str, Any]) -> None:
        """What `tensors` gave, back in its place. Raises ValueError, before anything is changed, where names do not fit."""
        places = {name: t for name, t in self.tensors().items() if not name.startswith("optimiser.")}
        found = {name for name in tensors if not name.startswith("optimiser.")}
        odd = sorted(places.keys() ^ found) + [
            n for n in found & places.keys() if places[n].shape != tensors[n].shape
        ]
        if odd:
            raise ValueError(f"{odd[0]!r} does not fit the model")
        self.restore_moments(tensors)
        with torch.no_grad():
            for name, place in places.items():
                place.copy_(tensors[name])
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.step = step


def save_state(folder: Path, state: State) -> None:
    """Write the state; then remove all but the newest two. A crash at any moment leaves those before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state.step:08d}.safetensors"
    path.with_suffix(".json").unlink(missing_ok=True)
    draft = path.with_name(path.name + TEMPORARY)
    write_arrays(draft, {name: tensor.cpu().numpy() for name, tensor in state.tensors().items()})
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    digest = sha256(draft)
    os.replace(draft, path)
    sync_folder(folder)
    record = {"step": state.step, "scaler": state.scaler.state_dict(), "sha256": digest}
    write_json(path.with_suffix(".json"), record)
    for old in _steps(folder)[:-KEEP]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    for litter in folder.glob(f"*{TEMPORARY}"):  # of a run that was killed
        litter.unlink()


def load_state(folder: Path, state: State, *, say: Callable[[str], None]) -> None:
    """Restore the newest state that is whole; none there leaves `state` as it is. `say` hears of a damaged one.

    Raises ValueError when there are states and all of them are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    records = _steps(folder)
    for record in reversed(records):
        path = record.with_suffix(".safetensors")
        try:
            found = json.loads(record.read_bytes())
            if sha256(path) != found["sha256"]:
                raise ValueError("it is not what was written")
            state.restore(load_file(path), step=int(found["step"]), scaler=dict(found["scaler"]))
            return
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            say(f"{path} is damaged ({error}): the state before it is used")
    if records:
        raise ValueError(
            f"every state in {folder} is damaged: give another folder, or remove this one to start anew"
        )


def _steps(folder: Path) -> list[Path]:
    """Records in the order of their steps."""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = sorted(os.listdir(folder))
    return [folder / name for name in names if re.fullmatch(r"step-\d{8,}\.json", name)]
