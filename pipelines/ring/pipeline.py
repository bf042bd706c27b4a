"""The causal Wan pipeline over a ring of ranks, seen from the first: frames in, frames out, many chunks under way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from pipelines.causal_wan.denoiser import LatentRow
from pipelines.causal_wan.grouping import grouped
from pipelines.causal_wan.intake import Intake, StreamState
from pipelines.causal_wan.pipeline import check_undone, decodes_with, result_of, size_of, strength_of
from pipelines.ring.arrival import Arrival
from pipelines.ring.denoising import RingDenoiser
from pipelines.ring.entrance import Traveller
from pipelines.ring.head import Ending, Head, Journey
from pipelines.ring.stage import Stage
from streamgen.core import Arrived, Params, PipelineSpec, Pixels, Row
from streamgen.errors import EngineError, ParamsError

T = TypeVar("T")


class RingPipeline:
    """Implements streamgen.core.Flow. All work is done on the first rank's own thread, or on other ranks."""

    def __init__(self, spec: PipelineSpec, intake: Intake, denoiser: RingDenoiser, stage: Stage, head: Head) -> None:
        self._spec, self._intake, self._denoiser, self._stage, self._head = spec, intake, denoiser, stage, head
        self._numbers = itertools.count()
        self._most_steps: dict[StreamState, int] = {}
        """Steps that each open stream's caches were made for so far."""

    @property
    def spec(self) -> PipelineSpec:
        return self._spec

    @property
    def head(self) -> Head:
        """The first rank."""
        return self._head

    def open(self, params: Params) -> StreamState:
        return self._head.do(lambda: self._open(params))

    def update(self, state: StreamState, params: Params) -> None:
        self._head.do(lambda: self._intake.update(state, params))

    def encode(self, chunks: Sequence[tuple[StreamState, Pixels]]) -> list[Row[StreamState]]:
        return self._head.do(lambda: self._encode(chunks))

    def denoise(self, rows: Sequence[Row[StreamState]]) -> list[Row[StreamState]]:
        check_undone(rows)
        latents: list[LatentRow] = grouped(rows, size_of, lambda at: self._step([rows[i].latent for i in at]))
        return [replace(row, latent=latent, step=latent.step) for row, latent in zip(rows, latents, strict=True)]

    def decode(self, rows: Sequence[Row[StreamState]]) -> list[Pixels]:
        pictures: list[Tensor] = grouped(rows, decodes_with, lambda at: self._pictures([rows[i] for i in at]))
        return [picture.numpy()[: row.frames] for picture, row in zip(pictures, rows, strict=True)]

    def send(self, chunks: Sequence[tuple[StreamState, Pixels]], arrived: Callable[[Arrived], None]) -> None:
        self._head.do(lambda: self._send(chunks, arrived))

    def close(self, state: StreamState) -> None:
        self._head.do(lambda: self._close(state))

    def stop(self) -> None:
        """Ends all ranks, after what is under way. Calling it twice is harmless."""
        self._head.stop()

    def _open(self, params: Params) -> StreamState:
        state = self._intake.open(params)
        self._most_steps[state] = 0
        return state

    def _encode(self, chunks: Sequence[tuple[StreamState, Pixels]]) -> list[Row[StreamState]]:
        with self._stage.watch.span("encode", len(chunks)):
            return self._intake.encode(chunks)

    def _close(self, state: StreamState) -> None:
        if self._most_steps.pop(state, None) is None:
            return
        self._head.leave(self._denoiser.number(state.latents), EngineError("the stream was closed"))
        self._intake.close(state)

    def _send(self, chunks: Sequence[tuple[StreamState, Pixels]], arrived: Callable[[Arrived], None]) -> None:
        try:
            rows = self._encode(chunks)
        except ParamsError:
            raise  # before any stream has changed
        except Exception as error:
            if len(chunks) == 1:
                raise
            # Some encoders have taken in their frames, others have not: not one of the streams can go on.
            arrival = Arrival([0.0] * len(chunks), [0] * len(chunks), self._head, arrived)
            for i in range(len(chunks)):
                arrival.chunk(i)(error)
            return
        arrival = Arrival([row.sigma for row in rows], [row.steps for row in rows], self._head, arrived)
        for i, row in enumerate(rows):
            self._head.come(self._traveller(row, arrival.chunk(i)))

    def _traveller(self, row: Row[StreamState], shown: Callable[[Pixels | Exception], None]) -> Traveller[Journey]:
        latent, geometry = row.latent, self._denoiser.geometry
        leads = geometry.start == "last" and latent.chunk == 0
        before = self._most_steps[row.state]
        grows = geometry.start == "last" and row.steps > before > 0  # its caches begin as copies of others
        self._most_steps[row.state] = max(before, row.steps)

        def picture(result: Tensor | Exception) -> None:
            shown(result if isinstance(result, Exception) else result.numpy()[: row.frames])

        strength = strength_of(latent, self._stage.model.geometry)
        return Traveller(
            Journey(latent, Ending(strength, row.state.params.vae, row.leading, picture)),
            self._denoiser.number(row.state.latents),
            next(self._numbers),
            row.steps,
            alone=leads or grows or geometry.memory != "own",
            kind=(latent.latent.shape, leads),
        )

    def _send_latents(self, rows: Sequence[Row[StreamState]], back: Callable[[list[Tensor | Exception]], None]) -> None:
        """Rows of one size and age, of streams with the same codec."""
        latents = torch.cat([result_of(row, self._stage.model.geometry) for row in rows])
        streams = tuple(self._denoiser.number(row.state.latents) for row in rows)
        frames = self._spec.frames_wanted(rows[0].leading)
        self._head.send_latents(streams, rows[0].state.params.vae, latents, frames, back)

    def _step(self, rows: list[LatentRow]) -> list[LatentRow]:
        """One step of rows of one size, or all steps of those that lead."""
        result = list(rows)
        leading = [i for i, row in enumerate(rows) if self._denoiser.leads(row)]
        others = [i for i in range(len(rows)) if i not in leading]
        if others:
            self._pass(result, others)
        while left := [i for i in leading if not result[i].done]:
            self._pass(result, left)
        return result

    def _pass(self, rows: list[LatentRow], at: list[int]) -> None:
        """Replaces the rows at indices `at` by what they are one step later."""

        def start(back: Callable[[list[LatentRow | Exception]], None]) -> None:
            self._head.send_pass([rows[i] for i in at], back)

        results = self._head.wait_for(start)
        for i, row in zip(at, results, strict=True):
            rows[i] = row

    def _pictures(self, rows: list[Row[StreamState]]) -> list[Tensor]:
        return self._head.wait_for(lambda back: self._send_latents(rows, back))
