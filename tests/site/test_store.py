"""Opening a prepared site: the right views for the right rows, and one clear sentence when something is amiss."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from smile.config import ViewConfig
from smile.measurements import MEASUREMENTS
from smile.site import disk, store
from smile.site.store import Site

VIEWS = ViewConfig(yaws=(-20.0, 20.0), size=16)
SHAPE = (2, 7, 16, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of made-up views, in an index that mixes them."""
    rng = np.random.default_rng(0)
    site = tmp_path / "site"
    (site / disk.SHARDS).mkdir(parents=True)
    rows = []
    for key, count in (("c" * 32, 4), ("a" * 32, 1), ("b" * 32, 5)):
        disk.write_shard(
            site,
            key,
            rng.integers(0, 256, (count, *SHAPE), np.uint8),
            positions=tuple(range(count)),
            rejected={},
            renderer="numpy",
        )
        rows += [(key, offset) for offset in range(count)]
    lines = [
        "row,shard,offset,subject,label,sequence,frame,time,AU12,coverage,geometry.mouth_width,rest.jaw_drop,notes"
    ]
    for number, place in enumerate(rng.permutation(len(rows))):
        key, offset = rows[place]
        label, action_unit = "fear" if number % 2 else "", "" if number % 4 else number / 10
        rest = "6.5" if number else ""
        lines.append(
            f"{number},{key},{offset},subject-{number % 3 + 1:03d},{label},{number},7,0.5,{action_unit},0.{number}5,5{number}.25,{rest},"
        )
    (site / disk.INDEX).write_text("\n".join(lines) + "\n")
    write_manifest(site)
    return site


def write_manifest(site: Path, **changes) -> None:
    disk.write_json(
        site / disk.MANIFEST,
        {
            "kind": disk.KIND,
            "schema": disk.SCHEMA,
            "dataset": "made up",
            "why": "made up",
            "counts": {"samples": 10, "subjects": 3, "sequences": 10, "unlabelled": 5, "rejected": 0},
            "labels": {"fear": 5},
            "bytes": 10 * 2 * 7 * 16 * 16,
            "index_sha256": disk.sha256(site / disk.INDEX),
            "renderer": "numpy",
            "views": dataclasses.asdict(VIEWS),
            "measures": {"AU12": 3},
            "quality": ["coverage"],
            "geometry": ["mouth_width"],
            "rest": ["jaw_drop"],
            **changes,
        },
    )


def expected(site: Path, row: int) -> np.ndarray:
    key, offset = (site / disk.INDEX).read_text().splitlines()[row + 1].split(",")[1:3]
    return np.load(site / disk.SHARDS / f"{key}.npy")[int(offset)]


def test_columns(folder: Path) -> None:
    site = Site(str(folder))
    assert len(site) == 10
    assert site.views == VIEWS
    assert site.subjects[:4].tolist() == ["subject-001", "subject-002", "subject-003", "subject-001"]
    assert site.labels[:2].tolist() == ["", "fear"]
    assert site.sequences.tolist() == list(range(10))
    assert set(site.frames.tolist()) == {7}
    assert set(site.times.tolist()) == {0.5}
    np.testing.assert_array_equal(site.measures["AU12"], [0, *[np.nan] * 3, 0.4, *[np.nan] * 3, 0.8, np.nan])
    np.testing.assert_array_equal(site.quality["coverage"][:3], [0.05, 0.15, 0.25])
    assert tuple(site.geometry) == MEASUREMENTS
    np.testing.assert_array_equal(site.geometry["mouth_width"][:2], [50.25, 51.25])
    assert np.isnan(site.geometry["jaw_drop"]).all()
    assert tuple(site.rest) == MEASUREMENTS
    np.testing.assert_array_equal(site.rest["jaw_drop"][:2], [np.nan, 6.5])
    assert np.isnan(site.rest["mouth_width"]).all()
    assert set(site.notes.tolist()) == {""}


@pytest.mark.parametrize("rows", [[3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 2, 2, 0], []])
def test_gather_gives_the_rows_in_their_order(folder: Path, rows: list[int]) -> None:
    found = Site(folder).gather(np.array(rows, dtype=np.int64))
    assert found.dtype == np.uint8
    assert found.shape == (len(rows), *SHAPE)
    for picture, row in zip(found, rows, strict=True):
        np.testing.assert_array_equal(picture, expected(folder, row))


@pytest.mark.parametrize(
    ("modalities", "channels"),
    [
        (("texture",), [0, 1, 2]),
        (("depth",), [3]),
        (("normals",), [4, 5, 6]),
        (("depth", "normals"), [3, 4, 5, 6]),
        (("texture", "normals"), [0, 1, 2, 4, 5, 6]),
        (("normals", "texture"), [0, 1, 2, 4, 5, 6]),
    ],
)
def test_gather_of_some_modalities_keeps_the_storage_order(folder: Path, modalities, channels) -> None:
    rows = np.array([8, 1, 5])
    site = Site(folder)
    np.testing.assert_array_equal(site.gather(rows, modalities), site.gather(rows)[:, :, channels])


def test_nothing_is_read_before_it_is_asked_for_and_few_files_stay_open(folder: Path, monkeypatch) -> None:
    opened: list[str] = []
    real = np.load

    def load(path: Path, **options) -> np.ndarray:
        opened.append(path.stem[:1])
        return real(path, **options)

    monkeypatch.setattr(np, "load", load)
    monkeypatch.setattr(store, "OPEN_SHARDS", 2)
    site = Site(folder)
    assert opened == []
    site.gather(np.arange(10))
    assert opened == ["a", "b", "c"], "each shard once"
    site.gather(site.rows_of(1))
    assert opened == ["a", "b", "c"], "b is still open"
    site.gather(site.rows_of(0))
    assert opened == ["a", "b", "c", "a"], "a had to make room"


