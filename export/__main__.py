"""`python -m export`: a federated checkpoint becomes a folder that runs on a device without torch, and proves it."""

import argparse
import json
import sys
import time
from pathlib import Path

EPILOG = """examples:
  python -m export bundle runs/demo/federation/seed-0/round-0010 bundle
  python -m export bundle CHECKPOINT bundle --precision fp32,fp16,int8 --calibrate SITE
  python -m export verify bundle --checkpoint CHECKPOINT --site SITE
  python -m export check-trt bundle
  python -m export bench bundle face.obj --checkpoint CHECKPOINT
  python -m export update bundle CHECKPOINT bundle.update
  python -m export prompts CHECKPOINT words.json words.prompts.json      then python3 bundle/run.py --prompts words.prompts.json face.obj
  python -m export build-engine bundle           on the device itself; there python3 bundle/run.py --build-engine is the same
"""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one sentence on standard error; 2 for arguments that make no sense."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from . import bench, check_trt, prompts, update, verify

    parser = argparse.ArgumentParser(
        prog="python -m export",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, words: str, run, add) -> None:
        found = commands.add_parser(name, help=words, description=words)
        add(found)
        found.set_defaults(run=run)

    command(
        "bundle",
        "a checkpoint becomes a bundle, compared with torch before it is published",
        _bundle,
        _add_bundle,
    )
    command("verify", "compare a bundle with torch: pass or fail", verify.command, verify.add_arguments)
    command(
        "check-trt",
        "let TensorRT-RTX's parser and builder take it, on a CPU",
        check_trt.command,
        check_trt.add_arguments,
    )
    command(
        "build-engine", "build and verify a TensorRT engine, on the device", _build_engine, _add_build_engine
    )
    command(
        "bench",
        "how long it takes, engine alone and from a scan to a label",
        bench.command,
        bench.add_arguments,
    )
    command(
        "update",
        "the smallest file that makes the next round's bundle out of this one",
        update.command,
        update.add_arguments,
    )
    command("prompts", "other classes as a file for a device", prompts.command, prompts.add_arguments)
    return parser


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of a finished round")
    add("bundle", type=Path, metavar="BUNDLE", help="folder to write; an older bundle there is replaced")
    add(
        "--precision",
        default="fp32",
        metavar="P,...",
        help="of fp32, fp16, int8; a device takes the first unless told",
    )
    add(
        "--calibrate",
        type=Path,
        nargs="+",
        default=[],
        metavar="SITE",
        help="prepared sites that set the ranges of int8, best one of every kind of scanner; their views stay here",
    )
    add(
        "--batch",
        default="1:1:8",
        metavar="MIN:USUAL:MOST",
        help="captures at once, of an engine (default: %(default)s)",
    )
    add(
        "--sample",
        type=Path,
        metavar="SITE",
        help="prepared site whose views become the golden captures; they then travel with the bundle",
    )
    add("--prompts", type=Path, metavar="FILE", help="other classes: JSON {expression: [sentence, ...]}")
    add("--json", action="store_true", help="print the parity reports as JSON")


def _bundle(options: argparse.Namespace) -> int:
    from .bundle import summary, write_bundle
    from .runtime.smile_edge.model import read_sentences

    start = time.perf_counter()
    prompts = None
    if options.prompts:
        prompts = {name: tuple(group) for name, group in read_sentences(options.prompts).items()}
    if options.sample:
        print(
            f"{options.bundle} will hold views of people from {options.sample}: where the site is real, the bundle must not "
            "leave it",
            file=sys.stderr,
        )
    reports = write_bundle(
        options.checkpoint,
        options.bundle,
        precisions=precisions(options.precision),
        calibrate=options.calibrate,
        sample=options.sample,
        prompts=prompts,
        batch=batches(options.batch),
    )
    if options.json:
        print(json.dumps({"bundle": str(options.bundle), "models": reports}))
    else:
        print(f"{options.bundle}: {summary(reports)}; {time.perf_counter() - start:.1f} s")
        print(f"try it: python3 {options.bundle / 'run.py'} --self-test")
    return 0


def precisions(words: str) -> tuple[str, ...]:
    """`fp32,int8` -> names, each once. Raises ValueError."""
    from .precision import PRECISIONS

    names = tuple(word.strip() for word in words.split(","))
    if set(names) - set(PRECISIONS) or len(set(names)) != len(names):
        raise ValueError(f"--precision {words}: give some of {', '.join(PRECISIONS)}, each once")
    return names


def batches(words: str) -> tuple[int, int, int]:
    """`1:1:8` -> least, usual and most. Raises ValueError."""
    parts = words.split(":")
    if len(parts) == 3 and all(part.isdigit() for part in parts):
        low, usual, most = map(int, parts)
        if 1 <= low <= usual <= most <= 1024:
            return low, usual, most
    raise ValueError(f"--batch {words}: give three rising whole numbers from 1 to 1024, as 1:1:8")


def _add_build_engine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE")
    add("--precision", metavar="P", help="fp32, fp16 or int8 (default: the bundle's)")
    add("--workspace-mb", type=int, metavar="MB", help="the most memory that the builder may take")
    add("--dla", type=int, metavar="N", help="number of a DLA, where the device has one")


def _build_engine(options: argparse.Namespace) -> int:
    from .runtime.smile_edge.tensorrt_build import build_engine

    build_engine(
        options.bundle, precision=options.precision, workspace_mb=options.workspace_mb, dla=options.dla
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
