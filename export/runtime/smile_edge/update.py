"""Turn a bundle into that of the next round, or leave it as it was.

An update is one zip file. update.json says which bundle it is for (SHA-256 of its SHA256SUMS), which files change and how, and their
SHA-256 afterwards; files/ holds them, whole or as the stretches that change; update.json.hmac is the HMAC-SHA256 of update.json with a key
that both machines hold. Standard library only.
"""

import contextlib
import hashlib
import hmac
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .files import FORMAT as BUNDLE_FORMAT
from .files import MANIFEST, SUMS, read_checked, read_manifest, read_sums
from .publish import exchanged, sync

try:
    import fcntl
except ImportError:  # Windows has no flock: two updates at once of one bundle are then not noticed
    fcntl = None  # type: ignore[assignment]

FORMAT = "smile edge update"
ABOUT, SIGNATURE = "update.json", "update.json.hmac"
STRETCH = struct.Struct("<QQ")  # start and length of bytes that change
MOST = 2 << 30  # bytes of one file, as ONNX has it: a damaged length must not fill the memory
MOST_ABOUT = 1 << 20
_ENGINES = "engines"  # in the bundle; made by the device and therefore in no update
# What zipfile and zlib raise for bytes that are not what they were.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError, struct.error)


def patched(old: bytes, stretches: bytes) -> bytes:
    """Bytes of the same length with some stretches exchanged. Raises ValueError for stretches that do not fit."""
    new, at = bytearray(old), 0
    while at < len(stretches):
        if at + STRETCH.size > len(stretches):
            raise ValueError("the stretches are cut short")
        start, length = STRETCH.unpack_from(stretches, at)
        at += STRETCH.size
        if start + length > len(new) or at + length > len(stretches):
            raise ValueError("a stretch lies outside the file")
        new[start : start + length] = stretches[at : at + length]
        at += length
    return bytes(new)


def signature(about: bytes, key: bytes) -> str:
    """HMAC-SHA256 in hexadecimal digits."""
    return hmac.new(key, about, hashlib.sha256).hexdigest()


def read_key(path: Path) -> bytes:
    """A secret of 16 bytes or more. Raises ValueError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give the file of the key") from None
    if len(key) < 16:
        raise ValueError(
            f"{path} holds {len(key)} bytes: a key has 16 or more, as `openssl rand -hex 32` makes them"
        )
    return key


def apply(update: Path, bundle: Path, *, key: bytes | None = None) -> dict[str, Any]:
    """Verify an update, make the new bundle beside the old one, let it test itself, and only then give it the name.

    The old bundle stays as BUNDLE.previous. Engines whose ONNX file did not change go along, and so do the timings that make the
    next build short. Returns what update.json says.
    Raises ValueError, one sentence, and the bundle is as it was: an update that is damaged, not signed with this key or for another bundle,
    or a new bundle that fails its own test, or that nothing here could test.
    """
    bundle = bundle.resolve()
    with _opened(update) as archive:
        about = _read_about(update, archive, key)
        _sums_of(about, update, bundle)
        provider = _provider(update)
        try:
            with _scratch(bundle) as scratch:
                sums = _sums_of(about, update, bundle)  # again: another update may have been waited for
                _check_previous(_previous(bundle))
                draft = scratch / "bundle"
                _draft(update, archive, about, bundle, sums, draft)
                _keep_engines(bundle, sums, draft)
                _self_test(update, bundle, draft, provider)
                sync(draft)
                _swap(draft, bundle, older=scratch / "older")
        except OSError as error:
            place = error.filename or bundle.parent
            raise ValueError(
                f"{place} cannot be read or written ({error.strerror or error}): make room there, or permit it; {bundle.name} is as it was"
            ) from None
        except MemoryError:
            raise ValueError(
                f"{update} does not fit into the memory: stop other programs; {bundle.name} is as it was"
            ) from None
    return about


def _sums_of(about: dict[str, Any], update: Path, bundle: Path) -> dict[str, str]:
    """SHA256SUMS. Raises ValueError where the bundle is damaged, or another than the update was made for."""
    sums = read_sums(bundle)
    if about["from"] != _sha256((bundle / SUMS).read_bytes()):
        raise ValueError(
            f"{update} is for round {about['from_round']} of another bundle than {bundle.name}: make it with this one"
        )
    return sums


@contextlib.contextmanager
def _opened(update: Path) -> Iterator[zipfile.ZipFile]:
    """The zip file. Raises ValueError."""
    try:
        archive = zipfile.ZipFile(update)
    except OSError as error:
        raise ValueError(
            f"{update} cannot be read ({error.strerror or error}): give the file of an update"
        ) from None
    except _DAMAGE as error:
        raise _damaged(update, error) from None
    with archive:
        yield archive


def _damaged(update: Path, reason: object) -> ValueError:
    return ValueError(f"{update} is damaged ({reason}): copy it again; the bundle is as it was")


def _read(update: Path, archive: zipfile.ZipFile, name: str, *, most: int = MOST) -> bytes:
    """One part of an update, of at most so many bytes. Raises ValueError."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise _damaged(update, f"{name} is missing") from None
    if info.file_size > most:
        raise _damaged(update, f"{name} has {info.file_size} bytes and {most} are the most")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _damaged(update, f"{name} is encrypted or packed in a way that updates are not")
    try:
        return archive.read(info)
    except (*_DAMAGE, OSError) as error:
        raise _damaged(update, f"{name}: {error or type(error).__name__}") from None