def test_a_worker_of_a_data_loader_opens_the_site_anew(folder: Path) -> None:
    site = Site(folder)
    site.gather(np.arange(10))
    copy = pickle.loads(pickle.dumps(site))
    assert len(pickle.dumps(site)) < 1000
    np.testing.assert_array_equal(copy.gather(np.arange(10)), site.gather(np.arange(10)))


def test_rows_outside_the_site(folder: Path) -> None:
    with pytest.raises(IndexError):
        Site(folder).gather(np.array([10]))


def test_a_modality_that_was_not_prepared(folder: Path) -> None:
    views = dataclasses.asdict(VIEWS)
    site = Site(folder)
    with pytest.raises(ValueError, match="has no curvature"):
        site.gather(np.array([0]), ("curvature",))
    for path in (folder / disk.SHARDS).glob("*.npy"):
        np.save(path, np.load(path)[:, :, :3])
    write_manifest(folder, views={**views, "modalities": ["texture"]})
    with pytest.raises(ValueError, match=r"has no depth.* --modalities texture,depth,normals"):
        Site(folder).gather(np.array([0]), ("depth", "normals"))


def test_no_site_unfinished_and_other_versions(folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is no prepared site: make one with"):
            Site(path)
    write_manifest(folder, schema=disk.SCHEMA + 1)
    with pytest.raises(ValueError, match="another version of smile"):
        Site(folder)
    write_manifest(folder, views={"size": 16})
    with pytest.raises(ValueError, match="no view settings that can be read"):
        Site(folder)
    write_manifest(
        folder,
        views={
            **json.loads((folder / disk.MANIFEST).read_text())["views"],
            "yaws": [0],
            "size": 9,
            "modalities": ["depth"],
            "radius": 95,
        },
    )
    with pytest.raises(ValueError, match=r"views\.size = 9"):
        Site(folder)
    (folder / disk.MARKER).touch()
    for damaged in (b"", b"[]", b"\xff", b"[" * 100_000):
        (folder / disk.MANIFEST).write_bytes(damaged)
        with pytest.raises(ValueError, match="is not finished: run the same `smile prepare` again"):
            Site(folder)
    (folder / disk.MANIFEST).unlink()
    with pytest.raises(ValueError, match="is not finished: run the same `smile prepare` again"):
        Site(folder)


def test_an_index_that_is_not_the_manifests(folder: Path) -> None:
    text = (folder / disk.INDEX).read_text()
    for bad in (text.replace("fear", "anger"), "".join(text.splitlines(keepends=True)[:-1]), ""):
        (folder / disk.INDEX).write_text(bad)
        with pytest.raises(ValueError, match=r"index\.csv is not the table that manifest\.json speaks of"):
            Site(folder)
    (folder / disk.INDEX).unlink()
    with pytest.raises(ValueError, match=r"index\.csv is not the table"):
        Site(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"measures": ["AU12"]},
        {"measures": {"AU12": "3"}},
        {"measures": {"AU12": 3, "AU99": 1}},
        {"quality": [["coverage"]]},
        {"quality": []},
        {"geometry": []},
        {"geometry": ["mouth_width", "beauty"]},
        {"geometry": [[]]},
        {"counts": {"samples": 10}},
        {"dataset": None},
        {"bytes": "many"},
    ],
)
def test_a_manifest_that_does_not_fit_gives_one_sentence(folder: Path, change: dict) -> None:
    write_manifest(folder, **change)
    with pytest.raises(ValueError, match=r"manifest\.json .*: run `smile prepare` again$"):
        Site(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (",0.5,", ",soon,"),
        (",0.5,", ",inf,"),
        (",7,", ",7.5,"),
        (",0.05,", ","),
        ("subject-001", 'sub"ject\r"'),
    ],
)
def test_an_index_with_odd_cells_gives_one_sentence(folder: Path, old: str, new: str) -> None:
    path = folder / disk.INDEX
    assert old in path.read_text()
    path.write_bytes(path.read_text().replace(old, new, 1).encode())
    write_manifest(folder)
    with pytest.raises(ValueError, match=r"index\.csv .*: run `smile prepare` again$"):
        Site(folder)


def test_missing_cut_and_swapped_shards(folder: Path) -> None:
    path = folder / disk.SHARDS / ("b" * 32 + ".npy")
    good = path.read_bytes()
    path.write_bytes(good[:-1000])
    with pytest.raises(ValueError, match=r"bbb\.npy is of the wrong size: run `smile prepare` again"):
        Site(folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"bbb\.npy is missing"):
        Site(folder)
    path.write_bytes(good)
    site = Site(folder)
    path.write_bytes(b"x" * len(good))
    with pytest.raises(ValueError, match=r"bbb\.npy cannot be opened"):
        site.gather(np.arange(10))
    np.save(path, np.load(folder / disk.SHARDS / ("a" * 32 + ".npy")))
    with pytest.raises(ValueError, match="does not fit the index"):
        site.gather(np.arange(10))
    np.save(path, np.zeros((5, *SHAPE), np.int8))
    with pytest.raises(ValueError, match="int8, which does not fit the index"):
        Site(folder).gather(np.arange(10))
    shutil.rmtree(folder / disk.SHARDS)
    with pytest.raises(ValueError, match="is missing"):
        Site(folder)


def test_no_pickle_is_ever_opened(folder: Path) -> None:
    path = folder / disk.SHARDS / ("a" * 32 + ".npy")
    site = Site(folder)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be opened"):
        site.gather(np.arange(10))
