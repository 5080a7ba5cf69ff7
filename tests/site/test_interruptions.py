"""What may happen in the middle: a full disk, Ctrl-C, kill -9, a crashing library, a second run at the same time."""

import csv
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smile.config import ViewConfig
from smile.site import disk, plan, pool
from smile.site.prepare import prepare
from smile.site.store import Site

ROOT = Path(__file__).parent.parent.parent
OPTIONS = ("--size", "16", "--yaws", "0", "--modalities", "depth")
VIEWS = ViewConfig(yaws=(0.0,), size=16, modalities=("depth",))

# Every Python process that starts with this on its path reads some files slowly, or dies of one, in its worker processes.
SABOTAGE = """
import multiprocessing, os, signal, time
from smile import scans
from smile.site import plan
plan.CHUNK = 1
def read(frame, real=scans.read, **options):
    if os.environ.get("DIES_OF", "-") in frame.path.name and multiprocessing.parent_process():
        os.kill(os.getpid(), signal.SIGSEGV)
    if os.environ.get("SLOW", "-") in frame.path.name:
        time.sleep(3)
    return real(frame, **options)
scans.read = read
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """start(raw, site, ...) runs the command in a process group of its own, with SABOTAGE."""
    (tmp_path / "sabotage").mkdir()
    (tmp_path / "sabotage" / "sitecustomize.py").write_text(SABOTAGE)

    def call(*words: object, **environment: str) -> subprocess.Popen:
        paths = os.pathsep.join([str(tmp_path / "sabotage"), str(ROOT)])
        return subprocess.Popen(
            [sys.executable, "-m", "smile", *map(str, words), *OPTIONS],
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths, **environment},
        )

    return call


def wait_until(condition: Callable[[], object], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("how", ["ctrl-c", "kill -9"])
def test_stopped_in_the_middle_then_continued(how: str, make_raw, start, tmp_path: Path, monkeypatch) -> None:
    raw, site = make_raw(("P001", "P002"), ("happy", "sad", "fear")), tmp_path / "site"
    process = start("prepare", raw, site, "--jobs", 2, SLOW="P002")
    wait_until(lambda: len(list(site.glob("shards/*.json"))) >= 2)
    if how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
        _, complaint = process.communicate(timeout=20)
        assert process.returncode == 130
        assert complaint == (
            "smile prepare: stopped: what is done so far is kept, run the same command again to go on\n"
        )
        assert list(site.rglob("*.tmp")) == []
    else:
        process.kill()  # the parent alone: its workers must notice
        process.communicate(timeout=20)
    wait_until(lambda: is_gone(process.pid), seconds=10)
    done = {path: path.stat().st_mtime_ns for path in site.glob("shards/*.json")}
    assert 2 <= len(done) < 6
    assert not (site / "manifest.json").exists()
    with pytest.raises(ValueError, match="is not finished"):
        Site(site)

    (site / "shards" / "0123.npy.tmp").write_bytes(b"half")
    monkeypatch.setattr(plan, "CHUNK", 1)
    said: list[str] = []
    assert prepare(raw, site, views=VIEWS, jobs=0, progress=False, say=said.append)["counts"]["samples"] == 6
    assert f"6 scans to prepare; {len(done)} of them done already" in said
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert list(site.rglob("*.tmp")) == []
    assert len(Site(site)) == 6


def test_a_scan_that_crashes_its_process_is_set_aside(make_raw, start, tmp_path: Path) -> None:
    raw, site = make_raw(("P001",), ("happy", "sad", "fear")), tmp_path / "site"
    output, complaint = start(
        "prepare", raw, site, "--jobs", 1, "--json", "--quiet", DIES_OF="_sad_"
    ).communicate(timeout=60)
    assert complaint == ""
    assert json.loads(output)["counts"] == {
        "samples": 2,
        "subjects": 1,
        "sequences": 2,
        "unlabelled": 0,
        "rejected": 1,
    }
    with open(site / "rejected.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == "P001/P001_sad_0.obj"
    assert "signal 11" in row["reason"]
    again = prepare(raw, site, views=VIEWS, jobs=0, progress=False)
    assert again["counts"]["rejected"] == 0, "it is tried again, and may have been the memory"


def test_workers_that_cannot_start_give_one_sentence(
    make_raw, views: ViewConfig, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(pool, "serve", _dies)
    with pytest.raises(ValueError, match=r"cannot start \(exit code \d+\): try --jobs 0"):
        prepare(make_raw(("P001",), ("sad",)), tmp_path / "site", views=views, jobs=2, progress=False)


_dies = (
    os._exit
)  # called with a pipe where it wants a number: the child ends with an error before it says anything


@pytest.mark.parametrize(
    "fails_at", [1, 2, 4, 5, 6, 7]
)  # of two shards with their records, then three tables
def test_a_full_disk(fails_at: int, make_raw, views: ViewConfig, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 2)
    raw, site = make_raw(), tmp_path / "site"
    real, calls = disk.write_atomic, []

    def write_atomic(path: Path, write) -> None:
        calls.append(path)
        if len(calls) < fails_at:
            real(path, write)
            return

        def write_half(file) -> None:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

        real(path, write_half)

    monkeypatch.setattr(disk, "write_atomic", write_atomic)
    with pytest.raises(ValueError, match=r"the disk with \S+ is full: .* run the same command again"):
        prepare(raw, site, views=views, jobs=0, progress=False)
    assert not (site / "manifest.json").exists()
    assert list(site.rglob("*.tmp")) == []
    kept = {path: path.stat().st_mtime_ns for path in site.glob("shards/*.json")}
    assert len(kept) == min((fails_at - 1) // 2, 2)
    monkeypatch.setattr(disk, "write_atomic", real)
    assert prepare(raw, site, views=views, jobs=0, progress=False)["counts"]["samples"] == 4
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "what was done stays"


def test_a_second_prepare_on_the_same_site_waits_outside(make_raw, views: ViewConfig, tmp_path: Path) -> None:
    raw, site = make_raw(("P001",), ("sad",)), tmp_path / "site"
    prepare(raw, site, views=views, jobs=0, progress=False)
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    with open(site / disk.MARKER, "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another `smile prepare` is at work"):
            prepare(raw, site, views=views, jobs=0, progress=False)
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before
    prepare(raw, site, views=views, jobs=0, progress=False)


def test_a_file_system_without_locks_is_no_obstacle(
    make_raw, views: ViewConfig, tmp_path: Path, monkeypatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert prepare(make_raw(("P001",), ("sad",)), tmp_path / "site", views=views, jobs=0, progress=False)


def test_another_error_of_the_disk_is_not_called_full(
    make_raw, views: ViewConfig, tmp_path: Path, monkeypatch
) -> None:
    def write_atomic(path: Path, write) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(disk, "write_atomic", write_atomic)
    with pytest.raises(OSError, match="Read-only"):
        prepare(make_raw(("P001",), ("sad",)), tmp_path / "site", views=views, jobs=0, progress=False)
