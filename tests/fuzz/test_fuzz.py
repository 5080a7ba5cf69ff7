"""A few hundred damaged files of every format through the real readers; `make fuzz` takes 10,000 of each."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from smile import scans
from tests.fuzz import run
from tests.fuzz.formats import FORMATS
from tests.fuzz.mutate import mutated

CASES = int(os.environ.get("SMILE_FUZZ_CASES", "200"))


@pytest.fixture(scope="module")
def attacks() -> Iterator[dict[str, Future[tuple[str, bool]]]]:
    """Format -> its run in a process of its own, as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run.in_process, name, CASES, 0) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused_in_one_sentence(
    name: str, attacks: dict[str, Future[tuple[str, bool]]]
) -> None:
    text, worked = attacks[name].result()
    assert worked, text
    assert f"{name}: {CASES} cases" in text


def test_every_reader_is_attacked() -> None:
    attacked = {Path(form.name).suffix for form in FORMATS.values()}
    assert set(scans._READERS) - {".txt"} <= attacked  # .txt is read as .xyz


def test_a_case_can_be_played_again() -> None:
    seeds = FORMATS["obj"].seeds()
    twice = [[mutated(seeds, seed=3, case=case) for case in range(30)] for _ in range(2)]
    assert twice[0] == twice[1]
    assert twice[0][: len(seeds)] == seeds
    assert len(set(twice[0])) > 25
    assert twice[0][10:] != [mutated(seeds, seed=4, case=case) for case in range(10, 30)]


def hang() -> None:
    while True:
        pass


def hidden() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise ValueError("face.obj: it is damaged: copy the file again") from error


def raises(error: Exception) -> Callable[[], None]:
    def now() -> None:
        raise error

    return now


@pytest.mark.parametrize(
    ("behaviour", "found"),
    [
        (hang, "TimeoutError"),
        (hidden, "MemoryError behind"),
        (raises(KeyError("x")), "KeyError"),
        (raises(ValueError("bad")), "not one short sentence"),
        (raises(ValueError("face.obj: it is damaged:\ncopy the file again")), "not one short sentence"),
        (raises(json.JSONDecodeError("no JSON in the whole of the file", "", 0)), "JSONDecodeError"),
        (raises(ValueError("face.obj: it is damaged: copy the file again")), ""),
        (lambda: None, None),
    ],
)
def test_what_counts_as_a_failure(
    behaviour: Callable[[], None], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SECONDS", 0.2)
    before = signal.signal(signal.SIGPROF, run.too_long)
    try:
        wrong = run.judge(lambda path: behaviour(), Path("face.obj"))
    finally:
        signal.signal(signal.SIGPROF, before)
    assert wrong == found if not found else wrong is not None and wrong.startswith(found)
