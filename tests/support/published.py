"""The published StreamDiffusionV2 (PyPI, 0.1.1) with random weights, driven over latents as its own programs drive it.

What its loaders would read from files is made by hand here; everything that computes is the package's own.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.layouts import from_wan

MISSING = "the published package is not installed: pip install --no-deps streamdiffusionv2==0.1.1"

Noise = Callable[[int, int], Tensor]
"""Of (chunk, step): the noise (1, C, 1, h, w) that the step's latent is made with."""


def installed() -> bool:
    """Whether the package, and what it imports, is there."""
    return all(
        importlib.util.find_spec(name)
        for name in ("streamdiffusionv2", "diffusers", "transformers", "einops", "ftfy", "regex")
    )


def module(name: str) -> Any:
    """A module of the package, whose warnings about a missing GPU are its own matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def geometry(layers: int = 2, heads: int = 2, cond_channels: int = 0) -> DiTGeometry:
    """Small, but with the heads of 128 channels that the package's cache is built for."""
    return DiTGeometry(
        latent_channels=4,
        cond_channels=cond_channels,
        patch=(1, 2, 2),
        dim=128 * heads,
        ffn_dim=192,
        heads=heads,
        layers=layers,
        freq_dim=32,
        text_dim=24,
        text_len=5,
        prediction="flow",
    )


def randomize(model: nn.Module, seed: int) -> None:
    """Weights with which every part of the model matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            noise = 0.1 * noise + (name.endswith("weight"))
        elif not name.endswith(("modulation", "scale_shift_table")):
            noise *= (1.5 if ".q." in name or ".k." in name else 0.7) * parameter[0].numel() ** -0.5
        else:
            noise *= 0.3
        parameter.data.copy_(noise)


def wan_model(g: DiTGeometry, seed: int = 0) -> Any:
    """The package's DiT."""
    model = module("models.wan.causal_model").CausalWanModel(
        model_type="t2v", patch_size=g.patch, text_len=g.text_len, in_dim=g.latent_channels + g.cond_channels,
        dim=g.dim, ffn_dim=g.ffn_dim, freq_dim=g.freq_dim, text_dim=g.text_dim, out_dim=g.latent_channels,
        num_heads=g.heads, num_layers=g.layers, eps=g.eps,
    )  # fmt: skip
    randomize(model, seed)
    return model.eval().requires_grad_(False)


def our_model(model: nn.Module, g: DiTGeometry) -> CausalWanModel:
    """Ours with the weights of the package's."""
    ours = CausalWanModel(g)
    ours.load_state_dict(from_wan(model.state_dict(), g))
    return ours.eval().requires_grad_(False)


