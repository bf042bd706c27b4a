from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.engine.work import StageTimes
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.chunks import MARGIN, careful, chunk_length, mode_of
from streamgen.scheduler.cost import UNKNOWN, CostModel, Line, Shape
from streamgen.scheduler.policy import HANDOVER_S, LOST_S, STEADY, Chunk, Queued, SessionView, plan

NOW = 100.0
SHAPE = Shape(4, 64, 64)
ALONE = Capacity()
FOUR = Capacity(max_batch=4)


def cost(call: float = 0.0, row: float = 0.1, step_call: float = 0.0, step_row: float = 0.0) -> CostModel:
    """Known for certain: of a batch, and of a chunk in it, beside its steps (s)."""
    lines = {
        ("encode", SHAPE): Line(call, row, 0.0),
        ("denoise", Shape(1, 64, 64)): Line(step_call, step_row, 0.0),
    }
    return CostModel(lines)  # type: ignore[arg-type]


def view(name: str = "a", count: int = 4, age: float = 0.0, **changes: object) -> SessionView:
    """`count` frames, the newest of which came `age` seconds ago, 1/16 s apart; or the first of which has to be done by
    `due`, where that is given.
    """
    defaults = SessionView(name, (), 4, NOW, 1.0, 1 / 16, 2, SHAPE)
    shaped = replace(defaults, **changes)  # type: ignore[arg-type]
    frames = tuple(Queued(i, NOW - age - (count - 1 - i) * shaped.interval + shaped.budget) for i in range(count))
    if "due" in changes:
        frames = tuple(Queued(i, shaped.due + i * shaped.interval) for i in range(count))
    return replace(shaped, frames=frames, due=shaped.due if "due" in changes or not frames else frames[0].deadline)


def names(chunks: tuple[Chunk, ...]) -> list[str]:
    return [chunk.session for chunk in chunks]


def test_an_incomplete_chunk_waits() -> None:
    assert plan(NOW, [view(count=3)], UNKNOWN, ALONE).chunks == ()
    assert plan(NOW, [], UNKNOWN, ALONE).chunks == ()


def test_a_full_chunk_runs_with_its_oldest_frames() -> None:
    decided = plan(NOW, [view(count=6)], cost(), ALONE)
    assert decided.chunks == (Chunk("a", (0, 1, 2, 3), "sequential"),)
    assert decided.drops == ()
    assert decided.shape == SHAPE
    assert decided.ends[2] == pytest.approx(NOW + 0.1)


def test_a_first_chunk_may_want_another_number() -> None:
    assert plan(NOW, [view(count=4, wanted=5)], UNKNOWN, ALONE).chunks == ()
    assert plan(NOW, [view(count=1, wanted=1)], UNKNOWN, ALONE).chunks[0].frames == (0,)


def test_the_earliest_deadline_goes_first() -> None:
    views = [view("a", due=NOW + 3), view("b", due=NOW + 1), view("c", due=NOW + 2)]
    assert names(plan(NOW, views, UNKNOWN, ALONE).chunks) == ["b"]
    assert names(plan(NOW, views, UNKNOWN, Capacity(max_batch=2)).chunks) == ["b", "c"]


def test_frames_that_cannot_be_in_time_are_dropped() -> None:
    decided = plan(NOW, [view(count=6, age=0.45)], cost(row=0.3), ALONE)
    # Ages 0.45 to 0.76 s, of which 0.685 are left: the two oldest cannot make it.
    assert [(drop.session, drop.frame, drop.reason) for drop in decided.drops] == [("a", 0, "late"), ("a", 1, "late")]
    assert decided.chunks[0].frames == (2, 3, 4, 5)


def test_what_the_device_is_busy_with_counts() -> None:
    busy = Capacity(free=(NOW + 0.2,) * 3)
    assert [drop.frame for drop in plan(NOW, [view(count=6, age=0.45)], cost(row=0.1), busy).drops] == [0, 1]
    assert plan(NOW, [view(count=6, age=0.45)], cost(row=0.1), ALONE).drops == ()


