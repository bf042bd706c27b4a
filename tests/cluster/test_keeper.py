from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from streamgen.cluster import keeper as module
from streamgen.cluster.fleet import Fleet
from streamgen.cluster.keeper import Keeper
from streamgen.cluster.messages import Drain, Told
from streamgen.errors import FleetError
from tests.support.fleet import SaidNodes, told
from tests.support.service import ManualClock
from tests.support.webrtc import until

STARTING = Told("life", None, 0.0, "")
FAILED = Told("life", None, 0.0, "weights are missing")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_S", 0.005)
    monkeypatch.setattr(module, "LOOK_S", 0.005)


@asynccontextmanager
async def kept(**says: Told | str | None) -> AsyncIterator[tuple[Fleet, SaidNodes, Keeper, ManualClock]]:
    nodes, clock = SaidNodes(dict(says)), ManualClock()
    fleet = Fleet(nodes.names)
    keeper = Keeper(fleet, nodes, clock)
    task = asyncio.create_task(keeper.run())
    yield fleet, nodes, keeper, clock
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_what_nodes_say_is_known_and_a_node_without_a_place_holds_up_nobody() -> None:
    async with kept(n0=told(sessions=2), n1=None, n2="its machine is gone") as (fleet, nodes, keeper, clock):
        await keeper.ready()
        await until(lambda: fleet.node("n2").state(clock.now()) == "lost")
        assert [node.state(clock.now()) for node in fleet.nodes.values()] == ["ready", "starting", "lost"]
        nodes.says["n2"] = told("another")
        await until(lambda: fleet.node("n2").state(clock.now()) == "ready")


async def test_orders_go_to_the_nodes_until_they_show_and_one_that_is_lost_stops_nothing() -> None:
    async with kept(n0=told(), n1=told()) as (fleet, nodes, _, clock):
        await until(lambda: fleet.node("n1").state(clock.now()) == "ready")
        nodes.says["n0"] = "gone"
        fleet.node("n0").draining = fleet.node("n1").draining = True
        await until(lambda: len(nodes.orders) > 3)
        assert set(nodes.orders) == {("n1", Drain(True))}
        nodes.says["n1"] = told(draining=True, state="draining")
        await until(lambda: fleet.orders(clock.now()) == [])


async def test_the_first_node_that_is_ready_is_waited_for_even_where_others_fail() -> None:
    async with kept(n0=FAILED, n1=STARTING) as (_, nodes, keeper, _):
        ready = asyncio.create_task(keeper.ready())
        await asyncio.sleep(0.05)
        assert not ready.done()
        nodes.says["n1"] = told()
        await ready


async def test_where_all_nodes_fail_the_start_does_with_their_reasons() -> None:
    async with kept(n0=FAILED, n1=FAILED) as (_, _, keeper, _):
        with pytest.raises(FleetError, match=r"^no node can be started: weights are missing$"):
            await keeper.ready()


async def test_what_becomes_of_a_node_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with kept(n0=told(), n1=told()) as (fleet, nodes, _, clock):
        await until(lambda: "node n1 is ready" in caplog.text)
        nodes.says["n0"] = "its machine is gone"
        await until(lambda: fleet.node("n0").state(clock.now()) == "lost")
        await asyncio.sleep(0.05)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["node n0 is lost: its machine is gone"]
