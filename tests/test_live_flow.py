"""The service as users meet it, with chunks that flow: `streamgen serve` with three stages that take programmed times.

A chunk's work takes longer than a chunk of frames does to come. One device would fall behind; three keep up only where
several chunks of the session are under way at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from pipelines.fake import restyle
from streamgen.bench.barcode import STRIP_ROWS, Barcode, Stamp
from streamgen.client import Client, Event, Restarted, Session
from streamgen.core import Params, Pixels
from tests.support.processes import until, workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WIDTH, HEIGHT, FPS = 320, 192, 16.0
CHUNK = 4
COSTS = "stages=3,call_s=0,step_s=0.18,encode_s=0.02,decode_s=0.02"
"""0.4 s for a chunk of two steps, of which one comes every 0.25 s."""

ASKED = {"fps": FPS, "slo_ms": 4000.0, "keep": "steps,fps,size,vae", "width": WIDTH, "height": HEIGHT, "stamp": True}
GREY = 128
BEFORE = {"rate", "burst"}
"""Reasons to drop a frame before the scheduler ever has it: the source, or the way from it, was not even."""

NEAR = 12
"""Levels that a colour may be off after the video's encoding, both ways."""


@dataclass(frozen=True)
class Server:
    url: str
    pid: int

    def workers(self) -> set[int]:
        """Process ids of the engine's."""
        return set(workers(self.pid))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("costs")
    command = [sys.executable, "-m", "streamgen.cli", "serve", "--port", "0", "--preset", "fake"]
    environment = {**os.environ, "STREAMGEN_FAKE_COST": COSTS}
    with subprocess.Popen(
        [*command, "--cost-folder", str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = (line.strip() for line in process.stdout)
        yield Server(next(line.removeprefix("ready: ") for line in lines if line.startswith("ready: ")), process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


class Camera:
    """Grey pictures with a barcode that counts them."""

    def __init__(self) -> None:
        self.barcode = Barcode(WIDTH, HEIGHT)

    async def frames(self) -> AsyncIterator[Pixels]:
        counter = 0
        while True:
            picture = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
            self.barcode.draw(picture, Stamp(1, counter, 0))
            counter += 1
            yield picture


@dataclass(frozen=True)
class Seen:
    """A result: which frame's it is, and its colour."""

    counter: int
    colour: tuple[float, ...]


async def seen(session: Session, camera: Camera, count: int) -> list[Seen]:
    """The next `count` results."""
    results: list[Seen] = []
    async with asyncio.timeout(60):
        async for frame in session.frames():
            stamp = camera.barcode.read(frame.pixels)
            assert stamp is not None
            colour = frame.pixels[STRIP_ROWS + 8 :].mean(axis=(0, 1))
            results.append(Seen(stamp.counter, tuple(float(level) for level in colour)))
            if len(results) == count:
                break
    return results


def missing(results: Sequence[Seen]) -> int:
    """How many frames there is no result of between the first and the last of these, which come in their order."""
    counters = [its.counter for its in results]
    assert counters == sorted(set(counters))
    return counters[-1] - counters[0] + 1 - len(counters)


def is_chunk(its: Seen, prompt: str, chunk: int) -> bool:
    """Whether it looks as this chunk of a stream with this prompt does."""
    wanted = restyle(np.full(3, GREY, np.uint8), Params(prompt=prompt), chunk)
    return all(abs(level - int(want)) < NEAR for level, want in zip(its.colour, wanted, strict=True))


def follow(results: Sequence[Seen], prompt: str) -> tuple[int, int]:
    """(counter, chunk) of where the first of the chunks begins that these results are of, one behind the other."""
    for start in range(CHUNK):
        for first in range(64):
            chunks = [(its, first + (its.counter - results[0].counter + start) // CHUNK) for its in results]
            if all(is_chunk(its, prompt, chunk) for its, chunk in chunks):
                return results[0].counter - start, first
    raise AssertionError(f"no chunks of {prompt!r}: {results}")


def follow_over(before: Sequence[Seen], after: Sequence[Seen], changed: int) -> None:
    """Chunks go on being counted from one prompt to the other: it is one stream, and the change came between two of
    them, at the frame that was told."""
    counter, chunk = follow(before, "ink")
    results = [*before, *after]
    looks = [is_chunk(its, "oil", chunk + (its.counter - counter) // CHUNK) for its in results]
    first = looks.index(True)
    assert all(looks[first:])
    assert (results[first].counter - counter) % CHUNK == 0
    assert 0 <= results[first].counter - changed < CHUNK  # frames of before its connection was up never came in


async def test_frames_come_out_once_in_order_and_a_new_prompt_without_a_cut(server: Server) -> None:
    camera = Camera()
    async with Client(server.url) as client:
        session = await client.open(camera.frames(), buffer=64, prompt="ink", **ASKED)
        before = await seen(session, camera, 32)
        changed = await session.update(prompt="oil")
        after = await seen(session, camera, 64)
        stats = await session.fetch_stats()
        assert session.skipped == 0
    results = [*before, *after]
    assert stats.drops.keys() <= BEFORE
    assert missing(results) <= sum(stats.drops.values())
    assert (stats.deadline_misses, stats.plan["mode"], stats.plan["rung"]) == (0, "sequential", 0)
    if not missing(results):  # else chunks do not begin at every fourth picture
        follow_over(before, after, changed)


async def test_clients_beside_each_other_get_each_their_own(server: Server) -> None:
    cameras = {"ink": Camera(), "oil": Camera()}
    async with Client(server.url) as client:
        sessions = {
            prompt: await client.open(camera.frames(), buffer=64, prompt=prompt, **(ASKED | {"fps": 8.0}))
            for prompt, camera in cameras.items()
        }
        got = await asyncio.gather(*(seen(sessions[prompt], camera, 40) for prompt, camera in cameras.items()))
        stats = {prompt: await session.fetch_stats() for prompt, session in sessions.items()}
    for prompt, results in zip(cameras, got, strict=True):
        assert stats[prompt].drops.keys() <= BEFORE
        assert missing(results) <= sum(stats[prompt].drops.values())
        if not missing(results):
            follow(results, prompt)


async def test_a_lost_worker_comes_back_and_the_stream_goes_on(server: Server) -> None:
    camera = Camera()
    async with Client(server.url) as client:
        session = await client.open(camera.frames(), buffer=64, prompt="ink", **ASKED)
        before = await seen(session, camera, 16)
        restarted = asyncio.create_task(next_restart(session))
        lost = server.workers()
        for pid in lost:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            assert isinstance(await restarted, Restarted)
            await until(lambda: bool(server.workers() - lost))
            after = await seen(session, camera, 48)
        assert not session.closed
    missing([*before, *after])
    assert follow(after[-6 * CHUNK :], "ink")[1] < 12  # chunks are counted anew


async def next_restart(session: Session) -> Event | None:
    async for event in session.events():
        if isinstance(event, Restarted):
            return event
    return None
