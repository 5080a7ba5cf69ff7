"""Faulty and hostile sites for simulations: the real ClientApp does its work, and what it says is changed on the way out."""

import copy
import csv
import io
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp

from client.site import site_settings
from smile.site import disk
from smile.site.store import Site

SILENT, SHUFFLED = "silent", "shuffled-labels"  # the two that do not change a reply
AWAY = 0.5  # share of the rounds that a silent site misses
HUGE = 1e12
BLOWN_UP = 1e6


class Answer(NamedTuple):
    """What a site was about to send, to be changed in place."""

    arrays: dict[str, np.ndarray]  # weights, the parts of a packed update (`smile.wire`), or moments
    figures: dict[str, Any]  # empty beside moments
    start: dict[str, np.ndarray]  # the weights that it was sent; empty where `arrays` is no model


def nan(answer: Answer) -> None:
    """NaN in one entry, or in one scale of a packed update."""
    _put(answer.arrays, np.nan)


def inf(answer: Answer) -> None:
    """Infinity in one entry or scale."""
    _put(answer.arrays, np.inf)


def huge(answer: Answer) -> None:
    """1e12 in one entry or scale."""
    _put(answer.arrays, HUGE)


def negative_examples(answer: Answer) -> None:
    """A negative count of captures, which would be a negative weight in the mean."""
    if answer.figures:
        answer.figures["num-examples"] *= -1


def wrong_shape(answer: Answer) -> None:
    """The first array with an axis too many."""
    name = next(iter(answer.arrays))
    answer.arrays[name] = answer.arrays[name][None]


def wrong_dtype(answer: Answer) -> None:
    """The first array as float64."""
    name = next(iter(answer.arrays))
    answer.arrays[name] = answer.arrays[name].astype(np.float64)


def extra_name(answer: Answer) -> None:
    """An array that nobody asked for."""
    answer.arrays["extra"] = np.zeros(1, np.float32)


def missing_name(answer: Answer) -> None:
    """Without the first array."""
    del answer.arrays[next(iter(answer.arrays))]


def blown_up(answer: Answer) -> None:
    """The update times 1e6."""
    _times(answer, BLOWN_UP)


def sign_flipped(answer: Answer) -> None:
    """The update away from where training led."""
    _times(answer, -1.0)


KINDS: dict[str, Callable[[Answer], None]] = {
    kind.__name__.replace("_", "-"): kind
    for kind in (
        nan,
        inf,
        huge,
        negative_examples,
        wrong_shape,
        wrong_dtype,
        extra_name,
        missing_name,
        blown_up,
        sign_flipped,
    )
}


def attacked(app: ClientApp, kinds: Mapping[str, str], *, seed: int) -> "Attacked":
    """`app`, in which the sites named in `kinds` (folder -> `KINDS`, `silent` or `shuffled-labels`) are faulty in all rounds.

    silent: drops out of half of the rounds, drawn from `seed`, the site's name and the round. shuffled-labels: trains on
    `shuffle_labels` of its data. Raises ValueError for an unknown kind.
    """
    known = (*KINDS, SILENT, SHUFFLED)
    if unknown := sorted(set(kinds.values()) - set(known)):
        raise ValueError(f"fault {unknown[0]!r} is unknown: choose from {', '.join(known)}")
    return Attacked(app, kinds, seed)


class Attacked:
    """See `attacked`; called as Flower calls a ClientApp."""

    def __init__(self, app: ClientApp, kinds: Mapping[str, str], seed: int) -> None:
        self.app, self.kinds, self.seed = app, dict(kinds), seed

    def __call__(self, message: Message, context: Context) -> Message:
        """Raises ConnectionError where a silent site drops out."""
        settings = site_settings(context.node_config)
        kind = self.kinds.get(settings.folder.name)
        if kind == SILENT:
            number = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
            if away(self.seed, settings.folder.name, number):
                raise ConnectionError(f"{settings.folder.name} dropped out of round {number}")
        if kind == SHUFFLED:
            folder = shuffle_labels(settings.folder, settings.state / SHUFFLED, seed=self.seed)
            context = copy.copy(context)
            # What it writes down stays where it would be.
            context.node_config = {
                "log": str(settings.folder),
                **context.node_config,
                "site": str(folder),
                "state": str(settings.state),
            }
        reply = self.app(message, context)
        if kind in KINDS and not reply.has_error():
            change(reply, KINDS[kind], _weights(message))
        return reply


