"""One process of a team: how it comes into being, its pipe, and how it ends."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from streamgen.allocator import keep_large_blocks
from streamgen.engine.heartbeat import Pulse
from streamgen.engine.messages import Failed, FromWorker, one_line

logger = logging.getLogger(__name__)

BURIAL_S = 5.0
"""How long a process may take to end after its end of the pipe is closed, and again after it was killed."""

_FORKS = sys.platform == "linux"  # elsewhere what libraries do in a process does not always survive its fork

_OURS = "streamgen.engine.crew"

_MASKED = {signal.SIGINT, signal.SIGTERM}


def preload(modules: Sequence[str]) -> None:
    """Has processes begin with these modules imported: they are forked from one that does nothing else. Of effect
    before the first process is started; what is not installed is passed over.

    No module may use a GPU, or leave a thread behind, when it is imported: neither survives a fork.
    """
    if _FORKS:
        multiprocessing.get_context("forkserver").set_forkserver_preload([_OURS, *modules])


def mask_signals() -> None:
    """For the thread that starts processes. They must not see a Ctrl-C before they can ignore it, so they inherit a
    mask that blocks it; the tracker of multiprocessing, where it starts only now, would lift the mask again. The
    process that they are forked from keeps the mask, and ends with the service.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, _MASKED)


@dataclass(frozen=True, slots=True)
class Birth:
    """What a process is given beside its work."""

    pulse: Pulse
    rank: int
    environment: Mapping[str, str]
    """The service's as it is now; that of the process it is forked from is as old as that one."""


class Process:
    """Its end is seen by its pipe, which closes with it; `bury` makes sure of it. `kill` may come at any time and from
    any thread, the rest is for one thread.
    """

    def __init__(self, title: str, main: Callable[..., None], arguments: Sequence[Any], birth: Birth) -> None:
        """Starts it. `main(connection, *arguments)` is what it does. Raises OSError where it cannot be started."""
        self.title = title
        self.last_words: Failed | None = None
        self.closed = False
        """Its end of the pipe is."""
        self.connection, its_end = multiprocessing.Pipe()
        try:
            self._process = _started(title, (birth, main, its_end, *arguments))
        except BaseException:
            self.connection.close()
            raise
        finally:
            its_end.close()  # so that the pipe ends with the process
        assert self._process.pid is not None, "a process that was started has a pid"
        self.pid = self._process.pid
        self.status: int | None = None
        """How it ended, once it is buried: as a shell has it, and below 0 for a signal. None where it will not end."""
        self._lock = threading.Lock()
        self._buried = False

    def take(self) -> FromWorker | None:
        """The next message; None where it was its last words, or there will be no more."""
        try:
            message: FromWorker = self.connection.recv()
        except (EOFError, OSError):
            self.closed = True
            return None
        if not isinstance(message, Failed):
            return message
        self.last_words = message
        logger.debug("%s failed:\n%s", self.title, message.trace)
        return None

    def kill(self) -> None:
        """Ends it at once, if it has not ended."""
        with self._lock:
            if not self._buried:
                self._process.kill()

    def bury(self) -> None:
        """Waits until it is gone, with force where it takes long. Its pipe is for the caller to close."""
        self._process.join(BURIAL_S)
        if self._process.exitcode is None:
            self.kill()
            self._process.join(BURIAL_S)  # even a kill waits for a driver that hangs
        self.status = self._process.exitcode
        with self._lock:
            self._buried = True
        if self.status is not None:
            self._process.close()

    @property
    def end(self) -> str:
        """How it ended, in words, but for its own ones."""
        if self.status is None:
            return f"{self.title} has closed its pipe and cannot be ended"
        if self.status < 0:
            return f"{self.title} got {_signal_name(-self.status)}"
        return f"{self.title} exited with status {self.status}"


def _started(title: str, arguments: Sequence[Any]) -> BaseProcess:
    """Forked where possible, else from a new interpreter: that takes longer, but there is less that it can fail of."""
    # daemon: multiprocessing ends it where the interpreter exits without our doing so.
    name = f"streamgen: {title}"
    if _FORKS:
        forked = multiprocessing.get_context("forkserver").Process(target=_run, args=arguments, name=name, daemon=True)
        try:
            forked.start()
        except (EOFError, OSError) as error:
            logger.warning("%s cannot be forked, which makes it start later: %s", title, one_line(error))
        else:
            return forked
    spawned = multiprocessing.get_context("spawn").Process(target=_run, args=arguments, name=name, daemon=True)
    spawned.start()
    return spawned


def _run(birth: Birth, main: Callable[..., None], *arguments: Any) -> None:
    """The process itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the service decides when to end
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _MASKED)
    os.environ.update(birth.environment)
    keep_large_blocks()
    birth.pulse.keep(birth.rank)
    main(*arguments)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
