"""A prepared site of noise, in seconds: the real tables and shards around views that no scan was read for."""

from pathlib import Path

import numpy as np

from smile.config import ViewConfig
from smile.labels import EXPRESSIONS
from smile.scans.scan import Frame, Listing, Sequence
from smile.site import disk, prepare
from smile.site.plan import CHUNK, Chunk, Item, Plan
from smile.site.work import Settings, shape


def write_random_site(
    folder: Path,
    views: ViewConfig,
    *,
    people: int = 4,
    sequences: int = 4,
    frames: int = 2,
    labelled: bool = True,
    seed: int = 0,
) -> Path:
    """people x sequences x frames samples; the expressions in turn as labels, each with its own faint stripe."""
    rng, raw = np.random.default_rng(seed), folder.parent / "raw"
    listed = [
        Sequence(
            subject=f"P{person:03d}",
            name=f"{place}",
            label=EXPRESSIONS[place % len(EXPRESSIONS)] if labelled else None,
            frames=tuple(Frame(raw / f"{person}-{place}-{k}.obj", number=k) for k in range(frames)),
        )
        for person in range(people)
        for place in range(sequences)
    ]
    items = [
        Item(number, k / max(1, frames - 1), frame, (frame,))
        for number, sequence in enumerate(listed)
        for k, frame in enumerate(sequence.frames)
    ]
    chunks = tuple(
        Chunk(f"shard-{start:06d}", tuple(items[start : start + CHUNK]))
        for start in range(0, len(items), CHUNK)
    )
    records = {}
    with disk.locked(folder):
        for chunk in chunks:
            pictures = rng.integers(1, 256, (len(chunk.items), *shape(views)), np.uint8)
            for picture, item in zip(pictures, chunk.items, strict=True):
                picture[..., 2 * (item.sequence % sequences % (views.size // 2)), :] = 255
            places = tuple(range(len(chunk.items)))
            records[chunk.key] = disk.write_shard(
                folder, chunk.key, pictures, positions=places, rejected={}, renderer="none"
            )
        plan = Plan(Listing("scanner", "written by a test", tuple(listed), ()), chunks)
        prepare._finish(plan, records, folder, Settings(views, "none", raw), say=lambda line: None)
    return folder
