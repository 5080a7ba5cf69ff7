"""Folders and options that `prepare` refuses before it touches anything."""

from collections.abc import Callable
from pathlib import Path

import pytest

from smile.config import ViewConfig
from smile.site.prepare import prepare

MakeRaw = Callable[..., Path]


def test_folders_that_are_refused(make_raw: MakeRaw, tmp_path: Path, views: ViewConfig) -> None:
    raw = make_raw(("P001",), ("sad",))
    (tmp_path / "empty").mkdir()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("mine")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "manifest.json").write_text('{"name": "a web application"}')
    cases = [
        (tmp_path / "nowhere", tmp_path / "s", "does not exist"),
        (raw / "P001" / "P001_sad_0.obj", tmp_path / "s", "is not a folder"),
        (tmp_path / "empty", tmp_path / "s", "empty"),
        (raw, raw, "lies in the raw folder"),
        (raw, raw / "deep" / "site", "lies in the raw folder"),
        (raw / "P001", raw, "lies in the site"),
        (raw, other, "is no prepared site"),
        (raw, foreign, "is no prepared site"),
        (raw, other / "chapter.txt", "is a file"),
        (raw, other / "chapter.txt" / "deep" / "site", "chapter.txt is a file: give a new or empty folder"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for source, target, message in cases:
        with pytest.raises(ValueError, match=message):
            prepare(source, target, views=views, jobs=0, progress=False)
    for options in ({"frames": 0}, {"jobs": -1}, {"dataset": "bu5dfe"}, {"renderer": "crayons"}):
        with pytest.raises(ValueError, match=r"give|choose"):
            prepare(raw, tmp_path / "s", **{"views": views, "progress": False, **options})  # type: ignore[arg-type]
    assert sorted(tmp_path.rglob("*")) == before, "nothing was made or touched"


def test_a_link_into_the_raw_folder_is_seen_through(
    make_raw: MakeRaw, tmp_path: Path, views: ViewConfig
) -> None:
    raw = make_raw(("P001",), ("sad",))
    (tmp_path / "link").symlink_to(raw)
    with pytest.raises(ValueError, match="lies in the raw folder"):
        prepare(raw, tmp_path / "link" / "site", views=views, jobs=0, progress=False)


def test_a_link_to_itself_is_no_folder(make_raw: MakeRaw, tmp_path: Path, views: ViewConfig) -> None:
    raw, loop = make_raw(("P001",), ("sad",)), tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ValueError, match="loop does not exist"):
        prepare(loop, tmp_path / "site", views=views, jobs=0, progress=False)
    with pytest.raises(OSError, match="loop"):
        prepare(raw, loop, views=views, jobs=0, progress=False)
