"""The causal Wan pipeline: frames to latents, noised, denoised in few steps under a prompt, and back to frames.

Read top to bottom it is the way of a chunk: `encode`, `denoise` once per step, `decode`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipelines.causal_wan import weights
from pipelines.causal_wan.attention import BACKENDS
from pipelines.causal_wan.autoencoder import (
    CHUNK,
    SPACE,
    AutoencoderGeometry,
    StreamingAutoencoder,
    TinyCodec,
    channels_last,
)
from pipelines.causal_wan.cache import RollingKVCache
from pipelines.causal_wan.device import choose_device, choose_dtype
from pipelines.causal_wan.dit import CausalWanModel, TextContext
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.noise import NoiseController, NoiseGeometry
from pipelines.causal_wan.parts import Codec, TextEncoder
from pipelines.causal_wan.sampler import add_noise, clean_from, draw_noise, sigma_at
from pipelines.causal_wan.tiny_text import TextGeometry, TinyText, TinyTextEncoder
from pipelines.registry import Preset
from streamgen.core import Params, PipelineSpec, Pixels, Row
from streamgen.errors import ParamsError

FULL_STRENGTH = 0.5
"""From this noise on the style is applied in full; below, the result moves toward the source in proportion."""

T = TypeVar("T")


@dataclass(eq=False)
class StreamState:
    """What one stream holds on the device."""

    params: Params
    context: TextContext
    cache: RollingKVCache
    noise: NoiseController
    codec: Any
    """What the codec carries from chunk to chunk."""
    slots: list[int] = field(default_factory=list)
    """KV slots of the steps, taken as steps are first run."""
    noises: dict[int, Tensor] = field(default_factory=dict)
    """The stream's noise for each step, drawn once: a still scene stays still."""
    first: bool = True
    closed: bool = False


@dataclass(frozen=True)
class Models:
    """The weights, shared by all streams."""

    codec: Codec
    dit: CausalWanModel
    text: TextEncoder


