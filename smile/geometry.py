"""Any face scan -> the project frame: mm, the face looks along +z, +y up, origin at the nose tip, cropped to a sphere.

numpy only, because the edge bundle carries this file. Where the face is, `face_fit` says.

Legend: v vertices, f faces. All lengths in mm.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .face_fit import Face, find_face
from .face_model import compare
from .face_points import squared, unit, weighted_normals
from .face_quality import measure
from .scans.scan import Scan, Texture

# Unit, its factor to mm, and the longest side we believe: a cropped face ... a whole person. Between 90 and 220 only the face
# itself can tell millimetres from centimetres.
UNITS = (("millimetres", 1.0, 90.0, 2200.0), ("centimetres", 10.0, 9.0, 220.0), ("metres", 1000.0, 0.09, 2.2))
MIN_VERTICES = 200  # of a crop
LANDMARK_MARGIN = (
    1.3  # radii within which landmarks are kept: the chin of a long face lies just outside the crop
)
GAP = 8.0  # mm of nothing, or twice that, that part the face from what is not it
REVERSED = 0.8  # share of the frontal area whose texture must run the other way to count as evidence


@dataclass(frozen=True, eq=False)
class Aligned:
    """A scan in the project frame, and what the way there tells about it."""

    scan: Scan
    face: Face  # where it was in the scan
    notes: tuple[str, ...] = ()  # what was mended on the way, one clause each

    @cached_property
    def quality(self) -> dict[str, float]:
        """Figures of the scan as it came, by the names of `face_quality.QUALITY`; a device does without them."""
        return measure(self.scan.vertices, self.scan.faces, self.face.rotation, size=self.face.size)


def align(scan: Scan, *, radius: float) -> Aligned:
    """Moves a scan to the project frame and keeps what lies within `radius` mm of the nose tip and hangs together with the face.

    The head may stand in any pose. Colours, texture coordinates and landmarks are carried along; metres and centimetres become
    millimetres; what else was mended is in `notes`. Raises ValueError with the value and the remedy when the size is
    implausible, when nothing like a face is found, or when too little of it is there.
    """
    scan, face, notes = _find(_finite(scan))
    moved = replace(
        scan,
        vertices=(scan.vertices - face.tip) @ face.rotation.T,
        landmarks={name: face.rotation @ (point - face.tip) for name, point in scan.landmarks.items()},
    )
    moved, mended = _right_way_round(moved, face)
    near = squared(moved.vertices.T) <= radius**2
    cropped = _keep(moved, near)
    cropped = _keep(cropped, _of_the_face(cropped.vertices, face.size))
    if len(cropped.vertices) < MIN_VERTICES:
        raise ValueError(
            f"only {len(cropped.vertices)} vertices lie within {radius:g} mm of the nose tip ({MIN_VERTICES} needed): "
            "the scan is too coarse or broken, scan again"
        )
    marks = {name: p for name, p in moved.landmarks.items() if np.linalg.norm(p) <= LANDMARK_MARGIN * radius}
    return Aligned(replace(cropped, landmarks=marks), face, (*notes, *_pose_notes(face), *mended))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """vertices (v, 3), faces (f, 3) -> (v, 3) float64 unit normals, weighted by area, outward as the faces are wound.

    A vertex without any area around it gets (0, 0, 1), the direction of the scanner.
    """
    weighted = weighted_normals(np.ascontiguousarray(vertices.T), faces)
    corners, count = faces.ravel(), len(vertices)
    normals = np.stack([np.bincount(corners, weights=axis.repeat(3), minlength=count) for axis in weighted])
    normals = np.where((normals != 0).any(0), unit(normals), [[0.0], [0.0], [1.0]])
    return np.ascontiguousarray(normals.T)


def _finite(scan: Scan) -> Scan:
    good = np.isfinite(scan.vertices).all(1)
    return scan if good.all() else _keep(scan, good)


def _find(scan: Scan) -> tuple[Scan, Face, tuple[str, ...]]:
    """The scan in millimetres, its face, a note on the unit.

    The unit is told by the size of the bulk of the vertices: a few stray points far away do not count.
    """
    if len(scan.faces) == 0:
        raise ValueError("the scan has no faces: export a mesh, not a point cloud")
    low, high = np.quantile(scan.vertices[:: max(1, len(scan.vertices) // 20000)], [0.005, 0.995], axis=0)
    extent = float((high - low).max())
    refusal: ValueError | None = None
    for name, factor, least, most in UNITS:
        if least <= extent <= most:
            landmarks = {name: point * factor for name, point in scan.landmarks.items()}
            scaled = replace(scan, vertices=scan.vertices * factor, landmarks=landmarks)
            try:
                face = find_face(scaled.vertices, scaled.faces, landmarks)
            except ValueError as error:
                refusal = refusal or error
            else:
                return scaled, face, () if factor == 1 else (f"in {name}",)
    if refusal is not None:
        raise refusal
    expected = ", ".join(f"{least:g} to {most:g} {name}" for name, _, least, most in UNITS)
    raise ValueError(
        f"the scan measures {extent:.4g} along its longest side, which is no face ({expected}): "
        "export it in millimetres and without the background"
    )


def _pose_notes(face: Face) -> list[str]:
    up, forward = face.rotation[1], face.rotation[2]  # of the head, in the scan
    notes = ["several faces: took the most complete"] if face.others else []
    if up[1] < -0.5:
        notes.append("upside down: turned")
    elif up[1] < 0.5:
        notes.append("lying: turned upright")
    if forward[2] < -0.35:
        notes.append("looking backwards: turned")
    return notes


def _right_way_round(scan: Scan, face: Face) -> tuple[Scan, list[str]]:
    """Faces wound clockwise are turned over; coordinates that someone mirrored are mirrored back.

    A photograph is never mirrored: texture that runs the other way on faces that are wound inward shows mirrored coordinates.
    """
    near = squared(scan.vertices.T) < 60.0**2
    rows = np.flatnonzero(near.take(scan.faces[:, 0]))
    rows = rows[:: max(1, len(rows) // 8000)]
    area = weighted_normals(scan.vertices.T, scan.faces[rows])[2]  # as seen from the front, twice
    inward = bool(area.sum() < 0)
    backwards = scan.texture is not None and _reversed_share(scan.texture.corner_uv[rows], area) > REVERSED
    if not inward:
        return scan, ["the texture runs the other way: left so"] if backwards else []
    if backwards:
        mirror = np.array([-1.0, 1.0, 1.0])
        marks = {name: point * mirror for name, point in scan.landmarks.items()}
        return replace(scan, vertices=scan.vertices * mirror, landmarks=marks), ["mirrored: turned back"]
    if face.rotation[2, 2] < 0:
        raise ValueError(
            "nothing like a face was found: from the scanner (+z) the surface is hollow, as if depth ran the wrong way: "
            "check that the scan shows a whole face and that z grows towards the scanner"
        )
    texture = scan.texture
    over = replace(
        scan,
        faces=scan.faces[:, ::-1].copy(),
        texture=None if texture is None else Texture(texture.image, texture.corner_uv[:, ::-1].copy()),
    )
    return over, ["faces wound inward: turned over"]


def _reversed_share(uv: np.ndarray, area: np.ndarray) -> float:
    """uv (f, 3, 2), area (f,) from the front -> share of the area whose texture is mirrored as seen from the front."""
    (ax, ay), (bx, by) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    turns = np.sign(ax * by - ay * bx) * np.sign(area)
    weight = np.abs(area) * (turns != 0)
    return float(weight[turns < 0].sum() / max(weight.sum(), 1e-12))


def _of_the_face(vertices: np.ndarray, size: float) -> np.ndarray:
    """vertices (v, 3) of a crop -> (v,) bool, which hang together with the face by steps of at most about two GAPs.

    By voxels and not by edges: eyeballs, teeth, the other half of a face and the points of a cloud hang together, the shoulder
    of a neighbour does not.
    """
    points = np.ascontiguousarray(vertices.T)
    above, _, weight = compare(points / size)
    on_face = (weight > 0) & (np.abs(above) < 15)
    gap = max(
        GAP, 2 * float(np.sqrt(4 * size**2 * 1.6e4 / max(on_face.sum(), 1)))
    )  # a coarse scan has wide steps
    index = ((points - points.min(1, initial=0, keepdims=True)) / gap).astype(np.intp) + 1
    shape = tuple(index.max(1, initial=0) + 2)
    cell = np.ravel_multi_index(tuple(index), shape)
    full, grown = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    full.put(cell, True)
    grown.put(cell.compress(on_face), True)
    count = -1
    while grown.sum() != count:
        count = grown.sum()
        for axis in range(3):
            ahead, behind = np.roll(grown, 1, axis), np.roll(grown, -1, axis)
            grown = grown | ahead | behind
        grown &= full
    return grown.take(cell)


def _keep(scan: Scan, vertices: np.ndarray) -> Scan:
    """Drops faces with a vertex outside `vertices` (v,) bool, then the vertices that no face needs."""
    if len(scan.faces) and vertices.all():
        return scan
    a, b, c = vertices.take(scan.faces).T  # `take` and `compress` are several times as fast as [...]
    face_kept = a & b & c
    faces = scan.faces.compress(face_kept, axis=0)
    used = np.zeros(len(scan.vertices), dtype=bool)
    used[faces] = True
    texture = scan.texture
    return replace(
        scan,
        vertices=scan.vertices.compress(used, axis=0),
        faces=(np.cumsum(used) - 1).take(faces),
        vertex_colors=None if scan.vertex_colors is None else scan.vertex_colors.compress(used, axis=0),
        texture=None
        if texture is None
        else Texture(texture.image, texture.corner_uv.compress(face_kept, axis=0)),
    )
