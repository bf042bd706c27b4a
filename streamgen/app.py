"""The composition root of the service: makes its parts, joins them, runs them, ends them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from starlette.types import ASGIApp

import pipelines
from streamgen.allocator import keep_large_blocks
from streamgen.clock import MonotonicClock
from streamgen.config import Config
from streamgen.core import Pipeline, PipelineSpec
from streamgen.costfile import CostFile, begun
from streamgen.engine import Devices, Engine, StageTimes, Team
from streamgen.engine.team import alone
from streamgen.errors import EngineError, PresetError
from streamgen.jobs import Jobs
from streamgen.metrics import Metrics
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import UNKNOWN, Shape
from streamgen.scheduler.loop import Loop
from streamgen.server import SHUTDOWN_TIMEOUT_S, ListenError, Server, first_of, listen, running, stop_signals, url_of
from streamgen.service import PresetInfo, Service
from streamgen.web import create_app

__all__ = ["Company", "Factory", "ListenError", "check_preset", "listen", "pages", "preset_infos", "serve", "url_of"]

logger = logging.getLogger(__name__)

Factory = Callable[[], Pipeline[Any]]
Model = Factory | Devices

MAX_BATCH = 4
"""Chunks in one batch at most. Whether batches pay at all is for the cost model to say."""

KEEP_COSTS_S = 60.0
"""Costs are written to disk this often."""


class Company(Protocol):
    """What a service is part of, where it is one of several."""

    @property
    def listener(self) -> socket.socket:
        """Listens already; the service serves on it and closes it."""
        ...

    def front(self, application: ASGIApp) -> ASGIApp:
        """What is served in place of the service's own application."""
        ...

    async def attend(self, service: Service, scheduler: Loop, jobs: Jobs | None) -> None:
        """Runs beside the service, from before its engine starts; cancelled at its end."""
        ...


def preset_infos() -> list[PresetInfo]:
    """What can be run."""
    return [
        PresetInfo(preset.name, preset.title, preset.description, preset.native_fps, preset.defaults, preset.styles)
        for preset in pipelines.PRESETS.values()
    ]


def check_preset(name: str) -> None:
    """Raises PresetError where there is none of this name."""
    if name not in pipelines.PRESETS:
        raise PresetError(f"no preset {name!r}; there are {', '.join(pipelines.PRESETS)}")


def serve(
    config: Config,
    announce: Callable[[str], None],
    factory: Factory | None = None,
    company: Company | None = None,
) -> None:
    """Runs the service until SIGINT or SIGTERM. `announce` gets its URL when it is ready.

    `factory` builds the pipeline, in the engine's process (so it must be picklable); the preset's by default.
    `company` is what the service is part of, if anything.
    Raises StreamgenError where it cannot start, or can no longer run.
    """
    model: Model
    if factory is None:
        model, preload = model_of(config)
        pipelines.share_cores()  # now: the engine's processes come to life with torch imported
    else:
        model, preload = factory, ()
    with contextlib.closing(company.listener if company else listen(config.host, config.port)) as listener:
        asyncio.run(_serve(config, listener, model, preload, announce, company))


def model_of(config: Config) -> tuple[Model, Sequence[str]]:
    """What the engine runs, on one device or on several, and the modules that this takes long to import.

    Raises PresetError for a preset that does not exist, or cannot be spread over so many devices.
    """
    check_preset(config.preset)
    preload = pipelines.PRESETS[config.preset].preload
    if len(config.devices) > 1:
        _team(config, config.devices)
        return Devices(config.devices, functools.partial(_team, config)), (*preload, *pipelines.TEAM_PRELOAD)
    return _whole(config, config.devices[0] if config.devices else config.device), preload


def _whole(config: Config, device: str) -> Factory:
    return functools.partial(pipelines.build, config.preset, device=device, threads=config.threads, **_how(config))


def _team(config: Config, devices: tuple[str, ...]) -> Team:
    """On several devices, or on the one that is left of them. Raises PresetError."""
    if len(devices) == 1:
        return alone(_whole(config, devices[0])).team(devices)
    blocks = config.blocks if len(devices) == len(config.devices) else ()
    head, others = pipelines.team(config.preset, devices, config.threads, blocks=blocks, **_how(config))
    return Team(head, others)


def _how(config: Config) -> dict[str, Any]:
    return {"attention": config.attention, "compiled": config.compiled, "loras": config.loras}


