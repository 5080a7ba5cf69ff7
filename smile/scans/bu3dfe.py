"""BU-3DFE (Yin et al., FG 2006): `F0001/F0001_AN01WH_F3D.wrl` with its `.bnd` and its texture image.

Layout: <https://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html> and the public loader Deep-MVLM.
The two letters after the level state the subject's ethnic group: they are parsed over and go nowhere.
"""

import re
from pathlib import Path

from . import folders
from .scan import Frame, Listing, Options, Problem, Sequence

SUBJECT = r"[FM]\d{4}"
LAYOUT = "F0001/F0001_AN01WH_F3D.wrl"
_MESH = re.compile(
    r"(?P<subject>[FM]\d{4})_(?P<expr>[A-Z]{2})(?P<level>\d{2})[A-Z]{2}_(?P<kind>F3D|RAW)\.wrl", re.IGNORECASE
)
_POINTS = (".bnd", "_84_lms.txt")


def matches(folder: Path) -> bool:
    """Whether some subject has a mesh named after it."""
    return any(
        re.match(SUBJECT + r"_.*\.wrl$", file.name, re.IGNORECASE)
        for subject in folders.subjects(folder, SUBJECT)[0]
        for file in folders.entries(subject)
    )


def listing(folder: Path, options: Options) -> Listing:
    """One sequence of one frame for each capture: its cropped mesh (F3D), or the uncropped one (RAW) where that is missing."""
    people, others = folders.subjects(folder, SUBJECT)
    problems = folders.almost_subjects(others, r"[FM]\d", "F or M and four digits")
    found, twice, alone, marks = [], 0, 0, 0
    for person in people:
        files = folders.by_lower_name(folders.entries(person))
        for name, file in files.items():
            marks += name.endswith(_POINTS)
            if not name.endswith(".wrl"):
                continue
            mesh = _MESH.fullmatch(file.name)
            raw = mesh is not None and mesh["kind"].upper() == "RAW"
            if raw and name.replace("_raw.", "_f3d.") in files:
                twice += 1
                continue
            try:
                found.append(_sequence(file, mesh, person.name.upper(), files, options))
                alone += raw
            except ValueError as error:
                problems.append(Problem(file, str(error)))
    sequences, doubles = folders.unique(found)
    why = folders.why(
        f"BU-3DFE layout ({LAYOUT})",
        sequences,
        folders.left_out(others),
        f"{folders.count(twice, 'uncropped RAW mesh', 'uncropped RAW meshes')} left out beside F3D"
        if twice
        else "",
        f"{folders.count(alone, 'scan is', 'scans are')} there as RAW alone" if alone else "",
        folders.marked(sequences, marks - sum(s.frames[0].landmarks is not None for s in sequences)),
    )
    return Listing("bu3dfe", why, tuple(sequences), tuple(problems + doubles))


def _sequence(
    file: Path, mesh: re.Match[str] | None, subject: str, files: dict[str, Path], options: Options
) -> Sequence:
    if mesh is None:
        raise ValueError(f"{file.name!r} is not named like {LAYOUT.split('/')[1]}: correct its name")
    if mesh["subject"].upper() != subject:
        raise ValueError(f"{file.name!r} lies in the folder of {subject}: move it to its own subject")
    label = options.expression(mesh["expr"])
    if (mesh["expr"].upper() == "NE") != (mesh["level"] == "00") or int(mesh["level"]) > 4:
        raise ValueError(
            f"level {mesh['level']} of {file.name!r} does not exist (neutral has 00, the others "
            "01 to 04): correct its name"
        )
    stem = file.stem.lower()
    # Only the images of the meshes themselves: the _F2D picture serves where the mesh names it, or last (`wrl`).
    image = folders.image_of(files, stem)
    if mesh["kind"].upper() == "F3D":
        landmarks = files.get(stem + ".bnd")
    else:  # the .bnd counts in the F3D mesh and lies in its frame
        image = image or folders.image_of(
            files, stem.removesuffix("raw") + "f3d"
        )  # one texture serves both meshes
        landmarks = files.get(stem + "_84_lms.txt")
    name = f"{subject}/{mesh['expr'].upper()}{mesh['level']}"
    measures = {"level": float(mesh["level"])}  # 0 neutral, 1 to 4 how strongly it was posed
    return Sequence(subject, label, name, (Frame(file, 0, image, landmarks),), measures)
