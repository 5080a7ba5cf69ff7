"""What log.jsonl tells, made visible after each round: status.html, report.html and the curves of TensorBoard.

Names and reasons in the log come from sites and are hostile input: `server.report` escapes all of them.
"""

import json
import logging
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from server.report import page
from smile.site.disk import write_atomic

LOG, STATUS, REPORT, EVENTS = "log.jsonl", "status.html", "report.html", "tensorboard"
ANSWERED, LEFT_OUT, LATE, ABSENT, UNKNOWN = (
    b"alo- "  # one byte of `Site.marks` per round; UNKNOWN: not yet seen
)
SILENCE = "no answer within"  # how the strategy begins the reason of a site that missed the deadline
LARGEST = 1e15  # a larger figure is damage: sums of these stay finite
LONGEST = 300  # characters of a name or a reason that are kept
SLOW = 2.0  # times the middle site's seconds: from here a site is called slow
RECENT = 5  # rounds from which it is told

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What one site's good reply said; None where the log does not tell."""

    loss: float | None
    captures: float | None
    seconds: float | None
    received: float | None  # bytes from the site
    sent: float | None  # bytes to the site
    norm: float | None  # L2 norm of its update
    weight: float | None  # its share of the average, 0..1


NOTHING = Answer(*[None] * 7)


class Round(NamedTuple):
    """One line of the log."""

    number: int
    averaged: bool
    seconds: float | None
    losses: dict[str, float]
    answers: dict[str, Answer]
    failures: dict[str, tuple[int, str]]  # site -> (LEFT_OUT or LATE, reason)
    asked: int  # sites
    sent: float | None  # bytes, all sites
    received: float | None


@dataclass
class Site:
    """One site through all rounds."""

    name: str
    marks: bytearray  # one of ANSWERED ... UNKNOWN for each round
    losses: list[float | None]  # for each round
    latest: Answer = NOTHING
    failures: list[tuple[int, int, str]] = field(
        default_factory=list
    )  # (position of the round, mark, reason)
    received: float = 0.0
    sent: float = 0.0
    seconds: float = 0.0


class Trouble(NamedTuple):
    """Something that a person may have to act on: one site and kind, or a lost round (site "")."""

    site: str
    mark: int  # LEFT_OUT, LATE, ABSENT; ANSWERED: slow; UNKNOWN: rounds that were not averaged
    reason: str
    rounds: list[int]  # numbers, rising
    ongoing: bool  # also in the latest round


def write(folder: Path, *, rounds: int, ended: bool) -> None:
    """Draw FOLDER/log.jsonl as FOLDER/status.html, and once `ended` as FOLDER/report.html too.

    rounds: how many the run is to have. Reads the whole log; call `Status.write` after each round of a long run instead.
    """
    Status(folder).write(rounds=rounds, ended=ended)


