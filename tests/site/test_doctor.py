"""`smile doctor`: the same counts as preparing afterwards, nothing written, and a command that works."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smile import scans
from smile.__main__ import main
from smile.scans import Frame, Listing, Sequence
from smile.site.doctor import spread
from smile.site.plan import Chunk, Item, Plan

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "16", "--yaws", "-30,0", "--modalities", "depth"]


def trace(folder: Path) -> list[tuple]:
    """Everything below a folder, with sizes and times."""
    return sorted(
        (str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in (folder, *folder.rglob("*"))
    )


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """doctor(raw, ...) -> the report; `code` is what it must end with."""

    def call(raw: Path, *words: str, code: int = 0) -> dict:
        assert main(["doctor", str(raw), *SMALL, *words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


def test_the_counts_are_those_of_preparing_and_the_command_works(
    make_raw, doctor, tmp_path: Path, capsys
) -> None:
    raw = make_raw(("P001", "P002", "P003"), ("happy", "sad", "fear"))
    report = doctor(raw, "--frames", "3", "--sample", "2")
    assert report["dataset"] == "scanner"
    assert (report["subjects"], report["sequences"], report["frames"]) == (3, 9, 9)
    assert report["labels"] == [
        {"label": label, "subjects": 3, "sequences": 3, "frames": 3}
        for label in ("fear", "happiness", "sadness")
    ]
    assert (report["problems"], report["first_problems"]) == (0, [])
    assert report["sample"]["scans"] == report["sample"]["good"] == 2
    words = shlex.split(report["command"])
    assert words[:4] == ["smile", "prepare", str(raw), str(tmp_path / "raw-site")]
    assert words[4:] == ["--frames=3", "--yaws=-30,0", "--size=16", "--modalities=depth"]
    assert main([*words[1:], "--jobs", "0", "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    site = report["site"]
    assert site["planned"] == site["samples"] == manifest["counts"]["samples"] == 9
    assert site["megabytes"] == pytest.approx(manifest["bytes"] / 1e6, abs=0.01)
    assert manifest["counts"]["subjects"] == report["subjects"]
    assert manifest["labels"] == {line["label"]: line["sequences"] for line in report["labels"]}
    assert site["seconds"] > 0
    assert doctor(raw)["command"].split()[3] == str(tmp_path / "raw-site2"), "the other folder is taken now"


def test_nothing_is_written_anywhere(make_raw, tmp_path: Path) -> None:
    raw, home = make_raw(("P001",)), tmp_path / "home"
    home.mkdir()
    before = trace(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "smile", "doctor", raw, *SMALL],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "TMPDIR": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert trace(tmp_path) == before
    assert done.stderr == "", "no bar where there is no terminal"
    lines = done.stdout.splitlines()
    assert lines[0].startswith("recognised scanner: ")
    assert lines[-1].startswith(f"to prepare it: smile prepare {raw} {raw}-site --yaws=-30,0 --size=16")
    assert "an estimate from the sample: 2 samples of 2 planned" in done.stdout


def test_bad_scans_problems_and_other_files_are_named(make_raw, doctor) -> None:
    raw = make_raw(("P001", "P002"))
    (raw / "P001" / "P001_sad_0.obj").write_text("no scan")
    (raw / "P002" / "Jane Doe.obj").write_text("no name")
    (raw / "P002" / "notes.txt").write_text("x")
    (raw / "P002" / "more.txt").write_text("x")
    report = doctor(raw)
    assert report["problems"] == 1
    assert [problem["file"] for problem in report["first_problems"]] == ["P002/Jane Doe.obj"]
    assert report["other_files"] == {".txt": 2}
    sample = report["sample"]
    assert (sample["scans"], sample["good"]) == (4, 3)
    assert [problem["file"] for problem in sample["set_aside"]] == ["P001/P001_sad_0.obj"]
    assert str(raw) not in json.dumps([report["first_problems"], sample])
    assert (report["site"]["planned"], report["site"]["samples"]) == (4, 3)


def test_scans_without_colours_are_counted(make_raw, doctor) -> None:
    raw = make_raw(("P001",))
    path = raw / "P001" / "P001_sad_0.obj"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(" ".join(line.split()[:4]) for line in lines))
    assert doctor(raw)["sample"]["without_colour"] == 1
    report = doctor(raw, "--modalities", "texture")
    assert report["sample"]["good"] == 1
    assert report["site"]["samples"] == 1


def test_nothing_usable_ends_with_2_and_no_command(make_raw, doctor, tmp_path: Path, capsys) -> None:
    raw = make_raw(("P001",))
    for path in raw.rglob("*.obj"):
        path.write_text("no scan")
    report = doctor(raw, code=2)
    assert report["command"] is None
    assert report["verdict"] == "none of the 2 scans that were tried can be prepared"
    assert main(["doctor", str(raw), *SMALL]) == 2
    output, complaint = capsys.readouterr()
    assert "to prepare it" not in output
    assert complaint == f"smile doctor: {report['verdict']}\n"
    report = doctor(make_raw(("P002",)), "--motion", "dynamic", code=2)
    assert report["site"]["planned"] == 0
    assert "--motion dynamic needs two or more frames" in report["first_problems"][0]["reason"]
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / "empty")]) == 2
    assert "the folder is empty" in capsys.readouterr().err


def test_sequences_measures_and_images(make_raw, doctor, tmp_path: Path, monkeypatch) -> None:
    raw = make_raw(("P001",), tuple(f"f{k}" for k in range(6)))
    frames = tuple(
        Frame(
            raw / "P001" / f"P001_f{k}_0.obj",
            k,
            texture=raw / "P001" / "face.jpg" if k else None,
            measures={"AU12": 1.0} if k > 3 else {},
        )
        for k in range(6)
    )
    found = Listing("bp4d", "made up", (Sequence("P001", None, "P001/T1", frames, {"pain": 1.0}),))
    monkeypatch.setattr(scans, "find", lambda folder, **_: found)
    report = doctor(raw, "--window", "4", "--frames", "4", "--motion", "dynamic")
    assert report["labels"] == [{"label": None, "subjects": 1, "sequences": 1, "frames": 6}]
    assert report["measures"] == {"AU12": 2, "pain": 6}
    assert report["without_image"] == 1
    assert report["site"]["planned"] == 2
    assert report["site"]["megabytes"] == round(2 * 2 * 16 * 16 / 1e6, 2)
    assert "--window=4 --yaws=-30,0 --size=16 --modalities=depth --motion=dynamic" in report["command"]


def test_the_sample_is_spread_over_labels_and_subjects() -> None:
    sequences = tuple(
        Sequence(f"P{s}", label, f"P{s}/{label}", (Frame(Path(f"/raw/{s}{label}")),))
        for s in range(4)
        for label in ("anger", "fear", None)
    )
    items = tuple(Item(k, 0.0, one.frames[0], one.frames) for k, one in enumerate(sequences))
    plan = Plan(Listing("scanner", "", sequences), (Chunk("a", items[:5]), Chunk("b", items[5:])))
    chosen = [sequences[item.sequence] for item in spread(plan, 4)]
    assert {one.label for one in chosen[:3]} == {"anger", "fear", None}
    assert len({one.subject for one in chosen}) == 4
    assert len(spread(plan, 99)) == 12


def test_index_bases_of_landmarks_are_said(doctor, make_raw, monkeypatch) -> None:
    raw = make_raw(("P001",), ("happy", "sad"))
    sequences = []
    for base, word in enumerate(("happy", "sad")):
        mesh = raw / "P001" / f"P001_{word}_0.obj"
        vertices = scans.read_file(mesh).vertices
        chosen = np.linspace(5, len(vertices) - 5, 83).astype(int)
        rows = [f"{k + base}\t{' '.join(f'{c:.4f}' for c in vertices[k])}" for k in chosen]
        mesh.with_suffix(".bnd").write_text("\n".join(rows) + "\n")
        sequences.append(Sequence("P001", None, word, (Frame(mesh, landmarks=mesh.with_suffix(".bnd")),)))
    monkeypatch.setattr(scans, "find", lambda folder, **_: Listing("bu4dfe", "made up", tuple(sequences)))
    report = doctor(raw)
    assert report["landmark_files"] == 2
    assert report["sample"]["index_bases"] == {"0": 1, "1": 1}
    assert report["sample"]["landmarks"] == {"83": 2}
    (note,) = report["sample"]["notes"]
    assert "both sides were exchanged" in note, "what a reader mends is said, and not on standard error"


def test_limits_are_judged_by_and_carried_into_the_command(make_raw, doctor) -> None:
    raw = make_raw(("P001",))
    report = doctor(raw, "--limit", "coverage=0", "--limit", "yaw=off")
    assert report["command"].endswith(" --limit=coverage=0 --limit=yaw=off")
    report = doctor(raw, "--limit", "spacing=0.001", code=2)
    assert "is above the limit 0.00" in report["sample"]["set_aside"][0]["reason"]


def test_options_that_cannot_be(make_raw, capsys) -> None:
    raw = make_raw(("P001",))
    for words, message in (
        (["--sample", "0"], "--sample 0: give 1 or more"),
        (["--frames", "0"], "frames = 0"),
        (["--dataset", "bu9"], "data set 'bu9' is unknown"),
        (["--mapping", "none.toml"], "none.toml"),
        (["--limit", "noise=inf"], "the number is 0 or more"),
        (["--motion", "fast"], "choose frames, difference or dynamic"),
    ):
        assert main(["doctor", str(raw), *words]) == 2
        complaint = capsys.readouterr().err
        assert complaint.startswith("smile doctor: ")
        assert message in complaint
        assert complaint.count("\n") == 1
