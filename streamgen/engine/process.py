"""One life of the worker: its process, its pipe, and the thread that starts it, listens to it and buries it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_tracker

from streamgen.engine.frames import FrameMemory
from streamgen.engine.messages import Failed, FromWorker, ToWorker, one_line
from streamgen.engine.worker import main
from streamgen.errors import WorkerDiedError

logger = logging.getLogger(__name__)

BURIAL_S = 5.0
"""How long a process may take to end after its end of the pipe is closed, and again after it was killed."""


class WorkerProcess:
    """Starts at once, in a thread; `ended` gets the reason when process and pipe are gone, whatever happens before.

    Only the thread waits for the process and closes the pipe. `send` blocks where the worker does not read, so it
    belongs in another thread than the event loop's; the rest is for the event loop.
    """

    def __init__(self, factory: bytes, memory: FrameMemory, batch: int) -> None:
        """`factory` and `batch` as worker.main takes them."""
        context = multiprocessing.get_context("spawn")
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pid: int | None = None
        """Process id, once it has one."""
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._connection, self._workers_end = context.Pipe()
        # daemon: multiprocessing ends it where the interpreter exits without stop().
        self._process = context.Process(
            target=main, args=(self._workers_end, factory, memory, batch), name="streamgen-worker", daemon=True
        )
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._running = False
        """Started and not buried: may be killed. Guarded by _lock, as is the next."""
        self._killed_because: str | None = None
        threading.Thread(target=self._live, name="worker-process", daemon=True).start()

    def send(self, message: ToWorker) -> None:
        """Raises WorkerDiedError where nobody listens any more."""
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            raise WorkerDiedError("the worker has ended") from None

    async def receive(self) -> FromWorker:
        """The next message. Raises WorkerDiedError with the reason when there will be no more."""
        message = await self._received.get()
        if message is None:
            self._received.put_nowait(None)  # for whoever asks next
            raise WorkerDiedError(self.ended.result())
        return message

    def kill(self, reason: str) -> None:
        """Ends the process at once; `ended` gets `reason`, unless it has ended already."""
        with self._lock:
            if self._killed_because is None:
                self._killed_because = reason
            if self._running:
                self._process.kill()

    def _live(self) -> None:
        try:
            self._start()
        except OSError as error:
            reason = f"the worker could not be started: {one_line(error)}"
        else:
            last_words = self._listen()
            status = self._bury()
            reason = self._killed_because or last_words or status
        self._workers_end.close()
        with self._sending:
            self._connection.close()
        self._post(partial(self._end, reason))

    def _start(self) -> None:
        # The worker must not see a Ctrl-C before it can ignore it, so it inherits a mask that blocks it; the tracker
        # of multiprocessing, where it starts only now, would lift the mask again.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._process.start()
        self._workers_end.close()  # so that the pipe ends with the worker
        with self._lock:
            self.pid = self._process.pid
            self._running = True
            if self._killed_because is not None:
                self._process.kill()

    def _listen(self) -> str | None:
        """Passes messages on until the pipe ends; returns what the worker said of its own end, if anything."""
        last_words = None
        with contextlib.suppress(EOFError, OSError):
            while True:
                message: FromWorker = self._connection.recv()
                if isinstance(message, Failed):
                    last_words = message.message
                    logger.debug("worker failed:\n%s", message.trace)
                else:
                    self._post(partial(self._received.put_nowait, message))
        return last_words

    def _bury(self) -> str:
        """Waits until the process is gone, with force where it takes long; returns how it ended."""
        self._process.join(BURIAL_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(BURIAL_S)  # even a kill waits for a driver that hangs
        status = self._process.exitcode
        with self._lock:
            self._running = False
        if status is None:
            return "the worker has closed its pipe and cannot be ended"
        self._process.close()
        return f"the worker exited with status {status}" if status >= 0 else f"the worker got {_signal_name(-status)}"

    def _end(self, reason: str) -> None:
        self.ended.set_result(reason)
        self._received.put_nowait(None)

    def _post(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
