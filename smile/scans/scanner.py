"""A scanner's export: `P001_happy_0.obj` or `.ply` in any folders below.

Source: no data set but this project's own rule for what 3dMD, Vectra, Artec and RealSense export.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from . import folders
from .scan import Frame, Listing, Options, Problem, Sequence

LAYOUT = "P001_happy_0.obj or .ply"
_CAPTURE = re.compile(r"(?P<subject>P\d{3})_(?P<expr>[a-z]+)_(?P<rep>\d+)\.(obj|ply)", re.IGNORECASE)


def matches(folder: Path) -> bool:
    """Whether some file below is named by the rule."""
    return any(_CAPTURE.fullmatch(file.name) for file in _files(folder))


def listing(folder: Path, options: Options) -> Listing:
    """One sequence of one frame for each capture."""
    found, problems = [], []
    for file in _files(folder):
        if file.suffix.lower() not in (".obj", ".ply"):
            continue
        capture = _CAPTURE.fullmatch(file.name)
        if capture is None:
            problems.append(Problem(file, f"mesh {file.name!r} is not named like {LAYOUT}: rename it"))
            continue
        try:
            label = options.expression(capture["expr"])
        except ValueError as error:
            problems.append(Problem(file, str(error)))
            continue
        subject = capture["subject"].upper()
        found.append(Sequence(subject, label, f"{subject}/{label}_{int(capture['rep'])}", (Frame(file),)))
    sequences, doubles = folders.unique(found)
    why = folders.why(f"a scanner's export ({LAYOUT})", sequences)
    return Listing("scanner", why, tuple(sequences), tuple(problems + doubles))


def _files(folder: Path) -> Iterator[Path]:
    """Every file below `folder` by name, without hidden files and folders."""
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(n for n in inner if not n.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(place, name)
