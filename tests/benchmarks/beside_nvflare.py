"""A federation beside NVIDIA FLARE's simulator: `python -m tests.benchmarks.beside_nvflare --install` (about 15 minutes).

Same model, start weights, prepared sites, batches, losses, steps, rounds and weights of the mean; FLARE's clients call our own
`smile.training.train` (nvflare_job.py), so what differs is what carries and averages. The models after the first round and after the
last are compared, and a weight that differs by more than 1e-6 after the first or 1e-4 after the last ends with 1. The last can, where the
first does not, and so can our own two engines: replies are summed in the order in which they come, and AdamW makes as large a step of a
gradient that is nothing but rounding as of any other.

FLARE's server `built` the first model as ours does, or was `given` a file, and then needs no torch; its workers are as many as
`--threads`, and with fewer than sites a new one, with a new torch, starts for each task.

FLARE's environment is a venv below OUT with FLARE's own requirements; a .pth file adds this environment's packages after its own, so
both run the same torch and numpy. `--install` lets pip fetch `nvflare` and what is missing (about 15 MB) from its index; without it give
`--python` of an environment that has nvflare, torch, open_clip and safetensors. Nothing else is fetched.

Of each contestant: seconds from the start of its command to its end, seconds between the checkpoints of the first and the last round
by the number of rounds between, and the most memory that all its processes hold at once (PSS, pages that processes share counted once;
RSS beside it). Repetitions go in turn, every second turn backwards. Linux only: it reads /proc.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VERSION = "2.9.0"
HOSPITALS = ("north", "centre", "south", "east")
ENGINES = ("ray", "in-process")
MODELS = ("built", "given")
TOLERANCES = {"first": 1e-6, "last": 1e-4}
LOST = "run_client_thread error"  # FLARE 2.9's simulator now and then loses a worker at its start, then waits for it for ever
SAMPLE = 0.5  # seconds between looks at the memory
UNITS = ("s in all", "s a round", "s of CPU", "MiB PSS", "MiB RSS")
DIGITS = (1, 1, 1, 0, 0)
ROOT = Path(__file__).parent.parent.parent


class Run(NamedTuple):
    """What one run of a contestant took."""

    seconds: float
    round_seconds: float
    cpu_seconds: float  # of all its processes
    pss: float  # MiB
    rss: float  # MiB


def main() -> int:
    chosen = options()
    if chosen.ours:
        return federate_ours(chosen.out, chosen.ours)
    python = install(chosen.out.resolve() / "flare") if chosen.install else chosen.python.absolute()
    adopt_orphans()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        # In a process of its own: this one shall hold no torch whose pages the contestants would share.
        plan = other.submit(prepare, chosen).result()
    jobs = chosen.out.resolve() / "jobs"
    shutil.rmtree(jobs, ignore_errors=True)
    write = [python, Path(__file__).with_name("nvflare_job.py"), "--plan", plan, "--jobs", jobs]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL, env=environment())
    ours = [sys.executable, "-m", "tests.benchmarks.beside_nvflare", "--out", chosen.out, "--ours"]
    simulator = [python, "-m", "nvflare.private.fed.app.simulator.simulator"]
    size = [
        "-w",
        chosen.out.resolve() / "run" / "flare",
        "-n",
        len(json.loads(plan.read_text())["sites"]),
        "-t",
    ]
    commands = {f"ours, {engine}": [*ours, engine] for engine in chosen.engines}
    for n, kind in itertools.product(chosen.threads, chosen.models):
        commands[f"FLARE, {n}, {kind}"] = [*simulator, jobs / kind, *size, n]
    return compare(commands, chosen)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/beside-nvflare"))
    parser.add_argument("--sites", nargs="+", type=Path, help="prepared sites instead of simulated ones")
    parser.add_argument("--subjects", type=int, default=6, help="people a simulated hospital (default 6)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="local steps a round (default 20)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--threads", nargs="*", type=int, default=[4], help="of FLARE's simulator (default 4)"
    )
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=MODELS, help="of FLARE's server: see above"
    )
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=ENGINES, help="ours")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--install", action="store_true", help=f"pip install nvflare=={VERSION} below OUT")
    where.add_argument("--python", type=Path, help="interpreter of an environment with nvflare")
    where.add_argument("--ours", choices=ENGINES, help=argparse.SUPPRESS)  # one of the contestants
    return parser.parse_args()


def install(folder: Path) -> Path:
    """FLARE's environment; returns its interpreter. Raises CalledProcessError when pip fails."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing nvflare=={VERSION} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "zz_shared.pth").write_text("\n".join(ours) + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"nvflare=={VERSION}"], check=True)
        (folder / "installed").touch()
    return python


def prepare(chosen: argparse.Namespace) -> Path:
    """Sites, start weights and the study's settings; sites that are there are used again. Returns OUT/plan.json."""
    from smile.config import FederationConfig, SmileConfig, TrainingConfig, to_flat
    from smile.model import build_model
    from smile.protocol import get_arrays

    config = SmileConfig(
        training=TrainingConfig(local_steps=chosen.steps), federation=FederationConfig(rounds=chosen.rounds)
    )
    out = chosen.out.resolve()
    sites = chosen.sites or hospitals(out / f"sites-{chosen.subjects}", chosen.subjects)
    start: dict[str, Any] = dict(get_arrays(build_model(config)))
    np.savez(out / "start.npz", **start)
    plan = {
        "config": to_flat(config),
        "sites": [str(path.resolve()) for path in sites],
        "start": str(out / "start.npz"),
        "output": str(out / "run" / "models"),
    }
    (out / "plan.json").write_text(json.dumps(plan, indent=2))
    return out / "plan.json"


