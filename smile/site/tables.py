"""The tables of a prepared site: index.csv, rejected.csv and manifest.json, from plan and shard records.

index.csv has a line for each sample: COLUMNS, a column for each measure that is coded anywhere (empty = not coded), one for
each figure of quality, `geometry.NAME` for each measurement of the face and `rest.NAME` for that of the first frame of the
film (empty = not known), and notes.
"""

import csv
import importlib.metadata
import io
import math
import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..labels import VOCABULARY
from ..measurements import MEASUREMENTS
from ..scans.scan import Frame, Sequence
from . import disk
from .disk import COLUMNS, PRIVATE_COLUMNS, Record
from .limits import broken
from .plan import ALGORITHM, Plan, paths, plain_views, views_hash
from .text import plain, shown
from .work import Settings, explain

NO_REST = "the first frame of its film could not be measured"


@dataclass(frozen=True)
class Row:
    """One line of the index."""

    shard: str
    offset: int
    subject: str  # pseudonym
    label: str  # "" where the data set states none
    sequence: int
    frame: int
    time: float
    measures: Mapping[str, float]
    quality: Mapping[str, float]
    geometry: Mapping[str, float]
    rest: Mapping[str, float]  # of the first frame of the film
    notes: str
    subject_name: str
    source: str  # relative to the raw folder


def index_rows(
    plan: Plan, records: dict[str, Record], *, settings: Settings
) -> tuple[list[Row], list[tuple[str, str]]]:
    """One row for each sample within the limits, in the order of sequences; (file, reason) of those beyond."""
    pseudonyms = pseudonymise({sequence.subject for sequence in plan.listing.sequences})
    at_rest = rest_of_films(plan, records, limits=settings.limits)
    rows, beyond = [], []
    for chunk in plan.chunks:
        record = records[chunk.key]
        for offset, (position, quality, geometry, notes) in enumerate(
            zip(record.rows, record.quality, record.geometry, record.notes, strict=True)
        ):
            item = chunk.items[position]
            sequence = plan.listing.sequences[item.sequence]
            source = shown(item.frame.path, settings.raw)
            if reason := broken(quality, settings.limits):
                beyond.append((source, reason))
                continue
            rest = {} if item.first is None else at_rest.get(item.first.path, {})
            missing = (NO_REST,) if item.first is not None and not rest else ()
            rows.append(
                Row(
                    shard=chunk.key,
                    offset=offset,
                    subject=pseudonyms[sequence.subject],
                    label=sequence.label or "",
                    sequence=item.sequence,
                    frame=item.frame.number,
                    time=item.time,
                    measures=measures_of(sequence, item.frame),
                    quality=quality,
                    geometry=geometry,
                    rest=rest,
                    notes="; ".join((*notes, *missing)),
                    subject_name=sequence.subject,
                    source=source,
                )
            )
    return sorted(rows, key=lambda row: row.sequence), beyond


def rest_of_films(
    plan: Plan, records: dict[str, Record], *, limits: Mapping[str, float]
) -> dict[Path, dict[str, float]]:
    """First frame of a film -> its measurements, where it could be measured and is within the limits."""
    found = {}
    for chunk in plan.chunks:
        record = records[chunk.key]
        samples = zip(record.rows, zip(record.quality, record.geometry, strict=True), strict=True)
        for position, (quality, geometry) in (*samples, *record.rest.items()):
            item = chunk.items[position]
            alone = item.first is not None and set(paths(item)) == {item.first.path}
            if alone and geometry and not broken(quality, limits):
                found[item.frame.path] = geometry
    return found


def measures_of(sequence: Sequence, frame: Frame) -> dict[str, float]:
    """What is coded for a frame: its own figures before those of the whole sequence."""
    coded = [
        {name: value for name, value in part.measures.items() if not math.isnan(value)}
        for part in (sequence, frame)
    ]
    return coded[0] | coded[1]


def pseudonymise(subjects: set[str]) -> dict[str, str]:
    """Real id -> `subject-001` and so on, in the sorted order of the real ids."""
    width = max(3, len(str(len(subjects))))
    return {name: f"subject-{number:0{width}d}" for number, name in enumerate(sorted(subjects), start=1)}


def rejected_rows(
    plan: Plan, records: dict[str, Record], beyond: list[tuple[str, str]], *, raw: Path
) -> list[tuple[str, str]]:
    """(file relative to the raw folder, reason) of everything set aside, sorted by file."""
    found = [(problem.path, explain(ValueError(problem.reason), raw)) for problem in plan.listing.problems]
    for chunk in plan.chunks:
        for position, reason in records[chunk.key].rejected.items():
            if chunk.items[position].drawn:  # else no sample is lost
                found.append((chunk.items[position].frame.path, reason))
    rows = [(shown(path, raw), without_file(reason, path, raw)) for path, reason in found]
    return sorted({*beyond, *rows})


def without_file(reason: str, path: Path, raw: Path) -> str:
    """A reason of `work.explain` without the name of the file that it may begin with."""
    return reason.removeprefix(f"{explain(ValueError(path), raw)}: ")


