"""What a scanner or depth camera leaves: meshes, point clouds and depth images in folders of any naming.

What each file shows is said by `--pattern` (see `pattern`), by a CSV (`--labels`, see `labels_csv`), or by this project's own
rule for what 3dMD, Vectra, Artec, RealSense and phones export: `P001_happy_0.obj`, and `P001_happy_0/000.obj` in 4D. The two
halves of a face, `P001_happy_0_L.obj` and `_R.obj` (or `_left`, `_right`), are one capture of the name before the mark.
"""

import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from . import folders, labels_csv, pattern, rgbd
from .labels_csv import Labels, Row
from .pattern import Named, Pattern
from .scan import Frame, Listing, Options, Problem, Sequence

LAYOUT = "P001_happy_0.obj (or .ply, .stl, .glb ...)"
SUFFIXES = (".obj", ".ply", ".stl", ".glb", ".gltf", ".off", ".wrl", ".xyz", ".pcd")
_SHY = (".txt",)  # a point cloud where something says so, else a note of somebody's
_CAPTURE = re.compile(r"(?P<subject>P\d{3})_(?P<expression>[a-z]+)_(?P<rep>\d+)", re.IGNORECASE)
_NUMBERED = re.compile(r"\D*(?P<frame>\d{1,9})")
_HALF = re.compile(r"(?P<stem>.+)_(?P<side>L|R|left|right)", re.IGNORECASE)
_OTHER = {"l": "r", "r": "l", "left": "right", "right": "left"}
_HOW = "say how with --pattern, or list the scans in a CSV with --labels"


@dataclass(frozen=True)
class _Found:
    """One file and what is said about it."""

    path: Path
    name: str  # of its sequence
    subject: str
    word: str | None
    frame: int | None
    row: Row | None
    whole: bool  # the row is about all frames of the folder
    parts: tuple[Path, ...] = ()  # the other half


@dataclass(frozen=True)
class _Half:
    """One half of a face in a file of its own."""

    both: PurePath  # its path without the mark
    other: PurePath
    left: bool


def matches(folder: Path) -> bool:
    """Whether some file below is named by the project's own rule."""
    paths = (file.relative_to(folder) for file in _files(folder))
    return any(_by_rule(half.both if (half := _half(path)) else path) for path in paths)


def listing(folder: Path, options: Options) -> Listing:
    """One sequence for each capture, or for each folder of numbered frames.

    Raises ValueError for a pattern or a CSV that is not understood or fits nothing; a single file goes among the problems.
    """
    rule = None if options.pattern is None else pattern.parse(options.pattern)
    labels = None if options.labels is None else labels_csv.read(options.labels)
    if rule and labels is None and "{subject}" not in rule.text:
        raise ValueError(
            f"pattern {rule.text!r} does not say who is seen: write {{subject}}, such as {pattern.EXAMPLE!r}"
        )
    found: list[_Found] = []
    problems: list[Problem] = []
    used: set[str] = set()
    files = list(_files(folder))
    for path, file, *others in _captures(files, folder, rule, labels):
        try:
            one = _told(file, path, rule, labels, used, parts=tuple(others))
        except ValueError as error:
            problems += [Problem(each, str(error)) for each in (file, *others)]
        else:
            found += [one] if one else []
    if labels:
        problems += labels_csv.unused(folder, labels, used)
    if rule and not found:
        first = f", the first {files[0].relative_to(folder).as_posix()!r}" if files else ""
        raise ValueError(
            f"{folder}: none of its {folders.count(len(files), 'scan')}{first}, fits the pattern {rule.text!r}: correct it"
        )
    sequences, trouble = _sequences(folder, found, options)
    said = f"pattern {rule.text}" if rule else LAYOUT if labels is None else ""
    told = ", ".join(filter(None, [said, f"labels of {labels.path.name}" if labels else ""]))
    why = folders.why(f"a scanner's export ({told})", sequences)
    return Listing("scanner", why, tuple(sequences), tuple(problems + trouble))


def advice(folder: Path) -> str | None:
    """What to write for scans that no data set's rule fits, with an example made of the first; None where there are none."""
    files: list[PurePath] = [
        file.relative_to(folder) for file in _files(folder) if file.suffix.lower() not in _SHY
    ]
    if not files:
        return None
    kinds = {file.suffix.lower() for file in files}
    half = _half(files[0])
    there = {labels_csv.key(file.as_posix()) for file in files}
    first = half.both if half and labels_csv.key(half.other.as_posix()) in there else files[0]
    example = pattern.proposed(first, files) + (files[0].suffix if len(kinds) == 1 else ".{}")
    return (
        f"{folders.count(len(files), 'scan')} found, such as {files[0].as_posix()!r}, but nothing says who and what they show: "
        f"write for example --dataset scanner --pattern '{example}', or --labels labels.csv with the columns "
        "file, subject, expression"
    )