def hospitals(folder: Path, subjects: int) -> list[Path]:
    """Four simulated hospitals as prepared sites."""
    from simulations.hospitals import write_hospitals
    from smile.config import ViewConfig
    from smile.site.prepare import prepare as prepare_site

    sites = [folder / name for name in HOSPITALS]
    if not (folder / "done").exists():
        print(f"preparing {len(sites)} simulated hospitals in {folder}", flush=True)
        for raw in write_hospitals(folder / "raw", subjects=subjects, hospitals=HOSPITALS):
            prepare_site(raw, folder / raw.name, views=ViewConfig(), frames=4, progress=False)
        (folder / "done").touch()
    return sites


def federate_ours(out: Path, engine: str) -> int:
    """The contestant's command: what `python -m simulations` does for a federation, and nothing else."""
    from simulations.engines import federate
    from smile.config import from_flat

    plan = json.loads((out / "plan.json").read_text())
    logs = out.resolve() / "run" / "logs" if engine == "in-process" else None
    sites = [Path(site) for site in plan["sites"]]
    federate(from_flat(plan["config"]), sites, Path(plan["output"]), engine=engine, logs=logs)
    return 0


def compare(commands: dict[str, list], chosen: argparse.Namespace) -> int:
    """Run all in turn, print the table; 1 where the models differ."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    models: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for repeat in range(chosen.repeats):
        for name in list(commands)[:: -1 if repeat % 2 else 1]:
            run, models[name] = measure(commands[name], chosen.out.resolve() / "run", chosen.rounds)
            runs[name].append(run)
            print(
                f"{name}: " + ", ".join(f"{x:.1f} {y}" for x, y in zip(run, UNITS, strict=True)), flush=True
            )
    print(f"\nmedian of {chosen.repeats} (least - most)\n{'':18}" + "".join(f"{unit:>22}" for unit in UNITS))
    for name, found in runs.items():
        cells = []
        for column, digits in zip(zip(*found, strict=True), DIGITS, strict=True):
            low, middle, high = (f"{f(column):.{digits}f}" for f in (min, statistics.median, max))
            cells.append(f"{middle} ({low} - {high})")
        print(f"{name:18}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    ours, *others = models
    same = True
    for name, (after, bound) in itertools.product(others, TOLERANCES.items()):
        one, other = models[ours][after], models[name][after]
        assert one.keys() == other.keys()
        gap = np.max([np.abs(one[key] - other[key]).max() for key in one])  # NaN where one has a NaN
        print(
            f"{after} round, {ours} and {name}: largest difference of a weight {gap:.1e}, bound {bound:.0e}"
        )
        same = same and bool(gap <= bound)
    return int(not same)


def measure(command: list, folder: Path, rounds: int) -> tuple[Run, dict[str, dict[str, np.ndarray]]]:
    """Run one contestant in an empty FOLDER, again where it lost a worker; returns what it took and its models."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "models").mkdir(parents=True)
        spent, start = used(), time.monotonic()
        try:
            code, pss, rss = run([str(word) for word in command], folder / "command.log")
            seconds = time.monotonic() - start
        finally:
            clear()
        if code is not None:
            break
        print(f"a worker was lost at its start and the rest waits for ever: run again ({LOST!r})", flush=True)
    # Ours are folders, and an older one changes when what only the newest two keep is removed.
    found = sorted(
        [*(folder / "models").glob("round-*.npz"), *(folder / "models").glob("round-*/model.safetensors")]
    )
    saved = [path for path in found if "round-0000" not in str(path)]
    if code or len(saved) != rounds:
        raise RuntimeError(f"{len(saved)} of {rounds} rounds, exit code {code}: see {folder / 'command.log'}")
    times = [path.stat().st_mtime for path in saved]
    each = (times[-1] - times[0]) / max(1, rounds - 1)
    models = {"first": arrays(saved[0]), "last": arrays(saved[-1])}
    return Run(seconds, each, used() - spent, pss, rss), models


def run(command: list[str], log: Path) -> tuple[int | None, float, float]:
    """Exit code, None where FLARE lost a worker; the most PSS and RSS in MiB that its processes held at once."""
    most = (0.0, 0.0)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment(), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT
        )
        while True:
            try:
                return process.wait(SAMPLE), *most
            except subprocess.TimeoutExpired:
                now = held()
                most = max(most[0], now[0]), max(most[1], now[1])
            if LOST in log.read_text():
                process.kill()
                return None, *most


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of FLARE's job, or of one of ours."""
    from safetensors.numpy import load_file

    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    return load_file(path)


def environment() -> dict[str, str]:
    """This project importable; one thread of torch in each process, as Ray has it: other numbers sum in another order."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def adopt_orphans() -> None:
    """Grandchildren whose parent ends become ours, so that none is missed in the sums (Linux: PR_SET_CHILD_SUBREAPER)."""
    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def held() -> tuple[float, float]:
    """MiB that all processes below this one hold now: PSS and RSS."""
    import psutil

    pss = rss = 0
    for process in psutil.Process().children(recursive=True):
        try:
            memory = process.memory_full_info()
        except psutil.Error:
            continue  # it ended between listing and reading
        pss, rss = pss + memory.pss, rss + memory.rss
    return pss / 2**20, rss / 2**20


def used() -> float:
    """Processor seconds of all processes below this one that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def clear() -> None:
    """End what a contestant left running, that it does not disturb the next, and wait for all, that it is counted."""
    import psutil

    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=5)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=10)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass  # those that another left behind


if __name__ == "__main__":
    sys.exit(main())
