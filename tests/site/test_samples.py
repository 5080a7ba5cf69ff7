"""The five sample sites: all of their scans are prepared, and exactly the damaged ones are set aside."""

import csv
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smile.config import ViewConfig
from smile.site.check import check
from smile.site.prepare import prepare
from smile.site.store import Site

SAMPLES = Path(__file__).parent.parent.parent.parent / "shared" / "sites"
VIEWS = ViewConfig(yaws=(0.0,), size=24)

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample sites are not beside the repository")


@pytest.mark.parametrize(
    ("name", "dataset", "subjects", "samples"),
    [
        ("north-bu4dfe", "bu4dfe", 3, 18),
        ("centre-bu3dfe", "bu3dfe", 2, 12),
        ("south-bosphorus", "bosphorus", 3, 18),
        ("east-obj", "scanner", 3, 18),
        ("west-ply", "scanner", 3, 18),
    ],
)
def test_every_scan_of_a_sample_site_is_prepared(
    name: str, dataset: str, subjects: int, samples: int, tmp_path: Path
) -> None:
    manifest = prepare(SAMPLES / name, tmp_path / "site", views=VIEWS, frames=1, jobs=0, progress=False)
    assert manifest["dataset"] == dataset
    assert manifest["counts"] == {
        "samples": samples,
        "subjects": subjects,
        "sequences": samples,
        "unlabelled": 0,
        "rejected": 0,
    }
    assert set(manifest["labels"]) == {"anger", "disgust", "fear", "happiness", "sadness", "surprise"}
    site = Site(tmp_path / "site")
    check(site)
    views = site.gather(np.arange(len(site)))
    covered = (views[:, 0, site.views.channel_slices()["depth"]] > 0).mean(axis=(1, 2, 3))
    assert ((covered > 0.25) & (covered < 0.8)).all(), "a face fills a good part of each picture"
    assert (np.array([views[site.labels == label].mean() for label in manifest["labels"]]) > 20).all()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another_kind(path: Path) -> None:
    path.write_bytes(b"%PDF-1.7 a letter to the family doctor\n" * 50)


def not_a_number(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join("v nan nan nan" if line.startswith("v ") else line for line in lines))


def face_of_vertex_nobody_has(path: Path) -> None:
    path.write_text(path.read_text() + "f 900001/1 900002/1 900003/1\n")


def too_small(path: Path) -> None:
    lines = [line.split() for line in path.read_text().splitlines()]
    path.write_text(
        "\n".join(
            " ".join(["v", *(str(float(word) * 1e-7) for word in words[1:4])])
            if words[:1] == ["v"]
            else " ".join(words)
            for words in lines
        )
    )


def wrong_count(path: Path) -> None:
    data = bytearray(path.read_bytes())
    start = 14 + struct.unpack_from("<H", data, 12)[0]
    struct.pack_into("<I", data, start, 7)
    path.write_bytes(bytes(data))


def only_background(path: Path) -> None:
    data = bytearray(path.read_bytes())
    marker, name = struct.unpack_from("<d", data, 4)[0], struct.unpack_from("<H", data, 12)[0]
    values = np.full((len(data) - 18 - name) // 8, marker, "<f8")
    data[18 + name :] = values.tobytes()
    path.write_bytes(bytes(data))


def without_texture(path: Path) -> None:
    path.with_suffix(".png").unlink()


def only_lines(path: Path) -> None:
    path.write_text(path.read_text().replace("IndexedFaceSet", "IndexedLineSet"))


DAMAGES: list[tuple[str, str, Callable[[Path], None]]] = [
    ("north-bu4dfe", "F001/Angry/000.wrl", cut),
    ("north-bu4dfe", "F001/Fear/000.wrl", only_lines),
    ("south-bosphorus", "bs000/bs000_E_ANGER_0.bnt", wrong_count),
    ("south-bosphorus", "bs000/bs000_E_FEAR_0.bnt", only_background),
    ("south-bosphorus", "bs000/bs000_E_HAPPY_0.bnt", without_texture),
    ("east-obj", "P011/angry_0/P011_angry_0.obj", not_a_number),
    ("east-obj", "P011/fear_0/P011_fear_0.obj", face_of_vertex_nobody_has),
    ("east-obj", "P011/happy_0/P011_happy_0.obj", too_small),
    ("west-ply", "P020/P020_angry_0.ply", empty),
    ("west-ply", "P020/P020_surprise_0.ply", another_kind),
]


def test_ten_files_damaged_in_ten_ways_are_set_aside_and_no_other(tmp_path: Path) -> None:
    assert len({damage for _, _, damage in DAMAGES}) == 10
    reasons: dict[str, str] = {}
    for name in sorted({name for name, _, _ in DAMAGES}):
        damages = {file: damage for site, file, damage in DAMAGES if site == name}
        subject = next(iter(damages)).split("/")[0]
        raw = tmp_path / name
        shutil.copytree(SAMPLES / name / subject, raw / subject, copy_function=shutil.copyfile)
        for path in (raw, *raw.rglob("*")):
            path.chmod(0o755)
        if name == "north-bu4dfe":
            for path in [*raw.rglob("001.*"), *raw.rglob("002.*")]:
                path.unlink()
        for file, damage in damages.items():
            damage(raw / file)
        counts = prepare(raw, tmp_path / f"site-{name}", views=VIEWS, jobs=0, progress=False)["counts"]
        with open(tmp_path / f"site-{name}" / "rejected.csv", newline="") as table:
            rejected = {row["file"]: row["reason"] for row in csv.DictReader(table)}
        assert set(rejected) == set(damages)
        assert counts["samples"] == 6 - len(damages)
        check(Site(tmp_path / f"site-{name}"))
        reasons |= rejected
    for file, reason in reasons.items():
        assert "unexpected" not in reason, (file, reason)
        assert str(tmp_path) not in reason
        assert len(reason.split()) > 4, (file, reason)
        print(f"{file}: {reason}")
    assert len(reasons) == len(set(reasons.values())) == 10
