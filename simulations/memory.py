"""How much memory and processor time this process and all its children take, sampled twice a second."""

import threading
import time


class ProcessTree:
    """`with ProcessTree() as tree: ...; tree.peak_mib`. Sums resident sets, so pages shared between processes count twice."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, int]] = []  # time, processor seconds, bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProcessTree":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_mib(self) -> int:
        return max((memory for _, _, memory in self.samples), default=0) // 2**20

    def _watch(self) -> None:
        import psutil

        me, spent = psutil.Process(), dict[int, float]()
        while True:
            memory = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    times = process.cpu_times()
                    spent[process.pid] = times.user + times.system
                    memory += process.memory_info().rss
                except psutil.Error:
                    continue  # it ended between listing and reading; what it spent until then stays counted
            self.samples.append((time.time(), sum(spent.values()), memory))
            if self._stop.wait(0.5):
                return
