from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

import pipelines
from streamgen import app
from streamgen.app import ListenError, listen, pages, url_of
from streamgen.config import Config
from streamgen.engine import Devices
from streamgen.errors import PresetError
from tests.support.clips import make_clip
from tests.support.processes import workers
from tests.support.webrtc import client, until

ROOT = Path(__file__).parents[1]


class Server:
    """A service in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []

    @property
    def url(self) -> str:
        return self.out[0].removeprefix("ready: ")

    def ports(self) -> list[int]:
        """TCP ports on which the process listens."""
        inodes = set()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(str(entry.readlink()).removeprefix("socket:[").rstrip("]"))
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return [int(words[1].split(":")[1], 16) for words in lines if words[9] in inodes and words[3] == "0A"]

    def worker(self) -> int:
        """Process id of the engine's worker."""
        (pid,) = workers(self.process.pid)
        return pid

    async def read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await stream.readline():
            lines.append(line.decode().rstrip())


@asynccontextmanager
async def server(kind: str) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.fake_server", kind),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    made = Server(process)
    assert process.stdout
    assert process.stderr
    readers = [
        asyncio.create_task(made.read(process.stdout, made.out)),
        asyncio.create_task(made.read(process.stderr, made.err)),
    ]
    try:
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*readers)


def test_the_service_itself_never_loads_torch() -> None:
    check = "import sys, streamgen.app, streamgen.cli; assert not {'torch', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_a_busy_port_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"^port {port} is in use; choose another with --port$"):
            listen("127.0.0.1", port)


