"""An update that is damaged, forged or interrupted leaves the bundle as it was, with one sentence."""

import errno
import fcntl
import json
import os
import random
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import update as edge
from export.runtime.smile_edge.update import ABOUT
from tests.export.updates import about, files, forged, other_words, own, use, with_file, with_sums

TEXT = "text_embeddings.npy"


@pytest.fixture(scope="module")
def words(bundle, checkpoint, tmp_path_factory) -> Path:
    return other_words(bundle, checkpoint, tmp_path_factory.mktemp("words"))


@pytest.fixture
def refused(copied, tmp_path, capsys):
    """refused(update): the sentence; the bundle is as it was, and nothing lies about."""

    def refuse(update: Path) -> str:
        before, there = files(copied), {path.name for path in tmp_path.iterdir()}
        assert use(update, copied) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1, said
        assert files(copied) == before and {path.name for path in tmp_path.iterdir()} == there
        return said

    return refuse


def _overwrite(update: Path, at: int, data: bytes) -> None:
    with update.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _stream(update: Path, name: str) -> tuple[int, int]:
    """Where the deflated bytes of a part begin, and how many there are."""
    with zipfile.ZipFile(update) as archive:
        info = archive.getinfo(name)
    head = update.read_bytes()[info.header_offset : info.header_offset + 30]
    return info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30])), info.compress_size


def _flip(update: Path) -> None:
    """The type of the first deflated block becomes one that does not exist."""
    _overwrite(update, _stream(update, f"files/{TEXT}")[0], b"\x07")


def _zero(update: Path) -> None:
    start, length = _stream(update, f"files/{TEXT}")
    _overwrite(update, start + length // 2, bytes(length - length // 2))


def _directory(field: int, data: bytes, name: str = f"files/{TEXT}"):
    """Write into the entry of a part in the list at the end of a zip file, and into its local copy of this field."""

    def damage(update: Path) -> None:
        whole = update.read_bytes()
        entry = whole.index(name.encode(), whole.index(b"PK\x01\x02")) - 46
        local = struct.unpack_from("<I", whole, entry + 42)[0]
        _overwrite(update, entry + field, data)
        _overwrite(update, local + field - 2, data)

    return damage


def _rewritten(change):
    def damage(update: Path) -> None:
        forged(update, update, change)

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "copy it again"),
        (lambda path: path.write_bytes(b"no zip"), "copy it again"),
        (lambda path: path.unlink(), "No such file or directory"),
        (_flip, f"{TEXT}: Error -3 while decompressing"),
        (_zero, f"is damaged (files/{TEXT}: "),
        (_directory(8, b"\x01\x00"), "is encrypted or packed"),
        (_directory(10, b"\x63\x00"), "is encrypted or packed"),
        (_directory(24, b"\xff\xff\xff\xfe"), "4278190079 bytes and 2147483648 are the most"),
        (_directory(24, b"\x00\x00\x20\x00", ABOUT), "2097152 bytes and 1048576 are the most"),
        (_rewritten(lambda parts: parts.pop(f"files/{TEXT}")), f"files/{TEXT} is missing"),
        (
            _rewritten(lambda parts: parts.update({f"files/{TEXT}": parts[f"files/{TEXT}"][:-1] + b"x"})),
            f"the SHA-256 of {TEXT} is another one",
        ),
        (_rewritten(lambda parts: parts.update({ABOUT: b'{"format": '})), "update.json is no JSON"),
        (_rewritten(lambda parts: parts.update({ABOUT: b"\xff"})), "update.json is no JSON"),
        (_rewritten(lambda parts: parts.update({ABOUT: b"[" * 100_000})), "update.json is no JSON"),
        (_rewritten(lambda parts: parts.update({ABOUT: b"[]"})), "is no update"),
        (_rewritten(lambda parts: parts.pop(ABOUT)), "update.json is missing"),
    ],
    ids=[
        "cut short",
        "no zip",
        "no file",
        "deflate",
        "zeros",
        "encrypted",
        "method",
        "bomb",
        "bomb in json",
        "no part",
        "a byte",
        "half a json",
        "no text",
        "deep json",
        "no object",
        "no json",
    ],
)
def test_a_damaged_update_changes_nothing(words, tmp_path, refused, damage, reason):
    mine = own(words, tmp_path)
    damage(mine)
    assert reason in refused(mine)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "another format"}, "is no update"),
        ({"files": []}, "does not say what it changes"),
        ({"files": {TEXT: {"how": "whole", "sha256": "aa"}}}, "does not say what it changes"),
        ({"gone": None}, "does not say what it changes"),
        ({"files": {"SHA256SUMS": {"how": "otherwise"}}}, "does not say how SHA256SUMS changes"),
        ({"files": {"SHA256SUMS": {"how": "stretches", "sha256": "aa"}}}, "a stretch lies outside the file"),
        ({"files": {"SHA256SUMS": {"how": "whole"}}}, "the SHA-256 of SHA256SUMS is another one"),
        ({"from": None}, "of another bundle"),
        ({"gone": ["golden.npz"]}, "golden.npz is missing or too much"),
    ],
    ids=["format", "files", "no sums", "gone", "how", "stretches", "no hash", "from", "a file less"],
)
def test_an_update_json_that_makes_no_sense(words, tmp_path, refused, change, reason):
    def damage(parts: dict[str, bytes]) -> None:
        parts[ABOUT] = json.dumps({**json.loads(parts[ABOUT]), **change}).encode()

    assert reason in refused(forged(words, tmp_path / "w.update", damage))


