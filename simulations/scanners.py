"""Virtual face scanners: what one camera sees of a procedural face, with a grid, noise, holes, lighting and a pose.

A capture is a range image: points on a regular (x, y) grid seen along -z, with NaN where the scanner saw nothing, and
the photograph taken with it. Sites differ by their scanner, as hospitals do.
Frame: mm, +y up, +z towards the scanner, which stands at x = y = 0. Legend: R rows (0 at the forehead), C columns of the
grid; H W rows and columns of the photograph; v vertices, f faces.
"""

from dataclasses import dataclass, field

import numpy as np

from smile.scans.scan import Scan, Texture

from .faces import Face
from .raster import Hits, Window, rasterise

CENTRE = np.array([0.0, 0.0, -60.0])  # mm, what the head turns about


@dataclass(frozen=True)
class Scanner:
    """The settings of one device."""

    name: str
    pitch: float  # mm between grid points
    noise: float  # mm, standard deviation of the depth of a point
    smoothing: int = 0  # passes of a 3 x 3 average over the depth, after the noise
    speckle: float = 0.0  # share of points lost at random
    blobs: float = 0.0  # mean number of round holes of some mm
    grazing: float = 80.0  # degrees between the surface and the camera beyond which points are lost
    dark: float = 0.0  # share of points lost where the photograph is dark: brows, hair, pupils
    shadow: float = 0.0  # degrees between camera and projector; what the projector does not reach is lost
    reach: float = 105.0  # mm round the nose tip that are kept
    pose: float = 4.0  # degrees, standard deviation of the head's yaw; pitch and roll vary less
    largest_pose: float = 8.0  # degrees
    wander: float = 3.0  # mm, standard deviation of the head's place
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mm, where the device has its origin
    photo_pitch: float = 0.6  # mm a pixel
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gain of red, green, blue
    gamma: float = 1.0  # below 1 brightens the shadows
    light: tuple[float, float, float] = (0.15, 0.35, 0.9)  # direction towards the lamp
    ambient: float = 0.55  # share of light without direction
    grain: float = 2.0  # standard deviation of the photograph's noise, in 255ths
    background: int = 30  # grey behind the head


# Four devices of different make. The figures are ours, chosen in the range of real stereo and structured-light systems.
SCANNERS = {
    "stereo": Scanner(
        "stereo",
        pitch=2.4,
        noise=0.15,
        smoothing=1,
        speckle=0.0006,
        grazing=80,
        pose=3.0,
        reach=108,
        tint=(1.03, 1.0, 0.96),
        light=(0.0, 0.3, 1.0),
        ambient=0.6,
        offset=(2.0, -6.0, 20.0),
    ),
    "pods": Scanner(
        "pods",
        pitch=2.3,
        noise=0.20,
        smoothing=1,
        blobs=0.5,
        grazing=82,
        pose=2.5,
        reach=100,
        tint=(0.96, 1.0, 1.04),
        light=(0.3, 0.2, 0.9),
        ambient=0.7,
        background=0,
        grain=1.5,
    ),
    "structured": Scanner(
        "structured",
        pitch=2.2,
        noise=0.30,
        speckle=0.0015,
        blobs=1.0,
        grazing=76,
        dark=0.25,
        shadow=9.0,
        pose=4.0,
        reach=115,
        tint=(1.0, 0.97, 0.90),
        gamma=0.9,
        light=(-0.4, 0.3, 0.85),
        ambient=0.45,
        offset=(-8.0, 14.0, 90.0),
        photo_pitch=0.7,
        background=60,
    ),
    "handheld": Scanner(
        "handheld",
        pitch=2.8,
        noise=0.45,
        smoothing=2,
        speckle=0.001,
        blobs=2.0,
        grazing=72,
        dark=0.06,
        pose=5.0,
        reach=112,
        wander=6.0,
        tint=(0.90, 0.97, 1.06),
        gamma=1.1,
        light=(0.5, 0.5, 0.7),
        ambient=0.5,
        grain=4.0,
        offset=(15.0, 40.0, -30.0),
        photo_pitch=0.8,
    ),
    "phone": Scanner(
        "phone",
        pitch=3.0,
        noise=0.6,
        smoothing=2,
        blobs=2.5,
        grazing=70,
        pose=5.0,
        reach=105,
        wander=6.0,
        tint=(1.05, 0.98, 0.90),
        gamma=0.95,
        light=(-0.2, 0.6, 0.7),
        ambient=0.5,
        grain=4.0,
        offset=(0.0, 0.0, 60.0),
        photo_pitch=1.0,
        background=90,
    ),
}


