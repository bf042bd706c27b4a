"""The published package, `streamdiffusionv2` from PyPI, as a contender, where it can be imported.

Its own classes do the work, in the order of its own loop over chunks (streamv2v/inference.py there). They are put
together here without their loaders, which want checkpoints at fixed places; what they keep on their attention modules
and never clear is cleared here, so that every stream is its first.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.bench.case import Case, Codecs
from pipelines.bench.side import NOISE, Lap, Weights, prompt_embedding, silent
from pipelines.causal_wan.geometry import DiTGeometry
from streamgen.core import Pixels

REFRESH = 50
"""Latent frame at which its loop starts its positions anew."""
FIRST_FRAMES = 5
WAN_VAE = {
    "dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
    "temperal_downsample": [False, True, True], "dropout": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Package:
    """Its modules."""

    model: Any
    wrapper: Any
    stream: Any
    schedule: Any
    base: Any
    vae: Any
    taehv: Any


def package() -> Package | str:
    """The package, or why it is not to be had."""
    names = (
        "causal_model", "wan_wrapper", "causal_stream_inference", "flow_match", "wan_base.modules.model",
        "wan_base.modules.vae", "taehv_wrapper",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Package(*(importlib.import_module(f"models.wan.{name}") for name in names))
        except ImportError as error:
            return f"the package streamdiffusionv2 cannot be imported: {error}"


class PublishedModels:
    """Its networks with given weights, for any number of cases."""

    def __init__(self, package: Package, geometry: DiTGeometry, dit: Weights, device: torch.device) -> None:
        """dit: in Wan's layout, in the number format to compute in."""
        self.package, self.geometry, self.device = package, geometry, device
        self.dtype = next(iter(dit.values())).dtype
        self.generator = self._generator(dit)
        self._codecs: dict[str, nn.Module] = {}

    def add_codec(self, name: Codecs, taehv: Weights | None, wan_vae: Weights | None) -> None:
        """taehv: named as in its file; wan_vae: in Wan's layout; None where the codec has no use for it."""
        if name == "wan":
            self._codecs[name] = self._wan_vae(wan_vae or {})
            return
        codec = self.package.taehv.TAEHVWanVAEWrapper.__new__(self.package.taehv.TAEHVWanVAEWrapper)
        nn.Module.__init__(codec)
        codec.use_tensorrt, codec.parallel_decode = False, self.device.type == "cuda"  # what each is fastest with
        codec.decode_context_latents = 3
        codec.model = SimpleNamespace(first_encode=True, first_decode=True)
        codec.taehv = self._taehv(taehv or {})
        if name == "paired":
            codec.encoder_vae = self._wan_vae(wan_vae or {})
        self._codecs[name] = codec

    def codec(self, name: Codecs) -> Any:
        return self._codecs[name]

    def _generator(self, dit: Weights) -> Any:
        g, p = self.geometry, self.package
        model: Any = empty_dit(p, g)
        model.load_state_dict(dit, strict=True, assign=True)
        third = 2 * (g.head_dim // 6)
        parts = (g.head_dim - 2 * third, third, third)
        model.freqs = torch.cat([p.base.rope_params(1024, part) for part in parts], dim=1)
        wrapper = p.wrapper.CausalWanDiffusionWrapper.__new__(p.wrapper.CausalWanDiffusionWrapper)
        nn.Module.__init__(wrapper)
        wrapper.model, wrapper.uniform_timestep, wrapper.seq_len = model, False, 32760
        wrapper.scheduler = p.schedule.FlowMatchScheduler(shift=8.0, sigma_min=0.0, extra_one_step=True)
        wrapper.scheduler.set_timesteps(1000, training=True)
        return wrapper.eval().requires_grad_(False)

    def _taehv(self, tensors: Weights) -> Any:
        """It only loads from a file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "taehv.pth"
            torch.save({name: tensor.cpu() for name, tensor in tensors.items()}, path)
            made = self.package.taehv.TAEHV(checkpoint_path=str(path))
        return made.to(self.device, self.dtype).eval().requires_grad_(False)

    def _wan_vae(self, tensors: Weights) -> Any:
        wrapper = self.package.wrapper.WanVAEWrapper.__new__(self.package.wrapper.WanVAEWrapper)
        nn.Module.__init__(wrapper)
        wrapper.mean, wrapper.std = torch.zeros(16), torch.ones(16)
        wrapper.model = empty_wan_vae(self.package)
        wrapper.model.load_state_dict(tensors, strict=True, assign=True)
        wrapper.model.first_encode = wrapper.model.first_decode = True
        return wrapper.eval().requires_grad_(False)


def empty_dit(package: Package, g: DiTGeometry) -> nn.Module:
    """The package's DiT of a geometry, without weights, on torch's meta device."""
    with torch.device("meta"):
        model: nn.Module = package.model.CausalWanModel(
            patch_size=g.patch, text_len=g.text_len, in_dim=g.latent_channels, dim=g.dim, ffn_dim=g.ffn_dim,
            freq_dim=g.freq_dim, text_dim=g.text_dim, out_dim=g.latent_channels, num_heads=g.heads,
            num_layers=g.layers, eps=g.eps,
        )  # fmt: skip
    return model


def empty_wan_vae(package: Package) -> nn.Module:
    """Wan's VAE as the package has it, without weights, on torch's meta device."""
    with torch.device("meta"):
        vae: nn.Module = package.vae.WanVAE_(**WAN_VAE)
    return vae


class Published:
    """A stream of the package (side.Side)."""

    name = "published"

    def __init__(self, models: PublishedModels, case: Case) -> None:
        self._models, self._case = models, case
        self.dtype = models.dtype
        self._stream = self._assembled()
        self._vae = self._stream.vae
        self._level, self._last = NOISE, torch.empty(0)
        self._start = 0
        self.forget()

    def begin(self, frames: Pixels) -> Pixels:
        self.forget()
        video = self._video(frames[:FIRST_FRAMES])
        self._last = video[:, :, -1:]
        noisy = self._noised(self._encode(video), NOISE)
        self._start = 2 * self._case.tokens
        clean = self._stream.prepare(
            text_prompts=[""], device=self._models.device, dtype=self.dtype, noise=noisy, current_start=0,
            current_end=self._start, batch_denoise=self._case.denoising == "batch",
        )  # fmt: skip
        self._level = NOISE
        return self._decode(clean)

    def chunk(self, frames: Pixels, lap: Lap = silent) -> list[Pixels]:
        video = self._video(frames)
        level, timestep = self._motion(torch.cat([self._last, video], dim=2))
        self._last, self._level = video[:, :, -1:], level
        noisy = self._noised(self._encode(video), level)
        lap("encode")
        run = self._stream.inference_stream if self._case.denoising == "batch" else self._stream.inference_wo_batch
        start, end = self._positions()
        clean = run(noise=noisy, current_start=start, current_end=end, current_step=timestep)
        lap("denoise")
        pictures = self._decode(clean[[-1]])
        lap("decode")
        return [pictures]

    def step(self, latent: Tensor) -> Tensor:
        stream, device, tokens = self._stream, self._models.device, self._case.tokens
        if stream.kv_cache1 is None:
            stream.adapt_sink_threshold = -1
            stream.conditional_dict = stream.text_encoder([""])
            stream._initialize_kv_cache(1, self.dtype, device)  # noqa: SLF001 - it has no other door
            stream._initialize_crossattn_cache(1, self.dtype, device)  # noqa: SLF001
            self._start = 0
        for block in stream.kv_cache1:
            block["total_steps"] = block["current_step"] = 1
        start = torch.tensor([self._start], device=device)
        self._start += tokens
        clean: Tensor = stream.generator(
            noisy_image_or_video=latent.transpose(1, 2), conditional_dict=stream.conditional_dict,
            timestep=torch.full((1, 1), int(1000 * NOISE) - 100, device=device), kv_cache=stream.kv_cache1,
            crossattn_cache=stream.crossattn_cache, current_start=start, current_end=start + tokens,
        )  # fmt: skip
        return clean.transpose(1, 2)

    def _assembled(self) -> Any:
        case, models, geometry = self._case, self._models, self._case.model.dit
        kind = models.package.stream.CausalStreamInferencePipeline
        stream = kind.__new__(kind)
        nn.Module.__init__(stream)
        stream.device, stream.generator, stream.vae = models.device, models.generator, models.codec(case.codec)
        stream.scheduler = models.generator.get_scheduler()
        stream.denoising_step_list = torch.tensor(case.model.sampler.steps[: case.steps], device=models.device)
        stream.num_transformer_blocks, stream.num_heads = geometry.layers, geometry.heads
        stream.height, stream.width = case.height // 8, case.width // 8
        stream.frame_seq_length, stream.num_frame_per_block = case.tokens, 1
        stream.num_kv_cache, stream.num_sink_tokens = case.model.cache.window, case.model.cache.sinks
        stream.kv_cache_length = case.tokens * case.model.cache.window
        stream.args = SimpleNamespace()
        embedding = prompt_embedding(geometry.text_len, geometry.text_dim, models.device, self.dtype)
        stream.text_encoder = lambda text_prompts: {"prompt_embeds": embedding}
        return stream

    def forget(self) -> None:
        """Drops the stream, its caches and what it left on the networks."""
        stream = self._stream
        stream.adapt_sink_threshold = self._case.model.cache.sink_threshold
        stream.kv_cache1 = stream.crossattn_cache = stream.hidden_states = stream.block_x = None
        steps = self._case.model.sampler.steps[: self._case.steps]
        stream.denoising_step_list = torch.tensor(steps, device=self._models.device)
        self._vae.model.first_encode = self._vae.model.first_decode = True
        for block in self._models.generator.model.blocks:
            block.self_attn.evict_idx = None

    def _video(self, frames: Pixels) -> Tensor:
        """(1, 3, T, H, W) in -1..1."""
        video = torch.from_numpy(frames).to(self._models.device).permute(3, 0, 1, 2)[None]
        return (video.float() / 127.5 - 1.0).to(self.dtype)

    def _motion(self, video: Tensor) -> tuple[float, int]:
        """Its noise level and first timestep for frames and the one before them."""
        change = (video[:, :, 1:] - video[:, :, :-1]).square().mean(dim=(0, 1, 3, 4)).sqrt().max() / 0.2
        level = 0.9 * (NOISE - 0.1 * change.clamp(0, 1).item()) + 0.1 * self._level
        return level, int(1000 * level) - 100

    def _encode(self, video: Tensor) -> Tensor:
        """(1, T, C, h, w). TAEHV's encoder, which the package has but never calls, takes whole chunks of 4 frames."""
        if self._case.codec != "taehv":
            return self._vae.stream_encode(video).transpose(1, 2).contiguous().to(self.dtype)
        frames = video.transpose(1, 2) * 0.5 + 0.5
        if len(frames[0]) == FIRST_FRAMES:
            frames = torch.cat([frames[:, :1].expand(-1, 3, -1, -1, -1), frames], dim=1)
        return self._vae.taehv.encode_video(frames, parallel=True)

    @staticmethod
    def _noised(latents: Tensor, level: float) -> Tensor:
        return torch.randn_like(latents) * level + latents * (1 - level)

    def _positions(self) -> tuple[int, int]:
        tokens = self._case.tokens
        if self._start // tokens >= REFRESH:
            self._start = self._stream.kv_cache_length - tokens
        start, self._start = self._start, self._start + tokens
        return start, self._start

    def _decode(self, clean: Tensor) -> Pixels:
        """(T, H, W, 3): on the host as float32, as its loop does, and as the whole numbers that a picture has."""
        video = (self._vae.stream_decode_to_pixel(clean) * 0.5 + 0.5).clamp(0, 1)[0]
        pictures = video.permute(0, 2, 3, 1).contiguous().cpu().float().numpy()
        pixels: Pixels = (255 * pictures).astype("uint8")
        return pixels
