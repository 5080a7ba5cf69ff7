"""Checkpoints: whole or absent, readable without pickle, damage is named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from smile import checkpoint
from smile.config import SmileConfig, TrainingConfig, ViewConfig
from smile.model import build_model
from smile.protocol import get_arrays

CONFIG = SmileConfig(views=ViewConfig(size=16), training=TrainingConfig(seed=4))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "round-0003", get_arrays(build_model(CONFIG)), CONFIG, {"round": 3})
    return tmp_path / "round-0003"


def test_round_trip_is_exact(saved: Path) -> None:
    model, config, meta = checkpoint.load(saved)
    expected = get_arrays(build_model(CONFIG))
    assert (config, meta) == (CONFIG, {"round": 3})
    assert all(np.array_equal(array, expected[name]) for name, array in get_arrays(model).items())
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "meta.json", "model.safetensors"]


def test_saving_again_replaces_whole(saved: Path) -> None:
    other = dataclasses.replace(CONFIG, training=TrainingConfig(seed=5))
    checkpoint.save(saved, get_arrays(build_model(other)), other, {"round": 4})
    assert checkpoint.load(saved)[1:] == (other, {"round": 4})
    assert [path.name for path in saved.parent.iterdir()] == ["round-0003"]


def test_a_crash_while_writing_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(config: SmileConfig) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "to_json", crash)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path / "round-0001", get_arrays(build_model(CONFIG)), CONFIG, {})
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoint.latest(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "meta.json"])
def test_missing_and_damaged_files_are_named(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(saved)
    (saved / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        checkpoint.load(saved)


def test_the_newest_round_is_found(saved: Path) -> None:
    checkpoint.save(saved.with_name("round-0012"), get_arrays(build_model(CONFIG)), CONFIG, {"round": 12})
    assert checkpoint.latest(saved.parent).name == "round-0012"
