"""The first frame of a film: measured beside its samples, whatever is chosen of it, and never at the cost of one."""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smile import scans
from smile.captions import describe
from smile.config import ViewConfig
from smile.measurements import MEASUREMENTS
from smile.scans import Frame, Listing, Sequence
from smile.site import work
from smile.site.check import check
from smile.site.plan import make_plan
from smile.site.prepare import prepare
from smile.site.store import Site
from smile.site.tables import NO_REST
from smile.site.work import Settings

FRAMES, APEX = 12, 6


def smile_of(number: int) -> float:
    """Up to 10 mm in the middle of a film, nothing at its start."""
    return 10.0 * max(0.0, 1 - abs(number - APEX) / 6)


@pytest.fixture
def raw(make_raw, tmp_path: Path) -> Path:
    return make_raw(("P001",), tuple(f"f{k:02d}" for k in range(FRAMES)))


@pytest.fixture
def listing(raw: Path, monkeypatch: pytest.MonkeyPatch) -> list[Listing]:
    """One person's film; `find` says the last entry."""
    frames = tuple(Frame(raw / "P001" / f"P001_f{k:02d}_0.obj", k) for k in range(FRAMES))
    said = [Listing("scanner", "made up", (Sequence("P001", None, "P001/film", frames),))]
    monkeypatch.setattr(scans, "find", lambda folder, **_: said[-1])
    return said


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the frames that were read; each is measured as a smile of its own size."""
    numbers: list[int] = []
    real = scans.read

    def read(frame: Frame, **options) -> scans.Scan:
        numbers.append(frame.number)
        return real(frame, **options)

    def measured(scan: scans.Scan) -> dict[str, float]:
        smile = {"lip_corner_height": smile_of(numbers[-1])}
        return {name: 40.0 + smile.get(name, 0.0) for name in MEASUREMENTS}

    monkeypatch.setattr(scans, "read", read)
    monkeypatch.setattr(work, "_measured", measured)
    return numbers


@pytest.fixture
def run(raw: Path, listing, reads, tmp_path: Path, views: ViewConfig) -> Callable[..., Site]:
    def call(*, motion: str = "frames", **options) -> Site:
        chosen = dataclasses.replace(views, motion=motion)
        prepare(raw, tmp_path / "site", views=chosen, **{"jobs": 0, "progress": False, **options})
        site = Site(tmp_path / "site")
        check(site)
        return site

    return call


def captions(site: Site) -> dict[int, str]:
    said = describe(site.geometry, site.rest, site.subjects, site.sequences)
    return dict(zip(site.frames.tolist(), said, strict=True))


def rejected(site: Site) -> list[dict[str, str]]:
    with open(site.path / "rejected.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("window", [None, 4])
def test_a_smile_in_the_middle_of_a_film_is_told_against_its_first_frame(run, reads, window) -> None:
    site = run(window=window)
    assert window or 0 not in site.frames
    assert reads.count(0) == 1 and len(reads) == len(set(reads))
    assert site.rest["lip_corner_height"].tolist() == [40.0] * len(site)
    assert site.manifest["rest"] == list(MEASUREMENTS)
    said = captions(site)
    assert said[APEX] == "lip corners strongly raised"
    for number, caption in said.items():
        assert ("raised" in caption) == (smile_of(number) >= 2.0), (number, caption)
    np.testing.assert_allclose(site.times, site.frames / (FRAMES - 1), atol=1e-6)
    assert len(np.unique(site.sequences)) == (1 if window is None else 5)


def test_a_first_frame_that_no_sample_shows_belongs_to_all_windows(run) -> None:
    site = run(window=6, frames=1)
    assert 0 not in site.frames and len(np.unique(site.sequences)) > 2
    assert site.rest["mouth_width"].tolist() == [40.0] * len(site)


@pytest.mark.parametrize(("motion", "samples"), [("frames", 12), ("difference", 11), ("dynamic", 1)])
def test_the_first_frame_is_not_read_twice(run, reads, motion: str, samples: int) -> None:
    site = run(motion=motion, frames=FRAMES)
    assert len(site) == samples
    assert reads.count(0) == 1
    assert site.rest["mouth_width"].tolist() == [40.0] * samples


def test_stills_are_read_once_and_have_no_rest(run, listing, reads, views, raw) -> None:
    film = listing[0].sequences[0]
    alone = tuple(
        dataclasses.replace(film, name=f"P001/{k}", frames=film.frames[k : k + 1]) for k in range(3)
    )
    listing.append(dataclasses.replace(listing[0], sequences=alone))
    site = run()
    assert sorted(reads) == [0, 1, 2]
    assert site.manifest["rest"] == []
    assert all(np.isnan(site.rest[name]).all() for name in MEASUREMENTS)
    assert "rest." not in (site.path / "index.csv").read_text()
    assert set(site.notes.tolist()) == {""}
    items = [
        item for chunk in make_plan(listing[-1], Settings(views, "numpy", raw)).chunks for item in chunk.items
    ]
    assert [(item.drawn, item.first) for item in items] == [(True, None)] * 3


def test_a_broken_first_frame_loses_nothing_and_is_tried_again(run, listing, reads) -> None:
    first = listing[0].sequences[0].frames[0].path
    whole = first.read_bytes()
    first.write_text("v 0 0 0\n")
    site = run()
    assert len(site) == 4
    assert rejected(site) == [] and site.manifest["counts"]["rejected"] == 0
    assert np.isnan(site.rest["mouth_width"]).all()
    assert site.notes.tolist() == [NO_REST] * 4
    reads.clear()
    run()
    assert reads == [0], "only what failed is tried again"
    first.write_bytes(whole)
    site = run()
    assert site.rest["mouth_width"].tolist() == [40.0] * 4
    reads.clear()
    run()
    assert reads == []


def test_a_lost_sample_leaves_the_rest_of_its_film(run, listing) -> None:
    film = listing[0].sequences[0]
    film.frames[3].path.write_text("v 0 0 0\n")  # the first sample
    site = run()
    assert len(site) == 3 and len(rejected(site)) == 1
    assert site.rest["mouth_width"].tolist() == [40.0] * 3


def test_a_first_frame_beyond_a_limit_is_no_rest(run) -> None:
    figures = run().quality["spacing"]
    site = run(limits={"spacing": float(figures.max()) + 1})
    assert np.isfinite(site.rest["mouth_width"]).all()
    (record,) = site.path.glob("shards/*.json")
    text = record.read_text()
    start = text.index('"rest"')
    spacing = text.index('"spacing": ', start) + len('"spacing": ')
    record.write_text(text[:spacing] + "9" + text[spacing:])
    site = run(limits={"spacing": float(figures.max()) + 1})
    assert len(site) == 4 and np.isnan(site.rest["mouth_width"]).all()


def test_workers_measure_it_alike(raw: Path, listing, tmp_path: Path, views: ViewConfig) -> None:
    sites = []
    for jobs in (0, 2):
        prepare(raw, tmp_path / str(jobs), views=views, jobs=jobs, progress=False)
        sites.append(Site(tmp_path / str(jobs)))
    assert np.isfinite(sites[0].rest["mouth_width"]).all()
    for name in MEASUREMENTS:
        np.testing.assert_array_equal(sites[0].rest[name], sites[1].rest[name])
