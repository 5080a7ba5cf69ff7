"""Limits on quality: what breaks one, how it is said, and that a changed limit renders nothing."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smile import geometry, scans
from smile.config import ViewConfig
from smile.face_quality import QUALITY
from smile.measurements import MEASUREMENTS
from smile.protocol import METRICS
from smile.site import limits, plan
from smile.site.check import check, percentiles
from smile.site.limits import LIMITS, broken, read_limits, worst
from smile.site.prepare import prepare
from smile.site.store import Site
from tests.site.conftest import table


def test_limits_of_a_command_line() -> None:
    assert set(LIMITS) == set(QUALITY)
    defaults = {name: limit.default for name, limit in LIMITS.items() if limit.default is not None}
    assert read_limits(()) == defaults
    assert read_limits(["yaw=30", "coverage=off"]) == {
        "yaw": 30.0,
        **{name: value for name, value in defaults.items() if name != "coverage"},
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("beauty=1", "'beauty' is no figure of a scan: choose from coverage"),
        ("coverage", "give a number or off, for example --limit coverage=0.6"),
        ("noise=much", "give a number or off"),
        ("noise=nan", "give a number or off"),
        ("noise=inf", "the number is 0 or more"),
        ("noise=-1", "the number is 0 or more"),
        ("coverage=2", "the number is 0 to 1"),
        ("holes=-0.1", "the number is 0 to 1"),
        ("=3", "'' is no figure"),
    ],
)
def test_a_limit_that_is_none_is_named(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"--limit {word}: .*{message}|{message}"):
        read_limits([word])


def test_what_breaks_a_limit_and_how_it_is_said() -> None:
    assert broken({"coverage": 0.41}, {"coverage": 0.6}) == (
        "coverage 0.41 is below the limit 0.60: scan again or lower --limit coverage"
    )
    assert broken({"noise": 12.34}, {"noise": 3}) == (
        "noise 12 mm is above the limit 3.00 mm: scan again or raise --limit noise"
    )
    assert "turn the head" in (broken({"yaw": -41.0}, {"yaw": 30}) or "")
    assert broken({"coverage": 0.6, "yaw": -30.0}, {"coverage": 0.6, "yaw": 30}) is None
    assert broken({}, {"coverage": 0.6}) is None, "a figure that nobody took"
    assert "coverage 0.399 is below the limit 0.400:" in (
        broken({"coverage": 0.399}, {"coverage": 0.4}) or ""
    )
    assert "yaw -30.2 degrees is above the limit 30.0" in (broken({"yaw": -30.2}, {"yaw": 30.0}) or "")


def test_a_limit_that_cannot_be_leaves_the_site_alone(run, tmp_path: Path) -> None:
    for limit in ({"noise": float("inf")}, {"coverage": 1.5}, {"beauty": 1.0}):
        with pytest.raises(ValueError, match="limit"):
            run(limits=limit)
    assert not (tmp_path / "site").exists()


def test_a_sample_of_several_scans_is_as_good_as_its_worst() -> None:
    parts = [{"coverage": 0.9, "yaw": 5.0}, {"coverage": 0.7, "yaw": -20.0, "noise": 1.0}, {}]
    assert worst(parts) == {"coverage": 0.7, "yaw": -20.0, "noise": 1.0}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """A part of a file's name -> the quality that aligning it finds; set it before preparing."""
    found: dict[str, dict[str, float]] = {}
    real_read, real_align, last = scans.read, geometry.align, []

    def read(frame, **options):
        last[:] = [frame.path.name]
        return real_read(frame, **options)

    def align(scan, **options):
        quality = next((q for part, q in found.items() if part in last[0]), {"coverage": 1.0})
        aligned = dataclasses.replace(real_align(scan, **options), notes=("metres read", "mirrored"))
        vars(aligned)["quality"] = quality  # what its measuring would have found
        return aligned

    monkeypatch.setattr(scans, "read", read)
    monkeypatch.setattr(geometry, "align", align)
    return found


