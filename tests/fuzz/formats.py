"""Every format that a site's files may have, with small valid files of it: one line a format in `FORMATS`."""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from smile import scans
from smile.scans import au_tables, fourdme_labels, images, labels_csv, options, pattern
from tests.scans import writers, writers_depth, writers_faces, writers_meshes

V, F, UV = writers.bump()
COLOUR = np.clip(V * [1, 1, 2] + 128, 0, 255).astype(np.uint8)
LENS = writers_depth.Lens(48, 64, 60.0, 60.0, 23.5, 31.5)
Reader = Callable[[Path], object]


@dataclass(frozen=True)
class Format:
    """How a format is attacked."""

    name: str  # of the file that is damaged
    seeds: Callable[[], list[bytes]]  # valid files
    beside: Callable[[Path], None] = lambda folder: None  # writes the valid files that go with it
    read: Reader = scans.read_file


def read_geometry(path: Path) -> object:
    return scans.read_file(path, need_texture=False)


def read_scan(path: Path, *, name: str) -> object:
    """The valid scan `name` that lies beside the damaged file."""
    return scans.read_file(path.with_name(name))


def read_landmarks(path: Path, *, name: str) -> object:
    return scans.read(scans.Frame(path.with_name(name), landmarks=path), need_texture=False)


def read_pattern(path: Path) -> object:
    """The damaged pattern against names that fit in many ways, or nearly."""
    parsed = pattern.parse(path.read_text("latin-1"))
    return [
        parsed.match(PurePath(name))
        for name in ("P1/happy_2.obj", "P-1" * 30 + "/a_b" * 20 + ".ply", "_" * 200)
    ]


def _picture(folder: Path) -> None:
    for name in ("face.png", "000.jpg"):
        writers.image(folder / name)


def _material(folder: Path) -> None:
    _picture(folder)
    (folder / "face.mtl").write_text("newmtl skin\nKd 1 1 1\nmap_Kd face.png\n")


def _obj(folder: Path) -> None:
    _picture(folder)
    (folder / "face.obj").write_text(writers.obj())


def _bnt(folder: Path) -> None:
    _picture(folder)
    (folder / "face.bnt").write_bytes(writers.bnt(writers.bump_grid()))


def _wrl(folder: Path) -> None:
    _picture(folder)
    (folder / "face.wrl").write_text(writers.bump_wrl())


def _camera(folder: Path) -> None:
    (folder / "face.json").write_text(LENS.json(depth_scale=0.001))
    writers_depth.picture(folder / "face_color.png", np.full((LENS.height, LENS.width, 3), 90, np.uint8))


def _depth(folder: Path) -> None:
    _camera(folder)
    writers_depth.png16(folder / "face_depth.png", _counts())


def _counts() -> np.ndarray:
    """(H, W) uint16: a bulge 40 cm before the camera."""
    rows, columns = np.mgrid[: LENS.height, : LENS.width]
    squared = (columns - LENS.cx) ** 2 + (rows - LENS.cy) ** 2
    return np.where(squared < 22**2, 400 + squared / 10, 0).astype(np.uint16)


def _wrls() -> list[bytes]:
    moved = writers.bump_wrl().replace(
        "Shape {",
        "Transform { rotation 0 1 0 0.1 translation 1 2 3 scale 1 1 1 children [ DEF face Shape {",
        1,
    )
    plain = writers.bump_wrl(uv="", uv_index="", url="")
    colours = f"color Color {{ color [ {writers.joined(COLOUR / 255)} ] }} colorPerVertex TRUE"
    return [
        t.encode()
        for t in (
            writers.bump_wrl(),
            f"{moved} USE face ] }}\n",
            writers.bump_wrl(url="", extra=colours),
            plain,
        )
    ]


def _objs() -> list[bytes]:
    relative = [" ".join(["f", *(f"{i - len(V)}/{i - len(V)}" for i in face)]) for face in F.tolist()]
    return [
        t.encode()
        for t in (
            writers.obj(),
            writers.obj(lines=relative),
            writers.obj(colors=True, library="", material=""),
        )
    ]


