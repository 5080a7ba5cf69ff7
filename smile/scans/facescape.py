"""FaceScape (Yang et al., CVPR 2020): `1/models_reg/4_anger.obj` + `.jpg` + `.mtl`, multi-view scans `1/4_anger.ply`.

Layout: <https://github.com/zhuhao-nju/facescape>. Of its twenty expressions five are words of ours; the others are
movements of the jaw, the mouth and the brows, which are listed without a label unless a mapping gives one.
"""

import re
from pathlib import Path

from . import folders, numbered
from .scan import Frame, Listing, Options, Problem, Sequence

LAYOUT = "1/models_reg/4_anger.obj or 1/4_anger.ply"
NAMES = (
    *("neutral", "smile", "mouth_stretch", "anger", "jaw_left", "jaw_right", "jaw_forward", "mouth_left"),
    *("mouth_right", "dimpler", "chin_raiser", "lip_puckerer", "lip_funneler", "sadness", "lip_roll", "grin"),
    *("cheek_blowing", "eye_closed", "brow_raiser", "brow_lower"),
)  # numbered from 1
LABELS = {
    "neutral": "neutral",
    "anger": "anger",
    "sadness": "sadness",
    "smile": "happiness",
    "grin": "happiness",
}
_PERSON = re.compile(r"\d+$")
_REGISTERED = "models_reg"
_MESH = re.compile(r"(\d{1,2})_([a-z_]+)\.(?:obj|ply)", re.IGNORECASE)


def matches(folder: Path) -> bool:
    """Whether a numbered folder holds a mesh that has the number and the name of an expression."""
    return any(
        _expected(frame.path)
        for person in _people(folder)[0]
        for kind in _meshes(person)
        for frame in kind.values()
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence of one frame for each expression; the registered mesh, where both kinds are there."""
    found: list[Sequence] = []
    problems: list[Problem] = []
    left = 0
    people, others = _people(folder)
    misnamed = {place.parent for place in others if place.name.lower() == _REGISTERED}
    misnamed |= {place for place in others if any(map(_expected, _scans(place)))}
    for place in sorted(misnamed.difference(people)):
        reason = f"folder {place.name!r} looks like a subject, but a subject is a number: correct its name"
        problems.append(Problem(place, reason))
    for person in people:
        registered, scans = _meshes(person)
        passed = _passed_over(person)
        problems += passed
        if not (registered or scans or passed):
            reason = f"subject {person.name} has no meshes like {LAYOUT.replace('1/', f'{person.name}/')}: restore them"
            problems.append(Problem(person, reason))
        left += len(registered.keys() & scans.keys())
        for frame in (scans | registered).values():
            try:
                found.append(_sequence(frame, str(int(person.name)), options))
            except ValueError as error:
                problems.append(Problem(frame.path, str(error)))
    sequences, doubles = folders.unique(found)
    note = f"{folders.count(left, 'multi-view mesh', 'multi-view meshes')} left out, as registered ones are there"
    why = folders.why(f"FaceScape layout ({LAYOUT})", sequences, note if left else "")
    return Listing("facescape", why, tuple(sequences), tuple(problems + doubles))


def _sequence(frame: Frame, subject: str, options: Options) -> Sequence:
    file = frame.path
    match = _MESH.fullmatch(file.name)
    if match is None or not _expected(file):
        raise ValueError(
            f"{file.name!r} is not named after one of the twenty expressions, like 4_anger{file.suffix}: correct its name"
        )
    word = match[2].lower()
    word = word if word in options.mapping else LABELS.get(word, "")
    label = options.expression(word) if word else None
    return Sequence(subject, label, f"{subject}/{int(match[1])}_{match[2].lower()}", (frame,))


def _expected(file: Path) -> bool:
    match = _MESH.fullmatch(file.name)
    return match is not None and dict(enumerate(NAMES, start=1)).get(int(match[1])) == match[2].lower()


def _people(folder: Path) -> tuple[list[Path], list[Path]]:
    seen = list(numbered.tree(folder, 3, _PERSON))
    people = [p for p in seen if _PERSON.fullmatch(p.name)]
    return people, [p for p in seen if not _PERSON.fullmatch(p.name)]


def _passed_over(person: Path) -> list[Problem]:
    """A Problem for each folder with meshes of the other kind: registered ones are OBJ, multi-view ones are PLY."""
    registered = [p for p in folders.subfolders(person) if p.name.lower() == _REGISTERED]
    places = [(person, ".obj", f"move them to {_REGISTERED}")]
    places += [(place, ".ply", f"move them to {person.name}") for place in registered]
    return [
        Problem(
            place, f"{folders.count(len(names), f'{suffix} mesh', f'{suffix} meshes')} left out: {remedy}"
        )
        for place, suffix, remedy in places
        if (names := numbered.with_suffix(numbered.file_names(place), suffix))
    ]


def _meshes(person: Path) -> tuple[dict[str, Frame], dict[str, Frame]]:
    """Stem -> frame of the registered meshes and of the multi-view ones of a person."""
    registered: dict[str, Frame] = {}
    for folder in folders.subfolders(person):
        if folder.name.lower() == _REGISTERED:
            files = folders.by_lower_name(folder / name for name in numbered.file_names(folder))
            for file in files.values():
                if file.suffix.lower() == ".obj":
                    registered[file.stem.lower()] = Frame(file, texture=folders.image_of(files, file.stem))
    return registered, {file.stem.lower(): Frame(file) for file in _scans(person)}


def _scans(person: Path) -> list[Path]:
    return [person / name for name in numbered.with_suffix(numbered.file_names(person), ".ply")]
