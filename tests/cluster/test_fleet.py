from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.cluster.fleet import MOVE_AGAIN_S, MOVED, MOVES_AT_ONCE, NAMED_S, Fleet
from streamgen.cluster.messages import Drain, Move
from streamgen.cluster.node import EXPECTED_S, SILENT_S
from streamgen.errors import BusyError, NodeNotFoundError, NotLiveError, SessionNotFoundError
from tests.support.fleet import report, told

NOW = 100.0
GONE = SessionNotFoundError("gone")


def fleet_of(**nodes: object) -> Fleet:
    """Nodes that have reported: each with its name, and what is special about its report."""
    fleet = Fleet(nodes)
    for name, changes in nodes.items():
        fleet.hear(NOW, name, told(**changes))  # type: ignore[arg-type]
    return fleet


def test_sessions_are_spread_over_nodes_that_are_alike() -> None:
    fleet = fleet_of(n0={"room": 8}, n1={"room": 8}, n2={"room": 8})
    led = [fleet.choose(NOW).name for _ in range(9)]
    assert led[:3] == ["n0", "n1", "n2"]
    assert Counter(led) == {"n0": 3, "n1": 3, "n2": 3}


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(0, 60))
def test_no_node_is_led_more_clients_than_it_has_room_for_and_nobody_is_refused_before_all_are_full(
    rooms: list[int], clients: int
) -> None:
    fleet = fleet_of(**{f"n{number}": {"room": room, "places": 0} for number, room in enumerate(rooms)})
    led: Counter[str] = Counter()
    for _ in range(clients):
        try:
            led[fleet.choose(NOW).name] += 1
        except BusyError:
            break
    assert sum(led.values()) == min(clients, sum(rooms))
    assert all(led[f"n{number}"] <= room for number, room in enumerate(rooms))


def test_a_large_node_gets_more_than_a_small_one() -> None:
    fleet = fleet_of(large={"room": 100}, small={"room": 10})
    assert Counter(fleet.choose(NOW).name for _ in range(6)) == {"large": 3, "small": 3}
    assert Counter(fleet.choose(NOW).name for _ in range(60)) == {"large": 54, "small": 6}


def test_a_guess_that_differs_a_little_does_not_make_the_spread_uneven() -> None:
    fleet = fleet_of(n0={"room": 15}, n1={"room": 28})
    assert Counter(fleet.choose(NOW).name for _ in range(8)) == {"n0": 4, "n1": 4}


def test_of_nodes_that_are_filled_alike_the_one_with_less_to_do_is_chosen() -> None:
    fleet = fleet_of(n0={"load": 0.5}, n1={"load": 0.1})
    assert fleet.choose(NOW).name == "n1"


def test_who_finds_no_room_waits_where_the_queue_is_shortest_or_is_refused() -> None:
    fleet = fleet_of(n0={"room": 0, "places": 1}, n1={"room": 0, "places": 3})
    with pytest.raises(BusyError) as refused:
        fleet.choose(NOW, may_wait=False)
    assert refused.value.retry_after_s == 5
    assert [fleet.choose(NOW).name for _ in range(4)] == ["n1", "n1", "n0", "n1"]
    with pytest.raises(BusyError, match="no machine has room"):
        fleet.choose(NOW)


def test_who_was_led_to_a_node_counts_there_until_it_is_seen_or_does_not_come() -> None:
    fleet = fleet_of(n0={"room": 1, "places": 0})
    fleet.choose(NOW)
    with pytest.raises(BusyError):
        fleet.choose(NOW)
    fleet.hear(NOW + 1, "n0", told(room=1, places=0))  # it is not there yet
    with pytest.raises(BusyError):
        fleet.choose(NOW + 1)
    fleet.hear(NOW + 2, "n0", told(room=1, places=0, sessions=1, opened=1))  # now it is, and there is room for one more
    fleet.choose(NOW + 2)
    with pytest.raises(BusyError):
        fleet.choose(NOW + 2)
    late = NOW + 2 + EXPECTED_S
    fleet.hear(late, "n0", told(room=1, places=0, sessions=1, opened=1))
    fleet.choose(late)


