"""Worker processes for the samples of a run.

An executor of the standard library loses the whole run when one native library crashes; here the parent knows
which sample each worker has in hand, sets that one aside and goes on with a new worker.
"""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from ..heap import keep_freed
from .work import Figures, Outcome, Sample, Seen, Settings, Task, perform

SHORT = 4  # files of a task that is sent ahead
Event = tuple[int, Outcome]  # number of a task, and what becomes of it


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    tasks: deque[int] = field(default_factory=deque)  # sent and not answered, the one in hand first
    alive: bool = False  # has said so


def run_tasks(tasks: Sequence[Task], settings: Settings, *, jobs: int) -> Generator[Event, None, None]:
    """Yield what becomes of each task, in the order in which they end; `jobs` 0 works in this process.

    Close the generator (`contextlib.closing`) to stop the workers early.
    """
    if jobs == 0:
        seen: Seen = {}
        for number, task in enumerate(tasks):
            yield number, perform(task, settings, seen)
        return
    workers: list[_Worker] = []
    try:
        yield from _run_workers(tasks, settings, workers, min(jobs, len(tasks)))
    finally:
        for worker in workers:
            _stop(worker)


def _run_workers(
    tasks: Sequence[Task], settings: Settings, workers: list[_Worker], jobs: int
) -> Iterator[Event]:
    queue = deque(range(len(tasks)))
    while queue or any(worker.tasks for worker in workers):
        while queue and len(workers) < jobs:
            workers.append(_start(settings))
        _hand_out(queue, tasks, workers)
        busy = {worker.pipe: worker for worker in workers if worker.tasks}
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                workers.remove(worker)
                reason = _how_it_ended(worker)
                yield worker.tasks.popleft(), reason
                queue.extendleft(reversed(worker.tasks))
                continue
            worker.alive = True
            if isinstance(message, Sample | Figures | str):
                yield worker.tasks.popleft(), message


def _hand_out(queue: deque[int], tasks: Sequence[Task], workers: list[_Worker]) -> None:
    """One task for each worker, and a second to go on with while this process writes.

    No second one near the end, where another worker would be free for it sooner, nor a long one: a pipe holds little, and both
    ends would wait for the other to read.
    """
    for depth in (1, 2):
        for worker in workers:
            spare = depth == 1 or (len(queue) > len(workers) and len(tasks[queue[0]].frames) <= SHORT)
            if queue and len(worker.tasks) < depth and spare:
                worker.tasks.append(queue.popleft())
                with contextlib.suppress(OSError):  # it has died: found when its pipe is read
                    worker.pipe.send(tasks[worker.tasks[-1]])


def _how_it_ended(worker: _Worker) -> str:
    worker.process.join(5)  # its pipe is closed, so it is about to be gone
    _stop(worker)
    code = worker.process.exitcode
    if not worker.alive:
        raise ValueError(
            f"the worker processes cannot start (exit code {code}): try --jobs 0, which has none"
        )
    how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
    return f"the process working on it ended ({how}): a broken file, or no memory: try a smaller --jobs"


def _start(settings: Settings) -> _Worker:
    # spawn, not fork: renderers keep threads and GPU contexts that a forked child cannot use
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, settings), daemon=True)
    with _one_thread(), _no_interrupt():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.terminate()
    worker.process.join(5)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def serve(pipe: Connection, settings: Settings) -> None:
    """A worker process: tasks in, samples and reasons out, until the parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed()
    seen: Seen = {}
    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)  # alive
        while True:
            pipe.send(perform(pipe.recv(), settings, seen))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Workers take a core each; a thread pool of the numerics in each of them would only make them queue."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """A child inherits the blocked Ctrl-C: the parent alone hears it and stops the children."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # Python's own helper process: starting it would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
