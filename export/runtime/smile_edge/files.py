"""The files of a bundle, each compared with SHA256SUMS before it is used. Standard library only."""

import hashlib
import json
from pathlib import Path
from typing import Any

SUMS, MANIFEST, TEXT, GOLDEN = (
    "SHA256SUMS",
    "manifest.json",
    "text_embeddings.npy",
    "golden.npz",
)
FORMAT, SCHEMA = "smile edge bundle", 2


def read_sums(bundle: Path) -> dict[str, str]:
    """File name in the bundle -> SHA-256, from the lines that `sha256sum` writes and checks."""
    path = bundle / SUMS
    if not path.is_file():
        raise ValueError(
            f"{bundle} is not a bundle: {SUMS} is missing; make one with `python -m export bundle CHECKPOINT BUNDLE`"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): copy the bundle again") from None
    except ValueError:
        raise ValueError(f"{path} is damaged: copy the bundle again") from None


def read_checked(bundle: Path, name: str, sums: dict[str, str]) -> bytes:
    """The bytes of one file. Raises ValueError when it is missing or is not the file that was published."""
    path = bundle / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): copy the bundle again") from None
    if hashlib.sha256(data).hexdigest() != sums.get(name):
        raise ValueError(f"{path} is damaged (its SHA-256 is not the one in {SUMS}): copy the bundle again")
    return data


def read_manifest(bundle: Path, sums: dict[str, str]) -> dict[str, Any]:
    """`manifest.json` of a bundle of this format."""
    manifest = json.loads(read_checked(bundle, MANIFEST, sums))
    if manifest.get("format") != FORMAT or manifest.get("schema") != SCHEMA:
        raise ValueError(
            f"{bundle / MANIFEST} has schema {manifest.get('schema')!r} and this program reads {SCHEMA}: "
            "use the run.py of the same bundle, or make the bundle anew"
        )
    return manifest


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a sentence."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
