"""`smile doctor RAW`: what a folder holds, how well a few of its scans go through, what preparing it will take. Writes nothing."""

import argparse
import json
import os
import shlex
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options
from .text import plain, shown

if TYPE_CHECKING:
    from ..scans.scan import Frame, Listing
    from .plan import Item, Plan
    from .work import Settings

SHOWN = 10  # problems in the report
Report = dict[str, Any]


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Look at a folder of raw scans without writing anything: what is recognised, what is in it, what is wrong, "
        "and how large the prepared site will be and how long it will take."
    )
    parser.epilog = """examples:
  smile doctor /data/BU-4DFE
  smile doctor /data/scans --labels labels.csv --sample 20
  smile doctor /data/BP4D --frames 8 --sampling apex --size 224 --json

exit code: 0 when something can be prepared, 2 when nothing can"""
    add = parser.add_argument
    add("raw", metavar="RAW", type=Path, help="folder with the raw scans; it is only read")
    sample = "how many scans to try, spread over subjects and labels (default: %(default)s)"
    add("--sample", type=int, default=8, metavar="N", help=sample)
    add("--json", action="store_true", help="print the report as JSON on standard output")
    options.limit_arguments(parser)
    options.folder_arguments(parser)
    options.frame_arguments(parser)
    options.view_arguments(parser)


def run_doctor(arguments: argparse.Namespace) -> int:
    report = examine(arguments)
    if arguments.json:
        print(json.dumps(report, indent=2, allow_nan=False))
    else:
        _print(report)
    if report["command"] is None:
        print(f"smile doctor: {report['verdict']}", file=sys.stderr)
        return 2
    return 0


def examine(arguments: argparse.Namespace) -> Report:
    """The report as plain data. Raises ValueError where the folder or an option cannot be used at all."""
    from ..scans import find
    from ..views import choose_renderer
    from .limits import read_limits
    from .plan import make_plan
    from .prepare import check_numbers, cores
    from .work import Settings

    views, raw = options.read_views(arguments), Path(os.path.realpath(arguments.raw))
    chosen = {"frames": arguments.frames, "sampling": arguments.sampling, "window": arguments.window}
    check_numbers(views, jobs=None, **chosen)
    if arguments.sample < 1:
        raise ValueError(f"--sample {arguments.sample}: give 1 or more scans to try")
    limits = read_limits(arguments.limit)
    listing = find(raw, dataset=arguments.dataset, options=options.read_options(arguments))
    renderer, why = choose_renderer(arguments.renderer)
    settings = Settings(views, renderer, raw, **chosen, limits=limits)
    plan = make_plan(listing, settings)
    report = describe(plan, listing, raw)
    report["renderer"] = why
    tried = _try(plan, settings, arguments.sample)
    report["sample"] = {name: value for name, value in tried.items() if name != "seconds"}
    report["site"] = _expected(plan, tried, settings, jobs=cores())
    if not plan.samples:
        report["verdict"] = f"none of the files in {arguments.raw} can be prepared"
    elif not tried["good"]:
        report["verdict"] = f"none of the {tried['scans']} scans that were tried can be prepared"
    else:
        report["verdict"] = f"about {report['site']['samples']} samples can be prepared"
    usable = plan.samples and tried["good"]
    words = ["smile", "prepare", str(arguments.raw), str(_free_name(raw)), *options.spelled(arguments)]
    report["command"] = shlex.join(words) if usable else None
    return report


def _free_name(raw: Path) -> Path:
    """A folder for the site that is not there yet, beside the raw one."""
    names = (raw.with_name(f"{raw.name}-site{number}") for number in ("", *range(2, 1000)))
    return next(name for name in names if not name.exists())


def describe(plan: "Plan", listing: "Listing", raw: Path) -> Report:
    """What the folder holds, from the listing alone: no scan is opened."""
    from .tables import coded, measures_of

    sequences = listing.sequences
    frames = [frame for sequence in sequences for frame in sequence.frames]
    measured = (measures_of(sequence, frame) for sequence in sequences for frame in sequence.frames)
    problems = plan.listing.problems
    with_image = sum(frame.texture is not None for frame in frames)
    return {
        "dataset": listing.dataset,
        "why": listing.why,
        "subjects": len({sequence.subject for sequence in sequences}),
        "sequences": len(sequences),
        "frames": len(frames),
        "labels": _labels(listing),
        "measures": coded(measured),
        "problems": len(problems),
        "first_problems": [
            {"file": shown(problem.path, raw), "reason": _line(problem.reason, raw)}
            for problem in problems[:SHOWN]
        ],
        "without_image": len(frames) - with_image if with_image else 0,
        "landmark_files": sum(frame.landmarks is not None for frame in frames),
        "other_files": _others(frames, raw, {problem.path for problem in problems}),
    }


