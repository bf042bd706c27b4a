"""A video file's way through the engine."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Collection, Sequence
from fractions import Fraction
from itertools import islice
from typing import Literal, NamedTuple, Protocol

from streamgen.core import Clock, Frame, Params, PipelineSpec, Pixels
from streamgen.engine import Mode
from streamgen.mediafile import Picture
from streamgen.metrics import Metrics
from streamgen.scheduler.cost import Shape
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.policy import Queued, SessionView
from streamgen.scheduler.quality import asked
from streamgen.scheduler.stream import Ran, Stream, Submission

State = Literal["queued", "running", "done", "failed", "cancelled"]

ATTEMPTS = 3
"""A job ends when one of its chunks failed as often."""

PAUSE_S = 2.0
"""A job whose chunk failed lets the others go on alone for so long: what kills the worker again meanwhile was not the
job, and what does not is not blamed for it. The scheduler looks again by itself, soon after."""

AHEAD = 2
"""Chunks that are read before they can run, and results that wait to be written before more run."""

FAR_S = 1e6
"""Jobs have no deadlines: by what they are ordered lies this far behind everybody else's (s)."""


class Scheduler(Protocol):
    """What a job needs of the scheduler."""

    def remove(self, stream: Stream) -> None:
        """The stream is over."""
        ...

    def wake(self) -> None:
        """Something may run now."""
        ...

    def forget(self, stream: Stream, reason: str) -> None:
        """The stream begins anew; what of it is in flight is lost for `reason`."""
        ...


class _Source(NamedTuple):
    frame: Frame
    duration: int


