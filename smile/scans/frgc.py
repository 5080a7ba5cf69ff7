"""FRGC v2 (Phillips et al., CVPR 2005): `Fall2003range/02463d546.abs.gz`, range images of people who come again and again.

Layout and names after public loaders. The first five digits are the person; the set states no expression in its names,
so every scan is unlabelled unless a labels file says more.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from . import folders, numbered
from .scan import Frame, Listing, Options, Problem, Sequence

LAYOUT = "Fall2003range/02463d546.abs.gz"
_SCAN = re.compile(r"(?P<subject>\d{5})d(?P<record>\d+)\.abs(?P<packed>\.gz)?", re.IGNORECASE)
_RANGE = re.compile(r".*\.abs(\.gz)?", re.IGNORECASE)
_DEPTH = 3  # levels: FRGC-2.0-dist/nd1/Fall2003range
_EVERY = re.compile(r"(?!)")


def matches(folder: Path) -> bool:
    """Whether range images with the names of FRGC lie in `folder` or up to three levels deeper."""
    return any(_SCAN.fullmatch(name) for place in _places(folder) for name in numbered.file_names(place))


def listing(folder: Path, options: Options) -> Listing:
    """One unlabelled sequence of one frame for each range image; of a packed and an unpacked copy the unpacked one."""
    found, problems = [], []
    for place in _places(folder):
        files = folders.by_lower_name(folders.entries(place))
        for name, file in files.items():
            scan = _SCAN.fullmatch(file.name)
            if scan is not None and not (scan["packed"] and name.removesuffix(".gz") in files):
                found.append(_sequence(file, scan, files))
            elif scan is None and _RANGE.fullmatch(file.name):
                problems.append(
                    Problem(file, f"{file.name!r} is not named like {LAYOUT.split('/')[1]}: correct its name")
                )
    sequences, doubles = folders.unique(found)
    why = folders.why(f"FRGC layout ({LAYOUT})", sequences, "its names state no expression")
    return Listing("frgc", why, tuple(sequences), tuple(problems + doubles))


def _places(folder: Path) -> Iterator[Path]:
    yield folder
    yield from numbered.tree(folder, _DEPTH, _EVERY)


def _sequence(file: Path, scan: re.Match[str], files: dict[str, Path]) -> Sequence:
    subject, record = scan["subject"], int(scan["record"])
    stem, following = f"{subject}d{scan['record']}", f"{subject}d{record + 1}"
    image = folders.image_of(files, stem)
    if image is None and not {f"{following}.abs", f"{following}.abs.gz"} & files.keys():
        image = folders.image_of(files, following)  # the scanner numbered range and colour as two records
    return Sequence(subject, None, f"{subject}/{stem}", (Frame(file, 0, image),))
