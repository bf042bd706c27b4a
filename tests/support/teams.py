"""Teams whose processes meet at a socket, and what can be wrong with them; the processes import them from here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pipelines.fake import FAKE_SPEC, FakePipeline
from streamgen.core import Params, PipelineSpec
from streamgen.engine import Devices, Team

SPEC = replace(FAKE_SPEC, defaults=Params(width=64, height=64))

Ill = Literal["raises", "exits", "done", "deaf", "holds"]
"""raises, exits: it cannot start, and says why or not. Once it has met the others, done: it ends in peace; deaf: it
listens to no request to end; holds: it hangs with the interpreter's lock in hand.
"""


def spec_called(name: str) -> PipelineSpec:
    return replace(SPEC, name=name)


def team(names: tuple[str, ...], ill: Mapping[str, Ill] | None = None) -> Team:
    """All meet. When one is lost, the others hear of it, and fail. `ill` is what ails devices, by name."""
    state = dict(ill or {})
    others = tuple(partial(_join, state.get(name)) for name in names[1:])
    return Team(partial(_gather, state.get(names[0]), len(others)), others)


def devices(*names: str) -> Devices:
    """All well."""
    return Devices(names, team)


def sick_while(file: Path, *names: str) -> Devices:
    """While `file` exists, devices with the file's name cannot be started."""
    return Devices(names, partial(_sick_while, file))


def named_by_environment() -> FakePipeline:
    """Its name is in $STREAMGEN_TEST_NAME."""
    return FakePipeline(spec_called(os.environ["STREAMGEN_TEST_NAME"]))


def _sick_while(file: Path, names: tuple[str, ...]) -> Team:
    return team(names, {file.name: "raises"} if file.exists() else None)


def _gather(ill: Ill | None, count: int, path: str) -> FakePipeline:
    _fail(ill)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        ring = [listener.accept()[0] for _ in range(count)]
    for link in ring:
        threading.Thread(target=_break_with, args=(link, ring), daemon=True).start()
    return FakePipeline(SPEC)


def _break_with(link: socket.socket, ring: list[socket.socket]) -> None:
    with link:
        link.recv(1)
        for other in ring:
            with contextlib.suppress(OSError):  # closed already
                other.shutdown(socket.SHUT_RDWR)


def _join(ill: Ill | None, path: str) -> None:
    _fail(ill)
    with socket.socket(socket.AF_UNIX) as link:
        while link.connect_ex(path):
            time.sleep(0.005)  # there is no head yet
        match ill:
            case "done":
                return
            case "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(3600)
            case "holds":
                ctypes.PyDLL(None).sleep(3600)
        link.recv(1)
    raise ConnectionError("the ring is broken")


def _fail(ill: Ill | None) -> None:
    match ill:
        case "raises":
            raise RuntimeError("this device is out of order")
        case "exits":
            sys.exit(7)
