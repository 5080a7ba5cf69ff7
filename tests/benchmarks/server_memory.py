"""How much memory the coordinator takes for many replies of a large model: `python -m tests.benchmarks.server_memory`.

The real ServerApp (or Flower's FedAvg) in a process of its own, in which all is imported and nothing done: its resident memory then is
the baseline, and what is printed is the peak (VmHWM of Linux) less that baseline, in models: the bytes of the float32 arrays that a
site is sent. It runs one round of ViT-B-32 (`--towers` others): builds the model, writes round 0, sends, takes one reply after the
other, averages, writes the checkpoint. The replies lie on disk as the objects that Flower's SuperLink would hand over, and Flower's own
code makes messages of them, whose peak (`unpacking`: a process that does nothing else) is part of every figure. Sites are three
different replies in turn. Flower's FedAvg holds all replies at once: it is measured with --flower of them.

examples: python -m tests.benchmarks.server_memory --replies 100 --cases mean/32
          python -m tests.benchmarks.server_memory --replies 20 --cases mean/4 median/32 --json
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from simulations.grid import InProcessGrid
from smile import wire
from smile.config import FederationConfig, ModelConfig, SmileConfig, ViewConfig, to_flat
from smile.protocol import METRICS

LIMIT = 3.0  # models
CASES = (
    "mean/32",
    "ldawa/32",
    "trimmed-mean/32",
    "median/32",
    "multi-krum/32",
    "mean/16",
    "mean/8",
    "mean/4",
)
VARIANTS = 3
PRELOAD = [
    "server.app",
    "server.status",
    "server.run_state",
    "open_clip",
    "torch.utils.tensorboard",
    "smile.moments",
]
Figures = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", default="ViT-B-32", help="default: %(default)s")
    parser.add_argument("--replies", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--cases", nargs="*", default=CASES, metavar="RULE/BITS", help="default: all")
    parser.add_argument("--flower", type=int, default=10, help="replies for Flower's FedAvg (default: 10)")
    parser.add_argument(
        "--folder", type=Path, help="where there is room for all replies (default: temporary)"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        found = {}
        bits = sorted({int(case.partition("/")[2]) for case in options.cases} | {32})
        sent = write_replies(folder / "replies", study(options.tower, folder), bits)
        room = int(0.9 * shutil.disk_usage(folder).free / sent)
        replies = min(options.replies, room)
        if replies < options.replies:
            print(f"the disk has room for {replies} replies, not {options.replies}", file=sys.stderr)
        for case in options.cases:
            found[case] = measure("ours", folder, tower=options.tower, case=case, replies=replies)
        found["unpacking"] = measure("unpacking", folder, tower=options.tower, case="mean/32", replies=3)
        found["flower"] = measure(
            "flower", folder, tower=options.tower, case="mean/32", replies=options.flower
        )
    for figures in found.values():
        figures["models"] = figures["bytes"] / sent
    if options.json:
        print(json.dumps({"model_bytes": sent, "cases": found}, indent=2))
    else:
        print(f"{options.tower}: {sent / 1e6:.0f} MB; peak above an idle process")
        print(f"{'':18}{'replies':>8}{'MB':>8}{'models':>8}{'s a reply':>11}{'unpacking':>11}")
        for case, f in found.items():
            print(
                f"{case:18}{f['replies']:8.0f}{f['bytes'] / 1e6:8.0f}{f['models']:8.2f}{f['ours']:11.2f}{f['unpacking']:11.2f}"
            )
    return 0 if all(found[case]["models"] <= LIMIT for case in options.cases) else 1


def study(tower: str, folder: Path, *, average: str = "mean", bits: int = 32, sites: int = 1) -> SmileConfig:
    return SmileConfig(
        views=ViewConfig(size=224, modalities=("texture",)),
        model=ModelConfig(tower=tower, modalities=("texture",)),
        federation=FederationConfig(
            rounds=1,
            min_sites=sites,
            average=average,
            bits=bits,
            output=str(folder / "out"),
            round_timeout=1e6,
        ),
    )


def write_replies(folder: Path, config: SmileConfig, widths: Iterable[int]) -> int:
    """What SuperLink would hold: FOLDER/BITS-VARIANT.objects and .json. Returns the bytes of the whole model."""
    from smile.model import build_model
    from smile.protocol import get_arrays

    arrays = get_arrays(build_model(config))
    for bits in widths:
        for variant in range(VARIANTS):
            write_reply(folder, arrays, bits=bits, variant=variant)
    return sum(array.nbytes for array in arrays.values())


def write_reply(folder: Path, arrays: dict[str, np.ndarray], *, bits: int, variant: int) -> None:
    """The model after a step that differs from variant to variant, as a site would send it."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(variant)
    change = {n: random.normal(0, 1e-4, a.shape).astype(np.float32) for n, a in arrays.items()}
    packed = (
        {name: np.asarray(arrays[name] + change[name]) for name in arrays}
        if bits == 32
        else wire.encode(change, bits=bits, top_k=1.0)[0]
    )
    record = ArrayRecord({name: Array(array) for name, array in packed.items()})
    figures = MetricRecord({**dict.fromkeys(METRICS, 1.0), "num-examples": 10 + variant})
    message = Message(RecordDict({"arrays": record, "metrics": figures}), dst_node_id=1, message_type="train")
    objects, index = get_all_nested_objects(message), {}
    with (folder / f"{bits}-{variant}.objects").open("wb") as file:
        for name, part in objects.items():
            content = part.deflate()
            index[name] = [file.tell(), len(content)]
            file.write(content)
    record_file = folder / f"{bits}-{variant}.json"
    record_file.write_text(json.dumps({"root": message.object_id, "index": index}))