def _files(folder: Path) -> Iterator[Path]:
    """Every scan below `folder` by name, without hidden files and folders and those of operating systems."""
    for place, names in folders.walk(folder):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES or suffix in _SHY or rgbd.stem_of(PurePath(place, name)) is not None:
                yield Path(place, name)


def _captures(
    files: list[Path], folder: Path, rule: Pattern | None, labels: Labels | None
) -> Iterator[tuple[PurePath, Path] | tuple[PurePath, Path, Path]]:
    """(the path that says what is shown, its file or its two), two halves where the path of both says something.

    Halves that a CSV names one by one stay two scans.
    """

    def key(path: PurePath) -> str:
        return labels_csv.key(path.as_posix())

    there = {key(file.relative_to(folder)): file for file in files}
    listed = {**labels.rows, **labels.bad} if labels else {}
    for file in files:
        path = file.relative_to(folder)
        half = _half(path)
        other = there.get(key(half.other)) if half else None
        if (
            half is None
            or other is None
            or there[key(path)] != file  # it differs from another one in case alone
            or any(key(each) in listed for each in (path, half.other))
            or not _says(half.both, rule, listed)
        ):
            yield path, file
        elif half.left:
            yield half.both, file, other


def _says(path: PurePath, rule: Pattern | None, listed: Collection[str]) -> bool:
    """Whether pattern, CSV or the project's own rule say something about `path`."""
    if any(labels_csv.key(each.as_posix()) in listed for each in (path, path.parent)):
        return True
    try:
        return (rule.match(path) if rule else _by_rule(path)) is not None
    except ValueError:  # it fits in two ways, which is said later
        return True


def _half(path: PurePath) -> _Half | None:
    mark = _HALF.fullmatch(path.stem) if rgbd.stem_of(path) is None else None
    if mark is None:
        return None
    stem, side = mark["stem"], mark["side"].lower()
    return _Half(path.with_stem(stem), path.with_stem(f"{stem}_{_OTHER[side]}"), side.startswith("l"))


def _told(
    file: Path,
    path: PurePath,
    rule: Pattern | None,
    labels: Labels | None,
    used: set[str],
    *,
    parts: tuple[Path, ...],
) -> _Found | None:
    """What pattern, CSV or rule say about the file at `path` below the folder; None where it is probably no scan."""
    key, above = labels_csv.key(path.as_posix()), labels_csv.key(path.parent.as_posix())
    row, whole = None, False
    if labels:
        wrong = next((k for k in (key, above) if k in labels.bad), None)
        place = next((k for k in (key, above) if k in labels.rows), None)
        used |= {k for k in (wrong, place) if k}
        if wrong:
            raise ValueError(labels.bad[wrong])
        row, whole = (labels.rows[place], place == above) if place else (None, False)
    named = rule.match(path) if rule else _by_rule(path)
    if named is None and row is None:
        if path.suffix.lower() in _SHY:
            return None
        if rule is None and labels is None:
            raise ValueError(f"scan {path.name!r} is not named like {LAYOUT}: rename it, or {_HOW}")
        ways = [f"does not fit the pattern {rule.text!r}"] if rule else []
        ways += [f"has no line in {labels.path.name}"] if labels else []
        raise ValueError(f"{path.as_posix()!r} {' and '.join(ways)}: correct the one or the other")
    subject = _subject(path, named, row, labels)
    word = named.expression if named else None
    if row and labels and labels.has_expression:
        word = row.expression
    frame = named.frame if named else None
    name = named.name if named else path.with_suffix("").as_posix()
    if row and (whole or row.sequence):
        name = path.parent.as_posix() if whole else f"{subject}/{row.sequence}"
        frame = row.frame if row.frame is not None and not whole else _number(path)
    elif row and row.frame is not None:
        frame = row.frame
    return _Found(file, name, subject, word, frame, row, whole, parts)


def _by_rule(path: PurePath) -> Named | None:
    """What the project's own rule says: the name of the file, or the number of a frame and the name of its folder."""
    depth = rgbd.stem_of(path)
    if depth is None and path.suffix.lower() not in SUFFIXES + _SHY:
        return None
    stem, place = (path.stem, path.parent) if depth is None else (depth, rgbd.home_of(path))
    capture, frame = _CAPTURE.fullmatch(stem), None
    if capture is None and _NUMBERED.fullmatch(stem):
        capture, frame = _CAPTURE.fullmatch(place.name), _number(PurePath(stem + ".x"))
    if capture is None:
        return None
    subject, word, rep = capture["subject"].upper(), capture["expression"], int(capture["rep"])
    return Named(subject, word, frame, f"{subject}/{word.lower()}_{rep}")


