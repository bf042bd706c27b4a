from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from streamgen.scheduler.cost import CostModel, Shape
from streamgen.scheduler.policy import Limits, Queued, SessionView, plan

NOW = 100.0
SHAPE = Shape(1, 4, 2, 64, 64)
FREE = Limits(CostModel())


def view(name: str = "a", count: int = 4, age: float = 0.0, **changes: object) -> SessionView:
    """`count` frames, the newest of which came `age` seconds ago, 1/16 s apart."""
    defaults = SessionView(name, 4, (), NOW, 1.0, 1 / 16, 2, 64, 64)
    shaped = replace(defaults, **changes)  # type: ignore[arg-type]
    frames = tuple(Queued(i, NOW - age - (count - 1 - i) * shaped.interval + shaped.budget) for i in range(count))
    due = changes.get("due", frames[0].deadline if frames else NOW)
    return replace(shaped, frames=frames, due=due)


def test_an_incomplete_chunk_waits() -> None:
    assert plan(NOW, [view(count=3)], FREE).chunks == ()
    assert plan(NOW, [], FREE).chunks == ()


def test_a_full_chunk_runs_with_its_oldest_frames() -> None:
    decided = plan(NOW, [view(count=6)], FREE)
    assert [(chunk.session, chunk.frames) for chunk in decided.chunks] == [("a", (0, 1, 2, 3))]
    assert decided.drops == ()
    assert decided.shape == SHAPE
    assert decided.mode == "sequential"


def test_a_first_chunk_may_want_another_number() -> None:
    assert plan(NOW, [view(count=4, wanted=5)], FREE).chunks == ()
    assert plan(NOW, [view(count=1, wanted=1)], FREE).chunks[0].frames == (0,)


def test_the_earliest_deadline_goes_first() -> None:
    views = [view("a", due=NOW + 3), view("b", due=NOW + 1), view("c", due=NOW + 2)]
    assert plan(NOW, views, FREE).chunks[0].session == "b"
    assert [chunk.session for chunk in plan(NOW, views, Limits(CostModel(), max_batch=2)).chunks] == ["b", "c"]


def test_frames_that_cannot_be_in_time_are_dropped() -> None:
    slow = Limits(CostModel().observed(SHAPE, 0.3))
    decided = plan(NOW, [view(count=6, age=0.5)], slow)
    # Ages 0.5 to 0.81 s, of which 0.7 are left: the two oldest cannot make it.
    assert [(drop.session, drop.frame, drop.reason) for drop in decided.drops] == [("a", 0, "late"), ("a", 1, "late")]
    assert decided.chunks[0].frames == (2, 3, 4, 5)


def test_a_promise_that_cannot_be_kept_still_gives_the_newest_chunk() -> None:
    slow = Limits(CostModel().observed(SHAPE, 5.0))
    decided = plan(NOW, [view(count=6)], slow)
    assert [drop.frame for drop in decided.drops] == [0, 1]
    assert decided.chunks[0].frames == (2, 3, 4, 5)


def test_a_batch_holds_equal_sessions_only() -> None:
    limits = Limits(CostModel(), max_batch=4)
    views = [view("a", due=NOW + 1), view("b", due=NOW + 2, width=128), view("c", due=NOW + 3)]
    decided = plan(NOW, views, limits)
    assert [chunk.session for chunk in decided.chunks] == ["a", "c"]
    assert decided.shape == replace(SHAPE, chunks=2)


def test_a_session_that_failed_in_company_runs_alone() -> None:
    limits = Limits(CostModel(), max_batch=4)
    first = plan(NOW, [view("a", due=NOW + 1, alone=True), view("b", due=NOW + 2)], limits)
    assert [chunk.session for chunk in first.chunks] == ["a"]
    second = plan(NOW, [view("a", due=NOW + 2, alone=True), view("b", due=NOW + 1), view("c", due=NOW + 3)], limits)
    assert [chunk.session for chunk in second.chunks] == ["b", "c"]


