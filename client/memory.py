"""What a site keeps between the rounds of a study, on its own disk: Flower's memory is lost with the SuperNode.

One file a round, whole or absent, and the two newest. A server that goes on after a crash asks for a round again: then what
was kept in that round, or later, belongs to a past that never was, and the file before it counts.
"""

import json
import os
import re
from pathlib import Path

import numpy as np

from smile.checkpoint import write_arrays
from smile.site.disk import TEMPORARY, sha256, sync_folder, write_json

KEEP = 2


class Memory:
    """The folder of one study: personal layers, moments of the optimiser, what compression lost, the model it was sent."""

    def __init__(self, folder: Path, study: str) -> None:
        """study: the server's name for the run and all its resumptions, hexadecimal. Raises ValueError for another word."""
        if not re.fullmatch(r"[0-9a-f]{8,64}", study):
            raise ValueError("the study's name is not hexadecimal: the server runs another release")
        self.folder = folder / f"study-{study}"

    def load(self, *, before: int) -> dict[str, np.ndarray]:
        """Arrays of the newest round below `before` that are what was written; empty where there is none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        for number in reversed([n for n in self._rounds() if n < before]):
            path = self._path(number)
            try:
                if sha256(path) == json.loads(path.with_suffix(".json").read_bytes())["sha256"]:
                    return load_file(path)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError):
                continue  # damaged, or half removed: the round before counts
        return {}

    def save(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep `arrays` as of round `number`; later rounds and all but the newest two go. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(number)
        path.with_suffix(".json").unlink(missing_ok=True)
        draft = path.with_name(path.name + TEMPORARY)
        write_arrays(draft, arrays)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        digest = sha256(draft)
        os.replace(draft, path)
        sync_folder(self.folder)
        write_json(path.with_suffix(".json"), {"round": number, "sha256": digest})
        rounds = self._rounds()
        for old in [n for n in rounds if n > number] + [n for n in rounds if n <= number][:-KEEP]:
            self._path(old).with_suffix(".json").unlink()
            self._path(old).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:06d}.safetensors"

    def _rounds(self) -> list[int]:
        found = [
            re.fullmatch(r"round-(\d{6,})\.json", path.name) for path in self.folder.glob("round-*.json")
        ]
        return sorted(int(match[1]) for match in found if match)
