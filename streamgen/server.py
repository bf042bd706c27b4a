"""What a program that serves HTTP is made of: a socket that listens, a server on it, tasks, signals that end it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from streamgen.errors import StreamgenError

SHUTDOWN_TIMEOUT_S = 3.0
"""HTTP requests under way get this long to end."""


class ListenError(StreamgenError):
    """The address cannot be listened on."""

    code = "cannot_listen"


class Server(uvicorn.Server):
    """Serves an application over HTTP. Leaves signals to the program, which has more to end than HTTP."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(SHUTDOWN_TIMEOUT_S),
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on host:port; port 0 takes any free one. Raises ListenError that says what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ListenError(f"host {host!r} cannot be found ({error.strerror}); choose another with --host") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"port {port} is in use; choose another with --port") from None
        if error.errno == errno.EACCES:
            raise ListenError(f"port {port} needs more rights; choose one above 1023 with --port") from None
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --host") from None
    return listener


def url_of(host: str, listener: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    port = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


@contextlib.asynccontextmanager
async def running(work: Any, name: str) -> AsyncIterator[asyncio.Task[Any]]:
    """`work` as a task, which is ended at the end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Task[Any]]:
    """A task that ends at SIGINT or SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with running(stop.wait(), "stop-signals") as task:
            yield task
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def first_of(*tasks: asyncio.Task[Any]) -> None:
    """Waits for the first task to end, and raises its error where it has one."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
