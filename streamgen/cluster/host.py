"""A node's process on this machine, as long as it lives, and what it says of itself."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe

from streamgen.cluster.messages import Birth, Failed, FromMember, Order, Report, Settings, Stop, Told

STOP_S = 12.0
"""A process that is told to end gets this long."""


class Host:
    """Starts the process at once. One thread listens to it, and buries it: then `ended` is set."""

    def __init__(self, settings: Settings, name: str, address: str, public: str = "") -> None:
        """`name` is the node's, `address` the machine's; see Birth for `public`."""
        self.life = secrets.token_hex(8)
        self.ended = threading.Event()
        self.was_ready = False
        self._lock = threading.Lock()
        self._report: Report | None = None
        self._heard = time.monotonic()
        self._problem = ""
        self._connection, theirs = Pipe()
        # Not by multiprocessing, whose children import the main program: here it is Ray's.
        program = f"import sys; sys.path[:] = {sys.path!r}; from streamgen.cluster.member import main"
        command = [sys.executable, "-c", f"{program}; main({theirs.fileno()})"]
        descriptors = [theirs.fileno()]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors)  # noqa: S603
        theirs.close()  # so that the pipe ends with the process
        with contextlib.suppress(OSError):  # it has ended already, which the thread finds out
            self._connection.send(Birth(settings, name, address, public))
        threading.Thread(target=self._live, name="node", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def told(self) -> Told:
        """What there is to know."""
        with self._lock:
            return Told(self.life, self._report, time.monotonic() - self._heard, self._problem)

    def send(self, order: Order) -> None:
        """Never fails: a process that is gone needs no orders."""
        with contextlib.suppress(OSError):
            self._connection.send(order)

    def stop(self) -> None:
        """Ends the process in order, by force where that takes long; waits until it is gone."""
        self.send(Stop())
        if not self.ended.wait(STOP_S):
            self._process.kill()
            self.ended.wait()

    def _live(self) -> None:
        last_words = ""
        with contextlib.suppress(EOFError, OSError):
            while True:
                message: FromMember = self._connection.recv()
                if isinstance(message, Failed):
                    last_words = message.message
                else:
                    self._hear(message)
        status = self._process.wait()
        with self._lock:
            self._problem = last_words or _ended(status)
        self.ended.set()

    def _hear(self, report: Report) -> None:
        with self._lock:
            self._report, self._heard = report, time.monotonic()
            self.was_ready |= report.state == "ready"


def _ended(status: int) -> str:
    if status >= 0:
        return f"its process exited with status {status}"
    return f"its process got {signal.Signals(-status).name}"
