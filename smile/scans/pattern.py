"""How a scanner's files are named, such as `{subject}/{expression}_{rep}.obj` -> what each path says.

`{subject}`, `{expression}`, `{rep}` and `{}` stand for text inside one part of the path, `{frame}` for a number;
everything else stands for itself, in any case. The path is that of a file below the raw folder.
"""

import re
from dataclasses import dataclass
from pathlib import PurePath

FIELDS = ("subject", "expression", "rep", "frame")
EXAMPLE = "{subject}/{expression}/{}.obj"


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
