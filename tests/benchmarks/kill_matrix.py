"""What is lost when a process of a real federation is killed: `python -m tests.benchmarks.kill_matrix`.

A SuperLink with TLS and registered names, two SuperNodes with small simulated hospitals and `flwr run`, all on 127.0.0.1, and a study
with everything that has a memory (packed updates, personal layers, kept moments, server momentum). In each cell one process is killed
by SIGKILL in one phase of round 2 of 3, started again as docs/federation.md says, and the run must end in the same bits as the one in
process that nobody stopped. Both sites are the quorum, so no round may go on without one.

phases:    begun (round 0 is kept, nothing asked or just so), training (a site works), one-reply (the other site has answered),
           checkpoint (all have answered, the round is being written), after (the round is in the log)
processes: superlink (with all that it started), serverapp, supernode (with all that it started), clientapp, and superlink-alone (with
           `--isolation process`, where the ServerApp outlives it and the run goes on by itself)

examples: python -m tests.benchmarks.kill_matrix
          python -m tests.benchmarks.kill_matrix --processes superlink supernode --phases training after --json
"""

import argparse
import dataclasses
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from server.run_log import read
from simulations.engines import federate
from smile.config import FederationConfig, SmileConfig, TrainingConfig, ViewConfig
from tests.federation.loopback import Loopback, outcome, wait_for

ROUNDS = 3
PHASES = ("begun", "training", "one-reply", "checkpoint", "after")
PROCESSES = ("superlink", "superlink-alone", "serverapp", "supernode", "clientapp")
WORKING = ("training", "one-reply")  # phases in which a ClientApp lives
STUDY: dict[str, Any] = {
    "rounds": ROUNDS,
    "bits": 8,
    "personal": "norms",
    "optimiser": "kept",
    "server_optimiser": "momentum",
    "server_rate": 0.5,
}
PATIENCE = 600.0  # seconds that one wait may take


def settings(steps: int) -> SmileConfig:
    return SmileConfig(
        views=ViewConfig(size=32),
        training=TrainingConfig(batch_size=8, local_steps=steps, holdout=0.34),
        federation=FederationConfig(**STUDY),
    )


def with_output(config: SmileConfig, output: Path, *, resume: bool) -> SmileConfig:
    folders = {"output": "", "resume": str(output)} if resume else {"output": str(output), "resume": ""}
    federation = dataclasses.replace(config.federation, min_sites=2, **folders)
    return dataclasses.replace(config, federation=federation)


def prepared(folder: Path, config: SmileConfig) -> list[Path]:
    """Two hospitals with three people each."""
    from simulations.hospitals import write_hospitals
    from smile.site.prepare import prepare

    for raw in write_hospitals(folder / "raw", subjects=3, hospitals=("north", "east"), jobs=2):
        prepare(raw, folder / "sites" / raw.name, views=config.views, frames=2, jobs=2, progress=False)
    return sorted((folder / "sites").iterdir())


def lines(output: Path) -> int:
    return len(read(output / "log.jsonl")) if (output / "log.jsonl").exists() else 0


def reach(phase: str, federation: Loopback, output: Path, victim: str, *, delay: float) -> None:
    """Come back in that phase of round 2; in `one-reply` with the victim's ClientApp standing still."""
    wait_for("round 0", lambda: (output / "round-0000").exists(), seconds=PATIENCE)
    if phase == "begun":
        return
    wait_for("round 1", lambda: lines(output) >= 1, seconds=PATIENCE)
    if phase in WORKING:
        wait_for("a ClientApp", lambda: federation.processes(victim, "flwr-clientapp"), seconds=PATIENCE)
    if phase == "training":
        time.sleep(delay)
    elif phase == "one-reply":
        federation.stop(victim, "flwr-clientapp")
        wait_for("a reply", lambda: list(output.glob("replies/*.safetensors")), seconds=PATIENCE)
    elif phase == "checkpoint":
        wait_for("the checkpoint", lambda: list(output.glob("*round-0002*")), seconds=PATIENCE, pause=0.001)
    elif phase == "after":
        wait_for("round 2", lambda: lines(output) >= 2, seconds=PATIENCE)


