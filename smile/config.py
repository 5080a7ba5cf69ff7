"""Every setting of a study, as frozen dataclasses; one field here = one key in `[tool.flwr.app.config]`.

What belongs to a site (its data folder, its device) is not here: a federation must never set it.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

CHANNELS = {"texture": 3, "depth": 1, "normals": 3}  # modality -> image channels, in storage order
MOTIONS = ("frames", "difference", "dynamic")
FUSIONS = ("attention", "mean", "text")
STREAMS = ("together", "apart")
TUNINGS = ("full", "lora", "adapter", "prompt")
AVERAGES = ("mean", "ldawa", "trimmed-mean", "median", "multi-krum")
SERVER_OPTIMISERS = ("none", "momentum", "adam", "yogi")
PROMPT_SOURCES = ("label", "pseudo", "geometry", "none")
PAIRS = ("views", "frames", "sentences")
CONTRASTS = ("batch", "expressions")
BEFORE = {"objective.contrast": "batch"}  # done before it was a setting, and not today's default
SIBLINGS = ("none", "affectvlm", "multiviewvlm", "facet", "conclugen")
PRECISIONS = ("fp32", "bf16", "fp16")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class ViewConfig:
    """How a scan becomes images. Sites of one study must agree on all of it."""

    yaws: tuple[float, ...] = (-30.0, 0.0, 30.0)  # degrees; positive shows more of the subject's right side
    size: int = 64  # pixels, square
    modalities: tuple[str, ...] = ("texture", "depth", "normals")
    radius: float = 95.0  # mm around the nose tip that are kept; also half the width of the picture
    motion: str = "frames"  # frames | difference (to the onset) | dynamic (image of all)
    magnify: float = 1.0  # times the motion since the onset; 1 leaves it as it is

    def __post_init__(self) -> None:
        _require(
            len(self.yaws) > 0 and all(-90 < y < 90 for y in self.yaws),
            f"views.yaws = {self.yaws}: give one or more angles between -90 and 90 degrees",
        )
        _require(len(set(self.yaws)) == len(self.yaws), f"views.yaws = {self.yaws}: an angle is given twice")
        _require(16 <= self.size <= 1024, f"views.size = {self.size}: give 16 to 1024 pixels")
        _require(40 <= self.radius <= 300, f"views.radius = {self.radius}: give 40 to 300 mm")
        _require(
            len(self.modalities) > 0 and set(self.modalities) <= set(CHANNELS),
            f"views.modalities = {self.modalities}: choose from {', '.join(CHANNELS)}",
        )
        _require(
            list(self.modalities) == [m for m in CHANNELS if m in self.modalities],
            f"views.modalities = {self.modalities}: keep the order {', '.join(CHANNELS)}, each once",
        )
        _require(
            self.motion in MOTIONS, f"views.motion = {self.motion!r}: choose frames, difference or dynamic"
        )
        _require(1 <= self.magnify <= 100, f"views.magnify = {self.magnify}: give 1 (none) to 100")

    @property
    def channels(self) -> int:
        return sum(CHANNELS[m] for m in self.modalities)

    @property
    def needs_sequence(self) -> bool:
        """Whether a sample takes two or more frames of a sequence, so that a scan alone cannot be one."""
        return self.motion != "frames" or self.magnify != 1

    def channel_slices(self) -> dict[str, slice]:
        """Where each modality lies on the channel axis of a view."""
        slices, start = {}, 0
        for modality in self.modalities:
            slices[modality] = slice(start, start + CHANNELS[modality])
            start += CHANNELS[modality]
        return slices


@dataclass(frozen=True)
class ModelConfig:
    """The image side of the model; the text side follows from `tower` and `pretrained`."""

    tower: str = "smile-small"  # an open_clip model name, or our small tower for CPUs
    pretrained: str = ""  # open_clip tag or local file; empty: random weights
    modalities: tuple[str, ...] = ("texture", "depth", "normals")  # what the tower sees of the views
    dim: int = 128  # of the joint embedding; a pretrained tower keeps its own text width
    fusion: str = "attention"  # attention | mean | text (prompts as queries, as in FACET-VLM)
    streams: str = "together"  # together: the modalities are channels of one picture; apart: each is a picture of its own
    tuning: str = "full"  # full | lora | adapter | prompt: what of the tower is trained, and sent
    rank: int = 8  # of LoRA, width of an adapter, number of prompt tokens

    def __post_init__(self) -> None:
        _require(
            len(self.modalities) > 0 and set(self.modalities) <= set(CHANNELS),
            f"model.modalities = {self.modalities}: choose from {', '.join(CHANNELS)}",
        )
        _require(
            list(self.modalities) == [m for m in CHANNELS if m in self.modalities],
            f"model.modalities = {self.modalities}: keep the order {', '.join(CHANNELS)}, each once",
        )
        _choose("model.fusion", self.fusion, FUSIONS)
        _choose("model.streams", self.streams, STREAMS)
        _choose("model.tuning", self.tuning, TUNINGS)
        _require(1 <= self.rank <= 256, f"model.rank = {self.rank}: give 1 to 256")
        _require(8 <= self.dim <= 4096, f"model.dim = {self.dim}: give 8 to 4096")

    @property
    def channels(self) -> int:
        return sum(CHANNELS[m] for m in self.modalities)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The three losses of docs/method.md and their weights; all sites must use the same."""

    prompt_source: str = (
        "label"  # label (supervised) | pseudo | geometry | none: where a sample's sentence comes from
    )
    decorrelation: float = 0.001  # lambda_1; at equal weights this term is nearly all of the loss
    alignment: float = 1.0  # lambda_2
    redundancy: float = 1.0  # lambda_3
    off_diagonal: float = 0.0051  # lambda_bt of Barlow Twins
    view_alignment: float = 1.0  # beta, weight of the single views in the alignment
    contrast: str = "expressions"  # batch | expressions: tell a picture also from what the batch lacks
    redundancy_reading: str = "off-diagonal"  # off-diagonal | full
    pairs: str = (
        "sentences"  # views | frames | sentences: what the decorrelation takes for two pictures of the same
    )
    order: float = 0.0  # weight of telling which of two frames of a sequence comes first
    intensity: float = 0.0  # weight of ranking frames by their distance in time from rest
    sibling: str = (
        "none"  # none | affectvlm | multiviewvlm | facet | conclugen: the losses of a related system
    )
    sibling_weight: float = 1.0
    critic: float = 0.0  # weight of telling a sentence from the same with one changed fact

    def __post_init__(self) -> None:
        _choose("objective.prompt-source", self.prompt_source, PROMPT_SOURCES)
        _choose("objective.contrast", self.contrast, CONTRASTS)
        _choose("objective.redundancy-reading", self.redundancy_reading, ("off-diagonal", "full"))
        _choose("objective.pairs", self.pairs, PAIRS)
        _choose("objective.sibling", self.sibling, SIBLINGS)
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, int | float):
                _require(value >= 0, f"objective.{_key(spec.name)} = {value}: give 0 or more")