@pytest.mark.parametrize("seed", range(10))
def test_whatever_byte_is_damaged_there_is_a_sentence(words, tmp_path, seed):
    """Of zipfile and zlib, which raise a dozen kinds of errors: no other than ours comes out, or the parts are what they were."""
    chance, whole, mine, said = random.Random(seed), words.read_bytes(), tmp_path / "w.update", about(words)
    ours = re.compile(f"{mine} (is (damaged|no update|signed)|names ).+")
    for attempt in range(30):
        data = bytearray(whole)
        region = range(len(data)) if attempt % 2 else range(data.index(b"PK\x01\x02"), len(data))
        for at in chance.choices(region, k=1 + attempt % 3):
            data[at] = chance.randrange(256)
        mine.write_bytes(data[: chance.choice(region)] if attempt % 5 == 0 else data)
        try:
            with edge._opened(mine) as archive:
                found = edge._read_about(mine, archive, None)
                parts = {name: edge._read(mine, archive, f"files/{name}") for name in found["files"]}
        except ValueError as error:
            sentence = str(error)
            assert ours.fullmatch(sentence), sentence
        else:
            digests = {name: edge._sha256(data) for name, data in parts.items()}
            assert found == said
            assert digests == {name: change["sha256"] for name, change in said["files"].items()}


@pytest.mark.parametrize("name", ["../stolen", "/tmp/stolen", "a/../../stolen", "a//b", "a\0b", "\ud800"])
def test_a_file_outside_the_bundle_is_refused(words, tmp_path, refused, name):
    def forge(parts: dict[str, bytes]) -> None:
        with_file(parts, name, b"x")
        parts["files/x"] = parts.pop(f"files/{name}")

    mine = forged(words, tmp_path / "w.update", forge)
    assert "outside the bundle" in refused(mine)
    assert not list(tmp_path.parent.rglob("stolen"))


def test_a_file_that_no_sum_stands_for_is_refused(words, tmp_path, refused):
    mine = forged(words, tmp_path / "w.update", lambda parts: with_file(parts, "numpy.py", b"x"))
    assert "numpy.py is missing or too much" in refused(mine)


def test_a_manifest_that_is_none_is_refused(words, copied, tmp_path, refused):
    def forge(parts: dict[str, bytes]) -> None:
        with_file(parts, "manifest.json", b"{")
        with_sums(parts, copied)

    assert "makes no whole bundle" in refused(forged(words, tmp_path / "w.update", forge))


def test_a_bundle_that_fails_its_self_test_is_rolled_back(words, copied, tmp_path, refused):
    """Made by somebody whose golden captures are not of this model."""
    with np.load(copied / "golden.npz") as golden:
        wrong = {name: array[::-1] for name, array in golden.items()} | {"views": golden["views"]}
    np.savez(tmp_path / "golden.npz", **wrong)

    def forge(parts: dict[str, bytes]) -> None:
        with_file(parts, "golden.npz", (tmp_path / "golden.npz").read_bytes())
        with_sums(parts, copied)

    said = refused(forged(words, tmp_path / "w.update", forge))
    assert "fails its self-test and the old one stays" in said and "self-test FAILED" in said


