"""How much memory this process and all its children hold at most, sampled twice a second."""

import threading


class PeakMemory:
    """`with PeakMemory() as m: ...; m.peak_mib`. Sums resident sets, so pages shared between processes count twice."""

    def __init__(self) -> None:
        self.peak_mib = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue  # it ended between listing and reading
            self.peak_mib = max(self.peak_mib, total // 2**20)
