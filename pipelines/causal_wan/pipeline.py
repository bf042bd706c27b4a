"""The causal Wan pipeline: frames to latents, noised, denoised in few steps under a prompt, and back to frames.

Read top to bottom it is the way of a chunk: `encode`, `denoise` once per step, `decode`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipelines.causal_wan.denoiser import Denoiser, LatentRow, LatentStream
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import CacheGeometry, SamplerGeometry
from pipelines.causal_wan.lora import LoRA, MergedLoRAs
from pipelines.causal_wan.noise import NoiseController, NoiseGeometry
from pipelines.causal_wan.parts import Codec, TextEncoder
from pipelines.causal_wan.prompt import StreamPrompt
from streamgen.core import Params, PipelineSpec, Pixels, Row
from streamgen.errors import ParamsError

SPACE = 8
"""Pixels of a latent, in both directions."""

FULL_STRENGTH = 0.5
"""With conditioning channels: from this noise on the style is applied in full; below, the result moves to the source
in proportion. Without, it is the noise itself that keeps or loses the source."""

T = TypeVar("T")


@dataclass(frozen=True)
class Rules:
    """What is configured beside the sizes of the models."""

    cache: CacheGeometry
    sampler: SamplerGeometry
    noise: NoiseGeometry
    blend_chunks: int = 2
    """Chunks over which one prompt crosses over into the next."""


@dataclass(frozen=True)
class Models:
    """The weights, shared by all streams."""

    codec: Codec
    dit: CausalWanModel
    text: TextEncoder
    text_executor: Executor | None = None
    """Where prompts are encoded if that takes long; None: at once."""
    light_codec: Codec | None = None
    """A lighter codec of the same latents, for streams whose `vae` is light."""


@dataclass(eq=False)
class StreamState:
    """What one stream holds on the device."""

    params: Params
    prompt: StreamPrompt
    latents: LatentStream
    codec: Any
    """What the codec carries from chunk to chunk."""
    noise: NoiseController
    first: bool = True


class CausalWanPipeline:
    """The pipeline protocol (streamgen.core.Pipeline) over a causal Wan DiT on one device.

    Raises ValueError where the codecs are not those that the spec speaks of, or not of the same latents.
    """

    def __init__(
        self, spec: PipelineSpec, models: Models, rules: Rules, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._spec, self._models, self._rules = spec, models, rules
        self._device, self._dtype = device, dtype
        self._codecs = _codecs(models, spec)
        self._denoiser = Denoiser(models.dit, rules.cache, rules.sampler, device, dtype)
        self._loras = MergedLoRAs(models.dit)
        self._open: set[StreamState] = set()

    @property
    def spec(self) -> PipelineSpec:
        return self._spec

    @torch.inference_mode()
    def open(self, params: Params) -> StreamState:
        self._check(params)
        models, patch = self._models, self._models.dit.geometry.patch
        grid = (params.height // SPACE // patch[1], params.width // SPACE // patch[2])
        prompt = StreamPrompt(
            params.prompt, models.text, models.dit, self._rules.blend_chunks, models.text_executor
        )  # fmt: skip
        latents = self._denoiser.open(grid, prompt.next(), params.seed)
        codec = self._codecs[params.vae].open()
        state = StreamState(params, prompt, latents, codec, NoiseController(self._rules.noise))
        self._open.add(state)
        return state

    @torch.inference_mode()
    def update(self, state: StreamState, params: Params) -> None:
        self._check(params)
        for name in ("width", "height", "vae"):
            if getattr(params, name) != getattr(state.params, name):
                raise ParamsError(name, "cannot change within a stream; open a new state")
        if params.prompt != state.params.prompt:
            state.prompt.turn(params.prompt)
        state.latents.reseed(params.seed)
        state.params = params

    @torch.inference_mode()
    def encode(self, chunks: Sequence[tuple[StreamState, Pixels]]) -> list[Row[StreamState]]:
        full = [(state, self._full(state, frames)) for state, frames in chunks]
        latents = _grouped(
            full,
            lambda chunk: (chunk[1].shape, chunk[0].params.vae),
            lambda at: self._encode_group([full[i] for i in at]),
        )
        return [self._row(state, frames, latent) for (state, frames), latent in zip(chunks, latents, strict=True)]

    @torch.inference_mode()
    def denoise(self, rows: Sequence[Row[StreamState]]) -> list[Row[StreamState]]:
        if any(row.done for row in rows):
            raise ValueError("a row that is done cannot be denoised further")
        latents: list[LatentRow] = _grouped(
            rows, _size_of, lambda at: self._denoiser.step([rows[i].latent for i in at])
        )  # fmt: skip
        return [replace(row, latent=latent, step=latent.step) for row, latent in zip(rows, latents, strict=True)]

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row[StreamState]]) -> list[Pixels]:
        pictures: list[Pixels] = _grouped(
            rows,
            lambda row: (_size_of(row), row.leading, row.state.params.vae),
            lambda at: self._decode_group([rows[i] for i in at]),
        )
        return [picture[: row.frames] for picture, row in zip(pictures, rows, strict=True)]

    def close(self, state: StreamState) -> None:
        self._open.discard(state)
        self._denoiser.close(state.latents)

    @property
    def loras(self) -> Mapping[str, float]:
        """The LoRAs merged into the DiT, by name, and how strongly."""
        return self._loras.strengths

    @torch.inference_mode()
    def merge(self, lora: LoRA, strength: float = 1.0) -> None:
        """Adds a LoRA to the DiT for all streams, or gives it another strength; it holds from the next call on.

        Raises ValueError where it is made for another model.
        """
        self._loras.merge(lora, strength)
        self._weights_changed()

    @torch.inference_mode()
    def unmerge(self, lora: LoRA) -> None:
        """Takes it out again; the weights are bit for bit what they were. Raises ValueError where it is not merged."""
        self._loras.unmerge(lora)
        self._weights_changed()

    def _weights_changed(self) -> None:
        """Forgets what was computed with the weights as they were, but for the keys and values of past frames."""
        self._denoiser.weights_changed()
        for state in self._open:
            state.prompt.weights_changed()

    def _check(self, params: Params) -> None:
        self._spec.check(params)
        most = self._denoiser.sampler.most_steps
        if most is not None and params.steps > most:
            raise ParamsError("steps", f"this preset takes at most {most}, not {params.steps}")

    def _full(self, state: StreamState, frames: Pixels) -> Pixels:
        """A whole chunk: one frame where the stream begins, else four; copies of its last frame fill up a short one."""
        whole = self._spec.frames_wanted(state.first)
        if not 0 < len(frames) <= whole:
            raise ParamsError("frames", f"this chunk has from 1 to {whole} frames, not {len(frames)}")
        expected = (state.params.height, state.params.width, 3)
        if frames.shape[1:] != expected:
            raise ParamsError("frames", f"are {frames.shape[1:]} instead of {expected}")
        return np.concatenate([frames, np.repeat(frames[-1:], whole - len(frames), axis=0)])

    def _encode_group(self, chunks: Sequence[tuple[StreamState, Pixels]]) -> Iterable[Tensor]:
        """Whole chunks of one shape, of streams with the same codec."""
        frames = torch.from_numpy(np.stack([frames for _, frames in chunks])).to(self._device).permute(0, 1, 4, 2, 3)
        codec = self._codecs[chunks[0][0].params.vae]
        return codec.encode([state.codec for state, _ in chunks], frames.float() / 127.5 - 1.0).split(1)

    def _row(self, state: StreamState, frames: Pixels, clean: Tensor) -> Row[StreamState]:
        params = state.params
        seen = frames if self._rules.noise.space == "pixels" else clean[0].transpose(0, 1).float().cpu().numpy()
        sigma = state.noise.next(seen, params.noise)
        state.latents.context = state.prompt.next()
        first, state.first = state.first, False
        return Row(
            state=state,
            latent=self._denoiser.start(state.latents, clean.to(self._dtype), params.steps, sigma),
            condition=clean,
            step=0,
            steps=params.steps,
            sigma=sigma,
            frames=len(frames),
            leading=first,
        )

    def _decode_group(self, rows: list[Row[StreamState]]) -> Iterable[Pixels]:
        """Rows of one size and age, of streams with the same codec."""
        latents = torch.cat([self._result(row.latent) for row in rows])
        codec = self._codecs[rows[0].state.params.vae]
        frames = codec.decode([row.state.codec for row in rows], latents)
        pictures = (frames.float() * 127.5 + 128.0).clamp_(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
        return [np.ascontiguousarray(picture) for picture in pictures.cpu().numpy()]

    def _result(self, row: LatentRow) -> Tensor:
        strength = min(row.noise / FULL_STRENGTH, 1.0) if self._models.dit.geometry.cond_channels else 1.0
        return row.latent if strength == 1.0 else torch.lerp(row.condition, row.latent, strength)


def _codecs(models: Models, spec: PipelineSpec) -> Mapping[str, Codec]:
    """By what `Params.vae` calls them. Raises ValueError."""
    full, light = models.codec, models.light_codec
    if spec.light_vae != (light is not None):
        there = "no" if light is None else "a"
        raise ValueError(f"the spec says light_vae={spec.light_vae}, and there is {there} light codec")
    if light is None:
        return {"full": full}
    if light.latent_channels != full.latent_channels:
        channels = f"{full.latent_channels} and {light.latent_channels}"
        raise ValueError(f"a full and a light codec of other latents cannot serve one DiT: {channels} channels")
    return {"full": full, "light": light}


def _size_of(row: Row[StreamState]) -> object:
    """Rows of the same share a pass."""
    return row.latent.latent.shape


def _grouped(items: Sequence[T], key: Callable[[T], object], run: Callable[[list[int]], Iterable[Any]]) -> list[Any]:
    """Calls `run` with the indices of the items of each key, and puts its results in the order of the items."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        groups[key(item)].append(i)
    results: list[Any] = [None] * len(items)
    for at in groups.values():
        for i, result in zip(at, run(at), strict=True):
            results[i] = result
    return results
