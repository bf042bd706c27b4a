"""Sessions of the Python SDK with synthetic cameras, and what becomes of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamgen.client import Client, Event, Moved, Session
from tests.support.processes import until


def pictures() -> Iterator[np.ndarray]:
    """Grey pictures (96, 160) without end, each a little brighter than the one before."""
    for number in itertools.count():
        yield np.full((96, 160, 3), 20 + 5 * number % 200, np.uint8)


class Crowd:
    """Several sessions at one address."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.moves: list[Moved] = []

    async def open(self, client: Client, count: int, **params: Any) -> None:
        small: dict[str, Any] = {"fps": 8.0, "width": 128, "height": 64, "on_event": self._hear}
        for number in range(count):
            self.sessions.append(await client.open(pictures(), prompt=f"prompt {number}", **small | params))

    @property
    def places(self) -> Counter[str]:
        """Sessions by the node that has them."""
        return Counter(session.id.partition(".")[0] for session in self.sessions)

    @property
    def prompts(self) -> list[object]:
        return [session.params["prompt"] for session in self.sessions]

    async def flow(self) -> None:
        """Waits until every session has got some more results from where it is now."""
        seen = [session.received for session in self.sessions]
        await until(
            lambda: all(
                session.state == "live" and session.received >= before + 3
                for session, before in zip(self.sessions, seen, strict=True)
            )
        )
        assert not any(session.closed for session in self.sessions)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Moved):
            self.moves.append(event)
