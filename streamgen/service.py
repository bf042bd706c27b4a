"""The sessions of one service: admits them, connects them, and sees to it that each ends completely."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamgen.config import Config
from streamgen.core import Clock, Params, PipelineSpec
from streamgen.errors import BusyError, NameTakenError, NotLiveError, SessionNotFoundError
from streamgen.framing import SIZES, framed
from streamgen.ice import IceSettings
from streamgen.metrics import Metrics
from streamgen.place import Place
from streamgen.rtc.connection import Connection
from streamgen.rtc.control import Outgoing
from streamgen.rtc.offer import Offer
from streamgen.scheduler.stream import Stream
from streamgen.session import Scheduler as SessionScheduler
from streamgen.session import Session
from streamgen.turn import IceServer, IceServers
from streamgen.web import Audience, Opened
from streamgen.whip import Connected, IceSession, is_name

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


class Scheduler(SessionScheduler, Protocol):
    """What the service needs of the scheduler, for itself and its sessions."""

    def enter(self, stream: Stream, *, may_wait: bool = True) -> None:
        """From now on the stream's frames are run, or it waits for that.

        Raises BusyError where there is no room, and it may not wait or too many wait already.
        """
        ...


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
    ) -> None:
        self._config = config
        self._engine = engine
        self._scheduler = scheduler
        self._presets = presets
        self._clock = clock
        self._metrics = metrics
        self._ice = IceServers(config.ice_servers, config.turn_secret)
        self._places: dict[str, Place] = {}
        self._streams: dict[str, Place] = {}
        """By what they can be watched under: a secret, and the name they were published under."""
        self._names_taken: set[str] = set()
        """By publishers that are being answered."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self.draining = False
        """Whether no more sessions are taken; those there are go on."""
        self.opened = 0
        """Sessions, since the start."""

    @property
    def state(self) -> str:
        """The engine's state, "draining" or "stopping"."""
        if self._stopping:
            return "stopping"
        return "draining" if self.draining and self._engine.state == "ready" else self._engine.state

    @property
    def spec(self) -> PipelineSpec:
        """Of the pipeline, once it was ready."""
        return self._engine.spec

    @property
    def names(self) -> list[str]:
        """Under which sessions are published."""
        return [stream for stream in self._streams if is_name(stream)]

    @property
    def sessions(self) -> int:
        """How many there are."""
        return len(self._places)

    @property
    def moving(self) -> int:
        """Sessions whose clients were asked to go elsewhere, and are still here."""
        return sum(place.moving for place in self._places.values())

    def move(self, count: int, reason: str) -> None:
        """Asks the clients of so many sessions to open them elsewhere; see Place.move."""
        places = [place for place in self._places.values() if not place.moving and place.session.state != "connecting"]
        for place in places[:count]:
            place.move(reason)

    def ice_servers_for(self, connection_id: str) -> list[IceServer]:
        """STUN and TURN servers for a client, with credentials of its own where a secret is set."""
        return self._ice.servers_for(connection_id)

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

    def audience(self, session_id: str) -> Audience:
        """Who watches a session, and where. Raises SessionNotFoundError."""
        place = self._place(session_id)
        return Audience(place.stream, len(place.viewers))

    def is_link(self, stream: str) -> bool:
        """Whether it is a secret that names a stream or a viewer, and no name that could be guessed."""
        place = self._streams.get(stream)
        return self._watched_by(stream) is not None or (place is not None and place.stream == stream)

    def ice(self, connection_id: str) -> IceSession:
        """The ICE side of a session's or a viewer's connection. Raises SessionNotFoundError."""
        watched = self._watched_by(connection_id)
        return watched.viewers[connection_id].connection if watched else self._place(connection_id).connection

    async def publish(self, sdp: str, params: Mapping[str, object], name: str, client: str = "") -> Connected:
        """A session by WHIP: a new one, or the one of this name, whose publisher has lost its connection.

        It waits in no queue, as WHIP has no words for that.

        Raises OfferError, ParamsError, BusyError, NameTakenError.
        """
        known = self._streams.get(name) if name else None
        if name in self._names_taken or (known is not None and not known.awaited):
            raise NameTakenError(f"another session is published as {name}", RETRY_FULL_S)
        self._names_taken |= {name} - {""}
        try:
            if known is None:
                opened = await self._begin(sdp, params, client, name=name, may_wait=False)
                session, answer = opened.session, opened.sdp
            else:
                session, offer = known.session, Offer.parse_sender(sdp)
                session.update(params)
                answer = await known.answer(offer)
        finally:
            self._names_taken.discard(name)
        return Connected(session.id, answer, self._place(session.id).connection)

    async def watch(self, stream: str, sdp: str) -> Connected:
        """A viewer of a session, by its id, its secret or its name.

        Raises SessionNotFoundError, NotLiveError, BusyError, OfferError.
        """
        place = self._streams.get(stream) or self._places.get(stream)
        if place is None:
            if is_name(stream):
                raise NotLiveError("nothing is published under this name now", RETRY_FULL_S)
            raise SessionNotFoundError("no session can be watched under this address; it may have ended")
        viewer_id, viewer, answer = await place.watch(Offer.parse_viewer(sdp))
        return Connected(viewer_id, answer, viewer.connection)

    async def stop_watching(self, viewer_id: str) -> None:
        """Raises SessionNotFoundError."""
        place = self._watched_by(viewer_id)
        if place is None:
            raise SessionNotFoundError("nobody watches under this address any more")
        place.stop_watching(viewer_id)

    async def open(self, sdp: str, params: Mapping[str, object], client: str = "") -> Opened:
        """A new session for an SDP offer; where there is no room for it yet, it waits as "queued".

        Raises BusyError, ParamsError, OfferError; then nothing is left of it.
        """
        return await self._begin(sdp, params, client)

    async def resume(self, session_id: str, sdp: str) -> Opened:
        """The session goes on over another connection, for an offer of its client.

        Raises SessionNotFoundError, OfferError; then the connection it has stays.
        """
        place, offer = self._place(session_id), Offer.parse_sender(sdp)
        return Opened(place.session, await place.answer(offer))

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
        tasks = [self._tasks[place.session.id] for place in places]
        if tasks:
            _, slow = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _begin(
        self, sdp: str, params: Mapping[str, object], client: str, *, name: str = "", may_wait: bool = True
    ) -> Opened:
        if self.state != "ready":
            what = "this machine" if self.draining else "the engine"
            raise BusyError(f"{what} is {self.state}; try again soon", RETRY_STARTING_S)
        spec = self._engine.spec
        asked = SIZES.intersection(params)
        wanted = framed(Params.parse(params, spec.defaults), spec, asked, source=None)
        spec.check(wanted)
        offer = Offer.parse_sender(sdp)
        outgoing = Outgoing()
        session = Session(
            self._config.new_id(),
            wanted,
            spec,
            scheduler=self._scheduler,
            clock=self._clock,
            metrics=self._metrics,
            notify=outgoing,
            asked=asked,
            client=client,
        )
        place = Place(session, outgoing, self._clock, self._connection, self._config)
        self._scheduler.enter(session, may_wait=may_wait)
        try:
            answer = await place.answer(offer)
        except BaseException:
            session.close()
            raise
        if self._stopping:
            session.end("the service is stopping")
        self._places[session.id] = place
        self._streams |= dict.fromkeys(filter(None, (place.stream, name)), place)
        self._tasks[session.id] = asyncio.create_task(self._hold(place), name="session")
        self._metrics.session_opened()
        self.opened += 1
        return Opened(session, answer)

    async def _hold(self, place: Place) -> None:
        session = place.session
        try:
            await place.run()
        finally:
            session.close()
            del self._places[session.id], self._tasks[session.id]
            self._streams = {stream: other for stream, other in self._streams.items() if other is not place}
            self._metrics.session_closed()
            logger.info("session %s… ended: %s", session.id[:6], session.end_reason)

    def _connection(self) -> Connection:
        config = self._config
        ice = IceSettings(ports=config.udp_ports, loopback=config.loopback)
        return Connection(self._ice.servers_for("streamgen"), ice, config.connect_timeout_s)

    def _watched_by(self, viewer_id: str) -> Place | None:
        return next((place for place in self._places.values() if viewer_id in place.viewers), None)

    def _place(self, session_id: str) -> Place:
        try:
            return self._places[session_id]
        except KeyError:
            raise SessionNotFoundError("no session has this id; it may have ended") from None

    def _shown(self, preset: PresetInfo) -> dict[str, object]:
        loaded = preset.name == self.preset and self._engine.state in ("ready", "restarting")
        return shown(preset, self._engine.spec if loaded else None)


def shown(preset: PresetInfo, spec: PipelineSpec | None) -> dict[str, object]:
    """A preset as GET /api/presets tells of it; `spec` where it is loaded."""
    defaults = spec.defaults if spec else preset.defaults
    return {
        "name": preset.name,
        "title": preset.title,
        "description": preset.description,
        "loaded": spec is not None,
        "native_fps": spec.native_fps if spec else preset.native_fps,
        "width": defaults.width,
        "height": defaults.height,
        "params": defaults.schema(),
        "styles": [dict(style) for style in preset.styles],
    }