class Job:
    """Implements scheduler.Stream, without deadlines and without a drop. Lives in one event loop; no method blocks.

        queued -> running -> done | failed        any of the first two -> failed | cancelled

    Frames that were read and have no result yet are in `_frames`, in order: first those in flight, then those that
    wait.

        [ 4 5 6 7 ][ 8 9 10 11 ][ 12 13 14        the first `_sent` frames are in `_flights`, chunk by chunk

    Where the result of a chunk is lost, all from its first frame on wait again, and go on with a fresh stream state:
    so every frame comes out once, in order.
    """

    def __init__(
        self,
        job_id: str,
        params: Params,
        spec: PipelineSpec,
        *,
        scheduler: Scheduler,
        clock: Clock,
        metrics: Metrics,
        client: str,
        time_base: Fraction,
        expected: int | None,
    ) -> None:
        """`params` are those that its frames are run with; `time_base` is the pictures'; `expected` is their number."""
        self.id = job_id
        self.client = client
        self.params = params
        self.spec = spec
        self.state: State = "queued"
        self.error = ""
        """Why it failed."""
        self.position: int | None = None
        """In the queue, 1 being the next; None where it does not wait there."""
        self.frames_done = 0
        """Results that were written."""
        self.frames_total = expected
        """As far as known; exact once the job is done."""
        self.damaged = 0
        """Packets of the file so far that could not be decoded and were left out."""
        self._scheduler = scheduler
        self._clock = clock
        self._metrics = metrics
        self._time_base = time_base
        self._frames: deque[_Source] = deque()
        self._sent = 0
        self._flights: list[Submission] = []
        self._results: list[Picture] = []
        self._read = 0
        self._at_end = False
        self._first = True
        self._mode: Mode = "sequential"
        self._failures = 0
        self._careful_until = 0
        """Frames before this one are run chunk by chunk, each alone: one of them failed, and it must show which."""
        self._pause_until = -math.inf
        self._since = clock.now()
        """When a chunk of it ran last, or it came (s)."""
        self._left = False
        self._news = asyncio.Event()
        metrics.job_became(None, self.state)

    # -- its files -----------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.state not in ("queued", "running")

    @property
    def wants(self) -> int:
        """Pictures to be read now."""
        if self.state != "running" or self._at_end:
            return 0
        chunk = max(self.spec.chunk_frames, self.spec.first_chunk_frames)
        return chunk if len(self._frames) - self._sent < AHEAD * chunk else 0

    @property
    def complete(self) -> bool:
        """Whether every picture was read and every result taken."""
        return self._at_end and not self._frames and not self._results

    def put(self, pictures: Sequence[Picture], *, at_end: bool) -> None:
        """Pictures in the order of time; `at_end` where there are no more."""
        if self.over:
            return
        now = self._clock.now()
        for picture in pictures:
            frame = Frame(self._read, picture.pts, self._time_base, now, math.inf, picture.pixels)
            self._frames.append(_Source(frame, picture.duration))
            self._read += 1
        self._at_end = at_end
        self._leave_where_run()
        self._scheduler.wake()

    def take_results(self) -> list[Picture]:
        """What has come out, in order."""
        results, self._results = self._results, []
        if results:
            self._scheduler.wake()
        return results

    def wrote(self, count: int) -> None:
        """So many results are in the file."""
        self.frames_done += count
        self._metrics.job_frames(count)

    async def news(self) -> None:
        """Waits until there may be something to read or to write, or the job is over."""
        await self._news.wait()
        self._news.clear()

    def done(self) -> None:
        """The file is whole."""
        if not self.over:
            self.frames_total = self.frames_done
            self._end("done")

    def fail_for(self, message: str) -> None:
        """It cannot go on."""
        if not self.over:
            self.error = message
            self._end("failed")

    def cancel(self) -> None:
        """It is not wanted any more."""
        self._end("cancelled")

    # -- through the engine: what the scheduler calls ------------------------------------------------------------------

    def demand(self) -> Demand:
        """What it asks of the device: no promises, at one quality."""
        params, usual = self.params, self.spec.defaults
        return Demand(
            session=self.id,
            rungs=(asked(params),),
            chunk_frames=self.spec.chunk_frames,
            budget=params.slo_ms / 1000,
            batch=True,
            memory=params.width * params.height / (usual.width * usual.height),
        )

    def waiting(self, position: int, estimate_s: float | None) -> None:
        """There is no room for it yet, or any more: then it goes on from its first frame without a result, later."""
        if self.position is None and self.state == "running":
            self._become("queued")
            self._go_back()
        self.position = position

    def admitted(self) -> None:
        """There is room for it."""
        self.position = None
        self._since = self._clock.now()
        self._become("running")

    def run_at(self, rung: int, reason: str, promised: bool) -> None:
        """It has one rung only."""

    def tally(self) -> tuple[int, int]:
        """Nothing of it was to be in time."""
        return 0, 0

    def view(self) -> SessionView | None:
        """What waits, for the policy."""
        if self.state != "running" or len(self._results) >= AHEAD * self.spec.chunk_frames:
            return None
        if self._clock.now() < self._pause_until:
            return None
        wanted = self.spec.frames_wanted(self._first)
        waiting = [source.frame for source in islice(self._frames, self._sent, self._sent + wanted)]
        careful = bool(self._frames) and self._frames[0].frame.id < self._careful_until
        ending = self._at_end and not waiting
        finish = bool(self._flights) and (careful or ending)
        if finish:
            waiting = []
        if not waiting and not finish:
            return None
        return SessionView(
            session=self.id,
            frames=tuple([Queued(frame.id, frame.deadline) for frame in waiting]),
            wanted=min(wanted, len(waiting)) if self._at_end and waiting else wanted,
            due=self._since + FAR_S,
            budget=math.inf,
            interval=1 / self.params.fps,
            steps=self.params.steps,
            shape=Shape(wanted, self.params.width, self.params.height, self.params.vae),
            mode=self._mode,
            held_due=self._since if finish else None,
            batch=True,
            alone=careful,
        )

    def submit(self, frames: Sequence[int], mode: Mode = "sequential") -> Submission:
        """These frames run now. A last chunk is as short as it comes: the pipeline fills it up."""
        self._since = self._clock.now()
        if not frames:
            return Submission((), (), self.params, first=False)
        taken = tuple(source.frame for source in islice(self._frames, self._sent, self._sent + len(frames)))
        assert [frame.id for frame in taken] == list(frames), "chunks are run in order"
        work = Submission(taken, tuple(frame.pixels for frame in taken), self.params, self._first)
        self._first, self._mode = False, mode
        self._sent += len(taken)
        self._flights.append(work)
        self._news.set()  # there is room to read on
        return work

    def drop(self, frames: Collection[int], reason: str) -> None:
        """Nothing of a job is late, and so nothing is given up."""
        raise AssertionError(f"frames {list(frames)} of a job were to be dropped ({reason})")

    def deliver(self, work: Submission, pixels: Pixels, ran: Ran) -> None:
        """The result of `work`."""
        if work not in self._flights:
            return
        assert work is self._flights[0], "results come in the order of their chunks"
        del self._flights[0]
        self._failures = 0
        self._sent -= len(work.frames)
        for frame, result in zip(work.frames, pixels, strict=True):
            source = self._frames.popleft()
            assert source.frame is frame
            self._results.append(Picture(result, frame.pts, source.duration))
        self._leave_where_run()
        self._news.set()

    def lose(self, work: Submission, reason: str) -> None:
        """There will be no result of `work`, which is not its fault."""
        if work in self._flights:
            self._go_back()

    def fail(self, work: Submission, reason: str, message: str, state_lost: bool) -> None:
        """The engine failed at `work`."""
        if work not in self._flights:
            return
        self._failures += 1
        if self._failures >= ATTEMPTS:
            self.fail_for(f"the engine failed {self._failures} times at frame {work.frames[0].id}: {message}")
            return
        self._careful_until = self._frames[0].frame.id + self._sent
        self._pause()
        self._go_back()

    def restarted(self, reason: str) -> None:
        """The engine is a new one: the stream goes on with a first chunk."""
        if self._failures:
            self._pause()
        self._go_back()

    def end(self, reason: str) -> None:
        """There is no engine any more."""
        self.fail_for(reason)

    # -- within --------------------------------------------------------------------------------------------------------

    def _go_back(self) -> None:
        """Everything without a result waits again, and a fresh stream state comes next."""
        self._flights, self._sent, self._first = [], 0, True
        self._scheduler.forget(self, "restart")
        self._scheduler.wake()
        self._news.set()

    def _pause(self) -> None:
        self._pause_until = self._clock.now() + PAUSE_S

    def _leave_where_run(self) -> None:
        """A job of which everything was run needs the engine no more."""
        if self._at_end and not self._frames:
            self._leave()

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self._scheduler.remove(self)

    def _end(self, state: State) -> None:
        if self.over:
            return
        self._become(state)
        self.position = None
        self._flights, self._sent = [], 0
        self._frames.clear()
        self._results = []
        self._leave()
        self._news.set()

    def _become(self, state: State) -> None:
        self._metrics.job_became(self.state, state)
        self.state = state
        self._news.set()
