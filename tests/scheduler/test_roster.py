from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from streamgen.errors import BusyError, ParamsError
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.governor import HOLD_S
from streamgen.scheduler.roster import MOST_ROOM, TELL_S, Roster
from tests.scheduler.test_demand import DEVICE, demand, model

MODEL = model()  # four sessions at one step are what the device can take


@dataclass
class Told:
    """A stream that notes what it is told."""

    id: str
    client: str = ""
    steps: tuple[int, ...] = (2, 1)
    batch: bool = False
    news: list[tuple[object, ...]] = field(default_factory=list)
    missed: tuple[int, int] = (0, 0)

    def demand(self) -> Demand:
        asked = demand(self.id, steps=self.steps)
        return Demand(asked.session, asked.rungs, asked.chunk_frames, asked.budget, self.batch)

    def admitted(self) -> None:
        self.news.append(("admitted",))

    def waiting(self, position: int, estimate_s: float | None) -> None:
        self.news.append(("waiting", position, estimate_s))

    def run_at(self, rung: int, reason: str, promised: bool) -> None:
        self.news.append(("rung", rung, reason, promised))

    def tally(self) -> tuple[int, int]:
        return self.missed


class Crowd:
    def __init__(self, max_waiting: int = 2) -> None:
        self.roster = Roster(max_waiting)
        self.now = 100.0

    def enter(self, name: str, client: str = "", **settings: object) -> Told:
        stream = Told(name, client, **settings)  # type: ignore[arg-type]
        self.roster.enter(self.now, stream, MODEL, DEVICE)  # type: ignore[arg-type]
        return stream

    def leave(self, stream: Told) -> None:
        self.roster.leave(self.now, stream)  # type: ignore[arg-type]
        self.govern()

    def govern(self) -> None:
        self.roster.govern(self.now, MODEL, DEVICE)


def test_everybody_gets_in_while_there_is_room_at_some_rung() -> None:
    crowd = Crowd()
    streams = [crowd.enter(name) for name in "abcd"]
    assert [stream.news[0] for stream in streams] == [("admitted",)] * 4
    assert [stream.news[-1] for stream in streams] == [("rung", 1, "room", True)] * 4 or all(
        stream.news[-1][:2] == ("rung", 1) for stream in streams
    )
    assert ("rung", 1, "load", True) in streams[0].news


def test_who_finds_no_room_waits_and_gets_in_when_somebody_leaves() -> None:
    crowd = Crowd()
    first, *_ = [crowd.enter(name) for name in "abcd"]
    late, later = crowd.enter("e"), crowd.enter("f")
    assert late.news == [("waiting", 1, None)]
    assert later.news == [("waiting", 2, None)]
    crowd.now += 60.0
    crowd.leave(first)
    assert ("admitted",) in late.news
    assert later.news[-1] == ("waiting", 1, 15.0)  # one stayed 60 s, and there are four
    crowd.now += TELL_S
    crowd.govern()
    assert later.news[-1] == ("waiting", 1, 15.0)
    assert len(later.news) == 3
    assert (len(crowd.roster), crowd.roster.waiting) == (4, 1)


def test_too_many_who_wait_are_refused_with_a_time() -> None:
    crowd = Crowd(max_waiting=0)
    streams = [crowd.enter(name) for name in "abcd"]
    with pytest.raises(BusyError) as refused:
        crowd.enter("e")
    assert refused.value.retry_after_s == 5
    crowd.now += 80.0
    crowd.leave(streams[0])
    crowd.enter("e")
    with pytest.raises(BusyError) as refused:
        crowd.enter("f")
    assert refused.value.retry_after_s == 20
    assert len(crowd.roster) == 4


def test_nobody_overtakes_those_who_wait() -> None:
    crowd = Crowd()
    streams = [crowd.enter(name) for name in "abc"]
    proud = crowd.enter("proud", steps=(2,))
    assert proud.news[0][0] == "waiting"
    small = crowd.enter("small", steps=(1,))
    assert small.news[0][0] == "waiting"  # it would fit
    crowd.leave(streams[0])
    assert ("admitted",) in proud.news
    assert ("admitted",) not in small.news


def test_clients_with_fewer_sessions_go_first() -> None:
    crowd = Crowd(max_waiting=4)
    members = [crowd.enter(name, "greedy") for name in "abcd"]
    again, other = crowd.enter("e", "greedy"), crowd.enter("f", "modest")
    assert (again.news[-1][1], other.news[-1][1]) == (2, 1)
    crowd.leave(members[0])
    assert ("admitted",) in other.news


def test_who_gives_up_waiting_makes_room_in_the_queue() -> None:
    crowd = Crowd(max_waiting=1)
    for name in "abcd":
        crowd.enter(name)
    crowd.leave(crowd.enter("e"))
    assert crowd.enter("f").news == [("waiting", 1, None)]


def test_quality_comes_back_when_others_leave() -> None:
    crowd = Crowd()
    stays, *others = [crowd.enter(name) for name in "abcd"]
    for stream in others:
        crowd.leave(stream)
    assert stays.news[-1][:2] == ("rung", 1)
    crowd.now += HOLD_S
    crowd.govern()
    assert stays.news[-1] == ("rung", 0, "room", True)


def test_a_member_may_not_ask_for_what_would_break_promises() -> None:
    crowd = Crowd()
    stream, *_ = [crowd.enter(name) for name in "abcd"]
    wish = demand("a", steps=(2,))
    with pytest.raises(BusyError):
        crowd.roster.check(stream, wish, MODEL, DEVICE)  # type: ignore[arg-type]
    crowd.roster.check(stream, demand("a", steps=(4, 1)), MODEL, DEVICE)  # type: ignore[arg-type]