def test_a_promise_that_cannot_be_kept_still_gives_the_newest_chunk() -> None:
    decided = plan(NOW, [view(count=6)], cost(row=5.0), ALONE)
    assert [drop.frame for drop in decided.drops] == [0, 1]
    assert decided.chunks[0].frames == (2, 3, 4, 5)


def test_a_slow_camera_gets_shorter_chunks() -> None:
    # At 2 fps four frames take 1.5 s to come; with a budget of 1 s there is time for one other.
    slow = view(count=2, interval=0.5)
    assert plan(NOW, [slow], cost(), ALONE).chunks[0].frames == (0, 1)
    assert plan(NOW, [replace(slow, budget=3.0)], cost(), ALONE).chunks == ()


@given(st.integers(1, 8), st.floats(0.01, 2), st.floats(0.05, 5), st.floats(0, 3))
def test_a_chunk_is_as_long_as_the_budget_allows(most: int, interval: float, budget: float, service: float) -> None:
    length = chunk_length(most, interval, budget, service)
    assert 1 <= length <= most
    if service <= budget and length < most:
        assert (length - 1) * interval + service <= budget + 1e-9
    longer = chunk_length(most, interval, budget * 1.5, service)
    assert longer >= length or budget < service


def test_a_batch_holds_equal_sessions_only() -> None:
    views = [view("a", due=NOW + 1), view("b", due=NOW + 2, shape=Shape(4, 128, 64)), view("c", due=NOW + 3)]
    decided = plan(NOW, views, UNKNOWN, FOUR)
    assert names(decided.chunks) == ["a", "c"]


def test_chunks_of_several_numbers_of_steps_share_their_calls() -> None:
    views = [view("a", steps=1, due=NOW + 1), view("b", steps=4, due=NOW + 2)]
    model = cost(row=0.0, step_call=0.05, step_row=0.01)
    decided = plan(NOW, views, model, FOUR)
    assert names(decided.chunks) == ["a", "b"]
    assert decided.ends[2] == pytest.approx(NOW + 4 * 0.05 + 5 * 0.01)


def test_a_session_that_failed_in_company_runs_alone() -> None:
    first = plan(NOW, [view("a", due=NOW + 1, alone=True), view("b", due=NOW + 2)], UNKNOWN, FOUR)
    assert names(first.chunks) == ["a"]
    views = [view("a", due=NOW + 2, alone=True), view("b", due=NOW + 1), view("c", due=NOW + 3)]
    assert names(plan(NOW, views, UNKNOWN, FOUR).chunks) == ["b", "c"]


def test_a_batch_does_not_grow_so_far_that_a_member_is_late() -> None:
    model = cost(call=0.1, row=0.1)
    urgent, other = view("a", due=NOW + 0.25), view("b", due=NOW + 0.9)
    assert names(plan(NOW, [urgent, other], model, FOUR).chunks) == ["a"]
    assert names(plan(NOW, [view("a", due=NOW + 0.5), other], model, FOUR).chunks) == ["a", "b"]


def test_a_chunk_does_not_join_a_batch_that_it_would_be_late_in() -> None:
    model = cost(call=0.1, row=0.1)
    views = [
        view("a", due=NOW + 0.9, lost=0.5),
        view("b", due=NOW + 0.25, lost=0.4),
        view("c", due=NOW + 0.8, lost=0.3),
    ]
    assert names(plan(NOW, views, model, FOUR).chunks) == ["a", "c"]


def test_what_a_stream_batch_holds_sets_when_its_session_has_to_run() -> None:
    views = [view("a", due=NOW + 0.9), view("b", due=NOW + 2.0, budget=3.0, steps=4, held_due=NOW + 0.6)]
    assert names(plan(NOW, views, cost(), ALONE).chunks) == ["b"]


