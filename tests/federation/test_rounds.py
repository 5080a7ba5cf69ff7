"""The real ServerApp and ClientApp over prepared sites, in one process."""

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from client.app import app as client_app
from client.privacy import OUTBOX_FIELDS
from server.app import app as server_app
from server.run_log import read
from server.run_state import begin
from server.strategy import SmileStrategy
from simulations.engines import federate
from simulations.grid import InProcessGrid
from smile.checkpoint import latest, load
from smile.config import FederationConfig, SmileConfig, to_flat
from smile.model import build_model
from smile.protocol import METRICS, get_arrays, weights_hash
from smile.site.store import Site
from smile.split import held_out
from smile.training import train


def arrays_of(output: Path) -> dict[str, np.ndarray]:
    return get_arrays(load(latest(output))[0])


def context(config: SmileConfig, output: Path, *, min_sites: int = 2) -> Context:
    federation = dataclasses.replace(config.federation, output=str(output), min_sites=min_sites)
    settings = to_flat(dataclasses.replace(config, federation=federation))
    return Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(settings))


def test_a_federation_trains_logs_and_leaves_checkpoints(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    federate(small_config, sites, tmp_path / "out", engine="in-process")
    assert [path.name for path in sorted((tmp_path / "out").glob("round-*"))] == [
        "round-0000",
        "round-0001",
        "round-0002",
    ]
    log = read(tmp_path / "out" / "log.jsonl")
    assert [(entry["round"], entry["averaged"], len(entry["sites"])) for entry in log] == [
        (1, True, 2),
        (2, True, 2),
    ]
    assert all(np.isfinite(list(entry["losses"].values())).all() for entry in log)
    before, after = get_arrays(load(tmp_path / "out" / "round-0000")[0]), arrays_of(tmp_path / "out")
    assert all(np.isfinite(array).all() for array in after.values())
    assert not np.array_equal(before["tower.trunk.stages.0.weight"], after["tower.trunk.stages.0.weight"])
    _, config, meta = load(latest(tmp_path / "out"))
    assert meta["round"] == 2 and config.views == small_config.views


def test_one_round_is_the_weighted_mean_of_local_trainings(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    config = dataclasses.replace(
        small_config, federation=dataclasses.replace(small_config.federation, rounds=1)
    )
    federate(config, sites, tmp_path / "out", engine="in-process")
    total, expected = 0, {}
    for folder in sites:
        site, model = Site(folder), build_model(config)
        rows = np.flatnonzero(
            ~held_out(site.subjects, share=config.training.holdout, seed=config.training.seed)
        )
        train(model, site, config, rows=rows)
        for name, array in get_arrays(model).items():
            expected[name] = expected.get(name, 0) + len(rows) * array.astype(np.float64)
        total += len(rows)
    for name, array in arrays_of(tmp_path / "out").items():
        np.testing.assert_allclose(array, np.float32(expected[name] / total), rtol=1e-6)


def test_the_same_run_twice_is_equal_to_the_bit(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    for name in ("a", "b"):
        federate(small_config, sites, tmp_path / name, engine="in-process")
    first, second = arrays_of(tmp_path / "a"), arrays_of(tmp_path / "b")
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_site_writes_down_what_left_and_the_server_counts_the_same(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    federate(small_config, sites, tmp_path / "out", engine="in-process")
    log = read(tmp_path / "out" / "log.jsonl")
    for place, folder in enumerate(sites):
        rows = list(csv.DictReader((folder / "outbox.csv").read_text().splitlines()))
        assert [row["round"] for row in rows] == ["1", "2"]
        assert {row["what_was_sent"] for row in rows} == {"model weights and figures"}
        assert [int(row["bytes"]) for row in rows] == [
            entry["sites"][place]["bytes_received"] for entry in log
        ]


def test_an_outbox_of_another_release_is_moved_aside(tmp_path: Path, small_config: SmileConfig) -> None:
    old = "time_utc,run,round,what_was_sent,arrays,bytes,loss\r\n2026-01-01 00:00:00,1,1,weights,2,3,4\r\n"
    (tmp_path / "outbox.csv").write_text(old, newline="")
    (tmp_path / "outbox-1.csv").write_text("older")
    for _ in range(2):
        ask({"site": str(tmp_path / "none"), "log": str(tmp_path)}, small_config)
    assert sorted(path.name for path in tmp_path.glob("outbox*")) == [
        "outbox-1.csv",
        "outbox-2.csv",
        "outbox.csv",
    ]
    assert (tmp_path / "outbox-2.csv").read_bytes().decode() == old
    lines = list(csv.reader((tmp_path / "outbox.csv").read_text().splitlines()))
    assert lines[0] == list(OUTBOX_FIELDS) and [len(line) for line in lines] == [len(OUTBOX_FIELDS)] * 3


def test_sites_with_another_file_of_weights_are_left_out(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"theirs")
    digest = weights_hash(str(file))
    assert len(digest) == 64 and weights_hash("openai") == weights_hash("") == ""
    changes = {"model.tower": "RN50", "model.pretrained": str(file), "weights": digest}
    node = {"site": str(sites[0]), "pretrained": str(file), "log": str(tmp_path)}
    file.write_bytes(b"ours")
    assert ask(node, small_config, **changes).error.code == 103
    assert "is not the file that the server has" in (tmp_path / "site.log").read_text()
    file.unlink()
    assert ask(node, small_config, **changes).error.code == 103
    file.write_bytes(b"theirs")
    assert ask(node, small_config, **changes).error.code != 103  # these are no weights, but the server's


class Tampering(InProcessGrid):
    """The first site's replies are replaced by what `tamper` makes of them."""

    def __init__(self, sites: list[Path], tamper: object) -> None:
        super().__init__(client_app, sites)
        self.tamper = tamper

    def deliver(self, message: Message) -> Message:
        reply = super().deliver(message)
        return self.tamper(reply) if reply.metadata.src_node_id == min(self.contexts) else reply  # type: ignore[operator]


def with_nan(reply: Message) -> Message:
    arrays = {name: array.numpy().copy() for name, array in reply.content.array_records["arrays"].items()}
    next(iter(arrays.values()))[...] = np.nan
    reply.content["arrays"] = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return reply


def with_secret_metric(reply: Message) -> Message:
    reply.content["metrics"] = MetricRecord({**reply.content.metric_records["metrics"], "patient": 7})
    return reply


def without_arrays(reply: Message) -> Message:
    del reply.content["arrays"]
    return reply


def with_bytes(data: bytes) -> Callable[[Message], Message]:
    """A reply whose first array's bytes are replaced: numpy raises all kinds of things on reading them."""

    def tamper(reply: Message) -> Message:
        next(iter(reply.content.array_records["arrays"].values())).data = data
        return reply

    return tamper


def as_dead_node(reply: Message) -> Message:
    error = Message(Error(5, "Node Unavailable: /home/someone"), reply_to=reply)
    # The SuperLink answers the question itself.
    error.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
    return error


@pytest.mark.parametrize(
    ("tamper", "word"),
    [(with_nan, "NaN"), (with_secret_metric, "figures"), (without_arrays, "cannot be read")],
)
def test_a_bad_reply_costs_that_site_and_not_the_round(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig, tamper: object, word: str
) -> None:
    server_app(Tampering(sites, tamper), context(small_config, tmp_path / "out", min_sites=1))
    entry = read(tmp_path / "out" / "log.jsonl")[0]
    assert [site["site"] for site in entry["sites"]] == [sites[1].name]
    assert entry["refused"][0]["site"] == sites[0].name and word in entry["refused"][0]["reason"]
    federate(small_config, sites[1:], tmp_path / "alone", engine="in-process")
    with_bad, alone = arrays_of(tmp_path / "out"), arrays_of(tmp_path / "alone")
    assert all(np.array_equal(with_bad[name], alone[name]) for name in alone)


def test_too_few_good_replies_leave_the_model_and_end_in_an_error(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    with pytest.raises(RuntimeError, match="no round had 2 good replies"):
        server_app(Tampering(sites, with_nan), context(small_config, tmp_path / "out"))
    start, end = (get_arrays(load(tmp_path / "out" / f"round-000{k}")[0]) for k in (0, 2))
    assert all(np.array_equal(start[name], end[name]) for name in start)


def test_a_folder_that_holds_a_run_is_not_overwritten(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    federate(small_config, sites, tmp_path / "out", engine="in-process")
    with pytest.raises(ValueError, match="already holds a run"):
        federate(small_config, sites, tmp_path / "out", engine="in-process")


def test_waiting_for_sites_ends(tmp_path: Path, sites: list[Path]) -> None:
    strategy = strategy_of(
        SmileConfig(federation=FederationConfig(min_sites=3, round_timeout=0.01)), tmp_path
    )
    with pytest.raises(TimeoutError, match="2 sites are connected"):
        strategy.configure_train(1, ArrayRecord(), ConfigRecord(), InProcessGrid(client_app, sites))


def strategy_of(config: SmileConfig, output: Path) -> SmileStrategy:
    arrays = get_arrays(build_model(config))
    return SmileStrategy(
        config.federation,
        begin(arrays, config),
        shared=list(arrays),
        moment_shapes={},
        seed=0,
        output=output,
        after_round=lambda state: None,
    )


def ask(site: dict, config: SmileConfig, **changes: object) -> Message:
    """One training message to a site with this node config, as the strategy would send it."""
    grid = InProcessGrid(client_app, [Path("unused")])
    grid.contexts[100].node_config = site
    from smile.prompts import bank_hash
    from smile.protocol import source_fingerprint

    same = {"source": source_fingerprint(), "prompts": bank_hash(), "weights": ""}
    request = {**to_flat(config), **same, **changes}
    federation = dataclasses.replace(config.federation, min_sites=1)
    strategy = strategy_of(dataclasses.replace(config, federation=federation), Path("unused"))
    messages = list(strategy.configure_train(1, ArrayRecord(), ConfigRecord(request), grid))
    (reply,) = grid.pull_messages(grid.push_messages(messages))
    return reply


def test_a_good_answer_holds_the_allow_list_and_nothing_else(
    sites: list[Path], small_config: SmileConfig
) -> None:
    reply = ask({"site": str(sites[0])}, small_config)
    assert set(reply.content) == {"arrays", "metrics"}
    assert set(reply.content.metric_records["metrics"]) == set(METRICS)
    assert set(reply.content.array_records["arrays"]) == set(get_arrays(build_model(small_config)))


@pytest.mark.parametrize(
    ("site", "changes", "code"),
    [
        ({"site": "/data/secret-name"}, {}, 101),
        ({}, {}, 101),
        ({"site": "GOOD"}, {"views.size": 48}, 102),
        ({"site": "GOOD"}, {"views.motion": "dynamic"}, 102),
        ({"site": "GOOD"}, {"views.magnify": 4.0}, 102),
        ({"site": "GOOD"}, {"source": "0" * 64}, 103),
        ({"site": "GOOD"}, {"views.size": "large"}, 103),
        ({"site": "GOOD"}, {"model.dim": 64}, 103),
        ({"site": "GOOD", "device": "secret-device"}, {}, 105),
        ({"site": "GOOD"}, {"model.tower": "RN50", "model.pretrained": "openai"}, 106),
    ],
)
def test_a_failure_crosses_as_a_code_alone(
    sites: list[Path], small_config: SmileConfig, site: dict, changes: dict, code: int
) -> None:
    site = {key: str(sites[0]) if value == "GOOD" else value for key, value in site.items()}
    log = {"log": str(sites[0] / "log")} if site else {}
    reply = ask({**site, **log}, small_config, **changes)
    assert reply.error.code == code
    assert "secret" not in str(reply.error.reason) and str(sites[0].parent) not in str(reply.error.reason)
    if log:
        assert f"code {code}" in (sites[0] / "log" / "site.log").read_text()
        assert f"error code {code}" in (sites[0] / "log" / "outbox.csv").read_text()


def test_an_error_of_another_program_is_not_quoted_by_the_server(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    server_app(Tampering(sites, as_dead_node), context(small_config, tmp_path / "out", min_sites=1))
    entry = read(tmp_path / "out" / "log.jsonl")[0]
    assert "someone" not in json.dumps(entry) and "code 5" in entry["refused"][0]["reason"]


class Silent(InProcessGrid):
    """The first site never answers in time."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        silent = min(self.contexts)
        return super().pull_messages(
            [n for n in message_ids if n in self.waiting and self.waiting[n].metadata.dst_node_id != silent]
        )


def test_a_site_that_does_not_answer_is_written_down(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    config = dataclasses.replace(
        small_config, federation=dataclasses.replace(small_config.federation, rounds=1, round_timeout=1.0)
    )
    server_app(Silent(client_app, sites), context(config, tmp_path / "out", min_sites=1))
    refused = read(tmp_path / "out" / "log.jsonl")[0]["refused"]
    assert [(entry["site"], "no answer" in entry["reason"]) for entry in refused] == [(sites[0].name, True)]


def test_a_log_that_cannot_be_written_stops_the_weights_and_tells_nothing(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    (tmp_path / "secret-file").write_text("")
    for site in (str(sites[0]), "/data/secret-name"):
        reply = ask({"site": site, "log": str(tmp_path / "secret-file" / "log")}, small_config)
        assert reply.has_error() and reply.error.code in (101, 105)
        assert "secret" not in str(reply.error.reason)


def test_a_refusal_does_not_create_the_site(tmp_path: Path, small_config: SmileConfig) -> None:
    assert ask({"site": str(tmp_path / "typo")}, small_config).error.code == 101
    assert not (tmp_path / "typo").exists()


def test_a_folder_that_may_not_be_entered_tells_nothing(
    sites: list[Path], small_config: SmileConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_dir = Path.is_dir

    def refused(self: Path) -> bool:
        if self.name == "secret-name":
            raise PermissionError(13, "Permission denied", str(self))
        return is_dir(self)

    monkeypatch.setattr(Path, "is_dir", refused)
    reply = ask({"site": str(sites[0].parent / "secret-name")}, small_config)
    assert reply.error.code == 101 and "secret" not in str(reply.error.reason)
