"""How samples are handed to workers: all of them busy, one ahead where that is safe."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from smile.scans import Frame
from smile.site.pool import SHORT, _hand_out, _Worker
from smile.site.work import Task


class Pipe:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, task: Any) -> None:
        self.sent.append(task)


def hand_out(tasks: int, *, workers: int, files: int = 1) -> list[list[int]]:
    """The numbers of the tasks that each of the idle workers gets at first."""
    frames = [Task(tuple(Frame(Path(f"/raw/{k}_{n}.obj")) for n in range(files))) for k in range(tasks)]
    queue, idle = deque(range(tasks)), [_Worker(None, Pipe()) for _ in range(workers)]  # type: ignore[arg-type]
    _hand_out(queue, frames, idle)
    for worker in idle:
        assert worker.pipe.sent == [frames[number] for number in worker.tasks]  # type: ignore[attr-defined]
    assert sorted([*queue, *(number for worker in idle for number in worker.tasks)]) == list(range(tasks))
    return [list(worker.tasks) for worker in idle]


@pytest.mark.parametrize(
    ("tasks", "given"),
    [(1, [[0], [], []]), (3, [[0], [1], [2]]), (6, [[0], [1], [2]]), (9, [[0, 3], [1, 4], [2, 5]])],
)
def test_the_samples_of_one_sequence_keep_every_worker_busy(tasks: int, given: list[list[int]]) -> None:
    assert hand_out(tasks, workers=3) == given


def test_a_long_sample_is_not_sent_ahead() -> None:
    """A pipe holds little: a long task and a large answer would wait for each other."""
    assert hand_out(9, workers=2, files=SHORT) == [[0, 2], [1, 3]]
    assert hand_out(9, workers=2, files=SHORT + 1) == [[0], [1]]
