"""Where the brows, lids, lips, nose and chin of an aligned scan are: a small network in numpy, and the scan's own landmarks.

One frontal picture of depth, slope and brightness -> a heat map for each point -> its mean place (x, y); z is the surface
there. The weights were fitted on simulated faces alone (`python -m simulations.landmark_net` makes them again); no scan of
a person went in. numpy only, no torch.

Legend: B pictures, C channels, H W rows and columns of a picture, h w of a heat map, N points. All lengths in mm.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from .config import ViewConfig
from .scans.scan import Scan

WEIGHTS = Path(__file__).with_name("face_landmarks.npz")
SIZE, RADIUS = 128, 95.0
PITCH = 2 * RADIUS / SIZE  # mm a pixel
ROWS, COLUMNS = (
    slice(16, 128),
    slice(16, 112),
)  # of the picture that the network looks at: brows to a dropped chin
STRIDE = 4  # pixels to a cell of the heat map
CHANNELS = 5  # there or not, depth, slope across, slope up, brightness
NEAR = 2, 4  # pixels round a point whose median depth is its z, first the one, then the other
CHEEK = 26.0  # below the middle of the eye lies the place of the cheek that rises with AU6 and AU12

# What the network finds, in the order of its heat maps; left is the subject's, at +x. Names of `scans.landmarks` where it
# has one; a lid is the middle of its margin, a `peak` the outermost place of the wing of the nose.
FOUND = (
    *("outer_right_eyebrow", "middle_right_eyebrow", "inner_right_eyebrow"),
    *("inner_left_eyebrow", "middle_left_eyebrow", "outer_left_eyebrow"),
    *("right_eye_outer", "right_upper_lid", "right_lower_lid", "right_eye_inner"),
    *("left_eye_inner", "left_upper_lid", "left_lower_lid", "left_eye_outer"),
    *("nose_bridge", "nose_tip", "right_nose_peak", "left_nose_peak", "subnasale"),
    *("right_mouth_corner", "left_mouth_corner"),
    *("upper_lip_outer_middle", "upper_lip_inner_middle", "lower_lip_inner_middle", "lower_lip_outer_middle"),
    "chin",
)
POINTS = (*FOUND, "right_cheek", "left_cheek")

# The same places among the rows of landmark files without a shared name (`scans.landmarks`): the mean of these.
_IBUG68 = {
    **{"outer_right_eyebrow": (17,), "middle_right_eyebrow": (19,), "inner_right_eyebrow": (21,)},
    **{"inner_left_eyebrow": (22,), "middle_left_eyebrow": (24,), "outer_left_eyebrow": (26,)},
    **{"right_upper_lid": (37, 38), "right_lower_lid": (40, 41)},
    **{"left_upper_lid": (43, 44), "left_lower_lid": (46, 47)},
    **{"upper_lip_outer_middle": (51,), "upper_lip_inner_middle": (62,)},
    **{"lower_lip_inner_middle": (66,), "lower_lip_outer_middle": (57,)},
}
_BU83 = {
    **{"right_upper_lid": (2,), "right_lower_lid": (6,), "left_upper_lid": (10,), "left_lower_lid": (14,)},
    **{"upper_lip_outer_middle": (51,), "upper_lip_inner_middle": (62,)},
    **{"lower_lip_inner_middle": (66,), "lower_lip_outer_middle": (57,)},
}


def find(scan: Scan) -> dict[str, np.ndarray]:
    """The points of POINTS on a scan that `geometry.align` has put in the project frame: name -> (3,) float64 mm.

    Landmarks that came with the scan win over those found. A point where the scan has no surface is left out. Without
    colours the shape alone decides.
    """
    depth, brightness = picture(scan)
    points = {}
    for name, (column, row) in zip(FOUND, places(channels(depth, brightness)[None])[0], strict=True):
        x, y = (column + 0.5) * PITCH - RADIUS, RADIUS - (row + 0.5) * PITCH
        z = _surface(depth, column, row)
        if np.isfinite(z):
            points[name] = np.array([x, y, z])
    points |= own(scan.landmarks)
    return points | _cheeks(points, depth)


def own(landmarks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of POINTS among the landmarks of an aligned scan, by their shared names or by the rows of their scheme."""
    points = {name: landmarks[name] for name in FOUND if name in landmarks}
    for scheme, rows in (("ibug68", _IBUG68), ("bu83", _BU83)):
        for name, numbers in rows.items():
            marks = [landmarks.get(f"{scheme}_{number:02d}") for number in numbers]
            there = [mark for mark in marks if mark is not None]
            if len(there) < len(marks):
                continue
            point = np.mean(there, axis=0)
            if scheme == "bu83" and name.endswith(
                "_lid"
            ):  # no source states which side the scheme calls left
                name = f"{'left' if point[0] > 0 else 'right'}{name[name.index('_') :]}"
            points.setdefault(name, point)
    return points


def picture(scan: Scan) -> tuple[np.ndarray, np.ndarray | None]:
    """The scan from the front: depth (SIZE, SIZE) float32 mm, NaN where nothing is, and brightness 0 to 255, None without
    colours."""
    depth, colour = frontal(scan)
    return depth, None if colour is None else colour.mean(axis=2, dtype=np.float32)


def frontal(scan: Scan) -> tuple[np.ndarray, np.ndarray | None]:
    """Depth (SIZE, SIZE) float32 mm, NaN where nothing is, and colour (SIZE, SIZE, 3) uint8, None where the scan has none."""
    from .views import raster, shading

    coloured = scan.texture is not None or scan.vertex_colors is not None
    modalities = ("texture", "depth") if coloured else ("depth",)
    config = ViewConfig(yaws=(0.0,), size=SIZE, modalities=modalities, radius=RADIUS)
    depth, _, colour = shading.shade(scan, raster.visible_faces(scan.vertices, scan.faces, config), config)
    return depth[0], None if colour is None else colour[0]


