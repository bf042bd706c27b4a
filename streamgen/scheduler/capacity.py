"""What a device, or several in a row, can take on, and when it would be done with it. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamgen.scheduler.cost import Rates

IDLE = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Capacity:
    """A device as it is now, or a flow through several.

    Of a flow it is assumed that work is spread over its `stages` so that all take alike, as far as can be: blocks of
    the denoiser move, while encoding stays on the first stage and decoding on the last. So it takes the next batch
    after a `stages`-th of what one takes in all, or after encoding or decoding where that is longer; a batch is done
    when it has been through all of it, whatever other batches there are, as long as these are no more than stages.
    """

    max_batch: int = 1
    """Chunks in one batch."""
    overlap: bool = False
    """Whether one batch is encoded, another denoised and a third decoded at the same time."""
    sessions: int | None = None
    """Most sessions at once; None where that is no bound."""
    memory: float | None = None
    """Stream states that it holds, of the default size; None where that is no bound."""
    free: tuple[float, float, float] = IDLE
    """When encoder, denoiser and decoder will have done what they were given (s); of a flow the first two say when it
    takes the next batch."""
    stages: int = 1
    """Devices of a flow, which work on as many batches at once."""
    flight: int = 1
    """Chunks of one session that may be under way at once; with more than one it is a flow."""
    under_way: tuple[float, ...] = ()
    """When each batch in a flow will be done (s)."""

    @property
    def flows(self) -> bool:
        """Whether batches flow through it, and come back in any order."""
        return self.flight > 1

    @property
    def opens(self) -> float:
        """When it can begin another batch (s)."""
        if self.flows:
            return max(self.free[0], self._place)
        return self.free[0] if self.overlap else self.free[2]

    def ends(self, now: float, rates: Rates, chunks: int, calls: int, rows: int) -> tuple[float, float, float]:
        """When each of the three would be done with a batch that is given to them now, as in `free`; last its results
        are there (s).
        """
        before, denoise, after = rates.stages(chunks, calls, rows)
        free_before, free_denoise, free_after = self.free
        if self.flows:
            begins = max(now, self.opens)
            taken = begins + self.bottleneck((before, denoise, after))
            return taken, taken, begins + before + denoise + after
        if not self.overlap:
            end = max(now, free_after) + before + denoise + after
            return end, end, end
        encoded = max(now, free_before) + before
        denoised = max(encoded, free_denoise) + denoise
        return encoded, denoised, max(denoised, free_after) + after

    def bottleneck(self, stages: tuple[float, float, float]) -> float:
        """How long a batch that is so long in its stages keeps the device from the next one (s)."""
        before, _, after = stages
        if self.flows:
            return max(before, after, sum(stages) / self.stages)
        return max(stages) if self.overlap else sum(stages)

    def follows(self, ends: tuple[float, float, float]) -> float:
        """When a batch that has to wait for one with these ends can begin (s)."""
        return ends[0] if self.flows else ends[2]

    def given(self, ends: tuple[float, float, float]) -> Capacity:
        """The device once it has that batch."""
        return replace(self, free=ends, under_way=(*self.under_way, ends[2]) if self.flows else ())

    @property
    def _place(self) -> float:
        """When there will be fewer batches in the flow than stages (s): with more some stand behind others."""
        surplus = len(self.under_way) - self.stages
        return sorted(self.under_way)[surplus] if surplus >= 0 else 0.0


ONE_BY_ONE = Capacity()
"""A device that takes one chunk at a time."""
