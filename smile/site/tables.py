"""The tables of a prepared site: index.csv, rejected.csv and manifest.json, from plan and shard records."""

import csv
import importlib.metadata
import io
import os
import platform
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..labels import EXPRESSIONS
from . import disk
from .disk import Record
from .plan import ALGORITHM, Plan, plain_views, views_hash
from .work import Settings, explain

COLUMNS = ("row", "shard", "offset", "subject", "label", "sequence", "frame", "time")
PRIVATE_COLUMNS = ("subject_name", "source")  # with --keep-names only


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
    subject_name: str
    source: str  # relative to the raw folder


def index_rows(plan: Plan, records: dict[str, Record], *, raw: Path) -> list[Row]:
    """One row for each prepared scan, in the order of the plan."""
    pseudonyms = pseudonymise({sequence.subject for sequence in plan.listing.sequences})
    rows = []
    for chunk in plan.chunks:
        for offset, position in enumerate(records[chunk.key].rows):
            item = chunk.items[position]
            sequence = plan.listing.sequences[item.sequence]
            rows.append(
                Row(
                    shard=chunk.key,
                    offset=offset,
                    subject=pseudonyms[sequence.subject],
                    label=sequence.label or "",
                    sequence=item.sequence,
                    frame=item.frame.number,
                    time=item.time,
                    subject_name=sequence.subject,
                    source=_relative(item.frame.path, raw),
                )
            )
    return rows


def pseudonymise(subjects: set[str]) -> dict[str, str]:
    """Real id -> `subject-001` and so on, in the sorted order of the real ids."""
    width = max(3, len(str(len(subjects))))
    return {name: f"subject-{number:0{width}d}" for number, name in enumerate(sorted(subjects), start=1)}


def rejected_rows(plan: Plan, records: dict[str, Record], *, raw: Path) -> list[tuple[str, str]]:
    """(file relative to the raw folder, reason) of everything set aside, sorted by file."""
    rows = [
        (_relative(problem.path, raw), explain(ValueError(problem.reason), raw))
        for problem in plan.listing.problems
    ]
    for chunk in plan.chunks:
        for position, reason in records[chunk.key].rejected.items():
            rows.append((_relative(chunk.items[position].frame.path, raw), reason))
    return sorted({(file, reason.removeprefix(f"{file}: ")) for file, reason in rows})


def _relative(path: Path, raw: Path) -> str:
    return Path(os.path.relpath(path, raw)).as_posix()


def write_index(site: Path, rows: list[Row], *, keep_names: bool) -> None:
    columns = COLUMNS + (PRIVATE_COLUMNS if keep_names else ())
    _write_csv(
        site / disk.INDEX,
        columns,
        (
            [number, *(f"{row.time:.6g}" if name == "time" else getattr(row, name) for name in columns[1:])]
            for number, row in enumerate(rows)
        ),
    )


def write_rejected(site: Path, rows: list[tuple[str, str]]) -> None:
    _write_csv(site / disk.REJECTED, ("file", "reason"), rows)


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    # backslashreplace: a file name may hold bytes that are not UTF-8
    disk.write_atomic(path, lambda file: file.write(text.getvalue().encode("utf-8", "backslashreplace")))


def make_manifest(
    site: Path, rows: list[Row], *, plan: Plan, records: dict[str, Record], settings: Settings, rejected: int
) -> dict[str, Any]:
    """What the site holds, in counts: no subject, file or folder by name unless `keep_names`."""
    labels = Counter(row.label for row in rows if row.label)
    renderers = sorted({record.renderer for record in records.values() if record.rows})
    manifest: dict[str, Any] = {
        "kind": disk.KIND,
        "schema": disk.SCHEMA,
        "dataset": plan.listing.dataset,
        "why": plan.listing.why if settings.keep_names else without_names(plan, settings.raw),
        "counts": {
            "samples": len(rows),
            "subjects": len({row.subject for row in rows}),
            "sequences": len({row.sequence for row in rows}),
            "unlabelled": sum(not row.label for row in rows),
            "rejected": rejected,
        },
        "labels": {name: labels[name] for name in EXPRESSIONS if labels[name]},
        "views": plain_views(settings.views),
        "frames_per_sequence": settings.frames,
        "settings_sha256": views_hash(settings.views),
        "index_sha256": disk.sha256(site / disk.INDEX),
        "renderer": " and ".join(renderers),  # two where an earlier run with another one was continued
        "algorithm": ALGORITHM,
        "software": _versions(),
        "bytes": sum(record.bytes for record in records.values()),
        "names_kept": settings.keep_names,
    }
    if settings.keep_names:
        manifest["raw"] = str(settings.raw)
    return manifest


def without_names(plan: Plan, raw: Path) -> str:
    """Why the data set was recognised, with every subject, folder and file of the raw data replaced by `...`."""
    text = plan.listing.why.replace(str(raw), "...")
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
    for name in ("numpy", "trimesh", "embreex", "pyrender", "pillow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
