"""The jobs of one service: takes in their files, carries them through, keeps their results for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from streamgen.config import Config
from streamgen.core import Clock, PipelineSpec
from streamgen.errors import BusyError, JobNotFoundError, MediaFileError, NotDoneError, ParamsError
from streamgen.jobs import upload
from streamgen.jobs.files import JobFiles, OpenFiles
from streamgen.jobs.job import Job
from streamgen.jobs.job import Scheduler as JobScheduler
from streamgen.metrics import Metrics
from streamgen.rendition import check
from streamgen.scheduler.stream import Stream

logger = logging.getLogger(__name__)

KINDS = ("mp4", "mkv", "webm")
"""Formats of results."""

MB = 1_000_000

RETRY_STARTING_S = 2
RETRY_FULL_S = 10

KEPT = 64
"""Jobs that may be over and not fetched yet, at once: their results take room on disk."""


class EngineView(Protocol):
    """What jobs have to know of the engine."""

    @property
    def state(self) -> str:
        """ "ready", or what it is doing instead."""
        ...

    @property
    def spec(self) -> PipelineSpec:
        """Of the pipeline, once it was ready."""
        ...


class Scheduler(JobScheduler, Protocol):
    """What is needed of the scheduler, for all jobs and each."""

    def enter(self, stream: Stream, *, may_wait: bool = True) -> None:
        """From now on the stream's frames are run, or it waits for that. Raises BusyError."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A job with what belongs to it."""

    job: Job
    files: JobFiles
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is to be forgotten."""


class Jobs:
    """Lives in one event loop, beside the Service. Each job's files are in a private folder that goes with it."""

    def __init__(
        self,
        config: Config,
        engine: EngineView,
        scheduler: Scheduler,
        clock: Clock,
        metrics: Metrics,
        folder: Path | None = None,
    ) -> None:
        """Jobs have their folders in `folder`, by default where the system has temporary files."""
        self._config = config
        self._engine = engine
        self._scheduler = scheduler
        self._clock = clock
        self._metrics = metrics
        self._folder = folder
        self._arriving: set[asyncio.Timeout] = set()
        """What can end the receiving of each file that comes now."""
        self._held: dict[str, _Held] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    def job(self, job_id: str) -> Job:
        """Raises JobNotFoundError."""
        return self._found(job_id).job

    def result(self, job_id: str) -> Path:
        """The finished copy. Raises JobNotFoundError, NotDoneError."""
        held = self._found(job_id)
        if held.job.state != "done":
            raise NotDoneError(f"the job is {held.job.state}; only a job that is done has a result")
        return held.files.result

    @property
    def most_bytes(self) -> int:
        """Of a file that is taken."""
        return self._config.max_upload_mb * MB

    @property
    def free(self) -> int:
        """Jobs that would be taken now."""
        return max(0, self._config.max_jobs - self.under_way)

    @property
    def under_way(self) -> int:
        """Jobs that come, wait or run."""
        return len(self._arriving) + sum(not held.job.over for held in self._held.values())

    def _expect(self, asked: Mapping[str, object], kind: str) -> None:
        """Whether a job with these parameters could come now. Raises ParamsError, BusyError."""
        check(asked)
        if kind not in KINDS:
            raise ParamsError("format", f"must be {', '.join(KINDS)}, not {kind[:40]}")
        state = "stopping" if self._stopping else self._engine.state
        if state != "ready":
            raise BusyError(f"the engine is {state}; try again soon", RETRY_STARTING_S)
        if not self.free:
            raise BusyError("the service has as many jobs as it takes; try again later", RETRY_FULL_S)
        if sum(held.job.over for held in self._held.values()) >= KEPT:
            raise BusyError("too many results wait to be fetched; delete some, or try again later", RETRY_FULL_S)

    async def submit(
        self,
        asked: Mapping[str, Any],
        kind: str,
        body: AsyncIterator[bytes],
        *,
        announced: int | None = None,
        client: str = "",
    ) -> Job:
        """A new job for the video file that is the `body`, of `announced` bytes where that is known.

        Raises ParamsError, BusyError, TooLargeError, TooSlowError, MediaFileError where the body is no video, and what
        reading `body` raises; then nothing is left of it.
        """
        self._expect(asked, kind)
        files = JobFiles(kind, self._folder)
        with self._counted() as until:
            try:
                async with until:
                    await upload.receive(body, announced, self.most_bytes, files.append)
                opened = await files.open(self._engine.spec, asked)
                job = self._enter(opened, client)
            except BaseException:
                await files.close()
                raise
        held = self._held[job.id] = _Held(job, files)
        self._tasks[job.id] = asyncio.create_task(self._hold(held, opened), name="job")
        return job

    async def cancel(self, job_id: str) -> None:
        """Ends the job where it is not over, and forgets it with its result. Raises JobNotFoundError."""
        await self._forget([self._found(job_id)])

    async def stop(self) -> None:
        """Ends and forgets all jobs; no more are taken."""
        self._stopping = True
        for until in self._arriving:
            until.reschedule(asyncio.get_running_loop().time())
        await self._forget(list(self._held.values()))

    def _enter(self, opened: OpenFiles, client: str) -> Job:
        if self._stopping:
            raise _stopping()
        job = Job(
            self._config.new_id(),
            opened.copy.params,
            self._engine.spec,
            scheduler=self._scheduler,
            clock=self._clock,
            metrics=self._metrics,
            client=client,
            time_base=opened.copy.time_base,
            expected=opened.copy.expected,
        )
        try:
            self._scheduler.enter(job)
        except BusyError:
            self._metrics.job_became(job.state, None)
            raise
        return job

    @contextlib.contextmanager
    def _counted(self) -> Iterator[asyncio.Timeout]:
        """A file is being received. Raises BusyError where that was ended, as the service stops."""
        until = asyncio.timeout(None)
        self._arriving.add(until)
        try:
            yield until
        except TimeoutError:
            if not until.expired():
                raise
            raise _stopping() from None
        finally:
            self._arriving.remove(until)

    async def _hold(self, held: _Held, opened: OpenFiles) -> None:
        job = held.job
        try:
            await self._carry(job, held.files, opened)
            logger.info("job %s… is %s %s", job.id[:6], job.state, job.error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.keep_jobs_s):
                    await held.unwanted.wait()
        finally:
            job.cancel()
            await held.files.close()
            del self._held[job.id], self._tasks[job.id]
            self._metrics.job_became(job.state, None)

    async def _carry(self, job: Job, files: JobFiles, opened: OpenFiles) -> None:
        """Until the job is over; where it is not done nothing of its files is left."""
        try:
            while not job.over:
                await self._step(job, files, opened)
        except MediaFileError as error:
            job.fail_for(error.message)
        except Exception:
            logger.exception("a job failed")
            job.fail_for("internal error; the service's log says more")
        if job.state != "done":
            await files.close()

    async def _step(self, job: Job, files: JobFiles, opened: OpenFiles) -> None:
        """Whatever can be done now: results are written first, so that there is room for more."""
        if results := job.take_results():
            await files.write(opened, results)
            job.wrote(len(results))
        elif job.complete:
            await files.finish()
            job.done()
        elif wanted := job.wants:
            pictures = await files.read(opened, wanted)
            job.damaged = opened.copy.damaged
            job.put(pictures, at_end=len(pictures) < wanted)
        else:
            await job.news()

    async def _forget(self, all_of: list[_Held]) -> None:
        tasks = [self._tasks[held.job.id] for held in all_of]
        for held in all_of:
            held.unwanted.set()
            held.job.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _found(self, job_id: str) -> _Held:
        try:
            return self._held[job_id]
        except KeyError:
            raise JobNotFoundError("no job has this id; results are kept for a while only") from None


def _stopping() -> BusyError:
    return BusyError("the service is stopping", RETRY_STARTING_S)
