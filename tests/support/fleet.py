"""Nodes of a fleet without Ray: in memory, or as processes of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

from streamgen.app import pages
from streamgen.clock import MonotonicClock
from streamgen.cluster.fleet import Fleet
from streamgen.cluster.gateway import Gateway, create_gateway
from streamgen.cluster.gauges import Gauges
from streamgen.cluster.host import Host
from streamgen.cluster.keeper import Keeper, NodeLostError
from streamgen.cluster.messages import Order, Report, Settings, Told
from streamgen.cluster.relay import Relay
from streamgen.config import Config
from streamgen.server import Server, listen


def report(**changes: Any) -> Report:
    """Of a node that is ready and empty."""
    values: dict[str, Any] = {
        "state": "ready",
        "url": "http://10.0.0.1:4000",
        "public": "http://10.0.0.1:4000",
        "key": "key",
        "draining": False,
        "sessions": 0,
        "waiting": 0,
        "moving": 0,
        "opened": 0,
        "room": 4,
        "places": 2,
        "jobs": 1,
        "working": 0,
        "load": 0.0,
        "names": (),
    }
    return Report(**values | changes)


def told(life: str = "life", age_s: float = 0.0, problem: str = "", **changes: Any) -> Told:
    """What a host says."""
    return Told(life, report(**changes), age_s, problem)


class SaidNodes:
    """Nodes that say what a test has them say; notes their orders."""

    def __init__(self, says: dict[str, Told | str | None]) -> None:
        """A text is the reason for which a node is lost; None is one that has no place."""
        self.says = says
        self.orders: list[tuple[str, Order]] = []
        self.placed = True
        self.stopped = self.closed = False

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.says)

    async def ask(self, name: str) -> Told:
        said = self.says[name]
        if isinstance(said, str):
            raise NodeLostError(said)
        if said is None:
            await asyncio.Event().wait()
        assert isinstance(said, Told)
        return said

    async def tell(self, name: str, order: Order) -> None:
        if isinstance(self.says[name], str):
            raise NodeLostError(str(self.says[name]))
        self.orders.append((name, order))

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


class LocalNodes:
    """Processes of this machine; one that ends stays so until `start`."""

    def __init__(self, count: int, settings: Settings) -> None:
        self._settings = settings
        self.hosts = {f"n{index}": Host(settings, f"n{index}", "127.0.0.1") for index in range(count)}
        self.placed = True

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.hosts)

    def start(self, name: str) -> None:
        self.hosts[name] = Host(self._settings, name, "127.0.0.1")

    async def ask(self, name: str) -> Told:
        return self.hosts[name].told()

    async def tell(self, name: str, order: Order) -> None:
        self.hosts[name].send(order)

    def stop(self) -> None:
        for host in self.hosts.values():
            host.stop()

    def close(self) -> None:
        """There is nothing else."""


@asynccontextmanager
async def local_fleet(
    count: int = 2, *, relays: bool = False, **settings: Any
) -> AsyncIterator[tuple[str, LocalNodes]]:
    """The address of a gateway in this process, and its nodes: `count` processes with preset fake."""
    config = Config(**{"preset": "fake", "loopback": True} | settings)
    nodes, clock, relay = LocalNodes(count, Settings(config)), MonotonicClock(), Relay()
    fleet = Fleet(nodes.names)
    keeper = Keeper(fleet, nodes, clock)
    gateway = Gateway(fleet, Gauges(), relay, clock, relays_all=relays)
    app = create_gateway(gateway, pages(), [], config.preset, token=config.token)
    server = Server(app)
    server.config.timeout_graceful_shutdown = 1
    with closing(listen("127.0.0.1", 0)) as listener:
        tasks = [asyncio.create_task(server.serve([listener])), asyncio.create_task(keeper.run())]
        try:
            async with asyncio.timeout(60):
                while any(node.state(clock.now()) != "ready" for node in fleet.nodes.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", nodes
        finally:
            server.should_exit = True
            tasks[1].cancel()
            await asyncio.wait(tasks)
            await relay.close()
            await asyncio.to_thread(nodes.stop)
