import pytest

from streamgen.bench.rungs import Rungs, RungTimes
from streamgen.client import Quality


def quality(rung: int, reason: str = "load") -> Quality:
    return Quality(rung, 4, 2, 16.0, 320, 192, "full", reason)


def test_who_hears_nothing_is_on_the_rung_that_was_asked_for():
    assert Rungs().times(10.0, 30.0) == RungTimes(1, 0, {}, {"0": 20.0})
    assert Rungs().at(12.0) == 0


def test_time_and_changes_are_told_with_their_reasons():
    rungs = Rungs()
    for at, rung, reason in ((4.0, 1, "load"), (5.0, 3, "load"), (9.0, 1, "room"), (20.0, 0, "room")):
        rungs.told(quality(rung, reason), at)
    assert rungs.times(2.0, 12.0) == RungTimes(4, 4, {"load": 2, "room": 2}, {"0": 2.0, "1": 4.0, "3": 4.0})
    assert [rungs.at(time) for time in (3.9, 4.0, 6.0, 19.0, 21.0)] == [0, 1, 3, 1, 0]


def test_the_same_rung_again_is_no_change():
    rungs = Rungs()
    for at in (1.0, 2.0, 3.0):
        rungs.told(quality(2), at)
    assert rungs.times(0.0, 4.0).changes == 1


def test_the_first_statistics_say_where_it_began():
    rungs = Rungs()
    rungs.seen({"rung": 2, "rungs": 4}, 3.0)
    rungs.told(quality(1, "room"), 6.0)
    rungs.seen({"rung": 1, "rungs": 4}, 7.0)
    assert rungs.times(1.0, 10.0) == RungTimes(4, 1, {"room": 1}, {"1": 4.0, "2": 5.0})


def test_a_change_of_which_nothing_was_said_is_seen_in_the_statistics():
    rungs = Rungs()
    rungs.seen({"rung": 0, "rungs": 4}, 1.0)
    rungs.seen({"rung": 1, "rungs": 4}, 2.0)
    assert rungs.times(0.0, 4.0) == RungTimes(4, 1, {"not said": 1}, {"0": 2.0, "1": 2.0})


@pytest.mark.parametrize("plan", [{}, {"steps": 2}, {"rung": "2", "rungs": 4}])
def test_a_plan_without_rungs_says_nothing(plan: dict[str, object]):
    rungs = Rungs()
    rungs.seen(plan, 3.0)
    assert rungs == Rungs()


def test_together_they_are_summed():
    one = RungTimes(4, 2, {"load": 2}, {"0": 2.0, "10": 1.0})
    other = RungTimes(11, 2, {"load": 1, "room": 1}, {"2": 3.0, "0": 1.0})
    it = RungTimes.together([one, other])
    assert it == RungTimes(11, 4, {"load": 3, "room": 1}, {"0": 3.0, "2": 3.0, "10": 1.0})
    assert list(it.seconds) == ["0", "2", "10"]
    assert RungTimes.together([]) == RungTimes()
