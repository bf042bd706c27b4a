"""The composition root of a fleet's gateway: makes the parts, joins them, runs them, ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from streamgen.app import check_preset, pages, preset_infos
from streamgen.clock import MonotonicClock
from streamgen.cluster.fleet import Fleet
from streamgen.cluster.gateway import Gateway, create_gateway
from streamgen.cluster.gauges import Gauges
from streamgen.cluster.keeper import Keeper, Nodes
from streamgen.cluster.messages import Settings
from streamgen.cluster.options import Plan
from streamgen.cluster.relay import Relay
from streamgen.config import Config
from streamgen.errors import FleetError
from streamgen.server import SHUTDOWN_TIMEOUT_S, Server, first_of, listen, running, stop_signals, url_of
from streamgen.service import shown

logger = logging.getLogger(__name__)

PLACING_S = 30.0
"""Nodes that Ray has found no place for are spoken of this often."""


def serve(
    config: Config, plan: Plan, open_nodes: Callable[[Plan, Settings], Nodes], announce: Callable[[str], None]
) -> None:
    """Runs the gateway until SIGINT or SIGTERM, and its nodes with it. `announce` gets its URL when a node is ready.

    Raises StreamgenError where it cannot start, or can no longer run.
    """
    check_preset(config.preset)
    with contextlib.closing(listen(config.host, config.port)) as listener:
        nodes = open_nodes(plan, Settings(config, plan.ports))
        with contextlib.closing(nodes):
            asyncio.run(_serve(config, plan, nodes, listener, announce))


async def _serve(
    config: Config, plan: Plan, nodes: Nodes, listener: socket.socket, announce: Callable[[str], None]
) -> None:
    clock, gauges, relay = MonotonicClock(), Gauges(), Relay()
    fleet = Fleet(nodes.names)
    keeper = Keeper(fleet, nodes, clock)
    gateway = Gateway(fleet, gauges, relay, clock, relays_all=plan.relays)
    presets = [shown(info, None) for info in preset_infos()]
    server = Server(
        create_gateway(
            gateway, pages(), presets, config.preset, token=config.token, allowed_origins=config.allowed_origins
        )
    )
    async with contextlib.AsyncExitStack() as stack:
        stopped = await stack.enter_async_context(stop_signals())
        web = await stack.enter_async_context(running(server.serve([listener]), "web"))
        keeping = await stack.enter_async_context(running(keeper.run(), "keeper"))
        await stack.enter_async_context(running(_speak_of_places(nodes), "places"))
        try:
            async with running(keeper.ready(), "first-node") as ready:
                await first_of(ready, web, keeping, stopped)
            if not stopped.done():
                announce(url_of(config.host, listener))
                await first_of(web, keeping, stopped)
            if not stopped.done():
                raise FleetError("the gateway cannot go on; its log says why")
        finally:
            server.should_exit = True
            await asyncio.wait([web], timeout=2 * SHUTDOWN_TIMEOUT_S)
            await relay.close()
            if not (plan.keeps_nodes and stopped.done()):
                await asyncio.to_thread(nodes.stop)


async def _speak_of_places(nodes: Nodes) -> None:
    """Says that Ray has no room for all nodes, as long as that is so."""
    await asyncio.sleep(PLACING_S)
    while not await asyncio.to_thread(lambda: nodes.placed):
        logger.warning("there is no room yet for %d nodes; add machines, or ask for less", len(nodes.names))
        await asyncio.sleep(PLACING_S)
