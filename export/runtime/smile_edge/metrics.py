"""What a server counts of its requests, as Prometheus text. Holds numbers only."""

import os
import threading
from pathlib import Path

from .model import ExpressionReader

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds


class Metrics:
    """Requests by status, and how long predictions took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status: dict[int, int] = {}
        self._buckets = [0] * len(BUCKETS)
        self._seconds, self._count = 0.0, 0

    def answered(self, status: int, seconds: float | None) -> None:
        """A request that was answered; seconds: of a prediction, else None."""
        with self._lock:
            self._status[status] = self._status.get(status, 0) + 1
            if seconds is not None:
                self._seconds, self._count = self._seconds + seconds, self._count + 1
                for place, limit in enumerate(BUCKETS):
                    self._buckets[place] += seconds <= limit

    def text(self, reader: ExpressionReader) -> str:
        """The exposition, format 0.0.4."""
        with self._lock:
            status, buckets = dict(sorted(self._status.items())), list(self._buckets)
            seconds, count = self._seconds, self._count
        told = reader.provenance
        lines = ["# TYPE smile_requests_total counter"]
        lines += [f'smile_requests_total{{status="{code}"}} {number}' for code, number in status.items()]
        lines += ["# TYPE smile_predict_seconds histogram"]
        pairs = [*zip(map(str, BUCKETS), buckets, strict=True), ("+Inf", count)]
        lines += [f'smile_predict_seconds_bucket{{le="{limit}"}} {number}' for limit, number in pairs]
        lines += [f"smile_predict_seconds_sum {seconds:.6f}", f"smile_predict_seconds_count {count}"]
        memory = resident_bytes()
        if memory is not None:
            lines += ["# TYPE process_resident_memory_bytes gauge", f"process_resident_memory_bytes {memory}"]
        if told["round"] is not None:
            lines += ["# TYPE smile_model_round gauge", f"smile_model_round {told['round']}"]
        labels = ",".join(f'{key}="{told[key]}"' for key in ("engine", "precision", "checkpoint"))
        return "\n".join([*lines, "# TYPE smile_model_info gauge", f"smile_model_info{{{labels}}} 1"]) + "\n"


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