def _binary_ply(*, texture: bool = False) -> bytes:
    points = np.zeros(len(V), [("p", "<f4", 3), ("c", "u1", 3)])
    points["p"], points["c"] = V, COLOUR
    faces = np.zeros(
        len(F),
        [("n", "u1"), ("i", "<i4", 3), ("m", "u1"), ("t", "<f4", 6)]
        if texture
        else [("n", "u1"), ("i", "<i4", 3)],
    )
    faces["n"], faces["i"] = 3, F
    head = "ply\nformat binary_little_endian 1.0\n" + "comment TextureFile face.png\n" * texture
    head += f"element vertex {len(V)}\n" + "".join(f"property float {a}\n" for a in "xyz")
    head += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    head += f"element face {len(F)}\nproperty list uchar int vertex_indices\n"
    if texture:
        faces["m"], faces["t"] = 6, UV[F].reshape(-1, 6)
        head += "property list uchar float texcoord\n"
    return (head + "end_header\n").encode() + points.tobytes() + faces.tobytes()


def _glb() -> writers_meshes.Gltf:
    scene, stored = writers_meshes.Gltf(), io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 120, np.uint8)).save(stored, "PNG")
    scene.mesh(V, F, uv=UV, material=scene.image(stored.getvalue()))
    return scene


def _gltf(folder: Path) -> None:
    (folder / "face.bin").write_bytes(_glb().data)


def _picture_bytes(kind: str, pixels: np.ndarray) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, kind)
    return stored.getvalue()


def _npy(values: np.ndarray) -> bytes:
    stored = io.BytesIO()
    np.save(stored, values)
    return stored.getvalue()


def _cloud() -> bytes:
    rows = zip(V.tolist(), COLOUR.tolist(), strict=True)
    return "".join(" ".join(map(str, point + colour)) + "\n" for point, colour in rows).encode()


def _absolute() -> bytes:
    points = writers_faces.bump_points()
    points[3, 4] = np.nan
    return writers_faces.abs_range(points)


def _marks() -> list[bytes]:
    marked = writers_faces.MARKED
    return [writers.bnd(V, marked, base=0).encode(), writers.bnd(V, list(range(20, 88)), base=1).encode()]


def _lm2() -> list[bytes]:
    return [
        writers_faces.lm2(
            {
                name: writers_faces.pixel(x, y, height=40, width=30)
                for name, (x, y) in writers_faces.PLACES.items()
            }
        )
    ]


_DTU = b"".join(b"%.5f %.5f %.5f\n" % tuple(p) for p in V[[*writers_faces.MARKED, 66]])
_LABELS = "file,subject,expression,sequence,frame,onset,apex,AU12,pain\na/b.obj,P1,happiness,s,1,1,2,1,0\nc.ply,P2,,t,2,,,,3\n"
_4DME = (
    "subject,sequence,onset,apex,offset,positive,negative,surprise,repression,others,AU4\n"
    "1,s01,2,4,8,1,0,1,0,0,1\n2,s02,1,3,5,0,1,0,0,0,\n"
)
_PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)