class CausalWanPipeline:
    """The pipeline protocol (streamgen.core.Pipeline) over a causal Wan DiT on one device."""

    def __init__(
        self, spec: PipelineSpec, models: Models, cache: CacheGeometry, noise: NoiseGeometry, device: torch.device,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self._spec = spec
        self._models = models
        self._cache_geometry, self._noise_geometry = cache, noise
        self._device, self._dtype = device, dtype
        self._caches: dict[tuple[int, int], RollingKVCache] = {}

    @property
    def spec(self) -> PipelineSpec:
        return self._spec

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def dtype(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @torch.inference_mode()
    def open(self, params: Params) -> StreamState:
        self._spec.check(params)
        cache = self._cache(params)
        noise = NoiseController(self._noise_geometry)
        return StreamState(params, self._context(params.prompt), cache, noise, self._models.codec.open())

    @torch.inference_mode()
    def update(self, state: StreamState, params: Params) -> None:
        self._spec.check(params)
        for name in ("width", "height"):
            if getattr(params, name) != getattr(state.params, name):
                raise ParamsError(name, "cannot change within a stream; open another")
        if params.prompt != state.params.prompt:
            state.context = self._context(params.prompt)
        if params.seed != state.params.seed:
            state.noises.clear()
        state.params = params

    @torch.inference_mode()
    def encode(self, chunks: Sequence[tuple[StreamState, Pixels]]) -> list[Row[StreamState]]:
        full = [self._full(state, frames) for state, frames in chunks]
        latents = _grouped(full, lambda frames: frames.shape, lambda at: self._encode_group(chunks, full, at))
        return [self._row(state, frames, latent) for (state, frames), latent in zip(chunks, latents, strict=True)]

    @torch.inference_mode()
    def denoise(self, rows: Sequence[Row[StreamState]]) -> list[Row[StreamState]]:
        if any(row.done for row in rows):
            raise ValueError("a row that is done cannot be denoised further")
        latents = _grouped(rows, lambda row: row.latent.shape, lambda at: self._denoise_group([rows[i] for i in at]))
        return [replace(row, latent=latent, step=row.step + 1) for row, latent in zip(rows, latents, strict=True)]

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row[StreamState]]) -> list[Pixels]:
        pictures: list[Pixels] = _grouped(
            rows, lambda row: (row.latent.shape, row.leading), lambda at: self._decode_group([rows[i] for i in at])
        )
        return [picture[: row.frames] for picture, row in zip(pictures, rows, strict=True)]

    def close(self, state: StreamState) -> None:
        if state.closed:
            return
        state.closed = True
        for slot in state.slots:
            state.cache.give_back(slot)
        state.slots.clear()
        if not state.cache.taken:
            self._caches.pop(state.cache.grid, None)

    def _cache(self, params: Params) -> RollingKVCache:
        patch = self._models.dit.geometry.patch
        grid = (params.height // SPACE // patch[1], params.width // SPACE // patch[2])
        if grid not in self._caches:
            self._caches[grid] = RollingKVCache(
                self._models.dit.geometry, self._cache_geometry, grid, self._device, self._dtype
            )
        return self._caches[grid]

    def _context(self, prompt: str) -> TextContext:
        return self._models.dit.context(self._models.text.encode(prompt))

    def _full(self, state: StreamState, frames: Pixels) -> Pixels:
        """A whole chunk: one frame where the stream begins, else four; copies of its last frame fill up a short one."""
        whole = self._spec.frames_wanted(state.first)
        if not 0 < len(frames) <= whole:
            raise ParamsError("frames", f"this chunk has from 1 to {whole} frames, not {len(frames)}")
        expected = (state.params.height, state.params.width, 3)
        if frames.shape[1:] != expected:
            raise ParamsError("frames", f"are {frames.shape[1:]} instead of {expected}")
        return np.concatenate([frames, np.repeat(frames[-1:], whole - len(frames), axis=0)])

    def _encode_group(
        self, chunks: Sequence[tuple[StreamState, Pixels]], full: Sequence[Pixels], at: list[int]
    ) -> Iterable[Tensor]:
        frames = torch.from_numpy(np.stack([full[i] for i in at])).to(self._device).permute(0, 1, 4, 2, 3)
        states = [chunks[i][0].codec for i in at]
        return self._models.codec.encode(states, frames.to(self._dtype) / 127.5 - 1.0).split(1)

    def _row(self, state: StreamState, frames: Pixels, clean: Tensor) -> Row[StreamState]:
        params = state.params
        sigma = state.noise.next(frames, params.noise)
        noise = self._noise(state, 0, clean.shape)
        first, state.first = state.first, False
        return Row(
            state=state,
            latent=add_noise(clean, noise, torch.tensor([sigma], device=self._device)),
            condition=clean,
            step=0,
            steps=params.steps,
            sigma=sigma,
            frames=len(frames),
            leading=first,
        )

    def _noise(self, state: StreamState, step: int, shape: torch.Size) -> Tensor:
        if step not in state.noises:
            state.noises[step] = draw_noise(tuple(shape), state.params.seed, step, self._device, self._dtype)
        return state.noises[step]

    def _denoise_group(self, rows: list[Row[StreamState]]) -> Iterable[Tensor]:
        """One step of rows of one size: predict the clean latents, then noise them to the next step's level."""
        dit = self._models.dit
        sigma = torch.tensor([sigma_at(row.step, row.steps, row.sigma) for row in rows], device=self._device)
        latent = torch.cat([row.latent for row in rows])
        condition = torch.cat([row.condition for row in rows])
        cache = rows[0].state.cache.begin([self._slot(row.state, row.step) for row in rows])
        seen = condition if dit.geometry.cond_channels else None
        out = dit(latent, seen, sigma, _joined([row.state.context for row in rows]), cache)
        clean = clean_from(out, latent, seen, sigma, dit.geometry.prediction)
        return [self._after_step(row, clean[i : i + 1]) for i, row in enumerate(rows)]

    def _slot(self, state: StreamState, step: int) -> int:
        if state.closed:
            raise ValueError("the stream state is closed")
        while len(state.slots) <= step:
            state.slots.append(state.cache.take())
        return state.slots[step]

    def _after_step(self, row: Row[StreamState], clean: Tensor) -> Tensor:
        following = row.step + 1
        if following < row.steps:
            noise = self._noise(row.state, following, clean.shape)
            level = sigma_at(following, row.steps, row.sigma)
            return add_noise(clean, noise, torch.tensor([level], device=self._device))
        strength = min(row.sigma / FULL_STRENGTH, 1.0)
        return clean if strength == 1.0 else torch.lerp(row.condition, clean, strength)

    def _decode_group(self, rows: list[Row[StreamState]]) -> Iterable[Pixels]:
        latents = torch.cat([row.latent for row in rows])
        frames = self._models.codec.decode([row.state.codec for row in rows], latents)
        pictures = (frames.float() * 127.5 + 128.0).clamp_(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
        return [np.ascontiguousarray(picture) for picture in pictures.cpu().numpy()]


def build_tiny(preset: Preset, device: str, threads: int) -> CausalWanPipeline:
    """The tiny preset from its settings and its folder's weights. Raises PresetError, WeightsError."""
    if threads:
        torch.set_num_threads(threads)
    settings: Mapping[str, Any] = preset.settings
    on, dit = choose_device(device), DiTGeometry.from_settings(settings["dit"])
    dtype, cache = choose_dtype(on), CacheGeometry(**settings["cache"])
    attend = BACKENDS["matmul" if on.type == "cpu" and dtype == torch.bfloat16 else "sdpa"]
    styles = len(preset.styles) + 1  # and the photograph
    autoencoder = StreamingAutoencoder(AutoencoderGeometry(**settings["autoencoder"]))
    text = TinyTextEncoder(TextGeometry(**settings["text"]), styles)
    model = CausalWanModel(dit, attend)
    for name, module in (("autoencoder", autoencoder), ("dit", model), ("text", text)):
        weights.load(module, preset.folder / f"{name}.safetensors")
        module.to(on, dtype).eval().requires_grad_(False)
    models = Models(TinyCodec(channels_last(autoencoder)), model, TinyText(text))
    return CausalWanPipeline(
        _spec(preset, dit, cache, dtype), models, cache, NoiseGeometry(**settings["noise"]), on, dtype
    )


def _spec(preset: Preset, dit: DiTGeometry, cache: CacheGeometry, dtype: torch.dtype) -> PipelineSpec:
    defaults, multiple = preset.defaults, SPACE * dit.patch[1]
    tokens = defaults.width * defaults.height // multiple**2
    per_slot = 2 * dit.layers * cache.window * tokens * dit.dim * dtype.itemsize
    return PipelineSpec(
        name=preset.name,
        chunk_frames=CHUNK,
        first_chunk_frames=1,
        size_multiple=multiple,
        max_pixels=preset.settings["max_pixels"],
        native_fps=preset.native_fps,
        bytes_per_session=per_slot * defaults.steps,
        defaults=defaults,
    )


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


def _joined(contexts: Sequence[TextContext]) -> TextContext:
    if len(contexts) == 1:
        return contexts[0]
    return [
        (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in zip(*contexts, strict=True)
    ]
