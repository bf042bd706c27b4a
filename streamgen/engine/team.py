"""Devices that work together: a process for each, of which the first one speaks with the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from streamgen.core import Pipeline

STARTS = 2
"""As many starts in a row that fail because of one device are enough to go on without it."""


@dataclass(frozen=True, slots=True)
class Team:
    """What each process does. All of it must be picklable.

    Each is given the path of a file that does not exist yet, where they can find each other; it is their own, and gone
    when the last of them is.
    """

    head: Callable[[str], Pipeline[Any]]
    """Rank 0: builds the pipeline that the engine works with."""
    others: tuple[Callable[[str], None], ...]
    """Ranks 1 and on: each returns when the head stops the team, and raises when the team breaks."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What teams are formed of."""

    names: tuple[str, ...]
    team: Callable[[tuple[str, ...]], Team]
    """A team of these devices, or of fewer of them: one process each, in their order. May raise StreamgenError."""


def alone(factory: Callable[[], Pipeline[Any]]) -> Devices:
    """One process, on the device that the factory chooses; it has no name of its own."""
    return Devices(("",), partial(_alone, factory))


def title(rank: int, name: str) -> str:
    """What a process is called where people read it."""
    return f"rank {rank} ({name})" if name else "the worker"


class Muster:
    """The devices that are left: without those because of which STARTS starts have failed, and none worked since.

    The last one is left whatever it does.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._failures = Counter[int]()
        """By rank."""

    def started(self) -> None:
        """A team of these devices works."""
        self._failures.clear()

    def failed(self, rank: int) -> str | None:
        """A start failed because of this rank. The name of its device, if it is left out from now on."""
        self._failures[rank] += 1
        if self._failures[rank] < STARTS or len(self.names) == 1:
            return None
        name, self.names = self.names[rank], self.names[:rank] + self.names[rank + 1 :]
        self._failures.clear()
        return name


@dataclass(frozen=True, slots=True)
class _Head:
    factory: Callable[[], Pipeline[Any]]

    def __call__(self, _: str) -> Pipeline[Any]:
        return self.factory()


def _alone(factory: Callable[[], Pipeline[Any]], _: tuple[str, ...]) -> Team:
    return Team(_Head(factory), ())