@dataclass(frozen=True, eq=False)
class Capture:
    """One shot of a scanner."""

    points: np.ndarray  # (R, C, 3) float64 mm, NaN where nothing was measured
    pixels: np.ndarray  # (R, C, 2) float64: column and row of the photograph under each point, centres at .0
    photo: np.ndarray  # (H, W, 3) uint8 RGB, row 0 at the top
    landmarks: dict[str, np.ndarray] = field(default_factory=dict)  # those in sight: name -> (3,) mm
    pitch: float = 1.0  # mm between grid points


def capture(
    face: Face, scanner: Scanner, rng: np.random.Generator, *, pose: np.ndarray | None = None
) -> Capture:
    """Put the head before the scanner, slightly turned, and take one range image with its photograph.

    `pose`: (6,) as `sample_pose` gives it, for the frames of a sequence; drawn from `rng` if not given.
    """
    pose = sample_pose(scanner, rng) if pose is None else pose
    turn, shift = _rotation(*np.radians(pose[:3])), pose[3:]
    vertices = (face.vertices - CENTRE) @ turn.T + CENTRE + shift
    nose = (face.landmarks["nose_tip"] - CENTRE) @ turn.T + CENTRE + shift
    step = max(round(scanner.pitch / scanner.photo_pitch), 1)  # photograph pixels between grid points
    fine = scanner.pitch / step
    reach = scanner.reach
    count = int(2 * reach / fine) + 1
    window = Window(nose[0] - reach, nose[1] + reach, fine, count, count)
    hits = rasterise(vertices, face.faces, window)
    normals = _pixel_normals(vertices, face.faces, hits)
    photo = _photograph(face, hits, normals, scanner, rng)
    depth, facing = hits.depth[::step, ::step], normals[::step, ::step, 2]
    bright = photo[::step, ::step].mean(2)
    x, y = np.meshgrid(window.x()[::step], window.y()[::step])
    depth = np.where(
        (x - nose[0]) ** 2 + (y - nose[1]) ** 2 + (depth - nose[2]) ** 2 < reach**2, depth, np.nan
    )
    depth = _measured(depth, facing, bright, scanner, rng)
    row, column = np.mgrid[0:count:step, 0:count:step]
    offset = np.array(scanner.offset)
    points = np.stack([x, y, depth], axis=-1) + offset
    points[np.isnan(depth)] = np.nan
    moved = {name: (p - CENTRE) @ turn.T + CENTRE + shift for name, p in face.landmarks.items()}
    seen = {name: p + offset for name, p in moved.items() if _in_sight(p, hits, window, x, y, depth)}
    return Capture(points, np.stack([column, row], -1).astype(float), photo, seen, scanner.pitch)


def scan(face: Face, scanner: Scanner, rng: np.random.Generator) -> Scan:
    """A capture as one mesh with the photograph as its texture, and the landmarks in sight."""
    return to_scan(capture(face, scanner, rng))


