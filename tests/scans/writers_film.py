"""Sequences of the film data sets: the test surface moved a little in each frame, so that every frame is another one."""

from pathlib import Path

import numpy as np
from PIL import Image

from smile.scans import Listing
from tests.scans.writers import bump, image, obj, ply, write

VERTICES, FACES, UV = bump()


def touch(root: Path, *names: str) -> Path:
    for name in names:
        write(root / name, b"x")
    return root


def reasons(listing: Listing) -> str:
    return " | ".join(problem.reason for problem in listing.problems)


def moved_obj(x: float, *, library: str = "") -> str:
    """The bulge as OBJ, every vertex `x` mm to the right."""
    lines = []
    for line in obj(library=library).splitlines():
        word, *rest = line.split(" ")
        lines.append(f"v {float(rest[0]) + x:.4f} {' '.join(rest[1:])}" if word == "v" else line)
    return "\n".join(lines) + "\n"


def textured_obj(stem: Path, x: float = 0.0) -> Path:
    """`stem`.obj with its .mtl and .jpg, as a stereo rig writes them."""
    image(stem.with_name(stem.name + ".jpg"))
    write(stem.with_name(stem.name + ".mtl"), f"newmtl skin\nmap_Kd {stem.name}.jpg\n")
    return write(stem.with_name(stem.name + ".obj"), moved_obj(x, library=f"{stem.name}.mtl"))


def metre_ply(x: float = 0.0) -> bytes:
    """A registered mesh as the FLAME sets have them: metres, no colours."""
    return ply(np.round(np.add(VERTICES, (x, 0, 0)) / 1000, 7), FACES, color=None)


FINE = bump(24)  # each half of it has enough points for a mesh


def half_obj(*, right: bool) -> str:
    """The faces of one half of the fine bulge with the vertices they need, as one camera pod sees it."""
    vertices, faces, uv = FINE
    middle = vertices[faces].mean(axis=1)[:, 0]
    mine = faces[middle >= 0 if right else middle < 0]
    used, again = np.unique(mine, return_inverse=True)
    lines = [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in vertices[used]]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in uv[used]]
    lines += [" ".join(["f", *(f"{i}/{i}" for i in face)]) for face in again.reshape(-1, 3) + 1]
    return "\n".join(lines) + "\n"


def pair_picture(path: Path, *, height: int = 40, width: int = 30) -> np.ndarray:
    """Two views side by side, each `width` wide: the left one red with a green middle, the right one all blue."""
    pixels = np.zeros((height, 2 * width, 3), np.uint8)
    pixels[:, :width] = (200, 0, 0)
    pixels[height // 2 - 5 : height // 2 + 5, width // 2 - 5 : width // 2 + 5] = (0, 200, 0)
    pixels[:, width:] = (0, 0, 200)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels
