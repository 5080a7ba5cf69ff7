"""Texture images: found beside their mesh, loaded with care, several put side by side.

Arrays: H W image rows and columns, f faces. Pillow is imported where it is used.
"""

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from .arrays import NO_TEXTURE
from .scan import Texture

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".ppm")
LARGEST = 70_000_000  # pixels, 8192 x 8192 and a little; a file of a few kilobytes can declare more than the memory holds
LARGEST_FILE = 1 << 28  # bytes


def load(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, row 0 at the top. Raises ValueError for a damaged, huge or foreign file."""
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of the size, which is checked here.
            warnings.simplefilter("ignore")
            with Image.open(stored(path), formats=("PNG", "JPEG", "BMP", "TIFF", "PPM")) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"{image.width} x {image.height} pixels are more than {LARGEST:,}")
                if image.mode.startswith(("I", "F")):
                    raise ValueError("it holds one 16- or 32-bit channel (a depth map?) and not colours")
                return np.array(image if image.mode == "RGB" else image.convert("RGB"), np.uint8)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ValueError(f"texture image {path.name}: {_reason(error)}: restore it, {NO_TEXTURE}") from error


def stored(path: Path) -> io.BytesIO:
    """The bytes of an image: Pillow believes the length of a chunk, and reading so much from a file takes as much memory."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{size:,} bytes are more than {LARGEST_FILE:,}")
    return io.BytesIO(path.read_bytes())


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, BMP, TIFF or PPM image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {LARGEST:,} pixels"
    return str(error).rstrip(".") if str(error) else type(error).__name__


def beside(mesh: Path, name: str) -> Path | None:
    """The file `name` (bare or relative, in any case) in the folder of `mesh`; None where there is none.

    A name comes out of a file that anyone may have written, so it never leads out of the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    inside = bool(parts) and not {"..", "/"} & set(parts) and ":" not in parts[0]
    for tail in ([parts] if inside else []) + [parts[-1:]]:
        found = _descend(mesh.parent, tail)
        if found is not None:
            return found
    return None


def _descend(folder: Path, parts: Sequence[str]) -> Path | None:
    place = folder
    for part in parts:
        if part in ("..", "/") or not place.is_dir():
            return None
        exact = place / part
        others = (
            [] if exact.exists() else sorted(p for p in place.iterdir() if p.name.lower() == part.lower())
        )
        place = others[0] if others else exact
    return place if place.is_file() else None


def of_stem(mesh: Path) -> Path | None:
    """The image that shares the stem of `mesh` and lies beside it."""
    found = (beside(mesh, mesh.stem + extension) for extension in EXTENSIONS)
    return next((path for path in found if path is not None), None)


def find(mesh: Path, *, named: str | None, given: Path | None = None) -> Path:
    """The texture of `mesh`: the image the data set keeps (`given`), else the one the file names, else its stem's.

    Raises ValueError naming the image that is missing.
    """
    if given is not None and given.is_file():
        return given
    found = (beside(mesh, named) if named else None) or of_stem(mesh)
    if found is None:
        raise missing(named or (given.name if given else mesh.stem + ".jpg"))
    return found


def missing(name: str) -> ValueError:
    return ValueError(f"texture image {name!r} is missing beside the mesh: restore it, {NO_TEXTURE}")


def side_by_side(images: Sequence[np.ndarray], corner_uv: np.ndarray, which: np.ndarray) -> Texture:
    """One texture out of several. `corner_uv`: (f, 3, 2), `which`: (f,) image of each face.

    The images stand next to each other with their top edges level; coordinates are kept half a pixel inside
    their own image, so that no colour bleeds in from the neighbour.
    """
    if len(images) == 1:
        return Texture(images[0], corner_uv.astype(np.float32))
    heights, widths = (np.array([image.shape[axis] for image in images]) for axis in (0, 1))
    height, width = int(heights.max()), int(widths.sum())
    if height * width > LARGEST:
        raise ValueError(
            f"its {len(images)} texture images need {width} x {height} pixels together, more "
            f"than {LARGEST:,}: export with smaller textures, {NO_TEXTURE}"
        )
    lefts = np.cumsum(widths) - widths
    atlas = np.zeros((height, width, 3), np.uint8)
    for image, left in zip(images, lefts, strict=True):
        atlas[: image.shape[0], left : left + image.shape[1]] = image
    # Repeated tiles go back into 0..1, a face at a time.
    tiled = corner_uv - np.floor(corner_uv.mean(axis=1, keepdims=True))
    size = np.stack([widths, heights], axis=1)[which][:, None, :].astype(np.float64)  # (f, 1, 2)
    pixel = np.clip(tiled, 0.5 / size, 1 - 0.5 / size) * size
    u = (lefts[which][:, None] + pixel[..., 0]) / width
    v = 1 - (size[..., 1] - pixel[..., 1]) / height
    return Texture(atlas, np.stack([u, v], axis=-1).astype(np.float32))