def to_scan(shot: Capture) -> Scan:
    """Valid points row by row from the forehead, two triangles a cell, none across a depth jump."""
    valid = np.isfinite(shot.points[..., 2])
    number = np.full(valid.shape, -1)
    faces = grid_faces(shot.points, longest=4.0 * shot.pitch)
    used = np.zeros(valid.size, dtype=bool)
    used[faces] = True
    used = used.reshape(valid.shape)
    number[used] = np.arange(int(used.sum()))
    faces = number.ravel()[faces]
    height, width = shot.photo.shape[:2]
    pixel = shot.pixels[used]
    uv = np.stack([(pixel[:, 0] + 0.5) / width, 1 - (pixel[:, 1] + 0.5) / height], 1).astype(np.float32)
    return Scan(
        vertices=shot.points[used],
        faces=faces.astype(np.int64),
        vertex_colors=shot.photo[pixel[:, 1].astype(int), pixel[:, 0].astype(int)],
        texture=Texture(shot.photo, uv[faces]),
        landmarks=dict(shot.landmarks),
    )


def grid_faces(points: np.ndarray, *, longest: float) -> np.ndarray:
    """points (R, C, 3) with NaN -> (f, 3) indices into the flattened grid, counter-clockwise from the scanner.

    Triangles with an edge longer than `longest` mm would bridge a depth jump and are left out.
    """
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3)
    corners = points.reshape(-1, 3)[faces]
    edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    return faces[edge <= longest]  # false for NaN


