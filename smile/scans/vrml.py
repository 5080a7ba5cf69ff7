"""The grammar of VRML 2.0 (ISO/IEC 14772-1, annex A) as far as scans use it: text -> a tree of nodes.

Number lists stay bytes until somebody asks for them (`numbers`), so a 5 MB file is never cut into words.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import arrays
from .arrays import AGAIN

# No possessive quantifiers: the edge bundle carries this file to Python 3.10.
_TOKEN = re.compile(rb'[\s,]*(?:([][{}])|"([^"\\]*(?:\\.[^"\\]*)*)"|([^\s,\[\]{}"]+))', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NUMERIC = re.compile(rb"[\s,]*(?:[-+.\d]|nan\b|inf(?:inity)?\b)", re.IGNORECASE)
_LINE_END = re.compile(rb"[\r\n]")
_DEEPEST = 100  # nested nodes; scans nest a handful
_TRUNCATED = "the text stops inside {} (a truncated file?): " + AGAIN


@dataclass(eq=False)
class Node:
    """`kind { field value ... }`; a value is bytes (numbers or a keyword), a Node, or a list of Nodes or strings."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)

    def node(self, name: str, kind: str | None = None) -> "Node | None":
        """The node in a field, None where the field is absent, NULL or of another kind."""
        value = self.fields.get(name)
        return value if isinstance(value, Node) and kind in (None, value.kind) else None

    def nodes(self, name: str) -> list["Node"]:
        value = self.fields.get(name)
        return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, Node)]

    def numbers(self, name: str, dtype: type = float) -> np.ndarray:
        """The numbers of a field, flat; empty where the field is absent."""
        value = self.fields.get(name) or b""
        if not isinstance(value, bytes):
            raise ValueError(f"{self.kind}.{name} does not hold numbers: {AGAIN}")
        return arrays.numbers(value.replace(b",", b" "), dtype, what=f"{self.kind}.{name}")

    def string(self, name: str) -> str | None:
        value = self.fields.get(name)
        return value[0] if isinstance(value, list) and value and isinstance(value[0], str) else None

    def false(self, name: str) -> bool:
        """Whether a switch that is on by default is off."""
        return self.fields.get(name) == b"FALSE"


def parse(text: bytes) -> list[Node]:
    """The top-level nodes of a VRML 2.0 file; ValueError (without the file's name) for anything else."""
    text = text.removeprefix(b"\xef\xbb\xbf")
    if not text.startswith(b"#VRML V2.0"):
        start = text[:20].decode("latin-1")
        raise ValueError(
            f"it starts with {start!r} and not with '#VRML V2.0' (packed, or another format?): "
            "export it as VRML 2.0 (VRML97), OBJ or PLY"
        )
    return _Reader(_without_comments(text)).nodes(closing=b"", depth=0)


def _without_comments(text: bytes) -> bytes:
    """`#` to the end of the line is a comment, except inside a string. Jumps from one `#` to the next."""
    pieces, start = [], 0
    mark, quote = text.find(b"#"), text.find(b'"')
    while mark >= 0:
        if 0 <= quote < mark:
            string = _STRING.match(text, quote)
            if string is None:
                raise ValueError(_TRUNCATED.format("a quoted string"))
            quote = text.find(b'"', string.end())
            if mark < string.end():
                mark = text.find(b"#", string.end())
            continue
        pieces.append(text[start:mark])
        line_end = _LINE_END.search(text, mark)
        start = line_end.start() if line_end else len(text)
        mark = text.find(b"#", start)
        if 0 <= quote < start:
            quote = text.find(b'"', start)
    return b"".join([*pieces, text[start:]])


