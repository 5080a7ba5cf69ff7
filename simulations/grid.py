"""A Flower `Grid` in one process: the real ClientApp answers the real ServerApp, without Ray or ports.

The only file that touches Flower's private names (flwr 1.41); if one moves, the import below says so.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

try:
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"simulations/grid.py is written for flwr 1.41, and this release moved {error.name}"
    ) from error

FIRST_NODE = 100
CLIENT_APP_RAISED = 2  # Flower's code


class InProcessGrid(Grid):
    """Delivers each message to a site of its own, in order. logs: folder for the sites' logs instead of the sites."""

    def __init__(
        self, client_app: ClientApp, sites: list[Path], *, logs: Path | None = None, run_id: int = 1
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1
        self.client_app = client_app
        self.names = {FIRST_NODE + index: site.name for index, site in enumerate(sites)}
        self.contexts, self.waiting = {}, dict[str, Message]()
        for node, site in zip(self.names, sites, strict=True):
            settings: dict[str, Any] = {"site": str(site)} | ({"log": str(logs / site.name)} if logs else {})
            self.contexts[node] = Context(
                run_id=run_id, node_id=node, node_config=settings, state=RecordDict(), run_config={}
            )

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, name=name) for node, name in self.names.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Takes the messages in; a site works when its answer is asked for, so that one answer is in memory at a time."""
        numbers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = number = message.object_id
            self.waiting[number] = message
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return (self.deliver(self.waiting.pop(number)) for number in message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return list(self.pull_messages(self.push_messages(messages)))

    def deliver(self, message: Message) -> Message:
        """One message to its site and the answer back, both copied as the wire would."""
        arrived = message_from_proto(message_to_proto(message))
        try:
            return self.client_app(arrived, self.contexts[message.metadata.dst_node_id])
        except Exception as error:
            return Message(Error(CLIENT_APP_RAISED, type(error).__name__), reply_to=arrived)

    # Abstract in Grid and not used by our strategy.
    def set_run(self, run: Any) -> None: ...
    def create_message(self, *args: Any, **options: Any) -> Message:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        return None