@pytest.mark.parametrize(
    "changes", [{"state": "starting"}, {"state": "draining"}, {"age_s": SILENT_S}, {"problem": "it died"}]
)
def test_nobody_is_led_to_a_node_that_is_not_ready(changes: dict[str, object]) -> None:
    fleet = fleet_of(n0=changes)
    with pytest.raises(BusyError, match="no machine is ready") as refused:
        fleet.choose(NOW)
    assert refused.value.retry_after_s == 2
    fleet.hear(NOW, "n0", told())
    assert fleet.choose(NOW).name == "n0"
    fleet.node("n0").lose("its machine is gone")
    with pytest.raises(BusyError):
        fleet.choose(NOW)


def test_a_node_that_falls_silent_gets_no_more_sessions_until_it_is_heard_again() -> None:
    fleet = fleet_of(n0={})
    assert fleet.state(NOW + SILENT_S - 0.01) == "ready"
    assert fleet.node("n0").state(NOW + SILENT_S) == "silent"
    assert fleet.state(NOW + SILENT_S) == "starting"  # it may come back
    assert fleet.holder(NOW + SILENT_S, "n0.abc", GONE).name == "n0"  # it may be there
    with pytest.raises(SessionNotFoundError):
        fleet.holder(NOW + SILENT_S, "n0.abc", GONE, answering=True)
    fleet.hear(NOW + 60, "n0", told())
    assert fleet.choose(NOW + 60).name == "n0"


def test_an_id_leads_to_the_node_that_gave_it_out() -> None:
    fleet = fleet_of(n0={}, n1={"state": "draining"})
    assert fleet.holder(NOW, "n1.abc.def", GONE).name == "n1"
    for unknown in ("n2.abc", "n1", "abc", "", ".n1", "n1%2Eabc"):
        with pytest.raises(SessionNotFoundError):
            fleet.holder(NOW, unknown, GONE)
    with pytest.raises(NodeNotFoundError, match="there are n0, n1"):
        fleet.node("n2")


def test_a_published_name_leads_to_who_has_it_and_stays_there() -> None:
    fleet = fleet_of(n0={}, n1={"names": ("studio",)})
    assert fleet.watched(NOW, "studio").name == "n1"
    assert fleet.publisher(NOW, "studio").name == "n1"
    with pytest.raises(NotLiveError):
        fleet.watched(NOW, "stage")
    assert fleet.publisher(NOW, "stage").name == "n0"
    assert fleet.watched(NOW, "stage").name == "n0"  # before the node says so itself
    assert [fleet.publisher(NOW, "stage").name for _ in range(3)] == ["n0"] * 3
    later = NOW + NAMED_S
    fleet.hear(later, "n0", told())
    with pytest.raises(NotLiveError):
        fleet.watched(later, "stage")
    fleet.node("n1").draining = True
    fleet.hear(later, "n1", told(names=("studio",)))
    assert fleet.publisher(later, "studio").name == "n0"  # n1 is to be emptied
    assert fleet.watched(NOW, "n1.secret").name == "n1"
    with pytest.raises(SessionNotFoundError):
        fleet.watched(NOW, "a-secret-of-no-node-at-all")


def test_publishers_wait_in_no_queue() -> None:
    fleet = fleet_of(n0={"room": 0})
    with pytest.raises(BusyError):
        fleet.publisher(NOW, "")


def test_only_what_a_node_can_have_made_is_let_through_without_a_token() -> None:
    fleet = Fleet(["n0"])
    assert fleet.knows("n0.abc")
    assert not any(fleet.knows(stream) for stream in ("n0", "n1.abc", "studio", "", "."))


def test_jobs_go_where_most_are_taken() -> None:
    fleet = fleet_of(n0={"jobs": 1}, n1={"jobs": 3})
    assert fleet.choose_for_job(NOW).name == "n1"


