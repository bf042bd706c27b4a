"""Chunks that were sent together, until all of them have arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines.ring.head import Head
from streamgen.core import Arrived, Pixels
from streamgen.errors import EngineError


class Arrival:
    """Collects what becomes of each chunk, and hands it over with the work that it was."""

    def __init__(
        self, sigmas: Sequence[float], steps: Sequence[int], head: Head, arrived: Callable[[Arrived], None]
    ) -> None:
        self._sigmas, self._steps, self._head, self._arrived = list(sigmas), list(steps), head, arrived
        self._pictures: list[Pixels | Exception] = [EngineError("it is under way") for _ in steps]
        self._left = len(steps)

    def chunk(self, index: int) -> Callable[[Pixels | Exception], None]:
        """For what becomes of the chunk with this index."""

        def shown(picture: Pixels | Exception) -> None:
            self._pictures[index] = picture
            self._left -= 1
            if not self._left:
                self._hand_over()

        return shown

    def _hand_over(self) -> None:
        head, rows, chunks = self._head, sum(self._steps), len(self._steps)
        times = head.times
        self._arrived(
            Arrived(
                pictures=self._pictures,
                sigmas=self._sigmas,
                encode=times.encode * chunks,
                denoise=times.denoise(head.balancer.split) * rows,
                decode=times.decode * chunks,
                calls=rows if head.one_by_one else max(self._steps),
                rows=rows,
            )
        )
