"""STL, GLB, glTF, OFF and point-cloud files, written byte by byte after their descriptions."""

import json
import struct
from typing import Any

import numpy as np


def stl(
    vertices: np.ndarray, faces: np.ndarray, *, count: int | None = None, head: bytes = b"made by a test"
) -> bytes:
    """Binary STL: 80 bytes, the count, then normal, three corners and two bytes a triangle."""
    table = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
    table["corners"] = vertices[faces]
    return head.ljust(80, b"\0") + struct.pack("<I", len(faces) if count is None else count) + table.tobytes()


def stl_text(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = ["solid face"]
    for corners in vertices[faces]:
        lines += ["facet normal 0 0 0", "outer loop"]
        lines += [f"vertex {x:.9g} {y:.9g} {z:.9g}" for x, y, z in corners] + ["endloop", "endfacet"]
    return ("\n".join([*lines, "endsolid face"]) + "\n").encode()


def off(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    lines = ["OFF", "# made by a test", f"{len(vertices)} {len(faces)} 0"]
    lines += [" ".join(f"{v:.9g}" for v in row) for row in vertices]
    lines += [f"{len(face)} " + " ".join(map(str, face)) for face in faces]
    return ("\n".join(lines) + "\n").encode()


class Gltf:
    """A glTF scene put together piece by piece."""

    def __init__(self) -> None:
        self.data = b""
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": []}],
            "nodes": [],
            "meshes": [],
            "accessors": [],
            "bufferViews": [],
            "materials": [],
            "textures": [],
            "images": [],
        }

    def _view(self, data: bytes) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)})
        self.data += data
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray) -> int:
        kinds = {"f4": 5126, "u4": 5125, "u1": 5121}
        shape = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[1 if values.ndim == 1 else values.shape[1]]
        self.tree["accessors"].append(
            {
                "bufferView": self._view(values.tobytes()),
                "componentType": kinds[values.dtype.str[1:]],
                "count": len(values),
                "type": shape,
                "normalized": values.dtype == np.uint8,
            }
        )
        return len(self.tree["accessors"]) - 1

    def image(self, data: bytes | str) -> int:
        """Bytes of a PNG, or the name of a file beside; returns a material."""
        kind = "image/png"
        source = (
            {"uri": data} if isinstance(data, str) else {"bufferView": self._view(data), "mimeType": kind}
        )
        self.tree["images"].append(source)
        self.tree["textures"].append({"source": len(self.tree["images"]) - 1})
        texture = {"baseColorTexture": {"index": len(self.tree["textures"]) - 1}}
        self.tree["materials"].append({"pbrMetallicRoughness": texture})
        return len(self.tree["materials"]) - 1

    def mesh(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        *,
        uv: np.ndarray | None = None,
        material: int | None = None,
        colors: np.ndarray | None = None,
        matrix: np.ndarray | None = None,
    ) -> None:
        """A mesh and a node that shows it; `uv` counts from the bottom here and from the top in the file."""
        attributes = {"POSITION": self.accessor(vertices.astype("<f4"))}
        if uv is not None:
            attributes["TEXCOORD_0"] = self.accessor(np.stack([uv[:, 0], 1 - uv[:, 1]], 1).astype("<f4"))
        if colors is not None:
            attributes["COLOR_0"] = self.accessor(colors.astype("u1"))
        part: dict[str, Any] = {
            "attributes": attributes,
            "indices": self.accessor(faces.astype("<u4").ravel()),
        }
        part |= {} if material is None else {"material": material}
        self.tree["meshes"].append({"primitives": [part]})
        node: dict[str, Any] = {"mesh": len(self.tree["meshes"]) - 1}
        node |= {} if matrix is None else {"matrix": matrix.T.ravel().tolist()}
        self.tree["nodes"].append(node)
        self.tree["scenes"][0]["nodes"].append(len(self.tree["nodes"]) - 1)

    def glb(self, **changes: Any) -> bytes:
        tree = {**self.tree, "buffers": [{"byteLength": len(self.data)}], **changes}
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 4)
        body = self.data + b"\0" * (-len(self.data) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        chunks += struct.pack("<II", len(body), 0x004E4942) + body
        return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks

    def gltf(self, uri: str) -> bytes:
        return json.dumps({**self.tree, "buffers": [{"byteLength": len(self.data), "uri": uri}]}).encode()


def pcd(
    points: np.ndarray,
    colors: np.ndarray | None = None,
    *,
    kind: str = "binary",
    shape: tuple[int, int] | None = None,
    total: int | None = None,
) -> bytes:
    """PCD v0.7 with packed colours; `shape`: (rows, columns) of an organised cloud."""
    rows, columns = shape or (1, len(points))
    fields, sizes, types = ["x", "y", "z"], ["4"] * 3, ["F"] * 3
    layout: list[tuple[str, str]] = [(axis, "<f4") for axis in "xyz"]
    table = np.zeros(len(points), layout + [("rgb", "<u4")] * (colors is not None))
    for axis, column in zip("xyz", points.T, strict=True):
        table[axis] = column
    if colors is not None:
        fields, sizes, types = [*fields, "rgb"], [*sizes, "4"], [*types, "U" if kind == "ascii" else "F"]
        wide = colors.astype(np.uint32)
        table["rgb"] = wide[:, 0] << 16 | wide[:, 1] << 8 | wide[:, 2]
    head = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(fields)}",
        f"SIZE {' '.join(sizes)}",
        f"TYPE {' '.join(types)}",
        f"COUNT {' '.join('1' for _ in fields)}",
        f"WIDTH {columns if total is None else total}",
        f"HEIGHT {rows}",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(points) if total is None else total}",
        f"DATA {kind}",
    ]
    if kind == "ascii":
        return (
            "\n".join([*head, *(" ".join(str(value) for value in row) for row in table.tolist())]).encode()
            + b"\n"
        )
    return ("\n".join(head) + "\n").encode() + table.tobytes()
