"""A private folder of face scans -> `Listing`, `Sequence` and `Scan`: where every data set enters the project.

`find` names what is there without opening a mesh, `read` opens one frame, `read_file` any single file.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from . import (
    abs_range,
    bnt,
    bosphorus,
    bp4d,
    bp4dplus,
    bu3dfe,
    bu4dfe,
    cloud,
    coma,
    d3dfacs,
    facescape,
    fourdme,
    frgc,
    images,
    landmarks,
    obj,
    overlay,
    parts,
    ply,
    rgbd,
    scanner,
    trimesh_mesh,
    wrl,
)
from .folders import astray, by_lower_name
from .scan import Frame, Listing, Options, Problem, Scan, Sequence, Texture

__all__ = [
    "DATASETS",
    "Frame",
    "Listing",
    "Options",
    "Problem",
    "Scan",
    "Sequence",
    "Texture",
    "find",
    "read",
    "read_file",
]

_LAYOUTS = {
    "bu4dfe": bu4dfe,
    "bu3dfe": bu3dfe,
    "bosphorus": bosphorus,
    "frgc": frgc,
    "bp4d": bp4d,
    "bp4dplus": bp4dplus,
    "4dme": fourdme,
    "d3dfacs": d3dfacs,
    "coma": coma,
    "facescape": facescape,
    "scanner": scanner,
}
_READERS = {
    ".wrl": wrl.read,
    ".bnt": bnt.read,
    ".abs": abs_range.read,
    ".gz": abs_range.read,
    ".obj": obj.read,
    ".ply": ply.read,
    **dict.fromkeys((".stl", ".glb", ".gltf", ".off"), trimesh_mesh.read),
    **dict.fromkeys((".xyz", ".txt", ".pcd"), cloud.read),
}
DATASETS = tuple(_LAYOUTS)
READ_LABELS = ("scanner", "4dme")  # whose subjects or labels come out of the CSV itself
LARGEST = 1 << 30  # bytes; a scan has some megabytes, and a reader holds the whole file


def find(folder: Path, *, dataset: str = "auto", options: Options | None = None) -> Listing:
    """The scans in `folder`, in a fixed order, with the files set aside and why.

    `auto` asks every data set's `matches`; the scanner's own rule counts only where no data set fits, or where a pattern is
    given. A data set that is named is listed without being asked. A CSV of labels is laid over what a data set says itself.
    Raises ValueError where the folder does not exist, is empty, holds no known layout or more than one.
    """
    folder = Path(folder)
    if dataset not in ("auto", *DATASETS):
        raise ValueError(f"data set {dataset!r} is unknown: choose auto or one of {', '.join(DATASETS)}")
    if not folder.exists():
        raise ValueError(f"{folder}: no such folder: check the path")
    if not folder.is_dir():
        raise ValueError(f"{folder}: this is a file: give the folder that holds the data set")
    options = options or Options()
    try:
        if not any(folder.iterdir()):
            raise ValueError(f"{folder}: the folder is empty: give the folder that holds the data set")
        name = _recognised(folder, dataset, options)
        listing = _LAYOUTS[name].listing(folder, options)
        if not listing.sequences and not listing.problems:
            raise _nothing(folder, name)
        if options.labels is not None and name not in READ_LABELS:
            listing = overlay.lay_over(listing, folder, options)
        return dataclasses.replace(listing, problems=(*listing.problems, *astray(folder)))
    except OSError as error:
        raise ValueError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}): "
            "check the disk and the permissions"
        ) from error


def _recognised(folder: Path, dataset: str, options: Options) -> str:
    """The name of the layout that the folder has. Raises ValueError where there is none, or more than one."""
    if options.pattern is not None:
        if dataset not in ("auto", "scanner"):
            raise ValueError(
                f"{folder}: data set {dataset} does not take --pattern: leave it away, or give --dataset scanner"
            )
        return "scanner"
    if dataset not in ("auto", "scanner"):
        return dataset
    names = DATASETS if dataset == "auto" else (dataset,)
    fitting = [name for name in names if name != "scanner" and _LAYOUTS[name].matches(folder)]
    if len(fitting) > 1:
        raise ValueError(
            f"{folder}: it holds more than one layout ({', '.join(fitting)}), or one that several data sets share with "
            f"other labels: say which it is with {' or '.join(f'--dataset {name}' for name in fitting)}"
        )
    if fitting:
        return fitting[0]
    # Last, because its rule looks at every file.
    if options.labels is not None or scanner.matches(folder):
        return "scanner"
    if advice := scanner.advice(folder):
        raise ValueError(f"{folder}: no scans recognised by their names: {advice}")
    raise _nothing(folder, *names)


def _nothing(folder: Path, *names: str) -> ValueError:
    """What to say where a folder holds none of the layouts `names`."""
    expected = " or ".join(_LAYOUTS[name].LAYOUT for name in names)
    hints = ["its archives must be unpacked first"] if _packed(folder) else [p.reason for p in astray(folder)]
    hint = f" ({hints[0]})" if hints else ""
    return ValueError(
        f"{folder}: no scans recognised{hint}, expected {expected}: give the folder that holds the subjects"
    )


def _packed(folder: Path) -> bool:
    """Whether archives lie in `folder` or up to two levels deeper, one a subject, as data sets are handed out."""
    return any(next(folder.glob(depth + "*.zip"), None) for depth in ("", "*/", "*/*/"))


@np.errstate(
    over="ignore", invalid="ignore"
)  # of a damaged file's huge numbers; `checked` finds what comes of them
def read(frame: Frame, *, need_texture: bool = True) -> Scan:
    """The scan of a frame in mm, in the frame and vertex order of its file, with its landmarks.

    With `need_texture` the scan has a texture or vertex colours; without, no image is opened. Raises ValueError
    with the file, the value and the remedy in one sentence for anything that cannot be a whole face scan.
    """
    path = frame.path
    try:
        scan = _mesh(path, frame, need_texture=need_texture)
        if frame.parts:
            others = [_part(part, frame, need_texture=need_texture) for part in frame.parts]
            scan = parts.merged([scan, *others], need_texture=need_texture)
        if frame.landmarks is None:
            return scan
        return dataclasses.replace(scan, landmarks=landmarks.read(frame.landmarks, scan, mesh=path))
    except OSError as error:
        raise ValueError(
            f"{error.filename or path}: cannot be read ({error.strerror or error}): "
            "check the disk and the permissions"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _part(path: Path, frame: Frame, *, need_texture: bool) -> Scan:
    """A further mesh of the capture; it may share the image of the first."""
    own = images.of_stem(path) or frame.texture
    try:
        return _mesh(path, Frame(path, texture=own, camera=frame.camera), need_texture=need_texture)
    except ValueError as error:
        raise ValueError(f"part {path.name}: {error}") from error


def _mesh(path: Path, frame: Frame, *, need_texture: bool) -> Scan:
    """One file, by its suffix; a depth image is what has a camera."""
    reader = _READERS.get(path.suffix.lower())
    if frame.camera is not None:
        reader = functools.partial(rgbd.read, camera=frame.camera)
    if reader is None:
        raise ValueError(
            f"files of kind {path.suffix or 'no extension'!r} are not read: "
            f"export it as one of {', '.join(_READERS)}, or name depth images like P001_happy_0_depth.png"
        )
    if not path.is_file():
        raise ValueError("no such file: check the path")
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{size:,} bytes are too many for one scan: export the face alone")
    if size == 0:
        raise ValueError("the file is empty: copy or export the scan again")
    return reader(path, texture=frame.texture, need_texture=need_texture)


def read_file(path: Path, *, need_texture: bool = True) -> Scan:
    """`read` for one scan file; its landmarks (`.bnd`, `.lm3` or `.lm2` of its stem) and texture are found beside it, and so
    are the colour and the intrinsics of a depth image.
    """
    path = Path(path)
    if path.is_file() and rgbd.stem_of(path) is not None:
        return read(rgbd.frame(path, top=path.parent), need_texture=need_texture)
    files = by_lower_name(path.parent.iterdir()) if path.parent.is_dir() else {}
    stem = path.stem.lower()
    beside = files.get(stem + ".bnd") or bosphorus.landmarks_of(files, stem)
    return read(Frame(path, landmarks=beside), need_texture=need_texture)
