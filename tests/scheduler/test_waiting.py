from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamgen.scheduler.waiting import Waiter, WaitingRoom


def room(*waiters: tuple[str, str] | tuple[str, str, bool]) -> WaitingRoom:
    made = WaitingRoom()
    for since, (session, client, *batch) in enumerate(waiters):
        made.enter(Waiter(session, client, bool(batch), float(since)))
    return made


def order(made: WaitingRoom, **held: int) -> list[str]:
    return [waiter.session for waiter in made.order(held)]


def test_first_come_first_served() -> None:
    assert order(room(("1", "a"), ("2", "b"), ("3", "c"))) == ["1", "2", "3"]


def test_one_client_with_many_sessions_does_not_crowd_out_another() -> None:
    made = room(("1", "a"), ("2", "a"), ("3", "a"), ("4", "b"), ("5", "c"))
    assert order(made) == ["1", "4", "5", "2", "3"]
    assert order(made, a=1) == ["4", "5", "1", "2", "3"]
    assert order(made, a=1, b=2) == ["5", "1", "2", "4", "3"]


def test_live_sessions_go_before_batch_jobs() -> None:
    assert order(room(("1", "a", True), ("2", "a"), ("3", "b"))) == ["2", "3", "1"]


def test_who_leaves_waits_no_longer() -> None:
    made = room(("1", "a"), ("2", "b"))
    made.leave("1")
    made.leave("1")
    assert order(made) == ["2"]
    assert len(made) == 1


def test_estimates_come_from_what_left_lately() -> None:
    made = room(("1", "a"))
    assert made.estimate(1, 4) is None
    made.left(60.0)
    made.left(20.0)
    assert made.estimate(1, 4) == 10.0
    assert made.estimate(3, 4) == 30.0
    assert made.estimate(1, 0) is None


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
)
def test_everybody_has_one_place_and_each_client_keeps_its_order(
    entries: list[tuple[str, bool]], held: dict[str, int]
) -> None:
    made = WaitingRoom()
    for number, (client, batch) in enumerate(entries):
        made.enter(Waiter(str(number), client, batch, float(number)))
    ordered = made.order(held)
    assert sorted(waiter.session for waiter in ordered) == sorted(map(str, range(len(entries))))
    for client in "abc":
        for batch in (False, True):
            own = [waiter.since for waiter in ordered if (waiter.client, waiter.batch) == (client, batch)]
            assert own == sorted(own)
