"""What a gateway tells Prometheus, in a registry of its own. The nodes tell of themselves."""

from __future__ import annotations

from collections import Counter as CountOf
from collections.abc import Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from streamgen.cluster.messages import State
from streamgen.cluster.node import Node


class Gauges:
    """One per gateway."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._nodes = Gauge("streamgen_fleet_nodes", "Nodes by state.", ["state"], registry=registry)
        self._sessions = Gauge("streamgen_fleet_sessions", "Open sessions.", ["node"], registry=registry)
        self._room = Gauge("streamgen_fleet_room", "Sessions that would be admitted now.", ["node"], registry=registry)
        self._restarts = Gauge(
            "streamgen_fleet_restarts", "Processes of a node, after its first.", ["node"], registry=registry
        )
        self._led = Counter(
            "streamgen_fleet_requests", "Requests by where they went, and how.", ["node", "way"], registry=registry
        )
        self._refused = Counter("streamgen_fleet_refused", "Sessions that no node could take.", registry=registry)

    def led(self, node: str, way: str) -> None:
        """A request went to a node: by "redirect" or "relay"."""
        self._led.labels(node, way).inc()

    def refused(self) -> None:
        """No node had room for a session."""
        self._refused.inc()

    def exposition(self, now: float, nodes: Sequence[Node]) -> bytes:
        """All of it in Prometheus's text format, with the nodes as they stand."""
        counts = CountOf(node.state(now) for node in nodes)
        for state in get_args(State):
            self._nodes.labels(state).set(counts[state])
        for node in nodes:
            ready = node.state(now) == "ready"
            self._sessions.labels(node.name).set(node.sessions if node.answers(now) else 0)
            self._room.labels(node.name).set(max(0, node.room(now)) if ready else 0)
            self._restarts.labels(node.name).set(node.restarts)
        return generate_latest(self._registry)
