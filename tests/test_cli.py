"""The `smile` command as a person or a script meets it: help, sentences, exit codes, what goes to which stream."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import smile
from smile.__main__ import main

ROOT = Path(__file__).parent.parent
SMALL = ["--size", "16", "--yaws", "0", "--modalities", "depth", "--jobs", "0"]


def failure(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Runs a command that must fail with exit code 2 and one sentence; returns the sentence."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    output, complaint = capsys.readouterr()
    assert code == 2, (output, complaint)
    assert complaint.count("\n") == 1, complaint
    assert "Traceback" not in complaint
    return complaint


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """One face, as an OBJ with vertex colours in the layout of a scanner's export."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "P001_happy_0.obj").write_text(face())
    return folder


def face() -> str:
    import numpy as np

    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(-64.0, 65, 4), np.arange(-88.0, 89, 4)))
    z = 90 * np.sqrt(1 - (x / 80) ** 2 / 2 - (y / 115) ** 2 / 2) - 90
    z += (
        22
        * np.exp(-((x / 9) ** 2))
        * np.where(y >= -4, np.exp(-(((y + 4) / 26) ** 2)), np.exp(-(((y + 4) / 8) ** 2)))
    )
    z -= 7 * np.exp(-(((abs(x) - 31) / 14) ** 2) - ((y - 34) / 9) ** 2)
    lines = [f"v {p:.2f} {q:.2f} {r:.2f} 0.7 0.6 0.5" for p, q, r in zip(x, y, z, strict=True)]
    for row in range(44):
        for column in range(32):
            a = row * 33 + column + 1
            lines += [f"f {a} {a + 1} {a + 34}", f"f {a} {a + 34} {a + 33}"]
    return "\n".join(lines) + "\n"


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom smile.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'trimesh', 'PIL', 'tqdm', 'multiprocessing'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert time.monotonic() - begin < 5
    for command in ("doctor", "prepare", "inspect"):
        assert f"smile {command} /data" in done.stdout


@pytest.mark.parametrize("command", ["doctor", "prepare", "inspect"])
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert ("RAW" if command == "doctor" else "SITE") in text
    assert "--json" in text


def test_version_and_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "smile", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout == f"smile {smile.__version__}\n"


