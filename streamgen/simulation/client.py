"""A client of the service: comes, waits or is refused, sends its camera's frames, looks at results, goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from streamgen.core import Clock, PipelineSpec
from streamgen.errors import BusyError
from streamgen.metrics import Metrics
from streamgen.scheduler.loop import Loop
from streamgen.session import Session
from streamgen.simulation.baselines import Backlog
from streamgen.simulation.camera import Camera
from streamgen.simulation.contender import Contender
from streamgen.simulation.screen import Screen, Shown
from streamgen.simulation.trace import Visit
from streamgen.statistics import FOR_WANT_OF_TIME
from streamgen.wire import Queue, ServerMessage


@dataclass(frozen=True, slots=True)
class Counts:
    """Frames of a session."""

    came: int = 0
    in_time: int = 0
    late: int = 0
    """Handed over, but too late."""
    drops: Counter[str] = field(default_factory=Counter)
    overdue: int = 0
    """Queued without hope."""

    def since(self, before: Counts) -> Counts:
        """What was added to `before`."""
        return Counts(
            self.came - before.came,
            self.in_time - before.in_time,
            self.late - before.late,
            self.drops - before.drops,
            self.overdue - before.overdue,
        )

    @property
    def lost(self) -> int:
        """Dropped for want of time, or because quality was changed for it."""
        return sum(self.drops[reason] for reason in (*FOR_WANT_OF_TIME, "restart", "error"))

    @property
    def missed(self) -> int:
        """Frames that were to be in time and were not."""
        return self.late + self.lost + self.overdue

    @property
    def due(self) -> int:
        """Frames that were to be in time, as far as that is decided."""
        return self.in_time + self.missed


class Client:
    """Lives from `run` to its end. What it got, it counts from `mark` on."""

    def __init__(
        self,
        visit: Visit,
        began: float,
        spec: PipelineSpec,
        door: Callable[[], Loop],
        clock: Clock,
        metrics: Metrics,
        contender: Contender,
        random: Random,
    ) -> None:
        """`began`: when the trace begins, on the clock (s). `door` says, when the client comes, whose it will be."""
        self.visit = visit
        self.refusals = 0
        self.rungs: list[int] = []
        """As they were at each `look`."""
        self._began = began
        self._spec = spec
        self._door = door
        self._clock = clock
        self._metrics = metrics
        self._contender = contender
        self._random = random
        self._session: Session | None = None
        self._backlog: Backlog | None = None
        self._screen: Screen | None = None
        self._before = Counts()
        self._left: Counts | None = None
        self._shown_before = 0
        self.queued = False
        """Whether it was told to wait."""

    async def run(self) -> None:
        """Until it leaves, or gives up."""
        await self._until(self._began + self.visit.comes)
        session = await self._enter()
        if session is None:
            return
        self._screen = Screen(session, self._clock)
        session.connected()
        camera = Camera(session, self.visit.source.arrivals(self._clock.now(), self._random))
        camera.start()
        looking = asyncio.create_task(self._screen.run(), name="screen")
        try:
            await self._until(self._leaves)
        finally:
            camera.stop()
            self._left = self._counts()
            session.close()
            await looking

    @property
    def _leaves(self) -> float:
        return self._began + self.visit.leaves

    def mark(self) -> None:
        """Counts from now on."""
        self._before = self._counts()
        self._shown_before = len(self._screen.shown) if self._screen is not None else 0

    def look(self) -> None:
        """Notes the rung that it is at now."""
        if self._session is not None and self._session.state in ("warming", "live"):
            self.rungs.append(self._session.standing.rung)

    @property
    def counts(self) -> Counts:
        """Since `mark`."""
        return (self._left or self._counts()).since(self._before)

    @property
    def shown(self) -> list[Shown]:
        """Results since `mark`."""
        return [] if self._screen is None else self._screen.shown[self._shown_before :]

    @property
    def came_in(self) -> bool:
        """Whether it was admitted, at last."""
        return self._session is not None and self._session.standing.admitted

    async def _enter(self) -> Session | None:
        """The session, admitted or queued; None where the client gave up."""
        while True:
            loop = self._door()
            session = self._made(loop)
            try:
                loop.enter(session)
            except BusyError as error:
                self.refusals += 1
                again = self._clock.now() + (error.retry_after_s or 1)
                if not self.visit.returns or again >= self._leaves:
                    return None
                await self._until(again)
            else:
                self._session = session
                return session

    def _made(self, loop: Loop) -> Session:
        params = self._contender.of(self.visit.params)
        most = max(self._spec.chunk_frames, self._spec.first_chunk_frames)
        self._backlog = None if self._contender.drops else Backlog(most)
        return Session(
            self.visit.name,
            params,
            self._spec,
            scheduler=loop,
            clock=self._clock,
            metrics=self._metrics,
            notify=self._told,
            client=self.visit.name,
            inbox=self._backlog,
        )

    def _told(self, message: ServerMessage) -> None:
        self.queued = self.queued or isinstance(message, Queue)

    def _counts(self) -> Counts:
        if self._session is None:
            return Counts()
        statistics = self._session.statistics
        return Counts(
            statistics.frames_in,
            statistics.frames_out - statistics.deadline_misses,
            statistics.deadline_misses,
            Counter(statistics.drops),
            0 if self._backlog is None else self._backlog.overdue(self._clock.now()),
        )

    async def _until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, when - self._clock.now()))
