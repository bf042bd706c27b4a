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
from streamgen.engine import ChunkWork, Engine, crew
from streamgen.errors import EngineError
from tests.support import teams
from tests.support.processes import until

WORK = ChunkWork("a", Params(prompt="ink"), first=True, pixels=[np.zeros((192, 320, 3), np.uint8)] * 4)

FACTORY = partial(FakePipeline, faults={"hang": Fault("denoise", "hang")})


async def main(mode: str) -> None:
    """Prints its processes when they are ready."""
    interrupted = asyncio.Event()
    asyncio.get_running_loop().slow_callback_duration = 60.0  # what python -X dev says of a busy machine is not ours
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    others = {"team": teams.devices("cpu", "cpu", "cpu"), "broken": partial(int, "nonsense")}
    made: Any = others.get(mode, FACTORY)
    preload: Sequence[str] = ["no.such.module", "tests.support.slow_import"] if mode in ("slow", "impatient") else []
    if mode == "impatient":
        crew.BURIAL_S = 0.05
    engine = Engine(made, backoff_s=(0.01, 0.1), preload=preload, start_timeout_s=0.1 if mode == "impatient" else 60.0)
    try:
        await engine.start()
    except EngineError as error:
        print(error.message, flush=True)
        return
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
