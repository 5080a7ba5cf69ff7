"""Checkpoints: `model.safetensors`, `config.json` and `meta.json` in one folder. No pickle anywhere."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import SmileConfig, from_json, to_json

if TYPE_CHECKING:
    from .model import SmileModel


def save(folder: Path, arrays: dict[str, np.ndarray], config: SmileConfig, meta: dict[str, Any]) -> None:
    """Write a checkpoint folder so that it is either whole or absent, even if the machine stops half-way."""
    from safetensors.numpy import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    save_file({name: array.copy(order="C") for name, array in arrays.items()}, draft / "model.safetensors")
    (draft / "config.json").write_text(to_json(config))
    (draft / "meta.json").write_text(json.dumps(meta, indent=2))
    for path in draft.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def load(folder: Path) -> tuple["SmileModel", SmileConfig, dict[str, Any]]:
    """Checkpoint folder -> model on the CPU, settings, meta. Raises ValueError naming what is wrong."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from .model import build_model
    from .protocol import load_arrays

    for name in ("model.safetensors", "config.json", "meta.json"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} is not a checkpoint: {name} is missing; give the folder of a finished round"
            )
    try:
        config = from_json((folder / "config.json").read_text())
        meta = json.loads((folder / "meta.json").read_text())
        arrays = load_file(folder / "model.safetensors")
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} is damaged ({error}): copy the checkpoint again") from None
    model = build_model(config)
    load_arrays(model, arrays)
    return model.eval(), config, meta


def latest(output: Path) -> Path:
    """The newest `round-NNNN` checkpoint of a study's output folder. Raises ValueError when there is none."""
    rounds = sorted(output.glob("round-[0-9]*"), key=lambda path: int(path.name.removeprefix("round-")))
    if not rounds:
        raise ValueError(f"{output} holds no checkpoint: the federation has not finished a round")
    return rounds[-1]
