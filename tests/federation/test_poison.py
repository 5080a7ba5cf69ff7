"""Faulty and hostile sites among honest ones: the real ServerApp and ClientApps; the result is that of the run without them."""

import dataclasses
import hashlib
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from safetensors.numpy import load_file

from client.app import app as client_app
from server.averaging import RULES
from server.run_log import read
from simulations import partition
from simulations.attacks import KINDS, SHUFFLED, away, change
from simulations.engines import federate
from simulations.pool import Pool
from smile.config import SmileConfig
from smile.protocol import NO_BASE
from smile.site.store import Site

BAD = "client-1"  # neither the first nor the last that is asked
PACKED: dict[str, Any] = {"bits": 4, "top_k": 0.25}


class Recorded:
    """The real ClientApp, asked once for each answer: an honest site that is told the same, after the same, says the same.

    That keeps this file in seconds. What an honest site is told is part of the key, so a server whom a bad reply has moved
    gets an answer of its own, and another model.
    """

    def __init__(self) -> None:
        self.answers: dict[str, RecordDict | Error] = {}
        self.told: dict[tuple[str, object], str] = {}  # site and study -> digest of all its messages
        self.moments: list[dict[str, np.ndarray]] = []  # those that came with a round

    def __call__(self, message: Message, context: Context) -> Message:
        records, settings = message.content.array_records, dict(message.content.config_records["config"])
        site = str(context.node_config["site"])
        who = (site, settings.pop("study"))
        digest = hashlib.sha256(
            f"{self.told.get(who)}{site}{message.metadata.message_type}{sorted(settings.items())}".encode()
        )
        for key, record in records.items():
            for name, array in record.items():
                digest.update(f"{key}{name}".encode() + array.data)
        if "moments" in records:
            self.moments.append({name: array.numpy() for name, array in records["moments"].items()})
        self.told[who] = key = digest.hexdigest()
        if key not in self.answers:
            reply = client_app(message, context)
            self.answers[key] = reply.error if reply.has_error() else reply.content
        found = self.answers[key]
        if isinstance(found, Error):
            return Message(found, reply_to=message)
        own = {key: type(record)(dict(record)) for key, record in found.items()}  # the server empties its own
        return Message(RecordDict(own), reply_to=message)


class Outcome(NamedTuple):
    models: list[dict[str, np.ndarray]]  # before the first round and after each
    lines: list[dict[str, Any]]

    @property
    def averaged(self) -> list[dict[str, Any]]:
        """What the log tells of the sites whose replies counted."""
        return [{key: line[key] for key in ("round", "averaged", "losses", "sites")} for line in self.lines]


class Study:
    """Three clients of six people; `run` federates them, or others."""

    def __init__(self, folder: Path, prepared: list[Path], config: SmileConfig) -> None:
        self.pool = Pool([Site(site) for site in prepared])
        rows = np.arange(len(self.pool.subjects))
        dealt = partition.deal(self.pool, rows, "iid", clients=3, alpha=0.1, seed=0)
        self.sites = [
            partition.write(folder / f"client-{k}", self.pool, mine) for k, mine in enumerate(dealt)
        ]
        training = dataclasses.replace(config.training, holdout=0.0)
        self.config = dataclasses.replace(config, training=training)
        self.others = [site for site in self.sites if site.name != BAD]
        self.folder, self.client, self.runs = folder, Recorded(), 0
        self.known: dict[str, Outcome] = {}

    def run(
        self, sites: list[Path] | None = None, *, attacks: dict[str, str] | None = None, **settings: Any
    ) -> Outcome:
        """Federate `sites`, or the first three."""
        federation = dataclasses.replace(self.config.federation, **settings)
        config = dataclasses.replace(self.config, federation=federation)
        self.runs += 1
        output = self.folder / f"run-{self.runs}"
        options: dict[str, Any] = {"logs": output / "logs", "quorum": 2, "attacks": attacks}
        federate(config, sites or self.sites, output, engine="in-process", **options)
        models = [load_file(path / "model.safetensors") for path in sorted(output.glob("round-*"))]
        return Outcome(models, read(output / "log.jsonl"))

    def clean(self, **settings: Any) -> Outcome:
        """The run without the bad site, which is not even there."""
        key = repr(sorted(settings.items()))
        if key not in self.known:
            self.known[key] = self.run(self.others, **settings)
        return self.known[key]


