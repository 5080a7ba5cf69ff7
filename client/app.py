"""The Flower ClientApp of a site: decode the round's message, train with `smile`, encode the answer."""

import dataclasses
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.memory import Memory
from client.privacy import Outbox
from client.site import SiteSettings, log_folder, site_settings
from smile import wire
from smile.config import SmileConfig, ViewConfig, from_flat
from smile.protocol import NO_BASE, read_array

if TYPE_CHECKING:
    from smile.model import SmileModel
    from smile.site.store import Site

Arrays = dict[str, np.ndarray]
app = ClientApp()


class Refusal(Exception):
    """Work that this site cannot do: a code of `smile.protocol.ERRORS` and a detail that stays in the building."""

    def __init__(self, code: int, detail: object) -> None:
        super().__init__(str(detail))
        self.code = code


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round: global weights in, locally trained weights and a few figures out."""
    return _answer(message, context, _train_round)


@app.query("moments")
def moments(message: Message, context: Context) -> Message:
    """Before a round with `federation.statistics = shared`: weights in, moments of this site's embeddings out."""
    return _answer(message, context, _measure_moments)


def _answer(
    message: Message, context: Context, work: Callable[[Message, Outbox, SiteSettings], Message]
) -> Message:
    outbox = Outbox(message, run=context.run_id, log=log_folder(context.node_config))
    try:
        return work(message, outbox, _or_refuse(101, site_settings, context.node_config))
    except Refusal as refusal:
        return outbox.refuse(refusal.code, str(refusal))
    except Exception:
        # Flower would send the exception's text to the server, and that may hold a path or a name.
        return outbox.refuse(105, traceback.format_exc())


class Round(NamedTuple):
    """What a message asks for, opened and checked."""

    number: int
    config: SmileConfig
    site: "Site"
    rows: np.ndarray  # captures of the people who are not held out
    model: "SmileModel"  # with the weights of the round and the site's own layers
    shared: list[str]
    personal: list[str]
    incoming: Arrays  # the shared weights as the server has them
    memory: Memory
    kept: Arrays


def _open(message: Message, settings: SiteSettings) -> Round:
    # Imported here so that a SuperNode which only starts up does not load torch.
    from client import rounds
    from smile.sharing import split_names
    from smile.site.store import Site
    from smile.split import held_out

    request: dict[str, Any] = dict(message.content["config"])
    number, study, base = (
        int(request.pop("server-round")),
        str(request.pop("study")),
        int(request.pop("base")),
    )
    config = _checked(request, settings)
    site = _or_refuse(101, Site, settings.folder)
    _or_refuse(102, _same_views, site.views, config)
    model = rounds.fresh_model(config)
    shared, personal = split_names(model, config.federation.personal)
    memory = _or_refuse(103, Memory, settings.state, study)
    kept = memory.load(before=number) if rounds.wants_memory(config) else {}
    incoming = _incoming(message, model, shared, rounds.part(kept, "base"), base)
    rounds.begin(model, config, incoming, kept)
    rows = np.flatnonzero(~held_out(site.subjects, share=config.training.holdout, seed=config.training.seed))
    return Round(number, config, site, rows, model, shared, personal, incoming, memory, kept)


def _measure_moments(message: Message, outbox: Outbox, settings: SiteSettings) -> Message:
    from smile.moments import measure

    r = _open(message, settings)
    people = len(np.unique(r.site.subjects[r.rows]))
    found = _or_refuse(109, measure, r.model, r.site, r.rows, r.config, device=settings.device)
    return outbox.send_moments(found.arrays(), people=people)


