"""Points without faces (`.ply`, `.obj`, `.xyz`, `.txt`, `.pcd`) -> one `Scan`: a surface is laid through the points.

1. Points of one cell of a lattice become their mean, so that at most `MOST` are left; far-off ones are dropped.
2. Normals by principal components of the neighbours, turned the same way along a minimum spanning tree
   (Hoppe et al., SIGGRAPH 1992).
3. Each point takes the Delaunay triangles round it in its tangent plane (Gopi, Krishnan & Silva, Eurographics 2000).
   One that no other corner agrees on is kept where it closes a gap: a fold is not seen, a hole is.
Arrays: n points, k neighbours, f triangles.
"""

import re
from itertools import combinations
from pathlib import Path

import numpy as np

from . import pcd
from .arrays import AGAIN, LARGEST_COORDINATE, NO_TEXTURE, checked, rows, to_uint8
from .scan import Scan

MOST = 40_000  # points that are kept
NEIGHBOURS = 14
LONGEST_EDGE = 3.5  # times the usual distance of neighbours; what is longer bridges a gap
JITTER = 0.005  # of the longest edge
SLIVER = 0.05  # height over longest edge; what is flatter has no area
ALONE = 5.0  # times that distance; a point with its neighbours further away is dropped
_CHUNK = 4096  # points whose triangles are looked for at once


def read(path: Path, *, texture: Path | None = None, need_texture: bool = True) -> Scan:
    """`Scan` in the units of a `.xyz`, `.txt` or `.pcd`; an organised `.pcd` keeps its grid.

    Raises ValueError (without the file's name) for a damaged file, and for missing colour if `need_texture`.
    """
    if path.suffix.lower() == ".pcd":
        points, colors, shape = pcd.points(path.read_bytes())
        if shape[0] > 1:
            return pcd.organised(points.reshape(*shape, 3), colors, need_texture=need_texture)
        return surface(points, colors, need_texture=need_texture)
    points, colors, normals = _text(path.read_bytes())
    return surface(points, colors, normals=normals, need_texture=need_texture)


def surface(
    points: np.ndarray,
    colors: np.ndarray | None,
    *,
    normals: np.ndarray | None = None,
    need_texture: bool = False,
) -> Scan:
    """(n, 3) points, (n, 3) uint8 colours -> `Scan`; `normals` (n, 3) say where the outside is.

    Raises ValueError for too few points, and for missing colour if `need_texture`.
    """
    if need_texture and colors is None:
        raise ValueError(f"its points have no colours: export it with colour, {NO_TEXTURE}")
    good = np.isfinite(points).all(axis=1)  # invalid points of an organised cloud
    if normals is not None:
        good &= np.isfinite(normals).all(axis=1)
    columns = [points, *([] if colors is None else [colors]), *([] if normals is None else [normals])]
    table = np.concatenate([np.asarray(column, np.float64)[good] for column in columns], axis=1)
    table = _evened(table)
    near, distance = _neighbours(table[:, :3])
    points = table[:, :3]
    outward = _normals(points, near, None if normals is None else table[:, -3:])
    faces = _triangles(points, outward, near, longest=LONGEST_EDGE * float(np.median(distance[:, 3])))
    return checked(points, faces, colors=None if colors is None else to_uint8(table[:, 3:6], unit=False))


