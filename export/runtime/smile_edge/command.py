"""The command line of a bundle: `python3 run.py INPUT...`. Exit code 0, 1 (self-test failed) or 2 (bad input)."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from .model import ExpressionReader, read_prompts
from .views import read_views

_BAR = 30  # characters of a probability of 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command; every failure is one sentence on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # odd file names, terminals that know only ASCII
    options = _parse(arguments)
    try:
        reader = ExpressionReader(options.bundle, threads=options.threads)
        if options.prompts:
            reader.set_prompts(read_prompts(options.prompts))
        if options.self_test:
            return _self_test(reader)
        failures = [_answer(reader, path, options) for path in options.inputs]
        return 2 if any(failures) else 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `run.py ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Reads the facial expression of prepared views (.npy) or of a raw 3D scan.",
        epilog="Research software, not a medical device: see manifest.json for what the model was made from.",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="INPUT",
        help="views as .npy, uint8 (views, channels, height, width) or (frames, ...); or a raw scan "
        "(.wrl, .bnt, .obj, .ply ...)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each input, one a line")
    parser.add_argument(
        "--top", type=_positive, metavar="K", help="print only the K most probable expressions"
    )
    parser.add_argument(
        "--threads", type=_positive, default=0, metavar="N", help="of the engine; default: one a core"
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="other classes: JSON {expression: [sentence, ...]}"
    )
    parser.add_argument(
        "--self-test", action="store_true", help="compare the engine with torch on the golden captures"
    )
    parser.add_argument(
        "--bundle", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS
    )
    options = parser.parse_args(arguments)
    if not options.inputs and not options.self_test:
        parser.error("give one or more INPUT files, or --self-test")
    return options


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1 to 1024")
    return int(text)


def _answer(reader: ExpressionReader, path: Path, options: argparse.Namespace) -> bool:
    """Print the reading of one input; True when it failed."""
    try:
        views, milliseconds = read_views(path, reader.bundle, reader.manifest["preprocessing"])
        answer = reader.predict(views)
    except (ValueError, MemoryError, OSError) as error:
        sentence = str(error) or f"{path} does not fit into the memory: give fewer frames"
        print(sentence, file=sys.stderr)
        if options.json:
            print(json.dumps({"input": str(path), "error": sentence}), flush=True)
        return True
    answer["milliseconds"] = {**milliseconds, **answer["milliseconds"]}
    for part in (answer, *answer.get("frames", ())):
        part["probabilities"] = dict(list(part["probabilities"].items())[: options.top])
    if options.json:
        checkpoint = reader.manifest["checkpoint"]
        print(
            json.dumps(
                {
                    "input": str(path),
                    **answer,
                    "checkpoint": checkpoint["sha256"],
                    "round": checkpoint["round"],
                }
            ),
            flush=True,
        )
    else:
        _print(path, answer)
    return False


def _print(path: Path, answer: dict[str, Any]) -> None:
    frames = answer.get("frames", ())
    print(f"{path}: {answer['expression']}" + (f" (mean of {len(frames)} frames)" if frames else ""))
    width = max(map(len, answer["probabilities"]))
    for name, probability in answer["probabilities"].items():
        print(f"  {name:{width}}  {probability:.3f}  {'#' * round(_BAR * probability)}".rstrip())
    for number, frame in enumerate(frames):
        print(f"  frame {number}: {frame['expression']} {max(frame['probabilities'].values()):.3f}")
    print(
        "  " + ", ".join(f"{name} {value:.1f} ms" for name, value in answer["milliseconds"].items()),
        flush=True,
    )


def _self_test(reader: ExpressionReader) -> int:
    difference, tolerance = reader.self_test(), reader.manifest["tolerance"]
    passed = difference <= tolerance  # false for NaN
    print(
        f"self-test {'passed' if passed else 'FAILED'}: largest difference from torch {difference:.2e}, "
        f"allowed {tolerance:.0e}"
    )
    return 0 if passed else 1
