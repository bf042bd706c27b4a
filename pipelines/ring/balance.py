"""Which rank of a ring holds which blocks, while it runs: from what each rank was measured to take, one move at a time.

Decides and does nothing else: no clock, no tensors. The ring's head feeds it and carries the moves out, in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, median

from pipelines.ring.split import Cost, Limits, Move, Split, best, bottleneck, even, moved, step

__all__ = ["Balancer", "Cost", "Limits", "Move", "Rules", "Split", "best", "bottleneck", "even"]


@dataclass(frozen=True, slots=True)
class Rules:
    """When blocks are moved."""

    gain: float = 0.1
    """A rebalancing starts where it lowers the bottleneck by at least this share."""
    window: int = 32
    """Observations of a rank that its times are the median of: a hiccup moves it little, what lasts all the same."""
    every_s: float = 0.5
    """From one look, and with it from one move, to the next (s): moving a block takes time of the streams'."""
    trust_s: float = 60.0
    """A rank without blocks is taken for as slow as it was with them for so long (s), then for like the others: it gets
    one, and shows what it takes. Where the block is taken from it again, the wait is doubled."""
    longest_trust_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.gain < 1:
            raise ValueError(f"gain is between 0 and 1, not {self.gain}")
        if self.window < 1:
            raise ValueError(f"window is at least 1 observation, not {self.window}")
        if self.every_s < 0 or not 0 < self.trust_s <= self.longest_trust_s:
            raise ValueError("every_s is not negative, trust_s greater than 0 and at most longest_trust_s")


