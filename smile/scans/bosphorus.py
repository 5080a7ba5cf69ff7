"""Bosphorus (Savran et al., BIOID 2008): `bs000/bs000_E_ANGER_0.bnt` with `.png`, `.lm3` and `.lm2`.

Layout: <http://bosphorus.ee.boun.edu.tr/default.aspx> and public loaders.
"""

import re
from collections import Counter
from pathlib import Path

from ..labels import measure
from . import folders
from .scan import Frame, Listing, Options, Problem, Sequence

SUBJECT = r"bs\d{3}"
LAYOUT = "bs000/bs000_E_ANGER_0.bnt"
LABELLED = ("N", "E")
ACTION_UNITS = ("LFAU", "UFAU", "CAU")  # expressions without one of our names, with measures
UNLABELLED = ("YR", "PR", "CR", "O")  # turned or occluded
LEFT_OUT = "IGN"  # scans that the data set itself says to ignore
# L and R are sides. 12LW has no 12RW beside it, so LW is taken for a weak unit and not for a side; no source states it.
_UNIT = r"A?U?(\d{1,2})(LW|[LR])?"
_UNITS = re.compile(rf"{_UNIT}(?:[+]{_UNIT}|[ +_-]?A{_UNIT})*", re.IGNORECASE)
_SCAN = re.compile(r"(?P<subject>bs\d{3})_(?P<group>[A-Z]+)_(?P<code>.+)_(?P<rep>\d+)\.bnt", re.IGNORECASE)


def matches(folder: Path) -> bool:
    """Whether some subject has a range image."""
    return any(
        file.name.lower().endswith(".bnt")
        for subject in folders.subjects(folder, SUBJECT)[0]
        for file in folders.entries(subject)
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence of one frame for each scan; labelled are neutral faces and emotions, action units are measures."""
    people, others = folders.subjects(folder, SUBJECT)
    problems = folders.almost_subjects(others, r"bs\d", "bs and three digits")
    found = []
    groups: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    weak = orphans = 0
    for person in people:
        files = folders.by_lower_name(folders.entries(person))
        stems = {name[:-4] for name in files if name.endswith((".lm2", ".lm3"))}
        orphans += sum(stem + ".bnt" not in files for stem in stems)
        for name, file in files.items():
            if not name.endswith(".bnt"):
                continue
            scan = _SCAN.fullmatch(file.name)
            group = scan["group"].upper() if scan is not None else ""
            if group != LEFT_OUT:
                try:
                    found.append(_sequence(file, scan, person.name.lower(), files, options))
                except ValueError as error:
                    problems.append(Problem(file, str(error)))
                    continue
            groups[group] += 1
            if scan is not None and group in ACTION_UNITS:
                read = action_units(scan["code"])
                unread[scan["code"].upper()] += not read
                weak += bool(read) and "W" in scan["code"].upper()
    sequences, doubles = folders.unique(found)
    why = folders.why(
        f"Bosphorus layout ({LAYOUT})",
        sequences,
        "groups " + ", ".join(f"{group} {number}" for group, number in sorted(groups.items()))
        if groups
        else "",
        folders.left_out(others),
        f"{folders.count(groups[LEFT_OUT], 'scan')} marked {LEFT_OUT} left out" if groups[LEFT_OUT] else "",
        _unread(+unread),
        f"{folders.count(weak, 'code')} like 12LW read as AU12 (no source states the W)" if weak else "",
        folders.marked(sequences, orphans),
    )
    return Listing("bosphorus", why, tuple(sequences), tuple(problems + doubles))


def landmarks_of(files: dict[str, Path], stem: str) -> Path | None:
    """`.lm3`, else `.lm2`, whose places are pixels and mean nothing without the image. `files`: `folders.by_lower_name`."""
    pixels = files.get(stem + ".lm2") if folders.image_of(files, stem) else None
    return files.get(stem + ".lm3") or pixels


def action_units(code: str) -> dict[str, float]:
    """Measures of a pose code such as `12L`, `12LW` or `A12A15`; none where the code is not understood."""
    if not _UNITS.fullmatch(code):
        return {}
    units = re.findall(_UNIT, code, re.IGNORECASE)
    return dict(measure(f"AU{number}{side.upper().removesuffix('LW')}", 1.0) for number, side in units)


def _unread(codes: Counter[str]) -> str:
    """The codes of action units that are not understood, the most frequent first."""
    if not codes:
        return ""
    first = ", ".join(code for code, _ in codes.most_common(3))
    number = folders.count(codes.total(), "scan has a code", "scans have codes")
    return f"{number} of action units not understood ({first}{', ...' if len(codes) > 3 else ''})"


def _sequence(
    file: Path, scan: re.Match[str] | None, subject: str, files: dict[str, Path], options: Options
) -> Sequence:
    if scan is None:
        raise ValueError(f"{file.name!r} is not named like {LAYOUT.split('/')[1]}: correct its name")
    if scan["subject"].lower() != subject:
        raise ValueError(f"{file.name!r} lies in the folder of {subject}: move it to its own subject")
    group = scan["group"].upper()
    if group not in LABELLED + ACTION_UNITS + UNLABELLED:
        raise ValueError(
            f"group {scan['group']!r} of {file.name!r} is not one of "
            f"{', '.join((*LABELLED, *ACTION_UNITS, *UNLABELLED, LEFT_OUT))}: correct its name"
        )
    label = options.expression(scan["code"]) if group in LABELLED else None
    measures = action_units(scan["code"]) if group in ACTION_UNITS else {}
    stem = file.stem.lower()
    frame = Frame(file, 0, folders.image_of(files, stem), landmarks_of(files, stem))
    return Sequence(subject, label, f"{subject}/{file.stem.split('_', 1)[1].upper()}", (frame,), measures)
