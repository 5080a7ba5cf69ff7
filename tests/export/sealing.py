"""A bundle with another manifest, whole again."""

import hashlib
import json
from pathlib import Path


def seal(bundle: Path, **changes: object) -> None:
    """Change the manifest of a bundle, and make its checksums true again."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    built = bundle / "engines"  # by a device, and not summed
    files = sorted(
        p for p in bundle.rglob("*") if p.is_file() and p.name != "SHA256SUMS" and p.parent != built
    )
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(bundle).as_posix()}\n" for p in files
    ]
    (bundle / "SHA256SUMS").write_text("".join(sums))
