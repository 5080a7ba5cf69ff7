"""The round, on the hooks of Flower's `Strategy`: ask every site, check each reply, average, write down."""

import time
from collections.abc import Iterable
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server.aggregation import WeightedMean, reject_reason
from server.run_log import append
from smile.protocol import ERRORS, METRICS

POLL_SECONDS = 1.0


class SmileStrategy(Strategy):
    """Federated averaging by number of captures, over the replies that pass the checks."""

    def __init__(self, *, min_sites: int, timeout: float, log_file: Path) -> None:
        self.min_sites, self.timeout, self.log_file = min_sites, timeout, log_file
        self.rounds_averaged = 0
        self._reference: dict[str, np.ndarray] = {}
        self._messages: list[Message] = []
        self._names: dict[int, str] = {}
        self._started = 0.0

    def summary(self) -> None:
        log(INFO, "\t├──> each round asks every connected site and needs %d good replies", self.min_sites)

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """One message for each connected site; waits for `min_sites` no longer than the round's timeout."""
        self._started = time.monotonic()
        nodes = self._wait_for_sites(grid)
        self._reference = {name: array.numpy() for name, array in arrays.items()}
        self._names = {node.node_id: node.name or f"node-{node.node_id}" for node in grid.get_nodes() or []}
        content = RecordDict(
            {"arrays": arrays, "config": ConfigRecord({**config, "server-round": server_round})}
        )
        self._messages = [Message(content, dst_node_id=node, message_type="train") for node in nodes]
        return self._messages

    def _wait_for_sites(self, grid: Grid) -> list[int]:
        deadline = time.monotonic() + self.timeout
        while len(nodes := sorted(grid.get_node_ids())) < self.min_sites:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(nodes)} sites are connected, federation.min-sites = {self.min_sites}: "
                    f"start the missing SuperNodes or lower it (waited {self.timeout:.0f} s)"
                )
            log(INFO, "waiting for sites: %d of %d connected", len(nodes), self.min_sites)
            time.sleep(POLL_SECONDS)
        return nodes

    def aggregate_train(
        self,
        server_round: int,
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the good replies. Too few of them: the model stays as it was and the log says why."""
        mean, accepted, refused, replies = WeightedMean(self._reference), [], [], list(replies)
        # The error reply for a dead site comes from the SuperLink: only the question tells whom it is about.
        asked = {message.metadata.message_id: message.metadata.dst_node_id for message in self._messages}
        # Sorted, because the order of a floating-point sum changes its last bit.
        for reply in sorted(replies, key=lambda message: message.metadata.src_node_id):
            site, reason, arrays, metrics = self._check(reply, asked)
            if reason is not None:
                log(WARNING, "round %d: %s left out: %s", server_round, site, reason)
                refused.append({"site": site, "reason": reason})
                continue
            mean.add(arrays, metrics["num-examples"])
            accepted.append(
                {"site": site, **metrics, "bytes_received": sum(a.nbytes for a in arrays.values())}
            )
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        silent = [
            self._names.get(asked[message], f"node-{asked[message]}") for message in asked.keys() - answered
        ]
        refused += [
            {"site": site, "reason": f"no answer within {self.timeout:.0f} s"} for site in sorted(silent)
        ]
        enough = len(accepted) >= self.min_sites
        losses = _weighted(accepted)
        append(
            self.log_file,
            {
                "round": server_round,
                "averaged": enough,
                "seconds": round(time.monotonic() - self._started, 3),
                "losses": losses,
                "sites": accepted,
                "refused": refused,
                "sites_asked": len(self._messages),
                "bytes_sent": len(self._messages) * sum(array.nbytes for array in self._reference.values()),
                "bytes_received": sum(site["bytes_received"] for site in accepted),
            },
        )
        if not enough:
            log(
                WARNING,
                "round %d: %d good replies, %d needed; the model stays as it was",
                server_round,
                len(accepted),
                self.min_sites,
            )
            return None, None
        self.rounds_averaged += 1
        result = ArrayRecord({name: Array(array) for name, array in mean.result().items()})
        return result, MetricRecord(dict(losses))

    def _check(
        self,
        reply: Message,
        asked: dict[str, int],
    ) -> tuple[str, str | None, dict[str, np.ndarray], dict[str, Any]]:
        node = asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
        site = self._names.get(node, f"node-{node}")
        if reply.has_error():
            # Only our own codes have a known text; any other text might quote a site's files.
            return site, ERRORS.get(reply.error.code, f"Flower error code {reply.error.code}"), {}, {}
        try:
            arrays = {name: array.numpy() for name, array in reply.content.array_records["arrays"].items()}
            metrics: dict[str, Any] = dict(reply.content.metric_records["metrics"])
            return site, reject_reason(arrays, metrics, self._reference), arrays, metrics
        except Exception as error:  # whatever a site sends must cost it the round and not the run
            return site, f"the reply cannot be read ({type(error).__name__})", {}, {}

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Nothing: figures ride with training, a second message would send the whole model again."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None


def _weighted(sites: list[dict[str, Any]]) -> dict[str, float]:
    total = sum(site["num-examples"] for site in sites)
    names = [name for name in METRICS if name not in ("num-examples", "seconds")]
    return (
        {name: sum(site[name] * site["num-examples"] for site in sites) / total for name in names}
        if sites
        else {}
    )