def _number(path: PurePath) -> int:
    """The number of a frame in its file name, which may have words before it and a mark of depth after it."""
    numbered = _NUMBERED.fullmatch(rgbd.stem_of(path) or path.stem)
    if numbered is None:
        raise ValueError(f"scan {path.name!r} has no frame number: rename it like 000{path.suffix}")
    return int(numbered["frame"])


def _subject(path: PurePath, named: Named | None, row: Row | None, labels: Labels | None) -> str:
    """The person in capitals, because two spellings of one person must never come to lie on both sides of a split."""
    said = [s.strip().upper() for s in (row and row.subject, named and named.subject) if s and s.strip()]
    if not said:
        where = f", add a column subject to {labels.path.name}" if labels else ""
        raise ValueError(
            f"nothing says who is seen in {path.as_posix()!r}: write {{subject}} into the pattern{where}"
        )
    if row and len(set(said)) > 1:
        raise ValueError(
            f"line {row.line} of the labels says subject {said[0]!r} and its name {said[1]!r}: correct one of the two"
        )
    return said[0]


def _sequences(
    folder: Path, found: Iterable[_Found], options: Options
) -> tuple[list[Sequence], list[Problem]]:
    groups: dict[str, list[_Found]] = {}
    for one in found:
        groups.setdefault(one.name.lower(), []).append(one)
    look = functools.cache(rgbd.look)
    out: list[Sequence] = []
    problems: list[Problem] = []
    for group in groups.values():
        frames: dict[int, Frame] = {}
        for one in sorted(group, key=lambda one: one.frame or 0):
            number = one.frame or 0
            try:
                if number in frames:
                    what = one.name if one.frame is None else f"frame {number} of {one.name}"
                    raise ValueError(f"{what} is already there as {frames[number].path}: keep one of the two")
                frames[number] = _frame(one, number, folder, look)
            except ValueError as error:
                problems.append(Problem(one.path, str(error)))
        if not frames:
            continue
        try:
            out.append(_sequence(group, tuple(frames.values()), options))
        except ValueError as error:
            first = next(iter(frames.values())).path
            problems.append(Problem(first if len(frames) == 1 else first.parent, str(error)))
    sequences, doubles = folders.unique(out)
    return sequences, problems + doubles


def _frame(one: _Found, number: int, folder: Path, look: Callable[[Path], dict[str, Path]]) -> Frame:
    measures = one.row.measures if one.row and not one.whole else {}
    if rgbd.stem_of(one.path) is None:
        return Frame(one.path, number, parts=one.parts, measures=measures)
    found = rgbd.frame(one.path, top=folder, number=number, look=look)
    return Frame(one.path, number, found.texture, camera=found.camera, measures=measures)


def _sequence(group: list[_Found], frames: tuple[Frame, ...], options: Options) -> Sequence:
    """Raises ValueError for an unknown or contradictory label, and for an onset, apex or offset that no frame has."""
    rows = [one.row for one in group if one.row]
    # A line for some frames is about the sequence, whatever the names of the others say.
    words = {row.expression for row in rows if row.expression} or {one.word for one in group if one.word}
    labels = {options.expression(word) for word in sorted(words)} - {None}
    if len(labels) > 1:
        raise ValueError(
            f"its frames are labelled {' and '.join(sorted(map(str, labels)))}: a sequence has one label"
        )
    first = group[0]
    if any(one.subject != first.subject for one in group):
        raise ValueError(f"its frames show {first.subject!r} and somebody else: correct the column subject")
    marks: dict[str, int | None] = {}
    for mark in ("onset", "apex", "offset"):
        values = sorted({value for row in rows if (value := getattr(row, mark)) is not None})
        if len(values) > 1:
            raise ValueError(f"it has several frames for {mark} ({', '.join(map(str, values))}): keep one")
        if values and len(frames) > 1 and not frames[0].number <= values[0] <= frames[-1].number:
            raise ValueError(
                f"{mark} {values[0]} lies outside its frames {frames[0].number} to {frames[-1].number}: correct the labels"
            )
        marks[mark] = values[0] if values else None
    measures = next((one.row.measures for one in group if one.row and one.whole), {})
    label = next(iter(labels), None)
    name = first.name
    if label and options.pattern is options.labels is None and _CAPTURE.fullmatch(name.replace("/", "_")):
        name = (
            f"{first.subject}/{label}_{name.rpartition('_')[2]}"  # `P001/happiness_0`, whatever the spelling
        )
    return Sequence(
        first.subject, label, name, frames, measures, marks["onset"], marks["apex"], marks["offset"]
    )
