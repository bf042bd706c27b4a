"""A small service with an engine, for what only shows from outside: `engine_host.py MODE` (see `main`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pipelines.fake import FakePipeline, Fault
from streamgen.core import Params
from streamgen.engine import ChunkWork, Engine
from tests.support import teams
from tests.support.processes import until

WORK = ChunkWork("a", Params(prompt="ink"), first=True, pixels=[np.zeros((192, 320, 3), np.uint8)] * 4)

FACTORY = partial(FakePipeline, faults={"hang": Fault("denoise", "hang")})


async def main(mode: str) -> None:
    """Prints its processes when they are ready."""
    interrupted = asyncio.Event()
    asyncio.get_running_loop().slow_callback_duration = 60.0  # what python -X dev says of a busy machine is not ours
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    made: Any = teams.devices("cpu", "cpu", "cpu") if mode == "team" else FACTORY
    preload: Sequence[str] = ["tests.support.slow_import", "no.such.module"] if mode == "slow" else []
    engine = Engine(made, backoff_s=(0.01, 0.1), preload=preload)
    await engine.start()
    pid = engine.pid
    assert pid is not None
    print(*engine.pids, flush=True)
    match mode:
        case "lives":  # one killed, one stopped
            await engine.run([WORK])
            os.kill(pid, signal.SIGKILL)
            await until(lambda: engine.pid not in (None, pid))
            await engine.run([WORK])
            await engine.stop()
        case "wait" | "team" | "slow":  # until Ctrl-C
            await interrupted.wait()
            await engine.stop()
        case "busy":  # until somebody kills it
            await engine.run([replace(WORK, params=Params(prompt="hang"))])
        case "leave":  # without stopping the engine
            await engine.run([WORK])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
