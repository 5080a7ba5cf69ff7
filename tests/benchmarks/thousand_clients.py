"""Many simulated clients beside Flower's own quickstart: `python -m tests.benchmarks.thousand_clients`.

Ours, the quickstart of Flower's documentation as it comes (quickstart_app.py: it sends a second message a round, to evaluate), and the
same without that message, on the same engine, in turn. Nets of the same layers and size, as many optimiser steps over as many
pictures of the same size at each client; ours with its checks, losses, augmentation, outbox, logs and checkpoints. Time is that of the
rounds divided by clients and rounds; the start of Ray and SuperLink, the same for all, is not in it. Processor time is that of the whole
tree of processes over the same span, and says more where other programs run. Memory is the sum of the resident sets of the tree,
sampled twice a second; shared pages count twice.

examples: python -m tests.benchmarks.thousand_clients --clients 50 --passes 3
          python -m tests.benchmarks.thousand_clients --engine in-process --clients 100 --json
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from simulations.engines import PRIVATE_ENVIRONMENT, _superlink, _tool, federate
from simulations.memory import ProcessTree
from smile.config import FederationConfig, SmileConfig, TrainingConfig, ViewConfig
from smile.labels import EXPRESSIONS
from smile.site.store import Site
from tests.random_site import write_random_site

LIMIT, GIB = 1.1, 24.0  # of a client-round beside the quickstart's; of memory
APP = Path(__file__).with_name("quickstart_app.py")
QUICKSTART, TRAIN_ONLY = "quickstart", "quickstart, train only"
PROJECT = """
[project]
name = "quickstart"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<1.42"]
[tool.flwr.app]
publisher = "flwr"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["*.py", "LICENSE"]
[tool.flwr.app.components]
serverapp = "quickstart_app:server"
clientapp = "quickstart_app:client"
[tool.flwr.app.config]
rounds = 1
clients = 1
steps = 1
evaluate = 0.0
batch-size = 1
output = ""
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--passes", type=int, default=1, help="of each, in turn (default: %(default)s)")
    parser.add_argument("--captures", type=int, default=4, help="of a client (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="of a client in a round (default: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="of a view in pixels (default: %(default)s)")
    parser.add_argument("--engine", choices=("ray", "in-process"), default="ray", help="default: %(default)s")
    parser.add_argument("--skip-train-only", action="store_true", help="a third less time")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"ours": [], QUICKSTART: [], TRAIN_ONLY: []}
    if options.skip_train_only:
        del found[TRAIN_ONLY]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sites = write_clients(root / "sites", options)
        for turn in range(options.passes):
            for name in list(found)[:: 1 if turn % 2 == 0 else -1]:
                output = root / f"{turn}-{len(found[name])}-{list(found).index(name)}"
                with ProcessTree() as tree:
                    if name == "ours":
                        start, end = ours(sites, output, options)
                    else:
                        start, end = quickstart(sites, output, options, evaluate=float(name == QUICKSTART))
                found[name].append(_figures(tree, start, end, options.clients * options.rounds))
    return report(found, options)


