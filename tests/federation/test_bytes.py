"""Bytes of a round: what the log says of each site is what the messages hold, and small messages are as small as promised."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from client.app import app as client_app
from server.app import app as server_app
from server.run_log import read
from server.status import Status, histories
from simulations.grid import InProcessGrid
from smile.config import SmileConfig, to_flat
from smile.model import build_model
from smile.protocol import get_arrays

ROUNDS = 3
RECOMMENDED = {"bits": 4}  # tests/benchmarks/README.md, round_bytes
Place = tuple[int, str]  # round, site


class Weighed(InProcessGrid):
    """Weighs the arrays of every message as they are read, not as they are announced."""

    def __init__(self, sites: list[Path]) -> None:
        super().__init__(client_app, sites)
        self.sent, self.received = Counter[Place](), Counter[Place]()
        self.answered = set[str]()  # names of arrays

    def deliver(self, message: Message) -> Message:
        reply = super().deliver(message)
        number: Any = message.content.config_records["config"]["server-round"]
        place = number, self.names[message.metadata.dst_node_id]
        self.sent[place] += weight(message)
        if not reply.has_error():
            self.received[place] += weight(reply)
            self.answered |= {name for record in reply.content.array_records.values() for name in record}
        return reply


def weight(message: Message) -> int:
    return sum(a.numpy().nbytes for record in message.content.array_records.values() for a in record.values())


def study(small_config: SmileConfig, *, tuning: str = "full", **federation: Any) -> SmileConfig:
    return dataclasses.replace(
        small_config,
        training=dataclasses.replace(small_config.training, local_steps=1),
        model=dataclasses.replace(small_config.model, tuning=tuning),
        federation=dataclasses.replace(small_config.federation, rounds=ROUNDS, **federation),
    )


def run(config: SmileConfig, sites: list[Path], output: Path) -> tuple[Weighed, list[dict[str, Any]]]:
    federation = dataclasses.replace(config.federation, output=str(output))
    settings: Any = to_flat(dataclasses.replace(config, federation=federation))
    grid = Weighed(sites)
    server_app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=settings))
    return grid, read(output / "log.jsonl")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        RECOMMENDED,
        {"bits": 8, "tuning": "lora"},
        # The weights go down twice, and moments go up and down.
        {"statistics": "shared", "min_cohort": 1},
    ],
    ids=["whole", "recommended", "adapters", "moments"],
)
def test_the_log_counts_what_the_messages_of_each_site_hold(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig, changes: dict[str, Any]
) -> None:
    grid, log = run(study(small_config, **changes), sites, tmp_path / "out")
    for line in log:
        assert len(line["sites"]) == len(sites)
        for site in line["sites"]:
            place = line["round"], site["site"]
            assert (site["bytes_sent"], site["bytes_received"]) == (grid.sent[place], grid.received[place])
        assert line["bytes_sent"] == sum(site["bytes_sent"] for site in line["sites"])
        assert line["bytes_received"] == sum(site["bytes_received"] for site in line["sites"])
    shown = {site.name: (site.sent, site.received) for site in histories(Status(tmp_path / "out").read())}
    assert shown == {
        site.name: tuple(
            sum(table[n, site.name] for n in range(1, ROUNDS + 1)) for table in (grid.sent, grid.received)
        )
        for site in sites
    }


def test_a_site_that_forgot_the_model_is_charged_for_both_messages(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    class Forgetful(Weighed):
        def deliver(self, message: Message) -> Message:
            number: Any = message.content.config_records["config"]["server-round"]
            if number == ROUNDS and self.names[message.metadata.dst_node_id] == sites[0].name:
                for path in sites[0].glob("study-*/*"):
                    path.unlink()
            return super().deliver(message)

    config = study(small_config, **RECOMMENDED)
    federation = dataclasses.replace(config.federation, output=str(tmp_path / "out"))
    settings: Any = to_flat(dataclasses.replace(config, federation=federation))
    grid = Forgetful(sites)
    server_app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=settings))
    last = {site["site"]: site for site in read(tmp_path / "out" / "log.jsonl")[-1]["sites"]}
    forgot, other = (last[site.name]["bytes_sent"] for site in sites)
    whole = sum(array.nbytes for array in get_arrays(build_model(config)).values())
    assert forgot == other + whole == grid.sent[ROUNDS, sites[0].name]


def test_the_recommended_setting_sends_an_eighth_of_fp32_or_less_after_the_first_round(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    whole = sum(array.nbytes for array in get_arrays(build_model(small_config)).values())
    _, log = run(study(small_config, **RECOMMENDED), sites, tmp_path / "out")
    assert [line["bytes_sent"] == whole * len(sites) for line in log] == [True, False, False]
    for line in log[1:]:
        for site in line["sites"]:
            assert site["bytes_sent"] + site["bytes_received"] <= 2 * whole / 8
    _, plain = run(study(small_config), sites, tmp_path / "plain")
    assert {(site["bytes_sent"], site["bytes_received"]) for line in plain for site in line["sites"]} == {
        (whole, whole)
    }


def test_of_a_tower_with_adapters_nothing_else_travels(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    config = study(small_config, tuning="lora")
    grid, log = run(config, sites, tmp_path / "out")
    model = build_model(config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert grid.answered == set(trained)
    assert [name for name in trained if name.startswith("tower.") and "lora_" not in name] == [
        "tower.0.weight"  # the mix of modalities in front of the frozen colour stem
    ]
    size = sum(int(np.prod(p.shape)) * 4 for p in trained.values())
    assert {(s["bytes_sent"], s["bytes_received"]) for line in log for s in line["sites"]} == {(size, size)}
    frozen = sum(p.numel() * 4 for p in model.parameters() if not p.requires_grad)
    assert frozen > size