def _labels(listing: "Listing") -> list[Report]:
    from ..labels import VOCABULARY

    lines = []
    for label in (*VOCABULARY, None):
        of_label = [sequence for sequence in listing.sequences if sequence.label == label]
        if of_label:
            lines.append(
                {
                    "label": label,
                    "subjects": len({sequence.subject for sequence in of_label}),
                    "sequences": len(of_label),
                    "frames": sum(len(sequence.frames) for sequence in of_label),
                }
            )
    return lines


def _others(frames: "list[Frame]", raw: Path, problems: set[Path]) -> dict[str, int]:
    """Extension -> how many files of it belong to no scan and to no problem."""
    from .plan import files_of, shared_files

    used = {path for frame in frames for path in files_of(frame)} | shared_files(frames) | problems
    found: Counter[str] = Counter()
    for folder, folders, names in os.walk(raw):
        folders[:] = [name for name in folders if Path(folder, name) not in problems]
        for name in names:
            if not name.startswith(".") and Path(folder, name) not in used:
                found[plain(Path(name).suffix.lower()) or "no extension"] += 1
    return dict(found.most_common())


def _try(plan: "Plan", settings: "Settings", number: int) -> Report:
    """Prepare a few samples in memory: reasons of those that fail, notes, quality, landmarks, seconds of each."""
    from tqdm import tqdm

    from .limits import broken
    from .tables import without_file
    from .work import Sample, Seen, attempt

    items = spread(plan, number)
    seconds, notes, aside, figures = [], Counter[str](), [], []
    marks = _Marks()
    for item in tqdm(items, unit="scan", file=sys.stderr, disable=None):
        seen: Seen = {}
        started = time.perf_counter()
        outcome = attempt(item.frames, settings, seen)
        seconds.append(time.perf_counter() - started)
        marks.look(item.frame)
        reason = outcome if isinstance(outcome, str) else broken(outcome.quality, settings.limits)
        if reason:
            file, path = shown(item.frame.path, settings.raw), item.frame.path
            aside.append({"file": file, "reason": without_file(reason, path, settings.raw)})
        if isinstance(outcome, Sample):
            notes.update(outcome.notes)
            figures.append(outcome.quality)
    return {
        "scans": len(items),
        "good": len(items) - len(aside),
        "set_aside": aside,
        "notes": dict(notes.most_common()),
        "quality": _quality(figures),
        **marks.found(),
        "seconds": seconds,
    }


class _Marks:
    """What the sampled scans say of colours and landmarks."""

    def __init__(self) -> None:
        self.colourless, self.points, self.bases = 0, Counter[int](), Counter[str]()

    def look(self, frame: "Frame") -> None:
        if frame.kind == "pair":
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said already by the attempt to prepare it
            self._look(frame)

    def _look(self, frame: "Frame") -> None:
        from .. import scans
        from ..scans import landmarks
        from ..scans.arrays import rows

        try:
            scan = scans.read(frame, need_texture=False)
            if frame.landmarks is not None:
                self.points[len(scan.landmarks)] += 1
            if frame.landmarks is not None and frame.landmarks.suffix.lower() == ".bnd":
                lines = [line for line in frame.landmarks.read_bytes().splitlines() if len(line.split()) == 4]
                self.bases[str(landmarks.index_base(rows(lines, what=".bnd"), scan.vertices))] += 1
        except Exception:  # said already, too, with its reason
            return
        try:
            scans.read(frame)
        except Exception:
            self.colourless += 1

    def found(self) -> Report:
        points = {str(number): scans for number, scans in sorted(self.points.items())}
        return {"without_colour": self.colourless, "landmarks": points, "index_bases": dict(self.bases)}


def _quality(figures: list[dict[str, float]]) -> dict[str, list[float]]:
    import numpy as np

    from .check import percentiles

    names = dict.fromkeys(name for part in figures for name in part)
    return percentiles({name: np.array([part.get(name, np.nan) for part in figures]) for name in names})


