"""The door of a site: what may leave, counted and written down where the hospital can read it."""

import csv
import itertools
import logging
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from smile.protocol import ERRORS, METRICS

OUTBOX_FIELDS = ("time_utc", "run", "round", "what_was_sent", "arrays", "bytes", *METRICS)


def _keep_columns(path: Path) -> None:
    """Move a file with the columns of another release aside: lines under a header that is not theirs would mislead."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        if file.readline().strip() == ",".join(OUTBOX_FIELDS):
            return
    free = next(n for n in itertools.count(1) if not path.with_name(f"{path.stem}-{n}{path.suffix}").exists())
    path.rename(path.with_name(f"{path.stem}-{free}{path.suffix}"))


class Outbox:
    """Builds every reply of a site. Anything that is not on the allow-list cannot pass."""

    def __init__(self, message: Message, *, run: int, log: Path | None) -> None:
        """log: folder for outbox.csv and site.log; None writes to the SuperNode's own output alone."""
        self.message, self.run, self.log = message, run, log
        config = message.content.get("config")
        self.round = config.get("server-round", 0) if isinstance(config, ConfigRecord) else 0

    def send(self, arrays: dict[str, np.ndarray], metrics: dict[str, float], shared: list[str]) -> Message:
        """Weights, or a packed difference of them, under the names `shared` and no others, and the figures of `METRICS`.

        Raises RuntimeError for anything else, and OSError when it cannot be written down: what the hospital
        cannot read afterwards does not leave.
        """
        if {name.partition(":")[0] for name in arrays} != set(shared):
            raise RuntimeError("a site may only return the arrays that the study shares")
        if set(metrics) != set(METRICS):
            raise RuntimeError(f"figures {sorted(metrics)} are not the agreed {METRICS}")
        figures = {name: float(metrics[name]) for name in METRICS}
        content = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
                "metrics": MetricRecord({**figures, "num-examples": int(metrics["num-examples"])}),
            }
        )
        size = sum(array.nbytes for array in arrays.values())
        self._write("model weights and figures", len(arrays), size, figures)
        return Message(content, reply_to=self.message)

    def send_moments(self, arrays: dict[str, np.ndarray], *, people: int) -> Message:
        """Sums over this site's embeddings (`smile.moments`), of no fewer people than the study's smallest cohort."""
        if not all(name.startswith("moments.") for name in arrays):
            raise RuntimeError("only moments may be returned here")
        size = sum(array.nbytes for array in arrays.values())
        self._write(f"moments of the embeddings of {people} people", len(arrays), size, {})
        record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        return Message(RecordDict({"moments": record}), reply_to=self.message)

    def refuse(self, code: int, detail: str) -> Message:
        """An error code and its fixed sentence cross; `detail` stays in the building. Never raises: Flower would
        send the exception's text."""
        logger = logging.getLogger("smile")
        logger.error("refused with code %d: %s", code, detail)
        try:
            if self.log is not None:
                self.log.mkdir(parents=True, exist_ok=True)
                with (self.log / "site.log").open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(f"{_now()} UTC round {self.round!r}, code {code}: {detail}\n")
            self._write(f"error code {code}: {ERRORS[code]}", 0, 0, {})
        except Exception:
            logger.exception("the site's log in %s cannot be written", self.log)
        return Message(Error(code, ERRORS[code]), reply_to=self.message)

    def _write(self, what: str, arrays: int, size: int, figures: dict[str, float]) -> None:
        if self.log is None:
            return
        self.log.mkdir(parents=True, exist_ok=True)
        path = self.log / "outbox.csv"
        _keep_columns(path)
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, OUTBOX_FIELDS, restval="")
            if not file.tell():
                writer.writeheader()
            writer.writerow(
                {
                    "time_utc": _now(),
                    "run": self.run,
                    "round": self.round,
                    "what_was_sent": what,
                    "arrays": arrays,
                    "bytes": size,
                    **{name: f"{value:.6g}" for name, value in figures.items()},
                }
            )


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
