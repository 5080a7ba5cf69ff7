"""Scans a second from file to pictures, ours against what one would write otherwise: `python -m tests.benchmarks.prepare_speed`.

All contestants (loops.py says what each does and does not do) get the same meshes in the same run, in turn, so that whatever
else the machine does hits all of them. A repeat is a pass over all scans by processes that are started and warm; only
`smile prepare` is timed as a user sees it, with its start, its checks and all that it writes.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from tests.benchmarks import loops, meshes

REFERENCE = "pyrender loop, 1 process"
Contestant = Callable[[], float]  # one pass over its scans -> scans a second


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=8, help="scans in a pass (default 8)")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each contestant (default 5)")
    parser.add_argument("--prepared", type=int, default=48, help="scans for `smile prepare` (default 48)")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    chosen = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    os.environ |= dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
    )  # for everybody
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"writing {max(chosen.scans, chosen.prepared)} scans ...", file=sys.stderr)
        wrl, obj = meshes.write(folder, max(chosen.scans, chosen.prepared))
        contestants, absent = _contestants(wrl[: chosen.scans], obj[: chosen.scans], cores)
        for kind in ("wrl", "obj"):
            run = partial(_prepare, folder / kind, folder / f"{kind}-site", len(wrl))
            contestants[f"smile prepare .{kind}, all cores"] = run
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for repeat in range(chosen.repeats):
            for name, run in contestants.items():
                print(f"pass {repeat + 1} of {chosen.repeats}: {name}", file=sys.stderr)
                rates[name].append(run())
        first = meshes.scan(0)
    machine = f"{cores} cores of {_processor()}, {platform.system()}, Python {platform.python_version()}"
    size = (
        f"{len(first.vertices):,} vertices, {len(first.faces):,} faces, texture {meshes.SIZE[0]} x {meshes.SIZE[1]}; "
        f"3 yaws x (texture, depth, normals) at {loops.SIZE} x {loops.SIZE}"
    )
    print(f"{machine}\n{size}\n\n{_table(rates)}")
    print("\n".join(["", *absent]))
    if chosen.json:
        report = {"machine": machine, "scans": size, "scans_per_second": rates, "absent": absent}
        chosen.json.write_text(json.dumps(report, indent=1) + "\n")


def _contestants(wrl: list[Path], obj: list[Path], cores: int) -> tuple[dict[str, Contestant], list[str]]:
    """Those that work here, started and warm, and a sentence for each of the others."""
    entries = [
        ("ours .wrl, 1 process", loops.ours, wrl, 1),
        ("ours .obj, 1 process", loops.ours, obj, 1),
        (REFERENCE, loops.pyrender_loop, obj, 1),
        (f"pyrender loop, {cores} processes", loops.pyrender_loop, obj, cores),
        ("PyVista (VTK), 1 process", loops.vtk_loop, obj, 1),
        ("Open3D, 1 process", loops.open3d_loop, obj, 1),
    ]
    contestants: dict[str, Contestant] = {}
    absent = []
    for name, loop, paths, processes in entries:
        pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
        try:
            _pass(pool, loop, paths[: 2 * processes])
        except Exception as error:  # not installed, no driver, or the process died
            absent.append(f"{name}: left out, {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        contestants[name] = partial(_pass, pool, loop, paths)
    return contestants, absent


def _pass(pool: ProcessPoolExecutor, loop: Callable[[Path], np.ndarray], paths: list[Path]) -> float:
    begin = time.perf_counter()
    shapes = {pictures.shape for pictures in pool.map(loop, paths)}
    assert shapes == {(len(loops.YAWS), 7, loops.SIZE, loops.SIZE)}, shapes
    return len(paths) / (time.perf_counter() - begin)


def _prepare(raw: Path, site: Path, scans: int) -> float:
    """The command itself, in a process of its own, into a new folder."""
    shutil.rmtree(site, ignore_errors=True)
    begin = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "smile",
        "prepare",
        str(raw),
        str(site),
        "--size",
        str(loops.SIZE),
        "--quiet",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent.parent.parent)
    seconds = time.perf_counter() - begin
    from smile.site.store import Site

    prepared = len(Site(site))
    assert prepared == scans, f"{prepared} of {scans} scans prepared"
    return scans / seconds


def _table(rates: dict[str, list[float]]) -> str:
    """Markdown: median, least and most of the passes, and the ratio of the medians to the reference."""
    reference = statistics.median(rates[REFERENCE]) if REFERENCE in rates else float("nan")
    lines = [
        "| contestant | scans a second, median | min - max | x the pyrender loop |",
        "| --- | --- | --- | --- |",
    ]
    for name, passes in rates.items():
        median = statistics.median(passes)
        lines.append(
            f"| {name} | {median:.2f} | {min(passes):.2f} - {max(passes):.2f} | {median / reference:.1f} |"
        )
    return "\n".join(lines)


def _processor() -> str:
    """Its name as Linux gives it, else the architecture."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


if __name__ == "__main__":
    main()