@pytest.fixture(scope="module")
def whole_study(
    tmp_path_factory: pytest.TempPathFactory, prepared: list[Path], small_config: SmileConfig
) -> Study:
    return Study(tmp_path_factory.mktemp("poison"), prepared, small_config)


@pytest.fixture
def study(whole_study: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr("client.app.app", whole_study.client)
    whole_study.client.moments.clear()
    return whole_study


def assert_as_without(found: Outcome, expected: Outcome, word: str) -> None:
    """The bad site is refused in each round, with the word in its reason, and nothing else is different."""
    for line in found.lines:
        (refusal,) = line["refused"]
        assert refusal["site"] == BAD and word in refusal["reason"], refusal
        assert line["sites_asked"] == 3 and line["averaged"]
    assert found.averaged == expected.averaged
    assert len(found.models) == len(expected.models)
    for one, other in zip(found.models, expected.models, strict=True):
        assert one.keys() == other.keys()
        assert [name for name in one if not np.array_equal(one[name], other[name])] == []
    before, after = found.models[0], found.models[-1]
    assert not all(np.array_equal(before[name], after[name]) for name in before)


# --- replies ------------------------------------------------------------------

# kind -> word of the reason where weights are sent, and where packed updates are
GARBAGE = {
    "nan": ("holds NaN or infinity", "scales that are negative, too large or not finite"),
    "inf": ("holds NaN or infinity", "scales that are negative, too large or not finite"),
    "huge": ("times the usual size", "times the usual size"),
    "negative-examples": ("num-examples is -", "num-examples is -"),
    "wrong-shape": ("another shape or type", "of the message is not"),
    "wrong-dtype": ("another shape or type", "of the message is not"),
    "extra-name": ("1 are unknown", "1 are unknown"),
    "missing-name": ("1 array names are missing", "1 array names are missing"),
    "blown-up": ("times the usual size", "times the usual size"),
}


@pytest.mark.parametrize("settings", [{}, PACKED], ids=["weights", "packed"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_the_run_with_a_bad_site_is_the_run_without_it(
    study: Study, kind: str, settings: dict[str, Any]
) -> None:
    found = study.run(attacks={BAD: kind}, **settings)
    assert_as_without(found, study.clean(**settings), GARBAGE[kind][bool(settings)])


def test_all_kinds_are_tried() -> None:
    assert set(KINDS) == {*GARBAGE, "sign-flipped"}


def tampering(
    study: Study, monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Message], Message | None]
) -> None:
    """From now on the bad site's replies are what `tamper` makes of them, in place or anew."""

    def answer(message: Message, context: Context) -> Message:
        reply = study.client(message, context)
        return (tamper(reply) or reply) if Path(str(context.node_config["site"])).name == BAD else reply

    monkeypatch.setattr("client.app.app", answer)


def with_figures(examples: Any) -> Callable[[Message], None]:
    def tamper(reply: Message) -> None:
        figures = {**reply.content.metric_records["metrics"], "num-examples": examples}
        # A MetricRecord takes no text.
        kind = ConfigRecord if isinstance(examples, str) else MetricRecord
        reply.content["metrics"] = kind(figures)

    return tamper


@pytest.mark.parametrize(
    ("examples", "word"),
    [
        (0, "num-examples is 0"),
        (10**12, "num-examples is 1000000000000"),
        (1e12, "num-examples is 1000000000000.0"),
        (3.0, "num-examples is 3.0"),
        (float("nan"), "no number"),
        (float("-inf"), "no number"),
        ([12, 12], "no number"),
        ("12", "cannot be read"),
    ],
)
def test_a_count_of_captures_that_is_none(
    study: Study, monkeypatch: pytest.MonkeyPatch, examples: Any, word: str
) -> None:
    tampering(study, monkeypatch, with_figures(examples))
    assert_as_without(study.run(rounds=1), study.clean(rounds=1), word)


def npy(array: np.ndarray, *, save: Callable[..., None] = np.save) -> bytes:
    buffer = io.BytesIO()
    save(buffer, array)
    return buffer.getvalue()


def header(text: str, body: bytes = b"secret") -> bytes:
    """An .npy file of a header that says what it likes."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body


class Pickled:
    """Whoever unpickles it makes a folder."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (os.environ["POISON"],)


SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n"
HOSTILE: dict[str, Callable[[], bytes | dict[str, Any]]] = {  # bytes, or what is said of good ones
    "empty": lambda: b"",
    "a pickle": lambda: npy(np.array([Pickled()])),
    "a bare pickle": lambda: npy(np.array([Pickled()]))[128:],
    "several arrays": lambda: npy(np.zeros(3, np.float32), save=np.savez),
    "more than any memory": lambda: header(SHAPE % "(9000000, 9000000)"),
    "more than is there": lambda: header(SHAPE % "(3, 3)"),
    "a negative length": lambda: header(SHAPE % "(-3,)"),
    "a nest": lambda: header("(" * 9000),
    "words": lambda: header("secret"),
    "another array": lambda: npy(np.zeros((2, 5))),
    "another dtype": lambda: {"dtype": "float64"},
    "no dtype": lambda: {"dtype": "secret"},
    "no number of bytes": lambda: {"shape": (10**400,)},
    "fewer than no bytes": lambda: {"shape": (-1,)},
    "another program's": lambda: {"stype": "secret"},
}


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {}) for name in HOSTILE] + [(name, PACKED) for name in ("empty", "a pickle", "another array")],
    ids=str,
)
def test_bytes_that_are_no_array(
    study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("POISON", str(tmp_path / "unpickled"))

    def tamper(reply: Message) -> None:
        arrays, found = dict(reply.content.array_records["arrays"]), HOSTILE[name]()
        first = next(iter(arrays))
        said = {key: getattr(arrays[first], key) for key in ("dtype", "shape", "stype", "data")}
        arrays[first] = Array(**said | ({"data": found} if isinstance(found, bytes) else found))
        reply.content["arrays"] = ArrayRecord(arrays)

    tampering(study, monkeypatch, tamper)
    found = study.run(rounds=1, **settings)
    assert_as_without(found, study.clean(rounds=1, **settings), "cannot be read")
    assert not (tmp_path / "unpickled").exists() and "secret" not in str(found.lines)


def no_records(reply: Message) -> None:
    reply.content.clear()


def no_figures(reply: Message) -> None:
    del reply.content["metrics"]


def two_arrays(reply: Message) -> None:
    reply.content["more"] = reply.content.array_records["arrays"]


def a_note(reply: Message) -> None:
    reply.content["note"] = ConfigRecord({"patient": "secret"})


def figures_for_arrays(reply: Message) -> None:
    reply.content["arrays"] = MetricRecord({"a": 1})


def nothing_in_it(reply: Message) -> None:
    reply.content["arrays"] = ArrayRecord()


OTHER = [no_records, no_figures, two_arrays, a_note, figures_for_arrays, nothing_in_it]


@pytest.mark.parametrize("tamper", OTHER)
def test_a_reply_of_other_records(
    study: Study, monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Message], None]
) -> None:
    tampering(study, monkeypatch, tamper)
    word = "names are missing" if tamper is nothing_in_it else "cannot be read"
    found = study.run(rounds=1)
    assert_as_without(found, study.clean(rounds=1), word)
    assert "secret" not in str(found.lines)


