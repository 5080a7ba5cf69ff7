"""`manifest.json`: all that a device, or the person in front of it, must know of a bundle."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smile.config import CHANNELS, ModelConfig, SmileConfig, to_json
from smile.prompts import bank_hash

from .runtime.smile_edge.files import FORMAT, SCHEMA

INTENDED_USE = (
    "Research on facial expressions in 3D scans. Not a medical device: no clinical decision may rest on it."
)
# Of what a checkpoint says of itself: the rest names sites and their figures, which are no business of a device.
_TOLD = ("version", "source", "prompts", "simulated")
# What one answer for several frames is made of.
_SEQUENCES = {
    "mean": "mean of the frames' embeddings, as in the project's evaluation",
    "pool": "mean of the frames' embeddings; the project's evaluation weighs frames by the temporal pool of this checkpoint, "
    "which is not part of a bundle, so its figures for sequences are not those of this program",
}


def make_manifest(
    config: SmileConfig,
    meta: dict[str, Any],
    *,
    prompts: dict[str, tuple[str, ...]],
    scale: float,
    dim: int,
    sampled: bool,
    digest: str,
    batch: tuple[int, int, int],
) -> dict[str, Any]:
    """The manifest without what is known once the models are made. batch: least, usual and most captures at once."""
    views, model = config.views, config.model
    channels = sum(CHANNELS[m] for m in model.modalities)
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "intended_use": INTENDED_USE,
        "training_data": _training_data(meta),
        "checkpoint": {
            "sha256": digest,
            "round": meta.get("round"),
            "meta": {key: meta[key] for key in _TOLD if key in meta},
        },
        "input": {
            "name": "views",
            "dtype": "float32",
            "range": [0, 255],
            "shape": ["batch", len(views.yaws), channels, views.size, views.size],
        },
        "output": {"name": "embedding", "dtype": "float32", "shape": ["batch", dim], "norm": 1},
        "profile": {"batch": list(batch)},
        "preprocessing": _preprocessing(config),
        "text": {
            "labels": list(prompts),
            "prompts": {name: list(group) for name, group in prompts.items()},
            "prompts_sha256": bank_hash(prompts),
            "logit_scale": scale,
            "encoder": text_encoder(model),
        },
        "sequence": _SEQUENCES["pool" if config.training.frames > 1 else "mean"],
        "golden": "views of a prepared site: they show its subjects"
        if sampled
        else "seeded pseudo-views, no faces",
        "config": _config(config),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")},
        },
    }


def text_encoder(model: ModelConfig) -> str:
    """What makes vectors of sentences: only `words` runs on a device."""
    return f"open_clip {model.tower} {Path(model.pretrained).name}" if model.pretrained else "words"


def about_file(manifest: dict[str, Any]) -> dict[str, str]:
    """What travels inside an ONNX file: what changes neither with words, which leave every engine valid, nor from round to round."""
    kept = (
        "format",
        "schema",
        "intended_use",
        "training_data",
        "input",
        "output",
        "preprocessing",
    )
    return {"smile.manifest": json.dumps({key: manifest[key] for key in kept})}


def _preprocessing(config: SmileConfig) -> dict[str, Any]:
    """How a scan becomes the engine's input."""
    views, model = config.views, config.model
    names = {
        "texture": ("red", "green", "blue"),
        "depth": ("depth",),
        "normals": ("normal x", "normal y", "normal z"),
    }
    channels = [name for m in CHANNELS if m in model.modalities for name in names[m]]
    return {
        "yaws": list(views.yaws),
        "size": views.size,
        "radius": views.radius,
        "modalities": [m for m in CHANNELS if m in model.modalities],
        "motion": views.motion,
        "magnify": views.magnify,
        "channels": channels,
        "stored": list(views.modalities),
        "all_channels": dict(CHANNELS),
        "background": 0,
        "missing_view": "0 throughout",
        "dtype": "uint8",
        "normalisation": "inside the model",
    }


def _training_data(meta: dict[str, Any]) -> str:
    if meta.get("simulated"):
        return "Simulated faces only: no figure of this model says anything about people."
    return "Not stated by the checkpoint: ask the coordinator of the study before using the model on anybody."


def _config(config: SmileConfig) -> dict[str, Any]:
    nested = json.loads(to_json(config))
    # Paths of the machines that trained and exported are no business of a device.
    nested["model"]["pretrained"] = Path(config.model.pretrained).name
    nested["federation"]["output"] = ""
    return nested
