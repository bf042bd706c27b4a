"""How a ring is laid out. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

SPARE_CHUNKS = 2
"""Chunks of one stream beyond one for each rank: one being encoded, one being decoded."""


@dataclass(frozen=True)
class Arrangement:
    """How many consecutive blocks each rank has at first."""

    split: tuple[int, ...]

    @property
    def ranks(self) -> int:
        """How many there are."""
        return len(self.split)

    def layers(self, rank: int) -> range:
        """The blocks of a rank."""
        before = sum(self.split[:rank])
        return range(before, before + self.split[rank])
