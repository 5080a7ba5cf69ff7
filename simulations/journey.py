"""The whole journey, step by step, through the commands that a user would type.

raw scans -> `smile prepare` -> `flwr run` -> evaluation on held-out people -> `python -m export bundle` -> `run.py` -> report.
"""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simulations import compare
from simulations.engines import ROOT, federate
from smile import __version__
from smile.config import SmileConfig, from_flat, to_flat


@dataclass(frozen=True)
class Plan:
    """What a scenario file and the command line ask for."""

    name: str
    config: SmileConfig
    raw: tuple[Path, ...]  # folders of raw scans; empty: simulate hospitals
    hospitals: tuple[str, ...]
    subjects: int
    frames: int
    seeds: int
    engine: str
    jobs: int
    clients: dict[str, Any]  # of `compare`: how people are dealt out, and what goes wrong
    strategies: str  # of `compare`, where none are named


def scenario(name: str, options: argparse.Namespace) -> Plan:
    """Read simulations/scenarios/NAME.toml and put the command line over it. Raises ValueError for a bad value."""
    file = tomllib.loads((Path(__file__).parent / "scenarios" / f"{name}.toml").read_text())
    settings = {**to_flat(SmileConfig()), **file["settings"]}
    for text in options.settings:
        key, _, value = text.partition("=")
        if key in ("federation.output", "federation.min-sites"):
            raise ValueError(f"{key} follows from --out and from the sites here: leave it out")
        settings[key] = value
    missing = [path for path in options.sites or () if not path.exists()]
    # The shell's `sites/*` matches a README beside the folders too: files are passed over.
    raw = tuple(path.resolve() for path in options.sites or () if path.is_dir())
    if missing or (options.sites and not raw):
        raise ValueError(
            f"{(missing or options.sites)[0]} is not a folder: give folders of raw scans after --sites"
        )
    if len({path.name for path in raw}) != len(raw):
        raise ValueError("two of the folders after --sites have the same name: rename one")
    seeds = options.seeds if options.seeds is not None else file["seeds"]
    subjects = options.subjects if options.subjects is not None else file["subjects"]
    if seeds < 1 or subjects < 2:
        raise ValueError(
            f"--seeds {seeds} --subjects {subjects}: give at least 1 seed and 2 people in a hospital"
        )
    config = from_flat(settings)
    if config.training.holdout == 0:
        raise ValueError("training.holdout = 0: nobody would be left to evaluate on")
    return Plan(
        name=name,
        config=config,
        raw=raw,
        hospitals=tuple(file["hospitals"]),
        subjects=subjects,
        frames=file["frames"],
        seeds=seeds,
        engine=getattr(options, "engine", None) or file["engine"],
        jobs=options.jobs or os.cpu_count() or 1,
        clients=file.get("clients", {}),
        strategies=file.get("strategies", ""),
    )


