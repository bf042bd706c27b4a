"""The shared nouns and protocols: what every other module speaks of. Imports NumPy and nothing heavier."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamgen.errors import ParamsError

Pixels = NDArray[np.uint8]
"""RGB pictures, uint8: (H, W, 3) for one, (T, H, W, 3) for several in the order of time."""

STAMP_ROWS = 16
"""Height in pixel rows of the strip that `Params.stamp` copies from input to output."""

MAX_PROMPT_CHARACTERS = 2000

MAX_STEPS = 4
"""Most denoising steps per chunk; in a stream batch also the most chunks of one session in flight."""


class Clock(Protocol):
    """Where time comes from: asked for, never reached for."""

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        ...


LOWERED = ("steps", "fps", "size", "vae")
"""What of a session's quality may be lowered under load, in this order."""

_KEEP = re.compile("^(({0})(,({0}))*)?$".format("|".join(LOWERED)))

_SIZE = "{} of the result in pixels. Where it is not given, the result has the shape of the source."


def _param(default: Any, **schema: Any) -> Any:
    return field(default=default, metadata=schema)


@dataclass(frozen=True, slots=True)
class Params:
    """What a session asks for. Every value is checked where it is made, against the bounds written beside it.

    `Params.parse` takes untrusted JSON; `Params.schema` gives the same bounds as JSON Schema.
    """

    prompt: str = _param("", maxLength=MAX_PROMPT_CHARACTERS, description="What the result should look like.")
    negative_prompt: str = _param(
        "", maxLength=MAX_PROMPT_CHARACTERS, description="What it should not look like (presets with guidance only)."
    )
    steps: int = _param(2, minimum=1, maximum=MAX_STEPS, description="Denoising steps per chunk.")
    noise: float = _param(0.6, minimum=0.0, maximum=1.0, description="Strength: 0 keeps the source, 1 leaves it.")
    seed: int = _param(0, minimum=0, maximum=2**31 - 1, description="Same seed and input, same output.")
    width: int = _param(320, minimum=64, maximum=1920, description=_SIZE.format("Width"))
    height: int = _param(192, minimum=64, maximum=1920, description=_SIZE.format("Height"))
    fit: str = _param(
        "cover",
        enum=["cover", "contain"],
        description="Where source and result differ in shape: cut the source, or keep it whole between black bars.",
    )
    fps: float = _param(16.0, minimum=1.0, maximum=60.0, description="Frames a second taken from the source.")
    slo_ms: float = _param(1000.0, minimum=50.0, maximum=60000.0, description="Latency budget of a frame in ms.")
    late: str = _param("show", enum=["show", "drop"], description="What becomes of a result that misses its deadline.")
    vae: str = _param("full", enum=["full", "light"], description="Full quality, or a lighter VAE where there is one.")
    keep: str = _param(
        "",
        pattern=_KEEP.pattern,
        description="What may not be lowered under load: any of steps, fps, size, vae, between commas.",
    )
    priority: str = _param("live", enum=["live", "batch"], description="batch has no deadlines and fills what is idle.")
    max_kbps: int = _param(4000, minimum=300, maximum=20000, description="Most kbit/s of the video, each way.")
    stamp: bool = _param(False, description="Copy the top 16 pixel rows of each input frame onto its output frame.")

    def __post_init__(self) -> None:
        for f in fields(self):
            _check(f.name, getattr(self, f.name), type(f.default), f.metadata)

    def updated(self, changes: Mapping[str, object]) -> Params:
        """These parameters with `changes` applied. Raises ParamsError that names the first bad field."""
        known = {f.name: type(f.default) for f in fields(self)}
        clean: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in known:
                raise ParamsError(str(name)[:40], f"unknown parameter; known are {', '.join(known)}")
            clean[name] = _coerce(value, known[name])
        return replace(self, **clean)

    @classmethod
    def parse(cls, values: Mapping[str, object], defaults: Params | None = None) -> Params:
        """Parameters from untrusted JSON `values` over `defaults`. Raises ParamsError."""
        return (defaults or cls()).updated(values)

    @property
    def kept(self) -> frozenset[str]:
        """Those of LOWERED that may not be lowered."""
        return frozenset(filter(None, self.keep.split(",")))

    @property
    def made_for(self) -> tuple[int, int, str]:
        """What a stream state is made for: with another size or VAE another is needed."""
        return self.width, self.height, self.vae

    def as_dict(self) -> dict[str, str | int | float | bool]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def schema(self) -> dict[str, object]:
        """JSON Schema of the parameters, with these values as the defaults."""
        names = {str: "string", int: "integer", float: "number", bool: "boolean"}
        properties = {
            f.name: {"type": names[type(f.default)], "default": getattr(self, f.name), **f.metadata}
            for f in fields(self)
        }
        return {"type": "object", "properties": properties, "additionalProperties": False}


