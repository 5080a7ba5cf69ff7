"""Simulated hospitals: each writes its captures in another real layout and with another scanner.

    north   BU-4DFE    F001/Angry/000.wrl + 000.jpg             sequences, six expressions
    centre  BU-3DFE    F0001/F0001_AN02WH_F3D.wrl .bnd _F2D.bmp  seven expressions, several levels
    south   Bosphorus  bs000/bs000_E_ANGER_0.bnt .png .lm3       seven expressions
    east    export     P001/happy_0/P001_happy_0.obj .mtl .png   seven expressions
    west    export     P501/P501_happy_0.ply                     seven expressions, vertex colours

Nobody is in two hospitals, and the same seed writes the same bytes.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from smile.labels import EXPRESSIONS

from . import layouts
from .faces import Identity, face, perform, sample_identity, timeline
from .scanners import SCANNERS, Capture, Scanner, capture, sample_pose, to_scan

LEVEL_STRENGTH = {1: 0.45, 2: 0.65, 3: 0.82, 4: 1.0}  # of a BU-3DFE level
RACE = "WH"  # the grammar wants two letters; here they mean nothing and are the same for everybody
README = (
    "Simulated face scans, made by `simulations/hospitals.py`. These people do not exist, their expressions are made of\n"
    "FACS action units, and no real scan went in. Say so wherever a figure made on them is shown.\n"
)
_BU4DFE = {
    "anger": "Angry",
    "disgust": "Disgust",
    "fear": "Fear",
    "happiness": "Happy",
    "sadness": "Sad",
    "surprise": "Surprise",
}
_BU3DFE = {
    "neutral": "NE",
    "anger": "AN",
    "disgust": "DI",
    "fear": "FE",
    "happiness": "HA",
    "sadness": "SA",
    "surprise": "SU",
}
_BOSPHORUS = {
    "neutral": "N_N",
    "anger": "E_ANGER",
    "disgust": "E_DISGUST",
    "fear": "E_FEAR",
    "happiness": "E_HAPPY",
    "sadness": "E_SADNESS",
    "surprise": "E_SURPRISE",
}
_EXPORT = {
    "neutral": "neutral",
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprise": "surprise",
}


@dataclass(frozen=True)
class Person:
    """One subject of one hospital, with a random stream of their own."""

    folder: Path  # of the hospital
    number: int  # 0-based within the hospital
    key: tuple[int, int, int]  # seed, hospital, number

    def rng(self, *parts: int) -> np.random.Generator:
        """The stream of one part of this person's visit."""
        return np.random.default_rng([*self.key, *parts])

    def identity(self) -> Identity:
        """Female and male builds in turn, so that the ids of the BU sets, which name the sex, fit."""
        rng = self.rng()
        build = abs(float(np.clip(rng.normal(0.9, 0.3), 0.2, 1.4)))
        return sample_identity(rng, build=build if self.number % 2 else -build)

    def sexed(self, digits: int) -> str:
        """F001, M001, F002 ..."""
        return f"{'FM'[self.number % 2]}{self.number // 2 + 1:0{digits}d}"


def write_hospitals(
    folder: Path,
    *,
    subjects: int = 8,
    seed: int = 0,
    hospitals: Sequence[str] = ("north", "centre", "south", "east"),
    frames: int = 7,
    levels: Sequence[int] = (3, 4),
    jobs: int | None = None,
    progress: bool = False,
) -> list[Path]:
    """Write one raw folder a hospital, `folder/<name>`, and return them in the order asked for.

    subjects: people a hospital. frames: of each 4D sequence of north. levels: BU-3DFE intensities 1..4 of centre.
    jobs: worker processes; None one a core, 0 or 1 none. Raises ValueError for an unknown hospital or level and for
    numbers below 1.
    """
    folder = Path(folder)
    for name, value in (("subjects", subjects), ("frames", frames)):
        if value < 1:
            raise ValueError(f"{name} = {value}: give 1 or more")
    unknown = [name for name in hospitals if name not in _HOSPITALS]
    if unknown or len(set(hospitals)) != len(hospitals):
        raise ValueError(f"hospitals = {tuple(hospitals)}: choose from {', '.join(_HOSPITALS)}, each once")
    if not levels or not set(levels) <= set(LEVEL_STRENGTH):
        raise ValueError(f"levels = {tuple(levels)}: choose from 1, 2, 3, 4")
    all_options: dict[str, dict[str, Any]] = {
        "north": {"frames": frames},
        "centre": {"levels": tuple(levels)},
    }
    visits: list[Callable[[], None]] = []
    order = list(_HOSPITALS)
    for name in hospitals:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "README.txt").write_text(README)
        options = all_options.get(name, {})
        visits += [
            partial(_HOSPITALS[name], Person(folder / name, n, (seed, order.index(name), n)), **options)
            for n in range(subjects)
        ]
    _run(visits, os.cpu_count() or 1 if jobs is None else jobs, progress)
    return [folder / name for name in hospitals]


