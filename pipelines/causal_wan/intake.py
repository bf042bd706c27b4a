"""Where streams begin: their states, and the way of a chunk from frames to a noised latent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.causal_wan.denoiser import Denoiser, LatentStream
from pipelines.causal_wan.geometry import CacheGeometry, SamplerGeometry
from pipelines.causal_wan.grouping import grouped
from pipelines.causal_wan.noise import NoiseController, NoiseGeometry
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.prompt import Prompts, StreamPrompt
from streamgen.core import Params, PipelineSpec, Pixels, Row
from streamgen.errors import ParamsError

SPACE = 8
"""Pixels of a latent, in both directions."""


@dataclass(frozen=True)
class Rules:
    """What is configured beside the sizes of the models."""

    cache: CacheGeometry
    sampler: SamplerGeometry
    noise: NoiseGeometry
    blend_chunks: int = 2
    """Chunks over which one prompt crosses over into the next."""


@dataclass(eq=False)
class StreamState:
    """What one stream holds on the device."""

    params: Params
    prompt: StreamPrompt[Any]
    latents: LatentStream
    codec: Any
    """What the codec carries from chunk to chunk."""
    noise: NoiseController
    first: bool = True


class Intake:
    """Opens, changes and closes streams, and encodes their chunks, for a denoiser."""

    def __init__(
        self,
        spec: PipelineSpec,
        codecs: Mapping[str, Codec],
        prompts: Prompts[Any],
        denoiser: Denoiser,
        rules: Rules,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """codecs: by what `Params.vae` calls them, of the same latents."""
        self.streams: set[StreamState] = set()
        """Those that are open."""
        self._spec, self._codecs, self._prompts, self._denoiser = spec, codecs, prompts, denoiser
        self._rules, self._device, self._dtype = rules, device, dtype

    def open(self, params: Params) -> StreamState:
        """A fresh state. Raises ParamsError."""
        self._check(params)
        patch = self._denoiser.dit.geometry.patch
        grid = (params.height // SPACE // patch[1], params.width // SPACE // patch[2])
        prompt = self._prompts.begin(params.prompt)
        codec = self._codecs[params.vae].open()
        latents = self._denoiser.open(grid, prompt.next(), params.seed)  # last: it is to be closed
        state = StreamState(params, prompt, latents, codec, NoiseController(self._rules.noise))
        self.streams.add(state)
        return state

    def update(self, state: StreamState, params: Params) -> None:
        """As Pipeline.update."""
        self._check(params)
        for name in ("width", "height", "vae"):
            if getattr(params, name) != getattr(state.params, name):
                raise ParamsError(name, "cannot change within a stream; open a new state")
        if params.prompt != state.params.prompt:
            state.prompt.turn(params.prompt)
        state.latents.reseed(params.seed)
        state.params = params

    def close(self, state: StreamState) -> None:
        """Gives back what it holds; closing twice is harmless."""
        self.streams.discard(state)
        self._denoiser.close(state.latents)

    def encode(self, chunks: Sequence[tuple[StreamState, Pixels]]) -> list[Row[StreamState]]:
        """As Pipeline.encode."""
        full = [(state, self._full(state, frames)) for state, frames in chunks]
        latents = grouped(
            full,
            lambda chunk: (chunk[1].shape, chunk[0].params.vae),
            lambda at: self._encode_group([full[i] for i in at]),
        )
        return [self._row(state, frames, latent) for (state, frames), latent in zip(chunks, latents, strict=True)]

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


def codecs_by_name(full: Codec, light: Codec | None, spec: PipelineSpec) -> Mapping[str, Codec]:
    """By what `Params.vae` calls them. Raises ValueError where they are not what the spec says, or do not fit."""
    if spec.light_vae != (light is not None):
        there = "no" if light is None else "a"
        raise ValueError(f"the spec says light_vae={spec.light_vae}, and there is {there} light codec")
    if light is None:
        return {"full": full}
    if light.latent_channels != full.latent_channels:
        channels = f"{full.latent_channels} and {light.latent_channels}"
        raise ValueError(f"a full and a light codec of other latents cannot serve one DiT: {channels} channels")
    return {"full": full, "light": light}
