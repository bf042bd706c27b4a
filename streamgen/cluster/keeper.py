"""Keeps the gateway's knowledge of the nodes fresh, and has them carry out what the fleet wants of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from streamgen.cluster.fleet import Fleet
from streamgen.cluster.messages import Order, Told
from streamgen.core import Clock
from streamgen.errors import FleetError, StreamgenError

logger = logging.getLogger(__name__)

ASK_S = 0.5
LOOK_S = 0.1


class NodeLostError(StreamgenError):
    """The node's host is gone, or cannot be reached."""

    code = "node_lost"


class Nodes(Protocol):
    """What carries the nodes: Ray, or what stands in for it."""

    @property
    def names(self) -> Sequence[str]:
        """Of all nodes."""
        ...

    async def ask(self, name: str) -> Told:
        """What a node says of itself; waits where it has no place yet. Raises NodeLostError."""
        ...

    async def tell(self, name: str, order: Order) -> None:
        """Raises NodeLostError."""
        ...

    @property
    def placed(self) -> bool:
        """Whether there is a machine for every node."""
        ...

    def stop(self) -> None:
        """Ends all nodes, in order where they can be reached. Blocks."""
        ...

    def close(self) -> None:
        """They are not asked any more."""
        ...


class Keeper:
    """Runs beside the gateway."""

    def __init__(self, fleet: Fleet, nodes: Nodes, clock: Clock) -> None:
        self._fleet = fleet
        self._nodes = nodes
        self._clock = clock
        self._states: dict[str, str] = {}
        """As they were logged last."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._nodes.names:
                tasks.create_task(self._follow(name), name=f"node {name}")
            tasks.create_task(self._order(), name="orders")

    async def ready(self) -> None:
        """Waits for the first node that is. Raises FleetError where all have failed."""
        while self._fleet.state(now := self._clock.now()) != "ready":
            nodes = self._fleet.nodes.values()
            if all(node.state(now) == "failed" for node in nodes):
                raise FleetError(f"no node can be started: {'; '.join(sorted({node.problem for node in nodes}))}")
            await asyncio.sleep(LOOK_S)

    async def _follow(self, name: str) -> None:
        """One call at a time: a node without a place answers none for long."""
        while True:
            try:
                told = await self._nodes.ask(name)
            except NodeLostError as error:
                self._fleet.node(name).lose(error.message)
            else:
                self._fleet.hear(self._clock.now(), name, told)
            await asyncio.sleep(ASK_S)

    async def _order(self) -> None:
        while True:
            for name, order in self._fleet.orders(self._clock.now()):
                try:
                    await self._nodes.tell(name, order)
                except NodeLostError as error:
                    logger.info("node %s could not be told to %s: %s", name, order, error.message)
            self._log()
            await asyncio.sleep(ASK_S)

    def _log(self) -> None:
        """What has become of the nodes."""
        for node in self._fleet.nodes.values():
            state = node.state(self._clock.now())
            if state != self._states.get(node.name, "starting"):
                level = logging.WARNING if state in ("silent", "failed", "lost") else logging.INFO
                logger.log(level, "node %s is %s%s", node.name, state, f": {node.problem}" if node.problem else "")
            self._states[node.name] = state
