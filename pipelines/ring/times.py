"""What the ranks' work takes, lately, from their reports: for the block scheduler, and for who plans with the ring."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.ring.operations import Report

STEP = 0.3
"""Share that a report has in the averages."""

BLOCKS, BESIDE, ENCODE, DECODE = "blocks", "beside", "encode", "decode"
"""A block, for a row; what a pass takes beside them, for a row; encoding and decoding a chunk."""


class RingTimes:
    """Running averages of a unit of each kind of work (s), rank by rank."""

    def __init__(self, size: int) -> None:
        self._ranks: list[dict[str, float]] = [{} for _ in range(size)]

    def learn(self, report: Report) -> tuple[float | None, float] | None:
        """Takes over what a rank did lately.

        Returns what that was for each row: of a block, None where it has none, and of all the rest; None for no rows.
        """
        averages = self._ranks[report.rank]
        units = {name: report.seconds[name] / amount for name, amount in report.amounts.items() if amount}
        for name, seconds in units.items():
            before = averages.get(name, seconds)
            averages[name] = before + STEP * (seconds - before)
        rows = sum(rows * passes for rows, (passes, _) in report.passes.items())
        if not rows:
            return None
        return units.get(BLOCKS), sum(taken for name, taken in report.seconds.items() if name != BLOCKS) / rows

    def denoise(self, split: Sequence[int]) -> float:
        """A row once round, all ranks' work together (s)."""
        ranks = zip(split, self._ranks, strict=True)
        return sum(blocks * its.get(BLOCKS, 0.0) + its.get(BESIDE, 0.0) for blocks, its in ranks)

    @property
    def encode(self) -> float:
        """A chunk (s)."""
        return self._ranks[0].get(ENCODE, 0.0)

    @property
    def decode(self) -> float:
        """A chunk (s)."""
        return self._ranks[-1].get(DECODE, 0.0)
