"""What the tests of updates share: to make one, to apply it, to look into it and to forge it."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

from export.__main__ import main
from export.runtime.smile_edge import main as run
from export.runtime.smile_edge.update import ABOUT


def make(bundle: Path, checkpoint: Path, update: Path, *more: object) -> Path:
    assert main(["update", *map(str, (bundle, checkpoint, update, *more))]) == 0
    return update


def other_words(bundle: Path, checkpoint: Path, folder: Path) -> Path:
    """Other classes for the same weights."""
    (folder / "words.json").write_text(json.dumps({"smile": ["a smiling face"], "rest": ["a face at rest"]}))
    return make(bundle, checkpoint, folder / "w.update", "--prompts", folder / "words.json")


def use(update: Path, bundle: Path, *more: str) -> int:
    return run(["--bundle", str(bundle), "--update", str(update), *more])


def about(update: Path) -> dict:
    with zipfile.ZipFile(update) as archive:
        return json.loads(archive.read(ABOUT))


def files(bundle: Path) -> dict[str, str]:
    """File name -> SHA-256."""
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in bundle.rglob("*")
        if path.is_file()
    }


def forged(update: Path, target: Path, change) -> Path:
    """A copy whose parts, name -> bytes, `change` has changed in place: a zip file without damage."""
    with zipfile.ZipFile(update) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    return target


def with_file(parts: dict[str, bytes], name: str, data: bytes) -> None:
    """Parts of an update that also brings this file, whole, and says so."""
    said = json.loads(parts[ABOUT])
    parts[f"files/{name}"] = data
    said["files"][name] = {"how": "whole", "sha256": hashlib.sha256(data).hexdigest()}
    parts[ABOUT] = json.dumps(said).encode()


def with_sums(parts: dict[str, bytes], bundle: Path) -> None:
    """The same with a SHA256SUMS that is true of the files that it brings whole, as somebody who forges an update makes it."""
    sums = dict(reversed(line.split("  ", 1)) for line in parts["files/SHA256SUMS"].decode().splitlines())
    said = json.loads(parts[ABOUT])["files"]
    sums |= {name: change["sha256"] for name, change in said.items() if name != "SHA256SUMS"}
    with_file(parts, "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())


def own(update: Path, folder: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copy(update, folder / "w.update"))
