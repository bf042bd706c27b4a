"""How many consecutive blocks of a DiT each rank of a ring holds: pure arithmetic, exact.

    rank          0          1          2
    blocks    0 1 2 3    4 5 6 7 8    9 10 11      split (4, 5, 3)

A row goes through the ranks one after the other, and while one works on it the others work on other rows: a ring does
as many rows a second as its slowest rank, the bottleneck.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate
from typing import NamedTuple

Split = tuple[int, ...]
"""Blocks of each rank. A rank may have none: then it encodes, decodes, or hands on."""

Limits = Sequence[int | None]
"""Most blocks that each rank's memory holds; None: as many as there are."""


class Cost(NamedTuple):
    """What a row of DiT work takes of a rank (s)."""

    block_s: float
    """Each block that it holds."""
    extra_s: float
    """All the rest, per row: encoding and decoding spread over a chunk's rows, what a pass takes anyway."""

    def stage_s(self, blocks: int) -> float:
        """A row's stay at the rank with so many blocks (s)."""
        return blocks * self.block_s + self.extra_s


class Move(NamedTuple):
    """One block from a rank to its neighbour."""

    layer: int
    """The last block of `source` where `target` is the rank behind it, its first where it is the rank before."""
    source: int
    target: int


def even(layers: int, ranks: int) -> Split:
    """As many blocks for each rank; what is left over goes to the first ones."""
    each, more = divmod(layers, ranks)
    return tuple(each + (rank < more) for rank in range(ranks))


def bottleneck(costs: Sequence[Cost], split: Split) -> float:
    """What the slowest rank takes for a row (s): the time between two rows that leave the ring."""
    return max(cost.stage_s(blocks) for cost, blocks in zip(costs, split, strict=True))


def distance(one: Split, other: Split) -> int:
    """Moves from one split to another."""
    return sum(abs(a - b) for a, b in zip(accumulate(one), accumulate(other), strict=True))


def best(costs: Sequence[Cost], layers: int, limits: Limits | None = None, present: Split | None = None) -> Split:
    """The split with the least bottleneck; of several the one that takes the fewest moves from `present`, where that is
    given, and of these the one with the least sum of squares of stage times.

    Exact. Raises ValueError where the blocks do not fit within `limits`.
    """
    bounds = _bounds(len(costs), layers, limits)
    worst = _least_bottleneck(costs, layers, bounds)
    most = [
        bisect_right(range(bound + 1), worst, key=cost.stage_s) - 1 for cost, bound in zip(costs, bounds, strict=True)
    ]
    return _nearest(costs, layers, most, present)


def step(split: Split, goal: Split, costs: Sequence[Cost], limits: Limits | None = None) -> Move:
    """The next move from `split` to another one, `goal`: of those that are on the way and have room, the one that
    leaves the slowest ranks fastest.

    With one move after the other, as many as `distance` says, the goal is reached, whatever the splits, as long as
    both are within `limits` and no rank between others has a limit of 0.
    """
    bounds = _bounds(len(split), sum(split), limits)
    possible = [
        move for move in _towards(split, goal) if split[move.source] and split[move.target] < bounds[move.target]
    ]

    def slowest(move: Move) -> list[float]:
        return sorted(map(Cost.stage_s, costs, moved(split, move)), reverse=True)

    return min(possible, key=slowest)


def moved(split: Split, move: Move) -> Split:
    """The split after a move."""
    return tuple(blocks - (rank == move.source) + (rank == move.target) for rank, blocks in enumerate(split))


def _towards(split: Split, goal: Split) -> Iterator[Move]:
    """For each border between ranks that is not where it is in `goal`: the block beside it that has to cross it."""
    for rank, (border, wanted) in enumerate(zip(accumulate(split[:-1]), accumulate(goal), strict=False)):
        if border > wanted:
            yield Move(border - 1, rank, rank + 1)
        elif border < wanted:
            yield Move(border, rank + 1, rank)


def _bounds(ranks: int, layers: int, limits: Limits | None) -> list[int]:
    """Most blocks of each rank. Raises ValueError where that is too few for all."""
    if limits is None:
        return [layers] * ranks
    if len(limits) != ranks:
        raise ValueError(f"there are {ranks} ranks and limits for {len(limits)}")
    bounds = [layers if limit is None else min(limit, layers) for limit in limits]
    if sum(bounds) < layers:
        held = " + ".join(map(str, bounds))
        raise ValueError(f"{layers} blocks do not fit: the ranks' memory holds {held} = {sum(bounds)}")
    return bounds


def _least_bottleneck(costs: Sequence[Cost], layers: int, bounds: Sequence[int]) -> float:
    """Gives one block after the other to the rank that is done soonest with it, which no other way can beat."""
    blocks = [0] * len(costs)
    worst = max(cost.extra_s for cost in costs)
    soonest = [(cost.stage_s(1), rank) for rank, cost in enumerate(costs) if bounds[rank]]
    heapify(soonest)
    for _ in range(layers):
        stage_s, rank = heappop(soonest)
        worst = max(worst, stage_s)
        blocks[rank] += 1
        if blocks[rank] < bounds[rank]:
            heappush(soonest, (costs[rank].stage_s(blocks[rank] + 1), rank))
    return worst


def _nearest(costs: Sequence[Cost], layers: int, most: Sequence[int], present: Split | None) -> Split:
    """Of the splits with at most `most` blocks each the one that is fewest moves away, then the most even one.

    Rank after rank: only the best way to have the blocks up to some border placed can be part of the best split.
    """
    borders = None if present is None else list(accumulate(present))
    behind = [sum(most[rank + 1 :]) for rank in range(len(most))]
    ways: dict[int, tuple[int, float, Split]] = {0: (0, 0.0, ())}
    for rank, cost in enumerate(costs):
        further: dict[int, tuple[int, float, Split]] = {}
        squares = [cost.stage_s(blocks) ** 2 for blocks in range(most[rank] + 1)]
        for begin, (moves, spread, split) in ways.items():
            for end in range(max(begin, layers - behind[rank]), min(begin + most[rank], layers) + 1):
                crossing = 0 if borders is None else abs(end - borders[rank])
                way = (moves + crossing, spread + squares[end - begin], (*split, end - begin))
                if end not in further or way < further[end]:
                    further[end] = way
        ways = further
    return ways[layers][2]
