"""D3DFACS (Cosker et al., ICCV 2011): raw `Ann/1+2/1+2_175_L.obj` in two halves, or registered `Ann/1+2/1+2_175.ply`.

Layout: the folders and the registered meshes (FLAME topology) as in <https://flame.is.tue.mpg.de> and public loaders. That
a raw capture is two half-face OBJ with a BMP texture each has one source, and how the halves are named has none: taken
here are the pairs of `_PAIRS` behind the frame number (to be confirmed).
"""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from ..labels import measure
from . import folders, numbered
from .scan import Frame, Listing, Options, Problem, Sequence

LAYOUT = "Ann/1+2/1+2_175.ply"
_UNIT = r"(?:AU)?\d{1,2}[LR]?"
_UNITS = re.compile(rf"{_UNIT}(?:\+{_UNIT})*$", re.IGNORECASE)  # 1+2, 12, AU4, 10L+25
_PAIRS = (("l", "r"), ("left", "right"), ("a", "b"), ("0", "1"), ("1", "2"), ("half1", "half2"))
_SIDE = r"[ _.-]?(?:left|right|half[ _-]?\d|[lrab])"


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
        for p in numbered.tree(folder, 3, _UNITS)
        if any(_UNITS.fullmatch(inner.name) for inner in folders.subfolders(p))
    ]


def _measures(units: str) -> dict[str, float]:
    if not _UNITS.fullmatch(units):
        return {}
    return dict(measure("AU" + code.upper().removeprefix("AU"), 1.0) for code in units.split("+"))


def _frames(units: Path) -> tuple[tuple[Frame, ...], list[Problem]]:
    """The frames of one performance; of a raw capture the second half of the face is a part of the first."""
    files = numbered.file_names(units)
    # A number is a side only behind the whole documented name: `4_1.ply` is frame 1 of AU4 and no half of frame 4.
    pattern = re.compile(
        rf"(?:(?P<own>{re.escape(units.name)}_)|[a-z]*[ _.-]?)(?P<number>\d+)"
        rf"(?P<side>{_SIDE}|(?(own)[ _.-]\d+|(?!)))?\.(?:obj|ply)",
        re.IGNORECASE,
    )
    images, by_side = _images(files), defaultdict(list)
    problems: list[Problem] = []
    for name in numbered.with_suffix(files, ".obj", ".ply"):
        if match := pattern.fullmatch(name):
            by_side[re.sub(r"[ _.-]", "", match["side"] or "").lower()].append(name)
        else:
            expected = f"{units.name}_175{Path(name).suffix}"
            reason = f"{name!r} is not a frame number behind the action units, like {expected}: rename it"
            problems.append(Problem(units / name, reason))
    captures: dict[int, dict[str, Frame]] = defaultdict(dict)
    for side, names in by_side.items():
        frames, trouble = numbered.frames(units, names, pattern)
        problems += trouble
        for frame in frames:
            match = pattern.fullmatch(frame.path.name)
            stems = [frame.path.stem, frame.path.name[: match.start("side")] if match and side else ""]
            image = next((images[stem.lower()] for stem in stems if stem.lower() in images), None)
            captures[frame.number][side] = replace(frame, texture=units / image if image else None)
    whole = []
    for _, halves in sorted(captures.items()):
        pair = next((p for p in _PAIRS if set(p) == halves.keys()), None)
        if set(halves) == {""}:
            whole.append(halves[""])
        elif pair:
            whole.append(replace(halves[pair[0]], parts=(halves[pair[1]].path,)))
        else:
            problems += [_lone(half.path, several=len(halves) > 1) for half in halves.values()]
    return tuple(whole), problems


def _images(files: list[str]) -> dict[str, str]:
    """Stem in lower case -> picture; both halves may share the one of their frame."""
    return {name.rpartition(".")[0].lower(): name for name in numbered.pictures_of(files)}


def _lone(path: Path, *, several: bool) -> Problem:
    if several:
        reason = (
            "one of several files of its frame that are no pair like L and R: keep two halves or one mesh"
        )
    else:
        reason = "half a face without its other half: restore that file"
    return Problem(path, f"{path.name!r} is {reason}")
