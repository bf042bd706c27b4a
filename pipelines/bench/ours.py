"""Our own models as a contender."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.bench.case import Case, Codecs
from pipelines.bench.side import NOISE, Lap, Weights, prompt_embedding, silent
from pipelines.causal_wan import weights
from pipelines.causal_wan.attention import BACKENDS
from pipelines.causal_wan.denoiser import Denoiser, LatentRow, LatentStream
from pipelines.causal_wan.dit import CausalWanModel, TextContext
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.noise import NoiseController
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.taehv import TaehvCodec
from streamgen.core import Pixels


class OurModels:
    """Our networks with given weights, for any number of cases."""

    def __init__(
        self, geometry: DiTGeometry, dit: Weights, device: torch.device, *, attention: str, compiled: bool
    ) -> None:
        """dit: named as in CausalWanModel, in the number format to compute in."""
        self.device, self.dtype = device, next(iter(dit.values())).dtype
        with torch.device("meta"):
            self.dit = CausalWanModel(geometry, BACKENDS[attention])
        weights.fill(self.dit, dit)
        self.dit.eval()
        if compiled:
            self.dit.compile(dynamic=False)
        embedding = prompt_embedding(geometry.text_len, geometry.text_dim, device, self.dtype)
        with torch.inference_mode():
            self.context: TextContext = self.dit.context(embedding)
        self._codecs: dict[str, Codec] = {}

    def add_codec(self, name: Codecs, taehv: Weights | None, wan_vae: Weights | None) -> None:
        """taehv: as its file names it; wan_vae: in Wan's layout or diffusers'; None where the codec needs none."""
        self._codecs[name] = _codec(name, taehv, wan_vae, self.device, self.dtype)

    def codec(self, name: Codecs) -> Codec:
        return self._codecs[name]


class Ours:
    """A stream of our models (side.Side)."""

    name = "ours"

    def __init__(self, models: OurModels, case: Case) -> None:
        self._models, self._case = models, case
        self.dtype = models.dtype
        self._codec = models.codec(case.codec)
        self._denoiser = self._fresh_denoiser(case.model.cache)
        self._stream: LatentStream | None = None
        self._codec_state: Any = None
        self._noise = NoiseController(case.model.noise)
        self._flying: list[LatentRow] = []
        self._lone: tuple[Denoiser, LatentStream] | None = None

    def begin(self, frames: Pixels) -> Pixels:
        self.forget()
        self._stream = self._denoiser.open(self._case.grid, self._models.context, seed=0)
        self._codec_state = self._codec.open()
        self._noise = NoiseController(self._case.model.noise)
        row = self._encoded(frames[:1])
        while not row.done:
            (row,) = self._denoiser.step([row])
        return self._decoded(row)

    def chunk(self, frames: Pixels, lap: Lap = silent) -> list[Pixels]:
        self._flying.append(self._encoded(frames))
        lap("encode")
        self._flying = self._denoiser.step(self._flying)
        while self._case.denoising == "sequential" and not self._flying[0].done:
            self._flying = self._denoiser.step(self._flying)
        done = [row for row in self._flying if row.done]
        self._flying = [row for row in self._flying if not row.done]
        lap("denoise")
        pictures = [self._decoded(row) for row in done]
        lap("decode")
        return pictures

    def step(self, latent: Tensor) -> Tensor:
        if self._lone is None:
            cache = replace(self._case.model.cache, sink_threshold=-1.0, sink_positions="absolute", start="own")
            denoiser = self._fresh_denoiser(cache)
            self._lone = denoiser, denoiser.open(self._case.grid, self._models.context, seed=0)
        denoiser, stream = self._lone
        row = LatentRow(stream, latent, latent, step=0, steps=1, noise=NOISE, chunk=stream.chunks)
        stream.chunks += 1
        return denoiser.step([row])[0].latent

    def forget(self) -> None:
        if self._stream is not None:
            self._denoiser.close(self._stream)
        self._stream = self._lone = None
        self._flying.clear()

    def _fresh_denoiser(self, cache: CacheGeometry) -> Denoiser:
        return Denoiser(self._models.dit, cache, self._case.model.sampler, self._models.device, self.dtype)

    def _encoded(self, frames: Pixels) -> LatentRow:
        """(T, H, W, 3) as a row that has all its steps before it."""
        level = self._noise.next(frames, NOISE)
        video = torch.from_numpy(frames).to(self._models.device).permute(0, 3, 1, 2)[None]
        clean = self._codec.encode([self._codec_state], video.to(self.dtype) / 127.5 - 1.0)
        assert self._stream is not None, "begin comes first"
        return self._denoiser.start(self._stream, clean, self._case.steps, level)

    def _decoded(self, row: LatentRow) -> Pixels:
        pictures = self._codec.decode([self._codec_state], row.latent)[0]
        pixels = (pictures.float() * 127.5 + 128.0).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return np.ascontiguousarray(pixels.cpu().numpy())


def _codec(
    name: Codecs, taehv: Weights | None, wan_vae: Weights | None, device: torch.device, dtype: torch.dtype
) -> Codec:
    if name == "taehv":
        return _taehv(taehv, device, dtype)
    # diffusers is not everywhere, and only Wan's VAE needs it
    from pipelines.causal_wan.paired_codec import PairedCodec  # noqa: PLC0415
    from pipelines.causal_wan.wan_vae import WanCodec  # noqa: PLC0415

    wan = WanCodec.from_state_dict(wan_vae or {}, device=device, dtype=dtype, raw_latents=True)
    return wan if name == "wan" else PairedCodec(wan, _taehv(taehv, device, dtype))


def _taehv(tensors: Weights | None, device: torch.device, dtype: torch.dtype) -> TaehvCodec:
    return TaehvCodec.from_state_dict(tensors or {}, device=device, dtype=dtype, raw_latents=True)
