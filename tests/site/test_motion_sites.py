"""Sites of motion and of measures: sequences, windows, what a failed frame does, and labels that render nothing."""

import csv
import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smile import motion, scans
from smile.config import ViewConfig
from smile.scans import Frame, Listing, Sequence
from smile.site.check import check, table
from smile.site.contact_sheet import contact_sheet
from smile.site.prepare import prepare
from smile.site.store import Site

FRAMES = 6


@pytest.fixture
def raw(make_raw, tmp_path: Path) -> Path:
    """Two people with a sequence of six frames each; every frame is a little another face."""
    words = tuple(f"f{k}" for k in range(FRAMES))
    return make_raw(("P001", "P002"), words)


@pytest.fixture
def listing(raw: Path, monkeypatch: pytest.MonkeyPatch) -> list[Listing]:
    """A list whose last entry is what `find` will say of `raw`."""
    made = Listing(
        "bp4d",
        "made up",
        tuple(
            Sequence(
                subject,
                "pain",
                f"{subject}/T1",
                tuple(Frame(raw / subject / f"{subject}_f{k}_0.obj", k + 1) for k in range(FRAMES)),
                onset=2,
            )
            for subject in ("P001", "P002")
        ),
    )
    said = [made]
    monkeypatch.setattr(scans, "find", lambda folder, **_: said[-1])
    return said


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    real = scans.read

    def read(frame: Frame, **options) -> scans.Scan:
        assert frame.measures == {}, "measures are no business of a worker"
        names.append(frame.path.name)
        return real(frame, **options)

    monkeypatch.setattr(scans, "read", read)
    return names


@pytest.fixture
def run(raw: Path, listing, tmp_path: Path, views: ViewConfig) -> Callable[..., Site]:
    """run(motion=..., frames=...) -> the site, checked."""

    def call(*, motion: str = "frames", magnify: float = 1.0, **options) -> Site:
        chosen = dataclasses.replace(views, motion=motion, magnify=magnify)
        prepare(raw, tmp_path / "site", views=chosen, **{"jobs": 0, "progress": False, **options})
        site = Site(tmp_path / "site")
        check(site)
        return site

    return call


def all_views(site: Site) -> np.ndarray:
    return site.gather(np.arange(len(site)))


@pytest.mark.parametrize("jobs", [0, 2])
def test_a_dynamic_image_for_each_sequence(run, listing, jobs: int) -> None:
    plain = all_views(run(frames=FRAMES))
    site = run(motion="dynamic", frames=FRAMES, jobs=jobs)
    assert len(site) == 2
    assert site.views.motion == "dynamic"
    assert site.frames.tolist() == [4, 4], "the middle one"
    assert site.times.tolist() == [0.6, 0.6]
    for row in range(2):
        expected = motion.dynamic_image(plain[row * FRAMES : (row + 1) * FRAMES])
        np.testing.assert_array_equal(all_views(site)[row], expected)


def test_differences_to_the_onset_read_each_file_once(run, listing, reads) -> None:
    plain = all_views(run(frames=FRAMES))
    reads.clear()
    site = run(motion="difference", magnify=2.0, frames=FRAMES)
    assert sorted(reads) == sorted({name.name for name in _files(listing)}), "each once, the onset too"
    assert site.frames.tolist() == [1, 3, 4, 5, 6] * 2
    np.testing.assert_array_equal(all_views(site)[6], motion.difference(plain[8], plain[7], factor=2.0))
    assert len(run(magnify=3.0, frames=FRAMES)) == 12
    np.testing.assert_array_equal(
        all_views(run(magnify=3.0, frames=FRAMES))[0], motion.magnify(plain[[1, 0]], 3.0)[1]
    )


def _files(listing) -> list[Path]:
    return [frame.path for sequence in listing[-1].sequences for frame in sequence.frames]


def test_windows_are_sequences_of_their_own(run, listing) -> None:
    site = run(motion="dynamic", frames=4, window=4)
    assert len(site) == 4
    assert site.sequences.tolist() == [0, 1, 2, 3]
    assert site.subjects.tolist() == ["subject-001"] * 2 + ["subject-002"] * 2
    assert site.manifest["window"] == 4
    assert run(frames=2, window=4).manifest["counts"]["sequences"] == 4


