"""A folder of raw scans for the tests of a site: bare analytic faces in the layout of a scanner's export."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smile.config import ViewConfig
from smile.site.prepare import prepare

SMALL = ViewConfig(yaws=(0.0, 30.0), size=16, modalities=("depth", "normals"))


def write_face(path: Path, *, seed: int) -> None:
    """An ellipsoid with a nose, eye sockets and a chin, as an OBJ with vertex colours (its reader starts fastest)."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(-70.0, 71, 5), np.arange(-95.0, 96, 5))
    inside = (x / 72) ** 2 + (y / 97) ** 2 < 0.95
    z = 90 * np.sqrt(np.clip(1 - (x / 80) ** 2 - (y / 115) ** 2, 0, None)) - 90
    bridge = np.where(y >= -4, np.exp(-(((y + 4) / 26) ** 2)), np.exp(-(((y + 4) / 8) ** 2)))
    z += (22 + rng.normal()) * np.exp(-((x / 9) ** 2)) * bridge
    z -= 7 * np.exp(-(((abs(x) - 31) / 14) ** 2) - ((y - 34) / 9) ** 2)
    z += 4 * np.exp(-((x / 25) ** 2) - ((y + 40) / 9) ** 2)
    index = np.where(inside, np.cumsum(inside.ravel()).reshape(inside.shape) - 1, -1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    whole = (np.stack([a, b, c, d]) >= 0).all(axis=0)
    faces = np.concatenate([np.stack([a, b, c], -1)[whole], np.stack([a, c, d], -1)[whole]])
    points = np.stack([x[inside], y[inside], z[inside]], axis=1)
    points += rng.normal(scale=0.1, size=points.shape)
    red, green, blue = rng.uniform(0.4, 0.8, 3)
    lines = [
        *(f"v {p[0]:.3f} {p[1]:.3f} {p[2]:.3f} {red:.3f} {green:.3f} {blue:.3f}" for p in points),
        *(f"f {f[0]} {f[1]} {f[2]}" for f in faces + 1),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def views() -> ViewConfig:
    """Small pictures: the tests here are about files, not about what is seen."""
    return SMALL


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of a site, by column."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_raw(
    folder: Path,
    subjects: tuple[str, ...] = ("P001", "P002"),
    words: tuple[str, ...] = ("happy", "sad"),
) -> Path:
    """One face for each subject and word; those that are there stay as they are."""
    for subject in subjects:
        for number, word in enumerate(words):
            path = folder / subject / f"{subject}_{word}_0.obj"
            if not path.exists():
                write_face(path, seed=int(subject[1:]) * 100 + number)
    return folder


@pytest.fixture
def make_raw(tmp_path: Path) -> Callable[..., Path]:
    """make_raw(subjects, words) -> tmp_path/raw with these faces."""
    return lambda *options: write_raw(tmp_path / "raw", *options)


@pytest.fixture
def run(tmp_path: Path, views: ViewConfig) -> Callable[..., dict[str, Any]]:
    """run(raw, ...) prepares `tmp_path/site` in this process."""

    def call(raw: Path, **options) -> dict[str, Any]:
        return prepare(raw, tmp_path / "site", **{"views": views, "jobs": 0, "progress": False, **options})

    return call


@pytest.fixture(scope="session")
def prepared_small(tmp_path_factory: pytest.TempPathFactory, views: ViewConfig) -> Path:
    """A prepared site of two subjects with two faces each; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("small")
    prepare(write_raw(folder / "raw"), folder / "site", views=views, jobs=0, progress=False)
    return folder / "site"
