"""Any face scan -> the project frame: mm, the face looks along +z, +y up, origin at the nose tip, cropped to a sphere.

numpy only, because the edge bundle carries this file. Where the face is, `face_fit` says.

Legend: v vertices, f faces. All lengths in mm.
"""

from dataclasses import dataclass, replace

import numpy as np

from .face_fit import find_face, unit, weighted_normals
from .scans.scan import Scan, Texture

# Unit, its factor to mm, and the longest side we believe: a cropped face ... a person to the waist.
UNITS = (("millimetres", 1.0, 100.0, 1200.0), ("centimetres", 10.0, 10.0, 60.0), ("metres", 1000.0, 0.1, 1.2))
MIN_VERTICES = 200  # of a crop
LANDMARK_MARGIN = (
    1.3  # radii within which landmarks are kept: the chin of a long face lies just outside the crop
)


@dataclass(frozen=True, eq=False)
class Aligned:
    """A scan in the project frame, and what the way there tells about it."""

    scan: Scan
    quality: dict[str, float]  # figures of the scan as it came, by name
    notes: tuple[str, ...] = ()  # what was mended on the way, one clause each


def align(scan: Scan, *, radius: float) -> Aligned:
    """Moves a scan to the project frame and keeps what lies within `radius` mm of the nose tip.

    Colours, texture coordinates and landmarks are carried along; metres and centimetres become millimetres. Expects the scan
    roughly upright (+y) and towards the scanner (+z), within about 45 degrees. Raises ValueError with the value and the remedy
    when the size is implausible, when nothing like a face is found, or when too little of it is there.
    """
    scan = _to_millimetres(_finite(scan))
    rotation, tip = find_face(scan.vertices, scan.faces, scan.landmarks)
    landmarks = {name: rotation @ (point - tip) for name, point in scan.landmarks.items()}
    near = {name: p for name, p in landmarks.items() if np.linalg.norm(p) <= LANDMARK_MARGIN * radius}
    moved = replace(scan, vertices=(scan.vertices - tip) @ rotation.T, landmarks=near)
    cropped = _keep(moved, np.linalg.norm(moved.vertices, axis=1) <= radius)
    if len(cropped.vertices) < MIN_VERTICES:
        raise ValueError(
            f"only {len(cropped.vertices)} vertices lie within {radius:g} mm of the nose tip ({MIN_VERTICES} needed): "
            "the scan is too coarse or broken, scan again"
        )
    return Aligned(_outside_out(cropped), {})


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """vertices (v, 3), faces (f, 3) -> (v, 3) float64 unit normals, weighted by area, outward as the faces are wound.

    A vertex without any area around it gets (0, 0, 1), the direction of the scanner.
    """
    weighted = weighted_normals(vertices, faces)
    corners, count = faces.ravel(), len(vertices)
    sums = [np.bincount(corners, weights=axis.repeat(3), minlength=count) for axis in weighted.T]
    normals = np.stack(sums, axis=1)
    return np.where((normals != 0).any(1, keepdims=True), unit(normals), [0.0, 0.0, 1.0])


def _finite(scan: Scan) -> Scan:
    good = np.isfinite(scan.vertices).all(1)
    return scan if good.all() else _keep(scan, good)


def _to_millimetres(scan: Scan) -> Scan:
    """By the size of the bulk of the vertices: a few stray points far away do not count."""
    if len(scan.faces) == 0:
        raise ValueError("the scan has no faces: export a mesh, not a point cloud")
    low, high = np.quantile(scan.vertices, [0.005, 0.995], axis=0)
    extent = float((high - low).max())
    for _, factor, least, most in UNITS:
        if least <= extent <= most:
            landmarks = {name: point * factor for name, point in scan.landmarks.items()}
            return replace(scan, vertices=scan.vertices * factor, landmarks=landmarks)
    expected = ", ".join(f"{least:g} to {most:g} {name}" for name, _, least, most in UNITS)
    raise ValueError(
        f"the scan measures {extent:.4g} along its longest side, which is no face ({expected}): "
        "export it in millimetres and without the background"
    )


def _keep(scan: Scan, vertices: np.ndarray) -> Scan:
    """Drops faces with a vertex outside `vertices` (v,) bool, then the vertices that no face needs."""
    face_kept = np.logical_and.reduce(vertices[scan.faces.T])
    faces = scan.faces[face_kept]
    used = np.zeros(len(scan.vertices), dtype=bool)
    used[faces] = True
    texture = scan.texture
    return replace(
        scan,
        vertices=scan.vertices[used],
        faces=(np.cumsum(used) - 1)[faces],
        vertex_colors=None if scan.vertex_colors is None else scan.vertex_colors[used],
        texture=None if texture is None else Texture(texture.image, texture.corner_uv[face_kept]),
    )


def _outside_out(scan: Scan) -> Scan:
    """Turns all faces over when those in the middle of the face look backwards: some exporters wind them clockwise."""
    some = scan.faces[:: max(1, len(scan.faces) // 5000)]
    middle = some[np.linalg.norm(scan.vertices[some[:, 0]], axis=1) < 50]
    if weighted_normals(scan.vertices, middle)[:, 2].sum() >= 0:
        return scan
    texture = scan.texture
    return replace(
        scan,
        faces=scan.faces[:, ::-1].copy(),
        texture=None if texture is None else Texture(texture.image, texture.corner_uv[:, ::-1].copy()),
    )
