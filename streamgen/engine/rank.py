"""A process of a team beside the head: does its part, and says what went wrong with it."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from streamgen.engine.messages import Failed


def main(connection: Connection, part: bytes, folder: str) -> None:
    """Runs until its part returns or raises, or until the service's end of the pipe closes: then it ends at once.

    `part` is a pickled callable. `folder` is where the team finds each other, which nobody else removes when the
    service was killed.
    """
    threading.Thread(target=_outlive, args=(connection, folder), name="outlive", daemon=True).start()
    try:
        run: Callable[[], None] = pickle.loads(part)  # noqa: S301 - our own parent made it
        run()
    except Exception as error:  # noqa: BLE001 - the last stop: it becomes the service's reason to start another team
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the service is gone
            connection.send(Failed.because(error))


def _outlive(connection: Connection, folder: str) -> None:
    """Waits for the end of the service, which sends nothing."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # nobody is left to tell