def _read_about(update: Path, archive: zipfile.ZipFile, key: bytes | None) -> dict[str, Any]:
    """update.json, signed as it must be and of the right shape."""
    data = _read(update, archive, ABOUT, most=MOST_ABOUT)
    signed = SIGNATURE in archive.namelist()
    if signed != (key is not None):
        remedy = "give its key with --key" if signed else "have it made with --key"
        raise ValueError(f"{update} is {'signed' if signed else 'not signed'}: {remedy}")
    if key is not None and not hmac.compare_digest(
        _read(update, archive, SIGNATURE, most=MOST_ABOUT), signature(data, key).encode()
    ):
        raise ValueError(f"{update} was not signed with this key, or was changed since: do not use it")
    try:
        about = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(update, f"{ABOUT} is no JSON: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(
            f"{update} is no update: make one with `python -m export update BUNDLE CHECKPOINT UPDATE`"
        )
    whole = {"from", "from_round", "to_round"} <= about.keys()
    files, gone = about.get("files"), about.get("gone")
    if not whole or not isinstance(files, dict) or SUMS not in files or not isinstance(gone, list):
        raise _damaged(update, f"{ABOUT} does not say what it changes")
    for name, change in files.items():
        if not name.isprintable() or any(part in ("", ".", "..") for part in name.split("/")):
            raise ValueError(f"{update} names {name!r}, a file outside the bundle: do not use it")
        if not isinstance(change, dict) or change.get("how") not in ("whole", "stretches"):
            raise _damaged(update, f"{ABOUT} does not say how {name} changes")
    return about


def _provider(update: Path) -> str:
    """What can test a bundle on this device: onnxruntime, and without it TensorRT. Raises ValueError where there is neither."""
    for package, provider in (("onnxruntime", "cpu"), ("tensorrt", "tensorrt")):
        if importlib.util.find_spec(package):
            return provider
    raise ValueError(
        f"{update} is not used, neither onnxruntime nor TensorRT is there to test it: run `python3 -m pip install onnxruntime`, "
        "or on a Jetson take the system's python3, which has TensorRT"
    )


