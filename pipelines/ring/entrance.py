"""Which rows enter the ring next. Pure: the rule that keeps every cache causal.

Every rank runs the passes in the order in which the first rank sent them, so what holds at the entrance holds
everywhere. A row is a chunk at one of its steps. The rule, for the chunks of a stream:

    order     a chunk takes a step only after all earlier chunks have been sent through that step;
    end       and its last step only after all earlier chunks have been sent through theirs, so that they come out in
              their order, however many steps each has;
    alone     where the steps share a cache, or the chunk leads (denoiser.leads), chunks go one after the other.

Streams know nothing of each other. Among what may go the chunk that was sent first goes first: what is nearly done is
finished before something new is begun, which is what keeps latency at the sum of the steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Traveller(Generic[T]):
    """A chunk on its way round the ring."""

    row: T
    """As it is now; replaced when it comes back."""
    stream: Hashable
    number: int
    """Of all chunks, in the order in which they came."""
    steps: int
    """Steps in all."""
    alone: bool
    kind: Hashable
    """Rows of one kind can share a pass."""
    sent: int = 0
    """Steps that it was sent through."""


class Entrance(Generic[T]):
    """Travellers that wait for their next step, and those under way."""

    def __init__(self) -> None:
        self._waiting: list[Traveller[T]] = []
        self._unfinished: defaultdict[Hashable, list[Traveller[T]]] = defaultdict(list)
        """Of each stream, in their order: those with steps to be sent through yet."""

    @property
    def waiting(self) -> int:
        """How many wait, whether they may go or not."""
        return len(self._waiting)

    def come(self, traveller: Traveller[T]) -> None:
        """A chunk that is new to the ring."""
        self._unfinished[traveller.stream].append(traveller)
        self._waiting.append(traveller)

    def back(self, traveller: Traveller[T]) -> bool:
        """It has come round, and waits for its next step; False where its stream was forgotten meanwhile."""
        known = traveller in self._unfinished.get(traveller.stream, ())
        if known:
            self._waiting.append(traveller)
        return known

    def give_up(self, traveller: Traveller[T]) -> None:
        """It has come round and will take no more steps."""
        if traveller.sent < traveller.steps and traveller in self._unfinished.get(traveller.stream, ()):
            self._leave(traveller)

    def next(self, most: int) -> list[Traveller[T]]:
        """Takes up to `most` travellers that may share a pass now, the first of all first; none where none may go."""
        able = sorted((it for it in self._waiting if self._may_go(it)), key=lambda it: it.number)
        chosen = [it for it in able if it.kind == able[0].kind][:most]
        for traveller in chosen:
            self._waiting.remove(traveller)
            traveller.sent += 1
        for traveller in chosen:
            if traveller.sent == traveller.steps:
                self._leave(traveller)
        return chosen

    def begun(self) -> bool:
        """Whether one may go that has steps behind it."""
        return any(it.sent and self._may_go(it) for it in self._waiting)

    def able(self) -> int:
        """How many may go."""
        return sum(self._may_go(it) for it in self._waiting)

    def forget(self, stream: Hashable) -> list[Traveller[T]]:
        """Takes out the stream's chunks that wait; returns them. Those under way do not count for it any more."""
        gone = [it for it in self._waiting if it.stream == stream]
        self._waiting = [it for it in self._waiting if it.stream != stream]
        self._unfinished.pop(stream, None)
        return gone

    def clear(self) -> list[Traveller[T]]:
        """Takes out all that wait; returns them."""
        gone, self._waiting = self._waiting, []
        self._unfinished.clear()
        return gone

    def _may_go(self, traveller: Traveller[T]) -> bool:
        last = traveller.sent + 1 == traveller.steps
        for earlier in self._unfinished.get(traveller.stream, ()):
            if earlier is traveller:
                break
            if traveller.alone or earlier.alone or last or earlier.sent <= traveller.sent:
                return False
        return True

    def _leave(self, traveller: Traveller[T]) -> None:
        others = self._unfinished.get(traveller.stream)
        if others is None:
            return
        others.remove(traveller)
        if not others:
            del self._unfinished[traveller.stream]
