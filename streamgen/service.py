"""The sessions of one service: admits them, connects them, and sees to it that each ends completely."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamgen.config import Config
from streamgen.core import Clock, Params, PipelineSpec
from streamgen.errors import BusyError, SessionNotFoundError
from streamgen.ice import IceSettings
from streamgen.metrics import Metrics
from streamgen.rtc.control import Outgoing
from streamgen.rtc.offer import Offer
from streamgen.rtc.peer import Peer
from streamgen.session import Scheduler, Session
from streamgen.web import Opened

logger = logging.getLogger(__name__)

RETRY_STARTING_S = 2
RETRY_FULL_S = 5
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class PresetInfo:
    """What the page shows of a preset."""

    name: str
    title: str
    description: str
    native_fps: float
    defaults: Params
    styles: Sequence[Mapping[str, str]]
    """Suggestions: {"name", "prompt"}."""


class EngineView(Protocol):
    """What the service has to know of the engine."""

    @property
    def state(self) -> str:
        """ "ready", or what it is doing instead."""
        ...

    @property
    def spec(self) -> PipelineSpec:
        """Of the pipeline, once it was ready."""
        ...


class Connection(Protocol):
    """A client's media connection; see Peer."""

    async def answer(self, offer: Offer) -> str:
        """Raises OfferError."""
        ...

    async def run(self) -> None:
        """Until the session has ended; frees everything."""
        ...


Connect = Callable[[Session, Outgoing], Connection]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A session and the task that holds its connection."""

    session: Session
    task: asyncio.Task[None]


class Service:
    """Implements web.Backend. Lives in one event loop."""

    def __init__(
        self,
        config: Config,
        engine: EngineView,
        scheduler: Scheduler,
        presets: Sequence[PresetInfo],
        clock: Clock,
        metrics: Metrics,
        connect: Connect | None = None,
    ) -> None:
        """`connect` makes a session's connection; WebRTC by default."""
        self._config = config
        self._engine = engine
        self._scheduler = scheduler
        self._presets = presets
        self._clock = clock
        self._metrics = metrics
        self._connect = connect or self._webrtc
        self._places: dict[str, Place] = {}
        self._opening = 0
        self._stopping = False

    @property
    def state(self) -> str:
        """The engine's state, or "stopping"."""
        return "stopping" if self._stopping else self._engine.state

    @property
    def ice_servers(self) -> tuple[str, ...]:
        """STUN and TURN URLs for clients."""
        return self._config.ice_servers

    @property
    def preset(self) -> str:
        """The one that runs."""
        return self._config.preset

    def presets(self) -> list[dict[str, object]]:
        """What can be run."""
        return [self._shown(preset) for preset in self._presets]

    def session(self, session_id: str) -> Session:
        """Raises SessionNotFoundError."""
        return self._place(session_id).session

    async def open(self, sdp: str, params: Mapping[str, object]) -> Opened:
        """A new session for an SDP offer. Raises BusyError, ParamsError, OfferError; then nothing is left of it."""
        if self.state != "ready":
            raise BusyError(f"the engine is {self.state}; try again soon", RETRY_STARTING_S)
        if len(self._places) + self._opening >= self._config.max_sessions:
            raise BusyError(f"all {self._config.max_sessions} places are taken; try again later", RETRY_FULL_S)
        wanted = Params.parse(params, self._engine.spec.defaults)
        self._engine.spec.check(wanted)
        offer = Offer.parse(sdp)
        self._opening += 1
        try:
            return await self._open(offer, wanted)
        finally:
            self._opening -= 1

    async def close(self, session_id: str, reason: str) -> None:
        """Ends a session, and waits until it is gone. Raises SessionNotFoundError."""
        await self._end([self._place(session_id)], reason)

    async def stop(self, reason: str) -> None:
        """Ends all sessions; no more are admitted."""
        self._stopping = True
        await self._end(list(self._places.values()), reason)

    async def _end(self, places: Sequence[Place], reason: str) -> None:
        for place in places:
            place.session.end(reason)
        tasks = [place.task for place in places]
        if tasks:
            _, slow = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _open(self, offer: Offer, params: Params) -> Opened:
        outgoing = Outgoing()
        session = Session(
            secrets.token_urlsafe(16),
            params,
            self._engine.spec,
            scheduler=self._scheduler,
            clock=self._clock,
            metrics=self._metrics,
            notify=outgoing,
        )
        connection = self._connect(session, outgoing)
        try:
            answer = await connection.answer(offer)
        except BaseException:
            session.close()
            raise
        if self._stopping:
            session.end("the service is stopping")
        task = asyncio.create_task(self._hold(session, connection), name="session")
        self._places[session.id] = Place(session, task)
        self._metrics.session_opened()
        return Opened(session, answer)

    async def _hold(self, session: Session, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            session.close()
            del self._places[session.id]
            self._metrics.session_closed()
            logger.info("session %s… ended: %s", session.id[:6], session.end_reason)

    def _webrtc(self, session: Session, outgoing: Outgoing) -> Connection:
        return Peer(
            session,
            outgoing,
            self._clock,
            ice_servers=self._config.ice_servers,
            ice=IceSettings(ports=self._config.udp_ports, loopback=self._config.loopback),
            connect_timeout_s=self._config.connect_timeout_s,
            idle_timeout_s=self._config.idle_timeout_s,
        )

    def _place(self, session_id: str) -> Place:
        try:
            return self._places[session_id]
        except KeyError:
            raise SessionNotFoundError("no session has this id; it may have ended") from None

    def _shown(self, preset: PresetInfo) -> dict[str, object]:
        loaded = preset.name == self.preset and self._engine.state in ("ready", "restarting")
        spec = self._engine.spec if loaded else None
        defaults = spec.defaults if spec else preset.defaults
        return {
            "name": preset.name,
            "title": preset.title,
            "description": preset.description,
            "loaded": loaded,
            "native_fps": spec.native_fps if spec else preset.native_fps,
            "width": defaults.width,
            "height": defaults.height,
            "params": defaults.schema(),
            "styles": [dict(style) for style in preset.styles],
        }