class Status:
    """Follows the log of one run: reads at each `write` only what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged = 0  # lines that could not be read
        self._rounds: list[Round] = []
        self._offset = 0

    def write(self, *, rounds: int, ended: bool) -> None:
        """See the function `write`. Never raises: a picture of the run must not end the run."""
        try:
            text = self.page(rounds=rounds, ended=ended).encode()
            for name in (STATUS, REPORT) if ended else (STATUS,):
                write_atomic(self.folder / name, lambda file: file.write(text))
        except Exception as error:  # a full disk, or a mistake of ours
            logger.warning("%s is not up to date (%s: %s)", STATUS, type(error).__name__, error)

    def page(self, *, rounds: int, ended: bool) -> str:
        """The page as text."""
        log = self.read()
        sites = histories(log)
        try:
            written = (
                (self.folder / LOG).stat().st_mtime
            )  # so that a page drawn again later tells the same times
        except OSError:
            written = time.time()
        return page(
            log,
            sites,
            troubles(log, sites),
            planned=rounds,
            ended=ended,
            written=written,
            damaged=self.damaged,
        )

    def read(self) -> list[Round]:
        """All rounds so far, rising. A round that is logged again, after a resume, replaces it and all later ones."""
        path = self.folder / LOG
        size = path.stat().st_size if path.exists() else 0
        if size < self._offset:  # cut back by a resume: from the start
            self._rounds, self._offset, self.damaged = [], 0, 0
        if size > self._offset:
            with path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):  # still being written
                        break
                    self._offset += len(line)
                    self._take(line)
        return self._rounds

    def _take(self, line: bytes) -> None:
        entry = parse(line)
        if entry is None:
            self.damaged += 1
            return
        while self._rounds and self._rounds[-1].number >= entry.number:
            self._rounds.pop()
        self._rounds.append(entry)


def parse(line: bytes) -> Round | None:
    """One line of the log, whatever it holds; None where it is no round."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    number = record.get("round") if isinstance(record, dict) else None
    if type(number) is not int or not 0 <= number < 10**9:
        return None
    answers = {name: _answer(site) for name, site in _named(record.get("sites"))}
    failures: dict[str, tuple[int, str]] = {}
    for mark, key in ((LEFT_OUT, "refused"), (LATE, "late")):
        for name, site in _named(record.get(key)):
            reason = str(site.get("reason") or failures.get(name, (mark, ""))[1])[:LONGEST]
            failures[name] = (LATE if reason.startswith(SILENCE) else mark, sys.intern(reason))
    for name in answers:
        failures.pop(name, None)
    losses = record.get("losses")
    asked = _number(record.get("sites_asked"))
    return Round(
        number=number,
        averaged=record.get("averaged") is True,
        seconds=_number(record.get("seconds")),
        losses=_figures(losses if isinstance(losses, dict) else {}),
        answers=answers,
        failures=failures,
        asked=max(int(asked or 0), len(answers) + len(failures)),
        sent=_number(record.get("bytes_sent")),
        received=_number(record.get("bytes_received")),
    )


def _answer(site: dict[str, Any]) -> Answer:
    keys = ("loss", "num-examples", "seconds", "bytes_received", "bytes_sent", "update_norm", "weight")
    return Answer(*(_number(site.get(key)) for key in keys))