def report(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> int:
    """Print; 1 where ours is slower than the limit allows or took too much memory."""
    ratios = {
        name: {
            key: [mine[key] / other[key] for mine, other in zip(found["ours"], found[name], strict=True)]
            for key in ("milliseconds", "processor")
        }
        for name in found
        if name != "ours"
    }
    most = max(figures["GiB"] for figures in found["ours"])
    if options.json:
        print(json.dumps({"runs": found, "ratios": ratios}, indent=2))
    else:
        print(
            f"{options.clients} clients, {options.rounds} rounds, {options.steps} steps of {options.captures} captures at "
            f"{options.size} px, {options.engine}, {options.passes} passes: median (min - max)"
        )
        print(f"{'':24}{'ms a client-round':>26}{'of processor':>26}{'peak GiB':>10}")
        for name, runs in found.items():
            cells = [spread([figures[key] for figures in runs]) for key in ("milliseconds", "processor")]
            print(f"{name:24}{cells[0]:>26}{cells[1]:>26}{max(figures['GiB'] for figures in runs):10.2f}")
        for name, parts in ratios.items():
            cells = [spread(parts[key], digits=2) for key in ("milliseconds", "processor")]
            print(f"{'ours to ' + name:24}{cells[0]:>26}{cells[1]:>26}")
    return 0 if statistics.median(ratios[QUICKSTART]["milliseconds"]) <= LIMIT and most <= GIB else 1


def spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def write_clients(folder: Path, options: argparse.Namespace) -> list[Path]:
    """One person a client; and beside them their pictures and labels as the quickstart's data set, with a quarter more to test on."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    sites, views = [], ViewConfig(size=options.size)
    pictures, labels = list[bytes](), list[int]()
    for number in range(options.clients):
        path = write_random_site(
            folder / f"client-{number:04d}",
            views,
            people=1,
            sequences=options.captures,
            frames=1,
            seed=number,
        )
        site = Site(path)
        mine = site.gather(np.arange(len(site))).reshape(-1, views.channels, options.size, options.size)
        tested = len(mine) // 4
        pictures += [picture.tobytes() for picture in (*mine, *mine[:tested])]
        mine_labels = np.repeat([EXPRESSIONS.index(label) for label in site.labels], len(views.yaws)).tolist()
        labels += mine_labels + mine_labels[:tested]
        sites.append(path)
    Dataset.from_dict({"img": pictures, "label": labels}).save_to_disk(folder.with_name("data"))
    return sites


def ours(sites: list[Path], output: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Run it; when the first round began and when the last one was over, its checkpoint and page written."""
    config = SmileConfig(
        views=ViewConfig(size=options.size),
        training=TrainingConfig(batch_size=options.captures, local_steps=options.steps, holdout=0.0),
        federation=FederationConfig(rounds=options.rounds),
    )
    federate(config, sites, output, engine=options.engine)
    lines = (output / "log.jsonl").read_text().splitlines()
    answers = [len(json.loads(line)["sites"]) for line in lines]
    assert answers == [len(sites)] * options.rounds, f"sites that answered: {answers}"
    return (output / "round-0000" / "meta.json").stat().st_mtime, (output / "status.html").stat().st_mtime


def quickstart(
    sites: list[Path], output: Path, options: argparse.Namespace, *, evaluate: float
) -> tuple[float, float]:
    """The same of the quickstart."""
    output.mkdir()
    settings: dict[str, Any] = {
        "rounds": options.rounds,
        "clients": len(sites),
        "steps": options.steps,
        "evaluate": evaluate,
        "batch-size": 3 * options.captures,
        "output": str(output / "model.pt"),
    }
    os.environ["QUICKSTART_DATA"] = str(sites[0].parent.with_name("data"))
    if options.engine == "in-process":
        return _quickstart_in_process(sites, settings)
    app, home = output / "app", output / "flower"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "LICENSE").write_text("Apache-2.0\n")  # without one Flower packs no app
    (app / APP.name).write_text(APP.read_text())
    path = f"{Path(_tool('flwr')).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, **PRIVATE_ENVIRONMENT, "PATH": path, "FLWR_HOME": str(home)}
    given = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
    size = f"num-supernodes={len(sites)} client-resources-num-cpus=1 client-resources-num-gpus=0.0"
    with _superlink(home, environment) as connection, (output / "flwr-run.log").open("w") as log:
        command = [_tool("flwr"), "run", str(app), connection, "--stream"]
        command += ["--run-config", given, "--federation-config", size]
        subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    return _span(output / "model.json", len(sites), (output / "flwr-run.log").read_text())


def _span(path: Path, clients: int, log: str = "") -> tuple[float, float]:
    if not path.exists():
        raise RuntimeError(f"the quickstart did not finish:\n{log[-3000:]}")
    found = json.loads(path.read_text())
    assert all(count == clients for count in found["answers"]), f"clients that answered: {found['answers']}"
    return found["start"], found["end"]


def _quickstart_in_process(sites: list[Path], settings: dict[str, Any]) -> tuple[float, float]:
    import logging

    from flwr.app import Context, RecordDict

    from simulations.grid import InProcessGrid
    from tests.benchmarks import quickstart_app

    logging.getLogger("flwr").setLevel(logging.ERROR)
    grid = InProcessGrid(quickstart_app.client, sites)
    for number, context in enumerate(grid.contexts.values()):
        context.node_config |= {"partition-id": number, "num-partitions": len(sites)}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=settings)
    quickstart_app.server(grid, context)
    return _span(Path(settings["output"]).with_suffix(".json"), len(sites))


def _figures(tree: ProcessTree, start: float, end: float, client_rounds: int) -> dict[str, float]:
    times, spent, _ = zip(*tree.samples, strict=True)
    processor = float(np.interp(end, times, spent) - np.interp(start, times, spent))
    return {
        "milliseconds": 1000 * (end - start) / client_rounds,
        "processor": 1000 * processor / client_rounds,
        "GiB": tree.peak_mib / 1024,
    }


if __name__ == "__main__":
    raise SystemExit(main())
