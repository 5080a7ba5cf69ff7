"""`python -m simulations compare` in small: real federations of every row, kept results, honest words."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.run_log import read
from simulations import federations, tasks
from simulations.__main__ import SCENARIOS, main
from smile.config import SmileConfig, ViewConfig
from smile.protocols import Task
from smile.site.store import Site
from tests.random_site import write_random_site

VIEWS = ViewConfig(yaws=(-20.0, 20.0), size=16)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two prepared sites of noise: four people each, three expressions, two views of 16 px."""
    folder = tmp_path_factory.mktemp("small")
    return [
        write_random_site(folder / name, VIEWS, people=4, sequences=4, frames=1, seed=seed)
        for seed, name in enumerate(("north", "south"))
    ]


def words(scenario: str, sites: list[Path], out: Path, *more: object) -> list[str]:
    command = [
        "compare", scenario, "--sites", *sites, "--out", out, "--seeds", 1, "--jobs", 1, "--json", *more,
        "--set", "federation.rounds=2", "--set", "training.local-steps=1", "--set", "training.batch-size=4",
        "--set", "views.size=16", "--set", "views.yaws=-20,20",
    ]  # fmt: skip
    return list(map(str, command))


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process spends half a minute on imports, and a second on all tasks of a table."""
    monkeypatch.setattr(tasks, "ProcessPoolExecutor", lambda number, **_: ThreadPoolExecutor(number))


def test_the_table_is_made_once_and_then_read(
    small: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words("one-scanner", small, tmp_path, "--strategies", "fedavg,small-messages")
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    rows = summary["rows"]
    assert list(rows) == ["untrained", "one client alone (mean of 2)", "pooled", "fedavg", "small-messages"]
    assert (summary["clients"]["number"], summary["seeds"]) == (2, 1)
    assert rows["fedavg"]["averaged"] == rows["fedavg"]["rounds"] == 2
    assert rows["fedavg"]["bytes"] > rows["small-messages"]["bytes"]
    probe, whole = rows["fedavg"]["linear_probe"], rows["pooled"]["linear_probe"]
    assert rows["fedavg"]["of_pooled"]["mean"] == pytest.approx(probe["mean"] / whole["mean"])
    page = (tmp_path / "table.txt").read_text()
    assert "the given folders" in page and "95 % interval" in page and "% of pooled" in page
    assert (tmp_path / "table.png").stat().st_size > 5000
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "tasks").iterdir()}
    assert len(kept) == 6
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == summary
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "tasks").iterdir()}


def test_nobody_who_is_tested_is_at_a_client(small: list[Path], tmp_path: Path) -> None:
    assert main(words("one-subject", small, tmp_path, "--strategies", "fedavg")) == 0
    clients = sorted((tmp_path / "clients" / "seed-0").iterdir())
    trained = {subject for folder in clients for subject in Site(folder).subjects}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(trained) == len(clients) == summary["clients"]["number"] == 8 - summary["people"]


@pytest.mark.parametrize("scenario", ["drop-outs", "sign-flipped", "missing-views"])
def test_what_goes_wrong_costs_no_round(scenario: str, small: list[Path], tmp_path: Path) -> None:
    assert (
        main(words(scenario, small, tmp_path, "--strategies", "fedavg", "--set", "training.holdout=0.3")) == 0
    )
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert rows["fedavg"]["averaged"] == 2
    assert ("fedavg (all honest)" in rows) == (scenario != "missing-views")
    log = read(tmp_path / "federations" / "fedavg-seed-0" / "log.jsonl")
    silent = {refused["site"] for line in log for refused in line["refused"]}
    assert silent <= {"client-0003", "client-0004"} and bool(silent) == (scenario == "drop-outs")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("dirichlet", "--strategies", "magic"), "choose from fedavg"),
        (("dirichlet", "--strategies", "fedavg,fedavg"), "each once"),
        (("iid", "--set", "federation.top-k=2"), "federation.top-k = 2"),
        (("iid", "--seeds", 0), "at least 1 seed"),
    ],
)
def test_mistakes_end_in_one_sentence(
    arguments: tuple, word: str, small: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(map(str, ("compare", *arguments, "--sites", *small, "--out", tmp_path)))) == 2
    said = capsys.readouterr().err
    assert word in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("name", sorted(p.stem for p in SCENARIOS.glob("*.toml") if p.stem != "demo"))
def test_every_scenario_file_can_be_read(name: str, small: list[Path]) -> None:
    from simulations.__main__ import parser
    from simulations.journey import scenario

    plan = scenario(name, parser().parse_args(["compare", name, "--sites", *map(str, small)]))
    federations.Clients(**plan.clients)
    assert federations.strategies(plan.strategies, plan.config)


def test_every_strategy_changes_known_settings() -> None:
    import tomllib

    names = tomllib.loads(federations.STRATEGIES.read_text())
    found = federations.strategies(",".join(names), SmileConfig())
    assert list(found) == list(names)


def test_the_share_of_pooled_is_over_all_seeds() -> None:
    task = Task(
        np.arange(4), np.arange(4), np.array([0, 1, 0, 1]), np.array(list("aabb")), ("fear", "anger"), ()
    )

    def one(row: str, seed: int, answer: list[int]) -> dict[str, Any]:
        cost = {"bytes": 10.0 * (seed + 1), "round_seconds": 1.0, "averaged": 2, "rounds": 2, "refused": seed}
        return {
            "row": row,
            "seed": seed,
            "test": [0, 1, 2, 3],
            "seconds": 1.0,
            "answers": {"linear_probe": answer},
            **cost,
        }

    right, half = [0, 1, 0, 1], [0, 1, 1, 0]
    results = [one("untrained", s, half) for s in (0, 1)] + [
        one("alone-0", 0, right),
        one("alone-0", 1, half),
    ]
    results += [one("alone-3", s, half) for s in (0, 1)] + [one("pooled", s, right) for s in (0, 1)]
    results += [one("x", 1, half), one("x", 0, right)]
    rows = federations.summarise(results, task, ["x"])["rows"]
    assert rows["x"]["of_pooled"] == {"mean": 0.75, "values": [1.0, 0.5]}
    assert (rows["x"]["bytes"], rows["x"]["refused"], rows["x"]["rounds"]) == (15.0, 1, 4)
    assert rows["one client alone (mean of 2)"]["linear_probe"]["values"] == [0.75, 0.5]