def test_a_site_that_says_for_ever_that_it_lost_the_model_is_sent_it_once_more_and_left_out(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def lost(reply: Message) -> Message:
        asked.append(reply)
        error = Message(Error(NO_BASE, "lost"), reply_to=reply)
        error.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
        return error

    tampering(study, monkeypatch, lost)
    found = study.run(rounds=1, round_timeout=20.0)
    assert_as_without(found, study.clean(rounds=1, round_timeout=20.0), "no longer has the model")
    assert len(asked) == 2


# --- moments ------------------------------------------------------------------

SHARED: dict[str, Any] = {"statistics": "shared", "min_cohort": 1, "rounds": 1}


def broken(reply: Message) -> None:
    raise RuntimeError("out of memory")


BROKEN = {name: partial(change, kind=KINDS[name], start={}) for name in ("nan", "wrong-shape", "huge")}


@pytest.mark.parametrize("bad", [*BROKEN.values(), no_records, broken], ids=[*BROKEN, "empty", "error"])
def test_bad_moments_are_left_out_and_the_site_still_trains(
    study: Study, monkeypatch: pytest.MonkeyPatch, bad: Callable[[Message], None]
) -> None:
    study.run(study.others, **SHARED)
    honest = study.client.moments[0]

    def tamper(reply: Message) -> None:
        if "moments" in reply.content:
            bad(reply)

    tampering(study, monkeypatch, tamper)
    study.client.moments.clear()
    (line,) = study.run(**SHARED).lines
    assert [site["site"] for site in line["sites"]] == ["client-0", BAD, "client-2"] and not line["refused"]
    assert len(study.client.moments) == 3
    for found in study.client.moments:
        assert [name for name in honest if not np.array_equal(found[name], honest[name])] == []


def test_a_site_that_is_bad_in_moments_and_in_weights_leaves_no_trace(study: Study) -> None:
    found = study.run(attacks={BAD: "huge"}, **SHARED)
    assert_as_without(found, study.clean(**SHARED), "times the usual size")


# --- sites that look honest ---------------------------------------------------


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum((one[name] - other[name]).astype(np.float64) ** 2) for name in one)))


