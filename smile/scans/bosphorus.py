"""Bosphorus (Savran et al., BIOID 2008): `bs000/bs000_E_ANGER_0.bnt` with `.png`, `.lm3` and `.lm2`.

Layout: <http://bosphorus.ee.boun.edu.tr/default.aspx> and public loaders.
"""

import re
from collections import Counter
from pathlib import Path

from . import folders
from .scan import Frame, Listing, Options, Problem, Sequence

SUBJECT = r"bs\d{3}"
LAYOUT = "bs000/bs000_E_ANGER_0.bnt"
LABELLED = ("N", "E")
UNLABELLED = ("LFAU", "UFAU", "CAU")  # action units: expressions without one of our names
LEFT_OUT = ("YR", "PR", "CR", "O", "IGN")  # turned, occluded or to be ignored
_SCAN = re.compile(r"(?P<subject>bs\d{3})_(?P<group>[A-Z]+)_(?P<code>.+)_(?P<rep>\d+)\.bnt", re.IGNORECASE)


def matches(folder: Path) -> bool:
    """Whether some subject has a range image."""
    return any(
        file.name.lower().endswith(".bnt")
        for subject in folders.subjects(folder, SUBJECT)[0]
        for file in folders.entries(subject)
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence of one frame for each neutral, emotion and action-unit scan."""
    people, others = folders.subjects(folder, SUBJECT)
    problems = folders.almost_subjects(others, r"bs\d", "bs and three digits")
    found = []
    left_out: Counter[str] = Counter()
    for person in people:
        files = folders.by_lower_name(folders.entries(person))
        for name, file in files.items():
            if not name.endswith(".bnt"):
                continue
            scan = _SCAN.fullmatch(file.name)
            if scan is not None and scan["group"].upper() in LEFT_OUT:
                left_out[scan["group"].upper()] += 1
                continue
            try:
                found.append(_sequence(file, scan, person.name.lower(), files, options))
            except ValueError as error:
                problems.append(Problem(file, str(error)))
    sequences, doubles = folders.unique(found)
    groups = ", ".join(f"{number} {group}" for group, number in sorted(left_out.items()))
    why = folders.why(
        f"Bosphorus layout ({LAYOUT})",
        sequences,
        folders.left_out(others),
        f"turned, occluded and ignored scans are left out for now ({groups})" if groups else "",
    )
    return Listing("bosphorus", why, tuple(sequences), tuple(problems + doubles))


def _sequence(
    file: Path, scan: re.Match[str] | None, subject: str, files: dict[str, Path], options: Options
) -> Sequence:
    if scan is None:
        raise ValueError(f"{file.name!r} is not named like {LAYOUT.split('/')[1]}: correct its name")
    if scan["subject"].lower() != subject:
        raise ValueError(f"{file.name!r} lies in the folder of {subject}: move it to its own subject")
    group = scan["group"].upper()
    if group not in LABELLED + UNLABELLED:
        raise ValueError(
            f"group {scan['group']!r} of {file.name!r} is not one of "
            f"{', '.join(LABELLED + UNLABELLED + LEFT_OUT)}: correct its name"
        )
    label = options.expression(scan["code"]) if group in LABELLED else None
    stem = file.stem.lower()
    frame = Frame(file, 0, folders.image_of(files, stem), files.get(stem + ".lm3"))
    return Sequence(subject, label, f"{subject}/{file.stem.split('_', 1)[1].upper()}", (frame,))
