"""One dataclass, three spellings: run config, JSON, and the defaults in pyproject.toml."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from smile.config import ModelConfig, SmileConfig, ViewConfig, from_flat, from_json, to_flat, to_json

PYPROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())


def flatten(table: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in table.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def test_pyproject_and_dataclass_have_the_same_keys_and_defaults() -> None:
    assert flatten(PYPROJECT["tool"]["flwr"]["app"]["config"]) == to_flat(SmileConfig())


def test_round_trips() -> None:
    config = SmileConfig(
        views=ViewConfig(
            yaws=(-33.333333333, -20.5, 0, 20.5, 45), modalities=("depth",), motion="dynamic", magnify=2.5
        ),
        model=ModelConfig(modalities=("depth",), fusion="mean"),
    )
    assert from_flat(to_flat(config)) == config
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("views.yaws", "0,abc", "views.yaws"),
        ("views.size", "64.5", "views.size"),
        ("views.size", 4, "16 to 1024"),
        ("views.modalities", "depth,colour", "choose from"),
        ("views.modalities", "normals,depth", "order"),
        ("model.fusion", "max", "choose from attention, mean, text"),
        ("model.modalities", "normals,texture", "order"),
        ("model.modalities", "texture,texture", "once"),
        ("training.learning-rate", float("inf"), "learning-rate"),
        ("federation.rounds", float("inf"), "rounds"),
        ("model.modalities", "texture,smell", "choose from"),
        ("training.batch-size", 1, "2 or more"),
        ("training.holdout", 1.0, "below 1"),
        ("training.batch-size", True, "batch-size"),
        ("objective.alignment", -1.0, "0 or more"),
        ("objective.prompt-source", "guess", "choose from label, pseudo, geometry, none"),
        ("federation.rounds", 0, "1 or more"),
        ("views.yaws", "0,0", "twice"),
        ("views.motion", "flow", "frames, difference or dynamic"),
        ("views.magnify", 0.5, "1 \\(none\\) to 100"),
        ("views.magnify", "much", "views.magnify"),
    ],
)
def test_a_bad_value_is_named(key: str, value: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        from_flat({**to_flat(SmileConfig()), key: value})


def test_unknown_and_missing_keys_are_named() -> None:
    flat = to_flat(SmileConfig())
    with pytest.raises(ValueError, match=r"training\.speed"):
        from_flat({**flat, "training.speed": 1})
    del flat["views.size"]
    with pytest.raises(ValueError, match=r"views\.size"):
        from_flat(flat)


def test_a_run_from_before_a_setting_did_what_was_done_then() -> None:
    written = json.loads(to_json(SmileConfig()))
    del written["objective"]["contrast"], written["objective"]["alignment"]
    found = from_json(json.dumps(written)).objective
    assert (found.contrast, found.alignment) == ("batch", 1.0)
    assert from_json(to_json(SmileConfig())).objective.contrast == "expressions"


def test_the_model_sees_only_what_is_rendered() -> None:
    with pytest.raises(ValueError, match="only see what is rendered"):
        dataclasses.replace(SmileConfig(), views=ViewConfig(modalities=("texture",)))


def test_channel_slices_follow_storage_order() -> None:
    assert ViewConfig().channel_slices() == {
        "texture": slice(0, 3),
        "depth": slice(3, 4),
        "normals": slice(4, 7),
    }
