from __future__ import annotations

import asyncio
import os
import signal
import socket

import httpx
import pytest

from streamgen.cluster import run
from streamgen.cluster.messages import Settings, Told
from streamgen.cluster.options import Plan
from streamgen.config import Config
from streamgen.errors import FleetError, PresetError
from streamgen.server import ListenError
from tests.support.fleet import SaidNodes, told
from tests.support.processes import until

CONFIG = Config(preset="fake", port=0)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_gateway_serves_until_a_signal_and_then_ends_its_nodes_or_leaves_them(keeps: bool) -> None:
    nodes = SaidNodes({"n0": told()})
    given: list[tuple[Plan, Settings]] = []
    urls: list[str] = []
    plan = Plan("auto", ports=(9000, 9010), keeps_nodes=keeps)

    def open_nodes(*what: object) -> SaidNodes:
        given.append(what)  # type: ignore[arg-type]
        return nodes

    def announce(url: str) -> None:
        urls.append(url)
        os.kill(os.getpid(), signal.SIGTERM)

    run.serve(CONFIG, plan, open_nodes, announce)
    assert given == [(plan, Settings(CONFIG, (9000, 9010)))]
    assert urls[0].startswith("http://127.0.0.1:")
    assert (nodes.stopped, nodes.closed) == (not keeps, True)


def test_a_fleet_whose_nodes_all_fail_ends_with_their_reason() -> None:
    nodes = SaidNodes({"n0": Told("life", None, 0.0, "weights are missing")})
    with pytest.raises(FleetError, match="weights are missing"):
        run.serve(CONFIG, Plan("auto", keeps_nodes=True), lambda *_: nodes, lambda _: None)
    assert (nodes.stopped, nodes.closed) == (True, True)  # they are of no use to another gateway


def test_what_is_wrong_here_is_told_before_any_node_is_started() -> None:
    def open_nodes(*_: object) -> SaidNodes:
        raise AssertionError("not yet")

    with pytest.raises(PresetError, match="no preset 'nonsense'"):
        run.serve(Config(preset="nonsense"), Plan("auto"), open_nodes, lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ListenError):
        run.serve(Config(preset="fake", port=other.getsockname()[1]), Plan("auto"), open_nodes, lambda _: None)


def test_the_gateway_answers_while_its_nodes_start_and_says_that_there_is_no_room_for_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "PLACING_S", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = SaidNodes({"n0": None, "n1": None})
    nodes.placed = False
    answers: list[httpx.Response] = []

    async def look() -> None:
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as http:
            while not answers:
                try:
                    answers.append(await http.get("/readyz"))
                except httpx.ConnectError:
                    await asyncio.sleep(0.02)
            answers.append(await http.post("/api/sessions", json={"sdp": "v=0"}))
            answers.append(await http.get("/api/presets"))
            await until(lambda: "no room yet for 2 nodes" in caplog.text)
        os.kill(os.getpid(), signal.SIGTERM)

    ready = run.Keeper.ready

    async def ready_and_looked_at(keeper: run.Keeper) -> None:
        await asyncio.gather(ready(keeper), look())

    monkeypatch.setattr(run.Keeper, "ready", ready_and_looked_at)
    run.serve(Config(preset="fake", port=port), Plan("auto"), lambda *_: nodes, lambda _: None)
    readiness, session, presets = answers
    assert (readiness.status_code, readiness.json()) == (503, {"status": "starting"})
    assert (session.status_code, session.headers["retry-after"]) == (503, "2")
    assert {"fake", "tiny"} <= {preset["name"] for preset in presets.json()["presets"]}
    assert not any(preset["loaded"] for preset in presets.json()["presets"])
