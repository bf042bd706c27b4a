"""A node's process, without Ray: it reports, obeys, and does not outlive its host."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from streamgen.cluster.host import Host
from streamgen.cluster.messages import Drain, Report, Settings
from streamgen.config import Config
from tests.support.processes import alive, descendants, until

FAKE = Settings(Config(preset="fake", token="hush", loopback=True))


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    made: list[Host] = []
    yield made
    for host in made:
        host.stop()


def shown_to_all(pid: int) -> bytes:
    """What every user of the machine can see of a process, or root at least."""
    return b"".join(Path(f"/proc/{pid}/{what}").read_bytes() for what in ("cmdline", "environ"))


def said(host: Host) -> Report | None:
    return host.told().report


async def test_a_node_reports_obeys_and_ends_in_order(hosts: list[Host], capfd: pytest.CaptureFixture[str]) -> None:
    host = Host(FAKE, "n3", "127.0.0.1", "https://gpu.example:{port}/")
    hosts.append(host)
    await until(lambda: (report := said(host)) is not None and report.state == "ready")
    report = said(host)
    assert report is not None
    assert report.public == f"https://gpu.example:{report.url.rpartition(':')[2]}"
    assert (report.sessions, report.room > 0, report.places, report.jobs, report.names) == (0, True, 8, 4, ())
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{report.url}/api/presets")).status_code == 401
        presets = await http.get(f"{report.url}/api/presets", headers={"Authorization": "Bearer hush"})
        assert presets.json()["current"] == "fake"
    assert b"hush" not in shown_to_all(host.pid)
    host.send(Drain(True))
    await until(lambda: (report := said(host)) is not None and report.draining)
    processes = descendants(host.pid)
    await asyncio.to_thread(host.stop)
    assert host.told().problem == "its process exited with status 0"
    await until(lambda: not any(alive(pid) for pid in processes))
    host.send(Drain(False))  # to nobody
    assert capfd.readouterr() == ("", "")


async def test_a_process_that_is_killed_is_noticed(hosts: list[Host]) -> None:
    host = Host(FAKE, "n0", "127.0.0.1")
    hosts.append(host)
    os.kill(host.pid, signal.SIGKILL)
    await until(host.ended.is_set)
    assert host.told().problem == "its process got SIGKILL"
    assert not host.was_ready


async def test_a_node_that_cannot_start_says_why(hosts: list[Host]) -> None:
    host = Host(Settings(Config(preset="nonsense")), "n0", "127.0.0.1")
    hosts.append(host)
    await until(host.ended.is_set)
    assert host.told().problem.startswith("no preset 'nonsense'; there are ")


async def test_a_node_that_stands_still_is_not_heard_of_until_it_goes_on(hosts: list[Host]) -> None:
    host = Host(FAKE, "n0", "127.0.0.1")
    hosts.append(host)
    await until(lambda: said(host) is not None)
    os.kill(host.pid, signal.SIGSTOP)
    await until(lambda: host.told().age_s > 1.5)
    os.kill(host.pid, signal.SIGCONT)
    await until(lambda: host.told().age_s < 1.0)


HOST = """
import threading
from streamgen.cluster.host import Host
from streamgen.cluster.messages import Settings
from streamgen.config import Config
host = Host(Settings(Config(preset="fake")), "n0", "127.0.0.1")
while host.told().report is None or host.told().report.state != "ready":
    threading.Event().wait(0.05)
print(host.pid, flush=True)
threading.Event().wait()
"""


async def test_a_node_does_not_outlive_its_host() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HOST, stdout=subprocess.PIPE)
    assert process.stdout is not None
    node = int(await process.stdout.readline())
    processes = descendants(node)
    process.kill()
    await process.wait()
    await until(lambda: not any(alive(pid) for pid in processes))
