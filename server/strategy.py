"""The round, on the hooks of Flower's `Strategy`: ask, check, spool, average, keep, write down."""

import functools
import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server.averaging import Reply, Spool, average, too_few
from server.checks import Unusable, moments_reasons, weights
from server.lost import Lost
from server.replies import Weights, arrays_in, bytes_of, inside, let_go, read_array
from server.run_log import append, of_sites
from server.run_state import RunState
from smile import wire
from smile.config import FederationConfig
from smile.protocol import ERRORS, NO_BASE

POLL_SECONDS = 0.5
AT_ONCE = 256 * 2**20  # bytes of replies that are taken from Flower together


class SmileStrategy(Strategy):
    """Rounds over the replies that pass the checks, from where `state` stands; `after_round` keeps it."""

    def __init__(
        self,
        config: FederationConfig,
        state: RunState,
        *,
        shared: list[str],
        moment_shapes: dict[str, tuple[int, ...]],
        seed: int,
        output: Path,
        after_round: Callable[[RunState], None],
    ) -> None:
        """shared: names of the arrays that travel; moment_shapes: `smile.moments.shapes`.

        output: folder of log.jsonl and, during a round, of the replies.
        """
        self.config, self.state, self.shared, self.seed = config, state, shared, seed
        self.moment_shapes = moment_shapes
        self.output, self.after_round = output, after_round
        self._reference: Mapping[str, np.ndarray] = {}  # what the sites were sent
        self._asked: dict[str, int] = {}  # message -> node
        self._names: dict[int, str] = {}
        self._beside = RecordDict()  # what goes with a whole model: settings, and moments of all
        self._line: dict[str, Any] = {}
        self._sent: dict[int, int] = {}  # node -> bytes of arrays in this round
        self._received: dict[str, int] = {}  # site -> bytes of moments

    def summary(self) -> None:
        log(INFO, "\t├──> rounds %d to %d", self.state.round + 1, self.config.rounds)

    def run(
        self,
        grid: Grid,
        request: ConfigRecord,
        *,
        watch: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        """All rounds that are left; `watch` sees the line of each.

        Raises TimeoutError where the sites of a quorum do not connect in time.
        """
        self.summary()
        update = ArrayRecord()  # what changed since the round before, where it can be sent as a difference
        while self.state.round < self.config.rounds:
            number = self.state.round + 1
            messages = list(self.configure_train(number, update, request, grid))
            update = ArrayRecord()  # the messages hold it until they are sent
            if self.config.statistics == "shared":
                self._share_moments(grid, messages)
            replies = self._replies(grid, messages, time.monotonic() + self.config.round_timeout)
            del messages
            update = self.aggregate_train(number, replies)[0] or ArrayRecord()
            self.state.round, self.state.line = number, self._line
            self.after_round(self.state)
            # After the checkpoint, which holds it too: a run that goes on takes back what has none and adds what is missing.
            append(self.output / "log.jsonl", self._line)
            watch(self._line)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each site of the round. arrays: the difference to the round before, packed; empty: there is none."""
        self._started = time.monotonic()
        nodes = self._choose(grid, server_round)
        settings = {**config, "server-round": server_round, "study": self.state.study}
        whole, held = ArrayRecord(), self.state.arrays
        for name in self.shared:
            # Of a large model one copy is enough: the weights are read where the message holds them.
            whole[name] = Array(np.asarray(held[name], order="C"))
            held[name] = inside(whole[name], held[name])
        self._reference = {name: held[name] for name in self.shared}
        self._beside = RecordDict({"config": ConfigRecord({**settings, "base": -1})})
        first = RecordDict({"arrays": whole, **self._beside})
        # A site of the round before holds what it was sent then, which this difference turns into the model of now.
        difference = RecordDict(
            {"arrays": arrays, "config": ConfigRecord({**settings, "base": server_round - 2})}
        )
        knows = {node: bool(arrays) and self._names[node] in self.state.holders for node in nodes}
        self._sent, self._received = dict.fromkeys(nodes, 0), {}
        return [
            Message(difference if knows[node] else first, dst_node_id=node, message_type="train")
            for node in nodes
        ]

    def _choose(self, grid: Grid, number: int) -> list[int]:
        """The sites of the round: of those that may take part and are connected, `fraction`, at least a quorum."""
        settings, deadline = self.config, time.monotonic() + self.config.round_timeout
        allowed = {name.strip() for name in settings.sites.split(",") if name.strip()}
        while True:
            self._names = {
                node.node_id: node.name or f"node-{node.node_id}" for node in grid.get_nodes() or []
            }
            here = [node for node in grid.get_node_ids() if not allowed or self._names.get(node) in allowed]
            if len(here) >= settings.min_sites:
                break
            if time.monotonic() > deadline:
                missing = f", not {sorted(allowed - set(self._names.values()))}" if allowed else ""
                raise TimeoutError(
                    f"{len(here)} sites are connected{missing}, federation.min-sites = {settings.min_sites}: start the missing "
                    f"SuperNodes or lower it, and go on with federation.resume (waited {settings.round_timeout:.0f} s)"
                )
            log(INFO, "waiting for sites: %d of %d connected", len(here), settings.min_sites)
            time.sleep(POLL_SECONDS)
        # By name, because node numbers are drawn anew when a SuperNode starts again.
        here.sort(key=lambda node: (self._names.get(node, ""), node))
        count = max(settings.min_sites, math.ceil(settings.fraction * len(here)))
        drawn = np.random.default_rng([self.seed, 5, number]).choice(
            len(here), min(count, len(here)), replace=False
        )
        return [here[index] for index in sorted(drawn)]

    def _share_moments(self, grid: Grid, messages: list[Message]) -> None:
        """Ask the sites of the round for moments of their embeddings, and put the sum into its messages.

        Fewer of them than a quorum: the round goes on with each site's own statistics.
        """
        from smile import moments

        asked = [
            Message(m.content, dst_node_id=m.metadata.dst_node_id, message_type="query.moments")
            for m in messages
        ]
        found: dict[str, moments.Moments] = {}
        for reply in self._replies(grid, asked, time.monotonic() + self.config.round_timeout):
            site = self._site(reply)
            try:
                if reply.has_error():
                    raise ValueError(ERRORS.get(reply.error.code, f"Flower error code {reply.error.code}"))
                record: Any = reply.content["moments"]
                sent = {name: read_array(array) for name, array in record.items()}
                found[site] = moments.from_arrays(sent, like=self.moment_shapes)
                self._received[site] = bytes_of(record)
            except ValueError as error:
                log(WARNING, "moments of %s left out: %s", site, error)
            except Exception as error:  # whatever a site sends must cost it the round and not the run
                log(WARNING, "moments of %s left out: they cannot be read (%s)", site, type(error).__name__)
        self._asked = {}
        for site, reason in moments_reasons(found, self.config.norm_limit).items():
            log(WARNING, "moments of %s left out: %s", site, reason)
            del found[site]
        if len(found) < self.config.min_sites:
            log(WARNING, "%d sites sent moments: this round takes each site's own statistics", len(found))
            return
        # Sorted, because the order of a floating-point sum changes its last bit.
        total = functools.reduce(operator.add, [found[site] for site in sorted(found)])
        record = ArrayRecord({name: Array(array) for name, array in total.arrays().items()})
        for content in {id(m.content): m.content for m in messages}.values():
            content["moments"] = record
        self._beside["moments"] = record

    def _replies(self, grid: Grid, messages: list[Message], deadline: float) -> Iterator[Message]:
        """Replies as they come, until all are here or the time is up; few at a time, because each may hold a model."""
        waiting, kind, again = self._push(grid, messages), messages[0].metadata.message_type, set[int]()
        size = max(1, AT_ONCE // max(1, sum(array.nbytes for array in self._reference.values())))
        lost = Lost(self._names, spare=len(messages) - self.config.min_sites)
        messages = []  # they hold the model
        while waiting or lost:
            numbers = list(waiting)
            for start in range(0, len(numbers), size):
                for reply in grid.pull_messages(numbers[start : start + size]):
                    number = reply.metadata.reply_to_message_id
                    waiting.pop(number, None)
                    no_base = reply.has_error() and reply.error.code == NO_BASE
                    if no_base and self._asked.get(number) not in (None, *again):
                        # It lost the model of the round before: it is sent the whole one, once, and that answer counts.
                        node = self._asked.pop(number)
                        again.add(node)
                        waiting |= self._push_whole(grid, node, kind)
                    elif not lost.hold(reply, self._asked.get(number)):
                        yield reply
                    del reply  # before the next one comes: it may hold a model
            for node in lost.back(grid.get_node_ids()) if lost else []:
                waiting |= self._push_whole(grid, node, kind)
            if not waiting or time.monotonic() > deadline:
                yield from lost.given_up(late=time.monotonic() > deadline)
            if time.monotonic() > deadline:
                return
            if len(waiting) == len(numbers):
                time.sleep(POLL_SECONDS)

    def _push_whole(self, grid: Grid, node: int, kind: str) -> dict[str, int]:
        arrays = ArrayRecord({name: Array(array) for name, array in self._reference.items()})
        whole = RecordDict({"arrays": arrays, **self._beside})
        return self._push(grid, [Message(whole, dst_node_id=node, message_type=kind)])

    def _push(self, grid: Grid, messages: list[Message]) -> dict[str, int]:
        """Send; message -> node of those that Flower took."""
        numbers = grid.push_messages(messages)
        sent = {
            number: message.metadata.dst_node_id
            for number, message in zip(numbers, messages, strict=True)
            if number is not None
        }
        self._asked |= sent
        for message in messages:
            size = sum(map(bytes_of, arrays_in(message)))
            self._sent[message.metadata.dst_node_id] += size
        return sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the good replies into the state; the difference that it makes, packed, where differences are sent.

        Too few good replies: the model stays as it was and the log says why.
        """
        state, settings = self.state, self.config
        with Spool(self.output / "replies", self._reference) as spool:
            # On disk too, since Flower holds two models while it unpacks one; the messages keep it until they are sent.
            self._reference = spool.add("sent", self._reference)
            state.arrays = {
                name: array for name, array in state.arrays.items() if name not in self._reference
            }
            accepted, refused, late = self._collect(replies, spool)
            too_small = self._too_few(len(accepted))
            examples = {site: figures["num-examples"] for site, (_, figures) in accepted.items()}
            shares = weights(examples, settings.weight_cap) if examples else {}
            update = None
            if too_small is None:
                found = {site: reply for site, (reply, _) in accepted.items()}
                update = self._step(
                    average(settings.average, found, shares, self._reference, trim=settings.trim),
                    holders=set(accepted) if self._packs else set(),
                )
            else:
                log(WARNING, "round %d: the model stays as it was: %s", server_round, too_small)
                state.arrays |= self._reference
                state.holders = frozenset()
            self._reference = {}
        for site, reason in sorted(refused.items()):
            log(WARNING, "round %d: %s left out: %s", server_round, site, reason)
        self._line = {
            "round": server_round,
            "averaged": too_small is None,
            "seconds": round(time.monotonic() - self._started, 3),
            **of_sites({site: figures for site, (_, figures) in accepted.items()}, shares),
            "refused": [{"site": site, "reason": reason} for site, reason in sorted(refused.items())]
            + [{"site": site, "reason": f"no answer within {settings.round_timeout:.0f} s"} for site in late],
            "late": late,
            "sites_asked": len(set(self._asked.values())),
            "bytes_sent": sum(self._sent.values()),
        }
        self._asked = {}
        return update, MetricRecord(dict(self._line["losses"]))

    def _collect(
        self, replies: Iterable[Message], spool: Spool
    ) -> tuple[dict[str, tuple[Reply, dict[str, Any]]], dict[str, str], list[str]]:
        """Check and spool the replies as they come: what is good, with its figures; why the others are not; who is missing."""
        checks = self.state.checks
        accepted: dict[str, tuple[Reply, dict[str, Any]]] = {}
        refused: dict[str, str] = {}
        answered: set[str] = set()
        checks.begin(self._reference)
        for message in replies:
            site = self._site(message)
            answered.add(site)
            reason = self._take(message, site, spool, accepted)
            if reason is not None:
                refused[site] = reason
            let_go(message)  # before the next one comes: each may hold a model
            del message
        norms, sent = checks.norms, {self._names[node]: size for node, size in self._sent.items()}
        for site, (_, figures) in accepted.items():
            figures |= {"bytes_sent": sent[site], "update_norm": norms[site]}
        for site, reason in checks.outliers().items():
            refused[site] = reason
            del accepted[site]
        late = {self._names.get(node, f"node-{node}") for node in self._asked.values()} - answered
        return accepted, refused, sorted(late)

    @property
    def _packs(self) -> bool:
        return self.config.bits < 32 or self.config.top_k < 1

    def _too_few(self, good: int) -> str | None:
        if good < self.config.min_sites:
            return f"{good} good replies, federation.min-sites = {self.config.min_sites}"
        return too_few(self.config.average, good, self.config.trim)

    def _step(self, mean: dict[str, np.ndarray], *, holders: set[str]) -> ArrayRecord | None:
        """Put the new weights into the state. Where differences are sent, what is sent is the model from then on, here too."""
        state, settings = self.state, self.config
        new, packed = state.optimiser.step(self._reference, mean), dict[str, np.ndarray]()
        del mean
        for name in self.shared if self._packs else []:
            # One array after the other, since all of each of these would be a model.
            old, lost = self._reference[name], state.residual.pop(name, None)
            parts, rest = wire.encode(
                {name: np.asarray(new[name] - old)},
                bits=settings.bits,
                top_k=settings.top_k,
                residual=None if lost is None else {name: lost},
            )
            new[name] = np.asarray(old + wire.decode(parts, {name: old.shape})[name])
            packed |= parts
            state.residual |= rest
        state.arrays |= new
        state.holders, state.rounds_averaged = frozenset(holders), state.rounds_averaged + 1
        if settings.swa and state.round + 1 >= settings.swa:
            state.average.add(state.arrays)
        return ArrayRecord({name: Array(packed.pop(name)) for name in list(packed)}) if packed else None

    def _site(self, reply: Message) -> str:
        # The error reply for a dead site comes from the SuperLink: only the question tells whom it is about.
        node = self._asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
        return self._names.get(node, f"node-{node}")

    def _take(
        self, reply: Message, site: str, spool: Spool, accepted: dict[str, tuple[Reply, dict[str, Any]]]
    ) -> str | None:
        """Check a reply and spool it; why it cannot be averaged, or None."""
        if reply.has_error():
            # Only our own codes have a known text; any other text might quote a site's files.
            return ERRORS.get(reply.error.code, f"Flower error code {reply.error.code}")
        try:
            if set(reply.content) != {"arrays", "metrics"}:
                raise Unusable("it holds other records than the weights and the figures")
            record, found = reply.content["arrays"], reply.content["metrics"]
            if not isinstance(record, ArrayRecord) or not isinstance(found, MetricRecord):
                raise Unusable("its records are not arrays and figures")
            figures: dict[str, Any] = dict(found)
            size = bytes_of(record)
            arrays: Mapping[str, np.ndarray] | Exception = Weights(
                record, self._reference, packed=self._packs
            )
        except Exception as error:  # whatever a site sends must cost it the round and not the run
            arrays, figures, size = error, {}, 0
        reason = self.state.checks.reason(site, arrays, figures)
        if reason is None:
            assert not isinstance(arrays, Exception)
            accepted[site] = (
                spool.add(site, arrays),
                {
                    **figures,
                    "bytes_received": size + self._received.get(site, 0),
                },
            )
        return reason

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: figures ride with training, a second message would send the whole model again."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None