def test_a_batch_does_not_grow_so_far_that_the_next_one_is_late() -> None:
    model = CostModel({**cost(call=0.2, row=0.1).lines, ("encode", Shape(4, 128, 64)): Line(0.0, 0.2, 0.0)})
    views = [
        view("a", due=NOW + 0.5),
        view("b", due=NOW + 0.55, shape=Shape(4, 128, 64)),
        view("c", due=NOW + 0.9),
    ]
    assert names(plan(NOW, views, model, FOUR).chunks) == ["a"]
    views[1] = view("b", due=NOW + 0.65, shape=Shape(4, 128, 64))
    assert names(plan(NOW, views, model, FOUR).chunks) == ["a", "c"]


def test_under_overload_a_batch_is_worth_more_than_one_that_loses_frames_anyway() -> None:
    model = CostModel({**cost(call=0.2, row=0.1).lines, ("encode", Shape(4, 128, 64)): Line(0.0, 0.2, 0.0)})
    views = [
        view("a", due=NOW + 0.5, lost=0.5),
        view("b", due=NOW + 0.55, shape=Shape(4, 128, 64), lost=0.5),
        view("c", due=NOW + 0.9, lost=0.5),
    ]
    assert names(plan(NOW, views, model, FOUR).chunks) == ["a", "c"]


def test_batches_are_not_made_where_they_save_nothing() -> None:
    views = [view("a", due=NOW + 0.8), view("b", due=NOW + 0.9)]
    assert names(plan(NOW, views, cost(call=0.0, row=0.1), FOUR).chunks) == ["a"]
    assert names(plan(NOW, views, cost(call=0.05, row=0.05), FOUR).chunks) == ["a", "b"]


def test_batch_jobs_fill_what_is_idle() -> None:
    live, job = view("live", due=NOW + 2), view("job", due=NOW - 5, batch=True, age=9.0)
    assert names(plan(NOW, [job, live], cost(), ALONE).chunks) == ["live"]
    decided = plan(NOW, [job, replace(live, frames=())], cost(), ALONE)
    assert names(decided.chunks) == ["job"]
    assert decided.drops == ()  # however old its frames are


def test_a_batch_job_does_not_begin_what_a_live_session_would_be_late_for() -> None:
    job, soon = view("job", batch=True), view("live", count=3, due=NOW + 0.15)
    assert plan(NOW, [job, soon], cost(), ALONE).chunks == ()
    assert names(plan(NOW, [job, replace(soon, due=NOW + 0.25)], cost(), ALONE).chunks) == ["job"]
    assert names(plan(NOW, [job, replace(soon, due=NOW + 0.05)], cost(), ALONE).chunks) == ["job"]  # late already


def test_a_batch_job_does_not_begin_what_a_live_session_between_chunks_would_be_late_for() -> None:
    # the next frame is due now, three more follow: whole at 0.19 s, of a budget of 0.4
    job, between = view("job", batch=True), view("live", count=0, budget=0.4, due=NOW + 0.4)
    assert names(plan(NOW, [job, between], cost(row=0.1), ALONE).chunks) == ["job"]
    long = replace(job, shape=Shape(4, 640, 64))  # takes ten times as long
    assert plan(NOW, [long, between], cost(row=0.1), ALONE).chunks == ()


def test_a_batch_jobs_budget_does_not_shorten_its_chunks() -> None:
    job = view("job", batch=True, budget=0.05)
    assert plan(NOW, [job], cost(), ALONE).chunks[0].frames == (0, 1, 2, 3)


def test_a_chunk_that_would_be_late_if_it_waited_for_the_rest_runs_as_it_is() -> None:
    halting = view(count=2, age=0.2, interval=1 / 16, budget=0.5)
    decided = plan(NOW, [halting], cost(), ALONE)
    assert decided.chunks == ()
    assert decided.wake is not None
    assert NOW < decided.wake < halting.frames[0].deadline - 0.1
    assert plan(decided.wake, [halting], cost(), ALONE).chunks == (Chunk("a", (0, 1)),)
    assert plan(decided.wake, [replace(halting, lost=0.5)], cost(), ALONE).chunks == ()


