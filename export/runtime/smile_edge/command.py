"""The command line of a bundle: `python3 run.py INPUT...`.

Exit code 0, 1 (the self-test failed, or a file of a folder could not be read) or 2 (bad input).
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import golden
from .bench import RUNS
from .bench import main as bench
from .depth import read_depth
from .engines import PROVIDERS
from .model import ExpressionReader, read_prompts
from .stream import HALF_LIFE, WINDOW, answers, inputs_of, lines, watch
from .views import read_views

_BAR = 30  # characters of a probability of 1
_READS = (
    "",
    "depth",
    "stream",
    "bench",
    "serve",
    "self_test",
)  # modes that open an engine; "" is that of INPUT
# Option -> the modes in which it means something. Elsewhere it is refused: what was asked for would not happen.
_BELONGS = {
    "json": ("", "depth", "stream", "bench"),
    "top": ("", "depth", "stream"),
    "prompts": _READS,
    "precision": (*_READS, "build_engine"),
    "provider": _READS,
    "threads": _READS,
    "workspace_mb": ("build_engine",),
    "dla": ("build_engine",),
    "colour": ("depth",),
    "intrinsics": ("depth", "stream"),
    "half_life": ("stream",),
    "window": ("stream",),
    "idle": ("stream",),
    "key": ("update",),
    "batch": ("bench",),
    "runs": ("bench",),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; every failure is one sentence on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # odd file names, terminals that know only ASCII
    options = _parse(arguments)
    try:
        return _run(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `run.py ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(
            f"{error.filename or 'a file, or the output,'} cannot be read or written ({error.strerror or error}): see to its "
            "permissions, its disk and the room on it",
            file=sys.stderr,
        )
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.build_engine:
        from .tensorrt_build import build_engine

        build_engine(
            options.bundle, precision=options.precision, workspace_mb=options.workspace_mb, dla=options.dla
        )
        return 0
    if options.update:
        from .update import apply, read_key

        about = apply(options.update, options.bundle, key=read_key(options.key) if options.key else None)
        rounds = f"round {about['from_round']} to {about['to_round']}"
        print(f"{options.bundle}: {rounds}; as it was, it is {options.bundle.name}.previous beside it")
        return 0
    reader = ExpressionReader(
        options.bundle,
        precision=options.precision,
        provider=options.provider or "cpu",
        threads=options.threads or 0,
    )
    if options.prompts:
        reader.set_prompts(read_prompts(options.prompts))
    if options.self_test:
        return _self_test(reader)
    if options.serve:
        from .serve import serve

        return serve(reader, options.serve)
    if options.bench:
        return bench(reader, options)
    if options.stream:
        return _stream(reader, options)
    if options.depth:
        read = partial(read_depth, intrinsics=options.intrinsics, colour=options.colour)
        return 2 * _answer(reader, options.depth, options, read)
    # 2 where an INPUT failed, 1 where a file did in a folder that was given.
    codes = {
        _folder(reader, path, options) if os.path.isdir(path) else 2 * _answer(reader, path, options)
        for path in options.inputs
    }
    return max(codes)


def _folder(reader: ExpressionReader, folder: Path, options: argparse.Namespace) -> int:
    """Every file once, whatever the others are; exit code."""
    try:
        paths = inputs_of(folder)
    except ValueError as error:
        _refuse(folder, str(error), options)
        return 2
    failures = [_answer(reader, path, options) for path in paths]
    return int(any(failures))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Reads the facial expression of prepared views (.npy) or of a raw 3D scan.",
        epilog="Research software, not a medical device: see manifest.json for what the model was made from.",
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        type=Path,
        metavar="INPUT",
        help="views as .npy, uint8 (views, channels, height, width) or (frames, ...); or a raw scan "
        "(.wrl, .bnt, .obj, .ply ...); or a folder of these, in the order of their names",
    )
    add("--json", action="store_true", help="one JSON object for each input, one a line")
    add("--top", type=positive, metavar="K", help="print only the K most probable expressions")
    add("--prompts", type=Path, metavar="FILE", help="other classes: JSON {expression: [sentence, ...]}")
    add("--bundle", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS)
    _add_engine(parser.add_argument_group("engine"))
    _add_frames(parser.add_argument_group("depth cameras and streams"))
    group = parser.add_argument_group("instead of reading INPUT files")
    group.add_argument(
        "--self-test", action="store_true", help="compare the engine with torch on the golden captures"
    )
    group.add_argument(
        "--serve", metavar="[HOST:]PORT", help="answer POST /predict, GET /health, GET /metrics"
    )
    group.add_argument(
        "--build-engine", action="store_true", help="build a TensorRT engine for this device, and verify it"
    )
    group.add_argument(
        "--update", type=Path, metavar="UPDATE", help="make this bundle that of a new round; all or nothing"
    )
    group.add_argument(
        "--key", type=Path, metavar="FILE", help="with --update: the key that it was signed with"
    )
    group.add_argument("--bench", action="store_true", help="measure how long the engine and an INPUT take")
    group.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="with --bench: captures at once (default: 1, 2, 4, 8, 16)",
    )
    group.add_argument(
        "--runs", type=positive, metavar="N", help=f"with --bench: of each call (default: {RUNS})"
    )
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """One thing at a time, and no option without a meaning for it."""
    names = ("update", "self_test", "serve", "build_engine", "bench", "stream", "depth")
    modes = [name for name in names if getattr(options, name)]
    if len(modes) > 1 or (modes and options.inputs and modes != ["bench"]) or not (modes or options.inputs):
        parser.error("give one or more INPUT files, or one of --self-test, --serve, --stream, --depth ...")
    mode = modes[0] if modes else ""
    for name, owners in _BELONGS.items():
        value = getattr(options, name)
        if value is not None and value is not False and mode not in owners:
            places = (f"--{owner.replace('_', '-')}" if owner else "INPUT" for owner in owners)
            parser.error(f"--{name.replace('_', '-')} belongs to {' or '.join(places)}")
    if options.idle and options.stream == "-":
        parser.error("--idle belongs to --stream FOLDER: standard input says itself where it ends")
    if options.threads and options.provider == "tensorrt":
        parser.error("--threads belongs to onnxruntime")
    if options.depth and not options.intrinsics:
        parser.error("--depth needs --intrinsics FILE: JSON with fx, fy, cx, cy in pixels")


def _add_engine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--precision", metavar="NAME", help="fp32, fp16 or int8; default: what manifest.json says")
    add("--provider", choices=PROVIDERS, help="what computes, never another one than this; default: cpu")
    add("--threads", type=positive, metavar="N", help="of the engine; default: one a core")
    add(
        "--workspace-mb",
        type=_whole,
        metavar="MB",
        help="with --build-engine: the most memory that it may take",
    )
    add("--dla", type=_whole, metavar="CORE", help="with --build-engine: for this deep-learning accelerator")


def _add_frames(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--depth", type=Path, metavar="FILE", help="a depth image: 16-bit PNG in mm, or .npy in metres")
    add("--colour", type=Path, metavar="FILE", help="the colour image of --depth, aligned to it")
    add(
        "--intrinsics",
        type=Path,
        metavar="FILE",
        help="of the depth camera: JSON with fx, fy, cx, cy in pixels",
    )
    add(
        "--stream",
        metavar="FOLDER",
        help="read frames as they appear in FOLDER, by name; -: paths, one a line",
    )
    add("--half-life", type=_seconds, metavar="FRAMES", help=f"of smoothing (default: {HALF_LIFE:g})")
    add("--window", type=_window, metavar="FRAMES", help=f"of a micro-expression (default: {WINDOW})")
    add("--idle", type=_seconds, metavar="SECONDS", help="end --stream after so long without a frame")


def positive(text: str) -> int:
    """A whole number from 1 to 1024, for argparse."""
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1 to 1024")
    return int(text)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number")
    return int(text)


def _window(text: str) -> int:
    if positive(text) < 2:
        raise argparse.ArgumentTypeError("a window has 2 frames or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return value


def _stream(reader: ExpressionReader, options: argparse.Namespace) -> int:
    """One JSON line a frame, until there are no more."""
    if options.stream == "-":
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # as the names of files
        paths: Iterator[Path] = lines(sys.stdin)
    else:
        paths = watch(Path(options.stream), idle=options.idle)
    failed = False
    for answer in answers(
        reader,
        paths,
        half_life=options.half_life or HALF_LIFE,
        window=options.window or WINDOW,
        intrinsics=options.intrinsics,
    ):
        failed |= "error" in answer
        for part in (answer, answer.get("smoothed", {}), answer.get("window", {})):
            _shorten(part, options.top)
        print(json.dumps({**answer, **_origin(reader)}), flush=True)
    return 2 * failed


def _shorten(answer: dict[str, Any], top: int | None) -> None:
    if "probabilities" in answer:
        answer["probabilities"] = dict(list(answer["probabilities"].items())[:top])


def _origin(reader: ExpressionReader) -> dict[str, Any]:
    return {name: reader.provenance[name] for name in ("precision", "checkpoint", "round")}


def _answer(
    reader: ExpressionReader,
    path: Path,
    options: argparse.Namespace,
    read: Callable[..., tuple[np.ndarray, dict[str, float]]] = read_views,
) -> bool:
    """Print the reading of one input; True when it failed."""
    try:
        views, milliseconds = read(path, bundle=reader.bundle, spec=reader.manifest["preprocessing"])
        answer = reader.predict(views)
    except (ValueError, MemoryError, OSError) as error:
        _refuse(path, str(error) or f"{path} does not fit into the memory: give fewer frames", options)
        return True
    answer["milliseconds"] = {**milliseconds, **answer["milliseconds"]}
    for part in (answer, *answer.get("frames", ())):
        _shorten(part, options.top)
    if options.json:
        print(json.dumps({"input": str(path), **answer, **_origin(reader)}), flush=True)
    else:
        _print(path, answer)
    return False


def _refuse(path: Path, sentence: str, options: argparse.Namespace) -> None:
    print(sentence, file=sys.stderr)
    if options.json:
        print(json.dumps({"input": str(path), "error": sentence}), flush=True)


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
    found, tolerance = reader.self_test(), reader.tolerance
    passed = golden.within(found, tolerance)
    print(
        f"self-test {'passed' if passed else 'FAILED'}: {reader.engine.name}, {reader.engine.precision}: difference from torch "
        f"{golden.summary(found, tolerance)}"
    )
    return 0 if passed else 1