class _Reader:
    """A place in the text, and the nodes that DEF has named so far."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at = text, 0
        self.names: dict[bytes, Node | None] = {}

    def peek(self) -> re.Match[bytes] | None:
        found = _TOKEN.match(self.text, self.at)
        if found is None and self.text[self.at : self.at + 1000].strip(b" \t\r\n,"):
            raise ValueError(_TRUNCATED.format("a quoted string"))
        return found

    def take(self, *, inside: str) -> bytes:
        found = self.peek()
        if found is None:
            raise ValueError(_TRUNCATED.format(inside))
        self.at = found.end()
        return found.group().lstrip(b" \t\r\n\f\v,")

    def nodes(self, *, closing: bytes, depth: int) -> list[Node]:
        """Nodes up to `closing`; an empty `closing` is the end of the file."""
        found = []
        while closing or self.peek() is not None:
            word = self.take(inside="a list of nodes")
            if word == closing:
                break
            if word == b"}" and not closing:
                continue  # one bracket too many at the very end loses nothing
            if word[:1] in b'[]{}"':
                raise ValueError(f"{_show(word)!r} stands where a node should begin (damaged file?): {AGAIN}")
            if word == b"ROUTE":
                for _ in range(3):
                    self.take(inside="a ROUTE")
                continue
            node = self.node(word, depth)
            if node is not None:
                found.append(node)
        return found

    def node(self, word: bytes, depth: int) -> Node | None:
        """The node that begins with `word`: a kind, or DEF, USE or NULL."""
        if word in (b"PROTO", b"EXTERNPROTO"):
            raise ValueError("it uses PROTO, which this reader does not know: export it as OBJ or PLY")
        if word == b"NULL":
            return None
        if word == b"USE":
            name = self.take(inside="USE")
            if name not in self.names:
                raise ValueError(f"USE {_show(name)} comes before its DEF: {AGAIN}")
            return self.names[name]
        if word == b"DEF":
            name = self.take(inside="DEF")
            self.names[name] = node = self.node(self.take(inside="DEF"), depth)
            return node
        return self.body(word, depth)

    def body(self, kind: bytes, depth: int) -> Node:
        name = _show(kind)
        if depth > _DEEPEST:
            raise ValueError(f"its nodes are nested more than {_DEEPEST} deep: export it as OBJ or PLY")
        opening = self.take(inside=f"{name} {{ }}")
        if opening != b"{":
            raise ValueError(
                f"{_show(opening)!r} follows {name!r} where '{{' should (damaged file?): {AGAIN}"
            )
        node = Node(name)
        while (word := self.take(inside=f"{name} {{ }}")) != b"}":
            if word == b"ROUTE":
                for _ in range(3):
                    self.take(inside="a ROUTE")
                continue
            if word[:1] in b'[]{"':
                raise ValueError(
                    f"{_show(word)!r} stands in {name} where a field should begin (damaged file?): " + AGAIN
                )
            node.fields[word.decode("latin-1")] = self.value(f"{name}.{_show(word)}", depth + 1)
        return node

    def value(self, what: str, depth: int) -> Any:
        if _NUMERIC.match(self.text, self.at):
            start = self.at
            while _NUMERIC.match(self.text, self.at):
                self.take(inside=what)
            return self.text[start : self.at]
        word = self.take(inside=what)
        if word == b"[":
            return self.array(what, depth)
        if word[:1] == b'"':
            return [_unquoted(word)]
        if word[:1] in b"]{}":
            raise ValueError(f"{what} has no value (damaged file?): {AGAIN}")
        following = self.peek()
        if word in (b"DEF", b"USE", b"NULL") or (following is not None and following.group(1) == b"{"):
            return self.node(word, depth)
        return word

    def array(self, what: str, depth: int) -> Any:
        if _NUMERIC.match(self.text, self.at):
            start, end = self.at, self.text.find(b"]", self.at)
            if end < 0:
                raise ValueError(_TRUNCATED.format(f"{what} [ ]"))
            self.at = end + 1
            return self.text[start:end]
        following = self.peek()
        if following is None or following.group(2) is None:
            return self.nodes(closing=b"]", depth=depth)
        strings = []
        while (word := self.take(inside=f"{what} [ ]")) != b"]":
            strings.append(_unquoted(word))
        return strings


def _show(word: bytes) -> str:
    """A word for a message: short, and without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in word[:40].decode("latin-1"))


def _unquoted(word: bytes) -> str:
    return re.sub(rb"\\(.)", rb"\1", word[1:-1], flags=re.DOTALL).decode("utf-8", "replace")