def change(reply: Message, kind: Callable[[Answer], None], start: dict[str, np.ndarray]) -> None:
    """Let `kind` alter the arrays and figures of a reply. start: see `Answer`."""
    for key, record in list(reply.content.array_records.items()):
        arrays = {name: array.numpy() for name, array in record.items()}
        metrics = reply.content.metric_records.get("metrics")
        figures: dict[str, Any] = dict(metrics or {})
        kind(Answer(arrays, figures, start if key == "arrays" else {}))
        reply.content[key] = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        if metrics is not None:
            reply.content["metrics"] = MetricRecord(figures)


def shuffle_labels(site: Path, folder: Path, *, seed: int) -> Path:
    """A copy of a prepared site in `folder` whose labels are dealt out anew among its captures; its shards are links.

    The same site and seed give the same labels. Raises ValueError where `site` is no prepared site.
    """
    manifest = Site(site).manifest
    with (site / disk.INDEX).open(encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file, strict=True)
    place = columns.index("label")
    labels = [row[place] for row in rows]
    for row, source in zip(rows, _draw(seed, site.name, 0).permutation(len(rows)), strict=True):
        row[place] = labels[source]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    folder.mkdir(parents=True, exist_ok=True)
    shards = folder / disk.SHARDS
    shards.unlink(missing_ok=True)
    shards.symlink_to((site / disk.SHARDS).resolve(), target_is_directory=True)
    (folder / disk.INDEX).write_text(text.getvalue(), encoding="utf-8")
    disk.write_json(folder / disk.MANIFEST, {**manifest, "index_sha256": disk.sha256(folder / disk.INDEX)})
    return folder


def away(seed: int, site: str, number: int) -> bool:
    """Whether a silent site misses a round."""
    return bool(_draw(seed, site, number).random() < AWAY)


def _draw(seed: int, site: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, 12, zlib.crc32(site.encode()), number])


def _weights(message: Message) -> dict[str, np.ndarray]:
    """The model that the message asks to train, where the answer is a model too; else nothing."""
    config = message.content.config_records["config"]
    if config["federation.bits"] != 32 or config["federation.top-k"] != 1:
        return {}
    return {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}


def _put(arrays: dict[str, np.ndarray], value: float) -> None:
    """`value` as the largest scale of the first packed array, or as the first entry of the first float array."""
    for name, array in arrays.items():
        if name.endswith(":s"):
            array[array.argmax()] = _upper_half(np.array([value]))[0]
            return
    first = next(array for array in arrays.values() if array.dtype == np.float32)
    first.reshape(-1)[0] = value


def _times(answer: Answer, factor: float) -> None:
    """The update, or the moments, times `factor`; of a packed one the scales and the signs of the codes."""
    for name, array in list(answer.arrays.items()):
        part = name.partition(":")[2]
        if part == "s":
            values = (array.astype(np.uint32) << 16).view(np.float32)
            answer.arrays[name] = _upper_half(values * abs(factor))
        elif part in ("q4", "z4") and factor < 0:
            # Turned and deflated anew: the codes go as they are.
            codes = (
                array
                if part == "q4"
                else np.frombuffer(zlib.decompress(array.tobytes(), -zlib.MAX_WBITS), np.uint8)
            )
            low, high = -(codes & 15) & 15, -(codes >> 4) & 15
            del answer.arrays[name]
            answer.arrays[name.replace(":z4", ":q4")] = low | high << 4
        elif part in ("q8", "q16"):
            answer.arrays[name] = -array if factor < 0 else array
        elif part in ("", "q32"):
            start = answer.start.get(name, np.zeros_like(array))
            answer.arrays[name] = np.asarray(start + np.float32(factor) * (array - start))


def _upper_half(values: np.ndarray) -> np.ndarray:
    """What `smile.wire` sends of a scale: (n,) float -> (n,) uint16."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
