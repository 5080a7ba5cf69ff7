"""How long an engine takes, alone and from a file to a label: percentiles after a warm-up, and what they were measured on.

V views, C channels, H W pixels.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .views import read_views

WARM_UP, RUNS = 10, 100
SECONDS = 2.0  # that a call is repeated, at the least, while its power is measured: tegrastats tells it ten times a second
# What the whole board takes in tegrastats' words: the first of these sets of rails that it names, added up. Nano and Xavier NX,
# Orin Nano and NX; Thor; AGX Orin, whose other rails lie behind these three.
_RAILS = (("POM_5V_IN",), ("VDD_IN",), ("VIN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


def measure(
    calls: Mapping[str, Callable[[], Any]], *, runs: int = RUNS, warm_up: int = WARM_UP, seconds: float = 0.0
) -> dict[str, dict[str, float]]:
    """Name -> milliseconds of a call: p50, p95, p99, least, mean. The calls take turns, so that a busy machine slows all of them.

    runs: of each call, or more until `seconds` are over.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end, done = time.perf_counter() + seconds, 0
    while done < runs or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
        done += 1
    return {name: _percentiles(found) for name, found in times.items()}


def measure_power(
    calls: Mapping[str, Callable[[], Any]], *, runs: int = RUNS
) -> tuple[dict[str, dict[str, float]], str | None]:
    """As `measure`, each call by itself so that the watts are its own: `watts` of the whole board, `joules` of a call.

    Also why there are none, where tegrastats is there and does not tell them.
    """
    rows: dict[str, dict[str, float]] = {}
    reason = None
    for name, call in calls.items():
        with Power() as power:
            for _ in range(WARM_UP):
                call()
            power.forget()
            rows |= measure({name: call}, runs=runs, warm_up=0, seconds=SECONDS)
        if power.watts is None:
            reason = (
                f"no watts: tegrastats names no rail of the whole board ({power.line or 'it says nothing'})"
            )
        else:
            rows[name] |= {"watts": power.watts, "joules": power.watts * rows[name]["mean"] / 1e3}
    return rows, reason


def _percentiles(times: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    found = {"p50": float(p50), "p95": float(p95), "p99": float(p99), "min": min(times)}
    return {**found, "mean": float(np.mean(times)), "runs": len(times)}


def machine() -> dict[str, Any]:
    """What the figures hold for: processor, cores this process may use, and on a Jetson its release and power mode."""
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
    }
    release = Path("/etc/nv_tegra_release")
    if release.is_file():
        found["jetson"] = release.read_text(encoding="utf-8", errors="replace").splitlines()[0].lstrip("# ")
        found["power_mode"] = _output("nvpmodel", "-q")
    return found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    names = re.findall(r"^model name\s*: (.+)$", text, flags=re.MULTILINE)
    return names[0] if names else platform.processor()


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return " ".join(done.stdout.split()) or None


class Power:
    """Watts of the whole board while the block runs, since `forget`, as tegrastats tells them; None where it is not there or does not."""

    def __init__(self) -> None:
        self.watts: float | None = None
        self.line = ""  # the last of tegrastats
        self._read: list[float] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Power":
        try:
            self._process = subprocess.Popen(
                ["tegrastats", "--interval", "100"], stdout=subprocess.PIPE, text=True
            )
        except OSError:
            return self
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()
        return self

    def forget(self) -> None:
        """What was read until now."""
        self._read.clear()

    def _collect(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self.line = line.strip()
            watts = board_watts(line)
            if watts is not None:
                self._read.append(watts)

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait()
        self._thread.join(timeout=5)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.watts = float(np.mean(self._read)) if self._read else None


def board_watts(line: str) -> float | None:
    """Of the whole board, from a line of tegrastats (`VDD_IN 4060mW/4100mW`: now and on average); None where it names no such rail."""
    now = {name: int(value) for name, value in re.findall(r"(\w+) (\d+)(?:mW)?/\d+", line)}
    for rails in _RAILS:
        if all(rail in now for rail in rails):
            return sum(now[rail] for rail in rails) / 1e3
    return None


def main(reader: Any, options: argparse.Namespace) -> int:
    """`run.py --bench [INPUT...]`: this device's chosen engine at several batch sizes, and each INPUT from file to label.

    Raises ValueError for a batch that the engine does not take.
    """
    shape, most = reader.manifest["input"]["shape"][1:], reader.manifest["profile"]["batch"][2]
    if options.batch and options.batch > most:
        raise ValueError(
            f"--batch {options.batch}: this bundle's engines take {most} captures at once, give {most} or less"
        )
    random = np.random.default_rng(0)
    calls: dict[str, Callable[[], Any]] = {}
    for batch in [options.batch] if options.batch else [size for size in (1, 2, 4, 8, 16) if size <= most]:
        views = random.integers(1, 256, (batch, *shape)).astype(np.float32)
        calls[f"engine, batch {batch}"] = lambda views=views: reader.engine(views)  # type: ignore[misc]
    spec = reader.manifest["preprocessing"]
    for path in options.inputs:
        calls[f"{path.name} to label"] = lambda path=path: reader.predict(  # type: ignore[misc]
            read_views(path, reader.bundle, spec)[0]
        )
    runs, power = options.runs or RUNS, None
    if shutil.which("tegrastats"):
        rows, power = measure_power(calls, runs=runs)
    else:
        rows = measure(calls, runs=runs)
    report = {
        "engine": reader.engine.name,
        "precision": reader.engine.precision,
        "views": shape[0],
        **machine(),
    }
    report |= {"threads": options.threads or "one a core", "power": power, "rows": rows}
    print(json.dumps(report) if options.json else table(report))
    return 0


def table(report: dict[str, Any]) -> str:
    """The report as fixed-width text, milliseconds; on a Jetson also watts of the board and joules of a call."""
    words = [
        f"{report['engine']}, {report['precision']}, {report['views']} views, threads: {report['threads']}",
        f"{report['processor'] or report['machine']}, {report['cores']} cores, Python {report['python']}",
    ]
    words += [str(report[key]) for key in ("jetson", "power_mode", "power") if report.get(key)]
    width = max(len(name) for name in report["rows"]) + 2
    columns = ["p50", "p95", "p99", "min", "runs"]
    columns += [key for key in ("watts", "joules") if any(key in row for row in report["rows"].values())]
    words.append(f"{'ms':{width}}" + "".join(f"{name:>9}" for name in columns))
    for name, row in report["rows"].items():
        cells = [row.get(key, float("nan")) for key in columns]
        words.append(
            f"{name:{width}}" + "".join(f"{c:9d}" if isinstance(c, int) else f"{c:9.2f}" for c in cells)
        )
    return "\n".join(words)
