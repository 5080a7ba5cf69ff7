"""The options that `smile prepare` and `smile doctor` share: what is in the folder, which frames, how they are drawn."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import CHANNELS, MOTIONS, ViewConfig

if TYPE_CHECKING:
    from ..scans.scan import Options


def folder_arguments(parser: argparse.ArgumentParser) -> None:
    """What the raw folder holds, where it does not say so itself."""
    add = parser.add_argument_group("what the folder holds").add_argument
    names = "auto (default) recognises the layout; a wrong name lists all"
    add("--dataset", default="auto", metavar="NAME", help=names)
    labels = "table of expressions, subjects and measures, a line for each file"
    add("--labels", type=Path, metavar="CSV", help=labels)
    add(
        "--pattern",
        metavar="TEXT",
        help="how a scanner's files are named, such as {subject}/{expression}_{}.obj",
    )
    mapping = 'what a study\'s own words mean: word = "happiness", or "" for no label'
    add("--mapping", type=Path, metavar="TOML", help=mapping)
    offset = "number of an image = number in an action unit table + N (default: %(default)s)"
    add("--au-frame-offset", type=int, default=0, metavar="N", help=offset)


def frame_arguments(parser: argparse.ArgumentParser) -> None:
    """Which frames stand for a sequence."""
    add = parser.add_argument_group("frames of a sequence").add_argument
    add("--frames", type=int, default=4, metavar="N", help="how many to take of it (default: %(default)s)")
    sampling = "from its middle half (middle, default), from all of it (uniform), or around its apex (apex)"
    add("--sampling", default="middle", metavar="NAME", help=sampling)
    window = "cut longer sequences into windows of N frames, each overlapping half of the last"
    add("--window", type=int, metavar="N", help=window)


def view_arguments(parser: argparse.ArgumentParser) -> None:
    """How a sample is drawn: all sites of a study must agree on it."""
    views = ViewConfig()
    add = parser.add_argument_group("views (the same at all sites of a study)").add_argument
    yaws = f"one view for each angle (default: {','.join(f'{yaw:g}' for yaw in views.yaws)})"
    add("--yaws", type=_numbers, default=views.yaws, metavar="DEG,..", help=yaws)
    add("--size", type=int, default=views.size, metavar="PX", help="of a view (default: %(default)s)")
    modalities = f"of {','.join(CHANNELS)} (default: {','.join(views.modalities)})"
    add("--modalities", type=_words, default=views.modalities, metavar="NAME,..", help=modalities)
    radius = "what is kept around the nose tip (default: %(default)g)"
    add("--radius", type=float, default=views.radius, metavar="MM", help=radius)
    motion = "the frames (default), their difference to the onset, or one dynamic image of them"
    add("--motion", default=views.motion, metavar="NAME", help=f"{', '.join(MOTIONS)}: {motion}")
    magnify = "times the motion since the onset, for movements that are hard to see (default: %(default)g)"
    add("--magnify", type=float, default=views.magnify, metavar="X", help=magnify)
    renderer = "auto (default), numpy (any processor) or pyrender (GPU)"
    add("--renderer", default="auto", metavar="NAME", help=renderer)


def limit_arguments(parser: argparse.ArgumentParser) -> None:
    """What a scan must be to be kept."""
    limit = "set scans aside below or above this: coverage, holes, noise, fit, spacing, yaw, pitch or roll; VALUE off: never"
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=VALUE", help=limit)


def read_options(arguments: argparse.Namespace) -> "Options":
    """What the user says about the folder. Raises ValueError for a mapping that cannot be read."""
    from ..scans.scan import Options

    mapping = {}
    if arguments.mapping is not None:
        from ..scans.options import read_mapping

        mapping = dict(read_mapping(arguments.mapping))
    return Options(arguments.labels, arguments.pattern, mapping, arguments.au_frame_offset)


def read_views(arguments: argparse.Namespace) -> ViewConfig:
    return ViewConfig(
        arguments.yaws,
        arguments.size,
        arguments.modalities,
        arguments.radius,
        arguments.motion,
        arguments.magnify,
    )


def spelled(arguments: argparse.Namespace) -> list[str]:
    """The options of these groups that are not at their defaults, as words of a command line."""
    parser = argparse.ArgumentParser()
    for group in (folder_arguments, frame_arguments, view_arguments, limit_arguments):
        group(parser)
    words = []
    for name, default in vars(parser.parse_args([])).items():
        value = getattr(arguments, name)
        if name == "limit":
            words += [f"--limit={word}" for word in value]
        elif value != default:
            parts = value if isinstance(value, tuple) else (value,)
            text = ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
            words.append(f"--{name.replace('_', '-')}={text}")
    return words


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as -30,0,30") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))