@pytest.mark.parametrize("kind", ["difference", "dynamic"])
def test_a_sample_is_set_aside_with_the_name_of_the_frame_that_failed(
    run, listing, tmp_path: Path, kind: str
) -> None:
    bad = listing[-1].sequences[0].frames[1].path  # the onset of P001
    whole = bad.read_bytes()
    bad.write_text("v 0 0 0\n")
    site = run(motion=kind, frames=FRAMES)
    assert set(site.subjects.tolist()) == {"subject-002"}
    with open(tmp_path / "site" / "rejected.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (1 if kind == "dynamic" else 5)
    assert all("P001/P001_f1_0.obj" in row["reason"] for row in rows)
    bad.write_bytes(whole)
    assert len(run(motion=kind, frames=FRAMES)) == (2 if kind == "dynamic" else 10)


def test_single_scans_show_no_motion(run, listing, tmp_path: Path) -> None:
    alone = dataclasses.replace(listing[-1].sequences[0], frames=listing[-1].sequences[0].frames[:1])
    listing.append(dataclasses.replace(listing[-1], sequences=(alone, listing[-1].sequences[1])))
    assert len(run(motion="dynamic")) == 1
    assert (
        "--motion dynamic needs two or more frames of a sequence"
        in (tmp_path / "site" / "rejected.csv").read_text()
    )
    listing.append(dataclasses.replace(listing[-1], sequences=(alone,)))
    with pytest.raises(
        ValueError, match=r"1 file set aside, the first is .*P001_f0_0\.obj .*--motion frames"
    ):
        run(motion="dynamic")


def test_settings_that_make_no_sense_together(run) -> None:
    for options, message in (
        ({"motion": "dynamic", "frames": 1}, "a dynamic image needs 2 or more frames"),
        ({"sampling": "random"}, "choose from middle, uniform, apex"),
        ({"window": 1}, "--window 1: give 2 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**options)


def coded(listing: Listing, **changes) -> Listing:
    """The listing with measures of the sequences and of some frames."""
    sequences = [
        dataclasses.replace(
            sequence,
            measures={"pain": 3.0, "AU12": 0.0},
            frames=tuple(
                dataclasses.replace(
                    frame,
                    measures={"AU12": 1.0, "AU06_intensity": 2.5} if frame.number > 4 else {"AU12": math.nan},
                )
                for frame in sequence.frames
            ),
            **changes,
        )
        for sequence in listing.sequences
    ]
    return dataclasses.replace(listing, sequences=tuple(sequences))


def test_measures_of_frames_come_before_those_of_sequences(run, listing, tmp_path: Path) -> None:
    listing.append(coded(listing[-1]))
    site = run(frames=FRAMES)
    assert site.measures["AU12"].tolist() == [0, 0, 0, 0, 1, 1] * 2, (
        "not coded in a frame: as in the sequence"
    )
    np.testing.assert_array_equal(site.measures["AU06_intensity"], [*[np.nan] * 4, 2.5, 2.5] * 2)
    assert site.measures["pain"].tolist() == [3.0] * 12
    assert site.manifest["measures"] == {"AU06_intensity": 4, "AU12": 12, "pain": 12}
    header = (tmp_path / "site" / "index.csv").read_text().splitlines()[0]
    assert "time,AU06_intensity,AU12,pain," in header
    assert "AU06_intensity" in table_text(site)


def table_text(site: Site) -> str:
    return str(site.manifest["measures"]) + str(table(site))


def test_what_is_said_about_the_scans_renders_nothing(run, listing, reads, tmp_path: Path) -> None:
    before = all_views(run(frames=FRAMES))
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "site" / "shards").iterdir()}
    reads.clear()
    renamed = [
        dataclasses.replace(sequence, subject=f"Z{9 - k}", name=f"new/{9 - k}")
        for k, sequence in enumerate(coded(listing[0], label="happiness").sequences)
    ]
    for changed in (
        coded(listing[0]),
        coded(listing[0], label=None),
        coded(listing[0], label="contempt"),
        dataclasses.replace(listing[0], sequences=tuple(renamed)),
    ):
        listing.append(changed)
        site = run(frames=FRAMES)
        assert reads == []
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "site" / "shards").iterdir()} == shards
    assert site.labels.tolist() == ["happiness"] * 12
    (
        np.testing.assert_array_equal(all_views(site), np.concatenate([before[6:], before[:6]])),
        "in the new order",
    )
    assert site.subjects.tolist() == ["subject-001"] * 6 + ["subject-002"] * 6


def test_labels_beyond_the_basic_ones_and_none_are_shown(run, listing, tmp_path: Path) -> None:
    one, two = listing[-1].sequences
    listing.append(dataclasses.replace(listing[-1], sequences=(one, dataclasses.replace(two, label=None))))
    site = run(frames=2)
    assert [line["expression"] for line in table(site)] == ["pain", "(unlabelled)", "all"]
    assert site.manifest["labels"] == {"pain": 2}
    assert site.manifest["counts"]["unlabelled"] == 2
    contact_sheet(site, tmp_path / "sheet.png")


def test_a_table_of_labels_is_read_anew_and_renders_nothing(make_raw, reads, tmp_path: Path, views) -> None:
    raw = make_raw()

    def run(text: str) -> Site:
        (tmp_path / "Jane Doe.csv").write_text(text)
        chosen = scans.Options(labels=tmp_path / "Jane Doe.csv")
        prepare(raw, tmp_path / "csv", views=views, options=chosen, jobs=0, progress=False)
        return Site(tmp_path / "csv")

    files = [f"P00{s}/P00{s}_{word}_0.obj" for s in (1, 2) for word in ("happy", "sad")]
    first = run(
        "file,expression\n"
        + "".join(f"{name},{'fear' if k % 2 else 'anger'}\n" for k, name in enumerate(files))
    )
    assert set(first.labels.tolist()) == {"fear", "anger"}
    reads.clear()
    second = run("file,expression,AU12\n" + "".join(f"{name},,{k % 2}\n" for k, name in enumerate(files)))
    assert reads == []
    assert set(second.labels.tolist()) == {""}
    assert second.measures["AU12"].tolist() == [0, 1, 0, 1]
    assert "Jane" not in (tmp_path / "csv" / "manifest.json").read_text()


def test_a_picture_pair_has_missing_views(make_raw, tmp_path: Path, monkeypatch) -> None:
    from PIL import Image

    folder = tmp_path / "pairs"
    folder.mkdir()
    for k in range(2):
        pixels = np.random.default_rng(k).integers(1, 256, (40, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    frames = tuple(Frame(folder / f"{k}.png", k, kind="pair") for k in range(2))
    found = Listing("fourdme", "made up", (Sequence("s1", None, "s1/clip", frames),))
    monkeypatch.setattr(scans, "find", lambda folder, **_: found)
    for kind, count in (("frames", 2), ("dynamic", 1)):
        views = ViewConfig(size=16, motion=kind)
        prepare(folder, tmp_path / kind, views=views, jobs=0, progress=False)
        seen = Site(tmp_path / kind).gather(np.arange(count))
        assert seen[:, [0, 2], :3].all()
        assert not seen[:, 1].any()
        assert not seen[:, :, 3:].any()
    shutil.rmtree(folder)
