"""The views of an aligned scan: orthographic pictures of the face, turned about the middle of the head.

Nothing is computed per renderer here: both renderers sample exactly the pixel centres below.

View frame of view v: millimetres, the camera looks along -z, +x to the right and +y up in the picture. A point p of the project
frame lies at R_y(yaw) (p - PIVOT) + PIVOT in it, a right-handed turn about the vertical axis. A positive yaw therefore turns
the nose towards +x, to the right of the picture, and brings the subject's right cheek (-x) to the front.

Legend: H W image rows and columns.
"""

import numpy as np

from ..config import ViewConfig

PIVOT = np.array([0.0, 0.0, -50.0])  # mm, about the centre of the head: a turned head stays in the picture
EYE = 600.0  # mm, the plane of the camera; beyond every vertex of a crop of the largest radius, 300 mm


def rotation(yaw: float) -> np.ndarray:
    """Degrees -> (3, 3), project frame to view frame."""
    angle = np.deg2rad(yaw)
    return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])


def to_view(points: np.ndarray, yaw: float) -> np.ndarray:
    """points (3,) or (3, n) in the project frame -> the same in the view frame."""
    return ((rotation(yaw) @ (points.T - PIVOT).T).T + PIVOT).T


def from_view(points: np.ndarray, yaw: float) -> np.ndarray:
    """points (3,) or (3, n) in the view frame -> the same in the project frame."""
    return ((rotation(yaw).T @ (points.T - PIVOT).T).T + PIVOT).T


def pixel_centres(config: ViewConfig) -> tuple[np.ndarray, np.ndarray]:
    """x (W,) from left to right and y (H,) from top to bottom, mm in the view frame."""
    offsets = (np.arange(config.size) + 0.5) * 2 * config.radius / config.size
    return offsets - config.radius, config.radius - offsets
