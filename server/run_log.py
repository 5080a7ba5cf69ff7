"""One JSON line per round: what the coordinator watches and the report draws."""

import json
import os
from pathlib import Path
from typing import Any

from smile.protocol import METRICS


def of_sites(figures: dict[str, dict[str, Any]], shares: dict[str, float]) -> dict[str, Any]:
    """The part of a round's line about the sites of its average: theirs, by name, and the means of the losses by `shares`."""
    losses = [name for name in METRICS if name not in ("num-examples", "seconds")] if figures else []
    sites = sorted(figures)
    return {
        "losses": {name: sum(shares[site] * figures[site][name] for site in sites) for name in losses},
        "sites": [{"site": site, **figures[site], "weight": shares[site]} for site in sites],
        "bytes_received": sum(figures[site]["bytes_received"] for site in sites),
    }


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