def _previous(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.previous")


def _check_previous(previous: Path) -> None:
    """Raises ValueError for a file or folder of somebody else's: the old bundle will take its name."""
    try:
        ours = json.loads((previous / MANIFEST).read_text(encoding="utf-8"))["format"] == BUNDLE_FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    # A link could not be cleared away by the update after this one.
    if previous.is_symlink() or (not ours and previous.exists()):
        raise ValueError(
            f"{previous} exists and is not a bundle: move it away, the old bundle takes this name"
        )


@contextlib.contextmanager
def _scratch(bundle: Path) -> Iterator[Path]:
    """A folder beside the bundle, held alone: a power cut leaves one, and the next update clears it. Raises ValueError."""
    scratch = bundle.with_name(f".{bundle.name}.update")
    scratch.mkdir(exist_ok=True)
    handle = os.open(scratch, os.O_RDONLY) if fcntl else None
    try:
        if handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another update of {bundle} is at work: wait for it or stop it") from None
            except OSError:
                pass  # a network file system without locks: better to go on than to be unusable there
        _clear(scratch)
        try:
            yield scratch
        finally:
            _clear(scratch)
            with contextlib.suppress(OSError):  # something of somebody else's is in it
                scratch.rmdir()
    finally:
        if handle is not None:
            os.close(handle)


def _clear(scratch: Path) -> None:
    for name in ("bundle", "older"):
        shutil.rmtree(scratch / name, ignore_errors=True)


def _draft(
    update: Path,
    archive: zipfile.ZipFile,
    about: dict[str, Any],
    bundle: Path,
    sums: dict[str, str],
    draft: Path,
) -> None:
    """The new bundle, every file of it compared with what update.json and the new SHA256SUMS say."""
    changed = about["files"]
    for name in sums:
        if name not in changed and name not in about["gone"]:
            _write(draft, name, read_checked(bundle, name, sums))
    for name, change in changed.items():
        data = _read(update, archive, f"files/{name}")
        if change["how"] == "stretches":
            old = read_checked(bundle, name, sums) if name in sums else b""
            try:
                data = patched(old, data)
            except ValueError as error:
                raise _damaged(update, f"{name}: {error}") from None
        if _sha256(data) != change.get("sha256"):
            raise _damaged(update, f"the SHA-256 of {name} is another one")
        _write(draft, name, data)
    _check(update, draft)


def _check(update: Path, draft: Path) -> None:
    """Raises ValueError where the draft is not what its own SHA256SUMS and manifest.json say."""
    try:
        new = read_sums(draft)
        found = {path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file()} - {SUMS}
        if found != new.keys():
            raise ValueError(f"{sorted(found ^ new.keys())[0]} is missing or too much")
        for name in new:
            read_checked(draft, name, new)
        for model in read_manifest(draft, new)["models"].values():
            if model["sha256"] != new.get(model["file"]):
                raise ValueError(f"{MANIFEST} is not that of {model['file']}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{update} makes no whole bundle ({error}): have it made again; the old one stays"
        ) from None


def _write(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _keep_engines(bundle: Path, sums: dict[str, str], draft: Path) -> None:
    """Copy the engines whose ONNX file stays, and the timings, which shorten the build of the others."""
    old, new = read_manifest(bundle, sums)["models"], read_manifest(draft, read_sums(draft))["models"]
    same = [name for name in new if old.get(name, {}).get("sha256") == new[name]["sha256"]]
    for pattern in [*(f"{precision}.engine*" for precision in same), "timing-*.cache"]:
        for path in (bundle / _ENGINES).glob(pattern):
            (draft / _ENGINES).mkdir(exist_ok=True)
            shutil.copy2(path, draft / _ENGINES)


def _self_test(update: Path, bundle: Path, draft: Path, provider: str) -> None:
    """The draft's own program on its golden captures. Raises ValueError, with what it says, where it fails.

    cpu: every precision. tensorrt: those that the device has an engine of, or else the default; one that does not fit the new
    bundle is built again, which takes minutes on a small board.
    """
    manifest = json.loads((draft / MANIFEST).read_text(encoding="utf-8"))
    chosen = list(manifest["models"])
    if provider == "tensorrt":
        built = [name for name in chosen if (bundle / _ENGINES / f"{name}.engine").is_file()]
        chosen = built or [manifest["default"]]
    for precision in chosen:
        if provider == "tensorrt":
            # It says itself what takes so long; an engine that fits is not built again.
            _program(update, draft, "--build-engine", "--precision", precision, *_settings(bundle, precision))
        _program(update, draft, "--self-test", "--precision", precision, "--provider", provider)


def _settings(bundle: Path, precision: str) -> list[str]:
    """How the old engine was asked for, as options of --build-engine."""
    try:
        made = json.loads((bundle / _ENGINES / f"{precision}.engine.json").read_text(encoding="utf-8"))
        asked = {"--workspace-mb": made["workspace_mb"], "--dla": made["dla"]}
    except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one: the defaults
        return []
    return [
        word for option, value in asked.items() if isinstance(value, int) for word in (option, str(value))
    ]


def _program(update: Path, draft: Path, *arguments: str) -> None:
    """run.py of the draft; a build prints on, all else is kept for the sentence. Raises ValueError where it fails."""
    done = subprocess.run(
        [sys.executable, str(draft / "run.py"), *arguments],
        stdout=None if "--build-engine" in arguments else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        failed = [line for line in (done.stdout or "").splitlines() if "FAILED" in line]
        reason = (failed or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(
            f"{update} is not used, the new bundle fails its self-test and the old one stays: {reason}"
        )


def _swap(draft: Path, bundle: Path, *, older: Path) -> None:
    """The draft becomes the bundle, the bundle BUNDLE.previous, and a previous one `older`; or all stay, Ctrl-C included."""
    previous, old = _previous(bundle), bundle.stat().st_ino
    try:
        if previous.exists():
            previous.rename(older)
        if exchanged(draft, bundle):
            draft.rename(previous)
        else:
            bundle.rename(previous)
            draft.rename(bundle)
    except BaseException:
        if not bundle.exists():
            previous.rename(bundle)
        elif draft.exists() and draft.stat().st_ino == old:
            exchanged(draft, bundle)
        if older.exists() and not previous.exists():
            older.rename(previous)
        raise


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
