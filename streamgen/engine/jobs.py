"""What the service has sent and the worker has not begun yet."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from streamgen.engine.messages import Chunk, Close, Run, ToWorker


@dataclass(frozen=True, slots=True)
class Tend:
    """From within the worker: something has failed, and has to be looked after by the thread that works."""


class Jobs:
    """Messages in their order. A job loses the chunks of sessions that are closed before it begins.

    `put` is for any thread, `get` and `begin` for the one that works.
    """

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[ToWorker | Tend] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[int, set[str]] = {}
        """The sessions closed since, of each job that has not begun."""

    def put(self, message: ToWorker | Tend) -> None:
        """One more message."""
        with self._lock:
            if isinstance(message, Run):
                self._waiting[message.job] = set()
            if isinstance(message, Close):
                for closed in self._waiting.values():
                    closed.add(message.session)
        self._messages.put(message)

    def get(self) -> ToWorker | Tend:
        """The next message; waits for it."""
        return self._messages.get()

    def begin(self, job: Run) -> list[Chunk]:
        """The job's chunks that are still wanted. From now on it is too late to take one back. Once for each job."""
        with self._lock:
            closed = self._waiting.pop(job.job)
        return [chunk for chunk in job.chunks if chunk.session not in closed]
