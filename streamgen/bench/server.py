"""A server of the benchmark's own: started, waited for, ended."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamgen.errors import ConnectError

READY = re.compile(r"ready: (https?://\S+)")
STOP_TIMEOUT_S = 15.0


def serve_command(extra: Sequence[str]) -> list[str]:
    """`streamgen serve` on a free port, with the Python that runs this."""
    return [sys.executable, "-m", "streamgen.cli", "serve", "--port", "0", *extra]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    url: str
    pid: int


@contextlib.asynccontextmanager
async def running(command: Sequence[str], start_timeout_s: float) -> AsyncIterator[Server]:
    """The server that `command` starts, once it prints `ready: URL`. Raises ConnectError if it does not."""
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=nothing, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise ConnectError(f"the server cannot be started: {error.strerror}") from None
    assert process.stdout is not None
    assert process.stderr is not None
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    complaints: deque[str] = deque(maxlen=20)
    readers = [
        asyncio.create_task(_watch(process.stdout, url, deque(maxlen=1))),
        asyncio.create_task(_watch(process.stderr, url, complaints)),
    ]
    exit_ = asyncio.create_task(process.wait())
    try:
        either: list[asyncio.Future[Any]] = [url, exit_]
        await asyncio.wait(either, timeout=start_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not url.done():
            if not exit_.done():
                raise ConnectError(f"the server was not ready within {start_timeout_s:g} s")
            await asyncio.wait(readers)
            why = complaints[-1].removeprefix("error: ") if complaints else "it said nothing"
            raise ConnectError(f"the server did not start (exit {process.returncode}): {why}")
        yield Server(url.result(), process.pid)
    finally:
        url.cancel()
        await _stop(process, exit_)
        await asyncio.gather(*readers)


async def _watch(stream: asyncio.StreamReader, url: asyncio.Future[str], kept: deque[str]) -> None:
    """Reads to the end, so that the server never blocks on a full pipe."""
    while line := (await stream.readline()).decode(errors="replace"):
        if line.strip():
            kept.append(line.strip())
        ready = READY.search(line)
        if ready and not url.done():
            url.set_result(ready.group(1))


async def _stop(process: asyncio.subprocess.Process, exit_: asyncio.Task[int]) -> None:
    if not exit_.done():
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait([exit_], timeout=STOP_TIMEOUT_S)
    if not exit_.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await exit_