def _named(items: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, the rest) of a list of names or of objects with a `site`."""
    found = []
    for item in items if isinstance(items, list) else []:
        site = item if isinstance(item, dict) else {"site": item}
        if isinstance(name := site.get("site"), str):
            found.append((sys.intern(name[:LONGEST]), site))
    return found


def _figures(values: dict[str, Any]) -> dict[str, float]:
    numbers = {sys.intern(name[:LONGEST]): _number(value) for name, value in values.items()}
    return {name: value for name, value in numbers.items() if value is not None}


def _number(value: Any) -> float | None:
    return (
        float(value) if type(value) in (int, float) and abs(value) <= LARGEST else None
    )  # NaN compares false


def histories(log: list[Round]) -> list[Site]:
    """Every site that any round names, sorted by name."""
    sites: dict[str, Site] = {}

    def of(name: str) -> Site:
        if name not in sites:
            unseen = bytes([UNKNOWN]) * position + bytes([ABSENT]) * (len(log) - position)
            sites[name] = Site(name, bytearray(unseen), [None] * len(log))
        return sites[name]

    for position, entry in enumerate(log):
        for name, answer in entry.answers.items():
            site = of(name)
            site.marks[position] = ANSWERED
            site.losses[position] = answer.loss
            site.latest = answer
            site.received += answer.received or 0
            site.sent += answer.sent or 0
            site.seconds += answer.seconds or 0
        for name, (mark, reason) in entry.failures.items():
            site = of(name)
            site.marks[position] = mark
            site.failures.append((position, mark, reason))
    return [sites[name] for name in sorted(sites, key=lambda name: (name.casefold(), name))]


def troubles(log: list[Round], sites: list[Site]) -> list[Trouble]:
    """What went wrong, of the latest round first; one entry for each site and reason, figures in it apart."""
    found: dict[tuple[str, int, str], Trouble] = {}

    def add(site: str, mark: int, reason: str, position: int) -> None:
        key = (site, mark, re.sub(r"\d[\d.e+-]*", "#", reason))
        before = found[key].rounds if key in found else []
        before.append(log[position].number)
        found[key] = Trouble(site, mark, reason, before, position == len(log) - 1)

    for position, entry in enumerate(log):
        if not entry.averaged:
            good = f"{len(entry.answers)} of {entry.asked} sites gave a good answer"
            add("", UNKNOWN, good, position)
    # With federation.fraction below 1 absence is the rule: most sites then have several gaps.
    gaps = {site.name: [gap.span() for gap in re.finditer(b"-+", site.marks)] for site in sites}
    drawn = bool(sites) and median(len(spans) for spans in gaps.values()) >= 2
    for site in sites:
        for position, mark, reason in site.failures:
            add(site.name, mark, reason, position)
        for start, stop in gaps[site.name] if not drawn else []:
            for position in range(start, stop):
                add(site.name, ABSENT, "", position)
    everything = [*found.values(), *_slow(log)]
    return sorted(everything, key=lambda trouble: (not trouble.ongoing, -trouble.rounds[-1], trouble.site))


def _slow(log: list[Round]) -> list[Trouble]:
    """Sites that kept the others waiting in the last rounds."""
    seconds: dict[str, list[float]] = {}
    for entry in log[-RECENT:]:
        for name, answer in entry.answers.items():
            if answer.seconds is not None:
                seconds.setdefault(name, []).append(answer.seconds)
    usual = {name: median(values) for name, values in seconds.items()}
    if len(usual) < 3:
        return []
    middle = median(usual.values())
    return [
        Trouble(
            name, ANSWERED, f"{value:.3g} s a round, the middle site {middle:.3g} s", [log[-1].number], True
        )
        for name, value in usual.items()
        if value > SLOW * middle and value > middle + 1
    ]


class Board:
    """Scalars of each round for TensorBoard in FOLDER/tensorboard; without the package it says so once and does nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / EVENTS
        self._writer: Any = None
        self._off = False

    def add(self, record: dict[str, Any]) -> None:
        """The figures of one record of the log, see `scalars`.

        Never raises. Points of this and later rounds, from before a resume, vanish.
        """
        entry = parse(json.dumps(record).encode())
        if entry is None or self._off:
            return
        try:
            writer = self._open(entry.number)
            for tag, value in scalars(entry).items():
                writer.add_scalar(tag, value, entry.number)
            writer.flush()
        except ImportError:
            self._stop("no TensorBoard curves: `pip install tensorboard` where they are wanted")
        except Exception as error:  # a full disk must not end the run
            self._stop(f"no more TensorBoard curves ({type(error).__name__}: {error})")

    def close(self) -> None:
        if self._writer is not None and not self._off:
            self._writer.close()
        self._off = True

    def _open(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        return self._writer

    def _stop(self, why: str) -> None:
        self._off = True
        logger.warning(why)


def scalars(entry: Round) -> dict[str, float]:
    """Tag -> value of one round. Other characters than letters, digits, `_`, `-` and `.` of a name become `_`."""
    found: dict[str, float | None] = {f"losses/{_tag(part)}": value for part, value in entry.losses.items()}
    used: Counter[str] = Counter()
    for name in sorted(entry.answers):
        tag = _tag(name)
        used[tag] += 1
        tag += f"_{used[tag]}" if used[tag] > 1 else ""
        answer = entry.answers[name]
        found[f"site-loss/{tag}"] = answer.loss
        found[f"site-bytes-received/{tag}"] = answer.received
        found[f"site-bytes-sent/{tag}"] = answer.sent
    found["round/seconds"] = entry.seconds
    found["round/answered"] = float(len(entry.answers))
    found["round/asked"] = float(entry.asked)
    found["round/bytes-received"], found["round/bytes-sent"] = entry.received, entry.sent
    return {tag: value for tag, value in found.items() if value is not None}


def _tag(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name) or "_"
