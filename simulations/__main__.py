"""`python -m simulations SCENARIO`: the whole journey on simulated hospitals, or on folders of raw scans."""

import argparse
import json
import sys
from pathlib import Path

EXAMPLES = """examples:
  python -m simulations demo                          four simulated hospitals, the table over 3 seeds, a report
  python -m simulations demo --seeds 1                the same in a third of the training time
  python -m simulations demo --sites ../scans/*       on folders of raw scans that exist
  python -m simulations demo --set federation.rounds=20 --set model.fusion=mean
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
    scenarios = sorted(path.stem for path in (Path(__file__).parent / "scenarios").glob("*.toml"))
    result.add_argument(
        "scenario",
        choices=(*scenarios, "sources"),
        help="a file of simulations/scenarios, or the table of sources",
    )
    result.add_argument(
        "--sites", nargs="+", type=Path, metavar="DIR", help="folders of raw scans instead of simulated ones"
    )
    result.add_argument(
        "--out", type=Path, help="result folder (default: runs/SCENARIO, with --sites runs/SCENARIO-sites)"
    )
    result.add_argument("--seeds", type=int, metavar="N", help="repetitions of the comparison")
    result.add_argument("--engine", choices=("ray", "in-process"), help="how the federation is run")
    result.add_argument("--subjects", type=int, metavar="N", help="people in each simulated hospital")
    result.add_argument("--jobs", type=int, metavar="N", help="processes (default: all cores)")
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a setting of [tool.flwr.app.config]",
    )
    result.add_argument("--json", action="store_true", help="print summary.json instead of the table")
    only = result.add_argument_group("sources only")
    only.add_argument("--steps", type=int, metavar="N", help="optimiser steps of every row")
    only.add_argument(
        "--folds", type=int, metavar="N", help="of people (default: 1 held-out share; with --sites 5)"
    )
    only.add_argument("--rows", default="", metavar="NAME,..", help="some rows of the table instead of all")
    return result


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    name = "demo" if options.scenario == "sources" else options.scenario  # whose hospitals and sites it takes
    out = options.out or Path("runs") / (f"{name}-sites" if options.sites else name)
    try:
        from simulations import journey, sources

        plan = journey.scenario(name, options)
        if options.scenario == "sources":
            rows = tuple(options.rows.split(",")) if options.rows else tuple(sources.ROWS)
            steps, folds = options.steps, options.folds
            summary = sources.run(plan, out=out, rows=rows, steps=steps, folds=folds, quiet=options.json)
        else:
            summary = journey.run(plan, out=out, quiet=options.json)
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
