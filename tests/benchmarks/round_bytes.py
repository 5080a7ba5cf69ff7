"""What a round sends for a large tower, both directions, a site: `python -m tests.benchmarks.round_bytes`.

The real strategy asks one site, whose answer goes through the client's own packing and outbox; instead of training, each weight moves by
a random step (a normal variate, scaled for each array as AdamW's first steps are), since how many bytes a message takes depends on
the update only through where its largest entries lie, and scattered ones cost most. Messages are counted as they are serialised for
the wire, names, figures and settings included, in the second round; in the first the whole model goes down. The yardstick is Flower's
own FedAvg on the same arrays, train messages only: as it comes it sends the model once more a round, to be evaluated. Seconds are
of processor time: `pack` and `open` of a message at the site.

examples: python -m tests.benchmarks.round_bytes
          python -m tests.benchmarks.round_bytes --tower ViT-B-16 --settings bits=8 bits=4,top_k=0.25 --json
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.serverapp.strategy import FedAvg

from client import app as client
from client.privacy import Outbox
from server import run_state
from server.strategy import SmileStrategy
from simulations.grid import InProcessGrid
from smile.config import FederationConfig, ModelConfig, SmileConfig, ViewConfig, to_flat
from smile.model import SmileModel, build_model
from smile.protocol import METRICS, get_arrays
from smile.sharing import split_names

SETTINGS = (
    "bits=32",
    "bits=16",
    "bits=8",
    "bits=4",
    "top_k=0.1",
    "bits=4,top_k=0.5",
    "tuning=lora",
    "tuning=lora,bits=4",
)
RECOMMENDED, LIMIT = "bits=4", 1 / 8
STEP = 1e-4  # of a weight in a round


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", default="ViT-B-32", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=224, help="of a view in pixels (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="the last is counted (default: %(default)s)")
    parser.add_argument(
        "--settings", nargs="*", default=SETTINGS, metavar="KEY=VALUE,..", help="default: all"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    options = parser.parse_args()
    found = {"Flower's FedAvg": flower(options)}
    for words in options.settings:
        found[words] = ours(words, options)
    base = found["Flower's FedAvg"]["down"] + found["Flower's FedAvg"]["up"]
    for figures in found.values():
        figures["share"] = (figures["down"] + figures["up"]) / base
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{options.tower}, one site, round {options.rounds}, MB of messages as serialised")
        print(f"{'':22}{'first down':>11}{'down':>10}{'up':>10}{'of fp32':>10}{'pack s':>9}{'open s':>9}")
        for name, f in found.items():
            sizes = "".join(
                f"{f[key] / 1e6:{width}.2f}" for key, width in (("first", 11), ("down", 10), ("up", 10))
            )
            print(f"{name:22}{sizes}{f['share']:10.4f}{f['pack']:9.2f}{f['open']:9.2f}")
    return 0 if RECOMMENDED not in found or found[RECOMMENDED]["share"] <= LIMIT else 1


def study(words: str, options: argparse.Namespace) -> SmileConfig:
    """`bits=4,top_k=0.25` -> settings; `tuning` belongs to the model, all others to the federation."""
    pairs = dict(word.split("=") for word in words.split(",")) if words else {}
    model = ModelConfig(tower=options.tower, tuning=pairs.pop("tuning", "full"))
    federation = FederationConfig(rounds=options.rounds, min_sites=1)
    kinds = {"bits": int, "top_k": float}
    federation = dataclasses.replace(federation, **{key: kinds[key](value) for key, value in pairs.items()})
    return SmileConfig(views=ViewConfig(size=options.size), model=model, federation=federation)


def size(message: Message) -> int:
    return len(message_to_proto(message).SerializeToString())


class Counted(InProcessGrid):
    """One site; the sizes of what passes, as it would lie on the wire."""

    def __init__(self, app: Any, folder: Path) -> None:
        super().__init__(ClientApp(), [folder])
        self.app, self.down, self.up = app, list[int](), list[int]()

    def deliver(self, message: Message) -> Message:
        answer: Message = self.app(message)
        self.down.append(size(message))
        self.up.append(size(answer))
        return answer


class StillSite:
    """A site that packs and opens messages as `client.app` does, and moves each weight at random where that one trains."""

    def __init__(self, model: SmileModel, config: SmileConfig, folder: Path) -> None:
        self.model, self.config, self.folder = model, config, folder
        self.shared = split_names(model, config.federation.personal)[0]
        self.kept: dict[str, np.ndarray] = {}
        self.residual: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(0)
        self.packing = self.opening = 0.0

    def __call__(self, message: Message) -> Message:
        settings: Any = message.content.config_records["config"]
        started = time.process_time()
        incoming = client._incoming(message, self.model, self.shared, self.kept, int(settings["base"]))
        self.opening = time.process_time() - started
        after = {name: np.asarray(array + self._step(array)) for name, array in incoming.items()}
        started = time.process_time()
        outgoing, self.residual = client._outgoing(self.config, after, incoming, self.residual)
        self.packing = time.process_time() - started
        self.kept = {**incoming, "round": np.array(int(settings["server-round"]) - 1)}
        figures = {**dict.fromkeys(METRICS, 1.0), "num-examples": 100}
        return Outbox(message, run=1, log=self.folder).send(outgoing, figures, self.shared)

    def _step(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(STEP * self.random.standard_normal(array.shape, np.float32), np.float32)


def ours(words: str, options: argparse.Namespace) -> dict[str, float]:
    config = study(words, options)
    model = build_model(config)
    with tempfile.TemporaryDirectory() as name:
        site = StillSite(model, config, Path(name))
        grid = Counted(site, Path(name))
        state = run_state.begin(get_arrays(model), config)
        strategy = SmileStrategy(
            config.federation,
            state,
            shared=site.shared,
            moment_shapes={},
            seed=0,
            output=Path(name),
            after_round=lambda done: None,
        )
        lines: list[dict[str, Any]] = []
        strategy.run(grid, ConfigRecord(dict(to_flat(config))), watch=lines.append)
    for line, down, up in zip(lines, grid.down, grid.up, strict=True):
        assert line["averaged"], line["refused"]
        # The log counts the arrays; what is beside them is names, shapes and settings.
        assert line["bytes_sent"] < down and line["bytes_received"] < up
    figures = {"first": grid.down[0], "down": grid.down[-1], "up": grid.up[-1]}
    return {**figures, "pack": site.packing, "open": site.opening}


def flower(options: argparse.Namespace) -> dict[str, float]:
    """FedAvg's own messages, and an answer as the quickstart's client makes it."""
    model = build_model(study("", options))
    with tempfile.TemporaryDirectory() as name:

        def answer(message: Message) -> Message:
            started = time.process_time()
            message.content.array_records["arrays"].to_torch_state_dict()
            opened = time.process_time()
            metrics = MetricRecord({"train_loss": 1.0, "num-examples": 100})
            content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
            spent.update(open=opened - started, pack=time.process_time() - opened)
            return Message(content, reply_to=message)

        spent: dict[str, float] = {}
        grid = Counted(answer, Path(name))
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=options.rounds)
    return {"first": grid.down[0], "down": grid.down[-1], "up": grid.up[-1], **spent}


if __name__ == "__main__":
    raise SystemExit(main())