@dataclass(frozen=True)
class TrainingConfig:
    """The local training of one round."""

    batch_size: int = 32  # captures
    local_steps: int = 20  # optimiser steps a round
    learning_rate: float = 0.002  # peak; cosine over all rounds
    weight_decay: float = 0.05
    holdout: float = 0.4  # share of a site's subjects that nobody trains on
    seed: int = 0
    precision: str = "fp32"  # fp32 | bf16 | fp16: of the forward pass; the losses are always taken in fp32
    accumulate: int = 1  # batches whose gradients are added before a step
    clip: float = 1.0  # largest norm of the gradient
    warm_up: float = 0.05  # share of all steps in which the rate rises
    ema: float = 0.0  # decay of the averaged weights that are kept; 0: the last weights
    frames: int = 1  # frames of one sequence that are drawn together into a batch

    def __post_init__(self) -> None:
        _choose("training.precision", self.precision, PRECISIONS)
        _require(self.accumulate >= 1, f"training.accumulate = {self.accumulate}: give 1 or more")
        _require(self.clip > 0, f"training.clip = {self.clip}: give more than 0")
        _require(0 <= self.warm_up < 1, f"training.warm-up = {self.warm_up}: give 0 to below 1")
        _require(0 <= self.ema < 1, f"training.ema = {self.ema}: give 0 (off) to below 1")
        _require(
            1 <= self.frames <= self.batch_size,
            f"training.frames = {self.frames}: give 1 to training.batch-size = {self.batch_size}",
        )
        _require(self.batch_size >= 2, f"training.batch-size = {self.batch_size}: give 2 or more")
        _require(self.local_steps >= 1, f"training.local-steps = {self.local_steps}: give 1 or more")
        _require(self.learning_rate > 0, f"training.learning-rate = {self.learning_rate}: give more than 0")
        _require(self.weight_decay >= 0, f"training.weight-decay = {self.weight_decay}: give 0 or more")
        _require(0 <= self.holdout < 1, f"training.holdout = {self.holdout}: give 0 to below 1")
        _require(0 <= self.seed < 2**31, f"training.seed = {self.seed}: give 0 to {2**31 - 1}")


