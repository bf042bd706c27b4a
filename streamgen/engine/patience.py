"""How long jobs may take that overtake each other, so that it cannot be told when one of them begins."""

from __future__ import annotations

import asyncio
from typing import Any


class Patience:
    """Lasts as long as answers come, however long one takes; but not for one for ever. Belongs to one event loop."""

    def __init__(self, jobs: int) -> None:
        """`jobs` is how many there are at once."""
        self._jobs = jobs
        self._heard = float("-inf")
        """When an answer came last, on the event loop's clock (s)."""

    def heard(self) -> None:
        """Some job was answered."""
        self._heard = asyncio.get_running_loop().time()

    async def wait(self, answered: asyncio.Future[Any], timeout_s: float) -> None:
        """Until a job is answered that was sent now.

        Raises TimeoutError where no job was for `timeout_s` (s), since this one was sent or the last answer; and where
        this one was not for `jobs` times as long, which is what all before it may take, each as long as it may.
        """
        loop = asyncio.get_running_loop()
        sent = loop.time()
        while not answered.done():
            last = min(max(sent, self._heard) + timeout_s, sent + self._jobs * timeout_s)
            if loop.time() >= last:
                raise TimeoutError
            await asyncio.wait({answered}, timeout=last - loop.time())