class Published:
    """One process of the package: its models and what its modules remember from stream to stream."""

    def __init__(
        self,
        model: Any,
        grid: tuple[int, int],
        text: Tensor,
        *,
        window: int,
        sinks: int,
        threshold: float,
        steps: Sequence[int],
    ) -> None:
        """grid: rows and columns of tokens. text: embedding (1, length, text_dim) that every prompt has."""
        self.tokens = grid[0] * grid[1]
        self.window = window
        self._steps = tuple(steps)
        wrapper = module("models.wan.wan_wrapper").CausalWanDiffusionWrapper
        generator = wrapper.__new__(wrapper)
        nn.Module.__init__(generator)
        generator.model, generator.uniform_timestep, generator.seq_len = model, False, 32760
        schedule = module("models.wan.flow_match").FlowMatchScheduler(shift=8.0, sigma_min=0.0, extra_one_step=True)
        schedule.set_timesteps(1000, training=True)
        generator.scheduler = schedule
        generator.get_scheduler()
        cls = module("models.wan.causal_stream_inference").CausalStreamInferencePipeline
        pipe = self.pipe = cls.__new__(cls)
        nn.Module.__init__(pipe)
        pipe.generator, pipe.device, pipe.scheduler = generator, "cpu", generator.scheduler
        pipe.text_encoder = lambda text_prompts: {"prompt_embeds": text.repeat(len(text_prompts), 1, 1)}
        pipe.num_transformer_blocks, pipe.num_heads = model.num_layers, model.num_heads
        pipe.height, pipe.width = 2 * grid[0], 2 * grid[1]
        pipe.frame_seq_length, pipe.num_kv_cache = self.tokens, window
        pipe.kv_cache_length = window * self.tokens
        pipe.num_sink_tokens, pipe.adapt_sink_threshold = sinks, threshold
        pipe.num_frame_per_block = 1
        self.after_pass: Callable[[int, int], None] = lambda frame, step: None
        """Called after each forward pass with the latent frame of its first row and, in sequence, its step."""
        self._passes, self._forward = 0, generator.forward
        generator.forward = self._pass
        self.reset()

    def _pass(self, *args: Any, **kwargs: Any) -> Any:
        out = self._forward(*args, **kwargs)
        self.after_pass(int(kwargs["current_start"].flatten()[0]) // self.tokens, self._passes)
        self._passes += 1
        return out

    @property
    def sink_tokens(self) -> int:
        return int(self.pipe.num_sink_tokens) * self.tokens

    def reset(self) -> None:
        """What the package does between two sessions, and the list of steps as it is in the configuration."""
        for name in ("kv_cache1", "crossattn_cache", "block_x", "hidden_states", "conditional_dict"):
            setattr(self.pipe, name, None)
        self.pipe.denoising_step_list = torch.tensor(self._steps)

    @property
    def attentions(self) -> list[Any]:
        return [block.self_attn for block in self.pipe.generator.model.blocks]

    def begin(self, noised: Tensor, noise: Noise, *, batched: bool) -> Tensor:
        """The clean first latents (1, C, frames, h, w) of a session; `noised` to its level."""
        frames = noised.shape[2]
        self._passes = 0
        with _noise([noise(0, step)[0].transpose(0, 1) for step in range(1, len(self._steps))]):
            out = self.pipe.prepare(
                text_prompts=["prompt"], device="cpu", dtype=torch.float32, noise=noised.transpose(1, 2),
                current_start=0, current_end=frames * self.tokens, batch_denoise=batched,
            )  # fmt: skip
        return out.transpose(1, 2)

    def stream_batch(self, noised: Tensor, timestep: int, frame: int, chunk: int, noise: Noise) -> Tensor:
        """Takes chunk number `chunk` at latent frame `frame`; the clean latent of the one that is done now."""
        steps = len(self._steps)
        draws = [noise(max(chunk - row, 0), row + 1)[0].transpose(0, 1)[None] for row in range(steps - 1)]
        self._passes = 0
        with _noise(draws):
            out = self.pipe.inference_stream(
                noise=noised.transpose(1, 2), current_start=frame * self.tokens,
                current_end=(frame + 1) * self.tokens, current_step=timestep,
            )  # fmt: skip
        return out[-1:].transpose(1, 2).clone()

    def sequential(self, noised: Tensor, timestep: int, frame: int, chunk: int, noise: Noise) -> Tensor:
        """All steps of a chunk; its clean latent."""
        self._passes = 0
        with _noise([noise(chunk, step)[0].transpose(0, 1) for step in range(1, len(self._steps))]):
            out = self.pipe.inference_wo_batch(
                noise=noised.transpose(1, 2), current_start=frame * self.tokens,
                current_end=(frame + 1) * self.tokens, current_step=timestep,
            )  # fmt: skip
        return out.transpose(1, 2)

    def forget_pending(self, frame: int, step: int) -> None:
        """For `after_pass`: mends what the package does with sinks to be replaced that it did not replace at once.

        It keeps them in the list from which it takes the next place, so that a later frame, which need not be unlike
        them at all, takes theirs: those found while the window first fills, when empty sinks count as unlike (fault 2
        of FACTS); and in sequence all but one of those that the steps of one frame found.
        """
        for attention in self.attentions:
            for row, ends in enumerate(attention.evict_idx):
                waits = step > 0 and frame >= self.window - 1 and ends[0] <= self.sink_tokens
                ring = [end for end in ends if end > self.sink_tokens]
                attention.evict_idx[row] = ends[:1] + ring if waits else ring


@dataclass(frozen=True)
class Clip:
    """Latents of a changing scene, with the noise of every chunk and step."""

    grid: tuple[int, int]
    channels: int = 4
    first: int = 1
    """Latent frames of the first chunk."""
    change: float = 1.0
    """How much frames differ from each other."""
    loudness: float = 1.0
    """Of the noise."""
    cut: int = 10**9
    """From this chunk on another scene."""

    def clean(self, chunk: int) -> Tensor:
        frames = self.first if chunk == 0 else 1
        scene = self._draw(1, int(chunk >= self.cut))
        return torch.cat([scene + self.change * self._draw(2, 100 * frame + chunk) for frame in range(frames)], dim=2)

    def level(self, chunk: int) -> float:
        """As a noise controller might have it."""
        return 0.8 if chunk == 0 else 0.8 - 0.01 * (chunk * 7 % 10)

    def noise(self, chunk: int, step: int) -> Tensor:
        frames = self.first if chunk == 0 else 1
        draws = [self._draw(3, 10_000 * frame + 10 * chunk + step) for frame in range(frames)]
        return self.loudness * torch.cat(draws, dim=2)

    def noised(self, chunk: int) -> Tensor:
        level = self.level(chunk)
        return (1 - level) * self.clean(chunk) + level * self.noise(chunk, 0)

    def frame(self, chunk: int) -> int:
        """Index of the chunk's first latent frame."""
        return 0 if chunk == 0 else chunk + self.first - 1

    def _draw(self, kind: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_000 * kind + number)
        return torch.randn(1, self.channels, 1, 2 * self.grid[0], 2 * self.grid[1], generator=generator)


def theirs(
    package: Published, clip: Clip, chunks: int, *, batched: bool, frame: Callable[[int], int] | None = None
) -> list[Tensor]:
    """The clean latents of a session's first chunks; with stream batch the last ones stay in flight.

    frame: latent frame (position) at which a chunk is run, where it is not the clip's own.
    """
    at, steps = frame or clip.frame, len(package.pipe.denoising_step_list)
    run = package.stream_batch if batched else package.sequential
    outputs = [package.begin(clip.noised(0), clip.noise, batched=batched)]
    for chunk in range(1, chunks):
        timestep = int(1000 * clip.level(chunk) + 1e-6) - 100
        outputs.append(run(clip.noised(chunk), timestep, at(chunk), chunk, clip.noise))
    return outputs[:1] + outputs[steps if batched else 1 :]  # what comes out first is of no chunk


@contextmanager
def _noise(draws: list[Tensor]) -> Iterator[None]:
    """Has the package draw these, one after the other."""
    left = list(draws)

    def drawn(like: Tensor) -> Tensor:
        assert left[0].shape == like.shape, (left[0].shape, like.shape)
        return left.pop(0)

    with mock.patch.object(torch, "randn_like", drawn), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    assert not left
