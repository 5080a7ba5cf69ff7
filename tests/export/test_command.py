"""The command line of a bundle: a folder as INPUT, options that would be ignored, and faults of the system in one sentence."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import command, main


@pytest.fixture
def folder(golden, tmp_path) -> Path:
    """Two captures whose order of names is not that of letters, and what a folder of scans also holds."""
    folder = tmp_path / "visits"
    (folder / "older").mkdir(parents=True)
    np.save(folder / "face10.npy", golden["views"][0])
    np.save(folder / "face9.npy", golden["views"][2])
    for name in (".face1.npy", "older/face0.npy", "notes.txt", "skin.png", "camera.json"):
        (folder / name).write_text("x")
    return folder


# --- a folder -----------------------------------------------------------------------------------------------------


def test_a_folder_is_read_once_in_the_order_of_names(bundle, reader, golden, folder, capsys):
    assert main(["--bundle", str(bundle), "--json", str(folder)]) == 0
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [answer["input"] for answer in answers] == [str(folder / f"face{n}.npy") for n in (9, 10)]
    for answer, views in zip(answers, golden["views"][[2, 0]], strict=True):
        assert answer["probabilities"] == pytest.approx(reader.predict(views)["probabilities"], abs=1e-5)


def test_a_bad_file_of_a_folder_is_named_and_the_others_go_on(bundle, folder, faces, capsys):
    (folder / "face2.npy").write_bytes(b"junk")
    (folder / "face11.obj").write_bytes((faces / "colour.obj").read_bytes())
    assert main(["--bundle", str(bundle), "--json", str(folder)]) == 1
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert [Path(answer["input"]).name for answer in answers] == [
        "face2.npy",
        "face9.npy",
        "face10.npy",
        "face11.obj",
    ]
    assert ["error" in answer for answer in answers] == [True, False, False, False]
    assert err == f"{folder / 'face2.npy'} is not an .npy file: write the views with numpy.save\n"


def test_an_input_that_fails_weighs_more_than_a_file_of_a_folder(bundle, folder, tmp_path, capsys):
    (folder / "face2.npy").write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    assert main(["--bundle", str(bundle), str(tmp_path / "empty"), str(folder)]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == (
        f"{tmp_path / 'empty'} holds nothing to read: give a folder of scans, views as .npy or depth images"
    )
    assert len(err.splitlines()) == 2 and "face9.npy: " in out and "face10.npy: " in out


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["x.npy", "--dla", "0"], "--dla belongs to --build-engine"),
        (["x.npy", "--workspace-mb", "0"], "--workspace-mb belongs to --build-engine"),
        (["--build-engine", "--provider", "cpu"], "--provider belongs to INPUT or --depth or"),
        (["--build-engine", "--threads", "2"], "--threads belongs to"),
        (["--update", "u", "--precision", "fp16"], "--precision belongs to"),
        (["x.npy", "--window", "16"], "--window belongs to --stream"),
        (["x.npy", "--half-life", "5"], "--half-life belongs to --stream"),
        (["x.npy", "--idle", "5"], "--idle belongs to --stream"),
        (["--stream", "-", "--idle", "5"], "--idle belongs to --stream FOLDER"),
        (["--serve", "0", "--json"], "--json belongs to"),
        (["--serve", "0", "--top", "1"], "--top belongs to"),
        (["x.npy", "--batch", "1"], "--batch belongs to --bench"),
        (["x.npy", "--runs", "1"], "--runs belongs to --bench"),
        (["x.npy", "--colour", "c"], "--colour belongs to --depth"),
        (["x.npy", "--intrinsics", "i"], "--intrinsics belongs to --depth or --stream"),
        (["--bench", "--runs", "0"], "give a whole number"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(arguments, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert reason in capsys.readouterr().err


def test_every_option_has_a_mode_in_which_it_is_taken():
    for name, owners in command._BELONGS.items():
        assert owners, name
        for owner in owners:
            assert owner == "" or hasattr(command._parse(["--bench"]), owner), (name, owner)


def test_defaults_are_those_that_are_written_down(bundle, folder, monkeypatch):
    asked = {}
    monkeypatch.setattr(command, "answers", lambda reader, paths, **more: asked.update(more) or iter(()))
    assert main(["--bundle", str(bundle), "--stream", str(folder)]) == 0
    assert (asked["half_life"], asked["window"]) == (5.0, 16)


# --- the system ---------------------------------------------------------------------------------------------------


def test_sums_that_cannot_be_read_are_one_sentence(copied, monkeypatch, capsys):
    read = Path.read_text

    def refuse(path, *arguments, **more):
        if path.name == "SHA256SUMS":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert main(["--bundle", str(copied), "--self-test"]) == 2
    assert capsys.readouterr().err == (
        f"{copied / 'SHA256SUMS'} cannot be read (Permission denied): copy the bundle again\n"
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_manifest_that_nobody_may_read(copied, capsys):
    (copied / "manifest.json").chmod(0)
    assert main(["--bundle", str(copied), "--self-test"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(5, "Input/output error", "/a/b"),
            "/a/b cannot be read or written (Input/output error): see",
        ),
        (
            OSError(28, "No space left on device"),
            "a file, or the output, cannot be read or written (No space",
        ),
        (OSError("odd"), "a file, or the output, cannot be read or written (odd): see"),
    ],
)
def test_whatever_the_system_refuses_is_one_sentence(copied, monkeypatch, capsys, error, sentence):
    def fail(options):
        raise error

    monkeypatch.setattr(command, "_run", fail)
    assert main(["--bundle", str(copied), "--self-test"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(sentence) and len(err.splitlines()) == 1
