"""Scans of real size for the benchmarks: simulated faces as a stereo system would export them, each as BU-4DFE and as OBJ.

About 35,000 vertices, 70,000 faces and a JPEG texture of 1040 x 1329 pixels, the sizes of a BU-4DFE frame.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from simulations import faces, layouts, scanners
from smile.scans.scan import Scan, Texture

SIZE = (1040, 1329)  # pixels, width and height of the texture
PITCH = 0.77  # mm between the points of the range image: 35,000 vertices within reach of the stereo system
SEQUENCES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise")


def write(folder: Path, count: int, *, faces_drawn: int = 6) -> tuple[list[Path], list[Path]]:
    """`count` scans in `folder`/wrl (BU-4DFE) and the same meshes in `folder`/obj (a scanner's export, OBJ + MTL + JPEG).

    `faces_drawn` different faces are simulated and written again and again, because simulating one takes longer than reading it.
    Returns the two lists of files, mesh by mesh.
    """
    drawn = [scan(seed) for seed in range(min(count, faces_drawn))]
    meshes, objects = [], []
    for number in range(count):
        subject, rest = divmod(number, 4 * len(SEQUENCES))
        sequence, frame = divmod(rest, 4)
        word = SEQUENCES[sequence]
        mesh = folder / "wrl" / f"F{subject + 1:03d}" / word / f"{frame:03d}.wrl"
        obj = folder / "obj" / f"P{subject + 1:03d}" / f"P{subject + 1:03d}_{word.lower()}_{frame}.obj"
        for path in (mesh, obj):
            path.parent.mkdir(parents=True, exist_ok=True)
            image(path.with_suffix(".jpg"), drawn[number % len(drawn)])
        layouts.write_vrml(mesh, drawn[number % len(drawn)], texture=f"{mesh.stem}.jpg")
        layouts.write_obj(obj, drawn[number % len(drawn)])
        obj.with_suffix(".png").unlink()
        material = obj.with_suffix(".mtl")
        material.write_text(material.read_text().replace(".png", ".jpg"))
        meshes.append(mesh)
        objects.append(obj)
    return meshes, objects


def scan(seed: int) -> Scan:
    """One person who does not exist with a smile, as the stereo system sees them, its texture brought to `SIZE`."""
    rng = np.random.default_rng(seed)
    device = replace(scanners.SCANNERS["stereo"], pitch=PITCH, photo_pitch=PITCH / 2)
    face = faces.face(faces.sample_identity(rng), faces.perform("happiness", rng))
    seen = scanners.scan(face, device, rng)
    assert seen.texture is not None
    photo = np.asarray(Image.fromarray(seen.texture.image).resize(SIZE, Image.Resampling.BICUBIC))
    return replace(seen, texture=Texture(photo, seen.texture.corner_uv))


def image(path: Path, mesh: Scan) -> None:
    assert mesh.texture is not None
    Image.fromarray(mesh.texture.image).save(path, quality=92)
