"""The order of StreamDiffusionV2's ring (arXiv 2511.07399, pipeline orchestration), for comparison with ours."""

from __future__ import annotations

from typing import TypeVar

from pipelines.ring.entrance import Entrance, Traveller

T = TypeVar("T")


class StreamBatchEntrance(Entrance[T]):
    """One stream's rows in batches, one batch for each rank: what comes round goes on with a new chunk beside it.

    In the steady state a batch holds a row of each step, so that one clean latent leaves the ring with every batch, and
    all rows of a batch wait for each other.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self._alone = ranks
        """Batches yet to be begun with nothing but a new chunk."""

    def able(self) -> int:
        return len(self._batch())

    def next(self, most: int) -> list[Traveller[T]]:
        del most
        batch = self._batch()
        if batch and not batch[0].sent:
            self._alone -= 1
        for traveller in batch:
            self._waiting.remove(traveller)
            traveller.sent += 1
            if traveller.sent == traveller.steps:
                self._leave(traveller)
        if batch and all(traveller.sent == traveller.steps for traveller in batch):
            self._alone += 1  # nothing of it comes round: another may begin in its place
        return batch

    def _batch(self) -> list[Traveller[T]]:
        back = [it for it in self._waiting if it.sent]
        new = [it for it in self._waiting if not it.sent]
        if back:
            return back + new[:1]
        return new[:1] if self._alone > 0 else []