FORMATS: dict[str, Format] = {
    "wrl": Format("face.wrl", _wrls, _picture),
    "obj": Format("face.obj", _objs, _material),
    "mtl": Format(
        "face.mtl",
        lambda: [b"newmtl skin\nKd 1 1 1\nmap_Kd -s 1 1 1 face.png\n"],
        _obj,
        partial(read_scan, name="face.obj"),
    ),
    "ply": Format(
        "face.ply",
        lambda: [writers.ply(V, F, color=(1, 2, 3)), _binary_ply(), _binary_ply(texture=True)],
        _picture,
    ),
    "bnt": Format("face.bnt", lambda: [writers.bnt(writers.bump_grid())], _picture),
    "abs": Format("face.abs", lambda: [_absolute()], _picture, read_geometry),
    "abs.gz": Format("face.abs.gz", lambda: [gzip.compress(_absolute(), mtime=0)], read=read_geometry),
    "stl": Format(
        "face.stl", lambda: [writers_meshes.stl(V, F), writers_meshes.stl_text(V, F)], read=read_geometry
    ),
    "off": Format("face.off", lambda: [writers_meshes.off(V, F)], read=read_geometry),
    "glb": Format("face.glb", lambda: [_glb().glb()]),
    "gltf": Format("face.gltf", lambda: [_glb().gltf("face.bin")], _gltf),
    "xyz": Format("face.xyz", lambda: [_cloud()]),
    "pcd": Format(
        "face.pcd",
        lambda: [
            writers_meshes.pcd(V, COLOUR),
            writers_meshes.pcd(V, COLOUR, kind="ascii"),
            writers_meshes.pcd(V, COLOUR, shape=(12, 12)),
        ],
    ),
    "depth.png": Format("face_depth.png", lambda: [_picture_bytes("PNG", _counts())], _camera),
    "depth.tiff": Format(
        "face_depth.tiff", lambda: [_picture_bytes("TIFF", _counts() / np.float32(1000))], _camera
    ),
    "depth.npy": Format("face_depth.npy", lambda: [_npy(_counts()), _npy(_counts() / 1000)], _camera),
    "camera.json": Format(
        "face.json",
        lambda: [LENS.json(depth_scale=0.001, device="realsense").encode()],
        _depth,
        partial(read_scan, name="face_depth.png"),
    ),
    "bnd": Format("face.bnd", _marks, _wrl, partial(read_landmarks, name="face.wrl")),
    "lm3": Format(
        "face.lm3",
        lambda: [writers.lm3(writers_faces.LABELS)],
        _bnt,
        partial(read_landmarks, name="face.bnt"),
    ),
    "lm2": Format("face.lm2", _lm2, _bnt, partial(read_landmarks, name="face.bnt")),
    "84_LMS": Format("face_84_LMS.txt", lambda: [_DTU], _wrl, partial(read_landmarks, name="face.wrl")),
    "texture.jpg": Format("face.jpg", lambda: [_picture_bytes("JPEG", _PIXELS)], read=images.load),
    "texture.png": Format(
        "face.png",
        lambda: [
            _picture_bytes("PNG", _PIXELS),
            _picture_bytes("PPM", _PIXELS),
            _picture_bytes("BMP", _PIXELS),
        ],
        read=images.load,
    ),
    "texture.tiff": Format("face.tiff", lambda: [_picture_bytes("TIFF", _PIXELS)], read=images.load),
    "labels.csv": Format(
        "labels.csv", lambda: [_LABELS.encode(), _LABELS.replace(",", ";").encode()], read=labels_csv.read
    ),
    "mapping.toml": Format(
        "mapping.toml",
        lambda: [b'[expressions]\n"big smile" = "happiness"\nrest = "neutral"\nnone = ""\n'],
        read=options.read_mapping,
    ),
    "pattern": Format(
        "pattern.txt",
        lambda: [b"{subject}/{expression}_{frame}.obj", b"P{subject}-{expression}/{}_{rep}.ply"],
        read=read_pattern,
    ),
    "au.csv": Format(
        "F001_T1.csv",
        lambda: [b"0,1,2,4\n1,0,0,9\n2,1,0,1\n3,0,9,9\n"],
        read=lambda path: au_tables.measures({"": path}, offset=0),
    ),
    "au_intensity.csv": Format(
        "F001_T1_AU12.csv",
        lambda: [b"1,0\n2,5\n3,9\n"],
        read=lambda path: au_tables.measures({"12": path}, offset=0),
    ),
    "4dme.csv": Format("labels.csv", lambda: [_4DME.encode()], read=fourdme_labels.read),
}
