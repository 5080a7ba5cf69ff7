"""Names of people and files in what a prepared site says: written out safely, and only where they are wanted."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smile.scans import Options
from smile.site.store import Site
from tests.site.conftest import table

MakeRaw = Callable[..., Path]


def test_control_characters_in_names_are_written_out(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw(("P001",), ("sad", "happy"))
    folder = raw / "P001\r\n\x1b[31m"
    (raw / "P001").rename(folder)
    (folder / "P001_sad_0.obj").write_text("no scan")
    run(raw, keep_names=True)
    (row,) = table(tmp_path / "site" / "index.csv")
    assert row["source"] == r"P001\r\n\x1b[31m/P001_happy_0.obj"
    (aside,) = table(tmp_path / "site" / "rejected.csv")
    assert aside["file"] == r"P001\r\n\x1b[31m/P001_sad_0.obj"
    assert "P001" not in aside["reason"], "the file is in its own column"
    assert len(Site(tmp_path / "site")) == 1


def test_pattern_and_table_are_not_named_in_the_manifest(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw(("P001",), ("sad", "happy"))
    labels = tmp_path / "Jane Doe (2).csv"
    labels.write_text("file,expression\nP001/P001_sad_0.obj,sad\nP001/P001_happy_0.obj,happy\n")
    for options in (
        Options(labels=labels),
        Options(pattern="{subject}/P001_{expression}_0.obj", labels=labels),
    ):
        why = run(raw, options=options, dataset="scanner")["why"]
        assert not [word for word in ("Jane", "P001", "csv", "obj") if word in why], why
        assert ("by a pattern" in why) == (options.pattern is not None)


def test_names_that_are_not_utf8(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw(("P001",), ("sad", "happy"))
    strange = os.fsdecode(os.fsencode(raw) + b'/\xff\xfe, "Jane"\n')
    try:
        (raw / "P001").rename(strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    next(Path(strange).glob("*_sad_0.obj")).write_text("no scan")
    assert run(raw, keep_names=True, jobs=1)["counts"]["rejected"] == 1
    assert "Jane" in table(tmp_path / "site" / "index.csv")[0]["source"]
    assert len(table(tmp_path / "site" / "rejected.csv")) == 1
    assert len(Site(tmp_path / "site")) == 1