def test_a_node_that_drains_gets_nobody_and_sends_away_as_many_as_others_have_room_for() -> None:
    fleet = fleet_of(n0={"sessions": 20}, n1={"room": 3}, n2={"room": 0})
    assert fleet.orders(NOW) == []
    node = fleet.node("n0")
    node.draining = True
    assert (node.state(NOW), fleet.choose(NOW).name) == ("draining", "n1")  # who has two places left now
    assert fleet.orders(NOW) == [("n0", Drain(True)), ("n0", Move(2, MOVED))]
    fleet.hear(NOW + 0.5, "n0", told(sessions=20, draining=True, state="draining", moving=2))
    assert fleet.orders(NOW + 0.5) == []  # it shows first where they go
    fleet.hear(NOW + MOVE_AGAIN_S, "n0", told(sessions=18, draining=True, state="draining"))
    for name in ("n1", "n2"):
        fleet.hear(NOW + MOVE_AGAIN_S, name, told(room=30))
    fleet.node("n1").expect(NOW)
    assert fleet.orders(NOW + MOVE_AGAIN_S) == [("n0", Move(MOVES_AT_ONCE, MOVED))]
    fleet.hear(NOW + 8, "n0", told(sessions=0, working=1, draining=True, state="draining"))
    assert node.state(NOW + 8) == "draining"  # there is a video file that it has not done yet
    fleet.hear(NOW + 9, "n0", told(sessions=0, draining=True, state="draining"))
    assert (node.state(NOW + 9), fleet.orders(NOW + 9)) == ("drained", [])


def test_those_who_are_on_their_way_take_room_of_the_others() -> None:
    fleet = fleet_of(
        n0={"sessions": 9, "moving": 3, "draining": True, "state": "draining"},
        n1={"sessions": 9, "draining": True, "state": "draining"},
        n2={"room": 5},
    )
    assert fleet.orders(NOW) == [("n0", Move(2, MOVED))]


def test_the_last_node_keeps_its_sessions_while_it_drains() -> None:
    fleet = fleet_of(n0={"sessions": 5, "draining": True, "state": "draining"})
    assert fleet.orders(NOW) == []
    assert (fleet.state(NOW), fleet.node("n0").state(NOW)) == ("draining", "draining")


def test_a_node_that_is_to_be_filled_again_is_told_so() -> None:
    fleet = fleet_of(n0={"draining": True, "state": "draining"})
    node = fleet.node("n0")
    assert node.draining  # by whatever gateway there was before
    node.draining = False
    assert fleet.orders(NOW) == [("n0", Drain(False))]
    fleet.hear(NOW + 1, "n0", told(draining=True, state="draining"))  # from before it heard
    assert fleet.orders(NOW + 1) == [("n0", Drain(False))]
    fleet.hear(NOW + 2, "n0", told())
    assert (fleet.orders(NOW + 2), node.state(NOW + 2)) == ([], "ready")


def test_a_node_that_is_to_be_emptied_stays_so_over_a_crash_but_not_over_a_move() -> None:
    fleet = fleet_of(n0={})
    node = fleet.node("n0")
    node.draining = True
    empty = told("second")
    fleet.hear(NOW, "n0", replace(empty, report=None))
    assert (node.state(NOW), node.restarts, node.draining) == ("starting", 1, True)
    fleet.hear(NOW, "n0", empty)
    assert (node.state(NOW), fleet.orders(NOW)) == ("drained", [("n0", Drain(True))])
    fleet.hear(NOW, "n0", told("third", url="http://10.0.0.9:4000"))
    assert (node.state(NOW), node.restarts, node.draining) == ("ready", 2, False)


def test_what_was_expected_of_a_process_is_not_expected_of_the_next() -> None:
    fleet = fleet_of(n0={"room": 1, "places": 0, "opened": 7})
    fleet.choose(NOW)
    fleet.hear(NOW, "n0", told("second", room=1, places=0))
    assert fleet.choose(NOW).name == "n0"


def test_a_lost_node_comes_back_with_what_is_heard_of_it() -> None:
    fleet = fleet_of(n0={}, n1={})
    fleet.node("n0").lose("the machine is gone")
    assert (fleet.node("n0").state(NOW), fleet.node("n0").problem) == ("lost", "the machine is gone")
    assert fleet.state(NOW) == "ready"  # by the other
    fleet.hear(NOW, "n0", told("second"))
    assert (fleet.node("n0").state(NOW), fleet.node("n0").problem, fleet.node("n0").restarts) == ("ready", "", 1)


def test_before_anything_is_heard_all_are_starting() -> None:
    fleet = Fleet(["n0"])
    node = fleet.node("n0")
    assert (fleet.state(NOW), node.state(NOW), node.answers(NOW)) == ("starting", "starting", False)
    assert (node.room(NOW), node.places(NOW), node.fill(NOW), node.jobs) == (0, 0, 1.0, 0)
    assert report().state == "ready"
