"""The look at a prepared site: contact sheet, table and check."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile.config import ViewConfig
from smile.site import disk
from smile.site.check import check, table
from smile.site.contact_sheet import LABEL, MARGIN, TITLE, contact_sheet, pictures
from smile.site.prepare import prepare
from smile.site.store import Site


@pytest.fixture
def site(prepared_small: Path, tmp_path: Path) -> Site:
    return Site(shutil.copytree(prepared_small, tmp_path / "site"))


def relabel(site: Site, labels: list[str]) -> Site:
    site.labels = np.array(labels)
    return site


def test_the_sheet_has_a_row_for_each_expression(site: Site, tmp_path: Path) -> None:
    contact_sheet(site, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        width, height = sheet.size
        pixels = np.asarray(sheet)
    side = 96
    assert width == LABEL + 2 * (2 * side + MARGIN) + MARGIN, "two samples of two views"
    assert height > TITLE + 2 * side
    first = pixels[TITLE : TITLE + side, LABEL : LABEL + side]
    assert first.max() > 200, "a face is in the picture"
    assert (first == 0).any(), "and nothing around it"


def test_the_same_seed_draws_the_same_samples(site: Site, tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        contact_sheet(site, tmp_path / "sheet.png", columns=1, seed=seed)
        drawn.append((tmp_path / "sheet.png").read_bytes())
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_unlabelled_scans_have_their_row(site: Site, tmp_path: Path) -> None:
    contact_sheet(relabel(site, ["", "", "", ""]), tmp_path / "one.png")
    contact_sheet(relabel(site, ["", "", "fear", "anger"]), tmp_path / "three.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "three.png") as three:
        assert three.size[1] > 2 * one.size[1]


def test_texture_is_preferred_to_depth_and_depth_to_normals(site: Site) -> None:
    views = np.zeros((2, 7, 16, 16), np.uint8)
    views[:, 3, 4:8], views[:, 4:, 4:8] = 100, 30
    for modalities, channels, level in (
        (("texture", "depth", "normals"), slice(0, 7), 40),
        (("depth", "normals"), slice(3, 7), 40),
        (("normals",), slice(4, 7), 30),
    ):
        site.views = ViewConfig(yaws=(0.0, 30.0), size=16, modalities=modalities)
        found = pictures(site, views[:, channels])
        assert found.shape == (2, 16, 16, 3)
        assert set(np.unique(found)) == {0, level}
    site.views = ViewConfig(yaws=(0.0, 30.0), size=16)
    views[:, 0, 0, 0] = 9
    assert set(np.unique(pictures(site, views))) == {0, 9}
    assert set(np.unique(pictures(site, np.zeros_like(views)))) == {0}


def test_the_sheet_carries_pseudonyms_only(make_raw, site: Site, tmp_path: Path, monkeypatch) -> None:
    from PIL import ImageDraw

    words: list[str] = []
    real = ImageDraw.ImageDraw.text

    def note(self, place, text, **options) -> None:
        words.append(text)
        real(self, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    prepare(make_raw(), site.path, views=site.views, jobs=0, progress=False, keep_names=True)
    contact_sheet(Site(site.path), tmp_path / "sheet.png")
    text = " ".join(words)
    assert "subject-001" in text
    assert "happiness" in text
    for secret in ("P001", "P002", str(tmp_path)):
        assert secret not in text
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert not sheet.info


def test_the_table_counts(site: Site) -> None:
    assert table(site) == [
        {"expression": "happiness", "subjects": 2, "sequences": 2, "samples": 2},
        {"expression": "sadness", "subjects": 2, "sequences": 2, "samples": 2},
        {"expression": "all", "subjects": 2, "sequences": 4, "samples": 4},
    ]
    assert table(relabel(site, ["fear", "fear", "fear", ""]))[1]["expression"] == "(unlabelled)"


def test_check_compares_the_counts_with_the_table(site: Site) -> None:
    right = site.manifest
    for name, wrong in (
        ("counts", {**right["counts"], "subjects": 3}),
        ("labels", {"happiness": 1}),
        ("quality", [*right["quality"], "spots"]),
        ("geometry", right["geometry"][1:]),
    ):
        site.manifest = {**right, name: wrong}
        with pytest.raises(ValueError, match=f"do not agree on the {name}"):
            check(site)


def test_check_finds_a_flipped_bit_and_a_lost_row(site: Site) -> None:
    check(site)
    path = site.path / disk.SHARDS / f"{site.shards[0]}.npy"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 4]))
    with pytest.raises(
        ValueError, match=r"has changed since it was written.*run `smile prepare` again, it mends it"
    ):
        check(Site(site.path))
    path.write_bytes(good)
    check(Site(site.path))
    views = np.load(io.BytesIO(good))
    disk.write_shard(site.path, site.shards[0], views[:0], positions=(), rejected={}, renderer="numpy")
    with pytest.raises(ValueError, match=r"index\.csv names 4 samples of shard \w+, which holds 0"):
        check(site)
    with pytest.raises(ValueError, match="'bored', which is no expression"):
        check(relabel(site, ["bored"] * 4))
