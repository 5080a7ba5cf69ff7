"""Raw scans -> a prepared site: what is written, what a second run does, what is refused."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smile import scans
from smile.config import ViewConfig
from smile.scans import Frame, Listing, Sequence
from smile.site import disk, plan
from smile.site.store import Site
from smile.views import RENDERERS
from tests.site.conftest import table

MakeRaw = Callable[..., Path]


def shards(site: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (site / "shards").iterdir()}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are really opened."""
    names: list[str] = []
    real = scans.read

    def read(frame: Frame, **options) -> scans.Scan:
        names.append(frame.path.name)
        return real(frame, **options)

    monkeypatch.setattr(scans, "read", read)
    return names


def test_what_a_site_holds(make_raw: MakeRaw, run, tmp_path: Path, views: ViewConfig) -> None:
    said: list[str] = []
    manifest = run(make_raw(), say=said.append)
    site = tmp_path / "site"
    assert json.loads((site / "manifest.json").read_text()) == manifest
    assert manifest["counts"] == {"samples": 4, "subjects": 2, "sequences": 4, "unlabelled": 0, "rejected": 0}
    assert manifest["labels"] == {"happiness": 2, "sadness": 2}
    assert manifest["renderer"] in RENDERERS
    assert manifest["bytes"] == sum(path.stat().st_size for path in site.glob("shards/*.npy"))
    assert {"smile", "numpy", "python"} <= set(manifest["software"])
    rows = table(site / "index.csv")
    columns = ["row", "shard", "offset", "subject", "label", "sequence", "frame", "time"]
    faces = [f"geometry.{name}" for name in manifest["geometry"]]
    assert list(rows[0]) == [*columns, *manifest["quality"], *faces, "notes"]
    assert manifest["measures"] == {}
    assert [row["row"] for row in rows] == list("0123")
    assert [row["subject"] for row in rows] == ["subject-001"] * 2 + ["subject-002"] * 2
    assert table(site / "rejected.csv") == []
    for row in rows:
        data = np.load(site / "shards" / f"{row['shard']}.npy", allow_pickle=False)
        assert data.dtype == np.uint8
        assert data.shape[1:] == (2, 4, 16, 16)
        assert data[int(row["offset"])].any()
    assert "recognised scanner" in said[0]
    assert said[1].startswith(f"renderer {manifest['renderer']}: ")
    assert len(Site(site)) == 4
    assert Site(site).views == views


