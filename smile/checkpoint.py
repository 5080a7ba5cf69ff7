"""Checkpoints: `model.safetensors`, `config.json` and `meta.json` in one folder. No pickle anywhere."""

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import SmileConfig, from_json, to_json
from .site.disk import sync_folder

if TYPE_CHECKING:
    from .model import SmileModel


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Name -> array of any shape and type, as a `.safetensors` file.

    Raises OSError with the path where it cannot be written; safetensors itself raises an error that is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)
    except SafetensorError as error:
        path.unlink(missing_ok=True)
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(path)) from None


def save(
    folder: Path,
    arrays: dict[str, np.ndarray],
    config: SmileConfig,
    meta: dict[str, Any],
    *,
    extra: Mapping[str, dict[str, np.ndarray]] | None = None,
) -> None:
    """Write a checkpoint folder so that it is either whole or absent, even if the machine stops half-way.

    extra: file name -> arrays, further `.safetensors` that belong to it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        for name, kept in {"model.safetensors": arrays, **(extra or {})}.items():
            write_arrays(draft / name, kept)
        (draft / "config.json").write_text(to_json(config))
        (draft / "meta.json").write_text(json.dumps(meta, indent=2))
        for path in draft.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # a full disk is not made fuller by what is of no use
        raise
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)
    sync_folder(folder.parent)


def load(folder: Path) -> tuple["SmileModel", SmileConfig, dict[str, Any]]:
    """Checkpoint folder -> model on the CPU, settings, meta. Raises ValueError naming what is wrong."""
    from .model import build_model
    from .protocol import load_arrays

    arrays, config, meta = read(folder)
    model = build_model(config)
    load_arrays(model, arrays)
    return model.eval(), config, meta


def read(folder: Path) -> tuple[dict[str, np.ndarray], SmileConfig, dict[str, Any]]:
    """Checkpoint folder -> arrays by name, settings, meta. Raises ValueError naming what is wrong."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    for name in ("model.safetensors", "config.json", "meta.json"):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} is not a checkpoint: {name} is missing; give the folder of a run or of a finished round"
            )
    try:
        config = from_json((folder / "config.json").read_text())
        meta = json.loads((folder / "meta.json").read_text())
        arrays = load_file(folder / "model.safetensors")
        if not isinstance(meta, dict):
            raise ValueError("meta.json is no table of facts")
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder} is damaged, or of another version ({error}): copy the checkpoint again"
        ) from None
    return arrays, config, meta


def latest(output: Path) -> Path:
    """The newest `round-NNNN` checkpoint of a study's output folder. Raises ValueError when there is none."""
    rounds = [path for path in output.glob("round-*") if re.fullmatch(r"round-\d+", path.name)]
    if not rounds:
        raise ValueError(f"{output} holds no checkpoint: give the folder of a run or of a finished round")
    return max(rounds, key=lambda path: int(path.name.removeprefix("round-")))