class _Rank:
    """What is known of one rank: what a row takes of it for each block, and for all the rest (s)."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._blocks: deque[float] = deque(maxlen=rules.window)
        self._rest: deque[float] = deque(maxlen=rules.window)
        self._block_s: float | None = None
        self._extra_s = 0.0
        self._trust_s = rules.trust_s
        self._filled_at = self._emptied_at = float("-inf")

    def observe(self, block_s: float | None, extra_s: float) -> None:
        if block_s is not None:
            self._blocks.append(block_s)
            self._block_s = median(self._blocks)
        self._rest.append(extra_s)
        self._extra_s = median(self._rest)

    def settled(self, blocks: int) -> bool:
        """Whether it was observed often enough since blocks last came or went."""
        measured = len(self._blocks) == self._rules.window or not blocks
        return measured and len(self._rest) == self._rules.window

    def touched(self, before: int, after: int, now: float) -> None:
        """Had so many blocks before a move, and has so many after it."""
        self._blocks.clear()
        self._rest.clear()
        if not before:
            self._filled_at = now
        elif not after:
            rules, soon = self._rules, now - self._filled_at < self._trust_s
            self._trust_s = min(2 * self._trust_s, rules.longest_trust_s) if soon else rules.trust_s
            self._emptied_at = now

    @property
    def extra_s(self) -> float:
        return self._extra_s

    @property
    def block_s(self) -> float | None:
        """None where it never had blocks."""
        return self._block_s

    def trusted(self, blocks: int, now: float) -> bool:
        """Whether what its blocks took is believed to be what they take."""
        return blocks > 0 or now - self._emptied_at < self._trust_s


class Balancer:
    """The split of a ring over time.

                                                   the best split is `gain` better, by settled measurements
        at rest  ------------------------------------------------------------------------------------------>  moving
                 <------------------------------------------------------------------------------------------
                                  its goal is reached, or worth nothing any more; frozen

    Invariant: `split` is what the ring has once it has carried out all moves that were given out. Its sum never
    changes, and no rank is over its limit.
    """

    def __init__(self, split: Split, limits: Limits | None = None, rules: Rules | None = None) -> None:
        """split: that the ring starts with; limits: most blocks that each rank's memory holds.

        Raises ValueError for a split over the limits, and where a rank between others may hold no block: none could
        pass it.
        """
        if limits is not None:
            _check(split, limits)
        self.split = split
        self.goal: Split | None = None
        """Where the moves lead; None at rest."""
        self.frozen = False
        self._limits, self._rules = limits, rules or Rules()
        self._ranks = [_Rank(self._rules) for _ in split]
        self._looked_at = float("-inf")
        self._trying = False  # a rank that had no block has one, and shows what it takes

    def observe(self, rank: int, block_s: float | None, extra_s: float) -> None:
        """What a row took of a rank (s): each block (None where it has none), and all the rest.

        What was measured before a rank's first block came, or its last one went, does not count any more.
        Raises ValueError for what is no time.
        """
        if not all(isfinite(time) and time >= 0 for time in (block_s or 0.0, extra_s)):
            raise ValueError(f"rank {rank} took {block_s} s a block and {extra_s} s beside them: these are no times")
        if (block_s is None) == (self.split[rank] == 0):
            self._ranks[rank].observe(block_s, extra_s)

    def next_move(self, now: float) -> Move | None:
        """The move to carry out now, if any: to be carried out before what is measured next is observed.

        now: seconds on a monotonic clock.
        """
        if self.frozen or now - self._looked_at < self._rules.every_s:
            return None
        self._looked_at = now
        costs = self.costs(now)
        settled = all(rank.settled(blocks) for rank, blocks in zip(self._ranks, self.split, strict=True))
        if settled and costs is not None:
            self.goal, self._trying = self._chosen(costs), False
        if self.goal is None or costs is None or self._trying:
            return None
        move = step(self.split, self.goal, costs, self._limits)
        self._carry(move, now)
        return move

    def costs(self, now: float) -> list[Cost] | None:
        """What a row takes of each rank, as far as is known; None where no block was ever measured."""
        ranks = list(zip(self._ranks, self.split, strict=True))
        known = [rank.block_s for rank, blocks in ranks if blocks and rank.block_s is not None]
        if not known:
            return None
        usual = fmean(known)
        return [Cost(_block_s(rank, blocks, usual, now), rank.extra_s) for rank, blocks in ranks]

    def freeze(self) -> None:
        """No moves from now on. It goes on measuring."""
        self.frozen, self.goal = True, None

    def thaw(self) -> None:
        """Moves again where that is worth it."""
        self.frozen = False

    def _chosen(self, costs: Sequence[Cost]) -> Split | None:
        """Another goal only where it is clearly better than where the ring is, or goes."""
        heading = self.split if self.goal is None else self.goal
        found = best(costs, sum(self.split), self._limits, self.split)
        if bottleneck(costs, found) < (1 - self._rules.gain) * bottleneck(costs, heading):
            heading = found
        worth = bottleneck(costs, heading) < bottleneck(costs, self.split)
        return heading if worth else None

    def _carry(self, move: Move, now: float) -> None:
        before, self.split = self.split, moved(self.split, move)
        for rank in (move.source, move.target):
            self._ranks[rank].touched(before[rank], self.split[rank], now)
        self._trying = not before[move.target]
        if self.split == self.goal:
            self.goal = None


def _block_s(rank: _Rank, blocks: int, usual: float, now: float) -> float:
    """usual: the mean of the ranks that have blocks."""
    if rank.block_s is None:
        return usual
    return rank.block_s if rank.trusted(blocks, now) else min(rank.block_s, usual)


def _check(split: Split, limits: Limits) -> None:
    if len(limits) != len(split):
        raise ValueError(f"there are {len(split)} ranks and limits for {len(limits)}")
    for rank, (blocks, limit) in enumerate(zip(split, limits, strict=True)):
        if limit is not None and blocks > limit:
            raise ValueError(f"rank {rank} holds {blocks} blocks, and its memory {limit}")
        if limit == 0 and 0 < rank < len(split) - 1:
            raise ValueError(f"rank {rank} has memory for no block, and none could pass it; leave it out of the ring")
