from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from streamgen.bench import admission as module
from streamgen.bench.admission import Admission, Entry, enter
from streamgen.client import Queue, Restarted, ServiceError, Session, StateChanged

FULL = ServiceError("all places are taken", 503, 2.0)
SESSION = cast(Session, object())


class Time:
    """Passes only where somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def attempts(*answers: Exception | None) -> Callable[[], Awaitable[Session]]:
    """Refusals one after the other; None is the session."""
    left = list(answers)

    async def attempt() -> Any:
        answer = left.pop(0)
        if answer is not None:
            raise answer
        return SESSION

    return attempt


async def test_who_is_refused_asks_again_when_it_is_told_to(time: Time):
    it = Admission()
    assert await enter(attempts(FULL, FULL, None), it, 30.0, time) is SESSION
    assert (it.refused, it.retries, time.now) == (2, 2, 104.0)
    it.state("warming", time.now)
    assert it.entry(100.0) == Entry(admitted=True, queued=False, waited_s=4.0, refused=2, retries=2)


async def test_patience_ends_after_one_more_attempt(time: Time):
    it = Admission()
    assert await enter(attempts(*[FULL] * 9), it, 5.0, time) is None
    assert (it.refused, it.retries, time.now) == (4, 3, 105.0)
    it.left = time.now
    entry = it.entry(100.0)
    assert entry == Entry(False, False, 5.0, refused=4, retries=3, reason="all places are taken")


async def test_without_patience_a_refusal_is_an_error(time: Time):
    it = Admission()
    with pytest.raises(ServiceError, match="all places"):
        await enter(attempts(FULL), it, 0.0, time)
    assert it.refused == 0


async def test_what_does_not_mend_itself_is_not_asked_again(time: Time):
    with pytest.raises(ServiceError, match="unknown"):
        await enter(attempts(ServiceError("prompt: unknown", 422)), Admission(), 30.0, time)
    assert time.now == 100.0


async def test_where_nothing_is_said_it_asks_again_after_a_while(time: Time):
    await enter(attempts(ServiceError("no", 503), ServiceError("no", 503, 0.0), None), Admission(), 30.0, time)
    assert time.now == pytest.approx(100.0 + module.USUAL_WAIT_S + module.LEAST_WAIT_S)


def test_places_in_the_queue_and_the_wait():
    it = Admission()
    it.state("queued", 100.0)
    for position in (3, 3, 2, 1):
        it.take(Queue(position, 4.0), 100.5)
    assert it.waiting
    it.take(StateChanged("warming"), 107.0)
    it.take(Queue(9, None), 108.0)  # says nothing any more
    it.take(StateChanged("queued"), 109.0)
    assert not it.waiting
    assert it.entry(100.0) == Entry(admitted=True, queued=True, waited_s=7.0, positions=(3, 2, 1))


@pytest.mark.parametrize("event", [StateChanged("connecting"), StateChanged("closed"), Restarted("why")])
def test_what_does_not_let_in(event: StateChanged | Restarted):
    it = Admission(queued=True)
    it.take(event, 101.0)
    assert it.waiting


def test_who_gets_results_was_let_in():
    it = Admission()
    it.state("queued", 100.0)
    it.got_result(103.0)
    it.got_result(104.0)
    assert it.entry(100.0) == Entry(admitted=True, queued=True, waited_s=3.0)


def test_who_was_let_in_at_once_did_not_wait():
    it = Admission()
    it.take(StateChanged("live"), 101.0)
    assert it.entry(100.0) == Entry(admitted=True, queued=False, waited_s=0.0)


def test_together_counts_are_summed_and_the_longest_wait_stays():
    sessions = [Entry(True, True, 3.0, (2, 1)), Entry(False, False, 9.0, (), 4, 3, "full"), Entry(True, False, 0.0)]
    assert Entry.together(sessions) == Entry(2, 1, 9.0, (), 4, 3)
