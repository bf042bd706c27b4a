"""A bad link within one process: datagrams of a peer connection that come late, or never."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiortc import RTCIceTransport, RTCPeerConnection

_TRANSPORTS = "_RTCPeerConnection__iceTransports"
_MEDIA = range(128, 192)  # first byte of RTP and RTCP (RFC 7983)

Send = Callable[[bytes], Coroutine[Any, Any, None]]
Receive = Callable[[], Coroutine[Any, Any, bytes]]


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one direction. Times in seconds; `loss` is the share of datagrams that never come."""

    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Added to the delay, drawn evenly from 0 to this for each datagram: they overtake each other where it is large."""


GOOD = Quality()


class Way:
    """One direction of a link: tells for each datagram when it arrives. The same seed tells the same."""

    def __init__(self, quality: Quality, seed: int) -> None:
        self.carried = 0
        self.lost = 0
        self._quality = quality
        self._random = random.Random(seed)  # noqa: S311 - repeatable is what it has to be

    def arrival(self, now: float) -> float | None:
        """Of a datagram that is sent now; None for one that is lost."""
        lost, late = self._random.random() < self._quality.loss, self._random.random()
        self.lost += lost
        self.carried += not lost
        return None if lost else now + self._quality.delay_s + late * self._quality.jitter_s


class Link:
    """Until its `async with` ends, what `connection` sends goes through `out`, and what it receives through `into`.

    The connection must be negotiated, so that it has its transports. ICE's own checks go past the link. With both ends
    in one process, give each a link with `out` alone.
    """

    def __init__(
        self,
        connection: RTCPeerConnection,
        *,
        out: Quality = GOOD,
        into: Quality = GOOD,
        seed: int = 0,
        media_only: bool = True,
    ) -> None:
        """media_only: RTP and RTCP go through the link; DTLS, and with it the data channels, past it."""
        self.out, self.into = Way(out, 2 * seed), Way(into, 2 * seed + 1)
        self._media_only = media_only
        transports: set[RTCIceTransport] = getattr(connection, _TRANSPORTS)
        self._ends = [_End(transport, self) for transport in transports]

    def affects(self, datagram: bytes) -> bool:
        """Whether it goes through the link."""
        return not self._media_only or datagram[0] in _MEDIA

    async def __aenter__(self) -> Self:
        for end in self._ends:
            end.attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Datagrams under way are lost."""
        for end in self._ends:
            await end.detach()


class _End:
    """A link's hold on one transport. Its tasks end with `detach`."""

    def __init__(self, transport: RTCIceTransport, link: Link) -> None:
        self._transport = transport
        self._link = link
        self._send: Send = transport._send  # noqa: SLF001
        self._receive: Receive = transport._recv  # noqa: SLF001
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._out = _Line(link.out, self._pass_on)
        self._into = _Line(link.into, self._arrived.put)
        self._tasks: list[asyncio.Task[None]] = []
        self._reads = False

    def attach(self) -> None:
        self._transport._send = self._send_late  # noqa: SLF001
        self._transport._recv = self._receive_late  # noqa: SLF001
        self._tasks += [asyncio.create_task(line.run(), name="link") for line in (self._out, self._into)]

    async def detach(self) -> None:
        self._transport._send = self._send  # type: ignore[assignment]  # noqa: SLF001
        self._transport._recv = self._receive  # noqa: SLF001
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._arrived.put_nowait(None)

    async def _send_late(self, data: bytes) -> None:
        if self._link.affects(data):
            self._out.put(data)
        else:
            await self._send(data)

    async def _pass_on(self, datagram: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # closed while it was under way
            await self._send(datagram)

    async def _receive_late(self) -> bytes:
        if not self._reads:
            self._reads = True  # not before: until then there may be no connection to read from
            self._tasks.append(asyncio.create_task(self._read(), name="link"))
        datagram = await self._arrived.get()
        if datagram is not None:
            return datagram
        self._arrived.put_nowait(None)
        return await self._receive()

    async def _read(self) -> None:
        """Until the connection ends: then whoever receives is told so by the transport itself."""
        with contextlib.suppress(ConnectionError):
            while True:
                datagram = await self._receive()
                if self._link.affects(datagram):
                    self._into.put(datagram)
                else:
                    self._arrived.put_nowait(datagram)
        self._arrived.put_nowait(None)


class _Line:
    """Datagrams under way."""

    def __init__(self, way: Way, deliver: Send) -> None:
        self._way = way
        self._deliver = deliver
        self._under_way: list[tuple[float, int, bytes]] = []  # a heap: when it arrives, its place among equals
        self._places = itertools.count()
        self._news = asyncio.Event()

    def put(self, datagram: bytes) -> None:
        arrival = self._way.arrival(time.monotonic())
        if arrival is not None:
            heapq.heappush(self._under_way, (arrival, next(self._places), datagram))
            self._news.set()

    async def run(self) -> None:
        while True:
            wait_s = self._under_way[0][0] - time.monotonic() if self._under_way else None
            if wait_s is not None and wait_s <= 0:
                await self._deliver(heapq.heappop(self._under_way)[2])
                continue
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