def _run(visits: list[Callable[[], None]], jobs: int, progress: bool) -> None:
    """Do all visits, in this process or in fresh ones."""
    jobs = min(jobs, len(visits))
    if jobs <= 1:
        for visit in _counted(visits, len(visits), progress):
            visit()
        return
    # Not forked: the caller may have started threads (torch), which a fork would leave locked.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in _counted([pool.submit(visit) for visit in visits], len(visits), progress):
            future.result()


def _counted(items: list, total: int, progress: bool):  # type: ignore[no-untyped-def]
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, unit="person", desc="simulate")


def _shoot(
    person: Person, who: Identity, scanner: Scanner, expression: str, *, strength: float = 1.0, take: int = 0
) -> Capture:
    """One still capture of one expression."""
    rng = person.rng(1, EXPRESSIONS.index(expression), take)
    units = perform(expression, rng, strength=strength)
    gaze = tuple(np.clip(rng.normal(0, 0.5, 2), -1.2, 1.2).tolist())
    return capture(face(who, units, gaze=gaze), scanner, rng)


def _north(person: Person, *, frames: int) -> None:
    """BU-4DFE: a sequence for each expression, no neutral one."""
    who, scanner, subject = person.identity(), SCANNERS["stereo"], person.sexed(3)
    for expression, name in _BU4DFE.items():
        place = person.folder / subject / name
        place.mkdir(parents=True, exist_ok=True)
        rng = person.rng(1, EXPRESSIONS.index(expression))
        rest, peak = perform("neutral", rng), perform(expression, rng)
        times = timeline(frames, onset=float(rng.uniform(0.28, 0.38)), offset=float(rng.uniform(0.6, 0.72)))
        pose, drift = sample_pose(scanner, rng), rng.normal(0, 1, 6) * [1.0, 1.5, 0.8, 0.8, 0.8, 0.8]
        for number, intensity in enumerate(times):
            units = {
                unit: (1 - intensity) * rest.get(unit, 0.0) + intensity * peak.get(unit, 0.0)
                for unit in {**rest, **peak}
            }
            now = pose + drift * number / max(frames - 1, 1)
            shot = capture(face(who, units), scanner, rng, pose=now)
            layouts.write_vrml(place / f"{number:03d}.wrl", to_scan(shot), texture=f"{number:03d}.jpg")
            layouts.save_image(place / f"{number:03d}.jpg", shot.photo)


def _centre(person: Person, *, levels: tuple[int, ...]) -> None:
    """BU-3DFE: neutral at level 00, the others at each of `levels`."""
    who, subject = person.identity(), person.sexed(4)
    place = person.folder / subject
    place.mkdir(parents=True, exist_ok=True)
    for expression, code in _BU3DFE.items():
        for level in (0,) if expression == "neutral" else levels:
            stem = f"{subject}_{code}{level:02d}{RACE}"
            shot = _shoot(
                person, who, SCANNERS["pods"], expression, strength=LEVEL_STRENGTH.get(level, 1.0), take=level
            )
            scan = to_scan(shot)
            layouts.write_vrml(place / f"{stem}_F3D.wrl", scan, texture=f"{stem}_F2D.bmp")
            layouts.write_bnd(place / f"{stem}_F3D.bnd", scan)
            layouts.save_image(place / f"{stem}_F2D.bmp", shot.photo)


def _south(person: Person) -> None:
    """Bosphorus: range images with landmarks by label."""
    who, subject = person.identity(), f"bs{person.number:03d}"
    place = person.folder / subject
    place.mkdir(parents=True, exist_ok=True)
    for expression, code in _BOSPHORUS.items():
        stem = f"{subject}_{code}_0"
        shot = _shoot(person, who, SCANNERS["structured"], expression)
        layouts.write_bnt(place / f"{stem}.bnt", shot, image=f"{stem}.png")
        layouts.write_lm3(place / f"{stem}.lm3", shot.landmarks)
        layouts.save_image(place / f"{stem}.png", shot.photo)


def _east(person: Person) -> None:
    """A scanner's export: one folder a capture with OBJ, MTL and PNG."""
    who, subject = person.identity(), f"P{person.number + 1:03d}"
    for expression, word in _EXPORT.items():
        place = person.folder / subject / f"{word}_0"
        place.mkdir(parents=True, exist_ok=True)
        shot = _shoot(person, who, SCANNERS["handheld"], expression)
        layouts.write_obj(place / f"{subject}_{word}_0.obj", to_scan(shot))


def _west(person: Person) -> None:
    """A scanner's export: PLY files with vertex colours."""
    who, subject = person.identity(), f"P{person.number + 501:03d}"
    place = person.folder / subject
    place.mkdir(parents=True, exist_ok=True)
    for expression, word in _EXPORT.items():
        shot = _shoot(person, who, SCANNERS["phone"], expression)
        layouts.write_ply(place / f"{subject}_{word}_0.ply", to_scan(shot))


_HOSPITALS: dict[str, Callable[..., None]] = {
    "north": _north,
    "centre": _centre,
    "south": _south,
    "east": _east,
    "west": _west,
}
