"""One client's stream: its state, its parameters, its frames on their way to the model and back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from streamgen.core import Clock, Frame, Params, PipelineSpec, Pixels
from streamgen.engine import Mode
from streamgen.errors import BusyError, SessionNotFoundError
from streamgen.framing import SIZES, Size, SourceShape, framed
from streamgen.inbox import Inbox
from streamgen.metrics import Metrics
from streamgen.outbox import Finished, Outbox
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.policy import Queued, SessionView
from streamgen.scheduler.stream import Ran, Stream, Submission
from streamgen.standing import Standing
from streamgen.statistics import Statistics
from streamgen.updates import Updates
from streamgen.wire import Queue, Restarted, ServerMessage, StateChanged, Stats

State = Literal["connecting", "queued", "warming", "live", "paused", "away", "closed"]

DropReason = Literal["rate", "burst", "overload", "late", "paused", "queued", "restart", "error", "unwatched", "closed"]

UPDATE_TIMEOUT_S = 2.0
"""An update is answered by then, even if no frame came that it could hold for."""

MAX_UPDATES_WAITING = 64

WAITING_CHUNKS = 2
"""As many chunks of frames may wait for the model: one that waits for its turn, as its budget allows, and the next."""

MOST_HELD = 24
"""Results that may wait for their time: what the pacing holds at most, at 60 frames a second."""

HAND_OVER_S = 0.004
"""A result is handed over this long before it would be late: timers are not exact."""

SPACING_WEIGHT = 0.2
CLEARLY = 1.25
LONGEST_GAP_S = 1.5
"""A source that was silent for longer has begun anew (s); the lowest frame rate has a second between frames."""

SOON_S = 0.5
"""A frame that is late by less than this is expected still (s)."""

TRUSTED_AFTER = 16
"""A session that failed in company runs in company again after so many good chunks."""

MAX_FAILURES = 3
"""A session whose chunks fail as often in a row is closed: it costs the others engine time, or even restarts."""


class Scheduler(Protocol):
    """What a session needs of the scheduler."""

    def remove(self, stream: Stream) -> None:
        """The stream is over."""
        ...

    def check(self, stream: Stream, demand: Demand) -> None:
        """Raises BusyError where there is no room for the stream to ask for this instead."""
        ...

    def changed(self) -> None:
        """A stream asks for something else now."""
        ...

    def wake(self) -> None:
        """Something was queued."""
        ...

    def forget(self, stream: Stream, reason: str) -> None:
        """The stream begins anew; what of it is in flight is lost for `reason`."""
        ...


class Session:
    """A client's stream, between its connection and the scheduler. Lives in one event loop; no method blocks.

        connecting [ -> queued ] -> warming -> live      any of the last two <-> paused      any but the first <-> away
        any -> closed

    Queued is a session that the scheduler has no room for yet; its frames are dropped. What it runs as, of what its
    client wants, is in its `standing`.

    Away is a session whose client's connection was lost: what is in flight goes on to those who watch, and everything
    stays as it is for the client's return.

    Every frame that came in is, at any moment, in exactly one place: on its way into the inbox (the connection has it),
    in the inbox, in flight (the scheduler has it), in the outbox, handed over, or dropped with a reason.
    """

    def __init__(
        self,
        session_id: str,
        params: Params,
        spec: PipelineSpec,
        *,
        scheduler: Scheduler,
        clock: Clock,
        metrics: Metrics,
        notify: Callable[[ServerMessage], None],
        asked: Collection[str] = SIZES,
        client: str = "",
        inbox: Inbox | None = None,
    ) -> None:
        """Raises ParamsError where the pipeline cannot run `params`. `notify` tells the client, and must not block.

        `asked` names those of width and height that the client asked for. The others follow the shape of the source:
        those in `params` hold only until its first picture. `client` says whose it is, for fairness between them.
        `inbox` is where frames wait; by default WAITING_CHUNKS chunks of them.
        """
        spec.check(params)
        self.id = session_id
        self.client = client
        self.spec = spec
        self.standing = Standing(session_id, params, spec)
        self.statistics = Statistics()
        self.ended = asyncio.Event()
        """Set when the session has to be closed, by whoever found that out first."""
        self.end_reason = ""
        self._scheduler = scheduler
        self._clock = clock
        self._metrics = metrics
        self._notify = notify
        self._state: State = "connecting"
        self._paused = False
        self._first = True
        """Whether the next chunk begins a stream."""
        self._began = 0
        """Id of the first frame of the last chunk that began one."""
        self._alone = False
        self._failures = 0
        most = max(spec.chunk_frames, spec.first_chunk_frames)
        self._inbox = Inbox(WAITING_CHUNKS * most) if inbox is None else inbox
        self._outbox = Outbox(max((2 + spec.flight) * most, MOST_HELD))
        self._updates = Updates()
        self._asked = SIZES.intersection(asked)
        self._source = SourceShape()
        self._spacing = 0.0
        """Between frames as they come (s): a source may be slower than what was asked for."""
        self._last_put = float("-inf")
        """When the newest frame came (s)."""
        self._good = 0
        """Chunks in a row that ran well."""
        self._last_ran: tuple[Ran, int] | None = None
        self._mode: Mode = "sequential"
        self._flights: list[Submission] = []
        """Chunks in the engine, oldest first."""
        self.last_frame_at = clock.now()
        """When a frame came last, or the session began (s)."""

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    @property
    def params(self) -> Params:
        """What the client wants."""
        return self.standing.params

    @property
    def running(self) -> Params:
        """What its chunks are run with: the same, at the rung of quality that there is room for."""
        return self.standing.running

    # -- the client's wishes -------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """The media connection is up, for the first time or again."""
        self.last_frame_at = self._clock.now()
        if self._state == "connecting":
            self._set_state(self._running)
        elif self._state == "away":
            self._set_state("paused" if self._paused else self._running)

    def disconnected(self) -> None:
        """The media connection was lost."""
        if self._state in ("queued", "warming", "live", "paused"):
            self._set_state("away")

    def update(self, changes: Mapping[str, object]) -> asyncio.Future[int]:
        """Parameters for the next chunk on; the future gives the id of its first frame, within UPDATE_TIMEOUT_S.

        A width or height that is given stays, from now on; what was never given goes on following the source.
        Raises ParamsError where they cannot be, BusyError where too many changes wait, or where there is no room for
        what they would take.
        """
        if self._state == "closed":
            raise SessionNotFoundError("the session has ended")
        asked = self._asked | SIZES.intersection(changes)
        params = framed(self.params.updated(changes), self.spec, asked, self._source.size)
        self.spec.check(params)
        if len(self._updates) >= MAX_UPDATES_WAITING:
            raise BusyError("too many updates wait for a frame; send fewer", retry_after_s=1)
        demand = self.standing.demand_for(params)
        if demand != self.standing.demand():
            self._scheduler.check(self, demand)
        self._asked = asked
        self._take(params)
        return self._updates.add(lambda: self.next_frame, 0.0 if self._state == "paused" else UPDATE_TIMEOUT_S)

    def pause(self) -> None:
        """Frames are discarded, and the result stands still."""
        if self._state in ("warming", "live"):
            self._paused = True
            self._set_state("paused")
            self._dropped(self._inbox.clear(), "paused")
            self._dropped(self._outbox.clear(), "paused")

    def resume(self) -> None:
        """The opposite of `pause`."""
        if self._state == "paused":
            self.last_frame_at = self._clock.now()
            self._paused = False
            self._set_state(self._running)

    def reset(self) -> None:
        """The stream begins anew with the parameters of now; nothing of before comes out any more."""
        if self._state in ("warming", "live", "paused"):
            self._begin_anew()
            self._dropped(self._outbox.clear(), "restart")

    def end(self, reason: str) -> None:
        """Asks for the session to be closed; the first reason counts."""
        if not self.ended.is_set():
            self.end_reason = reason
            self.ended.set()

    def close(self) -> None:
        """Gives everything back. What is left of its frames is dropped."""
        if self._state == "closed":
            return
        self.end("closed")
        self._scheduler.remove(self)
        self._dropped(self._inbox.clear(), "closed")
        self._dropped(self._outbox.close(), "closed")
        self._updates.fail(SessionNotFoundError("the session has ended"))
        self._set_state("closed")

    @property
    def waits(self) -> bool:
        """Whether there is no room for it yet."""
        return not self.standing.admitted

    @property
    def _running(self) -> State:
        if self.waits:
            return "queued"
        return "warming" if self._first else "live"

    # -- the way in ----------------------------------------------------------------------------------------------------

    @property
    def next_frame(self) -> int:
        """Id of the frame that comes next."""
        return self.statistics.frames_in

    def came_in(self) -> int:
        """A frame came from the client; gives its id. It must be `put` or `give_up`, later."""
        now = self._clock.now()
        frame_id = self.next_frame
        self.last_frame_at = now
        self.statistics.came_in(now)
        self._metrics.came_in()
        return frame_id

    def give_up(self, reason: DropReason) -> None:
        """A frame that came in will never be `put`."""
        self._count_drops(reason, 1)

    def source_is(self, size: Size) -> None:
        """A picture of this size came from the client. Where its shape is new, what the client left open follows it."""
        if not self._source.saw(size):
            return
        params = framed(self.params, self.spec, self._asked, size)
        try:
            self._scheduler.check(self, self.standing.demand_for(params))
        except BusyError:
            return  # there is no room for that shape: it is cut to the one of before
        self._take(params)

    def put(self, frame: Frame) -> None:
        """A frame that came in, ready for the model."""
        refusal = self._refusal(frame)
        if refusal is not None:
            self._count_drops(refusal, 1)
            return
        self._note_arrival(frame.arrived)
        self._dropped(self._inbox.put(frame), "overload")
        self._scheduler.wake()

    @property
    def _interval(self) -> float:
        """Between frames (s): as asked for, or as they come where the source is clearly slower."""
        asked = 1 / self.running.fps
        return self._spacing if self._spacing > CLEARLY * asked else asked

    def _note_arrival(self, arrived: float) -> None:
        gap = arrived - self._last_put
        if gap < LONGEST_GAP_S:
            self._spacing += SPACING_WEIGHT * (gap - self._spacing)
        self._last_put = arrived

    def _refusal(self, frame: Frame) -> DropReason | None:
        if self._paused:
            return "paused"
        if self.waits:
            return "queued"
        if self._state not in ("warming", "live", "away"):
            return "closed"
        fits = frame.pixels.shape[:2] == (self.running.height, self.running.width)
        return None if fits else "restart"  # made for the size of before

    # -- through the engine: what the scheduler calls ------------------------------------------------------------------

    def demand(self) -> Demand:
        """What it asks of the device."""
        return self.standing.demand()

    def waiting(self, position: int, estimate_s: float | None) -> None:
        """There is no room for it yet, or, as it has no deadlines, any more."""
        if self.standing.admitted:
            self.standing.admitted = False
            self._begin_anew()
            if self._state in ("warming", "live"):
                self._set_state("queued")
        self._notify(Queue(position, estimate_s))

    def admitted(self) -> None:
        """There is room for it."""
        self.standing.admitted = True
        self.last_frame_at = self._clock.now()
        if self._state == "queued":
            self._set_state(self._running)

    def run_at(self, rung: int, reason: str, promised: bool) -> None:
        """It runs at this rung from its next chunk on."""
        self.standing.promised = promised
        if rung != self.standing.rung:
            if self.standing.stand_at(rung):
                self._begin_anew()
            self._notify(self.standing.told(reason))

    def tally(self) -> tuple[int, int]:
        """Frames since the last call that were to be in time, and those that were not."""
        frames, missed = self.statistics.tally()
        return (frames, missed) if self.standing.live else (0, 0)

    def view(self) -> SessionView | None:
        """What waits, for the policy."""
        held_due = self._flights[0].frames[0].deadline if self._flights else None
        due, running = self._inbox.due, self.running
        interval = self._interval
        if due is None or not len(self._inbox):
            expected = self._last_put + interval + SOON_S > self._clock.now()
            if self.waits or self._paused or not (expected or held_due is not None):
                return None
            due = self._last_put + interval + running.slo_ms / 1000
        return SessionView(
            session=self.id,
            frames=tuple([Queued(frame.id, frame.deadline) for frame in self._inbox]),
            wanted=self.spec.frames_wanted(self._first),
            due=due,
            budget=running.slo_ms / 1000,
            interval=interval,
            steps=running.steps,
            shape=self.standing.shape(self._first),
            mode=self._mode,
            held_due=held_due,
            lost=self.statistics.lost,
            batch=not self.standing.live,
            alone=self._alone,
        )

    def submit(self, frames: Sequence[int], mode: Mode = "sequential") -> Submission:
        """These frames run now; updates made up to now hold from the first of them on."""
        taken = tuple(self._inbox.take(frames)) if frames else ()
        if not taken:
            return Submission((), (), self.running, first=False)
        pixels = [frame.pixels for frame in taken]
        pixels += [pixels[-1]] * (self.spec.frames_wanted(self._first) - len(pixels))
        work = Submission(taken, tuple(pixels), self.running, self._first)
        if self._first:
            self._began = taken[0].id
        self._first, self._mode = False, mode
        self._flights.append(work)
        self._updates.resolve(taken[0].id)
        return work

    def drop(self, frames: Collection[int], reason: str) -> None:
        """The policy gives these frames up."""
        self._dropped(self._inbox.remove(frames), reason)

    def deliver(self, work: Submission, pixels: Pixels, ran: Ran) -> None:
        """The result of `work`."""
        self._flights.remove(work)
        self._failures = 0
        self._good += 1
        if self._good >= TRUSTED_AFTER:
            self._alone = False
        self._last_ran = ran, len(work.frames)
        if self._paused or self._state == "closed":
            self._dropped(work.frames, "paused" if self._state != "closed" else "closed")
            return
        now = self._clock.now()
        self.statistics.ran(len(work.frames), sum(now > frame.deadline for frame in work.frames))
        self.statistics.stages.add(now, _engine_stages(work, now, ran), len(work.frames))
        results = [replace(frame, pixels=picture) for frame, picture in zip(work.frames, pixels, strict=False)]
        self._dropped(self._outbox.put(results, now), "late")
        if self._state == "warming":
            self._set_state("live")

    def lose(self, work: Submission, reason: str, *, state_lost: bool = False) -> None:
        """There will be no result of `work`, which is not its fault."""
        self._flights.remove(work)
        self._goes_on(work, state_lost)
        self._dropped(work.frames, reason)

    def fail(self, work: Submission, reason: str, message: str, state_lost: bool) -> None:
        """The engine failed at `work`."""
        self._flights.remove(work)
        self._dropped(work.frames, reason)
        self._failures += 1
        self._good, self._alone = 0, True
        self._goes_on(work, state_lost)
        if self._failures >= MAX_FAILURES:
            self.end(f"the engine failed at this session {self._failures} times in a row: {message}")

    def restarted(self, reason: str) -> None:
        """The engine is a new one: the stream goes on with a first chunk."""
        self._first = True
        self._notify(Restarted(reason))
        if self._state == "live":
            self._set_state("warming")

    # -- the way out ---------------------------------------------------------------------------------------------------

    async def finished(self) -> Finished | None:
        """The oldest result, which stays in its place until handed over; None once the session is closed."""
        return await self._outbox.first()

    def hand_over(self, finished: Finished) -> bool:
        """The result goes to the client now; False where it was dropped (by a pause, a reset, for being late, ...)."""
        if self.too_late(finished):
            self.discard(finished, "late")
            return False
        if not self._outbox.remove(finished):
            return False
        now = self._clock.now()
        latency = now - finished.frame.arrived
        missed = self.params.priority == "live" and now > finished.frame.deadline
        self.statistics.went_out(now, latency, missed)
        self.statistics.stages.add(now, {"pace": now - finished.at})
        self._metrics.went_out(latency, missed)
        return True

    def latest(self, finished: Finished) -> float:
        """By when to hand the result over, so that it is in time; never where nothing of that is promised (s)."""
        return finished.frame.deadline - HAND_OVER_S if self.standing.live else math.inf

    def too_late(self, finished: Finished) -> bool:
        """Whether the result is not to be shown any more, as the session would rather miss it than see it late."""
        return self.params.late == "drop" and self._clock.now() > finished.frame.deadline

    def discard(self, finished: Finished, reason: DropReason) -> None:
        """The result will never go to anyone."""
        if self._outbox.remove(finished):
            self._count_drops(reason, 1)

    # -- what there is to know -----------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """What the session gets, as of now."""
        now, statistics, standing = self._clock.now(), self.statistics, self.standing
        shown: dict[str, object] = {
            **standing.rungs[standing.rung]._asdict(),
            "rung": standing.rung,
            "rungs": len(standing.rungs),
            "promised": standing.live,
        }
        if self._last_ran is not None:
            ran, frames = self._last_ran
            last = {"mode": ran.mode, "batch": ran.batch, "frames": frames, "service_ms": round(ran.seconds * 1000, 1)}
            shown |= {**last, **ran.info}
        return Stats(
            fps_in=round(statistics.rate_in.per_second(now), 2),
            fps_out=round(statistics.rate_out.per_second(now), 2),
            latency_ms=statistics.latencies.summary_ms(now),
            frames_in=statistics.frames_in,
            frames_out=statistics.frames_out,
            deadline_misses=statistics.deadline_misses,
            drops=dict(statistics.drops),
            plan=shown,
            state=self._state,
            stages_ms=statistics.stages.means_ms(now),
        )

    # -- within --------------------------------------------------------------------------------------------------------

    def _take(self, params: Params) -> None:
        """The client wants these; they hold from the next chunk on. A new size begins the stream anew."""
        before, asked = self.standing.rungs[self.standing.rung], self.standing.demand()
        if self.standing.want(params):
            self._begin_anew()
        if self.standing.demand() != asked:
            self._scheduler.changed()
        if self.standing.rung and self.standing.rungs[self.standing.rung] != before:
            self._notify(self.standing.told("asked"))

    def _begin_anew(self) -> None:
        """A fresh stream state from the next chunk on, without frames of before."""
        self._first = True
        self._dropped(self._inbox.clear(), "restart")
        self._scheduler.forget(self, "restart")
        if self._state == "live":
            self._set_state("warming")

    def _goes_on(self, work: Submission, state_lost: bool) -> None:
        """There is no result of `work`: where its stream is gone, and was the last one, another has to begin."""
        if state_lost and work.frames[0].id >= self._began:
            self._first = True

    def _set_state(self, state: State) -> None:
        self._state = state
        if state != "closed":
            self._notify(StateChanged(state))

    def _dropped(self, frames: Collection[Frame], reason: str) -> None:
        self._count_drops(reason, len(frames))

    def _count_drops(self, reason: str, count: int) -> None:
        if count:
            self.statistics.dropped(reason, count)
            self._metrics.dropped(reason, count)


def _engine_stages(work: Submission, now: float, ran: Ran) -> dict[str, float]:
    """Where the time of a chunk's frames went up to `now`, on average: in the engine's stages, and before them (s)."""
    whole = work.frames[-1].arrived
    fill = whole - sum(frame.arrived for frame in work.frames) / len(work.frames)
    stages = ran.times.stages if ran.times is not None else {}
    return {"fill": fill, "queue": max(0.0, now - whole - sum(stages.values())), **stages}
