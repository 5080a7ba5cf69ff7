"""A site that Flower loses in the midst of a round is waited for where the quorum needs it, and the model stays the same to the bit."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from safetensors.numpy import load_file

from client.app import app as client_app
from server import strategy
from server.app import app as server_app
from server.lost import TRIES
from server.run_log import read
from simulations.engines import federate
from simulations.grid import FIRST_NODE, InProcessGrid
from smile.config import FederationConfig, SmileConfig, to_flat

NODE_UNAVAILABLE, CLIENT_APP_CRASHED = 5, 8  # Flower's codes
AWAY = 3  # looks at the list of nodes from which a lost site is missing


class Losing(InProcessGrid):
    """The first site answers `times` questions of round 2 by dying, and is away for a while after each."""

    def __init__(self, sites: list[Path], *, times: int, code: int = NODE_UNAVAILABLE) -> None:
        super().__init__(client_app, sites)
        self.times, self.code, self.away, self.asked = times, code, 0, list[int]()

    def get_node_ids(self) -> list[int]:
        self.away = max(0, self.away - 1)
        return [node for node in self.contexts if node != FIRST_NODE or not self.away]

    def deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        number = int(message.content.config_records["config"]["server-round"])
        if number == 2:
            self.asked.append(node)
        if number != 2 or node != FIRST_NODE or not self.times:
            return super().deliver(message)
        self.times, self.away = self.times - 1, AWAY
        reply = Message(Error(self.code, "lost: /home/someone"), reply_to=message)
        reply.metadata.__dict__["_reply_to_message_id"] = message.metadata.message_id
        return reply


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "POLL_SECONDS", 0.01)


def run(
    grid: InProcessGrid, config: SmileConfig, output: Path, *, min_sites: int, deadline: float = 60.0
) -> list[dict]:
    waits = {"min_sites": min_sites, "round_timeout": deadline}
    federation = dataclasses.replace(config.federation, output=str(output), **waits)
    settings = to_flat(dataclasses.replace(config, federation=federation))
    server_app(
        grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(settings))
    )
    return read(output / "log.jsonl")


def model_of(output: Path) -> dict[str, np.ndarray]:
    return load_file(output / "round-0002" / "model.safetensors")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        (NODE_UNAVAILABLE, {}),
        (CLIENT_APP_CRASHED, {"bits": 8, "personal": "norms", "optimiser": "kept"}),
        (CLIENT_APP_CRASHED, {"statistics": "shared", "min_cohort": 1}),
    ],
)
def test_a_quorum_waits_for_a_site_that_comes_back(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig, code: int, changes: dict
) -> None:
    config = dataclasses.replace(small_config, federation=FederationConfig(rounds=2, **changes))
    federate(config, sites, tmp_path / "whole", engine="in-process", logs=tmp_path / "logs")
    grid = Losing(sites, times=2, code=code)
    lines = run(grid, config, tmp_path / "out", min_sites=2)
    assert grid.times == 0 and [line["averaged"] for line in lines] == [True, True]
    assert [len(line["refused"]) + len(line["late"]) for line in lines] == [0, 0]
    assert same(model_of(tmp_path / "out"), model_of(tmp_path / "whole"))


def test_with_a_quorum_the_round_goes_on_without_it(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    grid = Losing(sites, times=1)
    lines = run(grid, small_config, tmp_path / "out", min_sites=1)
    assert [[site["site"] for site in line["refused"]] for line in lines] == [[], [sites[0].name]]
    assert sorted(grid.asked) == [FIRST_NODE, FIRST_NODE + 1]


def test_a_site_that_dies_of_the_question_is_given_up(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    grid = Losing(sites, times=99)
    lines = run(grid, small_config, tmp_path / "out", min_sites=2)
    assert grid.asked.count(FIRST_NODE) == 1 + TRIES
    assert lines[1]["averaged"] is False and lines[1]["refused"][0]["site"] == sites[0].name
    assert "someone" not in (tmp_path / "out" / "log.jsonl").read_text()
    first = load_file(tmp_path / "out" / "round-0001" / "model.safetensors")
    assert same(model_of(tmp_path / "out"), first)


@pytest.mark.parametrize("named", [True, False])
def test_nobody_is_waited_for_beyond_the_deadline_or_without_a_name(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig, named: bool
) -> None:
    """Without a name it comes back as another node, which this round did not ask."""
    grid = Losing(sites, times=1)
    if not named:
        grid.names[FIRST_NODE] = ""

    def gone() -> Iterable[int]:
        return [node for node in grid.contexts if node != FIRST_NODE or grid.times]

    grid.get_node_ids = gone  # type: ignore[method-assign, assignment]
    lines = run(grid, small_config, tmp_path / "out", min_sites=2, deadline=3.0 if named else 60.0)
    assert lines[1]["averaged"] is False and len(lines[1]["refused"]) == 1
    assert (lines[1]["seconds"] >= 3) == named
