"""How long a chunk is, and how its steps are run: from the frame rate, the budget and the costs. Pure arithmetic."""

from __future__ import annotations

from streamgen.engine.work import Mode
from streamgen.scheduler.cost import Rates

MARGIN = 2.0
"""Costs are taken for higher than estimated by so many of the model's mean errors."""

SAVES = 0.25
"""A stream batch has to save this share of a chunk's cost: its results come later, which everybody sees."""

KEEPS = 0.2
"""It has to save this share to stay what it is: so the choice does not waver."""

SPARE = 1.25
"""A chunk is as long as leaves this many times what it takes."""

USED = 0.8
"""Share of the budget that a stream batch may take."""


def careful(seconds: float, rates: Rates) -> float:
    """`seconds` with the margin that the model's error asks for."""
    return seconds * (1 + MARGIN * rates.error)


def chunk_length(most: int, interval: float, budget: float, service: float) -> int:
    """Frames of one chunk: `most`, or fewer where the first of them could not wait for so many others.

    `interval`: between frames; `budget`: of a frame; `service`: of a chunk (s each). A longer chunk is less work a
    frame. Where not even a single frame could be in time chunks are whole: nothing is gained by work for less.
    """
    room = budget - SPARE * service
    return most if room >= (most - 1) * interval or budget < service else 1 + int(max(0.0, room) / interval)


def mode_of(steps: int, period: float, fill: float, budget: float, rates: Rates, now: Mode) -> Mode:
    """How a session's steps are run: whichever is in time at least cost.

    All steps of a chunk in a row; or one step a call beside the chunks before it, which makes one call of several and
    results that come `steps` - 1 chunks later. `period`: between chunks; `fill`: from a chunk's first frame to its last
    (s each). Where the model is compute-bound a call costs what its rows cost, and the stream batch saves nothing.
    """
    if steps == 1:
        return "sequential"
    in_a_row = rates.sequential(steps)
    as_batch = rates.batch(1, 1, steps)
    latency = fill + (steps - 1) * period + 2 * careful(as_batch, rates)
    enough = (KEEPS if now == "stream_batch" else SAVES) * in_a_row
    return "stream_batch" if in_a_row - as_batch > enough and latency <= USED * budget else "sequential"
