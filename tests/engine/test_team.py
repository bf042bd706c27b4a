from __future__ import annotations

import pickle
from functools import partial

import pytest

from pipelines.fake import FakePipeline
from streamgen.engine.team import Muster, alone, title


def test_a_plain_factory_is_a_team_of_one_without_a_name() -> None:
    devices = alone(partial(FakePipeline))
    assert devices.names == ("",)
    team = devices.team(devices.names)
    assert team.others == ()
    head = pickle.loads(pickle.dumps(team.head))
    assert isinstance(head("nowhere"), FakePipeline)
    assert title(0, *devices.names) == "the worker"


def test_a_process_is_called_by_rank_and_device() -> None:
    assert title(2, "cuda:1") == "rank 2 (cuda:1)"


def test_a_device_is_left_out_at_its_second_failure() -> None:
    muster = Muster(("a", "b", "c"))
    assert muster.failed(1) is None
    assert muster.names == ("a", "b", "c")
    assert muster.failed(1) == "b"
    assert muster.names == ("a", "c")
    assert muster.failed(1) is None  # c's first
    assert muster.failed(1) == "c"


def test_devices_of_the_same_name_are_told_apart() -> None:
    muster = Muster(("cpu", "x", "cpu"))
    assert [muster.failed(2), muster.failed(0), muster.failed(2)] == [None, None, "cpu"]
    assert muster.names == ("cpu", "x")


def test_a_start_that_works_forgives() -> None:
    muster = Muster(("a", "b"))
    muster.failed(0)
    muster.started()
    assert muster.failed(0) is None
    assert muster.failed(0) == "a"


def test_the_last_device_stays() -> None:
    muster = Muster(("a",))
    assert [muster.failed(0) for _ in range(4)] == [None] * 4
    assert muster.names == ("a",)


@pytest.mark.parametrize("order", [(0, 1, 2, 1), (2, 1, 0, 0)])
def test_ranks_that_fail_by_turns_leave_it_too(order: tuple[int, ...]) -> None:
    """Where all fail for the same reason, now one says so first and now another."""
    muster = Muster(("a", "b", "c"))
    left_out = [muster.failed(rank) for rank in order]
    assert left_out[:3] == [None] * 3
    assert left_out[3] == "abc"[order[3]]
