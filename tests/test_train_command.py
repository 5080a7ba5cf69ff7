"""`smile train` as a user types it: what it makes, what it says, what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smile.__main__ import main
from smile.checkpoint import latest, load
from smile.config import ViewConfig
from smile.protocol import METRICS
from smile.site.disk import held
from smile.train_command import LOCK
from tests.random_site import write_random_site

VIEWS = ViewConfig(yaws=(0.0,), size=16, modalities=("depth", "normals"))
SHORT = ("--steps", "4", "--save-every", "2", "--set", "training.batch-size=6")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_site(tmp_path_factory.mktemp("command") / "site", VIEWS, people=5)


@pytest.fixture(scope="module")
def done(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "run"
    assert main(["train", str(site), "--out", str(out), *SHORT, "--quiet"]) == 0
    return out


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence of a command that fails with 2."""
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("smile train: ") and said.count("\n") == 1
    return said


def test_a_run_leaves_a_checkpoint_a_log_curves_and_a_result(done: Path, site: Path) -> None:
    _, config, meta = load(latest(done))
    assert config.views == VIEWS and config.model.modalities == VIEWS.modalities and meta["round"] == 2
    assert config.training.local_steps == 2 and config.federation.rounds == 2
    lines = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert set(lines[0]) == {"step", "seconds"} | set(METRICS) - {"num-examples"}
    assert list((done / "tensorboard").glob("events.out.tfevents.*"))
    result = json.loads((done / "result.json").read_text())
    assert result["steps"] == 4 and result["prompt_source"] == "label" and result["trained_on"] == 24
    assert 0 <= result["evaluation"]["linear_probe"] <= 1 and result["evaluation"]["test_subjects"] == 2


