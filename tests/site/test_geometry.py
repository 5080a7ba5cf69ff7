"""Measurements of the face in a site: whose they are, where they stand, and that none of them costs a sample."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smile import face_landmarks, geometry, scans
from smile.__main__ import main
from smile.config import ViewConfig
from smile.measurements import MEASUREMENTS, measure
from smile.scans.scan import Frame
from smile.site import plan, work
from smile.site.check import check
from smile.site.prepare import prepare
from smile.site.store import Site
from smile.site.work import Sample, Settings


@pytest.fixture
def run(tmp_path: Path, views: ViewConfig, make_raw: Callable[..., Path]) -> Callable[[], dict]:
    make_raw()
    return lambda: prepare(tmp_path / "raw", tmp_path / "site", views=views, jobs=0, progress=False)


def test_every_sample_is_measured(run, tmp_path: Path) -> None:
    manifest, site = run(), Site(tmp_path / "site")
    check(site)
    assert manifest["geometry"] == list(MEASUREMENTS) == list(site.geometry)
    with open(tmp_path / "site" / "index.csv", newline="") as file:
        columns = next(csv.reader(file))
    assert columns[-15:] == [*(f"geometry.{name}" for name in MEASUREMENTS), "notes"]
    path = sorted((tmp_path / "raw" / "P001").glob("*.obj"))[0]
    aligned = geometry.align(scans.read_file(path), radius=site.views.radius)
    for name, value in measure(face_landmarks.find(aligned.scan)).items():
        assert site.geometry[name][0] == pytest.approx(value, rel=5e-4, abs=1e-6), name
        assert site.geometry[name].shape == (4,)


def test_a_scan_that_cannot_be_measured_stays(run, tmp_path: Path, monkeypatch) -> None:
    def find(scan: scans.Scan) -> dict:
        raise ValueError("no face")

    monkeypatch.setattr(face_landmarks, "find", find)
    manifest, site = run(), Site(tmp_path / "site")
    check(site)
    assert manifest["counts"]["samples"] == 4
    assert manifest["geometry"] == []
    assert list(site.geometry) == list(MEASUREMENTS)
    assert all(np.isnan(values).all() for values in site.geometry.values())


def test_a_point_less_is_an_empty_cell(run, tmp_path: Path, monkeypatch) -> None:
    real = face_landmarks.find
    monkeypatch.setattr(
        face_landmarks, "find", lambda scan: {n: p for n, p in real(scan).items() if n != "chin"}
    )
    assert set(MEASUREMENTS) - set(run()["geometry"]) == {"jaw_drop"}
    assert np.isnan(Site(tmp_path / "site").geometry["jaw_drop"]).all()


def test_other_points_are_taken_anew_and_the_same_ones_are_not(run, tmp_path: Path, monkeypatch) -> None:
    run()
    before = Site(tmp_path / "site").shards
    run()
    assert Site(tmp_path / "site").shards == before
    monkeypatch.setattr(plan, "MEASURED", plan.MEASURED + 1)
    run()
    assert not set(Site(tmp_path / "site").shards) & set(before)


def test_a_site_of_an_older_version_is_prepared_again(run, tmp_path: Path) -> None:
    run()
    site = tmp_path / "site"
    for path in site.glob("shards/*.json"):  # as schema 2 wrote them
        record = json.loads(path.read_text())
        del record["geometry"]
        path.write_text(json.dumps({**record, "schema": 2}))
    manifest = json.loads((site / "manifest.json").read_text())
    (site / "manifest.json").write_text(json.dumps({**manifest, "schema": 2}))
    with pytest.raises(ValueError, match=r"another version of smile \(schema 2.*run `smile prepare` again"):
        Site(site)
    run()
    assert np.isfinite(Site(site).geometry["mouth_width"]).all()


@pytest.mark.parametrize(
    ("motion", "count", "stands_for"), [("frames", 1, 0), ("difference", 2, 1), ("dynamic", 5, 2)]
)
def test_a_picture_of_motion_has_the_measurements_of_its_own_frame(
    motion: str, count: int, stands_for: int, views: ViewConfig, tmp_path: Path, monkeypatch
) -> None:
    config = dataclasses.replace(views, motion=motion)

    def picture(frame: Frame, settings: Settings) -> Sample:
        pictures = np.full(work.shape(config), 100 + frame.number, np.uint8)
        return Sample(pictures, {}, {"mouth_width": 50.0 + frame.number}, ())

    monkeypatch.setattr(work, "picture", picture)
    frames = tuple(Frame(tmp_path / f"{k}.obj", k) for k in range(count))
    made = work.attempt(frames, Settings(config, "numpy", tmp_path), {})
    assert isinstance(made, Sample)
    assert made.geometry == {"mouth_width": 50.0 + stands_for}


def test_inspect_shows_percentiles(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert main(["inspect", str(tmp_path / "site")]) == 0
    assert "measurements in mm (5, 50 and 95 % of the scans): inner_brow_height" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "site"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["geometry"]
    assert list(found) == list(MEASUREMENTS)
    assert found["mouth_width"][0] <= found["mouth_width"][1] <= found["mouth_width"][2]
