"""Averaging the sites' replies, block by block from disk: memory does not grow with the number of sites.

K sites, W_k weights of site k, W_g the weights that the sites were sent (the reference), f sites taken for faulty.
Sums are float64 and in the order of the sites' names, so that the order in which replies come changes no bit.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

RULES = ("mean", "ldawa", "trimmed-mean", "median", "multi-krum")
PIECE = 1 << 18  # entries of an array that are averaged together, fewer where HELD is reached
HELD = 1 << 20  # values of all sites together that are in memory at a time
Block = Callable[[int, int], np.ndarray]  # (start, stop) of a flat array -> its values, float64
NOTHING = 1e-12  # a sum of cosines below this is no weight to divide by


def faulty(rule: str, sites: int, trim: float) -> int:
    """How many of `sites` a rule takes for faulty: the share `trim`, rounded down but at least one if it is above 0."""
    if rule == "median":
        return (sites - 1) // 2
    if rule not in ("trimmed-mean", "multi-krum") or trim == 0:
        return 0
    # Rounded first, because 0.29 * 100 is 28.999999999999996.
    count = max(1, math.floor(round(trim * sites, 9)))
    # Half of an even number would leave nobody: the two in the middle stay, as in a median.
    return min(count, max(1, (sites - 1) // 2)) if rule == "trimmed-mean" else count


def too_few(rule: str, sites: int, trim: float) -> str | None:
    """Why `rule` cannot work with so many sites, in one sentence, or None; for the start of a run and for a round.

    Krum is proven for K >= 2 f + 3 (Blanchard et al. 2017, proposition 4.2). The other robust rules need three
    sites: of two that disagree nothing can tell which one is right.
    """
    needed = {
        "mean": 1,
        "ldawa": 1,
        "median": 3,
        "trimmed-mean": 3 if trim else 1,
        "multi-krum": 2 * faulty(rule, sites, trim) + 3,
    }[rule]
    if sites >= needed:
        return None
    setting = f" with federation.trim = {trim:g}" if rule in ("trimmed-mean", "multi-krum") else ""
    remedy = "wait for more sites or lower federation.trim" if rule == "multi-krum" else "wait for more sites"
    return f"{rule}{setting} needs {needed} sites and has {sites}: {remedy}"


def average(
    rule: str,
    replies: "Mapping[str, Reply]",
    weights: Mapping[str, float],
    reference: Mapping[str, np.ndarray],
    *,
    trim: float = 0.0,
) -> dict[str, np.ndarray]:
    """The average of the sites' arrays, in the shapes and dtypes of `reference` (what the sites were sent).

    `weights`: site -> share, for `mean` and `ldawa`. The robust rules take every site alike, because the number of
    its captures is something that a faulty site can get wrong. `trim`: share of the sites taken for faulty.
    - mean: sum of w_k W_k (McMahan et al. 2017).
    - ldawa: see `_cosine_shares`.
    - trimmed-mean, median: of each entry, without the f largest and f smallest (Yin et al. 2018).
    - multi-krum: the plain mean of the K - f sites nearest to their neighbours, see `_krum`.
    Memory: `reference`, the result and a few MB. Raises ValueError where the sites are too few for the rule.
    """
    if reason := too_few(rule, len(replies), trim):
        raise ValueError(reason)
    names = sorted(replies)
    sites = [replies[name] for name in names]
    shares = [weights[name] for name in names]
    dropped = faulty(rule, len(sites), trim)
    if rule == "multi-krum":
        sites = [sites[index] for index in _krum(sites, reference, dropped)]
        shares = [1.0] * len(sites)
    result = {}
    for name, start_values in reference.items():
        if rule in ("trimmed-mean", "median"):
            result[name] = _build(start_values, len(sites), _trimmed(name, sites, dropped))
            continue
        mix = _cosine_shares(name, sites, shares, start_values) if rule == "ldawa" else shares
        result[name] = _build(start_values, 1, _mixed(name, sites, mix))
    return result


def _spans(size: int, sites: int) -> Iterator[tuple[int, int]]:
    """Pieces of a flat array of which the values of `sites` sites are held together."""
    step = max(1, min(PIECE, HELD // sites))
    return ((start, min(start + step, size)) for start in range(0, size, step))


def _build(like: np.ndarray, sites: int, block: Block) -> np.ndarray:
    """An array as `like` of which `block` gives the pieces; `sites`: how many a piece holds in memory."""
    flat = np.empty(like.size, like.dtype)
    for start, stop in _spans(like.size, sites):
        flat[start:stop] = block(start, stop)
    return flat.reshape(like.shape)


def _mixed(name: str, sites: "Sequence[Reply]", shares: Sequence[float]) -> Block:
    """sum of s_k W_k / sum of s_k"""

    def block(start: int, stop: int) -> np.ndarray:
        total, weight = np.zeros(stop - start), 0.0
        for reply, share in zip(sites, shares, strict=True):
            total += share * reply.part(name, start, stop).astype(np.float64)
            weight += share
        return total / weight

    return block


def _trimmed(name: str, sites: "Sequence[Reply]", dropped: int) -> Block:
    """Mean of each entry over the sites without its `dropped` smallest and largest values."""

    def block(start: int, stop: int) -> np.ndarray:
        values = np.empty((stop - start, len(sites)), np.float32)
        for index, reply in enumerate(sites):
            values[:, index] = reply.part(name, start, stop)
        values.sort(axis=1)
        return values[:, dropped : len(sites) - dropped].mean(axis=1, dtype=np.float64)

    return block


def _cosine_shares(
    name: str,
    sites: "Sequence[Reply]",
    shares: Sequence[float],
    reference: np.ndarray,
) -> Sequence[float]:
    """Shares of one array by L-DAWA (Rehman et al. 2023, arXiv 2307.07393) in the renormalised form that we chose:
    w_k max(cos(W_k, W_g), 0). The published form does not divide by the sum of the cosines and so shrinks an array
    a little in each round, which LayerNorm gains and a learned temperature do not forgive. The plain `shares` where
    a cosine says nothing: for scalars, for an array of zeros, and where all cosines are next to 0.
    """
    if reference.size <= 1:
        return shares
    flat = reference.reshape(-1)
    dots, squares, own = np.zeros(len(sites)), np.zeros(len(sites)), 0.0
    for start, stop in _spans(flat.size, 1):
        sent = flat[start:stop].astype(np.float64)
        own += float(np.square(sent).sum())  # not `@`: its sums depend on the number of threads
        for index, reply in enumerate(sites):
            part = reply.part(name, start, stop).astype(np.float64)
            dots[index] += (part * sent).sum()
            squares[index] += np.square(part).sum()
    if own == 0 or not squares.all():
        return shares
    cosines = np.clip(dots / (np.sqrt(squares) * math.sqrt(own)), 0, 1)
    mix = [share * float(cosine) for share, cosine in zip(shares, cosines, strict=True)]
    return mix if sum(mix) > NOTHING else shares


def _krum(sites: "Sequence[Reply]", reference: Mapping[str, np.ndarray], dropped: int) -> list[int]:
    """Positions, ascending, of the K - f sites with the lowest score (Blanchard et al. 2017, Multi-Krum).

    Score: sum of the squared L2 distances to the K - f - 2 nearest other sites. Equal scores: the earlier position.
    """
    count = len(sites)
    products = np.zeros((count, count))
    for name, sent in reference.items():
        flat = sent.reshape(-1)
        for start, stop in _spans(flat.size, count):
            updates = np.empty((count, stop - start))
            for index, reply in enumerate(sites):
                # Of updates, not of weights: a small difference of large products would lose its digits.
                updates[index] = reply.part(name, start, stop)
                updates[index] -= flat[start:stop]
            products += updates @ updates.T
    squares = products.diagonal()
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)
    np.fill_diagonal(distances, np.inf)  # a site is no neighbour of its own
    scores = np.sort(distances, axis=1)[:, : count - dropped - 2].sum(axis=1)
    return sorted(np.argsort(scores, kind="stable")[: count - dropped].tolist())


class Reply(Mapping[str, np.ndarray]):
    """One site's arrays on disk, float32, each read when it is asked for.

    Nothing stays open: a thousand sites would be more files than a process may hold.
    """

    def __init__(self, path: Path, layout: dict[str, tuple[int, tuple[int, ...]]]) -> None:
        self.path, self._layout = path, layout

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self._layout[name][1]
        return self.part(name, 0, math.prod(shape)).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    def part(self, name: str, start: int, stop: int) -> np.ndarray:
        """Entries `start` to `stop` of one array laid flat, float32. Raises OSError where the file is not whole."""
        # Read, not mapped: pages of a mapped file would count as memory of the process, one model for each site.
        values = np.fromfile(self.path, "<f4", stop - start, offset=self._layout[name][0] + 4 * start)
        if values.size != stop - start:
            raise OSError(f"{self.path} was cut short while the round was running: leave the folder alone")
        return values.astype(np.float32, copy=False)


class Spool:
    """The replies of a round as `SITE-INDEX.safetensors` in a folder of the coordinator; gone when it is closed.

    The safetensors format is 8 bytes with the length of a JSON header, the header, and the values. It is written here
    because the package's writer wants all arrays at once, and this one only the one that is being written.
    """

    def __init__(self, folder: Path, reference: Mapping[str, np.ndarray]) -> None:
        self.folder, self._paths = folder, list[Path]()
        self._shapes = {name: array.shape for name, array in reference.items()}
        self._header, self._layout = _header(self._shapes)
        folder.mkdir(parents=True, exist_ok=True)
        # What a killed coordinator left would fill the disk; its sites are asked again.
        for path in folder.iterdir():
            if re.fullmatch(r"[\w-]+-\d{4,}\.(safetensors|part)", path.name):
                path.unlink()

    def add(self, site: str, arrays: Mapping[str, np.ndarray]) -> Reply:
        """Write a checked reply, which is then whole or absent. Each array is asked for once and let go.

        Raises OSError with the path where the disk does not take it.
        """
        # A site's name is a site's choice and becomes part of a path here.
        stem = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', site)[:60] or '_'}-{len(self._paths):04d}"
        path, draft = self.folder / f"{stem}.safetensors", self.folder / f"{stem}.part"
        try:
            with draft.open("wb") as file:
                file.write(self._header)
                for name, shape in self._shapes.items():
                    array = arrays[name]
                    assert array.shape == shape and array.dtype == np.float32, name
                    file.write(np.ascontiguousarray(array, "<f4").reshape(-1).data)
                    del array  # before the next one is made
            draft.replace(path)
        except BaseException as error:
            draft.unlink(missing_ok=True)  # a full disk is not made fuller by what is of no use
            if isinstance(error, OSError) and error.filename is None:
                raise OSError(error.errno, error.strerror, str(draft)) from None
            raise
        self._paths.append(path)
        return Reply(path, self._layout)

    def close(self) -> None:
        """Remove the files, and the folder if nothing else is in it."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths = []
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _header(
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[bytes, dict[str, tuple[int, tuple[int, ...]]]]:
    """First bytes of a safetensors file of float32 arrays, and where in the file each array starts, with its shape."""
    entries, starts, end = {}, {}, 0
    for name, shape in shapes.items():
        starts[name], end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # the values start at a multiple of 8, as the format asks
    header = len(text).to_bytes(8, "little") + text
    return header, {name: (len(header) + starts[name], shape) for name, shape in shapes.items()}
