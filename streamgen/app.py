"""The composition root of the service: makes its parts, joins them, runs them, ends them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn

import pipelines
from streamgen.allocator import keep_large_blocks
from streamgen.clock import MonotonicClock
from streamgen.config import Config
from streamgen.core import Pipeline, PipelineSpec
from streamgen.costfile import CostFile, begun
from streamgen.engine import Devices, Engine, StageTimes, Team
from streamgen.engine.team import alone
from streamgen.errors import EngineError, PresetError, StreamgenError
from streamgen.jobs import Jobs
from streamgen.metrics import Metrics
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import UNKNOWN, Shape
from streamgen.scheduler.loop import Loop
from streamgen.service import PresetInfo, Service
from streamgen.web import create_app

logger = logging.getLogger(__name__)

Factory = Callable[[], Pipeline[Any]]
Model = Factory | Devices

MAX_BATCH = 4
"""Chunks in one batch at most. Whether batches pay at all is for the cost model to say."""

KEEP_COSTS_S = 60.0
"""Costs are written to disk this often."""

SHUTDOWN_TIMEOUT_S = 3.0
"""HTTP requests under way get this long to end."""


class ListenError(StreamgenError):
    """The address cannot be listened on."""

    code = "cannot_listen"


def preset_infos() -> list[PresetInfo]:
    """What can be run."""
    return [
        PresetInfo(preset.name, preset.title, preset.description, preset.native_fps, preset.defaults, preset.styles)
        for preset in pipelines.PRESETS.values()
    ]


def serve(config: Config, announce: Callable[[str], None], factory: Factory | None = None) -> None:
    """Runs the service until SIGINT or SIGTERM. `announce` gets its URL when it is ready.

    `factory` builds the pipeline, in the engine's process (so it must be picklable); the preset's by default.
    Raises StreamgenError where it cannot start, or can no longer run.
    """
    model: Model
    if factory is None:
        model, preload = model_of(config)
        pipelines.share_cores()  # now: the engine's processes come to life with torch imported
    else:
        model, preload = factory, ()
    with contextlib.closing(listen(config.host, config.port)) as listener:
        asyncio.run(_serve(config, listener, model, preload, announce))


def model_of(config: Config) -> tuple[Model, Sequence[str]]:
    """What the engine runs, on one device or on several, and the modules that this takes long to import.

    Raises PresetError for a preset that does not exist, or cannot be spread over so many devices.
    """
    if config.preset not in pipelines.PRESETS:
        raise PresetError(f"no preset {config.preset!r}; there are {', '.join(pipelines.PRESETS)}")
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
    config: Config, listener: socket.socket, model: Model, preload: Sequence[str], announce: Callable[[str], None]
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
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(SHUTDOWN_TIMEOUT_S),
        )
    )
    async with _stop_signals() as stopped, _running(server.serve([listener]), "web") as web:
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
    async with _running(engine.start(), "engine-start") as started:
        await _first_of(started, web, stopped)
        if not started.done():
            return
    costs = _begin(scheduler, engine, config)
    ready()
    async with (
        _running(_keep_costs(scheduler, costs), "costs"),
        _running(scheduler.run(), "scheduler") as scheduling,
    ):
        await _first_of(scheduling, web, stopped)
    if not stopped.done():
        raise EngineError("the service cannot go on; its log says why")


class Server(uvicorn.Server):
    """Leaves signals to the service, which has more to end than HTTP."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on host:port; port 0 takes any free one. Raises ListenError that says what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ListenError(f"host {host!r} cannot be found ({error.strerror}); choose another with --host") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"port {port} is in use; choose another with --port") from None
        if error.errno == errno.EACCES:
            raise ListenError(f"port {port} needs more rights; choose one above 1023 with --port") from None
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --host") from None
    return listener


def url_of(host: str, listener: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    port = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


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


@contextlib.asynccontextmanager
async def _running(work: Any, name: str) -> AsyncIterator[asyncio.Task[Any]]:
    """`work` as a task, which is ended at the end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def _stop_signals() -> AsyncIterator[asyncio.Task[Any]]:
    """A task that ends at SIGINT or SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with _running(stop.wait(), "stop-signals") as task:
            yield task
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _first_of(*tasks: asyncio.Task[Any]) -> None:
    """Waits for the first task to end, and raises its error where it has one."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _log_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a library's task left unhandled, mostly because a client did something odd: one line, no trace."""
    error = context.get("exception")
    logger.warning("%s: %s", context.get("message", "error in a task"), f"{type(error).__name__}: {error}")
    logger.debug("the trace of it", exc_info=error)
