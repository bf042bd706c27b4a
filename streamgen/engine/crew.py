"""One life of a team: its processes, and the thread that starts them, looks after them and buries them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from streamgen.engine import rank, worker
from streamgen.engine.frames import FrameMemory
from streamgen.engine.heartbeat import BEAT_S, SILENT_S, Pulse, Watch
from streamgen.engine.messages import FromWorker, Ready, ToWorker, one_line
from streamgen.engine.process import BURIAL_S, Birth, Process, mask_signals
from streamgen.engine.team import Team, title
from streamgen.errors import EngineError, WorkerDiedError


@dataclass(frozen=True, slots=True)
class End:
    """How a team has ended."""

    reason: str
    culprit: int | None = None
    """The rank that failed or exited of its own accord, and so ended the others: None where it was a signal, where all
    were killed, and where they could not even be started."""


class Crew:
    """Starts at once, in a thread; `ended` gets the reason when all processes and pipes are gone, whatever happens.

    Where one process ends, for whatever reason, or is silent for too long once the team is ready, the others are
    killed.

    Only the thread waits for processes and closes pipes. `send` blocks where the head does not read, so it belongs in
    another thread than the event loop's; the rest is for the event loop.
    """

    def __init__(self, names: tuple[str, ...], team: Team, memory: FrameMemory, batch: int) -> None:
        """`names` are the devices of the team, in the order of its processes; `memory` and `batch` as worker.main takes
        them.
        """
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.culprit: int | None = None
        """As End has it, when the team has ended."""
        self._titles = [title(number, name) for number, name in enumerate(names)]
        self._alone = names == ("",)
        self._team = team
        self._memory = memory
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._sending = threading.Lock()
        self._ready = False
        """The head is. How long that may take is for the service to judge: nobody's silence counts until then."""
        self._lock = threading.Lock()
        self._processes: list[Process] = []
        """By rank, those that have started. Guarded by _lock, as is the next."""
        self._killed_because: str | None = None
        threading.Thread(target=self._live, name="crew", daemon=True).start()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids, by rank, of those that have started."""
        return tuple(process.pid for process in self._processes)

    def send(self, message: ToWorker) -> None:
        """To the head, once it is ready. Raises WorkerDiedError where nobody listens any more."""
        try:
            with self._sending:
                self._processes[0].connection.send(message)
        except OSError:
            raise WorkerDiedError("the worker has ended") from None

    async def receive(self) -> FromWorker:
        """The head's next message. Raises WorkerDiedError with the reason when there will be no more."""
        message = await self._received.get()
        if message is None:
            self._received.put_nowait(None)  # for whoever asks next
            raise WorkerDiedError(self.ended.result())
        return message

    def kill(self, reason: str) -> None:
        """Ends all processes at once; `ended` gets `reason`, unless they have ended already."""
        self._kill(reason)
        if len(self._processes) < len(self._titles):
            self._loop.call_later(BURIAL_S, self._give_up)

    def _live(self) -> None:
        with contextlib.ExitStack() as belongings:
            try:
                pulse = self._start(belongings)
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the end
                end = End(self._killed_because or self._not_started(error))
                self._bury()
            else:
                ended = self._listen(pulse)
                self._bury()
                end = End(self._killed_because) if self._killed_because is not None else self._verdict(ended)
        self._post(partial(self._end, end))

    def _start(self, belongings: contextlib.ExitStack) -> Pulse:
        """All processes, unless they are not wanted any more. The team's belongings are gone with it."""
        mask_signals()
        pulse = Pulse(len(self._titles))
        belongings.callback(pulse.close)
        folder = "" if self._alone else tempfile.mkdtemp(prefix="streamgen-team-")
        if folder:
            belongings.callback(shutil.rmtree, folder, ignore_errors=True)
        environment = dict(os.environ)
        for number, (main, arguments) in enumerate(self._works(folder)):
            process = Process(self._titles[number], main, arguments, Birth(pulse, number, environment))
            with self._lock:
                self._processes.append(process)
            if self._killed_because is not None:
                break
        return pulse

    def _works(self, folder: str) -> list[tuple[Callable[..., None], Sequence[Any]]]:
        """What each process does: a function and its arguments."""
        path = str(Path(folder, "rendezvous"))
        head, *others = (_packed(part, path) for part in (self._team.head, *self._team.others))
        works: list[tuple[Callable[..., None], Sequence[Any]]] = [(worker.main, (head, self._memory, self._batch))]
        works += [(rank.main, (part, folder)) for part in others]
        if len(works) != len(self._titles):
            raise EngineError(f"a team of {len(works)} processes for {len(self._titles)} devices")
        return works

    def _listen(self, pulse: Pulse) -> list[Process]:
        """Passes on what the head says, until a process ends or is about to, or all are to be killed. Returns those
        that ended of themselves.
        """
        pipes: dict[Any, Process] = {process.connection: process for process in self._processes}
        watch = None
        while self._killed_because is None and not self._ended:
            for pipe in wait(list(pipes), BEAT_S):
                self._hear(pipes[pipe])
            if watch is None:
                watch = Watch(time.monotonic(), pulse.counts) if self._ready else None
            elif (silent := watch.look(time.monotonic(), pulse.counts)) is not None:
                self._kill(f"{self._titles[silent]} was silent for {SILENT_S:g} s")
        for process in self._processes:  # one whose end was the cause of another's closed its pipe before that
            self._hear(process)
        return self._ended

    @property
    def _ended(self) -> list[Process]:
        return [process for process in self._processes if process.closed or process.last_words is not None]

    def _hear(self, process: Process, patience_s: float = 0.0) -> None:
        """Passes on what it has said, until it says nothing for so long, or nothing any more."""
        while not process.closed and process.connection.poll(patience_s):
            if (message := process.take()) is not None:
                self._ready |= isinstance(message, Ready)
                self._post(partial(self._received.put_nowait, message))

    def _bury(self) -> None:
        """Ends all that have not ended, and waits for them; what the head had said before still counts."""
        for process in self._processes:
            if not process.closed:
                process.kill()
        for head in self._processes[:1]:
            self._hear(head, BURIAL_S)
        for process in self._processes:
            process.bury()
            with self._sending:
                process.connection.close()

    def _verdict(self, ended: Sequence[Process]) -> End:
        """What to say of the end that these have brought about."""
        cause = min(ended, key=_precedence)
        if cause.last_words is None:
            by_signal = cause.status is None or cause.status < 0
            return End(cause.end, None if by_signal else self._processes.index(cause))
        words = cause.last_words.message
        return End(words if self._alone else f"{cause.title} failed: {words}", self._processes.index(cause))

    def _not_started(self, error: Exception) -> str:
        if isinstance(error, EngineError):
            return error.message
        return f"{self._titles[len(self._processes)]} could not be started: {one_line(error)}"

    def _kill(self, reason: str) -> None:
        with self._lock:
            if self._killed_because is None:
                self._killed_because = reason
            for process in self._processes:
                process.kill()

    def _give_up(self) -> None:
        """A process that is still to come, from an interpreter that hangs with what it is to import, is ended by the
        thread should it ever come.
        """
        if len(self._processes) < len(self._titles) and self._killed_because is not None:
            self._end(End(self._killed_because))

    def _end(self, end: End) -> None:
        if not self.ended.done():
            self.culprit = end.culprit
            self.ended.set_result(end.reason)
            self._received.put_nowait(None)

    def _post(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback)


def _precedence(process: Process) -> tuple[bool, float]:
    """Lowest for the process whose end was the cause of the others'. One that had no time for words, or no reason for
    any, comes before those that were able to complain, and of these the first.
    """
    words = process.last_words
    return (False, float(process.status == 0)) if words is None else (True, words.at)


def _packed(part: Callable[[str], Any], path: str) -> bytes:
    try:
        return pickle.dumps(partial(part, path))
    except Exception as error:  # noqa: BLE001 - pickle raises what it likes
        raise EngineError(f"the pipeline's factory cannot be sent to a worker: {one_line(error)}") from None