def test_no_name_and_no_path_leaves_the_raw_folder(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw(("P117", "P118"))
    (raw / "P117" / "private note on Jane Doe.txt").write_text("do not publish")
    (raw / "P118" / "Jane Doe.obj").write_text("no scan")
    run(raw)
    site = tmp_path / "site"
    written = [path for path in site.rglob("*") if path.is_file() and path.name != "rejected.csv"]
    for path in written:
        for secret in ("P117", "P118", "Jane", "Doe", str(tmp_path)):
            assert secret.encode() not in path.read_bytes(), path.name
            assert secret not in str(path.relative_to(site))
    assert [row["file"] for row in table(site / "rejected.csv")] == ["P118/Jane Doe.obj"]
    assert str(tmp_path) not in (site / "rejected.csv").read_text()


def test_a_listing_that_names_people_is_cleaned_for_the_manifest(run, make_raw: MakeRaw, monkeypatch) -> None:
    raw = make_raw(("P117",), ("sad",))
    real = scans.find(raw)
    why = f"found p117 in {raw} (as P117/P117_sad_0.obj): 1 subject, P1179 is none"
    monkeypatch.setattr(
        scans, "find", lambda folder, **_: Listing(real.dataset, why, real.sequences, real.problems)
    )
    manifest = run(raw)
    assert manifest["why"] == "found ... in ...: 1 subject, P1179 is none"
    assert run(raw, keep_names=True)["why"] == why


def test_keep_names_adds_the_names(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw(("P117",), ("sad",))
    manifest = run(raw, keep_names=True)
    (row,) = table(tmp_path / "site" / "index.csv")
    assert (row["subject"], row["subject_name"], row["source"]) == (
        "subject-001",
        "P117",
        "P117/P117_sad_0.obj",
    )
    assert manifest["raw"] == str(raw)
    assert "raw" not in run(raw)
    assert "subject_name" not in table(tmp_path / "site" / "index.csv")[0], (
        "the next run takes them out again"
    )


def test_frames_of_a_sequence(make_raw: MakeRaw, run, tmp_path: Path, monkeypatch) -> None:
    raw = make_raw(("P001",), ("happy",))
    path = next(raw.rglob("*.obj"))
    for number in range(12):
        shutil.copy(path, path.with_name(f"frame{number}.obj"))
    frames = tuple(Frame(path.with_name(f"frame{n}.obj"), 100 + n) for n in range(12))
    listing = Listing(
        "bu4dfe",
        "made up",
        (Sequence("F1", None, "F1/x", frames), Sequence("F0", "fear", "F0/y", frames[:2])),
    )
    monkeypatch.setattr(scans, "find", lambda folder, **_: listing)
    manifest = run(raw, frames=3)
    assert manifest["counts"] == {"samples": 5, "subjects": 2, "sequences": 2, "unlabelled": 3, "rejected": 0}
    site = Site(tmp_path / "site")
    assert site.frames.tolist() == [100, 101, 104, 106, 108]
    np.testing.assert_allclose(site.times, [0, 1, 4 / 11, 6 / 11, 8 / 11], atol=1e-6)
    assert site.subjects.tolist() == ["subject-001"] * 2 + ["subject-002"] * 3
    assert site.labels.tolist() == ["fear"] * 2 + [""] * 3
    assert site.sequences.tolist() == [0, 0, 1, 1, 1]


def test_a_second_run_opens_no_scan_and_changes_nothing(
    make_raw: MakeRaw, run, reads, tmp_path: Path
) -> None:
    raw = make_raw()
    first = run(raw)
    before = shards(tmp_path / "site")
    reads.clear()
    assert run(raw) == first
    assert reads == []
    assert shards(tmp_path / "site") == before


def test_changed_new_and_removed_scans(make_raw: MakeRaw, run, reads, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plan, "CHUNK", 2)
    raw = make_raw()
    run(raw)
    before = shards(tmp_path / "site")
    os.utime(raw / "P002" / "P002_sad_0.obj", (1, 1))
    make_raw(("P003",), ("happy",))
    for path in (raw / "P001").iterdir():
        path.unlink()
    reads.clear()
    manifest = run(raw)
    assert manifest["counts"]["samples"] == 3
    assert {"P003_happy_0.obj", "P002_sad_0.obj"} <= set(reads)
    after = shards(tmp_path / "site")
    assert set(after) != set(before)
    assert {Path(name).stem for name in after} == set(Site(tmp_path / "site").shards), "stale shards are gone"
    reads.clear()
    run(raw)
    assert reads == []


def test_other_settings_make_another_site(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw(("P001",), ("sad",))
    first = run(raw)
    second = run(raw, views=ViewConfig(yaws=(0.0,), size=20, modalities=("texture",)))
    assert first["settings_sha256"] != second["settings_sha256"]
    assert Site(tmp_path / "site").gather(np.array([0])).shape == (1, 1, 3, 20, 20)
    assert run(raw) == first


def test_a_bad_scan_is_set_aside_and_tried_again(make_raw: MakeRaw, run, reads, tmp_path: Path) -> None:
    raw = make_raw()
    bad = raw / "P001" / "P001_sad_0.obj"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:300])
    said: list[str] = []
    assert run(raw, say=said.append)["counts"]["rejected"] == 1
    (row,) = table(tmp_path / "site" / "rejected.csv")
    assert row["file"] == "P001/P001_sad_0.obj"
    assert len(row["reason"]) > 10
    assert "1 file set aside" in said[-1]
    before = shards(tmp_path / "site")
    reads.clear()
    assert run(raw)["counts"]["samples"] == 3
    assert reads == ["P001_sad_0.obj"], "only what failed is tried again"
    assert shards(tmp_path / "site") == before
    bad.write_bytes(whole)
    assert run(raw)["counts"] == {"samples": 4, "subjects": 2, "sequences": 4, "unlabelled": 0, "rejected": 0}


def test_what_an_earlier_run_left_of_a_shard_is_kept_and_not_read_again(
    make_raw: MakeRaw, run, reads, tmp_path: Path, monkeypatch
) -> None:
    from smile import views as pictures

    raw = make_raw()
    run(raw)
    expected = Site(tmp_path / "site").gather(np.arange(4))
    shutil.rmtree(tmp_path / "site")
    bad = raw / "P001" / "P001_sad_0.obj"
    state, hidden = bad.stat(), bad.with_suffix(".hidden")
    real = scans.read

    def read(frame: Frame, **options) -> scans.Scan:
        if frame.path == bad and not hidden.exists():
            raise OSError(5, "Input/output error", str(bad))
        return real(frame, **options)

    monkeypatch.setattr(scans, "read", read)
    assert run(raw)["counts"]["rejected"] == 1
    hidden.touch()  # the network drive is back
    reads.clear()
    monkeypatch.setattr(pictures, "choose_renderer", lambda name: ("pyrender", "because"))
    monkeypatch.setattr(
        pictures, "render", lambda scan, config, renderer, draw=pictures.render: draw(scan, config)
    )
    manifest = run(raw)
    assert manifest["counts"]["samples"] == 4
    assert " and pyrender" in manifest["renderer"], "both had a part in it"
    assert reads == [bad.name]
    np.testing.assert_array_equal(Site(tmp_path / "site").gather(np.arange(4)), expected)
    assert bad.stat() == state


def test_an_unforeseen_error_sets_the_scan_aside_and_heals(
    make_raw: MakeRaw, run, tmp_path: Path, monkeypatch
) -> None:
    raw = make_raw(("P001",), ("sad", "fear", "happy"))
    real = scans.read

    def read(frame: Frame, **options) -> scans.Scan:
        if "sad" in frame.path.name:
            raise ModuleNotFoundError("No module named 'trimesh'")
        if "fear" in frame.path.name:
            raise PermissionError(13, "Permission denied", str(frame.path))
        return real(frame, **options)

    monkeypatch.setattr(scans, "read", read)
    assert run(raw)["counts"]["rejected"] == 2
    assert {row["file"]: row["reason"] for row in table(tmp_path / "site" / "rejected.csv")} == {
        "P001/P001_sad_0.obj": "unexpected ModuleNotFoundError: No module named 'trimesh'",
        "P001/P001_fear_0.obj": "Permission denied",
    }
    monkeypatch.setattr(scans, "read", real)
    assert run(raw)["counts"]["rejected"] == 0, "the package was installed, the drive is back"


def test_an_empty_picture_is_no_scan_of_a_face(make_raw: MakeRaw, run, tmp_path: Path, monkeypatch) -> None:
    from smile import views as pictures

    real, raw = pictures.encode, make_raw(("P001",), ("sad", "happy"))
    made: list[np.ndarray] = []

    def encode(maps, config):
        made.append(real(maps, config))
        return (
            made[-1]
            if len(made) == 1
            else made[-1] * (np.arange(2) == 0).astype(np.uint8)[:, None, None, None]
        )

    monkeypatch.setattr(pictures, "encode", encode)
    assert run(raw)["counts"]["rejected"] == 1
    assert "the view at 30 degrees is empty" in table(tmp_path / "site" / "rejected.csv")[0]["reason"]


def test_a_damaged_shard_is_mended(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw(("P001",), ("sad",))
    run(raw)
    path = next((tmp_path / "site" / "shards").glob("*.npy"))
    good = path.read_bytes()
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-7], b""):
        path.write_bytes(bad)
        run(raw)
        assert path.read_bytes() == good
    for record in (b"", b"{}", b"[]", b'{"schema": 99}'):
        path.with_suffix(".json").write_bytes(record)
        run(raw)
        assert path.read_bytes() == good