def _train_round(message: Message, outbox: Outbox, settings: SiteSettings) -> Message:
    from client import rounds
    from smile import moments
    from smile.protocol import get_arrays
    from smile.training import train as train_locally

    started, r = time.monotonic(), _open(message, settings)
    whole = None
    if "moments" in message.content:
        sent = _arrays(message, "moments")
        found = _or_refuse(103, moments.from_arrays, sent, like=moments.shapes(r.config))
        whole = moments.shared(found, device=settings.device)
    before = get_arrays(r.model) if r.config.federation.blend else {}
    state = _or_refuse(108, rounds.optimiser, r.model, r.config, r.kept, device=settings.device)
    parts = _or_refuse(
        104,
        train_locally,
        r.model,
        r.site,
        r.config,
        rows=r.rows,
        device=settings.device,
        first_step=(r.number - 1) * r.config.training.local_steps,
        state=state,
        shared=whole,
    )
    after = get_arrays(r.model)
    outgoing, residual = _outgoing(r.config, after, r.incoming, rounds.part(r.kept, "residual"))
    if rounds.wants_memory(r.config):
        new = rounds.keep(r, state, before, after, residual)
        _or_refuse(108, r.memory.save, r.number, new)
    figures = {**parts, "num-examples": len(r.rows), "seconds": time.monotonic() - started}
    return outbox.send(outgoing, figures, r.shared)


def _checked(request: dict[str, Any], settings: SiteSettings) -> SmileConfig:
    """The study's settings, of a server that runs the same program over the same words and weights."""
    from smile.prompts import bank_hash
    from smile.protocol import source_fingerprint, weights_hash

    if (request.pop("source"), request.pop("prompts")) != (source_fingerprint(), bank_hash()):
        raise Refusal(
            103, "the server's source or prompt bank differs from this site's: install the same release"
        )
    weights = request.pop("weights")
    config: SmileConfig = _or_refuse(103, from_flat, request)
    if config.model.pretrained not in ("", settings.pretrained):
        # Loading it would read a file of this site or ask a hub for it: that is the site's to allow.
        raise Refusal(
            106, "the study wants pretrained weights: allow them with --node-config 'pretrained=\"TAG\"'"
        )
    if weights != _or_refuse(103, weights_hash, config.model.pretrained):
        raise Refusal(103, f"{config.model.pretrained} is not the file that the server has: copy it again")
    return config


def _incoming(message: Message, model: "SmileModel", shared: list[str], kept: Arrays, base: int) -> Arrays:
    """The shared weights of the round: as they came, or what this site holds plus a difference."""
    found = _arrays(message, "arrays")
    state = model.state_dict()
    shapes = {name: tuple(state[name].shape) for name in shared}
    if base >= 0:
        held = kept.pop("round", None)
        if held is None or int(held) != base or {n: a.shape for n, a in kept.items()} != shapes:
            raise Refusal(
                NO_BASE, f"the model of round {base} is not kept here: the server sends the whole one"
            )
        change = _or_refuse(103, wire.decode, found, shapes)
        return {name: np.asarray(kept[name] + change[name]) for name in shared}
    if {name: array.shape for name, array in found.items()} != shapes:
        raise Refusal(103, "the arrays that came in are not those of this model")
    return found


def _arrays(message: Message, key: str) -> Arrays:
    # `content.array_records` would leave the message to the garbage collector: server.replies.let_go.
    record: Any = message.content[key]
    return {name: read_array(array) for name, array in record.items()}


def _outgoing(
    config: SmileConfig, after: Arrays, incoming: Arrays, residual: Arrays
) -> tuple[Arrays, Arrays]:
    """What is sent of the trained weights, and what that lost: the weights, or a packed difference."""
    settings = config.federation
    if settings.bits == 32 and settings.top_k == 1:
        return {name: after[name] for name in incoming}, {}
    change = {name: np.asarray(after[name] - incoming[name]) for name in incoming}
    return wire.encode(change, bits=settings.bits, top_k=settings.top_k, residual=residual or None)


def _same_views(mine: ViewConfig, config: SmileConfig) -> None:
    """A site may hold more modalities than the study uses; everything else must be as the study asks."""
    asked = dataclasses.replace(config.views, modalities=mine.modalities)
    if asked != mine or not set(config.model.modalities) <= set(mine.modalities):
        raise ValueError(
            f"the study asks for {config.views}, this site was prepared with {mine}: "
            "run `smile prepare` again with the study's settings"
        )


def _or_refuse(code, function, *arguments, **options):  # type: ignore[no-untyped-def]
    """Call, and turn what the user or the disk did wrong into a refusal with this code."""
    try:
        return function(*arguments, **options)
    except (OSError, ValueError) as error:
        raise Refusal(code, error) from error
