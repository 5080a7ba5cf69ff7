"""One thread that reads file after file, and the folder in which they lie meanwhile. Standard library only."""

import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

MEMORY = Path("/dev/shm")  # where the system has it


class NoAnswer(Exception):
    """A file that was not read in time, in one sentence; empty when its turn never came."""


class Worker:
    """`read(path)` for whoever calls, in turn; a caller waits `seconds` at most.

    No pool of the standard library: Python would wait for its thread at the end, however long a scan takes.
    """

    def __init__(self, read: Callable[[Path], dict[str, Any]], seconds: float) -> None:
        self._read, self._seconds = read, seconds
        self._jobs: queue.SimpleQueue[tuple[Path, Future[dict[str, Any]]] | None] = queue.SimpleQueue()
        self._since: float | None = None  # when the reading began that is going on
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def __call__(self, path: Path) -> dict[str, Any]:
        """What `read` returns or raises. Raises NoAnswer."""
        if self.stuck():
            raise NoAnswer("the reading before this one does not end: start the program again")
        job: Future[dict[str, Any]] = Future()
        self._jobs.put((path, job))
        try:
            return job.result(timeout=self._seconds)
        except FutureTimeout:
            if job.cancel():
                raise NoAnswer from None
            raise NoAnswer(
                f"there was no answer within {self._seconds:g} s: send fewer frames or a smaller scan"
            ) from None

    def stuck(self) -> bool:
        """Whether a reading is going on for longer than anybody waits for it."""
        since = self._since
        return since is not None and time.monotonic() - since > self._seconds

    def stop(self, seconds: float) -> bool:
        """Read nothing more; False where the reading that is going on does not end in time."""
        self._jobs.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            path, job = item
            if job.set_running_or_notify_cancel():
                self._since = time.monotonic()
                try:
                    job.set_result(self._read(path))
                except BaseException as error:
                    job.set_exception(error)
                self._since = None
            del item, path, job  # what was read must not stay until the next request


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder in memory where the system has one, so that no face touches a disk; `MEMORY` is then its parent.

    Those of programs that were killed go. A process has its number in one container only, whose number is in the name, too.
    """
    place = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    try:
        container = f"smile-{os.stat('/proc/self/ns/pid').st_ino}-"
    except OSError:  # a system without /proc cannot say who lives
        return tempfile.TemporaryDirectory(prefix="smile-", dir=place, ignore_cleanup_errors=True)
    for folder in place.glob(f"{container}*-*"):
        if not Path("/proc", folder.name.split("-")[2]).exists():
            shutil.rmtree(folder, ignore_errors=True)
    prefix = f"{container}{os.getpid()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True)
