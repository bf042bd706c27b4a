from collections.abc import Callable

import pytest

from pipelines.ring.microbatch import TRIALS, MicroBatch


def measured(pass_s: Callable[[int], float], able: int = 8, passes: int = 40) -> MicroBatch:
    microbatch = MicroBatch()
    for _ in range(passes):
        rows = microbatch.most(able)
        microbatch.observe(rows, pass_s(rows))
    return microbatch


def test_rows_go_one_by_one_where_each_takes_its_time() -> None:
    microbatch = measured(lambda rows: 0.01 * rows)
    assert [microbatch.most(able) for able in (1, 2, 3, 9)] == [1, 1, 1, 1]


def test_rows_share_a_pass_where_that_costs_next_to_nothing() -> None:
    microbatch = measured(lambda rows: 0.01 + 0.0001 * rows)
    assert [microbatch.most(able) for able in (1, 2, 3, 4, 9)] == [1, 2, 2, 4, 8]


def test_a_pass_grows_as_far_as_it_is_worth_it() -> None:
    microbatch = measured(lambda rows: max(0.02, 0.01 * rows))
    assert [microbatch.most(able) for able in (2, 4, 8)] == [2, 2, 2]


@pytest.mark.parametrize("able", [1, 2, 8])
def test_nothing_is_tried_before_single_rows_are_known(able: int) -> None:
    microbatch = MicroBatch()
    for _ in range(TRIALS):
        assert microbatch.most(able) == 1
        microbatch.observe(1, 0.01)
    assert microbatch.most(able) == min(able, 2)


def test_sizes_that_are_none_and_times_that_are_none_are_not_learnt() -> None:
    microbatch = MicroBatch()
    for rows, seconds in ((3, 0.1), (1, 0.0), (1, -1.0)):
        microbatch.observe(rows, seconds)
    assert microbatch.most(8) == 1