class Steps:
    """Says which step runs, on standard error, and how long it took."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.started, self.seconds = quiet, time.monotonic(), {}  # type: ignore[var-annotated]
        self.current, self.since = "", self.started

    def begin(self, name: str) -> None:
        self.end()
        self.current, self.since = name, time.monotonic()
        if not self.quiet:
            print(f"[{self.since - self.started:5.0f} s] {name}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        if not self.quiet:
            print(f"          {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.current:
            self.seconds[self.current] = round(time.monotonic() - self.since, 1)


def run(plan: Plan, *, out: Path, quiet: bool = False) -> dict[str, Any]:
    """Carry the plan out below `out`; returns the content of summary.json. Prints the table unless `quiet`."""
    from simulations.memory import ProcessTree
    from simulations.report import write_report

    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "summary.json", "report.html"):  # a failed run must not leave an older run's
        (out / name).unlink(missing_ok=True)
    steps, memory = Steps(quiet), ProcessTree()
    with memory:
        raw, sites = prepare_sites(plan, out, steps, quiet)
        results, checkpoint = _compare(plan, out, sites, steps)
        reading = _export(plan, out, raw, sites, checkpoint, steps)
    steps.end()
    summary = _summary(plan, results, reading, out, sites)
    summary |= {
        "seconds": round(time.monotonic() - steps.started, 1),
        "seconds_by_step": steps.seconds,
        "peak_rss_mib": memory.peak_mib,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2))
    report = write_report(out, summary, results, sites, simulated=not plan.raw)
    if not quiet:
        chance = summary["chance"]
        print(compare.table({m: summary[m] for m in compare.METHODS}, chance=chance, sites=len(sites)))
        print(
            f"{summary['test_subjects']} people that no site trained on, {plan.seeds} seeds; text from: "
            f"{plan.config.objective.prompt_source}" + ("; simulated faces" if not plan.raw else "")
        )
        print(f"report: {report}")
    return summary


def prepare_sites(plan: Plan, out: Path, steps: Steps, quiet: bool) -> tuple[list[Path], list[Path]]:
    """(folders of raw scans, prepared sites below OUT/sites); what an earlier run has done is not done again."""
    raw = list(plan.raw)
    if not raw:
        raw = _simulate(plan, out / "raw", steps)
    views, sites = plan.config.views, []
    for folder in raw:
        steps.begin(f"smile prepare {folder.name}")
        site = out / "sites" / folder.name
        _command(
            [
                "-m",
                "smile",
                "prepare",
                str(folder),
                str(site),
                "--frames",
                str(plan.frames),
                "--yaws",
                ",".join(f"{yaw:g}" for yaw in views.yaws),
                "--size",
                str(views.size),
                "--radius",
                f"{views.radius:g}",
                "--modalities",
                ",".join(views.modalities),
                "--motion",
                views.motion,
                "--magnify",
                f"{views.magnify:g}",
                "--jobs",
                str(plan.jobs),
            ]
            + (["--quiet"] if quiet else [])
        )
        _command(["-m", "smile", "inspect", str(site), "--json"])
        sites.append(site)
    return raw, sites


def _clear(folder: Path) -> None:
    """Empty a folder of ours. Raises ValueError where the files in it are not of an earlier run of ours."""
    marker = folder / ".smile-simulation"
    if folder.is_dir() and any(folder.iterdir()) and not marker.is_file():
        raise ValueError(f"{folder} holds files that this command did not write: give another --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def _simulate(plan: Plan, folder: Path, steps: Steps) -> list[Path]:
    """Write the hospitals, or take those that an earlier run with the same numbers has finished."""
    from simulations.hospitals import write_hospitals

    wanted = json.dumps({"hospitals": plan.hospitals, "subjects": plan.subjects, "version": __version__})
    finished = folder / "finished.json"
    if finished.is_file() and finished.read_text() == wanted:
        return [folder / name for name in plan.hospitals]
    steps.begin(f"simulate {len(plan.hospitals)} hospitals with {plan.subjects} people each")
    _clear(folder)
    raw = write_hospitals(folder, subjects=plan.subjects, hospitals=plan.hospitals, jobs=plan.jobs)
    finished.write_text(wanted)
    return raw


def _compare(plan: Plan, out: Path, sites: list[Path], steps: Steps) -> tuple[list[dict[str, Any]], Path]:
    seeds = list(range(plan.config.training.seed, plan.config.training.seed + plan.seeds))
    for site in sites:
        (site / "outbox.csv").unlink(missing_ok=True)  # the report shows what left in this run
    federations = out / "federation"
    _clear(federations)
    steps.begin(
        f"federate {len(sites)} sites by {'flwr run on Ray' if plan.engine == 'ray' else 'the apps in process'}"
    )
    first = compare.with_seed(plan.config, seeds[0])
    federate(first, sites, federations / f"seed-{seeds[0]}", engine=plan.engine)
    steps.begin(
        f"compare: untrained, each site alone, pooled, federated; {plan.seeds} seeds, the same people"
    )
    results = []
    for result in compare.repeat(plan.config, sites, seeds, federations, jobs=min(plan.jobs, 8)):
        results.append(result)
        steps.note(
            f"seed {result['seed']} {result['who']:>9}: linear probe {100 * result['linear_probe']:.0f} %"
        )
    results.sort(key=lambda result: (result["seed"], result["who"]))
    (out / "results.json").write_text(json.dumps(results, indent=2))
    return results, compare.last_round(federations / f"seed-{seeds[0]}", plan.config)


def _export(
    plan: Plan,
    out: Path,
    raw: list[Path],
    sites: list[Path],
    checkpoint: Path,
    steps: Steps,
) -> dict[str, Any]:
    from smile.scans import find

    steps.begin("export the first seed's federated model and read a scan with the bundle")
    bundle = out / "bundle"
    # Views of simulated people may lie in the bundle as its golden inputs; those of real people may not.
    sample = [] if plan.raw else ["--sample", str(sites[0])]
    _command(["-m", "export", "bundle", str(checkpoint), str(bundle), *sample])
    for sequence in reversed(find(raw[-1]).sequences):
        frame = sequence.frames[len(sequence.frames) // 2]
        try:
            answer = json.loads(_command([str(bundle / "run.py"), str(frame.path), "--json"], cwd=out))
            break
        except RuntimeError as error:  # a scan that `smile prepare` has set aside, too
            steps.note(str(error))
    else:
        raise RuntimeError(f"the bundle could read no scan of {raw[-1]}")
    answer.pop("input")  # a file name may be a name
    return {
        "truth": sequence.label,
        "answer": answer,
        "parity": json.loads((bundle / "parity.json").read_text())["fp32"],
    }


def _command(arguments: list[str], *, cwd: Path = ROOT) -> str:
    """Run one of our commands in this environment; progress goes through, a failure becomes its own last line."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        stderr=None if "prepare" in arguments else subprocess.PIPE,
    )
    if done.returncode:
        lines = (done.stderr or "").strip().splitlines()
        called = f"`{' '.join(arguments)}` ended with code {done.returncode}"
        raise RuntimeError(lines[-1] if lines and done.returncode > 0 else called)
    return done.stdout


def _summary(
    plan: Plan,
    results: list[dict[str, Any]],
    reading: dict[str, Any],
    out: Path,
    sites: list[Path],
) -> dict[str, Any]:
    from server.run_log import read

    log = read(out / "federation" / f"seed-{plan.config.training.seed}" / "log.jsonl")
    federated = next(r for r in results if r["who"] == "federated")
    return {
        "scenario": plan.name,
        "simulated": not plan.raw,
        "prompt_source": plan.config.objective.prompt_source,
        **compare.summarise(results),
        "chance": federated["chance"],
        "classes": federated["classes"],
        "test_subjects": federated["test_subjects"],
        "test_sequences": federated["test_sequences"],
        "parity_max_abs": reading["parity"]["logits"],
        "reading": reading,
        "bytes_per_round": round(sum(r["bytes_sent"] + r["bytes_received"] for r in log) / len(log)),
        "rounds": len(log),
        "clients": len(sites),
        "seeds": plan.seeds,
        "engine": plan.engine,
        "settings": dataclasses.asdict(plan.config),
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), {platform.system()}",
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name)
                for name in (
                    "flwr",
                    "ray",
                    "torch",
                    "open_clip_torch",
                    "trimesh",
                    "onnx",
                    "onnxruntime",
                    "numpy",
                )
            },
        },
    }
