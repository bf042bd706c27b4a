"""All nodes, as far as they are known: who is to take the next session, who has which, who is being emptied. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamgen.cluster.messages import Drain, Move, Order, Told
from streamgen.cluster.node import Node
from streamgen.errors import BusyError, NodeNotFoundError, NotLiveError, SessionNotFoundError, StreamgenError
from streamgen.whip import is_name

RETRY_STARTING_S = 2
RETRY_FULL_S = 5

ALIKE = 0.25
"""Nodes whose fill differs by no more than this count as filled alike: what they have room for is an estimate."""

NAMED_S = 10.0
"""A name that was given to a node is the node's for so long, before the node itself says so (s)."""

MOVES_AT_ONCE = 8
MOVE_AGAIN_S = 1.5
"""A node that was told to send sessions away is told again after this time: then it shows where they went (s)."""

MOVED = "its machine is taken out of service"


class Fleet:
    """Is told the time (s), on any clock. Knows what was heard of the nodes, and where clients were led since."""

    def __init__(self, names: Iterable[str]) -> None:
        self.nodes = {name: Node(name) for name in names}
        self._named: dict[str, tuple[Node, float]] = {}
        """Who was given a name, and when."""

    def node(self, name: str) -> Node:
        """Raises NodeNotFoundError."""
        try:
            return self.nodes[name]
        except KeyError:
            raise NodeNotFoundError(f"no node has this name; there are {', '.join(self.nodes)}") from None

    def hear(self, now: float, name: str, told: Told) -> None:
        """What a node says of itself."""
        self.nodes[name].hear(now, told)

    def state(self, now: float) -> str:
        """ready where sessions can be opened, else what most is to be hoped for."""
        states = {node.state(now) for node in self.nodes.values()}
        hopes = ("ready", "starting", "restarting", "lost", "silent", "failed", "draining", "drained")
        best = next(hope for hope in hopes if hope in states)
        return "starting" if best in ("lost", "silent", "failed") else best

    def choose(self, now: float, *, may_wait: bool = True) -> Node:
        """Who is to take a new session: of those that have room, and are not filled much more than others, the one with
        the fewest sessions; else one with a queue. Raises BusyError.
        """
        ready = self._ready(now)
        if free := [node for node in ready if node.room(now) > 0]:
            alike = min(node.fill(now) for node in free) + ALIKE
            least = [node for node in free if node.fill(now) <= alike]
            chosen = min(least, key=lambda node: (node.taken(now), node.load, node.name))
        elif may_wait and (queues := [node for node in ready if node.places(now) > 0]):
            chosen = min(queues, key=lambda node: (-node.places(now), node.name))
        else:
            raise BusyError("no machine has room for another session now; try again later", RETRY_FULL_S)
        chosen.expect(now)
        return chosen

    def choose_for_job(self, now: float) -> Node:
        """Who is to take a video file. Raises BusyError."""
        return max(self._ready(now), key=lambda node: (node.jobs, node.name))

    def any_ready(self, now: float) -> Node:
        """One that can tell of what all have in common. Raises BusyError."""
        return self._ready(now)[0]

    def holder(self, now: float, thing: str, missing: StreamgenError, *, answering: bool = False) -> Node:
        """Who gave out the id of this `thing`. Raises `missing` where nobody did, or who did is gone; or, for those who
        can help themselves elsewhere (`answering`), is silent."""
        node = self.nodes.get(thing.partition(".")[0])
        if node is None or "." not in thing or not node.exists(now) or (answering and not node.answers(now)):
            raise missing
        return node

    def publisher(self, now: float, name: str) -> Node:
        """Who is to take a stream by WHIP: who has it already under this name, or anyone. Raises BusyError."""
        holder = self._named_so(now, name) if name else None
        if holder is not None:
            return holder
        chosen = self.choose(now, may_wait=False)
        if name:
            self._named = {name: given for name, given in self._named.items() if now - given[1] < NAMED_S}
            self._named[name] = chosen, now
        return chosen

    def watched(self, now: float, stream: str) -> Node:
        """Who has what is to be watched under an id, a secret or a name. Raises SessionNotFoundError, NotLiveError."""
        if not is_name(stream):
            gone = SessionNotFoundError("no session can be watched under this address; it may have ended")
            return self.holder(now, stream, gone, answering=True)
        holder = self._named_so(now, stream)
        if holder is None:
            raise NotLiveError("nothing is published under this name now", RETRY_FULL_S)
        return holder

    def knows(self, stream: str) -> bool:
        """Whether what follows /whep/ may be a secret that a node made: it alone can tell, and asks for the token."""
        name, point, _ = stream.partition(".")
        return bool(point) and name in self.nodes

    def orders(self, now: float) -> list[tuple[str, Order]]:
        """What the nodes are to be told, so that those that drain do: no more sessions go where there is room."""
        draining = [node for node in self.nodes.values() if node.draining and node.answers(now)]
        found: list[tuple[str, Order]] = [
            (node.name, Drain(node.draining))
            for node in self.nodes.values()
            if node.answers(now) and node.report is not None and node.report.draining != node.draining
        ]
        room = sum(max(0, node.room(now)) for node in self.nodes.values() if node.state(now) == "ready")
        room -= sum(node.moving for node in draining)
        for node in draining:
            count = min(room, MOVES_AT_ONCE, node.sessions - node.moving)
            if count > 0 and now - node.told_to_move >= MOVE_AGAIN_S:
                node.told_to_move = now
                room -= count
                found.append((node.name, Move(count, MOVED)))
        return found

    def _ready(self, now: float) -> Sequence[Node]:
        ready = [node for node in self.nodes.values() if node.state(now) == "ready"]
        if not ready:
            raise BusyError("no machine is ready; try again soon", RETRY_STARTING_S)
        return ready

    def _named_so(self, now: float, name: str) -> Node | None:
        """Who has a stream of this name, and goes on having it."""
        for node in self.nodes.values():
            if node.answers(now) and not node.draining and node.report is not None and name in node.report.names:
                return node
        if name not in self._named:
            return None
        given_to, at = self._named[name]
        return given_to if now - at < NAMED_S and given_to.state(now) == "ready" else None
