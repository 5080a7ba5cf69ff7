"""`python -m export verify` and `bench`: a verdict on golden captures and on people nobody trained on, and how long it takes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export import verify
from export.__main__ import main
from export.runtime.smile_edge.bench import Power, measure
from smile.checkpoint import load, save
from smile.protocol import get_arrays
from tests.export.sealing import seal


def test_every_precision_passes_on_golden_captures_and_held_out_people(three, checkpoint, people, capsys):
    words = ["verify", three, "--checkpoint", checkpoint, "--site", people, "--json"]
    code, rows = main(list(map(str, words))), json.loads(capsys.readouterr().out)
    assert [(row["precision"], row["data"]) for row in rows] == [
        (precision, data) for data in ("golden", "held-out") for precision in ("fp16", "fp32", "int8")
    ]
    held = {row["precision"]: row for row in rows if row["data"] == "held-out"}
    # INT8 on noise may lose more than it may: then it fails, and so does the command.
    small = held["int8"]
    good = (
        min(small["cosine"], small["same_class"]) >= 0.99
        and min(small["zero_shot"], small["linear_probe"]) >= -0.005
    )
    assert [row["verdict"] for row in rows] == ["pass"] * 5 + ["pass" if good else "fail"] and code == int(
        not good
    )
    assert held["fp32"]["embedding"] < 1e-4 and held["fp32"]["zero_shot"] == held["fp32"]["linear_probe"] == 0


def test_the_people_are_those_whom_the_study_held_out(three, checkpoint, people):
    from smile.protocols import SIX, Study, select
    from smile.site.store import Site

    found, task = verify.HeldOut(three, checkpoint, [people]), select(Study("", classes=SIX), Site(people))
    trained, tested = (set(task.subjects[places]) for places in (found.train, found.test))
    assert trained and tested and not trained & tested
    assert trained | tested == set(Site(people).subjects)


def test_the_decisions_of_several_sites_are_counted_together(three, checkpoint, people):
    from export.runtime.smile_edge import ExpressionReader

    reader = ExpressionReader(three, precision="int8")
    one, two = (verify.HeldOut(three, checkpoint, [people] * count).figures(reader) for count in (1, 2))
    assert two.pop("decisions") == 2 * one.pop("decisions") > 0
    del one["linear_probe"], two["linear_probe"]  # fitted on twice as many
    assert two == pytest.approx(one)


def test_an_engine_that_loses_a_decision_in_a_hundred_fails(three, checkpoint, people):
    """Its embeddings are those of other captures: cosine, classes and both tasks fall."""
    from export.runtime.smile_edge import ExpressionReader

    reader, held = ExpressionReader(three, precision="fp32"), verify.HeldOut(three, checkpoint, [people])
    honest = held.figures(reader)
    assert honest["zero_shot"] == honest["linear_probe"] == 0
    engine = reader.engine
    reader.engine = type(
        "Wrong", (), {"name": "x", "precision": "fp32", "__call__": lambda _, v: -engine(v)}
    )()
    found = held.figures(reader)
    assert found["cosine"] < -0.99 and found["linear_probe"] < 0
    assert verify.row(reader, "held-out", found, verify.LIMITS)["verdict"] == "fail"


@pytest.mark.parametrize(("lost", "verdict"), [(0.0, "pass"), (0.004, "pass"), (0.006, "fail")])
@pytest.mark.parametrize("task", ["zero_shot", "linear_probe"])
def test_half_a_point_of_a_task_may_be_lost_and_no_more(reader, task, lost, verdict):
    found = {"zero_shot": 0.0, "linear_probe": 0.1, task: -lost}
    assert verify.row(reader, "held-out", found, verify.LIMITS)["verdict"] == verdict


def test_a_bundle_whose_engine_disagrees_with_its_golden_captures_fails(three, tmp_path, capsys):
    copy = Path(shutil.copytree(three, tmp_path / "copy"))
    with np.load(copy / "golden.npz") as golden:
        wrong = {**golden, "embedding": golden["embedding"][::-1]}
    np.savez(copy / "golden.npz", **wrong)
    seal(copy)
    assert main(["verify", str(copy)]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["fail", "fail", "pass"]  # int8 has its own


def test_another_checkpoint_is_refused(three, checkpoint, people, tmp_path, capsys):
    model, config, meta = load(checkpoint)
    arrays = {name: array + np.float32(1) for name, array in get_arrays(model).items()}
    save(tmp_path / "ck", arrays, config, meta)
    words = ["verify", three, "--checkpoint", tmp_path / "ck", "--site", people]
    assert main(list(map(str, words))) == 1
    assert "was not made of" in capsys.readouterr().err


@pytest.mark.parametrize("half", ["--checkpoint", "--site"])
def test_half_of_what_is_needed_is_refused(three, checkpoint, people, capsys, half):
    path = checkpoint if half == "--checkpoint" else people
    assert main(["verify", str(three), half, str(path)]) == 1
    assert "together" in capsys.readouterr().err


def test_bench_measures_torch_and_every_precision_in_turn(three, checkpoint, golden, tmp_path, capsys):
    np.save(tmp_path / "face.npy", golden["views"][0])
    words = ["bench", three, tmp_path / "face.npy", "--checkpoint", checkpoint, "--runs", 3, "--json"]
    assert main(list(map(str, words))) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["rows"]
    assert len(rows) == 7 and "torch eager" in rows and "face.npy to label, int8" in rows
    assert all(
        0 < row["min"] <= row["p50"] <= row["p95"] <= row["p99"] and row["runs"] == 3 for row in rows.values()
    )
    assert report["cores"] >= 1 and report["threads"] == 2
    assert main(list(map(str, words[:-1]))) == 0
    assert "p99" in capsys.readouterr().out


def test_calls_take_turns_after_a_warm_up():
    order: list[str] = []
    rows = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=2, warm_up=3)
    assert "".join(order) == "aaabbb" + "abab" and list(rows) == ["a", "b"]


def test_power_is_what_tegrastats_says(tmp_path, monkeypatch):
    """A program that prints the lines of a Jetson Orin Nano."""
    line = (
        "11-20-2026 RAM 2000/7620MB CPU [1%@729] GR3D_FREQ 0% VDD_IN {}mW/4000mW VDD_CPU_GPU_CV 500mW/500mW"
    )
    script = tmp_path / "tegrastats"
    script.write_text(
        "#!/bin/sh\n" + "".join(f"echo '{line.format(mw)}'\n" for mw in (5000, 7000)) + "sleep 5\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with Power() as power:
        import time

        time.sleep(0.3)
    assert power.watts == 6.0
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with Power() as none:
        pass
    assert none.watts is None