@dataclass(frozen=True)
class FederationConfig:
    """The rounds, as the coordinator sees them: who takes part, what is shared, how it is averaged, what is sent."""

    rounds: int = 10
    min_sites: int = 2  # quorum: a round waits for this many, and averages no fewer good replies
    round_timeout: float = 3600.0  # deadline of a round, seconds
    output: str = ""  # folder of the coordinator for checkpoints and log.jsonl; empty: ./runs/<run id>
    resume: str = ""  # such a folder, of a run that was cut off: go on with it
    sites: str = ""  # registered names that take part, `a,b,c`; empty: every site that is connected
    fraction: float = 1.0  # share of the sites that is asked in a round, drawn anew each time
    personal: str = (
        ""  # arrays that stay at the site: norms | fusion | projector | patterns like `tower.*`; `a,b`
    )
    average: str = "mean"  # mean | ldawa | trimmed-mean | median | multi-krum
    trim: float = 0.2  # share of the sites that trimmed-mean and multi-krum take for faulty
    server_optimiser: str = "none"  # none | momentum | adam | yogi: what is done with the mean update
    server_rate: float = 1.0
    swa: int = 0  # round from which the mean of all rounds is kept and published; 0: off
    proximal: float = 0.0  # mu of FedProx
    blend: float = 0.0  # tau of FedEMA: how much of its own model a site keeps; 0: none
    optimiser: str = "fresh"  # fresh | kept: moments of AdamW between rounds, kept on the site's disk
    statistics: str = "local"  # local | shared: moments behind decorrelation and redundancy
    min_cohort: int = 5  # people below whom a site sends no moments
    noise: float = 0.0  # deviation of Gaussian noise on the moments, relative to their root mean square
    bits: int = 32  # 32 | 16 | 8 | 4: of each number of an update
    top_k: float = 1.0  # share of an update's entries that is sent, the largest
    norm_limit: float = 10.0  # an update longer than so many times the median of the rounds before is refused
    weight_cap: float = 1.0  # largest share of one site in the mean

    def __post_init__(self) -> None:
        _require(self.rounds >= 1, f"federation.rounds = {self.rounds}: give 1 or more")
        _require(self.min_sites >= 1, f"federation.min-sites = {self.min_sites}: give 1 or more")
        _require(
            self.round_timeout > 0, f"federation.round-timeout = {self.round_timeout}: give seconds above 0"
        )
        _choose("federation.average", self.average, AVERAGES)
        _choose("federation.server-optimiser", self.server_optimiser, SERVER_OPTIMISERS)
        _choose("federation.optimiser", self.optimiser, ("fresh", "kept"))
        _choose("federation.statistics", self.statistics, ("local", "shared"))
        _require(self.bits in (32, 16, 8, 4), f"federation.bits = {self.bits}: give 32, 16, 8 or 4")
        for name, value in (
            ("fraction", self.fraction),
            ("top-k", self.top_k),
            ("weight-cap", self.weight_cap),
        ):
            _require(0 < value <= 1, f"federation.{name} = {value}: give more than 0, up to 1")
        for name, value in (("proximal", self.proximal), ("blend", self.blend), ("noise", self.noise)):
            _require(value >= 0, f"federation.{name} = {value}: give 0 (off) or more")
        _require(0 <= self.trim < 0.5, f"federation.trim = {self.trim}: give 0 to below 0.5")
        _require(self.server_rate > 0, f"federation.server-rate = {self.server_rate}: give more than 0")
        _require(self.swa >= 0, f"federation.swa = {self.swa}: give a round, or 0 (off)")
        _require(self.min_cohort >= 1, f"federation.min-cohort = {self.min_cohort}: give 1 or more")
        _require(self.norm_limit > 1, f"federation.norm-limit = {self.norm_limit}: give more than 1")