def test_curves_hold_every_step(done: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(done / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss/loss")] == [0, 1, 2, 3]


def test_a_finished_run_is_told_again_and_not_trained_again(
    done: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "log.jsonl").read_bytes()
    assert main(["train", str(site), "--out", str(done), *SHORT, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((done / "result.json").read_text())
    assert "is finished" in said.err and (done / "log.jsonl").read_bytes() == before


def test_the_summary_names_the_prompt_source_beside_the_figures(
    site: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(site), "--out", str(done), *SHORT]) == 0
    said = capsys.readouterr().out
    assert "prompt source label" in said and "linear probe" in said and "2 people held out" in said


def test_a_site_without_labels_is_trained_and_said_to_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_random_site(tmp_path / "site", VIEWS, labelled=False)
    words = [
        "train",
        str(site),
        "--out",
        str(tmp_path / "run"),
        *SHORT,
        "--set",
        "objective.prompt-source=none",
    ]
    assert main(words) == 0
    assert "no labels" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "6", "--save-every", "4"], "no multiple of --save-every 4: add --save-every 2"),
        (["--steps", "0"], "numbers from 1"),
        (["--set", "training.sped=1"], "KEY=VALUE"),
        (["--set", "training.seed"], "KEY=VALUE"),
        (["--set", "training.seed=x"], "training.seed = 'x'"),
        (["--set", "objective.prompt-source=oracle"], "choose from label"),
        (["--set", "views.size=32"], "follows from the site"),
        (["--set", "federation.rounds=3"], "follows from the site"),
        (["--set", "training.local-steps=3"], "follows from the site"),
        (["--set", "model.modalities=texture"], "what is rendered"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert sentence in refusal(capsys, str(site), "--out", str(tmp_path / "run"), *words)


def test_other_settings_or_another_site_do_not_go_on(
    done: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, str(site), "--out", str(done), *SHORT, "--set", "training.seed=3")
    assert "was begun with --set training.seed=0, not with --set training.seed=3:" in said
    said = refusal(capsys, str(site), "--out", str(done), *SHORT, "--deterministic")
    assert "was begun without --deterministic, not with --deterministic:" in said
    said = refusal(capsys, str(site), "--out", str(done), *SHORT, "--steps", "8")
    assert "was begun with --steps 4, not with --steps 8:" in said and "federation" not in said
    said = refusal(capsys, str(site), "--out", str(done), *SHORT, "--save-every", "1")
    assert "was begun with --save-every 2, not with --save-every 1:" in said
    other = write_random_site(tmp_path / "site", VIEWS, people=6)
    assert "another site" in refusal(capsys, str(other), "--out", str(done), *SHORT)


def test_folders_that_are_not_what_they_should_be(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no prepared site" in refusal(capsys, str(tmp_path / "none"), "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("dear")
    assert "not empty" in refusal(capsys, str(site), "--out", str(tmp_path / "letters"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text("{")
    assert "cannot be read" in refusal(capsys, str(site), "--out", str(tmp_path / "odd"))
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["mine.txt"]
    (tmp_path / "odd" / "run.json").write_text('{"theirs": 1}')
    assert "cannot be read" in refusal(capsys, str(site), "--out", str(tmp_path / "odd"))


def test_a_first_try_that_fails_claims_nothing(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(site), "--out", str(tmp_path / "run"), *SHORT)
    assert "model.tower" in refusal(capsys, *words, "--set", "model.tower=babel")
    assert (tmp_path / "run" / "run.json").exists()
    assert main(["train", *words]) == 0
    assert "--set model.tower" in refusal(capsys, *words, "--set", "model.tower=babel")


def test_one_process_works_on_a_run(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    with held(run / LOCK, "smile train"):
        said = refusal(capsys, str(site), "--out", str(run), *SHORT)
    assert f"another `smile train` is at work on {run}" in said
    assert [path.name for path in run.iterdir()] == [LOCK]
    assert main(["train", str(site), "--out", str(run), *SHORT, "--quiet"]) == 0


def test_what_was_damaged_by_hand_is_made_again(
    site: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(done, tmp_path / "run"))
    words = ["train", str(site), "--out", str(run), *SHORT]
    model, log = (run / "round-0002" / "model.safetensors").read_bytes(), (run / "log.jsonl").read_bytes()
    figures = json.loads((run / "result.json").read_text())["evaluation"]
    shutil.rmtree(run / "round-0002")
    assert main(words) == 0 and "round-0002 is gone" in capsys.readouterr().out
    assert (run / "round-0002" / "model.safetensors").read_bytes() == model
    for text in ("{", "[]", "{}", '{"evaluation": 3, "people_held_out": 2, "checkpoint": ""}'):
        (run / "result.json").write_text(text)
        with (run / "log.jsonl").open("ab") as file:
            file.write(b'[1]\n{"step": null}\n\xff\n{"step": 2')
        assert main(words) == 0 and "result.json is damaged" in capsys.readouterr().out
        assert json.loads((run / "result.json").read_text())["evaluation"] == figures
        assert (run / "log.jsonl").read_bytes() == log


def test_what_would_teach_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = write_random_site(tmp_path / "site", VIEWS, frames=1, labelled=False)
    words = (str(site), "--out", str(tmp_path / "run"), *SHORT)
    said = refusal(capsys, *words)
    assert "has no label" in said and "geometry, pseudo or none" in said
    for name in ("order", "intensity"):
        more = ("--set", "objective.prompt-source=none", "--set", f"objective.{name}=0.1")
        assert f"objective.{name} = 0.1 needs two frames" in refusal(capsys, *words, *more)
    assert not (tmp_path / "run").exists()


def test_one_person_alone_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = write_random_site(tmp_path / "site", VIEWS, people=1)
    assert (
        main(["train", str(site), "--out", str(tmp_path / "run"), *SHORT, "--set", "objective.order=0.1"])
        == 0
    )
    assert "nobody is held out" in capsys.readouterr().out


def test_too_few_people_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = write_random_site(tmp_path / "site", VIEWS, people=2, sequences=1, frames=1)
    assert "1 captures to train on" in refusal(capsys, str(site), "--out", str(tmp_path / "run"), *SHORT)


def test_ctrl_c_says_what_is_kept(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from smile.state import State

    update = State.update

    def stop(state: State, rate: float) -> object:
        if state.step == 3:
            raise KeyboardInterrupt
        return update(state, rate)

    monkeypatch.setattr(State, "update", stop)
    words = ["train", str(site), "--out", str(tmp_path / "run"), *SHORT]
    assert main(words) == 130
    assert "up to step 2 is kept" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(words) == 0
    assert "going on after step 2 of 4" in capsys.readouterr().out


def test_help_has_examples_and_loads_no_flower(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert (
        "examples:" in said and "--set objective.prompt-source=geometry" in said and "--deterministic" in said
    )


@pytest.mark.slow
def test_training_alone_never_imports_flower(site: Path, done: Path) -> None:
    program = (
        "import sys; from smile.__main__ import main; import smile.training, smile.state; "
        f"main(['train', {str(site)!r}, '--out', {str(done)!r}, *{SHORT!r}, '--quiet']); "
        "sys.exit(any(name.split('.')[0] == 'flwr' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
