"""A gateway and its nodes without Ray, on this machine: the Python SDK, WHIP, and the page in Chromium."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from streamgen.client import Client
from streamgen.client.jobs import JobApi
from tests.support.clips import make_clip
from tests.support.crowd import Crowd
from tests.support.fleet import local_fleet
from tests.support.processes import until
from tests.support.webrtc import client as publisher
from tests.support.webrtc import no_leaks

TOKEN = "hush"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def nodes_of(http: httpx.AsyncClient) -> dict[str, dict[str, object]]:
    shown = (await http.get("/api/cluster")).json()["nodes"]
    return {node["name"]: node for node in shown}


async def becomes(http: httpx.AsyncClient, name: str, state: str) -> None:
    async with asyncio.timeout(30):
        while (await nodes_of(http))[name]["state"] != state:  # noqa: ASYNC110 - the gateway is asked by HTTP
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_sessions_are_spread_drained_and_outlive_their_node() -> None:
    crowd = Crowd()
    async with (
        no_leaks(),
        local_fleet(2, token=TOKEN) as (url, nodes),
        httpx.AsyncClient(base_url=url, headers=BEARER, trust_env=False) as http,
        Client(url, token=TOKEN) as sdk,
    ):
        await crowd.open(sdk, 4)
        assert crowd.places == {"n0": 2, "n1": 2}
        await crowd.flow()
        await crowd.sessions[0].update(prompt="updated")
        before = crowd.prompts

        assert (await http.post("/api/cluster/n0/drain")).status_code == 202
        await becomes(http, "n0", "drained")
        await until(lambda: crowd.places == {"n1": 4})
        await crowd.flow()
        assert crowd.prompts == before
        assert [move.reason for move in crowd.moves] == ["its machine is taken out of service"] * 2
        await crowd.open(sdk, 1)
        assert crowd.places == {"n1": 5}

        assert (await http.delete("/api/cluster/n0/drain")).status_code == 200
        await becomes(http, "n0", "ready")
        os.kill(nodes.hosts["n1"].pid, signal.SIGKILL)
        await until(lambda: crowd.places == {"n0": 5})
        await crowd.flow()
        assert crowd.prompts == [*before, "prompt 0"]
        assert len(crowd.moves) == 7
        await becomes(http, "n1", "failed")
        nodes.start("n1")
        await becomes(http, "n1", "ready")
        assert (await nodes_of(http))["n1"]["restarts"] == 1


async def test_a_node_that_stands_still_gets_nobody_until_it_goes_on() -> None:
    async with local_fleet(2) as (url, nodes), httpx.AsyncClient(base_url=url, trust_env=False) as http:
        os.kill(nodes.hosts["n0"].pid, signal.SIGSTOP)
        await becomes(http, "n0", "silent")
        for _ in range(4):
            answer = await http.post("/api/sessions", json={"sdp": "v=0"})
            assert (
                answer.status_code,
                answer.headers["location"].startswith(str((await nodes_of(http))["n1"]["url"])),
            ) == (
                307,
                True,
            )
        os.kill(nodes.hosts["n0"].pid, signal.SIGCONT)
        await becomes(http, "n0", "ready")


async def test_a_publisher_is_led_and_its_viewers_find_it_by_name() -> None:
    async with (
        local_fleet(2) as (url, _),
        httpx.AsyncClient(trust_env=False, follow_redirects=True, headers={"Content-Type": "application/sdp"}) as http,
        publisher() as peer,
        publisher() as viewer,
    ):
        answer = await http.post(f"{url}/whip?name=studio&width=64&height=64", content=await peer.offer())
        assert (answer.status_code, [past.status_code for past in answer.history]) == (201, [307])
        assert answer.headers["location"].startswith("/whip/n0.")
        await peer.accept(answer.text)
        await until(lambda: bool(peer.frames))
        watched = await patiently(http, f"{url}/whep/studio", await viewer.offer())
        assert watched.headers["location"].startswith("/whep/n0.")
        await viewer.accept(watched.text)
        await until(lambda: bool(viewer.frames))
        assert (await http.delete(f"{url}{watched.headers['location']}")).status_code == 200
        assert (await http.delete(f"{url}{answer.headers['location']}")).status_code == 200
        await until(lambda: peer.connection.connectionState == "closed")


async def patiently(http: httpx.AsyncClient, url: str, offer: str) -> httpx.Response:
    """The answer to a viewer, once there is a picture."""
    for _ in range(300):
        answer = await http.post(url, content=offer)
        if answer.status_code != 409:
            return answer
        await asyncio.sleep(0.1)
    raise AssertionError("there never was a picture")


@pytest.mark.parametrize("relays", [False, True])
async def test_a_video_file_goes_to_a_node_and_comes_back(relays: bool, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    async with local_fleet(1, relays=relays, token=TOKEN) as (url, _):
        jobs = JobApi(url, TOKEN, 20.0)
        assert (await jobs.room()).free == 4
        job = await jobs.submit(clip, {"prompt": "ink", "width": 64, "height": 64}, "mp4")
        assert job.id.startswith("n0.")
        while job.state in ("queued", "running"):
            await asyncio.sleep(0.1)
            job = await jobs.job(job.id)
        await jobs.fetch(job.id, tmp_path / "out.mp4")
        await jobs.forget(job.id)
        await jobs.close()
    assert (tmp_path / "out.mp4").stat().st_size > 500
