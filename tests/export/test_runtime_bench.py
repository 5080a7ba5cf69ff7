"""`run.py --bench`: what it measures, and what it says of power on a Jetson."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import bench, main

NANO = "11-20-2026 RAM 2000/7620MB CPU [1%@729] GR3D_FREQ 0% VDD_IN {}mW/4000mW VDD_CPU_GPU_CV 500mW/500mW"
AGX = "RAM 3000/62000MB VDD_GPU_SOC {}mW/3201mW VDD_CPU_CV 800mW/800mW VIN_SYS_5V0 1200mW/1200mW VDDQ_VDD2_1V8AO 302mW/302mW"
THOR = "RAM 9/99MB VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 4724mW/4724mW VIN_SYS_5V0 4957mW/4957mW VIN {}mW/20000mW"
OLD = "RAM 1000/3964MB (lfb 1x1MB) CPU [1%@102] POM_5V_IN {}/2000 POM_5V_GPU 0/0"
RAILLESS = "RAM 1000/31919MB GPU 0/0 CPU {}/310 SOC 931/931"


@pytest.fixture
def face(golden, tmp_path) -> Path:
    np.save(tmp_path / "face.npy", golden["views"][0])
    return tmp_path / "face.npy"


@pytest.fixture
def tegrastats(tmp_path, monkeypatch):
    """A program that says the same line, again and again; and short rows."""

    def make(line: str) -> None:
        (tmp_path / "bin").mkdir()
        script = tmp_path / "bin" / "tegrastats"
        sleep = shutil.which("sleep")
        script.write_text(f"#!/bin/sh\nwhile :; do echo '{line}'; {sleep} 0.02; done\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
        monkeypatch.setattr(bench, "SECONDS", 0.3)

    return make


def run(bundle, capsys, *words) -> dict:
    assert main(["--bundle", str(bundle), "--bench", "--json", "--threads", "1", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_batch_of_the_profile_and_every_input(bundle, manifest, face, capsys):
    report = run(bundle, capsys, "--runs", 3, face)
    most = manifest["profile"]["batch"][2]
    batches = [f"engine, batch {size}" for size in (1, 2, 4, 8, 16) if size <= most]
    assert list(report["rows"]) == [*batches, "face.npy to label"]
    for row in report["rows"].values():
        assert 0 < row["min"] <= row["p50"] <= row["p95"] <= row["p99"]
        assert row["min"] <= row["mean"] and row["runs"] == 3 and "watts" not in row
    assert (report["precision"], report["threads"], report["views"]) == ("fp32", 1, 3)
    assert report["cores"] >= 1 and report["power"] is None


def test_one_batch(bundle, manifest, capsys, monkeypatch):
    report = run(bundle, capsys, "--batch", 3, "--runs", 2)
    assert list(report["rows"]) == ["engine, batch 3"] and report["rows"]["engine, batch 3"]["runs"] == 2
    most = manifest["profile"]["batch"][2]
    assert main(["--bundle", str(bundle), "--bench", "--batch", str(most + 1)]) == 2
    err = capsys.readouterr().err
    assert f"take {most} captures at once, give {most} or less" in err and len(err.splitlines()) == 1


def test_the_table(bundle, capsys):
    assert main(["--bundle", str(bundle), "--bench", "--batch", "1", "--runs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split() == ["ms", "p50", "p95", "p99", "min", "runs"]
    assert lines[-1].startswith("engine, batch 1") and lines[-1].split()[-1] == "2"


def test_watts_and_joules_on_a_jetson(bundle, capsys, tegrastats):
    tegrastats(NANO.format(5000))
    report = run(bundle, capsys, "--batch", 2, "--runs", 2)
    row = report["rows"]["engine, batch 2"]
    assert row["watts"] == 5.0 and row["joules"] == pytest.approx(5.0 * row["mean"] / 1e3)
    assert row["runs"] > 2  # until tegrastats has said something
    assert report["power"] is None
    assert bench.table(report).splitlines()[-2].split()[-2:] == ["watts", "joules"]


def test_a_board_whose_rails_are_not_known_is_said(bundle, capsys, tegrastats):
    tegrastats(RAILLESS.format(310))
    report = run(bundle, capsys, "--batch", 1, "--runs", 2)
    assert report["power"].startswith("no watts: tegrastats names no rail of the whole board (RAM 1000/")
    assert "watts" not in report["rows"]["engine, batch 1"]
    assert report["power"] in bench.table(report)


@pytest.mark.parametrize(
    ("line", "watts"), [(NANO, 5.0), (AGX, 7.0), (THOR, 5.0), (OLD, 5.0), (RAILLESS, None), ("", None)]
)
def test_the_whole_board(line, watts):
    assert bench.board_watts(line.format(5000)) == watts


def test_the_warm_up_does_not_count(tegrastats, monkeypatch):
    tegrastats(NANO.format(5000))
    with bench.Power() as power:
        power._read.append(1000.0)
        power.forget()
        time.sleep(0.3)
    assert power.watts == 5.0
    order: list[str] = []
    monkeypatch.setattr(bench.Power, "forget", lambda self: order.append("forget"))
    bench.measure_power({"a": lambda: order.append("call")}, runs=1)
    assert order.index("forget") == bench.WARM_UP