def strike(process: str, federation: Loopback, config: SmileConfig, output: Path, victim: str) -> None:
    """Kill, start again what the documentation says must be, and let the run go on."""
    if process in ("superlink", "superlink-alone"):
        assert federation.kill("superlink")
        federation.go_on(victim, "flwr-clientapp")
        federation.start_superlink()
    elif process == "serverapp":
        assert federation.kill("superlink", "flwr-serverapp")
        federation.go_on(victim, "flwr-clientapp")
    elif process == "supernode":
        assert federation.kill(victim)
        federation.restart_supernode(victim)
    else:
        assert federation.kill(victim, "flwr-clientapp")
    if process in ("superlink", "serverapp"):
        federation.flwr_run(with_output(config, output, resume=True))


def cell(
    federation: Loopback, config: SmileConfig, output: Path, process: str, phase: str, *, delay: float
) -> dict[str, Any]:
    """One federation of three rounds with one death in it."""
    victim = sorted(federation.sites)[0]
    federation.flwr_run(with_output(config, output, resume=False))
    reach(phase, federation, output, victim, delay=delay)
    died = time.monotonic()
    strike(process, federation, config, output, victim)
    wait_for("the last round", lambda: lines(output) >= ROUNDS, seconds=PATIENCE)
    taken = time.monotonic() - died
    owner = "superexec" if federation.process_isolation else "superlink"
    wait_for("its end", lambda: not federation.processes(owner, "flwr-serverapp"), seconds=PATIENCE)
    log = read(output / "log.jsonl")
    return {
        "process": process,
        "phase": phase,
        "rounds": [line["round"] for line in log],
        "lost": sum(not line["averaged"] or len(line["sites"]) < 2 for line in log),
        "refused": sorted({site["site"] for line in log for site in line["refused"]}),
        "seconds_from_kill_to_end": round(taken, 1),
    }


def same(found: tuple[dict, list], expected: tuple[dict, list]) -> bool:
    """Whether two outcomes have the same models to the bit and the same log."""
    models = found[0].keys() == expected[0].keys() and all(
        np.array_equal(array, expected[0][name]) for name, array in found[0].items()
    )
    return models and found[1] == expected[1]


def matrix(folder: Path, processes: list[str], phases: list[str], steps: int) -> list[dict[str, Any]]:
    import torch

    torch.set_num_threads(1)  # as in the daemons here: another number of threads sums in another order
    config = settings(steps)
    sites = prepared(folder, config)
    federate(config, sites, folder / "whole", engine="in-process", logs=folder / "logs")
    expected, rows = outcome(folder / "whole"), list[dict[str, Any]]()
    draw = np.random.default_rng(0)
    for isolated in (False, True):
        wanted = [process for process in processes if (process == "superlink-alone") == isolated]
        if not wanted:
            continue
        own = [Path(shutil.copytree(site, folder / f"sites-{isolated}" / site.name)) for site in sites]
        with Loopback(folder / f"daemons-{isolated}", own, process_isolation=isolated) as federation:
            for process in wanted:
                for phase in phases:
                    if process == "clientapp" and phase not in WORKING:
                        continue  # none lives then
                    output = folder / f"{process}-{phase}"
                    row = cell(federation, config, output, process, phase, delay=draw.uniform(0, 1))
                    row["bit_equal"] = same(outcome(output), expected)
                    rows.append(row)
                    print(shown(row), file=sys.stderr, flush=True)
    return rows


def shown(row: dict[str, Any]) -> str:
    return (
        f"{row['process']:17}{row['phase']:12}{len(row['rounds']):7}{row['lost']:6}  {','.join(row['refused']) or '-':10}"
        f"{'yes' if row['bit_equal'] else 'NO':10}{row['seconds_from_kill_to_end']:8.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.kill_matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES), metavar="PHASE")
    parser.add_argument(
        "--processes", nargs="+", choices=PROCESSES, default=list(PROCESSES), metavar="PROCESS"
    )
    parser.add_argument("--steps", type=int, default=2, help="local steps of a round (default: 2)")
    parser.add_argument("--out", type=Path, help="a new folder for runs and logs, kept (default: none)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is killed
    if given.out is not None and given.out.exists():
        parser.error(f"{given.out} exists: give another folder")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.out or Path(temporary) / "matrix").resolve()
        rows = matrix(folder, given.processes, given.phases, given.steps)
    if given.json:
        print(json.dumps(rows, indent=2))
    else:
        heads = f"{'killed':17}{'in phase':12}{'rounds':>7}{'lost':>6}  {'refused':10}{'bit-equal':10}{'seconds':>8}"
        print("\n".join([heads, *map(shown, rows)]))
    return 0 if all(row["bit_equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
