"""`smile evaluate` as a site types it, on a checkpoint of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from smile.__main__ import main
from smile.checkpoint import save
from smile.config import SmileConfig, ViewConfig
from smile.decisions import figures
from smile.model import build_model
from smile.protocol import get_arrays
from smile.protocols import Task


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_config: SmileConfig) -> Path:
    """The folder of a run with one finished round."""
    folder = tmp_path_factory.mktemp("run")
    save(folder / "round-0002", get_arrays(build_model(small_config)), small_config, {})
    return folder


def test_people_held_out_are_what_is_measured_by_default(
    prepared: list[Path], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(prepared[1]), str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["protocol"], report["people"], report["folds"], report["seeds"]) == ("holdout", 1, 1, 1)
    assert report["pretraining"]["kind"] == "inductive" and report["prompt_source"] == "label"
    found = report["figures"]["checkpoint"]
    assert set(found) == {"linear_probe", "knn", "zero_shot"}
    for method in found.values():
        assert (
            0 <= method["accuracy"]["low"] <= method["accuracy"]["value"] <= method["accuracy"]["high"] <= 1
        )
        assert np.sum(method["confusion"]) == report["decisions"]


def test_folds_over_all_people_say_that_training_saw_them(
    prepared: list[Path], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--protocol",
        "bu4dfe",
        "--untrained",
        "--seeds",
        "2",
        "--shots",
        "1",
        "--out",
        str(tmp_path / "r.json"),
    ]
    assert main(["evaluate", str(prepared[0]), str(run / "round-0002"), *words]) == 0
    shown, report = capsys.readouterr().out, json.loads((tmp_path / "r.json").read_text())
    assert "TRANSDUCTIVE" in shown and "2 of the 3 people" in shown
    assert "to be confirmed: 10 folds" in shown and "3 of 101 people: no figure to compare" in shown
    assert report["folds_sha256"] in shown and len(report["folds_sha256"]) == 16
    assert (report["folds"], report["seeds"], report["decisions"]) == (3, 2, 18)
    assert set(report["figures"]) == {"checkpoint", "untrained"}
    assert np.sum(report["figures"]["checkpoint"]["1_shot"]["confusion"]) == 18 * 2 * 10
    assert np.sum(report["figures"]["untrained"]["knn"]["confusion"]) == 18 * 2


def test_training_anew_in_each_fold_sees_no_test_person(
    prepared: list[Path], run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import smile.evaluation

    trained: list[set[str]] = []
    honest = smile.evaluation.pretrain

    def spy(captures, config, *, rows, device):  # type: ignore[no-untyped-def]
        trained.append(set(captures.subjects[rows]))
        return honest(captures, config, rows=rows, device=device)

    monkeypatch.setattr("smile.evaluation.pretrain", spy)
    words = ["--protocol", "subjects", "--retrain", "--fine-tune", "2", "--json"]
    assert main(["evaluate", str(prepared[1]), str(run), *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pretraining"]["kind"] == "inductive" and set(report["figures"]) == {"retrained"}
    assert "fine_tuned" in report["figures"]["retrained"]
    assert len(trained) == 3 and all(len(people) == 2 for people in trained)
    assert len(set(map(frozenset, trained))) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--protocol", "bp4d-au"], "none of AU01"),
        (["--protocol", "4dme"], "none of micro_negative"),
        (["--protocol", "bu3dfe-subset1"], "level of its expressions"),
        (["--protocol", "bp4d-au", "--shots", "2"], "leave --shots"),
        (["--seeds", "0"], "give 1 or more"),
        (["--device", "abacus"], "--device abacus"),
        (["--device", "meta"], "--device meta"),
        (["--out", "."], "--out . is a folder"),
    ],
)
def test_what_is_missing_is_one_sentence(
    words: list[str], sentence: str, prepared: list[Path], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(prepared[0]), str(run), *words]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and len(said.splitlines()) == 1


def test_other_views_and_no_checkpoint_are_named(
    prepared: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(prepared[0]), str(tmp_path)]) == 2
    assert "give the folder of a run or of a finished round" in capsys.readouterr().err
    config = SmileConfig(views=ViewConfig(size=16))
    save(tmp_path / "round-0001", get_arrays(build_model(config)), config, {})
    assert main(["evaluate", str(prepared[0]), str(tmp_path)]) == 2
    assert "prepare" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_said_before_the_work_and_else_printed(
    prepared: list[Path],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr("smile.evaluate_command._measure", pytest.fail)
        words = ["evaluate", str(prepared[0]), str(run), "--out"]
        assert main([*words, str(tmp_path / "file" / "report.json")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and str(tmp_path / "file") in said.err and said.err.count("\n") == 1
    assert main([*words, str(tmp_path / "new" / "report.json")]) == 0
    assert json.loads((tmp_path / "new" / "report.json").read_text())["protocol"] == "holdout"

    def full(path: Path, report: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("smile.evaluate_command.write_json", full)
    assert main([*words, str(tmp_path / "report.json")]) == 2
    assert "linear probe" in capsys.readouterr().out.rpartition("linear probe")[1]


def test_figures_of_several_questions_and_repeated_answers() -> None:
    truth = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    task = Task(np.arange(4), np.arange(4), truth, np.array(["a", "a", "b", "b"]), ("AU01", "AU02"), ())
    found = figures(
        task, [(np.array([0, 1]), np.array([[1, 1], [0, 1]])), (np.array([2, 3]), np.array([[0, 0], [0, 1]]))]
    )
    assert found["f1"] == {"AU01": pytest.approx(2 / 3), "AU02": 1.0}
    assert found["uf1"]["value"] == pytest.approx(5 / 6)
    single = task._replace(truth=np.array([0, 1, 0, 1]))
    found = figures(
        single,
        [(np.array([0, 1]), np.array([[0, 1], [0, 0]])), (np.array([2, 3]), np.array([[0, 1], [1, 1]]))],
    )
    assert found["accuracy"]["value"] == pytest.approx(6 / 8)
    assert found["accuracy"]["folds_mean"] == pytest.approx(0.75)
