"""Stages in threads of their own, one behind the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """Takes things through all stages, in the order in which they were put; a stage works while the others do.

        put -> [1] -> stage -> [1] -> stage ...      one place before each stage: who is faster waits

    What a stage raises ends the line: nothing more goes through, and `put`, or else the end of the `with`, raises it.
    """

    def __init__(self, stages: Sequence[Callable[[T], None]], broken: Callable[[], None]) -> None:
        """`broken` is called, in the stage's thread, when a stage has raised."""
        self._broken = broken
        self._error: Exception | None = None
        self._places: list[queue.Queue[T | None]] = [queue.Queue(1) for _ in stages]
        ways = zip(stages, self._places, [*self._places[1:], None], strict=True)
        self._threads = [
            threading.Thread(target=self._work, args=way, name=f"stage-{i}", daemon=True) for i, way in enumerate(ways)
        ]

    def __enter__(self) -> Line[T]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._places[0].put(None)
        for thread in self._threads:
            thread.join()
        if error is None:
            self._check()

    def put(self, thing: T) -> None:
        """Waits for a place."""
        self._check()
        self._places[0].put(thing)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(
        self, stage: Callable[[T], None], place: queue.Queue[T | None], onward: queue.Queue[T | None] | None
    ) -> None:
        while (thing := place.get()) is not None:
            if self._run(stage, thing) and onward is not None:
                onward.put(thing)
        if onward is not None:
            onward.put(None)

    def _run(self, stage: Callable[[T], None], thing: T) -> bool:
        """Whether the thing may go on. In a broken line things are taken, so that nobody waits, and go nowhere."""
        if self._error is not None:
            return False
        try:
            stage(thing)
        except Exception as error:  # noqa: BLE001 - goes to the thread that owns the line
            self._error = error
            self._broken()
            return False
        return True
