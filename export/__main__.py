"""`python -m export CHECKPOINT BUNDLE`: a federated checkpoint becomes a folder that runs without torch."""

import argparse
import json
import sys
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one sentence on standard error when no bundle was published."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of a finished round")
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="folder to write; an older bundle there is replaced"
    )
    parser.add_argument(
        "--sample",
        type=Path,
        metavar="SITE",
        help="prepared site whose views become the golden captures; they then travel with the bundle",
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="other classes: JSON {expression: [sentence, ...]}"
    )
    parser.add_argument("--json", action="store_true", help="print the parity report as JSON")
    options = parser.parse_args(arguments)
    try:
        return _export(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _export(options: argparse.Namespace) -> int:
    from .bundle import summary, write_bundle
    from .runtime.smile_edge.model import read_prompts

    start = time.perf_counter()
    prompts = None
    if options.prompts:
        prompts = {name: tuple(group) for name, group in read_prompts(options.prompts).items()}
    if options.sample:
        print(
            f"{options.bundle} will hold views of people from {options.sample}: where the site is real, the bundle must not "
            "leave it",
            file=sys.stderr,
        )
    report = write_bundle(options.checkpoint, options.bundle, sample=options.sample, prompts=prompts)
    if options.json:
        print(json.dumps({"bundle": str(options.bundle), **report}))
    else:
        print(f"{options.bundle}: {summary(report)}; {time.perf_counter() - start:.1f} s")
        print(f"try it: python3 {options.bundle / 'run.py'} --self-test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
