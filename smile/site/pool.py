"""Worker processes for the chunks of a run.

An executor of the standard library loses the whole run when one native library crashes; here the parent knows
which scan each worker has in hand, sets that scan aside and goes on with a new worker.
"""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from .work import Result, Settings, Task, run_task

Event = tuple[int, Result | None]  # (number of a task, its result); None: one more of its scans is begun


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: int | None = None
    position: int = 0  # of the scan in hand
    alive: bool = False  # has said so


def run_tasks(tasks: Sequence[Task], settings: Settings, *, jobs: int) -> Generator[Event, None, None]:
    """Yield the events of all tasks in the order they happen; `jobs` 0 works in this process.

    Close the generator (`contextlib.closing`) to stop the workers early.
    """
    if jobs == 0:
        yield from _run_here(tasks, settings)
        return
    workers: list[_Worker] = []
    try:
        yield from _run_workers(deque(enumerate(tasks)), settings, workers, min(jobs, len(tasks)))
    finally:
        for worker in workers:
            _stop(worker)


def _run_here(tasks: Sequence[Task], settings: Settings) -> Iterator[Event]:
    for number, task in enumerate(tasks):
        yield number, run_task(task, settings, at=lambda position: None)


def _run_workers(
    queue: deque[tuple[int, Task]], settings: Settings, workers: list[_Worker], jobs: int
) -> Iterator[Event]:
    tasks = dict(queue)
    while queue or any(worker.task is not None for worker in workers):
        while len(workers) < min(jobs, len(tasks)):
            workers.append(_start(settings))
        for worker in workers:
            if worker.task is None and queue:
                worker.task, task = queue.popleft()
                worker.position = 0
                with contextlib.suppress(OSError):  # it has died: found below, when its pipe is read
                    worker.pipe.send(task)
        busy = {worker.pipe: worker for worker in workers if worker.task is not None}
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]
            assert worker.task is not None
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                workers.remove(worker)
                number = worker.task
                tasks[number] = _without_the_fatal_scan(tasks[number], worker)
                queue.append((number, tasks[number]))
                continue
            worker.alive = True
            if isinstance(message, Result):
                number, worker.task = worker.task, None
                yield number, message
                del tasks[number]
            elif isinstance(message, int):
                worker.position = message
                yield worker.task, None


def _without_the_fatal_scan(task: Task, worker: _Worker) -> Task:
    worker.process.join(5)  # its pipe is closed, so it is about to be gone
    _stop(worker)
    code = worker.process.exitcode
    if not worker.alive:
        raise ValueError(
            f"the worker processes cannot start (exit code {code}): try --jobs 0, which has none"
        )
    how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
    reason = f"the process working on it ended ({how}): a broken file, or no memory: try a smaller --jobs"
    return replace(task, fatal={**task.fatal, worker.position: reason})


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
    """A worker process: tasks in, positions and results out, until the parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            pipe.send(run_task(pipe.recv(), settings, at=pipe.send))


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
