"""The Flower ClientApp of a site: decode the round's message, train with `smile`, encode the answer."""

import dataclasses
import time
import traceback

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.privacy import Outbox
from client.site import SiteSettings, log_folder, site_settings
from smile.config import SmileConfig, ViewConfig, from_flat

app = ClientApp()


class Refusal(Exception):
    """Work that this site cannot do: a code of `smile.protocol.ERRORS` and a detail that stays in the building."""

    def __init__(self, code: int, detail: object) -> None:
        super().__init__(str(detail))
        self.code = code


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round: global weights in, locally trained weights and a few figures out."""
    outbox = Outbox(message, run=context.run_id, log=log_folder(context.node_config))
    try:
        settings = _or_refuse(101, site_settings, context.node_config)
        return outbox.send(*_train_round(message, settings))
    except Refusal as refusal:
        return outbox.refuse(refusal.code, str(refusal))
    except Exception:
        # Flower would send the exception's text to the server, and that may hold a path or a name.
        return outbox.refuse(105, traceback.format_exc())


def _train_round(message: Message, settings: SiteSettings) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    # Imported here so that a SuperNode which only starts up does not load torch.
    from smile.model import build_model
    from smile.prompts import bank_hash
    from smile.protocol import get_arrays, load_arrays, source_fingerprint, weights_hash
    from smile.site.store import Site
    from smile.split import held_out
    from smile.training import train as train_locally

    started = time.monotonic()
    request = dict(message.content.config_records["config"])
    server_round = int(request.pop("server-round"))  # type: ignore[arg-type]
    if (request.pop("source"), request.pop("prompts")) != (source_fingerprint(), bank_hash()):
        raise Refusal(
            103, "the server's source or prompt bank differs from this site's: install the same release"
        )
    weights = request.pop("weights")
    config = _or_refuse(103, from_flat, request)
    site = _or_refuse(101, Site, settings.folder)
    _or_refuse(102, _same_views, site.views, config)
    if config.model.pretrained not in ("", settings.pretrained):
        # Loading it would read a file of this site or ask a hub for it: that is the site's to allow.
        raise Refusal(
            106, "the study wants pretrained weights: allow them with --node-config 'pretrained=\"TAG\"'"
        )
    if weights != _or_refuse(103, weights_hash, config.model.pretrained):
        raise Refusal(103, f"{config.model.pretrained} is not the file that the server has: copy it again")
    model = build_model(config)
    incoming = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
    _or_refuse(103, load_arrays, model, incoming)
    mine = np.flatnonzero(~held_out(site.subjects, share=config.training.holdout, seed=config.training.seed))
    parts = _or_refuse(
        104,
        train_locally,
        model,
        site,
        config,
        rows=mine,
        device=settings.device,
        first_step=(server_round - 1) * config.training.local_steps,
    )
    return get_arrays(model), {**parts, "num-examples": len(mine), "seconds": time.monotonic() - started}


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
