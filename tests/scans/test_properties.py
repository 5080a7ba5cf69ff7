"""What is written is read, for every mesh format, every mesh and every way to lay out the text; a format is one line in FORMATS."""

import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smile.scans import Frame, Scan, read, read_file
from tests.scans import writers, writers_faces, writers_meshes

EXAMPLES = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Mesh:
    vertices: np.ndarray  # (v, 3) with four decimals
    polygons: list[list[int]]  # three to five corners

    def triangles(self) -> np.ndarray:
        """(f, 3): each polygon as a fan round its first corner."""
        fans = [[p[0], p[i], p[i + 1]] for p in self.polygons for i in range(1, len(p) - 1)]
        return np.array(fans)


@dataclass(frozen=True)
class Style:
    """How a text is laid out; none of it changes what it says."""

    end: str = "\n"
    blank: str = " "
    number: str = ".4f"
    comments: bool = False

    def row(self, values: np.ndarray) -> str:
        return self.blank.join(format(float(value), self.number) for value in values)

    def text(self, lines: list[str], comment: str = "# 7 8 9 { [") -> bytes:
        if self.comments:
            lines = [lines[0], *(part for line in lines[1:] for part in (line, comment))]
        return (self.end.join(lines) + self.end).encode()


@st.composite
def meshes(draw: st.DrawFn, *, corners: int = 5) -> Mesh:
    """A crumpled sheet in any order; neighbouring polygons share vertices, and no two vertices share a place."""
    rows, columns = draw(st.integers(11, 14)), draw(st.integers(11, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    sheet = np.stack([x, -y, rng.normal(0, 1, x.shape)], axis=-1).reshape(-1, 3)
    vertices = (sheet * draw(st.sampled_from([0.5, 8.0, 40.0])) + draw(st.sampled_from([0.0, -300.0]))).round(
        4
    )
    order = rng.permutation(len(vertices))
    cells = [
        [r * columns + c, (r + 1) * columns + c, (r + 1) * columns + c + 1, r * columns + c + 1]
        for r in range(rows - 1)
        for c in range(columns - 1)
    ]
    polygons = []
    for cell in cells:
        polygons += [cell] if corners > 3 and rng.random() < 0.5 else [cell[:3], [cell[0], *cell[2:]]]
    place = np.argsort(order)
    return Mesh(vertices[order], [place[polygon].tolist() for polygon in polygons])


STYLES = st.builds(
    Style,
    end=st.sampled_from(["\n", "\r\n"]),
    blank=st.sampled_from([" ", "\t", "   ", " \t "]),
    number=st.sampled_from([".4f", ".9g", ".8e", "+.5f"]),
    comments=st.booleans(),
)


def wrl(mesh: Mesh, style: Style) -> bytes:
    comma = style.blank + "," + style.blank
    lines = ["#VRML V2.0 utf8", "Shape { geometry IndexedFaceSet {", "coord Coordinate { point ["]
    lines += [style.row(vertex) + comma for vertex in mesh.vertices] + ["] }", "coordIndex ["]
    lines += [comma.join(map(str, [*polygon, -1])) + comma for polygon in mesh.polygons] + ["] } }"]
    return style.text(lines)


def obj(mesh: Mesh, style: Style, *, relative: bool = False) -> bytes:
    """`relative`: negative indices, each face as soon as its vertices are there."""
    faces = [[i + 1 for i in polygon] for polygon in mesh.polygons]
    if not relative:
        lines = [f"v{style.blank}{style.row(vertex)}" for vertex in mesh.vertices]
        return style.text(["o face", *lines, *(style.blank.join(["f", *map(str, face)]) for face in faces)])
    lines, written = [], 0
    for face in faces:
        lines += [f"v {style.row(vertex)}" for vertex in mesh.vertices[written : max(face)]]
        written = max(written, *face)
        lines.append(style.blank.join(["f", *(str(i - 1 - written) for i in face)]))
    return style.text(["o face", *lines])


def ply(mesh: Mesh, style: Style) -> bytes:
    head = ["ply", "format ascii 1.0", f"element vertex {len(mesh.vertices)}"]
    head += [f"property double {axis}" for axis in "xyz"]
    head += [f"element face {len(mesh.polygons)}", "property list uchar int vertex_indices", "end_header"]
    comment = [head[0], "comment 7 8 9", *head[1:]] if style.comments else head
    body = [style.row(vertex) for vertex in mesh.vertices]
    body += [style.blank.join(map(str, [len(polygon), *polygon])) for polygon in mesh.polygons]
    return ("\n".join(comment) + "\n" + style.end.join(body) + style.end).encode()


def ply_binary(mesh: Mesh, style: Style) -> bytes:
    order = ">" if style.comments else "<"
    name = "big" if style.comments else "little"
    head = f"ply\nformat binary_{name}_endian 1.0\nelement vertex {len(mesh.vertices)}\n"
    head += "".join(f"property double {axis}\n" for axis in "xyz")
    head += f"element face {len(mesh.polygons)}\nproperty list uchar uint vertex_index\nend_header\n"
    faces = b"".join(struct.pack(f"{order}B{len(p)}I", len(p), *p) for p in mesh.polygons)
    return head.encode() + mesh.vertices.astype(f"{order}f8").tobytes() + faces


def off(mesh: Mesh, style: Style) -> bytes:
    lines = ["OFF", f"{len(mesh.vertices)} {len(mesh.polygons)} 0"]
    lines += [style.row(vertex) for vertex in mesh.vertices]
    return style.text(lines + [" ".join(map(str, [len(p), *p])) for p in mesh.polygons])


def glb(mesh: Mesh, style: Style) -> bytes:
    scene = writers_meshes.Gltf()
    scene.mesh(mesh.vertices, mesh.triangles())
    return scene.glb()


@dataclass(frozen=True)
class Format:
    suffix: str
    write: Callable[[Mesh, Style], bytes]
    corners: int = 5  # most corners of a face; 3: triangles alone
    keeps_order: bool = True  # of the vertices, on which landmarks count


FORMATS = {
    "wrl": Format(".wrl", wrl),
    "obj": Format(".obj", obj),
    "obj, relative": Format(".obj", lambda mesh, style: obj(mesh, style, relative=True)),
    "ply": Format(".ply", ply, corners=3),
    "ply, binary": Format(".ply", ply_binary, corners=3),
    "off": Format(".off", off, corners=3, keeps_order=False),
    "stl": Format(".stl", lambda m, s: writers_meshes.stl(m.vertices, m.triangles()), 3, keeps_order=False),
    "stl, text": Format(
        ".stl", lambda m, s: writers_meshes.stl_text(m.vertices, m.triangles()), 3, keeps_order=False
    ),
    "glb": Format(".glb", glb, corners=3, keeps_order=False),
}


def read_bytes(data: bytes, suffix: str) -> Scan:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"face{suffix}"
        path.write_bytes(data)
        return read_file(path, need_texture=False)


@pytest.mark.parametrize("name", FORMATS)
@EXAMPLES
@given(data=st.data())
def test_what_is_written_is_read(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    mesh, style = data.draw(meshes(corners=form.corners)), data.draw(STYLES)
    scan = read_bytes(form.write(mesh, style), form.suffix)
    expected = mesh.triangles()
    assert scan.vertices.dtype == np.float64 and scan.faces.dtype == np.int64
    np.testing.assert_allclose(scan.vertices[scan.faces], mesh.vertices[expected], rtol=1e-6, atol=1e-4)
    if form.keeps_order:
        np.testing.assert_allclose(scan.vertices, mesh.vertices, atol=1e-4)
        np.testing.assert_array_equal(scan.faces, expected)


@EXAMPLES
@given(mesh=meshes(), style=STYLES, moved=st.floats(-100, 100), times=st.integers(1, 4))
def test_a_vrml_node_that_is_used_again_is_drawn_again(
    mesh: Mesh, style: Style, moved: float, times: int
) -> None:
    text = (
        wrl(mesh, style).decode().replace("Shape {", "Transform { children [ DEF face Shape {", 1) + "] }\n"
    )
    text += f"Transform {{ translation {moved!r} 0 0 children USE face }}\n" * times
    with pytest.warns(UserWarning, match="Transform") if moved else nullcontext():
        scan = read_bytes(text.encode(), ".wrl")
    assert len(scan.vertices) == (times + 1) * len(mesh.vertices)
    assert len(scan.faces) == (times + 1) * len(mesh.triangles())
    last = scan.vertices[-len(mesh.vertices) :]
    np.testing.assert_allclose(last, mesh.vertices + np.array([moved, 0, 0]), atol=1e-4)


@EXAMPLES
@given(mesh=meshes(), base=st.sampled_from([0, 1]), style=STYLES, data=st.data())
def test_landmarks_lie_on_their_vertices_counted_from_0_and_from_1(
    mesh: Mesh, base: int, style: Style, data: st.DataObject
) -> None:
    chosen = data.draw(st.permutations(range(len(mesh.vertices))))[:68]
    text = style.end.join(f"{i + base}{style.blank}{style.row(mesh.vertices[i])}" for i in chosen)
    with tempfile.TemporaryDirectory() as name:
        path = writers.write(Path(name) / "face.wrl", wrl(mesh, style))
        marks = writers.write(Path(name) / "face.bnd", text)
        points = read(Frame(path, landmarks=marks), need_texture=False).landmarks
    assert len(points) == 68
    np.testing.assert_allclose(points["nose_tip"], mesh.vertices[chosen[30]], atol=1e-4)


@EXAMPLES
@given(seed=st.integers(0, 2**32 - 1), lost=st.floats(0, 0.08))
@pytest.mark.parametrize("suffix", [".bnt", ".abs"])
def test_a_range_image_gives_its_measured_points_in_order(suffix: str, seed: int, lost: float) -> None:
    points = writers_faces.bump_points()
    points[np.random.default_rng(seed).random(points.shape[:2]) < lost] = np.nan
    valid = np.isfinite(points[..., 0])
    if suffix == ".bnt":
        grid = np.concatenate(
            [np.where(valid, np.moveaxis(points, -1, 0), -1e9), np.full((2, *valid.shape), 0.5)]
        )
        data = writers.bnt(grid)
    else:
        data = writers_faces.abs_range(points)
    scan = read_bytes(data, suffix)
    read_points = {tuple(p) for p in scan.vertices.round(3).tolist()}
    assert read_points <= {tuple(p) for p in points[valid].round(3).tolist()}
    assert len(read_points) >= 0.9 * valid.sum()
    x, y = (scan.vertices[scan.faces][..., axis] for axis in (0, 1))
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    assert (area > 0).all()  # the front faces the scanner


V, F, _ = writers.bump()
HUGE = {
    "ply": (".ply", writers.ply(V, F, color=None, vertex_count=10**12)),
    "ply, binary faces": (
        ".ply",
        ply_binary(Mesh(V, F.tolist()), Style()).replace(b"face 242", b"face 4000000000"),
    ),
    "stl": (".stl", writers_meshes.stl(V, F, count=2**32 - 1)),
    "off": (".off", writers_meshes.off(V, F).replace(b"144 242", b"4000000000 4000000000")),
    "pcd": (".pcd", writers_meshes.pcd(V, total=4 * 10**9)),
    "pcd, text": (".pcd", writers_meshes.pcd(V, kind="ascii", total=4 * 10**7)),
    "bnt": (".bnt", struct.pack("<HHdH", 65535, 65535, -1e9, 0) + bytes(8000)),
    "abs": (".abs", b"999999 rows\n999999 columns\npixels (flag X Y Z):\n1 1 1\n1 1 1\n"),
    "vrml, DEF and USE": (
        ".wrl",
        b"#VRML V2.0 utf8\nDEF a0 Group { children [ Shape { } ] }\n"
        + b"".join(
            b"DEF a%d Group { children [ %s ] }\n" % (n, b"USE a%d " % (n - 1) * 10) for n in range(1, 12)
        ),
    ),
    "obj index": (".obj", writers.obj(library="").encode() + b"f 1 2 4000000000000\n"),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_announced_count_takes_no_memory(name: str) -> None:
    suffix, data = HUGE[name]
    with pytest.raises(ValueError, match="face"):  # imports what it needs, outside of the measurement
        read_bytes(data, suffix)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"face\.\w+: ") as refused:
            read_bytes(data, suffix)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20, refused.value
    finally:
        tracemalloc.stop()