def test_a_host_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(ListenError, match="--host"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(ListenError, match="--host"):
        listen("198.51.100.1", 0)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
def test_the_url_can_be_opened(host: str, shown: str) -> None:
    with listen("127.0.0.1", 0) as listener:
        assert url_of(host, listener) == f"http://{shown}:{listener.getsockname()[1]}"


def test_the_page_is_found_in_a_checkout_and_in_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (pages() / "index.html").is_file()
    (tmp_path / "streamgen" / "_web").mkdir(parents=True)
    monkeypatch.setattr(app, "__file__", str(tmp_path / "streamgen" / "app.py"))
    assert pages() == tmp_path / "streamgen" / "_web"


async def test_the_page_is_there_while_the_engine_starts() -> None:
    async with server("slow_start") as service, httpx.AsyncClient(trust_env=False) as http:
        await until(lambda: service.process.returncode is None and service.ports())
        address = f"http://127.0.0.1:{service.ports()[0]}"
        answer = await http.get(f"{address}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "starting"})
        assert (await http.get(address)).status_code == 200
        answer = await http.post(f"{address}/api/sessions", json={"sdp": "x"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        await until(lambda: service.out)
        assert service.out == [f"ready: {address}"]
        assert (await http.get(f"{address}/readyz")).json() == {"status": "ready"}


async def test_an_engine_that_cannot_start_is_one_line_and_exit_1() -> None:
    async with server("broken") as service:
        assert await service.process.wait() == 1
        await until(lambda: service.err)
        assert service.err == ["error: weights are missing: dit.safetensors; run scripts/train_tiny.py"]
        assert service.out == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_the_engine_starts_ends_it_cleanly(number: signal.Signals) -> None:
    async with server("slow_start") as service, httpx.AsyncClient(trust_env=False) as http:
        await until(service.ports)
        await http.get(f"http://127.0.0.1:{service.ports()[0]}/readyz")
        service.process.send_signal(number)
        assert await service.process.wait() == 0
        assert service.err == []


async def test_jobs_go_with_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, folder = make_clip(tmp_path / "in.mp4", range(0, 60_000, 100)).read_bytes(), tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    async with server("working") as service, httpx.AsyncClient(trust_env=False) as http:
        await until(lambda: service.out)
        answer = await http.post(f"{service.url}/api/jobs", params={"prompt": "ink"}, content=clip)
        path = service.url + answer.headers["location"]

        async def reaches(frames: int) -> int:
            while (shown := (await http.get(path)).json())["frames_done"] < frames:
                assert shown["state"] == "running", shown
            return int(shown["frames_done"])

        done = await reaches(8)
        os.kill(service.worker(), signal.SIGKILL)
        await reaches(done + 20)

        reader, writer = await asyncio.open_connection("127.0.0.1", service.ports()[0])
        head = "POST /api/jobs?prompt=ink HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
        writer.write(head.encode() + clip[:1000])
        await until(lambda: len(list(folder.glob("streamgen-*"))) == 2)
        service.process.send_signal(signal.SIGTERM)
        assert await service.process.wait() == 0
        assert not [line for line in service.err if "Traceback" in line or "ERROR" in line]
        assert (await reader.readline()).startswith(b"HTTP/1.1 503")
        writer.close()
    assert list(folder.glob("streamgen-*")) == []


async def test_a_whole_session_a_killed_worker_and_the_end() -> None:
    async with server("working") as service, httpx.AsyncClient(trust_env=False) as http, client() as peer:
        await until(lambda: service.out)
        body = {"sdp": await peer.offer(), "params": {"width": 64, "height": 64, "prompt": "ink"}}
        answer = await http.post(f"{service.url}/api/sessions", json=body)
        assert answer.status_code == 201
        path = service.url + answer.headers["location"]
        await peer.accept(answer.json()["sdp"])
        await until(lambda: len(peer.frames) >= 8, "the first result")

        os.kill(service.worker(), signal.SIGKILL)
        await until(lambda: peer.heard("restarted"), "the restart")
        before = len(peer.frames)
        await until(lambda: len(peer.frames) >= before + 8, "the stream's going on")

        answer = await http.patch(path, json={"params": {"prompt": "oil", "noise": 0.3}})
        assert answer.status_code == 200
        assert answer.json()["params"]["prompt"] == "oil"
        stats = (await http.get(path)).json()["stats"]
        assert stats["state"] == "live"
        assert stats["frames_out"] >= before
        metrics = (await http.get(f"{service.url}/metrics")).text
        assert "streamgen_engine_restarts_total 1.0" in metrics

        service.process.send_signal(signal.SIGTERM)
        await until(lambda: peer.heard("closing"), "the farewell")
        assert await service.process.wait() == 0
        assert not [line for line in service.err if "Traceback" in line or "ERROR" in line]


@dataclass(frozen=True)
class Part:
    """What one process of a team would do."""

    rank: int
    devices: tuple[str, ...]


def test_several_devices_are_a_team_of_the_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def team(name: str, devices: tuple[str, ...], threads: int, **how: Any) -> tuple[Part, tuple[Part, ...]]:
        asked.append((name, devices, threads, how))
        head, *others = (Part(rank, devices) for rank in range(len(devices)))
        return head, tuple(others)

    monkeypatch.setattr(pipelines, "team", team)
    config = Config(devices=("cpu", "cuda:1", "cuda:0"), blocks=(1, 4, 1), threads=3, compiled=True)
    model, preload = app.model_of(config)
    assert isinstance(model, Devices)
    assert [how["blocks"] for _, _, _, how in asked] == [(1, 4, 1)]
    assert model.names == ("cpu", "cuda:1", "cuda:0")
    assert preload == (*pipelines.PRESETS["tiny"].preload, *pipelines.TEAM_PRELOAD)
    asked.clear()
    fewer = ("cpu", "cuda:0")
    made: Any = model.team(fewer)
    assert (made.head, made.others) == (Part(0, fewer), (Part(1, fewer),))
    assert asked == [("tiny", fewer, 3, {"blocks": (), "attention": "auto", "compiled": True, "loras": ()})]


def test_where_one_device_is_left_it_has_the_whole_model() -> None:
    model, _ = app.model_of(Config(devices=("cpu", "cuda:1"), threads=3))
    assert isinstance(model, Devices)
    last: Any = model.team(("cuda:1",))
    assert last.others == ()
    assert last.head.factory.keywords["device"] == "cuda:1"


def test_a_preset_that_cannot_be_spread_is_found_before_anything_is_started() -> None:
    with pytest.raises(PresetError, match="fake has no transformer"):
        app.model_of(Config(preset="fake", devices=("cpu", "cpu")))


@pytest.mark.parametrize(
    ("settings", "device"), [({"device": "cpu"}, "cpu"), ({"devices": ("cuda:1",)}, "cuda:1"), ({}, "auto")]
)
def test_one_device_is_no_team(settings: dict[str, Any], device: str) -> None:
    model, _ = app.model_of(Config(preset="fake", threads=2, **settings))
    assert isinstance(model, partial)
    assert (model.func, model.args) == (pipelines.build, ("fake",))
    assert model.keywords == {
        "device": device, "threads": 2, "attention": "auto", "compiled": False, "loras": (),
    }  # fmt: skip


def test_a_preset_that_does_not_exist_is_found_before_anything_is_started() -> None:
    with pytest.raises(PresetError, match="no preset 'huge'"):
        app.model_of(Config(preset="huge", devices=("cpu", "cpu")))
