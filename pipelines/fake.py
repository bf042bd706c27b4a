"""A pipeline without a model: deterministic, quick, and as slow or as faulty as a test wants. NumPy only."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from streamgen.core import Params, PipelineSpec, Pixels, Row
from streamgen.errors import DeviceLostError, ParamsError

Stage = Literal["open", "update", "send", "encode", "denoise", "decode", "close"]

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
    """Seconds that the work takes: a fixed part for each call of a stage, the rest for each row in it."""

    encode_s: float = 0.0
    call_s: float = 0.0
    """For each denoising call."""
    step_s: float = 0.0
    decode_s: float = 0.0
    encode_call_s: float = 0.0
    decode_call_s: float = 0.0
    light_decode_s: float = 0.0
    """Instead of decode_s, for rows with the lighter VAE."""
    per_pixel: bool = False
    """What a row takes is meant for the default size, and in proportion to width x height for others."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in `stage` for the prompts it is programmed for.

    raise: an unexpected exception; params: a ParamsError; exit: the process ends at once; hang: an hour's sleep;
    lose: a DeviceLostError.
    """

    stage: Stage
    action: Literal["raise", "params", "exit", "hang", "lose"] = "raise"


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

    It checks what a model would silently get wrong: closed states, rows out of the order of time, too many frames,
    and what the protocol says of threads. ValueError says what it was.
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
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._in_use: set[FakeState] = set()

    @property
    def spec(self) -> PipelineSpec:
        """As given."""
        return self._spec

    def open(self, params: Params) -> FakeState:
        """A stream that begins with chunk 0."""
        with self._alone("encode"):
            self._spec.check(params)
            self._stumble("open", params)
            return FakeState(params)

    def update(self, state: FakeState, params: Params) -> None:
        """Parameters from the next encoded chunk on."""
        with self._alone("encode", state):
            self._check_open(state)
            for name in ("width", "height", "vae"):
                if getattr(params, name) != getattr(state.params, name):
                    raise ParamsError(name, "cannot change within a stream; open a new state")
            self._stumble("update", params)
            state.params = params

    def encode(self, chunks: Sequence[tuple[FakeState, Pixels]]) -> list[Row[FakeState]]:
        """Numbers the state's chunks. Raises ValueError for frames that the spec or the parameters rule out."""
        with self._alone("encode", *(state for state, _ in chunks)):
            rows = [self._encode(state, pixels) for state, pixels in chunks]
            self._spend(self._cost.encode_call_s, (self._scaled(self._cost.encode_s, row) for row in rows))
        return rows

    def _encode(self, state: FakeState, pixels: Pixels) -> Row[FakeState]:
        self._check_frames(state, pixels)
        self._stumble("encode", state.params)
        return self._row(state, pixels)

    def _check_frames(self, state: FakeState, pixels: Pixels) -> None:
        params = state.params
        self._check_open(state)
        wanted = self._spec.frames_wanted(first=state.encoded == 0)
        if not 1 <= len(pixels) <= wanted or pixels.shape[1:] != (params.height, params.width, 3):
            raise ValueError(f"frames of shape {pixels.shape}, wanted {(wanted, params.height, params.width, 3)}")

    def _row(self, state: FakeState, pixels: Pixels) -> Row[FakeState]:
        latent = FakeLatent(pixels, state.params, state.encoded)
        state.encoded += 1
        return Row(state, latent, None, 0, state.params.steps, state.params.noise, len(pixels))

    def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
        """Counts steps. Raises ValueError for rows that are done, or come in another order than their chunks."""
        with self._alone("denoise", *(row.state for row in rows)):
            self._check_rows(rows)
            self._spend(self._cost.call_s, (self._scaled(self._cost.step_s, row) for row in rows))
        return [replace(row, step=row.step + 1) for row in rows]

    def _check_rows(self, rows: Sequence[Row[FakeState]]) -> None:
        for row in rows:
            self._check_open(row.state)
            self._stumble("denoise", row.latent.params)
            if row.done:
                raise ValueError("a row that is done was to be denoised")
        order = [(id(row.state), row.latent.chunk) for row in rows]
        if any(a[0] == b[0] and a[1] >= b[1] for i, a in enumerate(order) for b in order[i + 1 :]):
            raise ValueError("rows of one state came in another order than its chunks")

    def decode(self, rows: Sequence[Row[FakeState]]) -> list[Pixels]:
        """Restyles. Raises ValueError for rows that are not done, or come in another order than their chunks."""
        with self._alone("decode", *(row.state for row in rows)):
            pictures = [self._decode(row) for row in rows]
            self._spend(self._cost.decode_call_s, (self._scaled(self._decode_s(row), row) for row in rows))
        return pictures

    def _decode(self, row: Row[FakeState]) -> Pixels:
        latent: FakeLatent = row.latent
        self._check_open(row.state)
        self._stumble("decode", latent.params)
        if not row.done or latent.chunk != row.state.decoded:
            raise ValueError(f"chunk {latent.chunk} at step {row.step} decoded, wanted {row.state.decoded}, done")
        row.state.decoded += 1
        return restyle(latent.pixels, latent.params, latent.chunk)

    def close(self, state: FakeState) -> None:
        """Makes every further use of the state an error."""
        with self._alone("encode", state):
            state.closed = True
            self._stumble("close", state.params)

    @contextmanager
    def _alone(self, stage: str, *states: FakeState) -> Iterator[None]:
        """Holds stage and states while a call runs."""
        used = set(states)
        with self._lock:
            if stage in self._running:
                raise ValueError(f"{stage} was called while a call of it ran")
            if used & self._in_use:
                raise ValueError(f"{stage} was called with a state that another stage was using")
            self._running.add(stage)
            self._in_use |= used
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(stage)
                self._in_use -= used

    def _check_open(self, state: FakeState) -> None:
        if state.closed:
            raise ValueError("the state is closed")

    def _decode_s(self, row: Row[FakeState]) -> float:
        return self._cost.light_decode_s if row.latent.params.vae == "light" else self._cost.decode_s

    def _scaled(self, seconds: float, row: Row[FakeState]) -> float:
        if not self._cost.per_pixel:
            return seconds
        params, default = row.latent.params, self._spec.defaults
        return seconds * (params.width * params.height) / (default.width * default.height)

    def _spend(self, call_s: float, rows_s: Iterable[float]) -> None:
        seconds = call_s + sum(rows_s)
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
            case "lose":
                raise DeviceLostError(f"programmed loss in {stage}")
