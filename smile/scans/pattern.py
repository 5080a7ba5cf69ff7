"""How a scanner's files are named, such as `{subject}/{expression}_{rep}.obj` -> what each path says.

`{subject}`, `{expression}`, `{rep}` and `{}` stand for text inside one part of the path, `{frame}` for a number;
everything else stands for itself, in any case. The path is that of a file below the raw folder.
"""

import re
from dataclasses import dataclass
from pathlib import PurePath

from .. import labels

FIELDS = ("subject", "expression", "rep", "frame")
EXAMPLE = "{subject}/{expression}/{}.obj"
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Named:
    """What one path says."""

    subject: str | None
    expression: str | None
    frame: int | None
    name: str  # the path without suffix and frame number: the same for all frames of a sequence


@dataclass(frozen=True)
class Pattern:
    """A pattern that can be held against paths."""

    text: str
    shortest: re.Pattern[str]  # each field as short as it can be
    longest: re.Pattern[str]

    def match(self, path: PurePath) -> Named | None:
        """What a path relative to the raw folder says, None where it does not fit.

        Raises ValueError where it fits in two ways: a person must never be guessed.
        """
        whole = path.as_posix()
        short, long = self.shortest.fullmatch(whole), self.longest.fullmatch(whole)
        if short is None or long is None:
            return None
        said, other = short.groupdict(), long.groupdict()
        for field, value in said.items():
            if value != other[field]:
                raise ValueError(
                    f"pattern {self.text!r} fits in two ways, with {field} {value!r} or {other[field]!r}: "
                    "write more fixed text into it, or list the scans in a CSV with --labels"
                )
        number = said.get("frame")
        stem = path.with_suffix("").as_posix()
        if number is not None:
            start, end = short.span("frame")
            stem = (whole[:start] + whole[min(end, len(stem)) : len(stem)]).rstrip("/_-. ")
        return Named(
            said.get("subject"),
            said.get("expression"),
            None if number is None else int(number),
            stem or whole,
        )


def parse(text: str) -> Pattern:
    """The pattern in `text`. Raises ValueError for an unknown field, one that comes twice, or two with nothing between."""
    clean = text.strip().replace("\\", "/").removeprefix("./").strip("/")
    pieces = re.split(r"(\{[^{}]*\})", clean)
    if not clean or any("{" in piece or "}" in piece for piece in pieces[::2]):
        raise ValueError(f"pattern {text!r} is no path with fields in braces: write one such as {EXAMPLE!r}")
    fields = [piece[1:-1] for piece in pieces[1::2]]
    for field in fields:
        if field and field not in FIELDS:
            raise ValueError(
                f"pattern {text!r}: field {field!r} is unknown: use {', '.join(f'{{{f}}}' for f in FIELDS)} and {{}}, "
                f"such as {EXAMPLE!r}"
            )
        if field and fields.count(field) > 1:
            raise ValueError(f"pattern {text!r}: {{{field}}} comes twice: write {{}} for one of them")
    if any(not between for between in pieces[2:-1:2]):
        raise ValueError(
            f"pattern {text!r}: two fields have nothing between them: put text such as _ there, or use --labels"
        )
    return Pattern(clean, _compiled(pieces, "?"), _compiled(pieces, ""))


def _compiled(pieces: list[str], greed: str) -> re.Pattern[str]:
    out = []
    for place, piece in enumerate(pieces):
        name = piece[1:-1]
        if place % 2 == 0:
            out.append(re.escape(piece))
        elif name == "frame":
            out.append(rf"(?P<frame>[0-9]+{greed})")
        else:
            out.append(rf"(?P<{name}>[^/]+{greed})" if name else rf"[^/]*{greed}")
    return re.compile("".join(out), re.IGNORECASE)


def proposed(first: PurePath, paths: list[PurePath]) -> str:
    """A pattern without suffix for `first` among `paths`: person, expression where its word is known, `{}` for the rest."""
    person, expressed = _person(first, paths), False
    out = []
    for level, (part, words) in enumerate(_words(first)):
        fields = []
        for place, word in enumerate(words):
            here = (level, place) != person and not expressed and _known(word)
            expressed |= here
            fields.append("{subject}" if (level, place) == person else "{expression}" if here else "{}")
        if part.isdecimal() and level == len(first.parts) - 1 and person != (level, 0):
            fields = ["{frame}"]
        between = [""] * 2 if words == [part] else _WORD.split(part)
        out.append("".join(text + field for text, field in zip(between, [*fields, ""], strict=True)))
    return "/".join(out)


def _words(path: PurePath) -> list[tuple[str, list[str]]]:
    """(part, its words) for each part of a path: a folder is one word, unless one of its words is an expression."""
    *above, stem = path.with_suffix("").parts
    split = [(part, _WORD.findall(part)) for part in above]
    return [
        *((part, words if any(map(_known, words)) else [part]) for part, words in split),
        (stem, _WORD.findall(stem)),
    ]


def _person(path: PurePath, paths: list[PurePath]) -> tuple[int, int]:
    """(part, word) that probably names the person: the first, but for expressions and numbers of frames, that is not the
    same in all paths; where there is one person alone, the last folder.
    """
    seen: dict[tuple[int, int], set[str]] = {}
    for each in paths:
        for level, (_, words) in enumerate(_words(each)):
            for place, word in enumerate(words):
                seen.setdefault((level, place), set()).add(word.lower())
    last = len(path.parts) - 1
    places = [
        (level, place)
        for level, (part, words) in enumerate(_words(path))
        for place, word in enumerate(words)
        if not _known(word) and not (level == last and word.isdecimal() and (place or word == part))
    ]
    differ = next((place for place in places if len(seen[place]) > 1), None)
    folder = next((place for place in reversed(places) if place[0] < last), None)
    return differ or folder or next(iter(places), (0, 0))


def _known(word: str) -> bool:
    """Whether it is the word for an expression; a single letter may be anything."""
    try:
        return labels.expression(word) is not None and len(word) > 1
    except ValueError:
        return False