@pytest.fixture
def run(tmp_path: Path, views: ViewConfig, make_raw) -> Callable[..., dict]:
    make_raw()

    def call(*words: str, **options) -> dict:
        allowed = read_limits(words)
        options = {"views": views, "jobs": 0, "progress": False, "limits": allowed, **options}
        return prepare(tmp_path / "raw", tmp_path / "site", **options)

    return call


def test_quality_and_notes_are_in_the_index(run, figures, tmp_path: Path) -> None:
    figures["P001_happy"] = {"coverage": 0.87654321, "yaw": -12.0, "noise": float("nan")}
    manifest = run("coverage=off")
    rows = table(tmp_path / "site" / "index.csv")
    assert [row["coverage"] for row in rows] == ["0.8765", "1", "1", "1"]
    assert [row["yaw"] for row in rows] == ["-12", "", "", ""]
    assert {row["notes"] for row in rows} == {"metres read; mirrored"}
    assert manifest["quality"] == ["coverage", "yaw"], "a figure that nobody could take has no column"
    site = Site(tmp_path / "site")
    np.testing.assert_array_equal(site.quality["yaw"], [-12, np.nan, np.nan, np.nan])
    assert site.notes.tolist() == ["metres read; mirrored"] * 4
    assert percentiles(site.quality)["yaw"] == [-12.0, -12.0, -12.0]


def test_a_changed_limit_renders_nothing(run, figures, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 2)
    figures |= {"P001_happy": {"coverage": 0.3}, "P001_sad": {"coverage": 0.9}, "P002": {"coverage": 0.7}}
    assert run("coverage=off")["counts"]["rejected"] == 0
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "site" / "shards").iterdir()}
    whole = Site(tmp_path / "site").gather(np.arange(4))
    monkeypatch.setattr(scans, "read", None)  # calling it would fail
    for word, left in (("coverage=0.5", [1, 2, 3]), ("coverage=0.8", [1]), ("coverage=off", [0, 1, 2, 3])):
        manifest = run(word)
        assert manifest["counts"]["samples"] == len(left)
        assert manifest["counts"]["rejected"] == 4 - len(left)
        site = Site(tmp_path / "site")
        check(site)
        np.testing.assert_array_equal(site.gather(np.arange(len(site))), whole[left])
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "site" / "shards").iterdir()} == shards
        assert len(table(tmp_path / "site" / "rejected.csv")) == 4 - len(left)
    run("coverage=0.5")
    assert table(tmp_path / "site" / "rejected.csv") == [
        {
            "file": "P001/P001_happy_0.obj",
            "reason": "coverage 0.30 is below the limit 0.50: scan again or lower --limit coverage",
        }
    ]
    assert run("coverage=0.5")["limits"]["coverage"] == 0.5
    with pytest.raises(
        ValueError, match=r"all 4 scans were set aside.*coverage 0\.30 is below the limit 0\.95"
    ):
        run("coverage=0.95")


def test_a_shard_with_a_row_too_few_is_still_found(run, figures, tmp_path: Path) -> None:
    figures["P002_sad"] = {"coverage": 0.1}
    run()
    site = Site(tmp_path / "site")
    assert len(site) == 3
    path = tmp_path / "site" / "shards" / f"{site.shards[0]}.npy"
    data = path.read_bytes()
    size = site.gather(np.array([0])).nbytes
    path.write_bytes(data[: -2 * size])  # the one beyond the limit, and one that is named
    with pytest.raises(ValueError, match="is of the wrong size"):
        Site(tmp_path / "site")


def test_no_figure_of_a_scan_is_one_that_may_leave() -> None:
    root = Path(limits.__file__).parents[2]
    assert not set(METRICS) & {*LIMITS, *MEASUREMENTS, "pain", "valence", "arousal", "notes"}
    for path in (root / "client").glob("*.py"):
        text = path.read_text()
        assert not [
            word
            for word in ("measures", "quality", "geometry", "rest", "notes", "manifest")
            if re.search(rf"\.{word}\b", text)
        ], path
