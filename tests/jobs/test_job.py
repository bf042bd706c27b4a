from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.core import Params, Pixels
from streamgen.jobs.job import AHEAD, ATTEMPTS, PAUSE_S, Job
from streamgen.mediafile import Picture
from streamgen.metrics import Metrics
from streamgen.scheduler.stream import Ran, Stream, Submission
from tests.support.jobs import SPEC
from tests.support.service import ManualClock

RAN = Ran("sequential", 1, 0.1)
PARAMS = Params(prompt="ink", width=64, height=64)


class FakeScheduler:
    """Notes what a job asks of the scheduler; what it forgets is lost, as the loop does it."""

    def __init__(self) -> None:
        self.flights: list[Submission] = []
        self.removed = 0
        self.forgotten = 0
        self.woken = 0

    def remove(self, stream: Stream) -> None:
        self.removed += 1
        self._lose(stream)

    def wake(self) -> None:
        self.woken += 1

    def forget(self, stream: Stream, reason: str) -> None:
        self.forgotten += 1
        self._lose(stream)

    def _lose(self, stream: Stream) -> None:
        flights, self.flights = self.flights, []
        for work in flights:
            stream.lose(work, "restart")


@pytest.fixture
def scheduler() -> FakeScheduler:
    return FakeScheduler()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def job(scheduler: FakeScheduler, clock: ManualClock) -> Job:
    return make_job(scheduler, clock)


def make_job(scheduler: FakeScheduler, clock: ManualClock) -> Job:
    """One that was admitted."""
    job = Job(
        "j",
        PARAMS,
        SPEC,
        scheduler=scheduler,
        clock=clock,
        metrics=Metrics(),
        client="test",
        time_base=Fraction(1, 1000),
        expected=None,
    )
    job.admitted()
    return job


def pictures(first: int, count: int) -> list[Picture]:
    numbers = range(first, first + count)
    return [Picture(np.full((64, 64, 3), number % 256, np.uint8), number * 40, 40) for number in numbers]


def run(job: Job, scheduler: FakeScheduler) -> Submission:
    """Submits what the job's view shows, as the policy would have it."""
    view = job.view()
    assert view is not None
    ids = [frame.id for frame in view.frames]
    assert len(ids) == view.wanted
    work = job.submit(ids)
    scheduler.flights.append(work)
    return work


def deliver(job: Job, scheduler: FakeScheduler, work: Submission) -> None:
    if work in scheduler.flights:
        scheduler.flights.remove(work)
        job.deliver(work, restyled(work.pixels), RAN)


def restyled(pixels: Sequence[Pixels]) -> Pixels:
    return 255 - np.stack(list(pixels))


def test_frames_go_in_chunks_and_come_out_at_their_times(job: Job, scheduler: FakeScheduler) -> None:
    job.put(pictures(0, 7), at_end=True)
    lengths = []
    out: list[Picture] = []
    while not job.complete:
        work = run(job, scheduler)
        lengths.append((len(work.frames), work.first))
        assert all((a.pixels == b).all() for a, b in zip(work.frames, work.pixels, strict=True))
        deliver(job, scheduler, work)
        out += job.take_results()
    assert lengths == [(1, True), (4, False), (2, False)]
    assert [(picture.pts, picture.duration, 255 - picture.pixels[0, 0, 0]) for picture in out] == [
        (number * 40, 40, number) for number in range(7)
    ]
    assert scheduler.removed == 1


def test_it_asks_for_nothing_but_what_is_left(job: Job, clock: ManualClock) -> None:
    job.put(pictures(0, 4), at_end=False)
    view = job.view()
    assert view is not None
    assert (view.batch, view.wanted, view.due - clock.now() > 100_000) == (True, 1, True)
    assert view.frames[0].deadline == float("inf")
    demand = job.demand()
    assert (demand.batch, len(demand.rungs), demand.rungs[0].steps) == (True, 1, PARAMS.steps)
    assert demand.memory == 64 * 64 / (320 * 192)
    assert job.tally() == (0, 0)


