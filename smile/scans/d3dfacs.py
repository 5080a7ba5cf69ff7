"""D3DFACS (Cosker et al., ICCV 2011): raw `Ann/1+2/1+2_175_L.obj` in two halves, or registered `Ann/1+2/1+2_175.ply`.

Layout: the folders and the registered meshes (FLAME topology) as in <https://flame.is.tue.mpg.de> and public loaders. That
a raw capture is two half-face OBJ with a BMP texture each has one source, and how the halves are named has none: taken
here is `L` and `R`, `left` and `right`, `A` and `B` or `_1` and `_2` behind the frame number (to be confirmed).
"""

import re
from dataclasses import replace
from pathlib import Path

from ..labels import measure
from . import folders, numbered
from .scan import Frame, Listing, Options, Problem, Sequence

LAYOUT = "Ann/1+2/1+2_175.ply"
_UNIT = r"(?:AU)?\d{1,2}[LR]?"
_UNITS = re.compile(rf"{_UNIT}(?:\+{_UNIT})*$", re.IGNORECASE)  # 1+2, 12, AU4, 10L+25
_SIDE = r"[ _.-]?(?P<side>left|right|[lrab])|[ _.-](?P<digit>[12])"
_SECOND = ("right", "r", "b", "2")


def matches(folder: Path) -> bool:
    """Whether a folder named by several action units holds numbered meshes; `12` alone could be anything's name."""
    return any(
        "+" in units.name and _UNITS.fullmatch(units.name) and _frames(units)[0]
        for person in _people(folder)
        for units in folders.subfolders(person)
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence for each performance of each person, the two halves of a raw capture as one frame."""
    found: list[Sequence] = []
    problems: list[Problem] = []
    for person in _people(folder):
        for units in folders.subfolders(person):
            frames, trouble = _frames(units)
            problems += trouble
            if not frames and not trouble and _UNITS.fullmatch(units.name):
                problems.append(Problem(units, f"folder {units.name!r} holds no meshes: restore them"))
            word = units.name.lower()
            label = options.expression(word) if word in options.mapping else None
            if frames:
                name = f"{person.name}/{units.name}"
                found.append(Sequence(person.name, label, name, frames, _measures(units.name)))
    sequences, doubles = folders.unique(found)
    halves = sum(bool(frame.parts) for s in sequences for frame in s.frames)
    bare = sum(not s.measures for s in sequences)
    why = folders.why(
        f"D3DFACS layout ({LAYOUT})",
        sequences,
        f"{folders.count(halves, 'frame')} of two halves" if halves else "",
        f"{folders.count(bare, 'folder')} not named by action units" if bare else "",
    )
    return Listing("d3dfacs", why, tuple(sequences), tuple(problems + doubles))


def _people(folder: Path) -> list[Path]:
    """Folders that hold a folder named by action units; the data set names them after the performers."""
    return [
        p
        for p in numbered.tree(folder, 2, _UNITS)
        if any(_UNITS.fullmatch(inner.name) for inner in folders.subfolders(p))
    ]


def _measures(units: str) -> dict[str, float]:
    if not _UNITS.fullmatch(units):
        return {}
    return dict(measure("AU" + code.upper().removeprefix("AU"), 1.0) for code in units.split("+"))


def _frames(units: Path) -> tuple[tuple[Frame, ...], list[Problem]]:
    """The frames of one performance; of a raw capture the second half of the face is a part of the first."""
    files = numbered.file_names(units)
    # The name of the folder stands first, or the 2 of `1+2_2.obj` were taken for a second half of frame 2.
    pattern = re.compile(
        rf"(?:{re.escape(units.name)}_)?(?:.*?\D)??(?P<number>\d+)(?:{_SIDE})?\.(?:obj|ply)", re.IGNORECASE
    )
    sides = {}
    for name in numbered.with_suffix(files, ".obj", ".ply"):
        match = pattern.fullmatch(name)
        sides[name] = (match["side"] or match["digit"] or "").lower() if match else ""
    images = numbered.pictures_of(files)
    first = [name for name, side in sides.items() if side not in _SECOND]
    second = [name for name, side in sides.items() if side in _SECOND]
    frames, problems = numbered.frames(units, first, pattern, images=images)
    parts, trouble = numbered.frames(units, second, pattern)
    problems += trouble
    others = {part.number: part.path for part in parts}
    whole, lone = [], []
    for frame in frames:
        if not sides[frame.path.name]:
            whole.append(frame)
        elif frame.number in others:
            whole.append(replace(frame, parts=(others.pop(frame.number),)))
        else:
            lone.append(frame.path)
    for path in [*lone, *others.values()]:
        problems.append(
            Problem(path, f"{path.name!r} is half a face without its other half: restore that file")
        )
    return tuple(whole), problems