def test_of_two_equally_urgent_sessions_the_one_that_lost_more_goes_first() -> None:
    views = [view("a", due=NOW + 1), view("b", due=NOW + 1.5, lost=0.5)]
    assert names(plan(NOW, views, cost(), ALONE).chunks) == ["b"]


def test_with_overlap_the_next_batch_waits_for_the_encoder_alone() -> None:
    lines = {
        ("encode", SHAPE): Line(0.0, 0.1, 0.0),
        ("denoise", Shape(1, 64, 64)): Line(0.0, 0.2, 0.0),
        ("decode", SHAPE): Line(0.0, 0.3, 0.0),
    }
    model = CostModel(lines)  # type: ignore[arg-type]
    device = Capacity(overlap=True)
    first = plan(NOW, [view("a", steps=1)], model, device)
    assert first.ends == pytest.approx((NOW + 0.1, NOW + 0.3, NOW + 0.6))
    second = plan(NOW + 0.1, [view("b", steps=1, budget=2.0)], model, device.given(first.ends))
    assert second.ends == pytest.approx((NOW + 0.2, NOW + 0.5, NOW + 0.9))


MEMORY_BOUND = cost(row=0.0, step_call=0.1, step_row=0.005)
COMPUTE_BOUND = cost(row=0.0, step_call=0.0, step_row=0.05)


def test_a_stream_batch_runs_where_it_saves_and_is_in_time() -> None:
    four = view(steps=4, budget=4.0)
    assert plan(NOW, [four], MEMORY_BOUND, ALONE).chunks[0].mode == "stream_batch"
    assert plan(NOW, [four], COMPUTE_BOUND, ALONE).chunks[0].mode == "sequential"
    assert plan(NOW, [view(steps=4, budget=1.0)], MEMORY_BOUND, ALONE).chunks[0].mode == "sequential"
    assert plan(NOW, [view(steps=1, budget=4.0)], MEMORY_BOUND, ALONE).chunks[0].mode == "sequential"


def test_nothing_is_held_where_the_next_turn_may_not_come() -> None:
    losing = view(steps=4, budget=4.0, mode="stream_batch", lost=0.1)
    assert plan(NOW, [losing], MEMORY_BOUND, ALONE).chunks[0].mode == "sequential"


def test_the_choice_does_not_waver() -> None:
    rates = cost(row=0.0, step_call=0.06, step_row=0.07).rates(SHAPE)  # a stream batch saves 23 %
    assert mode_of(2, 0.25, 0.2, 5.0, rates, "sequential") == "sequential"
    assert mode_of(2, 0.25, 0.2, 5.0, rates, "stream_batch") == "stream_batch"


def test_what_a_stream_batch_holds_is_finished_in_time_even_if_no_frame_comes() -> None:
    held = view(count=0, steps=4, mode="stream_batch", held_due=NOW + 1.0, due=float("inf"))
    decided = plan(NOW, [held], MEMORY_BOUND, ALONE)
    assert decided.chunks == ()
    assert decided.wake is not None
    assert NOW < decided.wake < NOW + 1.0
    assert plan(decided.wake, [held], MEMORY_BOUND, ALONE).chunks == (Chunk("a", ()),)


shapes = st.builds(Shape, st.just(4), st.sampled_from([64, 128]), st.just(64))


@st.composite
def views(draw: st.DrawFn) -> list[SessionView]:
    drawn = draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=6))
    result = []
    for name in drawn:
        ids = draw(st.lists(st.integers(0, 50), unique=True, max_size=8))
        deadlines = sorted(draw(st.lists(st.floats(-2, 2), min_size=len(ids), max_size=len(ids))))
        frames = tuple(Queued(i, NOW + d) for i, d in zip(sorted(ids), deadlines, strict=True))
        result.append(
            SessionView(
                name,
                frames,
                draw(st.integers(1, 5)),
                NOW + draw(st.floats(-2, 2)),
                draw(st.floats(0.05, 5)),
                draw(st.floats(0.01, 1)),
                draw(st.integers(1, 4)),
                draw(shapes),
                held_due=draw(st.none() | st.floats(-2, 2).map(lambda d: NOW + d)),
                lost=draw(st.floats(0, 1)),
                batch=draw(st.booleans()),
                alone=draw(st.booleans()),
            )
        )
    return result