@pytest.mark.parametrize("kind", ["sign-flipped", SHUFFLED])
def test_one_of_five_that_pulls_away_moves_the_mean_and_not_the_robust_rules(
    study: Study, tmp_path: Path, kind: str
) -> None:
    # All clients hold the same people here. Where honest sites disagree more than the bad one does, no rule can tell it.
    rows = np.arange(0, len(study.pool.subjects), 4)
    sites = [partition.write(tmp_path / f"client-{k}", study.pool, rows) for k in range(5)]
    clean = study.run(sites, rounds=1)
    start, end = clean.models
    moved = {}
    for rule in RULES:
        found = study.run(sites, attacks={BAD: kind}, rounds=1, average=rule)
        assert found.lines[0]["averaged"] and len(found.lines[0]["sites"]) == 5
        moved[rule] = distance(found.models[1], end) / distance(start, end)
    if kind == "sign-flipped":  # (4 - 1) / 5 of the update is left
        assert moved["mean"] == pytest.approx(0.4, rel=1e-3)
    for rule in ("trimmed-mean", "median", "multi-krum"):
        assert moved[rule] < 1e-6 < 0.05 < min(moved["mean"], moved["ldawa"]), moved


def test_a_silent_site_misses_the_rounds_that_are_drawn_for_it(study: Study) -> None:
    gone = {site.name: [away(0, site.name, number) for number in (1, 2)] for site in study.sites}
    name = next(name for name in gone if sum(gone[name]) == 1)
    lines = study.run(attacks={name: "silent"}).lines
    missed = [[refusal["site"] for refusal in line["refused"]] for line in lines]
    assert missed == [[name] if misses else [] for misses in gone[name]]
    assert [len(line["sites"]) for line in lines] == [3 - len(names) for names in missed]
