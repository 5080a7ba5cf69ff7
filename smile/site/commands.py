"""`smile prepare` and `smile inspect`: arguments in, sentences out; the work is imported only to do it."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from . import options
from .text import plain, silence

if TYPE_CHECKING:
    from .store import Site


def prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Turn a folder of raw 3D or 4D face scans into a prepared site: views and tables. "
        "Stop it at any time: the same command goes on where it stopped."
    )
    parser.epilog = """examples:
  smile prepare /data/BU-4DFE /data/site
  smile prepare /data/scans /data/site --labels labels.csv --jobs 8
  smile prepare /data/BP4D /data/site --frames 8 --sampling apex
  smile prepare /data/4DME /data/site --window 16 --frames 16 --motion dynamic --magnify 4
  smile prepare /data/scans /data/site --limit coverage=0.7 --limit yaw=30
  smile prepare /data/scans /data/site --yaws -45,0,45 --size 112 --modalities depth,normals"""
    add = parser.add_argument
    add("raw", metavar="RAW", type=Path, help="folder with the raw scans; it is only read")
    add("site", metavar="SITE", type=Path, help="folder for the prepared site: new, empty, or a site already")
    options.limit_arguments(parser)
    add("--jobs", type=int, metavar="N", help="worker processes (default: one a core; 0: none)")
    keep = "write real subjects and file names into index.csv and the raw folder into the manifest"
    add("--keep-names", action="store_true", help=keep)
    add("--json", action="store_true", help="print the manifest as JSON on standard output")
    add("--quiet", action="store_true", help="print nothing but errors")
    options.folder_arguments(parser)
    options.frame_arguments(parser)
    options.view_arguments(parser)


def run_prepare(arguments: argparse.Namespace) -> int:
    from .limits import read_limits
    from .prepare import prepare

    say = _sayer(quiet=arguments.quiet, json=arguments.json)
    try:
        manifest = prepare(
            arguments.raw,
            arguments.site,
            views=options.read_views(arguments),
            dataset=arguments.dataset,
            options=options.read_options(arguments),
            jobs=arguments.jobs,
            renderer=arguments.renderer,
            frames=arguments.frames,
            sampling=arguments.sampling,
            window=arguments.window,
            limits=read_limits(arguments.limit),
            keep_names=arguments.keep_names,
            progress=not arguments.quiet,
            say=say,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped: what is done so far is kept, run the same command again to go on"
        ) from None
    if arguments.json:
        print(json.dumps(manifest, indent=2, allow_nan=False))
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
    from .check import check, percentiles, table
    from .contact_sheet import contact_sheet
    from .store import Site

    if arguments.columns < 1 or arguments.seed < 0:
        raise ValueError(
            f"--columns {arguments.columns} --seed {arguments.seed}: give columns from 1, a seed from 0"
        )
    site = Site(arguments.site)
    check(site)
    out = arguments.out or arguments.site / disk.SHEET
    try:
        contact_sheet(site, out, columns=arguments.columns, seed=arguments.seed)
        unwritten = None
    except OSError as error:  # a site that may only be read: what it holds is said all the same
        unwritten = f"the sheet {out} cannot be written ({error.strerror}): give another place with --out"
    lines, figures, faces = table(site), percentiles(site.quality), percentiles(site.geometry)
    if arguments.json:
        sheet = None if unwritten else str(out)
        found = {
            "manifest": site.manifest,
            "table": lines,
            "quality": figures,
            "geometry": faces,
            "contact_sheet": sheet,
        }
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print_report(site, lines, figures, faces, "" if unwritten else f"contact sheet: {out}")
    if unwritten:
        raise ValueError(unwritten)
    return 0


def _print_report(
    site: "Site",
    lines: list[dict[str, str | int]],
    figures: dict[str, list[float]],
    faces: dict[str, list[float]],
    sheet: str,
) -> None:
    from .check import quality_line

    _print_site(site)
    print(f"{'label':15}{'subjects':>10}{'sequences':>11}{'scans':>8}")
    for line in lines:
        print(f"{line['expression']:15}{line['subjects']:10}{line['sequences']:11}{line['samples']:8}")
    if measures := site.manifest["measures"]:
        print("measures, scans coded: " + ", ".join(f"{name} {number}" for name, number in measures.items()))
    if figures:
        print(f"quality (5, 50 and 95 % of the scans): {quality_line(figures)}")
    if faces:
        print(f"measurements in mm (5, 50 and 95 % of the scans): {quality_line(faces)}")
    if sheet:
        print(plain(sheet))


def _print_site(site: "Site") -> None:
    manifest, views = site.manifest, site.views
    print(plain(f"{manifest['dataset']}: {manifest['why']}"))
    motion = {"frames": "", "difference": ", differences to the onset", "dynamic": ", dynamic images"}
    print(
        f"{len(views.yaws)} views of {views.size} px ({', '.join(views.modalities)}{motion[views.motion]}"
        f"{f', motion times {views.magnify:g}' if views.magnify != 1 else ''}), "
        f"{manifest['bytes'] / 1e6:.1f} MB, {manifest['counts']['rejected']} files rejected, checksums right"
    )


def _sayer(*, quiet: bool, json: bool) -> Callable[[str], None]:
    """Where sentences go: nowhere, beside the JSON, or to standard output."""
    if quiet:
        return lambda line: None
    return lambda line: _say(line, sys.stderr if json else sys.stdout)


def _say(line: str, stream: TextIO) -> None:
    """Print a line; nobody there to read it (`| head`), or a full disk of logs, is no reason to end a long run."""
    try:
        print(plain(line), file=stream, flush=True)
    except OSError:
        silence(stream)
