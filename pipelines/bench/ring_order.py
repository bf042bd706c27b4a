"""The order of StreamDiffusionV2's ring (arXiv 2511.07399, pipeline orchestration), for comparison with ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pipelines.ring.entrance import Entrance, Traveller

T = TypeVar("T")


class StreamBatchEntrance(Entrance[T]):
    """One stream's rows in batches, one batch for each rank: what comes round goes on with a new chunk beside it.

    In the steady state a batch holds a row of each step, so that one clean latent leaves the ring with every batch, and
    all rows of a batch wait for each other.
    """

    def __init__(self, ranks: int, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.entered: list[float] = []
        """When each chunk entered, in their order (s)."""
        self._clock = clock
        self._alone = ranks
        """Batches yet to be begun with nothing but a new chunk."""
        self._batches = 0
        self._batch_of: dict[int, int] = {}
        """By the number of a chunk under way."""

    def able(self) -> int:
        return len(self._next()[0])

    def next(self, most: int) -> list[Traveller[T]]:
        del most
        batch, number = self._next()
        if batch and number is None:
            self._alone -= 1
            self._batches += 1
            number = self._batches
        for traveller in batch:
            self._waiting.remove(traveller)
            if not traveller.sent:
                self.entered.append(self._clock())
            traveller.sent += 1
            if traveller.sent == traveller.steps:
                self._leave(traveller)
                self._batch_of.pop(traveller.number, None)
            elif number is not None:
                self._batch_of[traveller.number] = number
        if batch and all(traveller.sent == traveller.steps for traveller in batch):
            self._alone += 1  # nothing of it comes round: another may begin in its place
        return batch

    def _next(self) -> tuple[list[Traveller[T]], int | None]:
        """Rows of the batch that came round first, with a new one; or the first of a new batch, which has no number."""
        back = [it for it in self._waiting if it.sent]
        new = [it for it in self._waiting if not it.sent][:1]
        if back:
            number = self._batch_of[back[0].number]
            return [it for it in back if self._batch_of[it.number] == number] + new, number
        return (new if self._alone > 0 else []), None
