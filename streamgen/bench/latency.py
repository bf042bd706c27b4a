"""The latency benchmark: clients that send stamped pictures, and read their own stamps in what comes back."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamgen.bench import scenes
from streamgen.bench.barcode import Barcode, Pixels
from streamgen.bench.measure import Figures, Log, ServerCounts, figures, overall
from streamgen.client import Client, ConnectError, Frame, Session
from streamgen.errors import StreamgenError

BUFFER = 64  # results that wait to be read: none may be skipped, each is counted


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out: per session its figures or its error, and all that worked together."""

    sessions: tuple[Figures | StreamgenError, ...]
    overall: Figures | None

    @property
    def errors(self) -> list[str]:
        """One line for each session that failed."""
        failed = ((number, it) for number, it in enumerate(self.sessions, 1) if isinstance(it, StreamgenError))
        return [f"session {number}: {error}" for number, error in failed]

    def as_dict(self) -> dict[str, object]:
        """The `results` of the report."""
        return {
            "sessions": [
                {"error": str(it)} if isinstance(it, StreamgenError) else it.as_dict() for it in self.sessions
            ],
            "overall": self.overall and self.overall.as_dict(),
        }


async def measure(client: Client, settings: Settings) -> Outcome:
    """Runs all sessions at once. A session that fails does not end the others."""
    started = time.monotonic()
    logs = [Log(source=number, started=started, opened=started) for number in range(settings.sessions)]
    runs = await asyncio.gather(*(_run(client, settings, log) for log in logs))
    worked = [(log, run) for log, run in zip(logs, runs, strict=True) if isinstance(run, Figures)]
    together = overall([log for log, _ in worked], [run for _, run in worked]) if worked else None
    return Outcome(tuple(runs), together)


async def _run(client: Client, settings: Settings, log: Log) -> Figures | StreamgenError:
    try:
        return await _measure_session(client, settings, log)
    except StreamgenError as error:
        return error


async def _measure_session(client: Client, settings: Settings, log: Log) -> Figures:
    barcode = Barcode(settings.width)
    pictures = await asyncio.to_thread(_pictures, settings, log.source)
    log.opened = time.monotonic()
    session = await client.open(
        _stamped(pictures, settings.seconds, log, barcode),
        fps=settings.fps,
        buffer=BUFFER,
        tail_s=settings.tail_s,
        width=settings.width,
        height=settings.height,
        stamp=True,
        **settings.params,
    )
    async with session:
        async for frame in session.frames():
            _note(log, barcode, frame)
        if session.skipped:
            raise ConnectError(f"this client could not keep up: {session.skipped} results were not looked at")
        if not session.received:
            raise ConnectError(f"no result came back for {session.sent} frames")
        return figures(log, await _counts(session))


def _pictures(settings: Settings, seed: int) -> Iterator[Pixels]:
    """What is to be sent, the first one made already: the time that takes is no part of what is measured."""
    size = settings.width, settings.height
    source = settings.input
    pictures = scenes.synthetic(*size, seed) if source is None else scenes.from_file(source, *size)
    return itertools.chain([next(pictures)], pictures)


def _stamped(pictures: Iterator[Pixels], seconds: float, log: Log, barcode: Barcode) -> Iterator[Pixels]:
    """`pictures` for `seconds`: each gets its stamp when it is asked for, which is when it is due."""
    first: float | None = None
    for picture in pictures:
        now = time.monotonic()
        first = now if first is None else first
        if now - first >= seconds:
            return
        barcode.draw(picture, log.stamp(now))
        yield picture


def _note(log: Log, barcode: Barcode, frame: Frame) -> None:
    log.result(barcode.read(frame.pixels), frame.received, frame.media_time)


async def _counts(session: Session) -> ServerCounts:
    stats = await session.fetch_stats()
    return ServerCounts(stats.deadline_misses, stats.drops)


def check(outcome: Outcome, gates: Mapping[str, float]) -> list[str]:
    """One line for every gate that a session missed. Gates: max_ttff_ms, max_p95_ms, max_growth_ms, min_fps_out."""
    numbered = [(number, it) for number, it in enumerate(outcome.sessions, 1) if isinstance(it, Figures)]
    pairs = itertools.product(numbered, gates.items())
    missed = (_missed(name, limit, it, number) for (number, it), (name, limit) in pairs)
    mixed = [f"session {number}: {it.foreign} results were another session's" for number, it in numbered if it.foreign]
    return [line for line in missed if line] + mixed


def _missed(gate: str, limit: float, session: Figures, number: int) -> str | None:
    kind, _, name = gate.partition("_")
    value = _gated(name, session)
    if value is None:
        return f"session {number}: {name} was not measured"
    if value > limit if kind == "max" else value < limit:
        return f"session {number}: {name} {value:.1f} is {'over' if kind == 'max' else 'under'} {limit:g}"
    return None


def _gated(name: str, session: Figures) -> float | None:
    match name:
        case "ttff_ms":
            return session.ttff_ms
        case "p95_ms":
            return session.glass_to_glass_ms["p95"]
        case "fps_out":
            return session.fps_out
        case "growth_ms":
            first, last = session.first_5s_p50, session.last_5s_p50
            return None if first is None or last is None else last - first
    raise ValueError(f"no gate on {name}")
