from __future__ import annotations

from itertools import accumulate, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ring.split import Cost, Limits, Move, Split, best, bottleneck, distance, even, moved, step

times = st.floats(0.0, 10.0) | st.integers(0, 3).map(float)  # whole numbers, for ties
some_costs = st.lists(st.builds(Cost, times, times), min_size=1, max_size=4)


@st.composite
def rings(draw: st.DrawFn) -> tuple[list[Cost], int, list[int | None], Split, Split]:
    """Costs, blocks, limits, and two splits within the limits; a rank between others holds at least one block."""
    costs = draw(some_costs)
    one, other = (draw(st.lists(st.integers(0, 4), min_size=len(costs), max_size=len(costs))) for _ in range(2))
    missing = sum(one) - sum(other)
    (other if missing > 0 else one)[draw(st.integers(0, len(costs) - 1))] += abs(missing)
    limits: list[int | None] = []
    for rank, (a, b) in enumerate(zip(one, other, strict=True)):
        least = max(a, b, 0 < rank < len(costs) - 1)
        limits.append(draw(st.none() | st.integers(least, least + 2)))
    return costs, sum(one), limits, tuple(one), tuple(other)


def every(layers: int, limits: Limits) -> list[Split]:
    bounds = [layers if limit is None else limit for limit in limits]
    return [split for split in product(*(range(bound + 1) for bound in bounds)) if sum(split) == layers]


def rank_of(split: Split, costs: list[Cost], present: Split) -> tuple[float, int, float]:
    squares = sum(cost.stage_s(blocks) ** 2 for cost, blocks in zip(costs, split, strict=True))
    return bottleneck(costs, split), distance(split, present), squares


@given(rings())
def test_the_best_split_is_the_best_of_all(ring: tuple[list[Cost], int, list[int | None], Split, Split]) -> None:
    costs, layers, limits, present, _ = ring
    found = best(costs, layers, limits, present)
    candidates = every(layers, limits)
    assert found in candidates
    assert rank_of(found, costs, present) == min(rank_of(split, costs, present) for split in candidates)


@given(rings())
def test_without_a_present_split_it_is_the_most_even_one(
    ring: tuple[list[Cost], int, list[int | None], Split, Split],
) -> None:
    costs, layers, limits, _, _ = ring
    found = best(costs, layers, limits)
    assert rank_of(found, costs, found) == min(rank_of(split, costs, split) for split in every(layers, limits))


@given(rings())
def test_moves_lead_from_any_split_to_any_other_through_valid_ones(
    ring: tuple[list[Cost], int, list[int | None], Split, Split],
) -> None:
    costs, layers, limits, split, goal = ring
    for _ in range(distance(split, goal)):
        move = step(split, goal, costs, limits)
        assert abs(move.target - move.source) == 1
        begin, end = ([0, *accumulate(split)][rank] for rank in (move.source, move.source + 1))
        assert begin <= move.layer < end
        assert move.layer == (end - 1 if move.target > move.source else begin)
        split = moved(split, move)
        assert sum(split) == layers
        assert all(
            0 <= blocks <= (layers if limit is None else limit) for blocks, limit in zip(split, limits, strict=True)
        )
    assert split == goal


@given(rings())
def test_no_move_makes_the_bottleneck_worse_but_for_blocks_that_pass_a_rank_without_any(
    ring: tuple[list[Cost], int, list[int | None], Split, Split],
) -> None:
    costs, layers, limits, split, _ = ring
    goal = best(costs, layers, limits, split)
    worst = max(bottleneck(costs, split), *(cost.stage_s(1) for cost in costs))
    for _ in range(distance(split, goal)):
        split = moved(split, step(split, goal, costs, limits))
        assert bottleneck(costs, split) <= worst


def test_blocks_are_shared_out_evenly() -> None:
    assert even(30, 4) == (8, 8, 7, 7)
    assert even(2, 3) == (1, 1, 0)
    assert even(6, 1) == (6,)


def test_slow_ranks_and_ranks_that_encode_or_decode_have_fewer_blocks() -> None:
    assert best([Cost(1, 0)] * 3, 30) == (10, 10, 10)
    assert best([Cost(3, 0), Cost(1, 0), Cost(1, 0)], 28) == (4, 12, 12)
    assert best([Cost(1, 4), Cost(1, 0), Cost(1, 5)], 30) == (9, 13, 8)


def test_a_rank_that_has_enough_to_do_without_blocks_has_none() -> None:
    assert best([Cost(1, 9), Cost(1, 0), Cost(1, 0)], 12) == (0, 6, 6)
    assert best([Cost(1, 9), Cost(1, 0), Cost(1, 0)], 21) == (1, 10, 10)


def test_what_is_good_enough_stays() -> None:
    costs = [Cost(1, 9), Cost(1, 0), Cost(1, 0)]
    assert best(costs, 12, present=(0, 4, 8)) == (0, 4, 8)
    assert best(costs, 12, present=(0, 2, 10)) == (0, 3, 9)


def test_memory_bounds_how_many_blocks_a_rank_has() -> None:
    assert best([Cost(1, 0)] * 3, 30, [4, None, None]) == (4, 13, 13)
    with pytest.raises(ValueError, match=r"30 blocks do not fit: the ranks' memory holds 4 \+ 9 \+ 9 = 22"):
        best([Cost(1, 0)] * 3, 30, [4, 9, 9])
    with pytest.raises(ValueError, match="3 ranks and limits for 2"):
        best([Cost(1, 0)] * 3, 30, [4, 9])


def test_a_block_passes_a_full_rank_when_that_has_made_room() -> None:
    costs = [Cost(1, 0)] * 3
    assert step((4, 2, 0), (2, 2, 2), costs, [None, 2, None]) == Move(5, 1, 2)
    assert step((4, 1, 1), (2, 2, 2), costs, [None, 2, None]) == Move(3, 0, 1)
