"""The smallest file that makes the bundle of the next round out of one that is on a device already."""

import argparse
import hashlib
import json
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .runtime.smile_edge.files import SUMS, read_checked, read_manifest, read_sums
from .runtime.smile_edge.model import read_sentences
from .runtime.smile_edge.update import ABOUT, FORMAT, SIGNATURE, STRETCH, read_key, signature

if TYPE_CHECKING:
    from .bundle import Models

BLOCK = 64  # bytes: stretches begin and end at multiples of it
SPARING = 0.9  # of a file: stretches that are longer save nothing worth naming, and it is sent whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `command` reads."""
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="as it is on the devices")
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of the new round")
    add("update", type=Path, metavar="UPDATE", help="file to write, for `run.py --update`")
    add("--prompts", type=Path, metavar="FILE", help="other classes than BUNDLE has, as of `bundle`")
    add(
        "--sample",
        type=Path,
        metavar="SITE",
        help="prepared site of the golden captures, where the bundle shows one; they then travel with the update",
    )
    add(
        "--calibrate",
        type=Path,
        nargs="+",
        default=[],
        metavar="SITE",
        help="prepared sites for int8, where the bundle has it",
    )
    add(
        "--key",
        type=Path,
        metavar="FILE",
        help="a secret that the devices hold too: the update is signed with it",
    )
    add("--json", action="store_true", help="print update.json")


def command(options: argparse.Namespace) -> int:
    """Write the update and say what it changes. Exit code 0."""
    if options.sample:
        print(
            f"{options.update} will hold views of people from {options.sample}: where the site is real, the update must not "
            "leave it",
            file=sys.stderr,
        )
    about = make_update(
        options.bundle,
        options.checkpoint,
        options.update,
        prompts=options.prompts,
        sample=options.sample,
        calibrate=options.calibrate,
        key=read_key(options.key) if options.key else None,
    )
    size = options.update.stat().st_size
    if options.json:
        print(json.dumps({**about, "bytes": size}))
    else:
        print(
            f"{options.update}: {about['kind']}, {size / 1e6:.2f} MB of {about['whole'] / 1e6:.2f} MB, round {about['from_round']} to "
            f"{about['to_round']}"
        )
        print(
            f"on the device: python3 {options.bundle.name}/run.py --update {options.update.name}"
            + " --key FILE" * bool(options.key)
        )
    return 0


def make_update(
    bundle: Path,
    checkpoint: Path,
    update: Path,
    *,
    prompts: Path | None = None,
    sample: Path | None = None,
    calibrate: Sequence[Path] = (),
    key: bytes | None = None,
) -> dict[str, Any]:
    """Make the new bundle, and write what differs from the old one. Returns update.json.

    The classes, precisions and batch sizes are those of the old bundle; prompts: other classes.
    Raises ValueError as `write_bundle` does, and where the old bundle does not say what the new one shall hold.
    """
    from .bundle import write_bundle  # torch: not to be waited for by --help, nor there on a device

    sums = read_sums(bundle)
    manifest = read_manifest(bundle, sums)
    if manifest["golden"].startswith("views of") and sample is None:
        raise ValueError(
            f"the golden captures of {bundle} are {manifest['golden']}: give this site, or another one, with --sample SITE"
        )
    same = _is_of(manifest, checkpoint)
    if same and calibrate:
        raise ValueError(
            f"{bundle} is of {checkpoint} already, and int8 stays as it is: leave out --calibrate, or make a new bundle"
        )
    words = read_sentences(prompts) if prompts else manifest["text"]["prompts"]
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch) / "bundle"
        write_bundle(
            checkpoint,
            new,
            models=_models(bundle, manifest, sums) if same else None,
            precisions=tuple(manifest["models"]),
            calibrate=calibrate,
            sample=sample,
            prompts={name: tuple(group) for name, group in words.items()},
            batch=tuple(manifest["profile"]["batch"]),
        )
        after = read_sums(new)
        about, contents = _differences(bundle, manifest, sums, new, read_manifest(new, after), after)
    if prompts is None:
        _refuse_other_bank(bundle, manifest, checkpoint)
    _write(update, about, contents, key)
    return about


