"""Checkpoints: whole or absent, readable without pickle, damage is named."""

import dataclasses
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

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


def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(
    tmp_path: Path, no_file_above: Callable[[int], AbstractContextManager[None]]
) -> None:
    arrays = get_arrays(build_model(CONFIG))
    with no_file_above(10_000), pytest.raises(OSError, match="large") as caught:
        checkpoint.save(tmp_path / "round-0001", arrays, CONFIG, {})
    assert str(caught.value.filename).endswith("model.safetensors") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["[]", '{"a": 3}', '"x"', '{"model": {"colour": 1}}', "[" * 100_000])
def test_settings_that_are_none_are_one_sentence(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match="round-0003 is damaged"):
        checkpoint.load(saved)


def test_facts_that_are_none_are_one_sentence(saved: Path) -> None:
    (saved / "meta.json").write_text("[]")
    with pytest.raises(ValueError, match="round-0003 is damaged"):
        checkpoint.load(saved)


def test_what_an_older_version_did_not_write_is_the_default(saved: Path) -> None:
    settings = json.loads((saved / "config.json").read_text())
    del settings["objective"]["pairs"], settings["training"]["ema"], settings["federation"]
    (saved / "config.json").write_text(json.dumps(settings))
    assert checkpoint.load(saved)[1] == CONFIG


def test_arrays_taken_from_a_model_do_not_change_with_it() -> None:
    model = build_model(CONFIG)
    arrays = get_arrays(model)
    kept = {name: array.copy() for name, array in arrays.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(np.array_equal(arrays[name], kept[name]) for name in kept)


def test_the_newest_round_is_found(saved: Path) -> None:
    for other in ("round-0099.bak", "round-9x", ".round-0050.part"):
        saved.with_name(other).mkdir()
    checkpoint.save(saved.with_name("round-0012"), get_arrays(build_model(CONFIG)), CONFIG, {"round": 12})
    assert checkpoint.latest(saved.parent).name == "round-0012"