def test_prepare_then_inspect(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site"
    assert main(["prepare", str(raw), str(site), *SMALL]) == 0
    output, complaint = capsys.readouterr()
    assert "recognised scanner" in output
    assert "renderer " in output
    assert "prepared 1 scan of 1 subject in 1 sequence" in output
    assert complaint == "", "no bar where there is no terminal"
    assert main(["inspect", str(site)]) == 0
    output, complaint = capsys.readouterr()
    assert "happiness" in output
    assert complaint == ""
    assert (site / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", str(site), "--json", "--out", str(tmp_path / "sheet.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["table"][-1] == {"expression": "all", "subjects": 1, "sequences": 1, "samples": 1}
    assert found["manifest"] == json.loads((site / "manifest.json").read_text())
    assert (tmp_path / "sheet.png").exists()


def test_json_alone_is_on_standard_output(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(raw), str(tmp_path / "site"), *SMALL, "--json"]) == 0
    output, complaint = capsys.readouterr()
    assert json.loads(output)["counts"]["samples"] == 1
    assert "recognised scanner" in complaint
    assert main(["prepare", str(raw), str(tmp_path / "site"), *SMALL, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["prepare", str(raw), str(tmp_path / "site"), *SMALL, "--quiet", "--json"]) == 0
    output, complaint = capsys.readouterr()
    assert json.loads(output)
    assert complaint == ""


@pytest.mark.parametrize("spelling", [["--yaws", "-30,0,30"], ["--yaws=-30,0,30"], ["--yaws", "-30, 0, 30"]])
def test_angles_may_begin_with_a_minus(raw: Path, tmp_path: Path, capsys, spelling: list[str]) -> None:
    words = ["prepare", str(raw), str(tmp_path / "site"), "--size", "16", "--jobs", "0", *spelling, "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["views"]["yaws"] == [-30, 0, 30]


def test_wrong_options_give_one_sentence(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    for words, message in (
        ([], "COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["prepare", raw], "SITE"),
        (["prepare", raw, site, "--jobs", "many"], "--jobs"),
        (["prepare", raw, site, "--yaws", "left"], "'left' is no list of numbers such as -30,0,30"),
        (["prepare", raw, site, "--yaws", "-95,0"], "between -90 and 90 degrees"),
        (["prepare", raw, site, "--size", "7"], "views.size = 7: give 16 to 1024 pixels"),
        (["prepare", raw, site, "--modalities", "smell"], "choose from texture, depth, normals"),
        (["prepare", raw, site, "--frames", "0"], "give 1 or more frames"),
        (["prepare", raw, site, "--jobs", "-2"], "jobs = -2: give 1 or more"),
        (["prepare", raw, site, "--dataset", "bu9"], "data set 'bu9' is unknown"),
        (["prepare", raw, site, "--renderer", "crayon"], "renderer 'crayon' is unknown"),
        (["prepare", raw, site, "--sampling", "random"], "choose from middle, uniform, apex"),
        (["prepare", raw, site, "--window", "1"], "--window 1: give 2 or more frames"),
        (
            ["prepare", raw, site, "--limit", "beauty=3"],
            "'beauty' is no figure of a scan: choose from coverage",
        ),
        (["prepare", raw, site, "--limit", "coverage"], "give a number or off"),
        (
            ["prepare", raw, site, "--motion", "fast"],
            "views.motion = 'fast': choose frames, difference or dynamic",
        ),
        (["prepare", raw, site, "--motion", "dynamic", "--frames", "1"], "needs 2 or more frames a sequence"),
        (["prepare", raw, site, "--magnify", "0"], "views.magnify = 0.0: give 1 (none) to 100"),
        (
            ["prepare", raw, site, "--mapping", tmp_path / "none.toml"],
            "none.toml: the mapping cannot be read",
        ),
        (["prepare", raw, site, "--labels", tmp_path / "none.csv"], "none.csv"),
        (["prepare", raw, site, "--au-frame-offset", "one"], "--au-frame-offset"),
        (["prepare", tmp_path / "none", site], "none does not exist: give the folder with the raw scans"),
        (["prepare", raw, raw / "site"], "lies in the raw folder"),
        (["inspect", raw], "is no prepared site: make one with `smile prepare RAW"),
        (["inspect", raw, "--columns", "0"], "give columns from 1"),
    ):
        assert message in failure(capsys, *words), words
    assert not site.exists()


def test_labels_limits_and_mapping_reach_the_tables(raw: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "labels.csv").write_text("file,expression,AU12,pain\nP001_happy_0.obj,grin,1,\n")
    (tmp_path / "words.toml").write_text('[expressions]\ngrin = "contempt"\n')
    words = ["--labels", str(tmp_path / "labels.csv"), "--mapping", str(tmp_path / "words.toml")]
    site = [str(raw), str(tmp_path / "site"), *SMALL]
    assert main(["doctor", str(raw), *words]) == 0
    assert (
        f"--labels={tmp_path / 'labels.csv'} --mapping={tmp_path / 'words.toml'}" in capsys.readouterr().out
    )
    assert main(["prepare", *site, *words, "--limit", "yaw=off", "--limit", "coverage=0", "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["labels"] == {"contempt": 1}
    assert manifest["measures"] == {"AU12": 1}
    assert manifest["limits"]["coverage"] == 0
    assert main(["inspect", str(tmp_path / "site")]) == 0
    output = capsys.readouterr().out
    assert "contempt" in output
    assert "measures, scans coded: AU12 1" in output


def test_a_damaged_site_is_named_in_one_sentence(raw: Path, tmp_path: Path, capsys) -> None:
    site = tmp_path / "site"
    assert main(["prepare", str(raw), str(site), *SMALL, "--quiet"]) == 0
    shard = next(site.glob("shards/*.npy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x07")
    assert failure(capsys, "inspect", site).startswith("smile inspect: shard ")
    shard.unlink()
    assert ".npy is missing: run `smile prepare` again" in failure(capsys, "inspect", site)
    (site / "manifest.json").unlink()
    assert "is not finished" in failure(capsys, "inspect", site)


def test_errors_of_the_system_and_missing_packages(raw: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert f"{file} is a file: give a new" in failure(capsys, "prepare", raw, file / "site", *SMALL)
    for command in (["doctor", raw], ["prepare", raw, tmp_path / "site"]):
        complaint = failure(capsys, *command, "--colour", "red")
        assert complaint.startswith(f"smile {command[0]}: unrecognized arguments: --colour red")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    sentence = failure(capsys, "prepare", raw, tmp_path / "site", *SMALL)
    assert sentence == "smile prepare: the package tqdm is missing: pip install 'smile-federated[client]'\n"


def test_a_sheet_that_cannot_be_written_comes_after_the_counts(raw: Path, tmp_path: Path, capsys) -> None:
    site, nowhere = str(tmp_path / "site"), str(raw / "P001_happy_0.obj" / "sheet.png")
    assert main(["prepare", str(raw), site, *SMALL, "--quiet"]) == 0
    assert main(["inspect", site, "--out", nowhere]) == 2
    output, complaint = capsys.readouterr()
    assert "happiness" in output
    assert complaint.count("\n") == 1
    assert "cannot be written (Not a directory): give another place with --out" in complaint
    assert main(["inspect", site, "--out", nowhere, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["contact_sheet"] is None


def test_names_that_are_no_text_are_printed_in_any_locale(raw: Path) -> None:
    try:
        (raw / os.fsdecode(b"P002_\xff\x1b.obj")).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    done = command("doctor", raw, *SMALL[:-2], PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0, done.stderr
    assert rb"P002_\udcff\x1b.obj" in done.stdout


def test_a_reader_that_has_gone_ends_nothing(raw: Path, tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as gone:
        done = command("prepare", raw, tmp_path / "site", *SMALL, stdout=gone)
        assert (done.returncode, done.stderr) == (0, b"")
        assert (tmp_path / "site" / "manifest.json").exists()
        done = command("doctor", raw, *SMALL[:-2], stdout=gone)
        assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_of_logs_ends_no_run_and_loses_no_json(raw: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = command("prepare", raw, tmp_path / "site", *SMALL, stdout=full)
        assert (done.returncode, done.stderr) == (0, b"")
        done = command("prepare", raw, tmp_path / "site", *SMALL, "--json", "--quiet", stdout=full)
    assert (done.returncode, done.stderr) == (2, b"smile prepare: No space left on device\n")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes streams")
def test_closed_streams_are_no_obstacle(raw: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "smile", "prepare", raw, tmp_path / "site", *SMALL]
    closed = ["sh", "-c", '"$@" >&- 2>&-', "sh", *map(str, words)]
    assert subprocess.run(closed, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
    assert (tmp_path / "site" / "manifest.json").exists()


def test_a_folder_in_the_place_of_a_shard_is_named(raw: Path, tmp_path: Path, capsys) -> None:
    site = tmp_path / "site"
    assert main(["prepare", str(raw), str(site), *SMALL, "--quiet"]) == 0
    (shard,) = (site / "shards").glob("*.npy")
    shard.unlink()
    shard.mkdir()
    assert main(["inspect", str(site)]) == 2
    assert main(["prepare", str(raw), str(site), *SMALL, "--quiet"]) == 2
    assert f"smile prepare: {shard}: Is a directory\n" in capsys.readouterr().err
    shard.rmdir()
    (site / "shards" / "other.npy").mkdir()
    assert main(["prepare", str(raw), str(site), *SMALL, "--quiet"]) == 0
    assert main(["inspect", str(site)]) == 0


def test_line_breaks_and_colour_codes_of_folders_are_written_out(raw: Path, tmp_path: Path, capsys) -> None:
    site = tmp_path / "a\n\x1b[31msite"
    assert main(["prepare", str(raw), str(site), *SMALL]) == 0
    assert main(["inspect", str(site)]) == 0
    output = capsys.readouterr().out
    assert output.count(r"a\n\x1b[31msite") == 2
    assert "\x1b" not in output


def command(*words: object, stdout=subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "smile", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_a_bar_on_a_terminal(raw: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    done = subprocess.run(
        [sys.executable, "-m", "smile", "prepare", raw, tmp_path / "site", *SMALL],
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "1/1" in shown
    assert "scan" in shown
