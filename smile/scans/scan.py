"""What every reader yields: a `Scan` (one mesh in millimetres) and a `Sequence` (its place in a data set).

Arrays: v vertices, f faces, H W image rows and columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..labels import expression


@dataclass(frozen=True, eq=False)
class Texture:
    """A texture image and the place of each face corner in it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB, row 0 at the top
    corner_uv: np.ndarray  # (f, 3, 2) float32, u to the right, v UP from the bottom (the VRML and OBJ rule)


@dataclass(frozen=True, eq=False)
class Scan:
    """One 3D capture of a face, in the frame and the vertex order of its file."""

    vertices: np.ndarray  # (v, 3) float64, mm
    faces: np.ndarray  # (f, 3) int64, counter-clockwise seen from outside
    vertex_colors: np.ndarray | None = None  # (v, 3) uint8 RGB
    texture: Texture | None = None
    landmarks: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (3,) float64, mm

    def __post_init__(self) -> None:
        assert self.vertices.shape[1:] == (3,), self.vertices.shape
        assert self.faces.shape[1:] == (3,), self.faces.shape


@dataclass(frozen=True)
class Frame:
    """One capture on disk: small and picklable, so that workers can be handed millions of them."""

    path: Path  # the mesh, range image, point cloud, depth image or picture
    number: int = 0  # the file's own frame number
    texture: Path | None = None  # the image beside the mesh, where the data set keeps one
    landmarks: Path | None = None
    camera: Path | None = None  # intrinsics (JSON) of a depth image
    parts: tuple[Path, ...] = ()  # further meshes of the same capture, such as the other half of a face
    measures: Mapping[str, float] = field(default_factory=dict)  # of this frame, see `labels.measure`
    kind: str = "scan"  # scan, or pair: one picture with the left view in its left half and no geometry


@dataclass(frozen=True)
class Sequence:
    """The frames of one capture in time order; a static scan is a sequence of one frame."""

    subject: str  # full id: F001 and M001 are two people
    label: str | None  # canonical expression, None where the data set states none
    name: str  # unique within the data set, e.g. `F001/Angry`
    frames: tuple[Frame, ...]
    measures: Mapping[str, float] = field(default_factory=dict)  # of the whole sequence, see `labels.measure`
    onset: int | None = None  # frame numbers, where they are coded
    apex: int | None = None
    offset: int | None = None


@dataclass(frozen=True)
class Problem:
    """A file set aside while listing, with one sentence that says why and what to do."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    dataset: str  # one of scans.DATASETS
    why: str  # what was recognised, for the person who asked
    sequences: tuple[Sequence, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Options:
    """What a user may say about a folder that the folder itself does not say."""

    labels: Path | None = None  # CSV of labels, see scans/labels_csv.py
    pattern: str | None = None  # how a scanner's files are named, see scans/pattern.py
    mapping: Mapping[str, str] = field(
        default_factory=dict
    )  # a study's words in lower case -> canonical names
    au_frame_offset: int = 0  # frame number of an image = frame number in an AU table + this

    def expression(self, word: str) -> str | None:
        """`labels.expression` with the study's mapping."""
        return expression(word, self.mapping)