def write_index(site: Path, rows: list[Row], *, keep_names: bool) -> None:
    measures, figures = coded(row.measures for row in rows), coded(row.quality for row in rows)
    faces, rest = measured(row.geometry for row in rows), measured(row.rest for row in rows)
    private = PRIVATE_COLUMNS if keep_names else ()
    lines = (
        [
            number,
            *(getattr(row, name) for name in COLUMNS[1:-1]),
            f"{row.time:.6g}",
            *(_cell(row.measures.get(name)) for name in measures),
            *(_cell(row.quality.get(name)) for name in figures),
            *(_cell(row.geometry.get(name)) for name in faces),
            *(_cell(row.rest.get(name)) for name in rest),
            row.notes,
            *(getattr(row, name) for name in private),
        ]
        for number, row in enumerate(rows)
    )
    lengths = (*map(disk.geometry_column, faces), *map(disk.rest_column, rest))
    _write_csv(site / disk.INDEX, (*COLUMNS, *measures, *figures, *lengths, "notes", *private), lines)


def coded(figures: Iterable[Mapping[str, float]]) -> dict[str, int]:
    """Name -> in how many it is given, sorted by name."""
    return dict(sorted(Counter(name for part in figures for name in part).items()))


def measured(figures: Iterable[Mapping[str, float]]) -> list[str]:
    """The measurements that are known of any row, in their own order."""
    known = coded(figures)
    return [name for name in MEASUREMENTS if name in known]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


def write_rejected(site: Path, rows: list[tuple[str, str]]) -> None:
    _write_csv(site / disk.REJECTED, ("file", "reason"), rows)


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([plain(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    # backslashreplace: a file name may hold bytes that are not UTF-8
    disk.write_atomic(path, lambda file: file.write(text.getvalue().encode("utf-8", "backslashreplace")))


def make_manifest(
    site: Path, rows: list[Row], *, plan: Plan, records: dict[str, Record], settings: Settings, rejected: int
) -> dict[str, Any]:
    """What the site holds, in counts: no subject, file or folder by name unless `keep_names`."""
    labels = Counter(row.label for row in rows if row.label)
    # two where an earlier run with another one was continued
    renderers = {
        name for record in records.values() if record.rows for name in record.renderer.split(" and ")
    }
    manifest: dict[str, Any] = {
        "kind": disk.KIND,
        "schema": disk.SCHEMA,
        "dataset": plan.listing.dataset,
        "why": plan.listing.why if settings.keep_names else without_names(plan, settings),
        "counts": {
            "samples": len(rows),
            "subjects": len({row.subject for row in rows}),
            "sequences": len({row.sequence for row in rows}),
            "unlabelled": sum(not row.label for row in rows),
            "rejected": rejected,
        },
        "labels": {name: labels[name] for name in VOCABULARY if labels[name]},
        "measures": coded(row.measures for row in rows),
        "quality": list(coded(row.quality for row in rows)),
        "geometry": measured(row.geometry for row in rows),
        "rest": measured(row.rest for row in rows),
        "limits": dict(settings.limits),
        "views": plain_views(settings.views),
        "frames_per_sequence": settings.frames,
        "sampling": settings.sampling,
        "window": settings.window,
        "settings_sha256": views_hash(settings.views),
        "index_sha256": disk.sha256(site / disk.INDEX),
        "renderer": " and ".join(sorted(renderers)),
        "algorithm": ALGORITHM,
        "software": _versions(),
        "bytes": sum(record.bytes for record in records.values()),
        "names_kept": settings.keep_names,
    }
    if settings.keep_names:
        manifest["raw"] = str(settings.raw)
    return manifest


def without_names(plan: Plan, settings: Settings) -> str:
    """Why the data set was recognised, with every subject, folder and file of the user replaced by `...`."""
    raw = settings.raw
    text = plan.listing.why.replace(str(raw), "...")
    if settings.labels is not None:
        text = text.replace(Path(settings.labels).name, "a table")
    text = re.sub(r"\(pattern .*\)", "by a pattern", text, flags=re.DOTALL)  # which may hold brackets itself
    private = {raw.name}
    for sequence in plan.listing.sequences:
        private |= {sequence.subject, *re.split(r"[/\\]", sequence.name)}
        for frame in sequence.frames:
            private |= {*Path(os.path.relpath(frame.path, raw)).parts, frame.path.stem}
    there = [word for word in private if word.strip("./\\") and word.lower() in text.lower()]
    if there:
        words = "|".join(map(re.escape, sorted(there, key=len, reverse=True)))
        text = re.sub(rf"(?<![\w-])(?:{words})(?![\w-])", "...", text, flags=re.IGNORECASE)
    text = re.sub(r" ?\([^()]*\.\.\.[^()]*\)", "", text)  # of an example in brackets nothing useful is left
    return " ".join(text.split())


def _versions() -> dict[str, str]:
    found = {"smile": __version__, "python": platform.python_version()}
    for name in ("numpy", "trimesh", "pyrender", "pillow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
