"""An ICE connection that can restart while packets flow: what stands where aiortc keeps its aioice.Connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from aioice import Candidate, ConnectionClosed
from aiortc import RTCIceServer

from streamgen.errors import IceRestartError, OfferError
from streamgen.ice.generation import Generation
from streamgen.ice.settings import IceSettings

logger = logging.getLogger(__name__)

QUEUED_PACKETS = 4096
"""Datagrams kept for a reader that is late, or that has not begun; more are dropped."""

_PREFIX = "candidate:"


@dataclass(frozen=True, slots=True)
class IceDescription:
    """What one side tells the other of a generation."""

    ufrag: str
    pwd: str = field(repr=False)
    candidates: tuple[str, ...] = ()
    """Each as in SDP, from `candidate:` on."""


class IceConnection:
    """Delegates to the current generation; has a next one while a restart is under way.

    new -- connect --> connected <----------------------------------------------------------+
                        |  |                                                                |
                        |  prepare --> gathering --> waiting -- begin --> checking -- a pair was nominated
                        |               |  the old generation carries everything all this time; if it is lost,
                        |               |  packets are dropped, and the restart is the last hope
                        |               +-- failed, superseded, too late --> connected, or ended where it was lost
                        +-- lost, or close --> ended
    """

    def __init__(self, settings: IceSettings, servers: Sequence[RTCIceServer], username: str, password: str) -> None:
        self._settings = settings
        self._servers = servers
        self._current = self._generation(controlling=False, username=username, password=password)
        self._next: Generation | None = None
        self._begun = asyncio.Event()
        self._restart: asyncio.Task[IceRestartError | None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._connected = False
        self._lost = False
        self._ended = asyncio.Event()
        self._packets: asyncio.Queue[bytes | None] = asyncio.Queue()

    # What aiortc uses.

    @property
    def ice_controlling(self) -> bool:
        """Whether this side nominates."""
        return self._current.ice_controlling

    @ice_controlling.setter
    def ice_controlling(self, value: bool) -> None:
        self._current.ice_controlling = value

    @property
    def local_username(self) -> str:
        """The ufrag."""
        return self._current.local_username

    @property
    def local_password(self) -> str:
        """The pwd."""
        return self._current.local_password

    @property
    def remote_username(self) -> str | None:
        """The other side's ufrag, once known."""
        return self._current.remote_username

    @remote_username.setter
    def remote_username(self, value: str | None) -> None:
        self._current.remote_username = value

    @property
    def remote_password(self) -> str | None:
        """The other side's pwd, once known."""
        return self._current.remote_password

    @remote_password.setter
    def remote_password(self, value: str | None) -> None:
        self._current.remote_password = value

    @property
    def remote_is_lite(self) -> bool:
        """Whether the other side sends no checks of its own."""
        return self._current.remote_is_lite

    @remote_is_lite.setter
    def remote_is_lite(self, value: bool) -> None:
        self._current.remote_is_lite = value

    @property
    def local_candidates(self) -> list[Candidate]:
        """Of the current generation."""
        return self._current.local_candidates

    @property
    def remote_candidates(self) -> list[Candidate]:
        """Of the current generation."""
        return self._current.remote_candidates

    async def add_remote_candidate(self, candidate: Candidate | None) -> None:
        """For the current generation."""
        await self._current.add_remote_candidate(candidate)

    async def gather_candidates(self) -> None:
        """See Generation."""
        await self._current.gather_candidates()

    async def connect(self) -> None:
        """Until there is a pair. Raises ConnectionError where it is closed before."""
        await self._current.connect()
        self._connected = True

    async def close(self) -> None:
        """Closes every socket of every generation."""
        self._end()
        dropped, self._next = self._next, None
        tasks = [*self._retiring, *([self._restart] if self._restart else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if dropped is not None:
            await dropped.close()
        await self._current.close()

    async def get_event(self) -> ConnectionClosed:
        """Waits for the end."""
        await self._ended.wait()
        return ConnectionClosed()

    async def recv(self) -> bytes:
        """The next datagram, of whichever generation: who reads it knows by its keys whom it is from.

        Raises ConnectionError at the end.
        """
        packet = None if self._ended.is_set() else await self._packets.get()
        if packet is None:
            raise ConnectionError("the ICE connection has ended")
        return packet

    async def send(self, data: bytes) -> None:
        """Sends a datagram. Raises ConnectionError before there is a pair, and at the end."""
        if self._ended.is_set():
            raise ConnectionError("the ICE connection has ended")
        try:
            await self._current.send(data)
        except ConnectionError:
            if self._next is None:
                raise  # else the pair was lost in a restart: the packet is lost with it

    # Restarts (RFC 8445, section 9).

    async def prepare(self) -> IceDescription:
        """Gathers a new generation, for the other side to know. A restart under way is given up for it.

        The other side's part has to come with `begin`, and a pair has to be found, within `restart_timeout_s`. Raises
        IceRestartError where the connection is not up, BusyError where no port is free.
        """
        if not self._connected or self._ended.is_set():
            raise IceRestartError("the media connection is not up")
        new = self._generation(controlling=self._current.ice_controlling)
        given_up, self._next = self._next, new
        if given_up is not None:
            if self._restart is not None:
                self._restart.cancel()
            await given_up.close()
        try:
            await new.gather_candidates()
        except ConnectionError:
            raise IceRestartError("another restart began, or the connection was closed") from None
        except BaseException:
            await self._give_up(new)
            raise
        self._begun = asyncio.Event()
        self._restart = asyncio.create_task(self._switch(new, self._begun), name="ice-restart")
        lines = tuple(_PREFIX + candidate.to_sdp() for candidate in new.local_candidates)
        return IceDescription(new.local_username, new.local_password, lines)

    async def begin(self, remote: IceDescription) -> None:
        """Begins the checks of the generation that was prepared.

        Raises IceRestartError where there is none (any more), OfferError for a candidate that is none.
        """
        candidates = [parse_candidate(line) for line in remote.candidates]
        new = self._next
        if new is None or self._begun.is_set() or not new.local_candidates:
            raise IceRestartError("no restart was prepared, or it took too long")
        new.remote_username, new.remote_password = remote.ufrag, remote.pwd
        for candidate in candidates:
            await new.add_remote_candidate(candidate)
        self._begun.set()

    async def restarted(self) -> None:
        """Waits for the end of the restart under way, or the last one. Raises IceRestartError where it failed."""
        if self._restart is None:
            raise IceRestartError("no restart was prepared")
        restart = self._restart
        await asyncio.wait([restart])
        error = IceRestartError("the restart was given up") if restart.cancelled() else restart.result()
        if error is not None:
            raise error

    async def trickle(self, candidate: Candidate | None, ufrag: str | None) -> bool:
        """Takes a candidate of the other side's generation `ufrag`, or of the newest it told of where None.

        A candidate of None says that no more come. False where there is no such generation (any more).
        """
        known = [self._current]
        if self._next is not None and self._next.remote_username is not None:
            known.insert(0, self._next)
        for generation in known:
            if ufrag is None or generation.remote_username in (None, ufrag):
                await generation.add_remote_candidate(candidate)
                return True
        return False

    async def _switch(self, new: Generation, begun: asyncio.Event) -> IceRestartError | None:
        """Why it failed, or None."""
        try:
            async with asyncio.timeout(self._settings.restart_timeout_s):
                await begun.wait()
                await new.connect()
        except (TimeoutError, ConnectionError):
            logger.info("ICE restart failed: no pair in time")
            await self._give_up(new)
            return IceRestartError("no connection came about with the new addresses; the old ones stay in use")
        task = asyncio.create_task(self._retire(self._current), name="ice-retire")
        task.add_done_callback(self._retiring.discard)
        self._retiring.add(task)
        self._current, self._next, self._lost = new, None, False
        return None

    async def _give_up(self, new: Generation) -> None:
        await new.close()  # first: should this task be cancelled meanwhile, close() and prepare() still know of it
        if self._next is new:
            self._next = None
            if self._lost:
                self._end()

    async def _retire(self, old: Generation) -> None:
        try:
            await asyncio.sleep(self._settings.linger_s)
        finally:
            await old.close()

    def _generation(self, *, controlling: bool, username: str | None = None, password: str | None = None) -> Generation:
        return Generation(
            self._settings,
            self._servers,
            self._received,
            self._generation_lost,
            controlling=controlling,
            username=username,
            password=password,
        )

    def _received(self, data: bytes) -> None:
        if self._packets.qsize() < QUEUED_PACKETS:
            self._packets.put_nowait(data)

    def _generation_lost(self, generation: Generation) -> None:
        if generation is self._current:
            if self._next is None:
                self._end()
            else:
                self._lost = True

    def _end(self) -> None:
        self._ended.set()
        self._packets.put_nowait(None)  # for the reader that waits


def parse_candidate(line: str) -> Candidate:
    """The candidate in `line`, with `a=candidate:` or `candidate:` before it or without. Raises OfferError."""
    try:
        return Candidate.from_sdp(line.strip().removeprefix("a=").removeprefix(_PREFIX))
    except ValueError:
        raise OfferError("an ICE candidate is malformed") from None
