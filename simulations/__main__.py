"""`python -m simulations SCENARIO`: the whole journey on simulated hospitals, or on folders of raw scans."""

import argparse
import json
import sys
from pathlib import Path

SCENARIOS = Path(__file__).parent / "scenarios"
EXAMPLES = """examples:
  python -m simulations demo                          four simulated hospitals, the table over 3 seeds, a report
  python -m simulations demo --seeds 1                the same in a third of the training time
  python -m simulations demo --sites ../scans/*       on folders of raw scans that exist
  python -m simulations demo --set federation.rounds=20 --set model.fusion=mean
  python -m simulations compare dirichlet --strategies fedavg,default,moments
                                                      one client alone, pooled and three strategies on lopsided labels
  python -m simulations sources --steps 400           prompt sources, siblings, supervised, untrained on the demo's people
  python -m simulations sources --sites ../scans/*    the same on folders that exist (raw, or prepared already), 5 folds
"""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m simulations",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="demo | compare | sources")
    demo = commands.add_parser("demo", help="the whole journey: scans, federation, table, bundle, report")
    compared = commands.add_parser("compare", help="a table of strategies in a scenario")
    compared.add_argument("scenario", choices=_scenarios(), help="a file of simulations/scenarios")
    compared.add_argument(
        "--strategies",
        default="",
        metavar="A,B,C",
        help="of simulations/strategies.toml (default: the scenario's)",
    )
    sources = commands.add_parser("sources", help="a table of where sentences come from")
    sources.add_argument("--steps", type=int, metavar="N", help="optimiser steps of every row")
    sources.add_argument(
        "--folds", type=int, metavar="N", help="of people (default: 1 held-out share; with --sites 5)"
    )
    sources.add_argument(
        "--rows", default="", metavar="NAME,..", help="some rows of the table instead of all"
    )
    demo.add_argument("--engine", choices=("ray", "in-process"), help="how the federation is run")
    for command in (demo, compared, sources):
        _shared_options(command)
    return result


def _scenarios() -> list[str]:
    return sorted(path.stem for path in SCENARIOS.glob("*.toml") if path.stem != "demo")


def _shared_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--sites", nargs="+", type=Path, metavar="DIR", help="folders of raw scans instead of simulated ones"
    )
    command.add_argument(
        "--out",
        type=Path,
        help="result folder (default: runs/demo or runs/compare-SCENARIO, with --sites ...-sites)",
    )
    command.add_argument("--seeds", type=int, metavar="N", help="repetitions of the comparison")
    command.add_argument("--subjects", type=int, metavar="N", help="people in each simulated hospital")
    command.add_argument("--jobs", type=int, metavar="N", help="processes (default: all cores)")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a setting of [tool.flwr.app.config]",
    )
    command.add_argument("--json", action="store_true", help="print summary.json instead of the table")


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    suffix = "-sites" if options.sites else ""
    home = Path("runs") / f"demo{suffix}"  # whose simulated hospitals and prepared sites every command takes
    try:
        from simulations import federations, journey, sources

        if options.command == "compare":
            plan = journey.scenario(options.scenario, options)
            out = options.out or Path("runs") / f"compare-{options.scenario}{suffix}"
            names, quiet = options.strategies, options.json
            home = out if options.subjects else home  # other people than the demo's
            summary = federations.run(plan, home=home, out=out, names=names, quiet=quiet)
        elif options.command == "sources":
            plan, rows = (
                journey.scenario("demo", options),
                tuple(options.rows.split(",") if options.rows else sources.ROWS),
            )
            steps, folds, out = options.steps, options.folds, options.out or home
            summary = sources.run(plan, out=out, rows=rows, steps=steps, folds=folds, quiet=options.json)
        else:
            summary = journey.run(
                journey.scenario("demo", options), out=options.out or home, quiet=options.json
            )
    except ModuleNotFoundError as error:
        print(
            f"python -m simulations: the package {error.name} is missing: run `make setup`, or install this project "
            "with its `export` and `sim` extras",
            file=sys.stderr,
        )
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        print(f"python -m simulations: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "python -m simulations: stopped; prepared sites are kept and the next run goes on from them",
            file=sys.stderr,
        )
        return 130
    if options.json:
        print(json.dumps(summary, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