seconds = st.floats(0, 1)
costs = st.builds(cost, seconds, seconds, seconds, seconds)
capacities = st.builds(
    Capacity,
    st.integers(1, 4),
    st.booleans(),
    free=st.floats(0, 1).map(lambda d: (NOW + d, NOW + d, NOW + d)),
)


def urgency(session: SessionView) -> float:
    held = session.due if session.held_due is None else session.held_due
    return min(session.due, held) - LOST_S * session.lost


@given(views(), costs, capacities)
def test_plans_hold_what_they_promise(sessions: list[SessionView], model: CostModel, device: Capacity) -> None:
    decided = plan(NOW, sessions, model, device)
    by_name = {session.session: session for session in sessions}
    planned = [(chunk.session, frame) for chunk in decided.chunks for frame in chunk.frames]
    dropped = [(drop.session, drop.frame) for drop in decided.drops]
    queued = {(session.session, frame.id) for session in sessions for frame in session.frames}
    # no frame twice, and none that was not queued
    assert len(set(planned + dropped)) == len(planned) + len(dropped)
    assert set(planned + dropped) <= queued
    # every chunk is in order and without a gap; what is dropped is older than what runs
    for chunk in decided.chunks:
        session = by_name[chunk.session]
        assert len(chunk.frames) <= session.wanted
        assert chunk.frames or session.held_due is not None
        if chunk.frames:
            ids = [frame.id for frame in session.frames]
            start = ids.index(chunk.frames[0])
            assert tuple(ids[start : start + len(chunk.frames)]) == chunk.frames
            assert all(frame < chunk.frames[0] for name, frame in dropped if name == chunk.session)
    # nothing is taken from a batch job, and nothing from a live session that could be in time if it ran at once
    for name, frame in dropped:
        session = by_name[name]
        assert not session.batch
        rates = model.rates(session.shape)
        chunks = device.max_batch if session.lost > STEADY else 1  # who loses frames anyway takes fresher ones
        load = chunks, session.steps, chunks * session.steps
        end = device.ends(NOW, rates, *load)[2] + MARGIN * rates.error * rates.batch(*load)
        deadline = next(queued.deadline for queued in session.frames if queued.id == frame)
        assert deadline < end + HANDOVER_S + 1e-9
    # a session runs once, batches are alike and no larger than allowed
    running = names(decided.chunks)
    assert len(set(running)) == len(running) <= device.max_batch
    assert len({by_name[name].shape for name in running}) <= 1
    if len(running) > 1:
        assert not any(by_name[name].alone for name in running)
    # live before batch, and in the order of their urgency
    urgencies = [(by_name[name].batch, urgency(by_name[name])) for name in running]
    if all(chunk.frames for chunk in decided.chunks):
        assert urgencies == sorted(urgencies)
    # the order of the views does not matter, and neither does asking twice
    assert plan(NOW, sessions, model, device) == decided
    assert plan(NOW, sessions[::-1], model, device).chunks == decided.chunks


@given(views(), costs)
def test_a_larger_batch_is_never_allowed_to_run_less(sessions: list[SessionView], model: CostModel) -> None:
    small, large = (names(plan(NOW, sessions, model, Capacity(max_batch=most)).chunks) for most in (2, 4))
    assert large[: len(small)] == small


def service(model: CostModel, session: SessionView) -> float:
    """What a chunk takes, with its margin."""
    rates = model.rates(session.shape)
    return careful(rates.sequential(session.steps), rates)


@given(views(), costs, st.floats(0.1, 1))
def test_a_faster_device_never_drops_more(sessions: list[SessionView], model: CostModel, share: float) -> None:
    """Where chunks are no longer for it, and there was a promise to keep before: who has none gets late pictures."""
    quick = CostModel({key: Line(line.fixed * share, line.row * share, 0.0) for key, line in model.lines.items()})
    short = [replace(session, wanted=1) for session in sessions]
    short = [session for session in short if service(model, session) + HANDOVER_S <= session.budget]
    assert set(plan(NOW, short, quick, ALONE).drops) <= set(plan(NOW, short, model, ALONE).drops)