def sample_pose(scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """(6,) how the head stands: pitch, yaw, roll in degrees (yaw varies most), then its shift in mm."""
    degrees = rng.normal(0, scanner.pose, 3) * [0.8, 1.0, 0.6]
    limit = scanner.largest_pose
    return np.concatenate([np.clip(degrees, -limit, limit), rng.normal(0, scanner.wander, 3)])


def _rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """(3, 3) of three angles in radians: the head rolls, nods, then turns."""
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def _pixel_normals(vertices: np.ndarray, faces: np.ndarray, hits: Hits) -> np.ndarray:
    """(H, W, 3) smooth unit normals, 0 where nothing is."""
    a = vertices[faces[:, 0]]
    (px, py, pz), (qx, qy, qz) = (vertices[faces[:, 1]] - a).T, (vertices[faces[:, 2]] - a).T
    flat = np.stack([py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx], axis=1)
    corners = faces.ravel()
    smooth = np.stack([np.bincount(corners, flat[:, k].repeat(3), len(vertices)) for k in range(3)], 1)
    seen = hits.face >= 0
    mixed = _mix_corners(smooth, faces, hits, seen)
    length = np.sqrt(np.einsum("nk,nk->n", mixed, mixed))
    normals = np.zeros((*hits.face.shape, 3))
    normals[seen] = mixed / np.maximum(length, 1e-12)[:, None]
    return normals


def _mix_corners(values: np.ndarray, faces: np.ndarray, hits: Hits, seen: np.ndarray) -> np.ndarray:
    """values (v, k) -> (n, k) interpolated at the n pixels seen."""
    corner, weight = faces[hits.face[seen]], hits.bary[seen]
    mixed = values[corner[:, 0]] * weight[:, :1]
    mixed += values[corner[:, 1]] * weight[:, 1:2]
    mixed += values[corner[:, 2]] * weight[:, 2:]
    return mixed


def _photograph(
    face: Face, hits: Hits, normals: np.ndarray, scanner: Scanner, rng: np.random.Generator
) -> np.ndarray:
    """(H, W, 3) uint8: the texture under this device's light and through its sensor."""
    seen = hits.face >= 0
    albedo = _sample(face.texture, _mix_corners(face.uv, face.faces, hits, seen))
    lamp = np.array(scanner.light) / np.linalg.norm(scanner.light)
    lit = scanner.ambient + (1.08 - scanner.ambient) * np.clip(normals[seen] @ lamp, 0, 1)
    photo = np.full((*seen.shape, 3), scanner.background, dtype=np.float32)
    exposed = (albedo / 255 * (lit[:, None] * np.array(scanner.tint))).clip(0, 1).astype(np.float32)
    photo[seen] = 255 * (exposed if scanner.gamma == 1 else exposed ** np.float32(scanner.gamma))
    photo += scanner.grain * rng.standard_normal(photo.shape, dtype=np.float32)
    return photo.clip(0, 255).astype(np.uint8)


def _sample(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear colours (n, 3) float32 of image (H, W, 3) at uv (n, 2), v up."""
    height, width = image.shape[:2]
    column = np.clip(uv[:, 0] * width - 0.5, 0, width - 1.001)
    row = np.clip((1 - uv[:, 1]) * height - 0.5, 0, height - 1.001)
    c, r = column.astype(np.int64), row.astype(np.int64)
    fc, fr = (column - c).astype(np.float32)[:, None], (row - r).astype(np.float32)[:, None]
    pixels, at = image.reshape(-1, 3), r * width + c
    upper = pixels[at] * (1 - fc) + pixels[at + 1] * fc
    return upper * (1 - fr) + (pixels[at + width] * (1 - fc) + pixels[at + width + 1] * fc) * fr


def _measured(
    depth: np.ndarray, facing: np.ndarray, bright: np.ndarray, scanner: Scanner, rng: np.random.Generator
) -> np.ndarray:
    """True depth (R, C) -> what the device reports: noise, smoothing, and NaN where it fails."""
    measured = depth + rng.normal(0, scanner.noise, depth.shape)
    for _ in range(scanner.smoothing):
        measured = _smoothed(measured)
    lost = facing < np.cos(np.radians(scanner.grazing))
    lost |= rng.uniform(size=depth.shape) < scanner.speckle
    lost |= (bright < 0.55 * np.median(bright[np.isfinite(depth)])) & (
        rng.uniform(size=depth.shape) < scanner.dark
    )
    rows, columns = np.mgrid[0 : depth.shape[0], 0 : depth.shape[1]]
    for _ in range(rng.poisson(scanner.blobs)):
        r, c = rng.uniform(0.1, 0.9, 2) * depth.shape
        lost |= (rows - r) ** 2 + (columns - c) ** 2 < (rng.uniform(2.0, 5.0) / scanner.pitch) ** 2
    if (
        scanner.shadow > 0
    ):  # the projector stands to the right: a point is lit if nothing nearer hides the way
        slope = scanner.pitch / np.tan(np.radians(scanner.shadow))
        height = np.nan_to_num(depth, nan=-1e4) - slope * np.arange(depth.shape[1])
        lost |= height < np.maximum.accumulate(height[:, ::-1], axis=1)[:, ::-1] - 1e-9
    return np.where(lost, np.nan, measured)


def _smoothed(depth: np.ndarray) -> np.ndarray:
    """3 x 3 average over the measured points; depth jumps keep their edge."""
    padded = np.pad(depth, 1, constant_values=np.nan)
    total, count = np.zeros_like(depth), np.zeros_like(depth)
    for dr in range(3):
        for dc in range(3):
            other = padded[dr : dr + depth.shape[0], dc : dc + depth.shape[1]]
            near = np.abs(other - depth) < 4.0  # mm
            total += np.where(near, other, 0.0)
            count += near
    return np.where(count > 0, total / np.maximum(count, 1), depth)


def _in_sight(
    p: np.ndarray, hits: Hits, window: Window, x: np.ndarray, y: np.ndarray, depth: np.ndarray
) -> bool:
    """Whether the camera sees this point and the range image has a measured point near it."""
    column, row = round((p[0] - window.left) / window.pitch), round((window.top - p[1]) / window.pitch)
    if (
        not (0 <= row < window.rows and 0 <= column < window.columns)
        or not hits.depth[row, column] < p[2] + 3.0
    ):
        return False
    near = (np.abs(x - p[0]) < 4.0) & (np.abs(y - p[1]) < 4.0)
    return bool((np.abs(depth[near] - p[2]) < 4.0).any())