def test_who_waited_longest_since_its_last_chunk_is_due_first(scheduler: FakeScheduler, clock: ManualClock) -> None:
    one, two = make_job(scheduler, clock), make_job(scheduler, clock)
    for each in (one, two):
        each.put(pictures(0, 5), at_end=False)
    clock.time += 1
    run(one, scheduler)
    views = one.view(), two.view()
    assert views[0] is not None
    assert views[1] is not None
    assert views[1].due < views[0].due


def test_it_reads_a_few_chunks_ahead_and_no_more(job: Job, scheduler: FakeScheduler) -> None:
    read = 0
    while wants := job.wants:
        job.put(pictures(read, wants), at_end=False)
        read += wants
    assert read == AHEAD * SPEC.chunk_frames
    run(job, scheduler)
    assert job.wants > 0


def test_nothing_runs_while_results_wait_to_be_written(job: Job, scheduler: FakeScheduler) -> None:
    job.put(pictures(0, 40), at_end=False)
    while job.view() is not None:
        deliver(job, scheduler, run(job, scheduler))
    assert AHEAD * SPEC.chunk_frames <= len(job.take_results()) < (AHEAD + 1) * SPEC.chunk_frames
    assert job.view() is not None


def test_nothing_is_read_before_it_is_admitted(scheduler: FakeScheduler) -> None:
    job = Job(
        "j",
        PARAMS,
        SPEC,
        scheduler=scheduler,
        clock=ManualClock(),
        metrics=Metrics(),
        client="test",
        time_base=Fraction(1, 1000),
        expected=9,
    )
    job.waiting(3, None)
    assert (job.state, job.position, job.wants, job.view()) == ("queued", 3, 0, None)
    job.admitted()
    assert (job.state, job.position) == ("running", None)
    assert job.wants > 0


def test_a_lost_chunk_and_all_behind_it_run_again_on_a_fresh_state(job: Job, scheduler: FakeScheduler) -> None:
    job.put(pictures(0, 12), at_end=False)
    deliver(job, scheduler, run(job, scheduler))
    lost, behind = run(job, scheduler), run(job, scheduler)
    scheduler.flights.remove(lost)
    job.lose(lost, "restart")
    job.deliver(behind, restyled(behind.pixels), RAN)  # a late result of before
    assert scheduler.forgotten == 1
    again = run(job, scheduler)
    assert ([frame.id for frame in again.frames], again.first) == ([1], True)
    assert [picture.pts for picture in job.take_results()] == [0]


def test_a_new_engine_begins_with_a_first_chunk(job: Job, scheduler: FakeScheduler) -> None:
    job.put(pictures(0, 12), at_end=False)
    deliver(job, scheduler, run(job, scheduler))
    job.restarted("killed")
    assert run(job, scheduler).first


def test_what_a_stream_batch_holds_is_finished_at_the_end(job: Job, scheduler: FakeScheduler) -> None:
    job.put(pictures(0, 5), at_end=True)
    works = [run(job, scheduler), run(job, scheduler)]
    view = job.view()
    assert view is not None
    assert (view.frames, view.held_due is not None) == ((), True)
    assert job.submit(()).frames == ()
    for work in works:
        deliver(job, scheduler, work)
    assert job.view() is None
    assert len(job.take_results()) == 5
    assert job.complete


def test_after_a_failure_chunks_go_one_by_one_until_it_is_clear_which_it_was(
    job: Job, scheduler: FakeScheduler, clock: ManualClock
) -> None:
    job.put(pictures(0, 12), at_end=False)
    deliver(job, scheduler, run(job, scheduler))
    good, bad = run(job, scheduler), run(job, scheduler)
    assert [len(work.frames) for work in (good, bad)] == [4, 4]
    scheduler.flights.remove(good)
    job.fail(good, "error", "its state was closed", state_lost=True)  # together with the one that was to blame
    clock.time += PAUSE_S
    again = run(job, scheduler)
    view = job.view()
    assert view is not None
    assert (view.alone, view.frames, view.held_due is not None) == (True, (), True)
    deliver(job, scheduler, again)
    for _ in range(ATTEMPTS):
        assert job.state == "running"
        work = run(job, scheduler)
        scheduler.flights.remove(work)
        job.fail(work, "error", "no such colour", state_lost=True)
        clock.time += PAUSE_S
    assert job.state == "failed"
    assert job.error == "the engine failed 3 times at frame 2: no such colour"
    assert scheduler.removed == 1


