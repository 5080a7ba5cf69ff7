"""The simulated hospitals: each layout follows its documented grammar, and our readers find what was written."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from simulations import layouts
from simulations.faces import ACTION_UNITS, face, sample_identity
from simulations.hospitals import write_hospitals
from simulations.scanners import SCANNERS, Capture, capture, to_scan
from smile.labels import EXPRESSIONS
from smile.scans import find, read, read_file
from smile.scans.scan import Scan

NAMES = ("north", "centre", "south", "east", "west")
# Copied from the data sets' page, sections 3, 4, 5 and 12.
GRAMMAR = {
    "north": r"(?i)^(?P<subject>[FM]\d{3})/(?P<expr>Angry|Disgust|Fear|Happy|Sad|Surprise)/(?P<frame>\d+)\.(?P<ext>wrl|jpg|bnd)$",
    "centre": r"^(?P<subject>[FM]\d{4})/(?P=subject)_(?P<expr>NE|AN|DI|FE|HA|SA|SU)(?P<level>0[0-4])(?P<race>WH|BL|LA|AE|AM|IN)"
    r"_(?P<kind>F3D|F2D|RAW)\.(?P<ext>wrl|bnd|bmp|png|pse)$",
    "south": r"^(?P<subject>bs\d{3})/(?P=subject)_(?P<group>N|LFAU|UFAU|CAU|E|YR|PR|CR|O|IGN)_(?P<code>.+)_(?P<rep>\d+)"
    r"\.(?P<ext>bnt|png|lm2|lm3)$",
    "east": r"^(?P<subject>P\d{3})/(?P<expr>neutral|angry|disgust|fear|happy|sad|surprise)_(?P<rep>\d+)/"
    r"(?P=subject)_(?P=expr)_(?P=rep)\.(?P<ext>obj|mtl|png)$",
    "west": r"^(?P<subject>P\d{3})/(?P=subject)_(?P<expr>neutral|angry|disgust|fear|happy|sad|surprise)_(?P<rep>\d+)\.ply$",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hospitals")
    written = write_hospitals(folder, subjects=1, seed=5, hospitals=NAMES, frames=2, levels=(1, 4), jobs=1)
    assert [path.name for path in written] == list(NAMES)
    return dict(zip(NAMES, written, strict=True))


@pytest.fixture(scope="module")
def shot() -> Capture:
    who = sample_identity(np.random.default_rng(2))
    return capture(face(who, ACTION_UNITS["surprise"]), SCANNERS["structured"], np.random.default_rng(1))


def files(folder: Path) -> list[str]:
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != "README.txt"
    )


def assert_same(found: Scan, expected: Scan, *, precision: float) -> None:
    assert found.vertices.shape == expected.vertices.shape
    assert np.abs(found.vertices - expected.vertices).max() <= precision
    assert np.array_equal(found.faces, expected.faces)


@pytest.mark.parametrize("name", NAMES)
def test_names_follow_the_grammar(raw: dict[str, Path], name: str) -> None:
    names = files(raw[name])
    assert names
    wrong = [n for n in names if not re.match(GRAMMAR[name], n)]
    assert not wrong
    assert "do not exist" in (raw[name] / "README.txt").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_readers_find_every_expression(raw: dict[str, Path], name: str) -> None:
    listing = find(raw[name])
    expected = {"north": "bu4dfe", "centre": "bu3dfe", "south": "bosphorus"}.get(name, "scanner")
    assert listing.dataset == expected
    assert not listing.problems
    labels = [sequence.label for sequence in listing.sequences]
    assert set(labels) == set(EXPRESSIONS) - ({"neutral"} if name == "north" else set())
    assert len(labels) == {"north": 6, "centre": 13}.get(name, 7)
    if name == "north":
        assert all(len(sequence.frames) == 2 for sequence in listing.sequences)


@pytest.mark.parametrize("name", NAMES)
def test_written_scans_can_be_read(raw: dict[str, Path], name: str) -> None:
    for sequence in find(raw[name]).sequences[::3]:
        found = read(sequence.frames[-1])
        assert 1500 < len(found.vertices) < 6500
        assert (found.texture is None) == (name == "west")
        size = np.ptp(found.vertices, axis=0)
        assert 100 < size[0] < 220
        assert 120 < size[1] < 240
        assert len(found.landmarks) == {"centre": 83}.get(name, len(found.landmarks))
        if name == "south":
            assert {"nose_tip", "left_mouth_corner", "chin"} <= set(found.landmarks)


def test_nobody_is_in_two_hospitals(raw: dict[str, Path]) -> None:
    subjects = [sequence.subject for name in NAMES for sequence in find(raw[name]).sequences]
    assert len(set(subjects)) == len(NAMES)


def test_second_run_writes_the_same_bytes(raw: dict[str, Path], tmp_path: Path) -> None:
    """In other processes, and in another company of hospitals."""
    again = write_hospitals(tmp_path, subjects=1, seed=5, hospitals=("south", "west"), jobs=2)
    other = write_hospitals(tmp_path / "other", subjects=1, seed=6, hospitals=("west",), jobs=1)[0]
    for folder in again:
        first = raw[folder.name]
        assert files(first) == files(folder)
        for name in files(folder):
            assert (
                hashlib.sha256((first / name).read_bytes()).digest()
                == hashlib.sha256((folder / name).read_bytes()).digest()
            )
    assert (other / "P501/P501_sad_0.ply").read_bytes() != (raw["west"] / "P501/P501_sad_0.ply").read_bytes()


def test_vrml_round_trip(shot: Capture, tmp_path: Path) -> None:
    scan = to_scan(shot)
    layouts.write_vrml(tmp_path / "000.wrl", scan, texture="000.jpg")
    layouts.save_image(tmp_path / "000.jpg", shot.photo)
    found = read_file(tmp_path / "000.wrl")
    assert_same(found, scan, precision=5.1e-5)
    assert found.texture is not None
    assert scan.texture is not None
    assert np.abs(found.texture.corner_uv - scan.texture.corner_uv).max() < 2e-6
    assert np.abs(found.texture.image.astype(int) - shot.photo).mean() < 6  # JPEG


def test_bnd_lies_on_its_vertices(shot: Capture, tmp_path: Path) -> None:
    scan = to_scan(shot)
    layouts.write_vrml(tmp_path / "a.wrl", scan, texture="a.bmp")
    layouts.save_image(tmp_path / "a.bmp", shot.photo)
    layouts.write_bnd(tmp_path / "a.bnd", scan)
    rows = np.loadtxt(tmp_path / "a.bnd")
    assert rows.shape == (83, 4)
    assert np.abs(scan.vertices[rows[:, 0].astype(int)] - rows[:, 1:]).max() < 5.1e-5
    found = read_file(tmp_path / "a.wrl").landmarks
    for name in ("chin", "left_mouth_corner", "left_eye_outer", "right_eye_inner"):
        assert np.linalg.norm(found[name] - scan.landmarks[name]) < 0.75 * shot.pitch + 1.0


def test_bnt_and_lm3_round_trip(shot: Capture, tmp_path: Path) -> None:
    layouts.write_bnt(tmp_path / "bs000_N_N_0.bnt", shot, image="bs000_N_N_0.png")
    layouts.write_lm3(tmp_path / "bs000_N_N_0.lm3", shot.landmarks)
    layouts.save_image(tmp_path / "bs000_N_N_0.png", shot.photo)
    data = (tmp_path / "bs000_N_N_0.bnt").read_bytes()
    rows, columns = np.frombuffer(data, "<u2", 2)
    assert len(data) == 18 + len("bs000_N_N_0.png") + 40 * int(rows) * int(columns)
    found = read_file(tmp_path / "bs000_N_N_0.bnt")
    valid = np.isfinite(shot.points[..., 2])
    assert np.abs(found.vertices - shot.points[valid]).max() <= 5.1e-5
    for name in ("nose_tip", "left_mouth_corner", "right_eye_outer", "upper_lip_outer_middle"):
        off = np.linalg.norm(found.landmarks[name] - shot.landmarks[name])
        # As in the file, or put on the surface as the grid has it.
        assert off <= 9e-5 or 1.0 < off <= 1.2 * shot.pitch
    assert found.texture is not None
    height, width = shot.photo.shape[:2]
    place = found.texture.corner_uv * [width, height]
    colours = found.texture.image[(height - place[..., 1]).astype(int), place[..., 0].astype(int)]
    number = np.full(valid.shape, -1)
    number[valid] = np.arange(valid.sum())
    at = shot.pixels[valid][found.faces].astype(int)
    assert np.array_equal(colours, shot.photo[at[..., 1], at[..., 0]])


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_export_round_trip(shot: Capture, tmp_path: Path, kind: str) -> None:
    scan, path = to_scan(shot), tmp_path / f"P001_happy_0.{kind}"
    (layouts.write_obj if kind == "obj" else layouts.write_ply)(path, scan)
    found = read_file(path)
    assert_same(found, scan, precision=5.1e-5)
    if kind == "ply":
        assert found.vertex_colors is not None
        assert scan.vertex_colors is not None
        assert np.array_equal(found.vertex_colors, scan.vertex_colors)
    else:
        assert found.texture is not None
        assert scan.texture is not None
        assert np.array_equal(found.texture.image, shot.photo)
        assert np.abs(found.texture.corner_uv - scan.texture.corner_uv).max() < 2e-6


def test_a_landmark_has_the_colour_of_its_place(raw: dict[str, Path]) -> None:
    """Chin: skin of the photograph; mouth corner and eyes differ from it."""
    found = read(next(s for s in find(raw["centre"]).sequences if s.label == "neutral").frames[0])
    assert found.texture is not None
    height, width = found.texture.image.shape[:2]

    def colour(name: str) -> np.ndarray:
        assert found.texture is not None
        corner = ((found.vertices[found.faces] - found.landmarks[name]) ** 2).sum(-1)
        u, v = found.texture.corner_uv[np.unravel_index(corner.argmin(), corner.shape)]
        row, column = int((1 - v) * height), int(u * width)
        return found.texture.image[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3).mean(0)

    chin = colour("chin")
    assert chin[0] > chin[1] > 0.8 * chin[2], "skin is warm"
    assert chin.min() > 25


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subjects": 0}, "subjects = 0"),
        ({"frames": 0}, "frames = 0"),
        ({"hospitals": ("moon",)}, "moon"),
        ({"hospitals": ("east", "east")}, "each once"),
        ({"levels": (5,)}, r"levels = \(5,\)"),
    ],
)
def test_bad_wishes_are_refused(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write_hospitals(tmp_path, **change)
