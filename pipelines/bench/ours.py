"""Our own models as a contender."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipelines.bench.case import Case, Codecs
from pipelines.bench.side import NOISE, Lap, Weights, prompt_embedding, silent
from pipelines.causal_wan import weights
from pipelines.causal_wan.attention import BACKENDS
from pipelines.causal_wan.condensed import condensed
from pipelines.causal_wan.denoiser import Denoiser, LatentRow, LatentStream
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.intake import Rules, StreamState
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.pipeline import CausalWanPipeline, Models
from pipelines.causal_wan.taehv import TaehvCodec
from pipelines.streaming import StreamBatch, finish, sequential
from streamgen.core import Params, PipelineSpec, Pixels


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
            self.dit.compile_blocks()
        self.embedding = prompt_embedding(geometry.text_len, geometry.text_dim, device, self.dtype)
        self._codecs: dict[str, Codec] = {}

    def add_codec(self, name: Codecs, taehv: Weights | None, wan_vae: Weights | None) -> None:
        """taehv: as its file names it; wan_vae: in Wan's layout or diffusers'; None where the codec needs none."""
        self._codecs[name] = _codec(name, taehv, wan_vae, self.device, self.dtype)

    def codec(self, name: Codecs) -> Codec:
        return self._codecs[name]


class Ours:
    """A stream of our pipeline (side.Side)."""

    name = "ours"

    def __init__(self, models: OurModels, case: Case) -> None:
        self._models, self._case = models, case
        self.dtype = models.dtype
        self._pipeline = self._fresh_pipeline()
        self._batch = StreamBatch(self._pipeline)
        self._stream: StreamState | None = None
        self._lone: tuple[Denoiser, LatentStream] | None = None

    def begin(self, frames: Pixels) -> Pixels:
        self.forget()
        case = self._case
        params = Params(width=case.width, height=case.height, steps=case.steps, noise=NOISE)
        self._stream = self._pipeline.open(params)
        (pixels,) = sequential(self._pipeline, [(self._stream, frames[:1])])
        return pixels

    def chunk(self, frames: Pixels, lap: Lap = silent) -> list[Pixels]:
        assert self._stream is not None, "begin comes first"
        rows = self._pipeline.encode([(self._stream, frames)])
        lap("encode")
        rows = finish(self._pipeline, rows) if self._case.denoising == "sequential" else self._batch.advance(rows)
        lap("denoise")
        pictures = self._pipeline.decode(rows)
        lap("decode")
        return pictures

    def step(self, latent: Tensor) -> Tensor:
        models, case = self._models, self._case
        if self._lone is None:
            cache = replace(case.model.cache, sink_threshold=-1.0, sink_positions="absolute", start="own")
            denoiser = Denoiser(models.dit, cache, case.model.sampler, models.device, self.dtype)
            context = models.dit.context(*condensed(models.embedding))
            self._lone = denoiser, denoiser.open(case.grid, context, seed=0)
        denoiser, stream = self._lone
        row = LatentRow(
            stream, stream.context, stream.seed, latent, latent, step=0, steps=1, noise=NOISE, chunk=stream.chunks
        )
        stream.chunks += 1
        return denoiser.step([row])[0].latent

    def forget(self) -> None:
        if self._stream is not None:
            self._batch.discard(self._stream)
            self._pipeline.close(self._stream)
        self._stream = self._lone = None

    def _fresh_pipeline(self) -> CausalWanPipeline:
        models, case = self._models, self._case
        spec = PipelineSpec(
            name=case.name, chunk_frames=4, first_chunk_frames=1, size_multiple=16,
            max_pixels=case.width * case.height, native_fps=16.0, bytes_per_session=0, defaults=Params(),
        )  # fmt: skip
        rules = Rules(case.model.cache, case.model.sampler, case.model.noise)
        made = Models(models.codec(case.codec), models.dit, RandomText(models.embedding))
        return CausalWanPipeline(spec, made, rules, models.device, self.dtype)


@dataclass(frozen=True, eq=False)
class RandomText:
    """A text encoder (parts.TextEncoder) with one thing to say."""

    embedding: Tensor

    def encode(self, prompt: str) -> Tensor:
        del prompt
        return self.embedding


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
