"""Sites that Flower loses in the midst of a round: the round waits for them where it has no quorum without them."""

from collections import Counter
from collections.abc import Iterable
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log

# Of Flower's error codes those that tell of a dead process or machine and not of the work: the question, or the answer to it,
# is gone (3, 4), the SuperNode is not heard of any more (5), the ClientApp's process died (8).
CODES = (3, 4, 5, 8)
TRIES = 3  # so often a site is asked again in a round: one that dies of the question would die for ever


class Lost:
    """The lost sites of one round. spare: how many sites may be missing before there is no quorum; names: node -> site."""

    def __init__(self, names: dict[int, str], *, spare: int) -> None:
        self.names, self.spare = names, spare
        self._held: dict[int, Message] = {}
        self._tried = Counter[int]()

    def __bool__(self) -> bool:
        """Whether a site is missing of which nothing is decided yet."""
        return bool(self._held)

    def hold(self, reply: Message, node: int | None) -> bool:
        """Keep the reply back if it is Flower's word that `node` was lost; any other error uses up a spare site."""
        if not reply.has_error():
            return False
        if (
            node is None
            or reply.error.code not in CODES
            or self._tried[node] == TRIES
            or self._nameless(node)
        ):
            self.spare -= 1
            return False
        self._held[node] = reply
        return True

    def _nameless(self, node: int) -> bool:
        """A SuperNode that was not registered never comes back: when it starts again it is another node."""
        return self.names.get(node, "") in ("", f"node-{node}")

    def back(self, connected: Iterable[int]) -> list[int]:
        """The sites to be asked again: lost, needed for a quorum, and connected again."""
        if len(self._held) <= self.spare:
            return []
        found = sorted(self._held.keys() & set(connected))
        for node in found:
            del self._held[node]
            self._tried[node] += 1
            log(WARNING, "%s was lost in the midst of the round and is asked again", self.names.get(node))
        return found

    def given_up(self, *, late: bool) -> list[Message]:
        """Flower's replies for the sites that the round ends without, once nobody else is waited for: none while a quorum may come."""
        if len(self._held) > self.spare and not late:
            return []
        found, self._held = list(self._held.values()), {}
        return found