class Replies(InProcessGrid):
    """Sites whose answers lie on disk; each is unpacked when it is asked for, as Flower's HttpGrid does."""

    def __init__(self, folder: Path, *, bits: int, sites: int) -> None:
        super().__init__(ClientApp(), [Path(f"site-{number:04d}") for number in range(sites)])
        self.folder, self.bits, self.seconds = folder, bits, 0.0
        self.nodes: dict[str, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keeps for whom each is, not the message: it holds a model."""
        numbers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = number = message.object_id
            self.nodes[number] = message.metadata.dst_node_id
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._unpack(number) for number in message_ids]

    def _unpack(self, number: str) -> Message:
        started, node = time.perf_counter(), self.nodes.pop(number)
        path = self.folder / f"{self.bits}-{node % VARIANTS}.objects"
        found = json.loads(path.with_suffix(".json").read_text())
        contents = {}
        with path.open("rb") as file:
            for name, (start, size) in found["index"].items():
                file.seek(start)
                contents[name] = file.read(size)
        message: Any = inflate_object_from_contents(found["root"], contents)
        message.metadata.__dict__ |= {"_reply_to_message_id": number, "_src_node_id": node}
        self.seconds += time.perf_counter() - started
        return message


def measure(work: str, folder: Path, **options: Any) -> Figures:
    """Do it in a process of its own, and what that process says."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    output = folder / "figures.json"
    output.unlink(missing_ok=True)
    process = context.Process(target=_alone, args=(work, folder, options))
    process.start()
    process.join()
    shutil.rmtree(folder / "out", ignore_errors=True)
    if not output.exists():
        raise RuntimeError(f"{work} {options} ended with {process.exitcode}")
    found: Figures = json.loads(output.read_text())
    return found


def _alone(work: str, folder: Path, options: dict[str, Any]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    rule, _, bits = options["case"].partition("/")
    grid = Replies(folder / "replies", bits=int(bits), sites=options["replies"])
    before, started = memory("VmRSS"), time.perf_counter()
    if work == "ours":
        run_ours(
            grid, study(options["tower"], folder, average=rule, bits=int(bits), sites=options["replies"])
        )
    elif work == "flower":
        run_flower(grid, study(options["tower"], folder))
    else:
        for message in (
            Message(RecordDict(), dst_node_id=node, message_type="train") for node in grid.get_node_ids()
        ):
            grid.pull_messages(grid.push_messages([message]))
    seconds = time.perf_counter() - started
    count = options["replies"]
    figures = {
        "replies": count,
        "bytes": memory("VmHWM") - before,
        "ours": (seconds - grid.seconds) / count,
        "unpacking": grid.seconds / count,
    }
    (folder / "figures.json").write_text(json.dumps(figures))


def run_ours(grid: Grid, config: SmileConfig) -> None:
    from server.app import app
    from server.run_log import read

    settings: Any = to_flat(config)
    app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=settings))
    (line,) = read(Path(config.federation.output) / "log.jsonl")
    assert line["averaged"] and len(line["sites"]) == config.federation.min_sites, line["refused"]


def run_flower(grid: Grid, config: SmileConfig) -> None:
    """As a quickstart's ServerApp: the model, FedAvg, the result."""
    from flwr.serverapp.strategy import FedAvg

    from smile.model import build_model

    initial = ArrayRecord(build_model(config).state_dict())
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=1)
    assert result.arrays


def memory(what: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{what}:"))


if __name__ == "__main__":
    raise SystemExit(main())
