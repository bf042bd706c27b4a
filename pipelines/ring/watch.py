"""What a rank's work takes, measured where it is done: on a GPU by its own clock, without waiting for it."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pipelines.ring.operations import Report


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """A piece of work on a GPU between two events."""

    name: str
    amount: int
    rows: int
    before: torch.cuda.Event
    after: torch.cuda.Event


class Watch:
    """Adds up until `report` is asked for."""

    def __init__(self, rank: int, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._rank, self._device, self._clock = rank, device, clock
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._amounts: defaultdict[str, int] = defaultdict(int)
        self._passes: dict[int, tuple[int, float]] = {}
        self._failures: dict[int, str] = {}
        self._open: deque[_Span] = deque()

    @contextmanager
    def span(self, name: str, amount: int, rows: int = 0) -> Iterator[None]:
        """Measures what is done within as `amount` of `name`; `rows`: of a pass through the blocks."""
        if self._device.type != "cuda":
            began = self._clock()
            yield
            self._add(name, amount, rows, self._clock() - began)
            return
        span = _Span(name, amount, rows, _event(), _event())
        span.before.record()
        yield
        span.after.record()
        self._open.append(span)

    def failed(self, stream: int, why: str) -> None:
        """A stream's rows could not be computed."""
        self._failures[stream] = why

    def report(self) -> Report:
        """All that is known now, which is forgotten here."""
        while self._open and self._open[0].after.query():
            span = self._open.popleft()
            self._add(span.name, span.amount, span.rows, span.before.elapsed_time(span.after) / 1000)
        report = Report(self._rank, dict(self._seconds), dict(self._amounts), self._passes, self._failures)
        self._seconds.clear()
        self._amounts.clear()
        self._passes, self._failures = {}, {}
        return report

    def _add(self, name: str, amount: int, rows: int, seconds: float) -> None:
        self._seconds[name] += seconds
        self._amounts[name] += amount
        if rows:
            count, took = self._passes.get(rows, (0, 0.0))
            self._passes[rows] = count + 1, took + seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
