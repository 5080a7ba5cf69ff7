"""A private folder of face scans -> `Listing`, `Sequence` and `Scan`: where every data set enters the project.

`find` names what is there without opening a mesh, `read` opens one frame, `read_file` any single file.
"""

import dataclasses
from pathlib import Path

from . import bnt, bosphorus, bu3dfe, bu4dfe, landmarks, obj, ply, scanner, wrl
from .folders import by_lower_name
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

_LAYOUTS = {"bu4dfe": bu4dfe, "bu3dfe": bu3dfe, "bosphorus": bosphorus, "scanner": scanner}
_READERS = {".wrl": wrl.read, ".bnt": bnt.read, ".obj": obj.read, ".ply": ply.read}
DATASETS = tuple(_LAYOUTS)
LARGEST = 1 << 30  # bytes; a scan has some megabytes, and a reader holds the whole file


def find(folder: Path, *, dataset: str = "auto", options: Options | None = None) -> Listing:
    """The scans in `folder`, in a fixed order, with the files set aside and why.

    `auto` asks every data set's `matches`; the scanner's own rule counts only where no data set fits. Raises ValueError where the folder does not exist, is empty, holds no known layout or more than one.
    """
    folder = Path(folder)
    if dataset not in ("auto", *DATASETS):
        raise ValueError(f"data set {dataset!r} is unknown: choose auto or one of {', '.join(DATASETS)}")
    if not folder.exists():
        raise ValueError(f"{folder}: no such folder: check the path")
    if not folder.is_dir():
        raise ValueError(f"{folder}: this is a file: give the folder that holds the data set")
    try:
        if not any(folder.iterdir()):
            raise ValueError(f"{folder}: the folder is empty: give the folder that holds the data set")
        names = DATASETS if dataset == "auto" else (dataset,)
        fitting = [name for name in names if _LAYOUTS[name].matches(folder)]
        if len(fitting) > 1 and "scanner" in fitting:
            fitting.remove("scanner")
        if len(fitting) > 1:
            raise ValueError(
                f"{folder}: it holds more than one layout ({', '.join(fitting)}): "
                "prepare them one by one and name each data set"
            )
        if not fitting:
            expected = " or ".join(_LAYOUTS[name].LAYOUT for name in names)
            packed = " (its archives must be unpacked first)" if any(folder.glob("*.zip")) else ""
            raise ValueError(
                f"{folder}: no scans recognised{packed}, expected {expected}: "
                "give the folder that holds the subjects"
            )
        return _LAYOUTS[fitting[0]].listing(folder, options or Options())
    except OSError as error:
        raise ValueError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}): "
            "check the disk and the permissions"
        ) from error


def read(frame: Frame, *, need_texture: bool = True) -> Scan:
    """The scan of a frame in mm, in the frame and vertex order of its file, with its landmarks.

    With `need_texture` the scan has a texture or vertex colours; without, no image is opened. Raises ValueError
    with the file, the value and the remedy in one sentence for anything that cannot be a whole face scan.
    """
    path = frame.path
    try:
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise ValueError(
                f"files of kind {path.suffix or 'no extension'!r} are not read: "
                f"export it as one of {', '.join(_READERS)}"
            )
        if not path.is_file():
            raise ValueError("no such file: check the path")
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{size:,} bytes are too many for one scan: export the face alone")
        if size == 0:
            raise ValueError("the file is empty: copy or export the scan again")
        scan = reader(path, texture=frame.texture, need_texture=need_texture)
        if frame.landmarks is None:
            return scan
        return dataclasses.replace(scan, landmarks=landmarks.read(frame.landmarks, scan.vertices))
    except OSError as error:
        raise ValueError(
            f"{error.filename or path}: cannot be read ({error.strerror or error}): "
            "check the disk and the permissions"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_file(path: Path, *, need_texture: bool = True) -> Scan:
    """`read` for one scan file; its landmarks (`.bnd` or `.lm3` of its stem) and texture are found beside it."""
    path = Path(path)
    files = by_lower_name(path.parent.iterdir()) if path.parent.is_dir() else {}
    stem = path.stem.lower()
    beside = files.get(stem + ".bnd", files.get(stem + ".lm3"))
    return read(Frame(path, landmarks=beside), need_texture=need_texture)
