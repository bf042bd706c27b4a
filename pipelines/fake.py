"""A pipeline without a model: deterministic, quick, and as slow or as faulty as a test wants. NumPy only."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from streamgen.core import Params, PipelineSpec, Pixels, Row
from streamgen.errors import ParamsError

Stage = Literal["open", "update", "encode", "denoise", "decode", "close"]

FAKE_SPEC = PipelineSpec(
    name="fake",
    chunk_frames=4,
    first_chunk_frames=4,
    size_multiple=16,
    max_pixels=1280 * 720,
    native_fps=16.0,
    bytes_per_session=0,
    defaults=Params(),
)


@dataclass(frozen=True, slots=True)
class FakeCost:
    """Seconds that the work takes: a fixed part for each denoising call, the rest for each row."""

    encode_s: float = 0.0
    call_s: float = 0.0
    step_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in `stage` for the prompts it is programmed for.

    raise: an unexpected exception; params: a ParamsError; exit: the process ends at once; hang: an hour's sleep.
    """

    stage: Stage
    action: Literal["raise", "params", "exit", "hang"] = "raise"


@dataclass(slots=True, eq=False)
class FakeState:
    """One stream: counts chunks, so that the order of time and mixed-up sessions show."""

    params: Params
    encoded: int = 0
    decoded: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FakeLatent:
    """The source frames themselves, with what they will be tinted by."""

    pixels: Pixels
    params: Params
    chunk: int


def restyle(pixels: Pixels, params: Params, chunk: int) -> Pixels:
    """What FakePipeline makes of a stream's chunk number `chunk`: inverted, and tinted by prompt, seed and `chunk`.

    Frames (T, H, W, 3) or (H, W, 3). Other prompts, seeds and chunks have other tints (but for one in about 260,000).
    """
    digest = zlib.crc32(f"{params.prompt}\n{params.seed}\n{chunk}".encode())
    tint = np.frombuffer(digest.to_bytes(4, "big")[:3], np.uint8)
    return ((255 - pixels) // 4 * 3 + tint // 4).astype(np.uint8)


class FakePipeline:
    """Implements Pipeline[FakeState]; its output for a chunk is `restyle(frames, params, number of the chunk)`.

    It checks what a model would silently get wrong: closed states, rows out of the order of time, too many frames.
    """

    def __init__(
        self,
        spec: PipelineSpec = FAKE_SPEC,
        cost: FakeCost = FakeCost(),
        faults: Mapping[str, Fault] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`faults` maps a prompt to what goes wrong with it; `sleep(seconds)` is asked for the time that work takes."""
        self._spec = spec
        self._cost = cost
        self._faults = dict(faults or {})
        self._sleep = sleep

    @property
    def spec(self) -> PipelineSpec:
        """As given."""
        return self._spec

    def open(self, params: Params) -> FakeState:
        """A stream that begins with chunk 0."""
        self._spec.check(params)
        self._stumble("open", params)
        return FakeState(params)

    def update(self, state: FakeState, params: Params) -> None:
        """Parameters from the next encoded chunk on."""
        self._check_open(state)
        if (params.width, params.height) != (state.params.width, state.params.height):
            raise ParamsError("width", "cannot change within a stream; open a new state")
        self._stumble("update", params)
        state.params = params

    def encode(self, chunks: Sequence[tuple[FakeState, Pixels]]) -> list[Row[FakeState]]:
        """Numbers the state's chunks. Raises ValueError for frames that the spec or the parameters rule out."""
        rows = []
        for state, pixels in chunks:
            params = state.params
            self._check_open(state)
            self._stumble("encode", params)
            wanted = self._spec.frames_wanted(first=state.encoded == 0)
            if not 1 <= len(pixels) <= wanted or pixels.shape[1:] != (params.height, params.width, 3):
                raise ValueError(f"frames of shape {pixels.shape}, wanted {(wanted, params.height, params.width, 3)}")
            latent = FakeLatent(pixels, params, state.encoded)
            state.encoded += 1
            rows.append(Row(state, latent, None, 0, params.steps, params.noise, len(pixels)))
        self._spend(self._cost.encode_s * len(chunks))
        return rows

    def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
        """Counts steps. Raises ValueError for rows that are done, or come in another order than their chunks."""
        for row in rows:
            self._check_open(row.state)
            self._stumble("denoise", row.latent.params)
            if row.done:
                raise ValueError("a row that is done was to be denoised")
        order = [(id(row.state), row.latent.chunk) for row in rows]
        if any(a[0] == b[0] and a[1] >= b[1] for i, a in enumerate(order) for b in order[i + 1 :]):
            raise ValueError("rows of one state came in another order than its chunks")
        self._spend(self._cost.call_s + self._cost.step_s * len(rows))
        return [
            Row(row.state, row.latent, row.condition, row.step + 1, row.steps, row.sigma, row.frames) for row in rows
        ]

    def decode(self, rows: Sequence[Row[FakeState]]) -> list[Pixels]:
        """Restyles. Raises ValueError for rows that are not done, or come in another order than their chunks."""
        pictures = []
        for row in rows:
            latent: FakeLatent = row.latent
            self._check_open(row.state)
            self._stumble("decode", latent.params)
            if not row.done or latent.chunk != row.state.decoded:
                raise ValueError(f"chunk {latent.chunk} at step {row.step} decoded, wanted {row.state.decoded}, done")
            row.state.decoded += 1
            pictures.append(restyle(latent.pixels, latent.params, latent.chunk))
        self._spend(self._cost.decode_s * len(rows))
        return pictures

    def close(self, state: FakeState) -> None:
        """Makes every further use of the state an error."""
        state.closed = True
        self._stumble("close", state.params)

    def _check_open(self, state: FakeState) -> None:
        if state.closed:
            raise ValueError("the state is closed")

    def _spend(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def _stumble(self, stage: Stage, params: Params) -> None:
        fault = self._faults.get(params.prompt)
        if fault is None or fault.stage != stage:
            return
        match fault.action:
            case "raise":
                raise RuntimeError(f"programmed fault in {stage}\nwith a second line")
            case "params":
                raise ParamsError("prompt", f"programmed refusal in {stage}")
            case "exit":
                os._exit(3)
            case "hang":
                self._sleep(3600.0)