def test_a_named_renderer_does_not_reuse_the_other_ones_shards(
    make_raw: MakeRaw, run, reads, monkeypatch
) -> None:
    from smile import views as pictures

    raw, real = make_raw(("P001",), ("sad",)), pictures.render
    monkeypatch.setattr(
        pictures, "choose_renderer", lambda name: ("first" if name == "auto" else name, "because")
    )
    monkeypatch.setattr(
        pictures, "render", lambda scan, config, renderer: real(scan, config, renderer="numpy")
    )
    assert run(raw)["renderer"] == "first"
    assert run(raw, renderer="second")["renderer"] == "second"
    assert len(reads) == 2
    assert run(raw)["renderer"] == "second", "auto takes what is there and says which"
    assert len(reads) == 2


def test_every_scan_rejected(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw(("P001",))
    run(raw)
    for path in raw.rglob("*.obj"):
        path.write_text("no scan at all")
    with pytest.raises(ValueError, match=r"all 2 scans were set aside, the first is P001/P001_happy_0\.obj"):
        run(raw)
    assert len(table(tmp_path / "site" / "rejected.csv")) == 2
    with pytest.raises(ValueError, match="not finished"):
        Site(tmp_path / "site")


def test_a_finished_site_without_its_hidden_file_is_still_a_site(
    make_raw: MakeRaw, run, tmp_path: Path
) -> None:
    raw = make_raw(("P001",), ("sad",))
    first = run(raw)
    (tmp_path / "site" / disk.MARKER).unlink()  # a copy with `cp site/* elsewhere`
    assert run(raw) == first


def test_a_listing_without_a_usable_scan(run, make_raw: MakeRaw, monkeypatch) -> None:
    raw = make_raw(("P001",), ("sad",))
    monkeypatch.setattr(scans, "find", lambda folder, **_: Listing("scanner", "", ()))
    with pytest.raises(ValueError, match="no scanner scan that can be used"):
        run(raw)


def test_another_data_set_is_proposed_only_where_nothing_was_listed(
    run, make_raw: MakeRaw, views: ViewConfig
) -> None:
    raw = make_raw(("P001",), ("sad",))
    with pytest.raises(ValueError, match=r"--motion dynamic needs two or more frames") as caught:
        run(raw, views=dataclasses.replace(views, motion="dynamic"))
    assert "--dataset" not in str(caught.value)


def test_what_a_killed_run_left_is_removed(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw, site = make_raw(("P001",), ("sad",)), tmp_path / "site"
    run(raw)
    left = [site / "contact_sheet.png.tmp", site / "index.csv.tmp", site / "shards" / "x.npy.tmp"]
    for path in left:
        path.touch()
    (site / "shards" / "x.npy").mkdir()
    run(raw)
    assert not any(path.exists() for path in left)
    assert (site / "shards" / "x.npy").is_dir(), "what is no file of ours stays"


def test_worker_processes_give_the_same_site(make_raw: MakeRaw, run, tmp_path: Path) -> None:
    raw = make_raw()
    here = run(raw)
    shutil.rmtree(tmp_path / "site")
    assert run(raw, jobs=2) == here