def test_others_go_on_alone_for_a_while_after_a_failure_and_after_the_restart_that_it_cost(
    job: Job, scheduler: FakeScheduler, clock: ManualClock
) -> None:
    job.put(pictures(0, 12), at_end=False)
    work = run(job, scheduler)
    scheduler.flights.remove(work)
    job.fail(work, "restart", "the worker died", state_lost=True)
    assert job.view() is None
    clock.time += 100
    job.restarted("the worker died")
    assert job.view() is None
    clock.time += PAUSE_S
    deliver(job, scheduler, run(job, scheduler))
    job.restarted("killed by somebody else")
    assert job.view() is not None


def test_care_ends_behind_the_chunks_that_failed(job: Job, scheduler: FakeScheduler, clock: ManualClock) -> None:
    job.put(pictures(0, 12), at_end=False)
    work = run(job, scheduler)
    scheduler.flights.remove(work)
    job.fail(work, "error", "a hiccup", state_lost=True)
    clock.time += PAUSE_S
    deliver(job, scheduler, run(job, scheduler))
    view = job.view()
    assert view is not None
    assert not view.alone


def test_an_engine_that_is_gone_fails_it(job: Job, scheduler: FakeScheduler) -> None:
    job.end("the engine failed: no device")
    assert (job.state, job.error) == ("failed", "the engine failed: no device")


def test_a_cancelled_job_lets_everything_go_once(job: Job, scheduler: FakeScheduler) -> None:
    job.put(pictures(0, 12), at_end=False)
    work = run(job, scheduler)
    job.cancel()
    job.cancel()
    job.deliver(work, restyled(work.pixels), RAN)
    job.put(pictures(12, 4), at_end=True)
    job.done()
    job.fail_for("too late")
    assert (job.state, job.error, job.view(), job.take_results(), job.wants) == ("cancelled", "", None, [], 0)
    assert scheduler.removed == 1


@given(
    st.lists(st.sampled_from(["submit", "deliver", "lose", "fail", "restart", "write"]), max_size=60),
    st.integers(1, 30),
)
def test_every_frame_comes_out_once_and_in_order(steps: list[str], count: int) -> None:
    scheduler, clock = FakeScheduler(), ManualClock()
    job = make_job(scheduler, clock)
    source, out = pictures(0, count), []
    for step in [*steps, *["submit", "deliver", "write"] * (2 * count)]:
        while wants := job.wants:
            now, source = source[:wants], source[wants:]
            job.put(now, at_end=len(now) < wants)
        clock.time += PAUSE_S
        view = job.view()
        if step == "submit" and view is not None and len(view.frames) == view.wanted:
            run(job, scheduler)
        elif step == "deliver" and scheduler.flights:
            deliver(job, scheduler, scheduler.flights[0])
        elif step in ("lose", "fail") and scheduler.flights and job._failures < ATTEMPTS - 1:
            work = scheduler.flights.pop(0)
            job.lose(work, "restart") if step == "lose" else job.fail(work, "error", "x", state_lost=True)
        elif step == "restart" and not job._left:
            scheduler._lose(job)
            job.restarted("killed")
        elif step == "write":
            out += job.take_results()
        assert job._sent == sum(len(work.frames) for work in job._flights)
        assert len(job._frames) - job._sent <= (AHEAD + 6) * SPEC.chunk_frames
    assert [picture.pts for picture in out] == [number * 40 for number in range(count)]
    assert job.complete