@given(views())
def test_a_ready_session_is_never_starved_by_drops(sessions: list[SessionView]) -> None:
    """Where the budget is too small for a chunk, late frames still run: somebody with a full queue gets served."""
    hopeless = [
        replace(session, budget=0.0, batch=False) for session in sessions if len(session.frames) >= session.wanted > 1
    ]
    assert bool(plan(NOW, hopeless, cost(), ALONE).chunks) == bool(hopeless)


@given(st.integers(2, 6), st.floats(0.05, 3))
def test_nobody_starves(count: int, service: float) -> None:
    """Sessions whose queues are always full of fresh frames are served in turn, however slow the device is."""
    now, served = NOW, dict.fromkeys("abcdef"[:count], 0)
    due = {name: now + 1.0 + number / 100 for number, name in enumerate(served)}
    for _ in range(5 * count):
        sessions = [replace(view(name), due=due[name]) for name in served]
        (chunk,) = plan(NOW, sessions, cost(row=service), ALONE).chunks
        served[chunk.session] += 1
        now += service
        due[chunk.session] = now + 1.0
    assert max(served.values()) - min(served.values()) <= 2  # the first may come again before the last has come once


def test_two_hundred_and_fifty_six_sessions_are_planned_with_little_work() -> None:
    """No timed assert: the work is counted. Each session is looked at once, each shape's costs are looked up once."""
    looked_up: list[Shape] = []

    class Counting(CostModel):
        def rates(self, shape: Shape):  # type: ignore[no-untyped-def]
            looked_up.append(shape)
            return super().rates(shape)

    model = Counting(cost().lines)
    began = time.perf_counter()
    decided = plan(NOW, [view(f"{number:03}") for number in range(256)], model, FOUR)
    assert decided.chunks
    assert looked_up == [SHAPE]
    print(f"planned in {1000 * (time.perf_counter() - began):.2f} ms")


def test_costs_are_those_of_stages_that_were_observed() -> None:
    times = StageTimes(0.01, 0.02, 0.06, 0.04, 1, 2, 2, 1)
    decided = plan(NOW, [view()], UNKNOWN.observed(SHAPE, times), ALONE)
    assert decided.ends[2] == pytest.approx(NOW + 0.13)


FLOW = Capacity(max_batch=4, stages=4, flight=4, places=4, crowding=0.0)


def test_in_a_flow_steps_run_in_a_row() -> None:
    memory_bound = cost(row=0.0, step_call=0.05)
    waiting = view(steps=4, budget=5.0)
    assert plan(NOW, [waiting], memory_bound, ALONE).chunks[0].mode == "stream_batch"
    assert plan(NOW, [waiting], memory_bound, FLOW).chunks[0].mode == "sequential"


def test_a_frame_that_would_be_late_in_a_crowded_flow_is_given_up() -> None:
    waiting = view(count=6, due=NOW + 0.15)
    assert plan(NOW, [waiting], cost(), FLOW).drops == ()
    crowded = replace(FLOW, crowding=1.0, under_way=(NOW, NOW, NOW))
    assert [drop.frame for drop in plan(NOW, [waiting], cost(), crowded).drops] == [0]


def test_a_batch_job_holds_nobody_up_where_a_flow_has_another_place() -> None:
    """A live session's chunk is whole in 0.06 s and takes 0.1 s, as the job's does: it is in time by 0.195 s."""
    live, job = view("live", count=3, budget=0.32), view("job", batch=True)
    costs = cost(row=0.1)
    assert plan(NOW, [live, job], costs, ALONE).chunks == ()
    assert names(plan(NOW, [live, job], costs, FLOW).chunks) == ["job"]
    full = replace(FLOW, under_way=(NOW + 0.3,) * 3)
    assert plan(NOW, [live, job], costs, full).chunks == ()