@dataclass(frozen=True)
class SmileConfig:
    """All settings of a study."""

    views: ViewConfig = field(default_factory=ViewConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)

    def __post_init__(self) -> None:
        _require(
            set(self.model.modalities) <= set(self.views.modalities),
            f"model.modalities = {self.model.modalities} but views.modalities = {self.views.modalities}: "
            "the model can only see what is rendered",
        )


def _choose(key: str, value: str, words: tuple[str, ...]) -> None:
    _require(value in words, f"{key} = {value!r}: choose from {', '.join(words)}")


def _key(name: str) -> str:
    return name.replace("_", "-")


def to_flat(config: SmileConfig) -> dict[str, int | float | str]:
    """`SmileConfig` -> Flower run config: dotted keys, scalars only; a tuple becomes `a,b,c`."""
    flat: dict[str, int | float | str] = {}
    for section, values in dataclasses.asdict(config).items():
        for name, value in values.items():
            flat[f"{section}.{_key(name)}"] = (
                ",".join(map(_word, value)) if isinstance(value, tuple) else value
            )
    return flat


def _word(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def from_flat(flat: dict[str, Any]) -> SmileConfig:
    """Flower run config -> `SmileConfig`. Raises ValueError for a missing, unknown or malformed key."""
    expected = to_flat(SmileConfig())
    unknown, missing = sorted(set(flat) - set(expected)), sorted(set(expected) - set(flat))
    _require(not unknown, f"unknown settings {unknown}: remove them or correct their names")
    _require(
        not missing, f"settings {missing} are missing from the run config: server and app differ in version"
    )
    sections: dict[str, Any] = {}
    for spec in dataclasses.fields(SmileConfig):
        kind: Any = spec.default_factory
        sections[spec.name] = kind(
            **{
                f.name: _parse(f"{spec.name}.{_key(f.name)}", flat[f"{spec.name}.{_key(f.name)}"], f.type)
                for f in dataclasses.fields(kind)
            }
        )
    return SmileConfig(**sections)


def _parse(key: str, value: Any, kind: Any) -> Any:
    try:
        if kind is int:
            _require(float(value) == int(value) and not isinstance(value, bool), "")
            return int(value)
        if kind is float:
            _require(math.isfinite(float(value)), "")
            return float(value)
        if kind == tuple[float, ...]:
            return tuple(float(word) for word in str(value).split(","))
        if kind == tuple[str, ...]:
            return tuple(word.strip() for word in str(value).split(","))
        return str(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} = {value!r}: expected {getattr(kind, '__name__', kind)}") from None


def to_json(config: SmileConfig) -> str:
    """`SmileConfig` -> the `config.json` beside a checkpoint."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str) -> SmileConfig:
    """`config.json` -> `SmileConfig`; the same checks as `from_flat`, but what an older version did not write is what it did."""
    nested = json.loads(text)
    tables = isinstance(nested, dict) and all(isinstance(values, dict) for values in nested.values())
    _require(tables, "config.json holds no settings")
    found = {
        f"{section}.{_key(name)}": ",".join(map(_word, value)) if isinstance(value, list) else value
        for section, values in nested.items()
        for name, value in values.items()
    }
    return from_flat({**to_flat(SmileConfig()), **BEFORE, **found})
