"""The curves of TensorBoard: each round once, by part and by site, and never at the cost of the run."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from server import status


def record(number: int, sites: dict[str, dict]) -> dict[str, Any]:
    answers = [
        {"site": name, "loss": 2.0, "bytes_received": 10**6, **figures} for name, figures in sites.items()
    ]
    losses = {"loss": 5.0 / number, "alignment": 4.0 / number}
    return {"round": number, "averaged": True, "losses": losses, "sites": answers, "bytes_received": 10**6}


def test_the_board_holds_each_round_by_part_and_site(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = status.Board(tmp_path)
    for number in (1, 2, 3):
        board.add(record(number, {"St Mary's": {"loss": 3.0 - number}, "Köln": {"bytes_sent": 5}}))
    board.close()
    again = status.Board(tmp_path)  # a resume from the checkpoint of round 1
    again.add(record(2, {"St Mary's": {"loss": 0.5}}))
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("losses/loss")] == [1, 2]
    assert [point.value for point in events.Scalars("site-loss/St_Mary_s")] == [2.0, 0.5]
    assert {"losses/alignment", "site-bytes-sent/Köln", "round/bytes-received"} <= set(
        events.Tags()["scalars"]
    )


def test_without_tensorboard_it_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    board = status.Board(tmp_path)
    for number in (1, 2):
        board.add(record(number, {"a": {}}))
    board.close()
    assert caplog.text.count("no TensorBoard curves") == 1 and not list(tmp_path.iterdir())


def test_a_board_that_fails_stops_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise OSError("No space left on device")

    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Full  # type: ignore[attr-defined]
    for name in ("torch", "torch.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    board = status.Board(tmp_path)
    board.add(record(1, {"a": {}}))
    board.add(record(2, {"a": {}}))
    assert caplog.text.count("no more TensorBoard curves") == 1


def test_names_that_become_one_tag_are_kept_apart() -> None:
    entry = status.parse(json.dumps(record(1, {"a b": {}, "a/b": {}, "\ud800": {}})).encode())
    assert entry is not None
    assert {"site-loss/a_b", "site-loss/a_b_2", "site-loss/_"} <= set(status.scalars(entry))
