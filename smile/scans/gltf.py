"""What a glTF file announces, held against what it holds, before trimesh takes memory for it.

Source: Khronos glTF 2.0, sections 3.6 (binary data) and 4 (GLB). trimesh reads the rest, see `trimesh_mesh`.
"""

import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from . import images
from .arrays import AGAIN

LARGEST = 10_000_000  # vertices or corners of a scan; the finest scanners give two million
LARGEST_VIEWS = 1 << 28  # bytes, in files beside a .gltf
_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}  # of a componentType
_NUMBERS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_PACKED = {"KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt"}


class Beside:
    """What a glTF file names (`scan.bin`, `skin.png`), found in the folder of the file and nowhere else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.missing: list[str] = []  # trimesh passes over an image that cannot be had

    def __getitem__(self, name: str) -> bytes:
        found = images.beside(self.path, unquote(name))
        if found is None:
            self.missing.append(name[:80])
            raise ValueError(f"its file {name[:80]!r} is missing beside it: restore it, or export a .glb")
        if found.stat().st_size > LARGEST_VIEWS:
            raise ValueError(f"its file {name[:80]!r} is too large for a scan: export the face alone")
        return found.read_bytes()


def check(path: Path, data: bytes) -> None:
    """Raises ValueError for a `.gltf` or `.glb` that is compressed, truncated or announces more than it holds."""
    header = _header(data) if path.suffix.lower() == ".glb" else _json(data)
    needed = [n for key in ("extensionsRequired", "extensionsUsed") for n in _list(header, key)]
    packed = next((_PACKED[n] for n in needed if isinstance(n, str) and n in _PACKED), None)
    if packed:
        raise ValueError(
            f"its mesh is compressed with {packed}, which is not read: export it without compression"
        )
    views = [_whole(view, "byteLength") for view in _list(header, "bufferViews")]
    if sum(views) > max(4 * len(data), LARGEST_VIEWS):  # trimesh copies each view
        raise ValueError(f"its parts announce {sum(views):,} bytes of {len(data):,} (damaged file?): {AGAIN}")
    strides = [_whole(view, "byteStride") for view in _list(header, "bufferViews")]
    accessors = _list(header, "accessors")
    counts = [_whole(accessor, "count") for accessor in accessors]
    for accessor, count in zip(accessors, counts, strict=True):
        row = _BYTES.get(accessor.get("componentType"), 1) * _NUMBERS.get(accessor.get("type"), 1)
        if "bufferView" not in accessor:
            if "sparse" not in accessor or count > max(len(data), *views, 0):
                raise ValueError(f"{count} of its numbers are nowhere in the file (damaged file?): {AGAIN}")
            continue
        place = _whole(accessor, "bufferView")
        held = views[place] if place < len(views) else 0
        stride = (strides[place] if place < len(strides) else 0) or row
        if count and _whole(accessor, "byteOffset") + (count - 1) * stride + row > held:
            raise ValueError(
                f"it announces {count} rows of {row} bytes where {held} bytes follow (truncated?): {AGAIN}"
            )
    used = sum(
        counts[place] if place < len(counts) else 0
        for mesh in _list(header, "meshes")
        for part in _list(mesh, "primitives")
        for place in _places(part)
    )
    if used > LARGEST:
        raise ValueError(f"its parts hold {used:,} vertices and corners together: export the face alone")


def _header(data: bytes) -> dict[str, Any]:
    """The JSON of a GLB, whose chunk lengths are checked."""
    if data[:4] != b"glTF":
        start = data[:12].decode("latin-1")
        raise ValueError(
            f"it starts with {start!r} and not with 'glTF' (another format renamed?): export it as GLB"
        )
    if len(data) < 20:
        raise ValueError(f"{len(data)} bytes are too short for a GLB header (truncated?): {AGAIN}")
    version, length, first, _ = struct.unpack_from("<IIII", data, 4)
    if version != 2:
        raise ValueError(f"it is glTF {version} and not 2: export it as glTF 2.0")
    if length > len(data) or 20 + first > len(data):
        raise ValueError(
            f"its header announces {max(length, 20 + first)} bytes of {len(data)} (truncated?): {AGAIN}"
        )
    return _json(data[20 : 20 + first])


def _json(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its JSON cannot be read ({error}; truncated?): {AGAIN}") from error
    if not isinstance(header, dict):
        raise ValueError(f"its JSON holds no scene (damaged file?): {AGAIN}")
    return header


def _list(holder: Any, key: str) -> list[Any]:
    value = holder.get(key, []) if isinstance(holder, dict) else []
    return value if isinstance(value, list) else []


def _whole(holder: Any, key: str) -> int:
    """A count of the JSON, 0 where there is none; ValueError where it is no whole number."""
    value = holder.get(key, 0) if isinstance(holder, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its JSON gives {str(value)[:40]!r} for {key} (damaged file?): {AGAIN}")
    return value


def _places(part: Any) -> list[int]:
    """The accessors of one primitive that make vertices and corners."""
    attributes = part.get("attributes") if isinstance(part, dict) else None
    if not attributes:
        return []
    return [_whole(attributes, "POSITION"), *([_whole(part, "indices")] if "indices" in part else [])]
