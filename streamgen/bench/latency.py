"""The latency benchmark: clients that send stamped pictures, and read their own stamps in what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamgen.bench.admission import enter
from streamgen.bench.camera import Camera, Reel, reel
from streamgen.bench.measure import Figures, Log, ServerCounts, figures, overall
from streamgen.bench.trace import Arrival, constant
from streamgen.client import Client, ConnectError, Event, Quality, ServiceError, Session, Stats
from streamgen.errors import StreamgenError

BUFFER = 64  # results that wait to be read: none may be skipped, each is counted

NOTHING_COUNTED = ServerCounts(0, {})


@dataclass(frozen=True, slots=True)
class Settings:
    """What is sent, to how many sessions, for how long."""

    seconds: float = 20.0
    fps: float = 16.0
    width: int = 320
    height: int = 192
    sessions: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    """Further session parameters: prompt, steps, noise, ..."""
    input: Path | None = None
    tail_s: float = 2.0
    arrivals: tuple[Arrival, ...] = ()
    """Which sessions come when, in place of `sessions` at once with the above."""
    jitter_ms: float = 0.0
    """By how much frames may come later than they are due."""
    patience_s: float = 0.0
    """For how long a session asks again where there is no room."""

    def each(self) -> tuple[Arrival, ...]:
        """The sessions, one by one."""
        like = Arrival(self.seconds, self.fps, self.width, self.height, params=self.params)
        return self.arrivals or constant(like, self.sessions)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out: per session its figures or its error, and all that worked together."""

    sessions: tuple[Figures | StreamgenError, ...]
    overall: Figures | None
    logs: tuple[Log, ...] = ()
    """Of the same sessions, all that they saw."""

    @property
    def errors(self) -> list[str]:
        """One line for each session that failed."""
        failed = ((number, it) for number, it in enumerate(self.sessions, 1) if isinstance(it, StreamgenError))
        return [f"session {number}: {error}" for number, error in failed]

    @property
    def measured(self) -> list[tuple[int, Figures]]:
        """The others, with their numbers."""
        return [(number, it) for number, it in enumerate(self.sessions, 1) if isinstance(it, Figures)]

    def as_dict(self) -> dict[str, object]:
        """The `results` of the report."""
        return {
            "sessions": [
                {"error": str(it)} if isinstance(it, StreamgenError) else it.as_dict() for it in self.sessions
            ],
            "overall": self.overall and self.overall.as_dict(),
        }


async def measure(client: Client, settings: Settings) -> Outcome:
    """Runs all sessions, each when it is to come. One that fails does not end the others.

    Raises MediaFileError where the pictures are to come from a file that is no video.
    """
    arrivals = settings.each()
    reels = await asyncio.to_thread(_reels, settings.input, arrivals)  # before the clock starts
    started = time.monotonic()
    logs = [
        Log(number, started, started, layout=pictures.barcode.layout, start_s=it.start_s, slo_ms=it.slo_ms)
        for number, (it, pictures) in enumerate(zip(arrivals, reels, strict=True))
    ]
    visits = [_Visit(client, settings, *each) for each in zip(arrivals, reels, logs, strict=True)]
    runs = await asyncio.gather(*(visit.run() for visit in visits))
    worked = [(log, run) for log, run in zip(logs, runs, strict=True) if isinstance(run, Figures)]
    together = overall([log for log, _ in worked], [run for _, run in worked]) if worked else None
    return Outcome(tuple(runs), together, tuple(logs))


def _reels(file: Path | None, arrivals: Sequence[Arrival]) -> list[Reel]:
    """One for each session; sessions of the same size share theirs. Blocking. Raises MediaFileError."""
    most: dict[tuple[int, int], int] = {}
    for it in arrivals:
        size = it.width, it.height
        most[size] = max(most.get(size, 1), round(it.seconds * it.fps))
    made = {size: reel(file, *size, count) for size, count in most.items()}
    return [made[it.width, it.height] for it in arrivals]


class _Visit:
    """One session, from its arrival to its figures."""

    def __init__(self, client: Client, settings: Settings, arrival: Arrival, pictures: Reel, log: Log) -> None:
        self._client = client
        self._settings = settings
        self._arrival = arrival
        self._pictures = pictures
        self._log = log
        self._stats: Stats | None = None

    async def run(self) -> Figures | StreamgenError:
        """Its figures, or what made it fail."""
        log = self._log
        await asyncio.sleep(log.started + self._arrival.start_s - time.monotonic())
        log.opened = time.monotonic()
        try:
            counts = await self._counted()
        except StreamgenError as error:
            return error
        finally:
            log.admission.left = time.monotonic()
        return figures(log, counts)

    async def _counted(self) -> ServerCounts:
        """Raises StreamgenError."""
        admission = self._log.admission
        session = await enter(self._open, admission, self._settings.patience_s)
        if session is None:
            return NOTHING_COUNTED
        admission.state(session.state, time.monotonic())
        async with session:
            try:
                await self._read(session)
                return await self._end(session)
            except ServiceError as error:
                if not admission.waiting:
                    raise
                admission.reason = error.message  # it was sent away from the queue
                return NOTHING_COUNTED

    async def _open(self) -> Session:
        arrival, settings = self._arrival, self._settings
        camera = Camera(self._pictures, self._log, arrival.fps, arrival.seconds, settings.jitter_ms / 1000)
        return await self._client.open(
            camera,
            fps=arrival.fps,
            buffer=BUFFER,
            tail_s=settings.tail_s,
            on_event=self._heard,
            width=arrival.width,
            height=arrival.height,
            stamp=True,
            **arrival.params,
        )

    async def _read(self, session: Session) -> None:
        log, barcode = self._log, self._pictures.barcode
        async for frame in session.frames():
            log.result(barcode.read(frame.pixels), frame.received, frame.media_time)
            self._look(session.stats)

    async def _end(self, session: Session) -> ServerCounts:
        """What the service counted, once all is there that comes."""
        admission = self._log.admission
        if session.skipped:
            raise ConnectError(f"this client could not keep up: {session.skipped} results were not looked at")
        if not session.received and not admission.waiting:
            raise ConnectError(f"no result came back for {session.sent} frames")
        stats = await session.fetch_stats()
        self._look(stats)
        self._log.held = max(0, len(self._log.sent) - session.sent)
        if admission.waiting:
            admission.reason = f"still in the queue after {self._arrival.seconds:g} s"
        return ServerCounts(stats.deadline_misses, stats.drops)

    def _heard(self, event: Event) -> None:
        now = time.monotonic()
        self._log.admission.take(event, now)
        if isinstance(event, Quality):
            self._log.rungs.told(event, now - self._log.started)

    def _look(self, stats: Stats | None) -> None:
        """Takes note of statistics that are new."""
        if stats is not None and stats is not self._stats:
            self._stats = stats
            self._log.stage(stats.stages_ms)
            self._log.rungs.seen(stats.plan, time.monotonic() - self._log.started)
