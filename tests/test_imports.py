"""The import table of CONTRIBUTING.md, read from every file's syntax tree."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"smile", "client", "server", "export", "simulations", "tests"}
FORBIDDEN = {
    "smile": {"flwr", "ray"} | ROOMS - {"smile"},
    "client": ROOMS - {"smile", "client"},
    "server": ROOMS - {"smile", "server"},
    "export": {"flwr", "ray"} | ROOMS - {"smile", "export"},
    "export/runtime": {"flwr", "ray", "torch", "open_clip", "onnx", "trimesh"} | ROOMS,
    "simulations": {"tests"},
}
FILES = [
    (room, path)
    for room in FORBIDDEN
    for path in sorted((ROOT / room).rglob("*.py"))
    if room != "export" or "runtime" not in path.parts
]


def imported_packages(source: str) -> set[str]:
    """First name of every absolute import, wherever in the file it stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(("room", "path"), FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_rooms_import_only_what_they_may(room: str, path: Path) -> None:
    assert not imported_packages(path.read_text()) & FORBIDDEN[room]


def test_every_room_has_files() -> None:
    assert {room for room, _ in FILES} == set(FORBIDDEN)


@pytest.mark.parametrize(
    "line", ["import flwr.app", "from server.app import app", "def f():\n    from flwr import app"]
)
def test_a_forbidden_import_is_seen(line: str) -> None:
    assert imported_packages(line) & FORBIDDEN["smile"]


def test_importing_smile_is_instant() -> None:
    source = (ROOT / "smile" / "__init__.py").read_text()
    assert imported_packages(source) == set()
