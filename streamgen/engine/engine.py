"""The model as the service sees it: one asyncio object that keeps a worker process, or a team of them, alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from streamgen.core import Pipeline, PipelineSpec
from streamgen.engine import process
from streamgen.engine.backoff import Backoff
from streamgen.engine.lives import Lives
from streamgen.engine.messages import Ready, one_line
from streamgen.engine.remote import RemoteStreams
from streamgen.engine.team import Devices, alone
from streamgen.engine.work import BatchDone, ChunkWork, WarmupTimes, depth_of
from streamgen.errors import EngineError

logger = logging.getLogger(__name__)

EngineState = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass(slots=True, eq=False)
class _Call:
    """A batch that somebody waits for."""

    chunks: list[ChunkWork]
    begun: bool = False
    """It is in the worker's hands."""


class Engine:
    """Runs batches of chunks in a worker process, and replaces the worker when it dies or hangs.

        starting -> ready <-> restarting        any -> stopped
        starting -> failed

    Belongs to one event loop and never blocks it. The stream states live in the worker: when it is replaced they are
    gone, and a session goes on with a first chunk. The worker may be a team, with a process for each of its devices: it
    is replaced as a whole.
    """

    def __init__(
        self,
        factory: Callable[[], Pipeline[Any]] | Devices,
        *,
        slots: int = 8,
        depth: int | None = None,
        job_timeout_s: float = 20.0,
        start_timeout_s: float = 300.0,
        on_restart: Callable[[str], None] | None = None,
        backoff_s: tuple[float, float] = (0.2, 10.0),
        preload: Sequence[str] = (),
    ) -> None:
        """`factory` builds the pipeline in the worker and must be picklable; in place of it, Devices that are to work
        together. A device that cannot be started twice in a row is left out for the rest of the engine's life.

        `slots` is the most chunks in one batch.

        `depth` is how many batches are on their way to the worker and back at once: by default as many as the pipeline
        has work for, and one whose frames are copied meanwhile. `job_timeout_s` is how long one may take from when the
        worker can begin it, which is its submission, or the end of the batch before it; in a flow, how long no batch at
        all may come back.
        `on_restart(reason)` is called in the event loop when a worker was lost and a fresh one is ready. `backoff_s` is
        the first and the longest distance between the starts of workers that are lost again and again. `preload` are
        the modules that take the pipeline long to import, as process.preload takes them.
        """
        self.on_restart = on_restart
        self._slots = slots
        self._depth = depth
        self._job_timeout_s = job_timeout_s
        devices = factory if isinstance(factory, Devices) else alone(factory)
        self._lives = Lives(devices, slots, depth, start_timeout_s, Backoff(*backoff_s))
        self._preload = preload
        self._state: EngineState = "starting"
        self._changed = asyncio.Event()
        self._failure = ""
        self._ready: Ready | None = None
        self._first: Ready | None = None
        """The first worker's, which measures more than later ones."""
        self._streams: RemoteStreams | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[BatchDone]] = set()
        self._busy: dict[str, list[_Call]] = {}
        """The calls that each session has a chunk in, in their order."""

    @property
    def state(self) -> EngineState:
        """Where the engine is; never "ready" once the worker is gone."""
        if self._state == "ready" and (self._streams is None or self._streams.ended.done()):
            return "restarting"  # the supervisor has not run yet
        return self._state

    @property
    def spec(self) -> PipelineSpec:
        """What the pipeline takes and gives. Raises EngineError before the engine was ready for the first time."""
        return self._told(self._ready).spec

    @property
    def warmup(self) -> tuple[WarmupTimes, ...]:
        """What chunks take at default size and steps: one in the steady state; a stream's first one, where that has
        another number of frames; two of two streams in one batch, where `slots` are two or more. As it was measured
        when the engine was started. Raises EngineError as `spec`.
        """
        return self._told(self._first).warmup

    @property
    def depth(self) -> int:
        """Batches that are on their way at once. Raises EngineError before the engine was ready for the first time."""
        return self._depth or depth_of(self.spec)

    @property
    def pid(self) -> int | None:
        """Process id of the worker, of a team its head, or None where none is ready."""
        return next(iter(self.pids), None)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of all of a team, by rank; none where it is not ready."""
        return self._streams.pids if self._streams is not None and self.state == "ready" else ()

    async def start(self) -> None:
        """Starts the worker and waits until it is ready. Raises EngineError with the worker's own reason."""
        if self._supervisor is not None:
            raise EngineError("the engine was started already")
        process.preload(self._preload)
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")
        try:
            await self.ready()
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def ready(self) -> None:
        """Waits until batches can run. Raises EngineError where the engine has failed or was stopped."""
        while self.state != "ready":
            if self._state in ("failed", "stopped"):
                raise EngineError(self._failure or "the engine was stopped")
            await self._changed.wait()

    async def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        """One batch of at most `slots` chunks. `depth` of them are on their way at once, further calls wait their turn.

        A session has at most one chunk in all calls that have not returned, those that wait included, or spec.flight of
        them in a flow; what it has in the stream batch is not counted. `forget` frees it. Calls return in their order;
        in a flow as they are done, those that one session has chunks in in their order.

        What is wrong with one chunk is in its ChunkDone. Raises WorkerDiedError where the worker was lost on the way,
        EngineError where none is ready, ValueError for a batch that is none. A cancelled call's batch still runs.
        """
        sessions = {chunk.session for chunk in chunks}
        if len(sessions) != len(chunks) or len(chunks) > self._slots:
            raise ValueError(f"{len(chunks)} chunks of {len(sessions)} sessions in a batch for {self._slots}")
        flight = self._ready.spec.flight if self._ready is not None else 1
        if busy := [session for session in sessions if len(self._busy.get(session, ())) >= flight]:
            on_way = "a chunk on its way" if flight == 1 else f"{flight} chunks on their way"
            raise ValueError(f"{len(busy)} of {len(sessions)} sessions of a batch have {on_way} already")
        if not chunks:
            return BatchDone([], None)
        call = _Call(list(chunks))
        for session in sessions:
            self._busy.setdefault(session, []).append(call)
        job = asyncio.create_task(self._run(call), name="engine-job")
        self._jobs.add(job)
        job.add_done_callback(self._job_done)
        return await asyncio.shield(job)

    def forget(self, session: str) -> None:
        """Closes the session's stream state; its next chunk opens a fresh one. A chunk that waits is not run any more,
        and one that runs gets no answer, or one that is of no use. Never fails.
        """
        for call in self._busy.pop(session, ()):
            if not call.begun:
                call.chunks = [chunk for chunk in call.chunks if chunk.session != session]
        if self._streams is not None:
            self._streams.close(session)

    async def stop(self) -> None:
        """Ends the worker, and with it what runs. Calling it twice is harmless."""
        if self._state != "stopped":
            self._set_state("stopped")
            if self._supervisor is not None:
                self._supervisor.cancel()
        if self._supervisor is not None:
            await asyncio.wait({self._supervisor})
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _told(self, ready: Ready | None) -> Ready:
        if ready is None:
            raise EngineError(f"the engine is {self.state}")
        return ready

    async def _run(self, call: _Call) -> BatchDone:
        try:
            streams = self._running
            async with streams.turns:
                if streams is not self._running:
                    raise EngineError("the engine has begun anew")
                call.begun = True
                return await streams.run(call.chunks, self._job_timeout_s)
        finally:
            for session in {chunk.session for chunk in call.chunks} & self._busy.keys():
                self._busy[session] = [other for other in self._busy[session] if other is not call]
                if not self._busy[session]:
                    del self._busy[session]

    @property
    def _running(self) -> RemoteStreams:
        if self._streams is None or self.state != "ready":
            raise EngineError(f"the engine is {self.state}")
        return self._streams

    def _job_done(self, job: asyncio.Task[BatchDone]) -> None:
        self._jobs.discard(job)
        if not job.cancelled():
            job.exception()  # of a cancelled caller: nobody else asks for it

    async def _supervise(self) -> None:
        try:
            await self._keep_alive()
        except EngineError as error:
            self._failure = error.message
        except Exception as error:
            logger.exception("the engine's supervisor failed")
            self._failure = one_line(error)
        self._set_state("failed")

    async def _keep_alive(self) -> NoReturn:
        """One life of the worker after the other. Raises EngineError where the first cannot begin."""
        clock = asyncio.get_running_loop().time
        streams, reason = await self._lives.first(), ""
        self._first = streams.ready
        while True:
            self._ready, self._streams = streams.ready, streams
            self._set_state("ready")
            if reason:
                self._tell_restarted(reason)
            began = clock()
            try:
                reason = await asyncio.shield(streams.ended)
            finally:
                self._streams = None
                await streams.stop()
            self._set_state("restarting")
            logger.warning("the worker is lost, starting another: %s", reason)
            streams, left_out = await self._lives.next(clock() - began, fruitful=streams.jobs_done > 0)
            if left_out:
                reason = f"{reason}; going on without {', '.join(left_out)}, which cannot be started"

    def _tell_restarted(self, reason: str) -> None:
        if self.on_restart is None:
            return
        try:
            self.on_restart(reason)
        except Exception:
            logger.exception("on_restart failed")

    def _set_state(self, state: EngineState) -> None:
        if self._state != "stopped":
            self._state = state
        self._changed.set()
        self._changed = asyncio.Event()
