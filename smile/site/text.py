"""Text for tables and terminals: names of files may hold anything, a line break or a colour code included."""

import os
import re
from pathlib import Path
from typing import TextIO

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    r"""The text with its control characters written out, such as `\n`; bytes that are not UTF-8 stay as they are."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(path: Path, raw: Path) -> str:
    """A file as reports and tables name it: relative to the raw folder, on one line."""
    return plain(Path(os.path.relpath(path, raw)).as_posix())


def silence(stream: TextIO) -> None:
    """Send what is still written to a stream nowhere: the program that read it has ended."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
