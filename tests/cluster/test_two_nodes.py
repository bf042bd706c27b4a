"""`streamgen serve --cluster` on two Ray nodes of this machine: one dies with eight sessions there, one is drained."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import pytest

from streamgen.client import Client
from tests.support.crowd import Crowd
from tests.support.processes import alive, descendants, holders, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed, which runs the fleet: pip install 'streamgen[cluster]'", allow_module_level=True)

ROOT = Path(__file__).parents[2]
TOKEN = "hush"
SESSIONS = 8
SERVE = ("-m", "streamgen.cli", "serve", "--preset", "fake", "--port", "0", "--loopback", "--replicas", "2")


@contextmanager
def program(*words: str, environ: dict[str, str], status: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A Python program that ends, with this status, when it is asked to: by a signal or by the end of its input."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdin=pipe, stdout=pipe, env=os.environ | environ, text=True
    ) as process:
        try:
            yield process
            assert process.wait(60) == status
        finally:
            process.kill()


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    line = stream.readline().strip()
    assert line, "the program has ended"
    return line


@dataclass
class Machines:
    """Two Ray nodes; the second may be killed."""

    process: subprocess.Popen[str]
    address: str
    second: int
    """Process id."""

    def kill_second(self) -> None:
        """The second machine goes dark: nothing of it says goodbye."""
        for pid in descendants(self.second):
            os.kill(pid, signal.SIGKILL)

    def has_two(self) -> None:
        """Starts another second machine, where there is none."""
        if not alive(self.second):
            assert self.process.stdin is not None
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            self.second = int(line_of(self.process.stdout).split()[1])


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray has sockets in it
    try:
        with program("-m", "tests.support.ray_cluster", str(folder), environ={"PYTHONPATH": str(ROOT)}) as process:
            address, pid = line_of(process.stdout).split()
            yield Machines(process, address, int(pid))
            assert process.stdin is not None
            process.stdin.close()
        gone = time.monotonic() + 20
        while (left := holders(folder)) and time.monotonic() < gone:
            time.sleep(0.2)
        assert left == []
    finally:
        for pid in holders(folder):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def url(machines: Machines) -> Iterator[str]:
    """Of the gateway."""
    with program(*SERVE, "--cluster", machines.address, environ={"STREAMGEN_TOKEN": TOKEN}) as process:
        yield line_of(process.stdout).removeprefix("ready: ")
        process.send_signal(signal.SIGTERM)


@pytest.fixture(autouse=True)
def stopwatch(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    began = time.monotonic()
    yield
    with capfd.disabled():
        print(f" {request.node.name}: {time.monotonic() - began:.1f} s", flush=True)


async def nodes_of(url: str) -> list[dict[str, str]]:
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        nodes: list[dict[str, str]] = (await http.get(f"{url}/api/cluster")).json()["nodes"]
        return nodes


async def states(url: str) -> dict[str, str]:
    return {node["name"]: node["state"] for node in await nodes_of(url)}


async def both_are_ready(url: str) -> None:
    async with asyncio.timeout(90):
        while set((await states(url)).values()) != {"ready"}:  # noqa: ASYNC110 - the gateway is asked by HTTP
            await asyncio.sleep(0.2)


async def test_a_machine_dies_and_no_session_is_lost(machines: Machines, url: str) -> None:
    crowd = Crowd()
    await both_are_ready(url)
    async with Client(url, token=TOKEN) as client:
        await crowd.open(client, SESSIONS)
        assert crowd.places == {"n0": SESSIONS // 2, "n1": SESSIONS // 2}
        await crowd.flow()
        before = crowd.prompts
        machines.kill_second()
        await until(lambda: len(crowd.places) == 1)
        await crowd.flow()
        assert (len(crowd.moves), crowd.prompts) == (SESSIONS // 2, before)
        (survivor,) = crowd.places
        assert {name: state for name, state in (await states(url)).items() if state == "ready"} == {survivor: "ready"}


async def test_a_machine_is_drained_onto_one_that_has_come_anew(machines: Machines, url: str) -> None:
    machines.has_two()
    await both_are_ready(url)  # Ray has found a place for the node that was lost
    crowd = Crowd()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with Client(url, token=TOKEN) as client, httpx.AsyncClient(trust_env=False, headers=headers) as http:
        await crowd.open(client, SESSIONS)
        assert crowd.places == {"n0": SESSIONS // 2, "n1": SESSIONS // 2}
        await crowd.flow()
        assert (await http.post(f"{url}/api/cluster/n0/drain")).status_code == 202
        await until(lambda: crowd.places == {"n1": SESSIONS})
        await crowd.flow()
        assert len(crowd.moves) == SESSIONS // 2
        async with asyncio.timeout(30):
            while (await states(url))["n0"] != "drained":  # noqa: ASYNC110 - the gateway is asked by HTTP
                await asyncio.sleep(0.1)
        assert (await http.delete(f"{url}/api/cluster/n0/drain")).status_code == 200
        await both_are_ready(url)


async def test_a_gateway_takes_the_nodes_over_and_sessions_outlive_it(machines: Machines, url: str) -> None:
    machines.has_two()
    await both_are_ready(url)
    crowd = Crowd()
    killed = -signal.SIGKILL
    with program(*SERVE, "--cluster", machines.address, environ={"STREAMGEN_TOKEN": TOKEN}, status=killed) as other:
        line = await asyncio.to_thread(line_of, other.stdout)
        address = line.removeprefix("ready: ")
        await both_are_ready(address)
        places = [[(node["name"], node["url"]) for node in await nodes_of(gateway)] for gateway in (url, address)]
        assert places[0] == places[1]
        async with Client(address, token=TOKEN) as client:
            await crowd.open(client, 2)
            other.kill()
            await asyncio.to_thread(other.wait)
            await crowd.flow()
            assert crowd.moves == []
    await both_are_ready(url)