def channels(depth: np.ndarray, brightness: np.ndarray | None) -> np.ndarray:
    """depth (SIZE, SIZE), brightness likewise or None -> (C, H, W) float32, what the network looks at.

    Slopes come from the depth alone, so that every scanner, reader and renderer yields the same ones; brightness is told
    against the face's own mean, so that no camera's exposure counts.
    """
    depth = depth[ROWS, COLUMNS].astype(np.float32)
    there = np.isfinite(depth)
    out = np.zeros((CHANNELS, *depth.shape), np.float32)
    out[0] = there
    out[1] = np.where(there, np.clip(depth / 40, -2.5, 1), 0)
    across = np.zeros_like(depth)
    across[:, 1:-1] = depth[:, 2:] - depth[:, :-2]
    up = np.zeros_like(depth)
    up[1:-1] = depth[:-2] - depth[2:]
    slope = np.stack([across, up]) / np.float32(2 * PITCH)
    slope = np.where(np.isfinite(slope), slope, 0)
    out[2:4] = slope / np.sqrt(1 + (slope**2).sum(axis=0))
    if brightness is not None and there.any():
        bright = brightness[ROWS, COLUMNS]
        known = bright[there]
        out[4] = np.where(there, np.clip((bright - known.mean()) / (known.std() + 5), -3, 3), 0)
    return out


def places(pictures: np.ndarray) -> np.ndarray:
    """pictures (B, C, H, W) float32 of `channels` -> (B, N, 2) float64 column and row in the whole picture of `picture`."""
    net = _weights()
    quarter = _convolve(_convolve(pictures, net, "one", 2), net, "two", 2)
    eighth = _convolve(quarter, net, "three", 2)
    whole = _convolve(eighth, net, "four", 2)
    whole = _convolve(_convolve(whole, net, "five"), net, "six")
    coarse = _twice(_convolve(whole, net, "from_six", relu=False)) + _convolve(
        eighth, net, "from_three", relu=False
    )
    fine = _twice(_convolve(coarse, net, "eight")) + _convolve(quarter, net, "from_two", relu=False)
    heat = _convolve(_convolve(fine, net, "nine"), net, "heat", relu=False)
    return _mean_place(heat)


def _convolve(
    x: np.ndarray, net: dict[str, np.ndarray], name: str, stride: int = 1, *, relu: bool = True
) -> np.ndarray:
    """(B, C, H, W) -> (B, O, H / stride, W / stride): a convolution with zeros round the picture, as one product."""
    weight, bias = net[f"{name}.weight"], net[f"{name}.bias"]
    size = weight.shape[2]
    if size > 1:
        margin = size // 2
        padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        patches = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
        patches = patches[:, :, ::stride, ::stride].transpose(0, 1, 4, 5, 2, 3)
    else:
        patches = x[:, :, None, None]
    batch, rows, columns = len(x), *patches.shape[-2:]
    flat = patches.reshape(batch, -1, rows * columns)
    out = weight.reshape(len(weight), -1) @ flat + bias[:, None]
    if relu:
        np.maximum(out, 0, out=out)
    return out.reshape(batch, len(weight), rows, columns)


def _twice(x: np.ndarray) -> np.ndarray:
    """(B, C, H, W) -> (B, C, 2 H, 2 W), each value four times."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


def _mean_place(heat: np.ndarray) -> np.ndarray:
    """heat (B, N, h, w), logarithms -> (B, N, 2) the mean column and row under them, pixels of the whole picture."""
    batch, count, rows, columns = heat.shape
    flat = heat.reshape(batch, count, -1).astype(np.float64)
    share = np.exp(flat - flat.max(axis=2, keepdims=True))
    share = (share / share.sum(axis=2, keepdims=True)).reshape(heat.shape)
    # A cell's middle is what its stride of pixels has in the middle.
    column = COLUMNS.start + STRIDE * np.arange(columns) + (STRIDE - 1) / 2
    row = ROWS.start + STRIDE * np.arange(rows) + (STRIDE - 1) / 2
    return np.stack([share.sum(axis=2) @ column, share.sum(axis=3) @ row], axis=2)


@lru_cache(maxsize=1)
def _weights() -> dict[str, np.ndarray]:
    with np.load(WEIGHTS, allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}


def _surface(depth: np.ndarray, column: float, row: float) -> float:
    """The median depth round a place in the picture, NaN where there is a hole."""
    for near in NEAR:
        top, left = max(int(np.ceil(row - near)), 0), max(int(np.ceil(column - near)), 0)
        patch = depth[top : int(row + near) + 1, left : int(column + near) + 1]
        known = patch[np.isfinite(patch)]
        if len(known):
            return float(np.median(known))
    return float("nan")


def _cheeks(points: dict[str, np.ndarray], depth: np.ndarray) -> dict[str, np.ndarray]:
    """The surface CHEEK below the middle of each eye's corners, which hold still whatever the face does."""
    found = {}
    for side in ("right", "left"):
        corners = [points.get(f"{side}_eye_{end}") for end in ("inner", "outer")]
        if any(corner is None for corner in corners):
            continue
        x, y, _ = np.mean([corner for corner in corners if corner is not None], axis=0) - [0, CHEEK, 0]
        z = _surface(depth, (x + RADIUS) / PITCH - 0.5, (RADIUS - y) / PITCH - 0.5)
        if np.isfinite(z):
            found[f"{side}_cheek"] = np.array([x, y, z])
    return found