def test_a_batch_does_not_grow_so_far_that_a_member_is_late() -> None:
    cost = CostModel().observed(SHAPE, 0.2).observed(replace(SHAPE, chunks=2), 0.4)
    urgent, other = view("a", due=NOW + 0.3), view("b", due=NOW + 0.9)
    assert len(plan(NOW, [urgent, other], Limits(cost, max_batch=4)).chunks) == 1
    assert len(plan(NOW, [replace(urgent, due=NOW + 0.5), other], Limits(cost, max_batch=4)).chunks) == 2


sizes = st.sampled_from([64, 128])


@st.composite
def views(draw: st.DrawFn) -> list[SessionView]:
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=6))
    result = []
    for name in names:
        ids = draw(st.lists(st.integers(0, 50), unique=True, max_size=8))
        deadlines = sorted(draw(st.lists(st.floats(-2, 2), min_size=len(ids), max_size=len(ids))))
        frames = tuple(Queued(i, NOW + d) for i, d in zip(sorted(ids), deadlines, strict=True))
        due = NOW + draw(st.floats(-2, 2))
        result.append(
            SessionView(
                name,
                draw(st.integers(1, 5)),
                frames,
                due,
                draw(st.floats(0.05, 5)),
                draw(st.floats(0.01, 1)),
                draw(st.integers(1, 4)),
                draw(sizes),
                draw(sizes),
                alone=draw(st.booleans()),
            )
        )
    return result


limits = st.builds(
    lambda seconds, batch: Limits(CostModel().observed(SHAPE, seconds), max_batch=batch),
    st.floats(0, 3),
    st.integers(1, 4),
)


@given(views(), limits)
def test_plans_hold_what_they_promise(sessions: list[SessionView], allowed: Limits) -> None:
    decided = plan(NOW, sessions, allowed)
    by_name = {session.session: session for session in sessions}
    planned = [(chunk.session, frame) for chunk in decided.chunks for frame in chunk.frames]
    dropped = [(drop.session, drop.frame) for drop in decided.drops]
    queued = {(session.session, frame.id) for session in sessions for frame in session.frames}
    # no frame twice, and none that was not queued
    assert len(set(planned + dropped)) == len(planned) + len(dropped)
    assert set(planned + dropped) <= queued
    # every chunk is whole, in order, and without a gap; what is dropped is older than what runs
    for chunk in decided.chunks:
        session = by_name[chunk.session]
        ids = [frame.id for frame in session.frames]
        assert len(chunk.frames) == session.wanted
        start = ids.index(chunk.frames[0])
        assert tuple(ids[start : start + session.wanted]) == chunk.frames
        assert all(frame < chunk.frames[0] for name, frame in dropped if name == chunk.session)
    # a session runs once, batches are equal and no larger than allowed
    names = [chunk.session for chunk in decided.chunks]
    assert len(set(names)) == len(names) <= allowed.max_batch
    kinds = {(by_name[n].wanted, by_name[n].steps, by_name[n].width, by_name[n].height) for n in names}
    assert len(kinds) <= 1
    # earliest deadline first, among those that are ready
    left = {name: len(by_name[name].frames) - sum(n == name for n, _ in dropped) for name in by_name}
    ready = sorted((s.due, s.session) for s in sessions if left[s.session] >= s.wanted)
    assert bool(names) == bool(ready)
    if names:
        assert names[0] == ready[0][1]
        dues = [by_name[name].due for name in names]
        assert dues == sorted(dues)
    # the order of the views does not matter, and neither does asking twice
    assert plan(NOW, sessions, allowed) == decided
    assert plan(NOW, sessions[::-1], allowed).chunks == decided.chunks


@given(views(), limits)
def test_a_ready_session_is_never_starved_by_drops(sessions: list[SessionView], allowed: Limits) -> None:
    """Where the budget is too small for a chunk, late frames still run: somebody with a full queue gets served."""
    hopeless = [replace(session, budget=0.0) for session in sessions if len(session.frames) >= session.wanted > 1]
    decided = plan(NOW, hopeless, allowed)
    assert bool(decided.chunks) == bool(hopeless)