def _coerce(value: object, kind: type) -> object:
    """JSON knows one kind of number: 16 is a valid float and 16.0 a valid int."""
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    return value


def _check(name: str, value: object, kind: type, schema: Mapping[str, Any]) -> None:
    if type(value) is not kind:
        raise ParamsError(name, f"must be a {kind.__name__}, not {type(value).__name__}")
    if "enum" in schema and value not in schema["enum"]:
        raise ParamsError(name, f"must be {' or '.join(schema['enum'])}, not {str(value)[:40]}")
    if isinstance(value, str) and "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        raise ParamsError(name, f"must be {' or '.join(LOWERED)}, or several of them between commas, not {value[:40]}")
    if isinstance(value, str) and "maxLength" in schema:
        if len(value) > schema["maxLength"]:
            raise ParamsError(name, f"is {len(value)} characters long; at most {schema['maxLength']} are taken")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ParamsError(name, "is no valid Unicode text")  # a lone surrogate cannot be encoded
    if isinstance(value, (int, float)) and "minimum" in schema:
        low, high = schema["minimum"], schema["maximum"]
        if not low <= value <= high:  # also refuses NaN
            raise ParamsError(name, f"must be from {low} to {high}, not {value}")


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture on its way, with the identity that it keeps from camera to screen."""

    id: int
    """Counts the session's frames from 0; never reused."""
    pts: int
    """Media timestamp of the source, in units of `time_base`."""
    time_base: Fraction
    """Seconds."""
    arrived: float
    """When the service had it decoded, on the session's clock (s)."""
    deadline: float
    """Arrival + latency budget (s, same clock)."""
    pixels: Pixels
    """(H, W, 3) RGB."""

    @property
    def media_time(self) -> float:
        """Media timestamp in seconds."""
        return float(self.media_fraction)

    @property
    def media_fraction(self) -> Fraction:
        """The same, exactly."""
        return self.pts * self.time_base


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """What a pipeline takes and gives; fixed for its lifetime."""

    name: str
    chunk_frames: int
    """Frames that become one latent frame in the steady state."""
    first_chunk_frames: int
    """Frames of a stream's first chunk."""
    size_multiple: int
    """Width and height must be multiples of this (pixels)."""
    max_pixels: int
    """Largest width x height."""
    native_fps: float
    bytes_per_session: int
    """Device memory of one stream state at the default size and steps."""
    defaults: Params
    guidance: bool = False
    """Whether a negative prompt has an effect."""
    light_vae: bool = False
    """Whether there is a lighter VAE."""
    overlap: bool = False
    """Whether one batch may be encoded, another denoised and a third decoded, at once and from three threads."""
    device: str = "cpu"
    """What it runs on, by its model and what else its speed depends on: measured times are kept by this name."""
    session_slots: int | None = None
    """Streams of the default size and steps that the device's memory holds; None where that is no bound."""
    bytes_per_step: int = 0
    """By how much a stream state of the default size grows with each step."""
    stages: int = 1
    """Devices that a chunk goes through, one behind the other: they work on as many chunks at once."""
    flight: int = 1
    """Most chunks of one stream that may be on their way at once; above 1 the pipeline is a Flow."""

    def check(self, params: Params) -> None:
        """Raises ParamsError where this pipeline cannot run `params`."""
        for name in ("width", "height"):
            size = getattr(params, name)
            if size % self.size_multiple:
                raise ParamsError(name, f"must be a multiple of {self.size_multiple}, not {size}")
        if params.negative_prompt and not self.guidance:
            problem = "has no effect with this preset, which uses no guidance; leave it empty"
            raise ParamsError("negative_prompt", problem)
        if params.vae == "light" and not self.light_vae:
            raise ParamsError("vae", "this preset has one VAE only; leave it at full")
        if params.width * params.height > self.max_pixels:
            raise ParamsError("width", f"{params.width}x{params.height} is over this preset's {self.max_pixels} pixels")

    def states(self, params: Params) -> float:
        """Device memory of a stream with `params`, in states of the default size and steps."""
        pixels = params.width * params.height / (self.defaults.width * self.defaults.height)
        more = (params.steps - self.defaults.steps) * self.bytes_per_step
        return pixels * (1 + more / self.bytes_per_session if self.bytes_per_session else 1.0)

    def frames_wanted(self, first: bool) -> int:
        return self.first_chunk_frames if first else self.chunk_frames


