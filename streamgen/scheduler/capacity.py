"""What a device, or several in a row, can take on, and when it would be done with it. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamgen.scheduler.cost import Rates

IDLE = (0.0, 0.0, 0.0)

CROWDING_STEP = 0.05
"""Share of an observation's error that is taken over."""

MOST_CROWDING = 2.0

MET_EVERYWHERE = 1.0
"""The crowding of a full flow: nobody meets the same batch twice on a stage that has others to do. What was seen beside
few others may be more, and does not tell what many do to each other."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A device as it is now, or a flow through several.

    Of a flow it is assumed that work is spread over its stages so that all take alike, as far as can be: blocks of the
    denoiser move, while encoding stays on the first stage and decoding on the last. A batch begins at once, as long as
    there are not too many, and goes through all of its work; but the others hold it up, the more of them the longer:

        done = begins + work x (1 + crowding x others / stages)

    With as many batches as `places`, then, all of this time, one comes out after a `places`-th of it. That is what a
    batch costs of the flow's time: a `stages`-th of its work where nobody waits for nobody.
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
    """When encoder, denoiser and decoder will have done what they were given (s). Not of a flow."""
    stages: int = 1
    """Devices of a flow, which work on as many batches at once."""
    flight: int = 1
    """Chunks of one session that may be under way at once; with more than one it is a flow."""
    places: int = 1
    """Most batches in a flow at once."""
    crowding: float = 0.5
    """By how much each other batch in a flow holds one up: as a share of what a stage has to do for it. 1 where each of
    them is met on every stage; less where they follow each other."""
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
            surplus = len(self.under_way) - self.places
            return sorted(self.under_way)[surplus] if surplus >= 0 else 0.0
        return self.free[0] if self.overlap else self.free[2]

    def ends(self, now: float, rates: Rates, chunks: int, calls: int, rows: int) -> tuple[float, float, float]:
        """When each of the three would be done with a batch that is given to them now; of a flow, when it begins and,
        last, when it is done (s).
        """
        before, denoise, after = rates.stages(chunks, calls, rows)
        free_before, free_denoise, free_after = self.free
        if self.flows:
            begins = max(now, self.opens)
            others = min(len(self.under_way), self.places - 1)
            return begins, begins, begins + (before + denoise + after) * self._stretch(others)
        if not self.overlap:
            end = max(now, free_after) + before + denoise + after
            return end, end, end
        encoded = max(now, free_before) + before
        denoised = max(encoded, free_denoise) + denoise
        return encoded, denoised, max(denoised, free_after) + after

    def follows(self, ends: tuple[float, float, float]) -> float:
        """When a batch that has to wait for one with these ends can begin (s)."""
        return max(ends[0], self.given(ends).opens) if self.flows else ends[2]

    def bottleneck(self, stages: tuple[float, float, float]) -> float:
        """What a batch that takes so long before, in and after the denoiser costs of the device's time (s)."""
        before, _, after = stages
        if self.flows:
            share = max(1 / self.stages, self._stretch(self.places - 1, MET_EVERYWHERE) / self.places)
            return max(before, after, sum(stages) * share)
        return max(stages) if self.overlap else sum(stages)

    def given(self, ends: tuple[float, float, float]) -> Capacity:
        """The device once it has that batch."""
        return replace(self, under_way=(*self.under_way, ends[2])) if self.flows else replace(self, free=ends)

    def crowded(self, took: float, work: float, others: int) -> Capacity:
        """The flow after a batch that took so long for its work (s each), beside so many others when it began.

        Moves along what was seen, by normalised least mean squares: where there were few others it tells little. What
        took longer by more than its work, a hiccup, counts no more than that.
        """
        beside = others / self.stages
        error = min(1.0, max(-1.0, took / max(work, 1e-9) - self._stretch(others)))
        crowding = self.crowding + CROWDING_STEP * error * beside / (1 + beside * beside)
        return replace(self, crowding=min(MOST_CROWDING, max(0.0, crowding)))

    def _stretch(self, others: int, most: float = MOST_CROWDING) -> float:
        """How many times as long as its work a batch takes, beside so many others, each of which holds it up by `most`
        at most."""
        return 1 + min(self.crowding, most) * others / self.stages


ONE_BY_ONE = Capacity()
"""A device that takes one chunk at a time."""
