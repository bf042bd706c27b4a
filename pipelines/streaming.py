"""How chunks go through a pipeline: all steps at once, or one step a call beside the chunks in flight."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from streamgen.core import Pipeline, Pixels, Row

S = TypeVar("S")


class Denoiser(Protocol[S]):
    """The part of a pipeline that steps need."""

    def denoise(self, rows: Sequence[Row[S]]) -> list[Row[S]]:
        """As Pipeline.denoise."""
        ...


def sequential(pipeline: Pipeline[S], chunks: Sequence[tuple[S, Pixels]]) -> list[Pixels]:
    """Encodes, denoises by all steps and decodes (state, frames (T, H, W, 3)), at most one chunk of each state."""
    return pipeline.decode(finish(pipeline, pipeline.encode(chunks)))


def finish(denoiser: Denoiser[S], rows: Sequence[Row[S]]) -> list[Row[S]]:
    """All `rows`, done, in their order: as one batch, which the rows that are done leave."""
    result = list(rows)
    while left := [i for i, row in enumerate(result) if not row.done]:
        for i, row in zip(left, denoiser.denoise([result[i] for i in left]), strict=True):
            result[i] = row
    return result


class StreamBatch(Generic[S]):
    """Rows in flight: chunk i at step n runs in one batch with chunk i + 1 at step n - 1, for any number of streams.

    Per state, in the order of time, so that chunks finish in the order in which they came:

        steps left    1 <= a < b < c ...      strictly rising; 0 leaves at once
    """

    def __init__(self, denoiser: Denoiser[S]) -> None:
        self._denoiser = denoiser
        self._flights: dict[int, list[Row[S]]] = {}  # by id of the state, which its rows keep alive

    def advance(self, rows: Sequence[Row[S]]) -> list[Row[S]]:
        """Takes new rows, at most one of each state, and runs one denoising over the rows of these states.

        Returns the rows that are done. A state whose new row has fewer steps than those before it first catches up.
        """
        states = [row.state for row in rows]
        if len({id(state) for state in states}) != len(states):
            raise ValueError("two new rows of one state")
        done = []
        for row in rows:
            done += self._catch_up(row)
            self._flights.setdefault(id(row.state), []).append(row)
        return done + self._step(states)

    def drain(self, states: Sequence[S]) -> list[Row[S]]:
        """Finishes what `states` have in flight; returns it, each state's rows in the order of time."""
        done = []
        while any(self.in_flight(state) for state in states):
            done += self._step(states)
        return done

    def discard(self, state: S) -> None:
        """Forgets what `state` has in flight."""
        self._flights.pop(id(state), None)

    def in_flight(self, state: S) -> int:
        """Chunks of `state` that are not done yet."""
        return len(self._flights.get(id(state), ()))

    def _catch_up(self, new: Row[S]) -> list[Row[S]]:
        done = []
        while any(_left(row) >= _left(new) for row in self._flights.get(id(new.state), ())):
            done += self._step([new.state])
        return done

    def _step(self, states: Sequence[S]) -> list[Row[S]]:
        """One denoising over all rows in flight of `states`; returns those that are done now."""
        rows = [row for state in states for row in self._flights.pop(id(state), ())]
        stepped = self._denoiser.denoise(rows) if rows else []
        done = [row for row in stepped if row.done]
        for row in stepped:
            if not row.done:
                self._flights.setdefault(id(row.state), []).append(row)
        for state in states:
            left = [_left(row) for row in self._flights.get(id(state), ())]
            assert all(a < b for a, b in pairwise(left)), f"steps left do not rise: {left}"
        return done


def _left(row: Row[S]) -> int:
    return row.steps - row.step
