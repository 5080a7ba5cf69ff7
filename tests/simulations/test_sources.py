"""`python -m simulations sources` in small: every row, kept results, honest words."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from simulations import sources, tasks
from simulations.__main__ import main
from simulations.pool import Pool
from smile.config import ViewConfig
from smile.site.store import Site
from tests.random_site import write_random_site


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two prepared sites of noise: three people each, two expressions beside neutral, one picture of 16 px a sample."""
    folder, views = tmp_path_factory.mktemp("small"), ViewConfig(yaws=(0.0,), size=16)
    return [
        write_random_site(folder / name, views, people=3, sequences=3, frames=1, seed=seed)
        for seed, name in enumerate(("north", "south"))
    ]


def words(sites: list[Path], out: Path) -> list[object]:
    return [
        "sources", "--sites", *sites, "--out", out, "--seeds", 1, "--folds", 2, "--steps", 2, "--jobs", 1, "--json",
        "--rows", "untrained,supervised,label", "--set", "federation.rounds=1", "--set", "views.size=16",
        "--set", "views.yaws=0", "--set", "training.batch-size=4",
    ]  # fmt: skip


@pytest.mark.parametrize("workers", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_the_table_is_made_once_and_then_read(
    workers: str,
    small: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if workers == "threads":  # a new process spends half a minute on imports, and a second on the six tasks
        monkeypatch.setattr(tasks, "ProcessPoolExecutor", lambda number, **_: ThreadPoolExecutor(number))
    assert main(list(map(str, words(small, tmp_path)))) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "sources" / "summary.json").read_text())
    assert summary["failed"] == {} and set(summary["rows"]) == {"untrained", "supervised", "label"}
    assert (summary["people"], summary["decisions"], summary["steps"]) == (6, 12, 2)
    assert "head" in summary["rows"]["supervised"] and "zero_shot" not in summary["rows"]["supervised"]
    assert {"mean", "spread", "low", "high"} <= set(summary["rows"]["label"]["linear_probe"])
    assert list(summary["margins"]) == ["supervised over label, linear probe (at most 3 wanted)"]
    page = (tmp_path / "sources" / "table.txt").read_text()
    assert "label (uses labels)" in page and "the given folders" in page
    assert (tmp_path / "sources" / "table.png").stat().st_size > 5000
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "sources" / "tasks").iterdir()}
    assert len(kept) == 6
    assert main(list(map(str, words(small, tmp_path)))) == 0
    assert json.loads(capsys.readouterr().out) == summary
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "sources" / "tasks").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--rows", "magic"), "magic"), (("--steps", 7), "multiple"), (("--folds", -1), "folds")],
)
def test_mistakes_end_in_one_sentence(
    arguments: tuple, word: str, small: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(map(str, ("sources", "--sites", *small, "--out", tmp_path, *arguments)))) == 2
    said = capsys.readouterr().err
    assert word in said and len(said.strip().splitlines()) == 1


def test_figures_are_over_seeds_and_folds() -> None:
    task = sources.Task(
        np.arange(4), np.arange(4), np.array([0, 1, 0, 1]), np.array(list("aabb")), ("fear", "anger"), ()
    )
    results = [
        {"row": "label", "seed": seed, "fold": fold, "test": test, "seconds": 1.0, "answers": {"linear_probe": answer}}
        for seed, fold, test, answer in [
            (0, 0, [0, 1], [0, 1]), (0, 1, [2, 3], [0, 1]), (1, 0, [0, 1], [0, 0]), (1, 1, [2, 3], [1, 0]),
        ]
    ]  # fmt: skip
    found = sources.summarise(results, task)["rows"]["label"]["linear_probe"]
    assert found["values"] == [1.0, 0.25] and found["mean"] == 0.625
    assert found["spread"] == pytest.approx(np.std([1, 0.25], ddof=1))
    assert found["low"] <= 0.625 <= found["high"]


def test_a_pool_offers_what_a_site_offers(small: list[Path]) -> None:
    parts = [Site(path) for path in small]
    parts[1].measures = {"pain": np.arange(float(len(parts[1])))}
    pool = Pool(parts)
    n = len(parts[0])
    assert np.isnan(pool.measures["pain"][:n]).all()
    assert pool.measures["pain"][n:].tolist() == list(range(len(parts[1])))
    assert np.array_equal(pool.times, np.concatenate([part.times for part in parts]), equal_nan=True)
    assert set(pool.geometry) == set(parts[0].geometry) == set(pool.rest)
    columns = (*pool.geometry.values(), *pool.rest.values())
    assert all(len(column) == len(pool.labels) for column in columns)