S = TypeVar("S")


@dataclass(slots=True)
class Row(Generic[S]):
    """One unit of DiT work: (session, chunk, step). Made by `encode`, advanced by `denoise`, used up by `decode`."""

    state: S
    """The stream state that the row belongs to."""
    latent: Any
    """Noised latent before the last step, clean after it: C x 1 x H/8 x W/8 on the pipeline's device."""
    condition: Any
    """Clean source latent of the same shape, or None for pipelines without conditioning channels."""
    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    sigma: float
    """Noise level of the first step, as the noise controller chose it, in 0..1."""
    frames: int
    """Frames in the chunk (a last chunk may be short)."""
    leading: bool = False
    """Whether it is the stream's first chunk."""

    @property
    def done(self) -> bool:
        return self.step >= self.steps


class Pipeline(Protocol[S]):
    """A model that restyles streams. Weights are shared and immutable; all state is in the S that the caller owns.

    Rows of different states may be mixed in one call; those of one state come in the order of time.

    Threads: without spec.overlap all calls come from one thread. With it they come from several, and these hold:

        open, update, encode, close    }
        denoise                        }  of each line one call at a time, whichever thread it comes from;
        decode                         }  calls of different lines may run at once

    A state is in one call at a time, whatever the line, and in one batch at a time: between the encoding of its chunk
    and the decoding that ends this batch no call for another batch has to do with it. So calls that run at once share
    weights, and never a state; `close`, too, comes when nothing else uses the state, and beside work on others.
    """

    @property
    def spec(self) -> PipelineSpec: ...

    def open(self, params: Params) -> S:
        """A fresh stream state. Raises ParamsError."""
        ...

    def update(self, state: S, params: Params) -> None:
        """New parameters from the next chunk on, without a cut.

        Another size or VAE is a ParamsError: open a new state.
        """
        ...

    def encode(self, chunks: Sequence[tuple[S, Pixels]]) -> list[Row[S]]:
        """One row per (state, frames): frames (T, H, W, 3), T = spec.frames_wanted, or fewer at a stream's end."""
        ...

    def denoise(self, rows: Sequence[Row[S]]) -> list[Row[S]]:
        """Every row one step further, as new rows in the same order. None of `rows` may be done."""
        ...

    def decode(self, rows: Sequence[Row[S]]) -> list[Pixels]:
        """Pictures (row.frames, H, W, 3) of rows that are done."""
        ...

    def close(self, state: S) -> None:
        """Gives back what the state holds on the device. Closing twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class Arrived:
    """What became of chunks that flowed together, and the work that this was (s; waiting is in none of it)."""

    pictures: Sequence[Pixels | Exception]
    """Of each chunk, in their order: (T, H, W, 3) with T as sent, or why there are none."""
    sigmas: Sequence[float]
    """Of each chunk: as Row.sigma; 0 where it did not come so far."""
    encode: float
    denoise: float
    """All steps, all stages."""
    decode: float
    calls: int
    """Of denoising, by the whole model."""
    rows: int
    """In all these calls together."""


class Flow(Pipeline[S], Protocol[S]):
    """A pipeline over several devices, one behind the other, that keeps them all at work: chunks flow through it.

    A stream may have spec.flight chunks under way, which arrive in their order. Chunks of different streams may
    overtake each other. `open`, `update`, `send` and `close` come from one thread; encode, denoise and decode are there
    as well, and each waits for its result.
    """

    def send(self, chunks: Sequence[tuple[S, Pixels]], arrived: Callable[[Arrived], None]) -> None:
        """Sends chunks (as for `encode`, at most one of each state) on their way, as one batch.

        Returns when their frames have been read. `arrived` is called once, in a thread of the pipeline's, when all of
        them are done or have failed. After a failure its stream is of no use: `close` it. A stream that is closed with
        chunks under way: they arrive, with or without pictures.

        May raise what is wrong with one of them: then none was sent, no stream has changed, and each can be sent by
        itself. Raises DeviceLostError where the flow has ended.
        """
        ...
