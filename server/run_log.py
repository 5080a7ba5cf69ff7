"""One JSON line per round: what the coordinator watches and the report draws."""

import json
import os
from pathlib import Path
from typing import Any


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line and hand it to the disk before going on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All rounds so far; a half-written last line, after a crash, is left out."""
    rounds = []
    for line in path.read_text().splitlines():
        try:
            rounds.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rounds


def forget_after(path: Path, number: int) -> None:
    """Take back what was written of rounds above `number`, whose checkpoint is missing: they are done again."""
    if not path.exists():
        return
    kept = [json.dumps(record) for record in read(path) if record["round"] <= number]
    draft = path.with_name(path.name + ".part")
    with draft.open("w") as file:
        file.write("".join(line + "\n" for line in kept))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
