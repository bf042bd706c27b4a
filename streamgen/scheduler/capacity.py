"""What a device can take on, and when it would be done with it. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamgen.scheduler.cost import Rates

IDLE = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Capacity:
    """A device as it is now."""

    max_batch: int = 1
    """Chunks in one batch."""
    overlap: bool = False
    """Whether one batch is encoded, another denoised and a third decoded at the same time."""
    sessions: int | None = None
    """Most sessions at once; None where that is no bound."""
    memory: float | None = None
    """Stream states that it holds, of the default size; None where that is no bound."""
    free: tuple[float, float, float] = IDLE
    """When encoder, denoiser and decoder will have done what they were given (s)."""

    def ends(self, now: float, rates: Rates, chunks: int, calls: int, rows: int) -> tuple[float, float, float]:
        """When each of the three would be done with a batch that is given to them now (s)."""
        before, denoise, after = rates.stages(chunks, calls, rows)
        free_before, free_denoise, free_after = self.free
        if not self.overlap:
            end = max(now, free_after) + before + denoise + after
            return end, end, end
        encoded = max(now, free_before) + before
        denoised = max(encoded, free_denoise) + denoise
        return encoded, denoised, max(denoised, free_after) + after

    def given(self, ends: tuple[float, float, float]) -> Capacity:
        """The device once it has that batch."""
        return replace(self, free=ends)


ONE_BY_ONE = Capacity()
"""A device that takes one chunk at a time."""