def test_a_full_disk_is_called_a_full_disk(words, copied, monkeypatch, refused):
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    said = refused(words)
    assert "(No space left on device): make room" in said and "copy it again" not in said


def test_too_little_memory_is_called_so(words, monkeypatch, refused):
    def none_left(self, name):
        raise MemoryError

    about(words)
    read = zipfile.ZipFile.read
    monkeypatch.setattr(
        zipfile.ZipFile,
        "read",
        lambda self, info: read(self, info) if info.filename == ABOUT else none_left(self, info),
    )
    assert "does not fit into the memory" in refused(words)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_ours_keeps_the_name_previous(words, copied, refused, kind):
    previous = copied.with_name("copy.previous")
    if kind == "folder":
        previous.mkdir()
        (previous / "diary").write_text("mine")
    else:
        previous.write_text("mine")
    assert "is not a bundle: move it away" in refused(words)
    assert (previous / "diary" if kind == "folder" else previous).read_text() == "mine"


def test_what_a_power_cut_left_is_cleared(words, copied, tmp_path):
    """A draft of an earlier update, and the previous bundle of one before."""
    before, stale = files(copied), copied.with_name(".copy.update")
    for name in ("bundle", "older"):
        shutil.copytree(copied, stale / name)
        (stale / name / "of_yore").touch()
    shutil.copytree(copied, copied.with_name("copy.previous"))
    (copied.with_name("copy.previous") / "old").touch()
    assert use(words, copied) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "copy.previous"]
    assert files(copied.with_name("copy.previous")) == before


def test_two_updates_at_once(words, copied, capsys):
    scratch = copied.with_name(".copy.update")
    scratch.mkdir()
    handle, before = os.open(scratch, os.O_RDONLY), files(copied)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert use(words, copied) == 2
    finally:
        os.close(handle)
    assert "another update" in capsys.readouterr().err and files(copied) == before


def test_all_is_on_the_disk_before_the_names_change(words, copied, monkeypatch):
    synced, swap, sync = set(), edge._swap, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), sync(handle)))

    def check(draft: Path, *places: Path, **more: Path) -> None:
        wanted = {path.stat().st_ino for path in (*draft.rglob("*"), draft)}
        assert len(wanted) > 20 and wanted <= synced
        swap(draft, *places, **more)

    monkeypatch.setattr(edge, "_swap", check)
    assert use(words, copied) == 0


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    """A draft, a bundle and a previous one, each with a file that says which it is."""
    places = {"new": tmp_path / "s/bundle", "old": tmp_path / "b", "before": tmp_path / "b.previous"}
    for name, place in places.items():
        place.mkdir(parents=True)
        (place / "name").write_text(name)
    return places


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("exchange", [True, False])
def test_an_interrupted_swap_is_none(folders, tmp_path, monkeypatch, exchange, step, late, error):
    """Stopped before or after each change of a name, with and without the exchange in one step."""
    bundle, steps = folders["old"], iter(range(10))
    rename, exchanged = Path.rename, edge.exchanged

    def interrupted(change):
        def run(*places: Path) -> object:
            last = next(steps) == step
            if last and not late:
                raise error
            done = change(*places)
            if last:
                raise error
            return done

        return run

    monkeypatch.setattr(Path, "rename", interrupted(rename))
    if exchange and not exchanged(folders["new"], bundle):
        pytest.skip("this file system exchanges no names")
    elif exchange:
        exchanged(folders["new"], bundle)
        monkeypatch.setattr(edge, "exchanged", interrupted(exchanged))
    else:
        monkeypatch.setattr(edge, "exchanged", lambda *_: False)
    with pytest.raises(error):
        edge._swap(folders["new"], bundle, older=tmp_path / "s" / "older")
    found = [(place / "name").read_text() for place in (bundle, folders["before"])]
    assert found == (["new", "old"] if step == 2 and late else ["old", "before"])


@pytest.mark.parametrize("exchange", [True, False])
def test_a_swap_that_is_not_interrupted(folders, tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(edge, "exchanged", lambda *_: False)
    edge._swap(folders["new"], folders["old"], older=tmp_path / "s" / "older")
    found = [(folders[name] / "name").read_text() for name in ("old", "before")]
    assert found == ["new", "old"] and (tmp_path / "s" / "older" / "name").read_text() == "before"