async def _serve(
    config: Config,
    listener: socket.socket,
    model: Model,
    preload: Sequence[str],
    announce: Callable[[str], None],
    company: Company | None,
) -> None:
    keep_large_blocks()
    asyncio.get_running_loop().set_default_executor(_pool())
    asyncio.get_running_loop().set_exception_handler(_log_exception)
    clock, metrics = MonotonicClock(), Metrics()
    engine = Engine(
        model,
        slots=MAX_BATCH,
        job_timeout_s=config.job_timeout_s,
        start_timeout_s=config.start_timeout_s,
        preload=preload,
    )
    scheduler = Loop(engine, clock, metrics, max_waiting=config.max_queue)
    engine.on_restart = functools.partial(_begin_again, scheduler, engine, config)
    service = Service(config, engine, scheduler, preset_infos(), clock, metrics)
    jobs = Jobs(config, engine, scheduler, clock, metrics) if config.max_jobs else None
    app = create_app(service, metrics, pages(), token=config.token, allowed_origins=config.allowed_origins, jobs=jobs)
    server = Server(company.front(app) if company else app)
    async with contextlib.AsyncExitStack() as stack:
        stopped = await stack.enter_async_context(stop_signals())
        web = await stack.enter_async_context(running(server.serve([listener]), "web"))
        if company:
            await stack.enter_async_context(running(company.attend(service, scheduler, jobs), "company"))
        try:
            await _serve_sessions(
                config, engine, scheduler, stopped, web, lambda: announce(url_of(config.host, listener))
            )
        finally:
            await service.stop("the service is stopping")
            if jobs is not None:
                await jobs.stop()
            await engine.stop()
            server.should_exit = True
            await asyncio.wait([web], timeout=2 * SHUTDOWN_TIMEOUT_S)


async def _serve_sessions(
    config: Config,
    engine: Engine,
    scheduler: Loop,
    stopped: asyncio.Task[Any],
    web: asyncio.Task[Any],
    ready: Callable[[], None],
) -> None:
    """Starts the engine, then schedules, until one of the tasks ends. Raises StreamgenError where the engine cannot."""
    async with running(engine.start(), "engine-start") as started:
        await first_of(started, web, stopped)
        if not started.done():
            return
    costs = _begin(scheduler, engine, config)
    ready()
    async with (
        running(_keep_costs(scheduler, costs), "costs"),
        running(scheduler.run(), "scheduler") as scheduling,
    ):
        await first_of(scheduling, web, stopped)
    if not stopped.done():
        raise EngineError("the service cannot go on; its log says why")


def pages() -> Path:
    """The folder of the page's files: in the installed package, or beside it in a source checkout."""
    package = Path(__file__).parent
    installed = package / "_web"
    return installed if installed.is_dir() else package.parent / "web"


def _pool() -> ThreadPoolExecutor:
    """Threads for codecs and conversions. All begin at once: a first frame waits for none, and their number tells of
    leaks."""
    count = min(32, (os.cpu_count() or 1) + 4)
    pool, all_there = ThreadPoolExecutor(count, thread_name_prefix="pool"), threading.Barrier(count)
    for _ in range(count):
        pool.submit(all_there.wait)
    return pool


def _begin(scheduler: Loop, engine: Engine, config: Config) -> CostFile | None:
    """Tells the scheduler what the engine turned out to be; gives the file in which its costs are kept."""
    spec = engine.spec
    measured: dict[Shape, list[StageTimes]] = {}
    for warm in engine.warmup:
        measured.setdefault(Shape(warm.frames, warm.width, warm.height), []).append(warm.times)
    file = None if config.cost_folder is None else CostFile(config.cost_folder, spec.name, spec.device)
    cost = begun(file.load() if file else UNKNOWN, measured)
    scheduler.begin(_capacity(spec, engine.depth, config), cost, engine.depth)
    return file


def _begin_again(scheduler: Loop, engine: Engine, config: Config, reason: str) -> None:
    """Tells the scheduler of a new worker, which may have fewer devices than the one that was lost."""
    scheduler.restarted(reason)
    scheduler.begin(_capacity(engine.spec, engine.depth, config), scheduler.cost, engine.depth)


def _capacity(spec: PipelineSpec, depth: int, config: Config) -> Capacity:
    return Capacity(
        MAX_BATCH,
        spec.overlap,
        config.max_sessions,
        spec.session_slots,
        stages=spec.stages,
        flight=spec.flight,
        places=depth,
    )


async def _keep_costs(scheduler: Loop, file: CostFile | None) -> None:
    """Writes the costs to disk, now and then and at the end."""
    if file is None:
        return
    try:
        while True:
            await asyncio.sleep(KEEP_COSTS_S)
            await asyncio.to_thread(file.save, scheduler.cost)
    finally:
        file.save(scheduler.cost)


def _log_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a library's task left unhandled, mostly because a client did something odd: one line, no trace."""
    error = context.get("exception")
    logger.warning("%s: %s", context.get("message", "error in a task"), f"{type(error).__name__}: {error}")
    logger.debug("the trace of it", exc_info=error)