def test_misses_of_the_members_reach_the_governor() -> None:
    crowd = Crowd()
    stream = crowd.enter("a")
    stream.missed = (100, 50)
    crowd.now += 1
    crowd.govern()
    assert crowd.roster.governor.pressure > 1


def test_what_one_session_loses_alone_lowers_nobody() -> None:
    crowd = Crowd()
    bursty, other = crowd.enter("a"), crowd.enter("b")
    bursty.missed, other.missed = (100, 50), (100, 0)
    crowd.now += 1
    crowd.govern()
    assert crowd.roster.governor.pressure == 1.0
    other.missed = (100, 10)
    crowd.now += 1
    crowd.govern()
    assert crowd.roster.governor.pressure > 1


def test_asking_for_less_is_granted_even_where_promises_do_not_hold() -> None:
    crowd = Crowd()
    stream, *_ = [crowd.enter(name) for name in "abcd"]
    slower = model(row=0.1)  # the device has become slower
    check = crowd.roster.check
    check(stream, demand("a", fps=8.0), slower, DEVICE)  # type: ignore[arg-type]
    check(stream, demand("a", budget=2.0), slower, DEVICE)  # type: ignore[arg-type]
    with pytest.raises(BusyError):
        check(stream, demand("a", fps=30.0), slower, DEVICE)  # type: ignore[arg-type]


def test_what_could_never_fit_into_memory_is_no_wish() -> None:
    crowd, device = Crowd(), Capacity(memory=0.5)
    with pytest.raises(ParamsError, match="memory"):
        crowd.roster.enter(crowd.now, Told("a"), MODEL, device)  # type: ignore[arg-type]
    assert (len(crowd.roster), crowd.roster.waiting) == (0, 0)


def test_nobody_takes_the_whole_queue() -> None:
    crowd = Crowd(max_waiting=4)
    for name in "abcd":
        crowd.enter(name)
    for name in "ef":
        crowd.enter(name, "greedy")
    with pytest.raises(BusyError):
        crowd.enter("g", "greedy")
    assert crowd.enter("h", "modest").news[-1][:2] == ("waiting", 1) or crowd.roster.waiting == 3


def test_batch_jobs_wait_behind_live_sessions() -> None:
    crowd = Crowd(max_waiting=4)
    members = [crowd.enter(name) for name in "abcd"]
    live = crowd.enter("live")
    job = crowd.enter("job", batch=True)
    assert (job.news[-1][1], live.news[-1][1]) == (2, 1)
    crowd.leave(members[0])
    assert ("admitted",) in live.news
    assert ("admitted",) in job.news  # which is promised nothing, and so takes no room


def test_a_waiting_job_keeps_no_live_session_out() -> None:
    crowd = Crowd(max_waiting=4)
    device = Capacity(sessions=1)
    job, other = Told("job", batch=True), Told("other", batch=True)
    for stream in (job, other):
        crowd.roster.enter(crowd.now, stream, MODEL, device)  # type: ignore[arg-type]
    assert other.news == [("waiting", 1, None)]
    live = Told("live")
    crowd.roster.enter(crowd.now, live, MODEL, device, may_wait=False)  # type: ignore[arg-type]
    assert ("admitted",) in live.news
    assert job.news[-1][0] == "waiting"  # it made room
    assert (len(crowd.roster), crowd.roster.waiting) == (1, 2)
    crowd.roster.leave(crowd.now, live)  # type: ignore[arg-type]
    crowd.roster.govern(crowd.now, MODEL, device)
    assert len(crowd.roster) == 1


def test_jobs_make_no_more_room_than_it_takes_and_none_in_vain() -> None:
    crowd, device = Crowd(max_waiting=4), Capacity(sessions=4)
    jobs = [Told(f"job{number}", batch=True) for number in range(3)]
    for stream in (*jobs, Told("a", steps=(2,)), Told("b", steps=(2,))):
        crowd.roster.enter(crowd.now, stream, MODEL, device)  # type: ignore[arg-type]
    assert [job.news[-1][0] for job in jobs] == ["rung", "rung", "waiting"]
    third = Told("c", steps=(2,))
    crowd.roster.enter(crowd.now, third, MODEL, device)  # type: ignore[arg-type]
    assert third.news[0][0] == "waiting"  # the device is too slow for three, with jobs or without
    assert [job.news[-1][0] for job in jobs] == ["rung", "rung", "waiting"]


@pytest.mark.parametrize("members", range(5))
def test_room_is_told_as_those_who_enter_find_it(members: int) -> None:
    crowd = Crowd()
    for number in range(members):
        crowd.enter(f"member {number}")
    told = crowd.roster.room(demand("like"), MODEL, DEVICE)
    found = 0
    while crowd.enter(f"newcomer {found}").news[0] == ("admitted",):
        found += 1
    assert (told, told + members) == (found, 4)
    assert crowd.roster.room(demand("like"), MODEL, DEVICE) == 0  # one waits, whose turn is first


def test_jobs_leave_the_room_to_live_sessions_and_endless_room_is_told_up_to_a_bound() -> None:
    crowd = Crowd()
    crowd.enter("job", batch=True)
    assert crowd.roster.room(demand("like"), MODEL, Capacity(sessions=1)) == 1
    assert crowd.roster.room(demand("like"), model(row=1e-6), DEVICE) == MOST_ROOM