def _evened(table: np.ndarray) -> np.ndarray:
    """Rows of x y z ... without far-off points, and with one for those that lie much closer than usual."""
    if len(table) <= 2 * NEIGHBOURS:
        raise ValueError(f"{len(table)} points are too few for a face: {AGAIN}")
    furthest = np.abs(table[:, :3]).max()
    if furthest > LARGEST_COORDINATE:
        raise ValueError(f"a coordinate of {furthest:g} cannot belong to a face: export it in millimetres")
    low, high = np.quantile(table[:, :3], [0.01, 0.99], axis=0)
    size = float((high - low).max())
    if size <= 1e-6 * furthest:
        raise ValueError(f"its points lie in one place: {AGAIN}")
    table = _thinned(table, size / 2000)
    if len(table) > 2 * NEIGHBOURS:
        distance = _neighbours(table[:, :3])[1]
        usual = float(np.median(distance[:, 3]))
        table = _thinned(table[distance[:, NEIGHBOURS // 2] <= ALONE * usual], usual / 2)
    if len(table) <= 2 * NEIGHBOURS:
        raise ValueError(f"only {len(table)} of its points lie apart, which are too few for a face: {AGAIN}")
    return table


def _thinned(table: np.ndarray, cell: float) -> np.ndarray:
    """At most `MOST` rows: the means of the rows in each cell of a lattice over x y z; `cell` grows as needed."""
    middle, half = np.median(table[:, :3], axis=0), 1 << 16
    while True:
        index = np.clip(np.floor((table[:, :3] - middle) / cell) + half, 0, 2 * half - 1).astype(np.int64)
        key = (index[:, 0] * 2 * half + index[:, 1]) * 2 * half + index[:, 2]
        _, place, count = np.unique(key, return_inverse=True, return_counts=True)
        if len(count) <= MOST:
            sums = [np.bincount(place, column, len(count)) for column in table.T]
            return np.stack(sums, axis=1) / count[:, None]
        cell *= max(1.1, 0.9 * (len(count) / MOST) ** 0.5)


def _neighbours(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n, k) nearest other points, (n, k) their distances)."""
    from scipy.spatial import cKDTree

    distance, near = cKDTree(points).query(points, k=NEIGHBOURS + 1)
    return near[:, 1:], distance[:, 1:]


def _normals(points: np.ndarray, near: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    """(n, 3) unit normals, all towards the outside: that of `given`, or away from the middle on the whole."""
    around = points[near] - points[near].mean(axis=1, keepdims=True)
    normals = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))[1][:, :, 0]  # the least spread
    if given is not None:
        return normals * np.where(np.einsum("ni,ni->n", normals, given) < 0, -1.0, 1.0)[:, None]
    sign, piece = _turned(normals, near)
    normals = normals * sign[:, None]
    outward = np.bincount(piece, np.einsum("ni,ni->n", normals, points - np.median(points, axis=0)))
    return normals * np.where(outward < 0, -1.0, 1.0)[piece][:, None]


def _turned(normals: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((n,) +1 or -1 that makes neighbours agree along the flattest way, (n,) connected piece of each point)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

    count = len(normals)
    a, b = np.repeat(np.arange(count), near.shape[1]), near.ravel()
    bend = 1.0 - np.abs(np.einsum("ni,ni->n", normals[a], normals[b])) + 1e-6
    tree = minimum_spanning_tree(coo_matrix((bend, (a, b)), shape=(count, count)).tocsr())
    pieces, piece = connected_components(tree, directed=False)
    parent = np.arange(count)
    for root in np.unique(piece, return_index=True)[1] if pieces <= count // 8 else range(count):
        order, before = breadth_first_order(tree, root, directed=False)
        parent[order[1:]] = before[order[1:]]
        if len(order) == count:
            break
    sign = np.where(np.einsum("ni,ni->n", normals, normals[parent]) < 0, -1.0, 1.0)
    while (
        parent[parent] != parent
    ).any():  # each point takes over what its ancestors did, twice as many a round
        sign, parent = sign * sign[parent], parent[parent]
    return sign, piece


def _triangles(points: np.ndarray, normals: np.ndarray, near: np.ndarray, *, longest: float) -> np.ndarray:
    """(f, 3) counter-clockwise seen from outside."""
    # On a regular grid four points lie on one circle: a hair's breadth off, all of them see the same diagonal.
    moved = points + np.random.default_rng(0).uniform(-JITTER, JITTER, points.shape) * longest
    found = [
        _stars(moved, normals, near, np.arange(start, min(start + _CHUNK, len(points))), longest)
        for start in range(0, len(points), _CHUNK)
    ]
    faces = np.sort(np.concatenate(found), axis=1)
    n = len(points)
    key = (faces[:, 0] * n + faces[:, 1]) * n + faces[:, 2]
    _, first, votes = np.unique(key, return_index=True, return_counts=True)
    agreed, single = faces[first[votes >= 2]], faces[first[votes == 1]]
    sides, count = np.unique(_edges(agreed, n), return_counts=True)
    open_edges = np.isin(_edges(single, n), sides[count >= 2], invert=True)
    faces = np.concatenate([agreed, single[open_edges.reshape(3, -1).any(axis=0)]])
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    square = np.max([((p - q) ** 2).sum(axis=1) for p, q in ((a, b), (b, c), (c, a))], axis=0)
    doubled = np.linalg.norm(across, axis=1)
    outward = np.einsum("fi,fi->f", across, normals[faces].sum(axis=1))
    faces[outward < 0] = faces[outward < 0][:, ::-1]
    return faces[
        (doubled > SLIVER * square) & (np.abs(outward) > doubled)
    ]  # flat enough, and along the surface


def _edges(faces: np.ndarray, n: int) -> np.ndarray:
    """(3 f,) a number for each edge of faces whose corners are in order."""
    return np.concatenate([faces[:, a] * n + faces[:, b] for a, b in ((0, 1), (0, 2), (1, 2))])


def _stars(
    points: np.ndarray, normals: np.ndarray, near: np.ndarray, some: np.ndarray, longest: float
) -> np.ndarray:
    """(f, 3) Delaunay triangles of each point of `some` with its neighbours, laid into its tangent plane.

    An inversion makes circles through the point lines: a triangle is Delaunay where no neighbour lies beyond its line.
    """
    offset = points[near[some]] - points[some][:, None]  # (n, k, 3)
    normal = normals[some]
    helper = np.where(np.abs(normal[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    along = np.cross(normal, helper)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    flat = np.stack(
        [np.einsum("nki,ni->nk", offset, axis) for axis in (along, np.cross(normal, along))], axis=-1
    )
    square = np.einsum("nki,nki->nk", flat, flat)
    usable = (square > 0) & (np.einsum("nki,nki->nk", offset, offset) <= longest**2)
    inverse = np.where(usable[..., None], flat / np.maximum(square, 1e-300)[..., None], 0.0)
    i, j = np.array(list(combinations(range(near.shape[1]), 2))).T
    edge = inverse[:, j] - inverse[:, i]  # (n, pairs, 2)
    across = np.stack([edge[..., 1], -edge[..., 0]], axis=-1)
    level = np.einsum("npi,npi->np", across, inverse[:, i])
    across, level = across * np.sign(level)[..., None], np.abs(level)
    beyond = (np.einsum("npi,nki->npk", across, inverse) > level[..., None] * (1 + 1e-9)).any(axis=2)
    apart = np.linalg.norm(offset[:, i] - offset[:, j], axis=2) <= longest
    row, pair = np.nonzero(~beyond & (level > 0) & usable[:, i] & usable[:, j] & apart)
    at = near[some][row]
    place = np.arange(len(row))
    return np.stack([some[row], at[place, i[pair]], at[place, j[pair]]], axis=1)


def _text(data: bytes) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """`x y z`, `x y z r g b`, `x y z nx ny nz` or all nine in a line -> (points, uint8 colours, normals)."""
    data = re.sub(rb"(?m)(#|//).*$", b"", data).translate(bytes.maketrans(b",;\t\r", b"    "))
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) > 1 and re.fullmatch(rb"\s*\d+\s*", lines[0]):  # some exporters begin with the count
        del lines[0]
    elif (
        lines
        and re.match(rb"\s*[A-Za-z]", lines[0])
        and not re.match(rb"\s*(nan|inf)\b", lines[0], re.IGNORECASE)
    ):
        del lines[0]  # names of the columns
    table = rows(lines, what="points")
    if table.ndim != 2 or table.shape[1] not in (3, 6, 9):
        raise ValueError(
            f"its lines hold {table.shape[-1]} numbers where x y z, x y z r g b, x y z nx ny nz or all nine "
            f"are read: {AGAIN}"
        )
    colors = normals = None
    for start in range(3, table.shape[1], 3):
        three = table[:, start : start + 3]
        finite = three[np.isfinite(three).all(axis=1)]
        if (
            len(finite)
            and np.mean(np.abs(np.linalg.norm(finite, axis=1) - 1) < 0.02) > 0.95
            and finite.min() < 0
        ):
            normals = three
        else:
            colors = to_uint8(three, unit=bool(len(finite) and finite.max() <= 1.0))
    return table[:, :3], colors, normals
