"""`smile prepare` and `smile inspect`: arguments in, sentences out; the work is imported only to do it."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..config import CHANNELS, ViewConfig


def prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Turn a folder of raw 3D or 4D face scans into a prepared site: views and tables. "
        "Stop it at any time: the same command goes on where it stopped."
    )
    parser.epilog = """examples:
  smile prepare /data/BU-4DFE /data/site
  smile prepare /data/scans /data/site --dataset scanner --jobs 8
  smile prepare /data/scans /data/site --yaws -45,0,45 --size 112 --modalities depth,normals"""
    add = parser.add_argument
    add("raw", metavar="RAW", type=Path, help="folder with the raw scans; it is only read")
    add("site", metavar="SITE", type=Path, help="folder for the prepared site: new, empty, or a site already")
    names = "bu4dfe, bu3dfe, bosphorus or scanner"
    add("--dataset", default="auto", metavar="NAME", help=f"auto (default: recognises the layout), {names}")
    frames = "how many to take of a longer sequence, from its middle half (default: %(default)s)"
    add("--frames", type=int, default=4, metavar="N", help=frames)
    _view_arguments(parser)
    add("--jobs", type=int, metavar="N", help="worker processes (default: one a core; 0: none)")
    keep = "write real subjects and file names into index.csv and the raw folder into the manifest"
    add("--keep-names", action="store_true", help=keep)
    add("--json", action="store_true", help="print the manifest as JSON on standard output")
    add("--quiet", action="store_true", help="print nothing but errors")


def _view_arguments(parser: argparse.ArgumentParser) -> None:
    views = ViewConfig()
    add = parser.add_argument
    yaws = f"one view for each angle (default: {','.join(f'{yaw:g}' for yaw in views.yaws)})"
    add("--yaws", type=_numbers, default=views.yaws, metavar="DEG,..", help=yaws)
    add("--size", type=int, default=views.size, metavar="PX", help="of a view (default: %(default)s)")
    modalities = f"of {','.join(CHANNELS)} (default: {','.join(views.modalities)})"
    add("--modalities", type=_words, default=views.modalities, metavar="NAME,..", help=modalities)
    radius = "what is kept around the nose tip (default: %(default)g)"
    add("--radius", type=float, default=views.radius, metavar="MM", help=radius)
    renderer = "auto (default), embree (any processor) or pyrender (GPU)"
    add("--renderer", default="auto", metavar="NAME", help=renderer)


def run_prepare(arguments: argparse.Namespace) -> int:
    from .prepare import prepare

    views = ViewConfig(arguments.yaws, arguments.size, arguments.modalities, arguments.radius)
    say = _sayer(quiet=arguments.quiet, json=arguments.json)
    try:
        manifest = prepare(
            arguments.raw,
            arguments.site,
            views=views,
            dataset=arguments.dataset,
            jobs=arguments.jobs,
            renderer=arguments.renderer,
            frames=arguments.frames,
            keep_names=arguments.keep_names,
            progress=not arguments.quiet,
            say=say,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped: what is done so far is kept, run the same command again to go on"
        ) from None
    if arguments.json:
        print(json.dumps(manifest, indent=2))
    return 0


def inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check a prepared site byte by byte, count what is in it, draw a sheet of random samples."
    )
    parser.epilog = """examples:
  smile inspect /data/site
  smile inspect /data/site --json
  smile inspect /data/site --out sheet.png --seed 7"""
    add = parser.add_argument
    add("site", metavar="SITE", type=Path, help="a prepared site")
    add(
        "--out",
        type=Path,
        metavar="PNG",
        help="where the sheet goes (default: SITE/contact_sheet.png); it shows faces, so keep it private",
    )
    add(
        "--columns",
        type=int,
        default=4,
        metavar="N",
        help="samples of each expression (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="another seed, other samples (default: %(default)s)")
    add("--json", action="store_true", help="print counts and settings as JSON on standard output")


def run_inspect(arguments: argparse.Namespace) -> int:
    from . import disk
    from .check import check, table
    from .contact_sheet import contact_sheet
    from .store import Site

    if arguments.columns < 1 or arguments.seed < 0:
        raise ValueError(
            f"--columns {arguments.columns} --seed {arguments.seed}: give columns from 1, a seed from 0"
        )
    site = Site(arguments.site)
    check(site)
    out = arguments.out or arguments.site / disk.SHEET
    contact_sheet(site, out, columns=arguments.columns, seed=arguments.seed)
    lines = table(site)
    if arguments.json:
        print(json.dumps({"manifest": site.manifest, "table": lines, "contact_sheet": str(out)}, indent=2))
        return 0
    manifest = site.manifest
    print(f"{manifest['dataset']}: {manifest['why']}")
    print(
        f"{len(site.views.yaws)} views of {site.views.size} px ({', '.join(site.views.modalities)}), "
        f"{manifest['bytes'] / 1e6:.1f} MB, {manifest['counts']['rejected']} files rejected, checksums right"
    )
    print(f"{'expression':14}{'subjects':>10}{'sequences':>11}{'scans':>8}")
    for line in lines:
        print(f"{line['expression']:14}{line['subjects']:10}{line['sequences']:11}{line['samples']:8}")
    print(f"contact sheet: {out}")
    return 0


def _sayer(*, quiet: bool, json: bool) -> Callable[[str], None]:
    """Where sentences go: nowhere, beside the JSON, or to standard output."""
    if quiet:
        return lambda line: None
    return lambda line: print(line, file=sys.stderr if json else sys.stdout, flush=True)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as -30,0,30") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))