def _refuse_other_bank(bundle: Path, manifest: dict[str, Any], checkpoint: Path) -> None:
    """Raises ValueError where the new weights learned other sentences than the old ones, which the bundle's may have come from."""
    before = manifest["checkpoint"]["meta"].get("prompts")
    now = json.loads((checkpoint / "meta.json").read_text(encoding="utf-8")).get("prompts")
    if before and now and before != now:
        raise ValueError(
            f"{checkpoint} was trained with another prompt bank than the round of {bundle}: give the sentences of its classes "
            "with --prompts FILE, or make a new bundle"
        )


def _differences(
    bundle: Path,
    old: dict[str, Any],
    sums: dict[str, str],
    new: Path,
    manifest: dict[str, Any],
    after: dict[str, str],
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """update.json, and what is sent of each file that it names. old, sums: of the bundle; manifest, after: of the new one."""
    contents, files = dict[str, bytes](), dict[str, dict[str, str]]()
    for name in [*(name for name in after if after[name] != sums.get(name)), SUMS]:
        data = (new / name).read_bytes()
        stretches = _stretches(read_checked(bundle, name, sums), data) if name in sums else None
        whole = stretches is None or len(stretches) > SPARING * len(data)
        contents[name] = data if whole else stretches or b""
        files[name] = {
            "how": "whole" if whole else "stretches",
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    models = [model["file"] for model in manifest["models"].values()]
    about = {
        "format": FORMAT,
        "kind": _kind([files[name]["how"] for name in models if name in files]),
        "from": hashlib.sha256((bundle / SUMS).read_bytes()).hexdigest(),
        "from_round": old["checkpoint"]["round"],
        "to_round": manifest["checkpoint"]["round"],
        "files": files,
        "gone": sorted(set(sums) - set(after)),
        "whole": sum(path.stat().st_size for path in new.rglob("*") if path.is_file()),
    }
    return about, contents


def _is_of(manifest: dict[str, Any], checkpoint: Path) -> bool:
    """Whether the bundle was made of these weights; new words then need no new ONNX file."""
    weights = checkpoint / "model.safetensors"
    return (
        weights.is_file()
        and hashlib.sha256(weights.read_bytes()).hexdigest() == manifest["checkpoint"]["sha256"]
    )


def _models(bundle: Path, manifest: dict[str, Any], sums: dict[str, str]) -> "Models":
    from .bundle import Models

    files = {name: read_checked(bundle, model["file"], sums) for name, model in manifest["models"].items()}
    return Models(files, json.loads(read_checked(bundle, "parity.json", sums)), manifest["calibration"])


def _kind(models: list[str]) -> str:
    """In words: what becomes of the encoder."""
    if not models:
        return "text only, engines stay"
    return "whole encoder" if "whole" in models else "some layers of the encoder"


def _stretches(old: bytes, new: bytes) -> bytes | None:
    """What differs in files of one length, as `patched` takes it; None for files of other lengths.

    Weights of equal shapes lie at equal places of an ONNX file, so those of layers that stayed are found where they were.
    """
    if len(old) != len(new):
        return None
    differs = np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)
    blocks = np.pad(differs, (0, -len(new) % BLOCK)).reshape(-1, BLOCK).any(axis=1)
    edges = BLOCK * np.flatnonzero(np.diff(blocks, prepend=False, append=False))
    bounds = zip(edges[::2].tolist(), edges[1::2].clip(max=len(new)).tolist(), strict=True)
    return b"".join(STRETCH.pack(start, end - start) + new[start:end] for start, end in bounds)


def _write(update: Path, about: dict[str, Any], contents: dict[str, bytes], key: bytes | None) -> None:
    """The zip file, whole or absent."""
    data = json.dumps(about, indent=2).encode()
    draft = update.with_name(f".{update.name}.part")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(ABOUT, data)
            if key is not None:
                archive.writestr(SIGNATURE, signature(data, key))
            for name, content in contents.items():
                archive.writestr(f"files/{name}", content)
        draft.replace(update)
    finally:
        draft.unlink(missing_ok=True)
