"""The default service as users meet it: `streamgen serve` in a process of its own, the tiny preset, real clients."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.training.scenes import Scenery
from pipelines.training.styles import STYLES
from streamgen.client import Client, Event, Restarted, ServiceError, Session
from streamgen.core import Pixels
from streamgen.mediafile import Picture, VideoWriter
from tests.support.processes import workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WIDTH, HEIGHT = 320, 192


@dataclass(frozen=True)
class Server:
    url: str
    pid: int

    def worker(self) -> int:
        """Process id of the engine's worker."""
        (pid,) = workers(self.pid)
        return pid


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    command = [sys.executable, "-m", "streamgen.cli", "serve", "--port", "0", "--grace-s", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = (line.strip() for line in process.stdout)
        yield Server(next(line.removeprefix("ready: ") for line in lines if line.startswith("ready: ")), process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def scene() -> Pixels:
    """A still picture, so that results can be compared with the style's own target."""
    return Scenery().clip(np.random.default_rng(12), 1, WIDTH, HEIGHT)[0]


async def repeated(picture: Pixels) -> AsyncIterator[Pixels]:
    while True:
        yield picture


async def results(session: Session, count: int) -> list[Pixels]:
    """The next `count` pictures."""
    pictures: list[Pixels] = []
    async for frame in session.frames():
        pictures.append(frame.pixels)
        if len(pictures) == count:
            break
    return pictures


def nearest(picture: Pixels, scene: Pixels) -> str:
    """The style whose own target `picture` is nearest to."""
    targets = {name: style(scene).astype(float) for name, style in STYLES.items()}
    return min(targets, key=lambda name: float(np.square(targets[name] - picture).mean()))


async def test_two_clients_get_each_their_own_picture(server: Server, scene: Pixels) -> None:
    prompts = {"thermal": "thermal camera", "blueprint": "technical blueprint"}
    pictures = {"thermal": scene, "blueprint": scene[:, ::-1].copy()}
    async with Client(server.url) as client:
        sessions = {
            name: await client.open(repeated(pictures[name]), fps=8.0, prompt=prompt, keep="size")
            for name, prompt in prompts.items()
        }
        got = await asyncio.gather(*(results(session, 16) for session in sessions.values()))
    for name, seen in zip(sessions, got, strict=True):
        assert {nearest(picture, pictures[name]) for picture in seen[8:]} == {name}


async def test_a_prompt_changes_at_the_frame_that_was_promised_and_without_a_gap(server: Server, scene: Pixels) -> None:
    async with Client(server.url) as client:
        session = await client.open(repeated(scene), fps=12.0, prompt="thermal camera", keep="size")
        assert nearest((await results(session, 12))[-1], scene) == "thermal"
        first = await session.update(prompt="pencil sketch")
        assert first > 0
        after = await results(session, 24)
        assert nearest(after[-1], scene) == "pencil"


async def test_a_killed_worker_comes_back_and_the_stream_goes_on(server: Server, scene: Pixels) -> None:
    async with Client(server.url) as client:
        session = await client.open(repeated(scene), fps=8.0, prompt="neon lights at night", keep="size")
        await results(session, 8)
        restarted = asyncio.create_task(next_restart(session))
        os.kill(server.worker(), signal.SIGKILL)
        async with asyncio.timeout(60):
            assert isinstance(await restarted, Restarted)
            assert nearest((await results(session, 12))[-1], scene) == "neon"
        assert not session.closed


async def next_restart(session: Session) -> Event | None:
    async for event in session.events():
        if isinstance(event, Restarted):
            return event
    return None


async def test_a_client_that_vanishes_frees_its_place_and_harms_nobody(server: Server, scene: Pixels) -> None:
    script = (
        "import asyncio, os, sys, numpy as np\n"
        "from streamgen.client import Client\n"
        "async def frames():\n"
        "    while True: yield np.zeros((192, 320, 3), np.uint8)\n"
        "async def main():\n"
        "    client = Client(sys.argv[1])\n"
        "    session = await client.open(frames(), fps=8.0, prompt='ink')\n"
        "    async for _ in session.frames():\n"
        "        print(session.id, flush=True)\n"
        "        os._exit(1)\n"
        "asyncio.run(main())\n"
    )
    async with Client(server.url) as client:
        session = await client.open(repeated(scene), fps=8.0, prompt="thermal camera")
        vanished = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, server.url, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await vanished.communicate()
        gone = output.decode().strip()
        async with asyncio.timeout(60):
            while await known(client, gone):
                await results(session, 4)
        assert nearest((await results(session, 4))[-1], scene) == "thermal"


async def known(client: Client, session: str) -> bool:
    try:
        await client._api.stats(session)
    except ServiceError as error:
        if error.status == 404:
            return False
        raise
    return True


async def test_a_file_is_restyled_beside_a_live_session(server: Server, scene: Pixels, tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with VideoWriter(source, (WIDTH, HEIGHT), Fraction(16), Fraction(1, 16)) as writer:
        for number in range(22):
            writer.write(Picture(scene, number, 1))
    async with Client(server.url) as client:
        session = await client.open(repeated(scene), fps=4.0, prompt="thermal camera", keep="size")
        await results(session, 4)
        words = ("run", source, "--prompt", "technical blueprint", "-o", target, "--url", server.url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "streamgen.cli", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        live = await results(session, 4)
        out, err = await process.communicate()
        assert (process.returncode, err.decode()) == (0, "")
        assert out.decode().startswith(f"{target}: 22 frames, {WIDTH}x{HEIGHT}, in ")
        assert {nearest(picture, scene) for picture in [*live, *await results(session, 4)]} == {"thermal"}
    with av.open(target) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 22
    assert {nearest(picture, scene) for picture in pictures[8:]} == {"blueprint"}


def test_the_service_says_what_went_wrong_in_one_line(server: Server) -> None:
    port = server.url.rsplit(":", 1)[1].strip("/")
    for arguments, code, words in (
        (["serve", "--port", port], 1, "in use"),
        (["serve", "--port", "99999"], 2, "port"),
        (["serve", "--preset", "huge"], 1, "huge"),
        (["run", "README.md", "--prompt", "oil", "-o", "never.mp4"], 1, "README.md"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "streamgen.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, (arguments, done.stderr)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
