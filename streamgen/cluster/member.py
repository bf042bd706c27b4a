"""The process of one node: an ordinary service that reports to its host, and obeys it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from streamgen import app
from streamgen.cluster.messages import CLIENT_HEADER, KEY_HEADER, Birth, Drain, Failed, Move, Order, Report, Stop
from streamgen.errors import StreamgenError
from streamgen.jobs import Jobs
from streamgen.logs import log_to_stderr
from streamgen.scheduler.loop import Loop
from streamgen.server import ListenError, listen, url_of
from streamgen.service import Service
from streamgen.standing import Standing

REPORT_S = 0.5

FAREWELL_S = 3.0
"""Without its host a node asks its clients to go elsewhere, and ends after this time: its device is wanted."""

HARD_END_S = 10.0
"""A node that could not end in order by then ends without."""


class Member:
    """Implements app.Company."""

    def __init__(self, birth: Birth, connection: Connection) -> None:
        """Raises ListenError."""
        self.listener = listen_in(birth.address, birth.settings.ports)
        self._connection = connection
        self._key = secrets.token_urlsafe(16)
        port = self.listener.getsockname()[1]
        self._url = url_of(birth.address, self.listener)
        self._public = birth.public.replace("{port}", str(port)).rstrip("/") or self._url
        self._config = birth.settings.config

    def front(self, application: ASGIApp) -> ASGIApp:
        """See app.Company."""
        return Trusting(application, self._key)

    async def attend(self, service: Service, scheduler: Loop, jobs: Jobs | None) -> None:
        """Reports, until it is cancelled."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._obey, args=(loop, service), name="orders", daemon=True).start()
        while True:
            with contextlib.suppress(OSError):  # the host is gone, which the reader of its orders finds out
                await asyncio.to_thread(self._connection.send, self.report(service, scheduler, jobs))
            await asyncio.sleep(REPORT_S)

    def report(self, service: Service, scheduler: Loop, jobs: Jobs | None) -> Report:
        """How the service stands."""
        ready = service.state == "ready"
        spec = service.spec if ready else None
        waiting = scheduler.roster.waiting
        return Report(
            state=service.state,
            url=self._url,
            public=self._public,
            key=self._key,
            draining=service.draining,
            sessions=service.sessions,
            waiting=waiting,
            moving=service.moving,
            opened=service.opened,
            room=scheduler.room(Standing("", spec.defaults, spec).demand()) if spec else 0,
            places=max(0, self._config.max_queue - waiting) if ready else 0,
            jobs=jobs.free if jobs and ready else 0,
            working=jobs.under_way if jobs else 0,
            load=round(scheduler.promised(), 3),
            names=tuple(service.names),
        )

    def _obey(self, loop: asyncio.AbstractEventLoop, service: Service) -> None:
        """Takes orders, in a thread of its own, until there is nobody to give any."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: it is over anyway
            with contextlib.suppress(EOFError, OSError):
                while True:
                    loop.call_soon_threadsafe(obey, service, self._connection.recv())
            loop.call_soon_threadsafe(self._bid_farewell, service)
        time.sleep(HARD_END_S)
        os._exit(1)

    def _bid_farewell(self, service: Service) -> None:
        service.draining = True
        service.move(service.sessions, "the machine has lost its fleet")
        asyncio.get_running_loop().call_later(FAREWELL_S, _end)


class Trusting:
    """ASGI middleware: who shows the key is a gateway, and says whose a request is."""

    def __init__(self, application: ASGIApp, key: str) -> None:
        self._application = application
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if hmac.compare_digest(headers.get(KEY_HEADER, "").encode(), self._key):
                scope = {**scope, "client": (headers.get(CLIENT_HEADER, ""), 0)}
        await self._application(scope, receive, send)


def obey(service: Service, order: Order) -> None:
    """Carries an order out."""
    match order:
        case Drain(on):
            service.draining = on
        case Move(count, reason):
            service.move(count, reason)
        case Stop():
            _end()


def listen_in(address: str, ports: tuple[int, int] | None) -> socket.socket:
    """A socket that listens on the first free port of a range, or on any. Raises ListenError."""
    if ports is None:
        return listen(address, 0)
    for port in range(ports[0], ports[1]):
        with contextlib.suppress(ListenError):
            return listen(address, port)
    return listen(address, ports[1])


def _end() -> None:
    """As a signal from outside would."""
    os.kill(os.getpid(), signal.SIGTERM)


def main(descriptor: int) -> None:
    """Runs the node that the host at the other end of the pipe describes, until its end. Exits with 0 or 1."""
    connection = Connection(descriptor)
    try:
        birth: Birth = connection.recv()
    except EOFError:
        sys.exit(1)
    log_to_stderr(verbose=False)
    try:
        config = replace(birth.settings.config, host=birth.address, port=0, node=birth.name)
        app.serve(config, lambda _: None, company=Member(birth, connection))
    except StreamgenError as error:
        with contextlib.suppress(OSError):
            connection.send(Failed(error.message))
        sys.exit(1)