def spread(plan: "Plan", number: int) -> "list[Item]":
    """Up to `number` samples, the middle ones of their sequences, of as many labels and subjects as possible."""
    middle: dict[int, list[Item]] = {}
    for chunk in plan.chunks:
        for item in chunk.items:
            if item.drawn:
                middle.setdefault(item.sequence, []).append(item)
    rest = [
        (plan.listing.sequences[place], items[len(items) // 2]) for place, items in sorted(middle.items())
    ]
    labels, subjects = Counter[str | None](), Counter[str]()
    chosen: list[Item] = []
    while rest and len(chosen) < number:
        best = min(range(len(rest)), key=lambda k: (labels[rest[k][0].label], subjects[rest[k][0].subject]))
        sequence, item = rest.pop(best)
        labels[sequence.label] += 1
        subjects[sequence.subject] += 1
        chosen.append(item)
    return chosen


def _expected(plan: "Plan", tried: Report, settings: "Settings", *, jobs: int) -> Report:
    """Samples, megabytes and seconds of the prepared site: the sample, extrapolated."""
    from statistics import median

    import numpy as np

    from .work import shape

    share = tried["good"] / tried["scans"] if tried["scans"] else 0
    warm = tried["seconds"][1:] or tried["seconds"]  # the first one has loaded the packages
    return {
        "planned": plan.samples,
        "samples": round(plan.samples * share),
        "megabytes": round(plan.samples * share * int(np.prod(shape(settings.views))) / 1e6, 2),
        "seconds": round(plan.samples * median(warm) / jobs, 1) if warm else 0.0,
        "cores": jobs,
    }


def _line(reason: str, raw: Path) -> str:
    from .work import explain

    return explain(ValueError(reason), raw)


def _print(report: Report) -> None:
    def say(line: str) -> None:
        print(plain(line))

    say(f"recognised {report['dataset']}: {report['why']}")
    say(f"{'label':15}{'subjects':>10}{'sequences':>11}{'frames':>9}")
    total = {"label": "all", **{name: report[name] for name in ("subjects", "sequences", "frames")}}
    for line in (*report["labels"], total):
        label = line["label"] or "(unlabelled)"
        say(f"{label:15}{line['subjects']:10}{line['sequences']:11}{line['frames']:9}")
    if report["measures"]:
        say("measures, frames coded: " + _counts(report["measures"]))
    if report["without_image"]:
        say(f"{report['without_image']} frames lack the image that the others have")
    if report["landmark_files"]:
        say(f"{report['landmark_files']} frames have a landmark file")
    if report["other_files"]:
        say("other files, no part of a scan: " + _counts(report["other_files"]))
    if report["problems"]:
        say(
            f"{report['problems']} files cannot be used"
            + (", the first are:" if report["problems"] > SHOWN else ":")
        )
        for problem in report["first_problems"]:
            say(f"  {problem['file']}: {problem['reason']}")
    _print_sample(report["sample"], say)
    site = report["site"]
    if report["command"] is None:
        return
    say(
        f"expected, an estimate from the sample: {site['samples']} samples of {site['planned']} planned, "
        f"{site['megabytes']:.1f} MB, {_duration(site['seconds'])} on the {site['cores']} cores of this machine"
    )
    print(f"to prepare it: {report['command']}")  # to be copied: the user's own folders as they are


def _print_sample(sample: Report, say: Callable[[str], None]) -> None:
    if not sample["scans"]:
        return
    say(f"tried {sample['scans']} scans, {sample['good']} can be prepared")
    for problem in sample["set_aside"]:
        say(f"  {problem['file']}: {problem['reason']}")
    if sample["without_colour"]:
        say(f"  {sample['without_colour']} of them have no colours: leave texture out of --modalities")
    if sample["landmarks"]:
        said = ", ".join(f"{points} points on {scans} scans" for points, scans in sample["landmarks"].items())
        bases = " and ".join(f"{base} ({scans} scans)" for base, scans in sample["index_bases"].items())
        say(f"  landmarks: {said}" + (f"; their indices count from {bases}" if bases else ""))
    for note, scans in sample["notes"].items():
        say(f"  {note} ({scans} scans)")
    if sample["quality"]:
        from .check import quality_line

        say(f"  quality (5, 50 and 95 % of them): {quality_line(sample['quality'])}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"
