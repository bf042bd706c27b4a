"""The causal Wan pipeline: frames to latents, noised, denoised in few steps under a prompt, and back to frames.

Read top to bottom it is the way of a chunk: `encode`, `denoise` once per step, `decode`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipelines.causal_wan.denoiser import Denoiser, LatentRow
from pipelines.causal_wan.dit import CausalWanModel, TextContext
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.grouping import grouped
from pipelines.causal_wan.intake import Intake, Rules, StreamState, codecs_by_name
from pipelines.causal_wan.lora import LoRA, MergedLoRAs
from pipelines.causal_wan.parts import Codec, TextEncoder
from pipelines.causal_wan.prompt import Prompts
from streamgen.core import Params, PipelineSpec, Pixels, Row

FULL_STRENGTH = 0.5
"""With conditioning channels: from this noise on the style is applied in full; below, the result moves to the source
in proportion. Without, it is the noise itself that keeps or loses the source."""


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

    def prompts(self, blend_chunks: int) -> Prompts[TextContext]:
        """For the DiT on this device."""
        return Prompts(self.text, self.dit.context, blend_chunks, self.text_executor)


class CausalWanPipeline:
    """The pipeline protocol (streamgen.core.Pipeline) over a causal Wan DiT on one device.

    Raises ValueError where the codecs are not those that the spec speaks of, or not of the same latents.
    """

    def __init__(
        self, spec: PipelineSpec, models: Models, rules: Rules, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._spec, self._models = spec, models
        self._codecs = codecs_by_name(models.codec, models.light_codec, spec)
        self._denoiser = Denoiser(models.dit, rules.cache, rules.sampler, device, dtype)
        prompts = models.prompts(rules.blend_chunks)
        self._intake = Intake(spec, self._codecs, prompts, self._denoiser, rules, device, dtype)
        self._loras = MergedLoRAs(models.dit)

    @property
    def spec(self) -> PipelineSpec:
        return self._spec

    @torch.inference_mode()
    def open(self, params: Params) -> StreamState:
        return self._intake.open(params)

    @torch.inference_mode()
    def update(self, state: StreamState, params: Params) -> None:
        self._intake.update(state, params)

    @torch.inference_mode()
    def encode(self, chunks: Sequence[tuple[StreamState, Pixels]]) -> list[Row[StreamState]]:
        return self._intake.encode(chunks)

    @torch.inference_mode()
    def denoise(self, rows: Sequence[Row[StreamState]]) -> list[Row[StreamState]]:
        check_undone(rows)
        latents: list[LatentRow] = grouped(rows, size_of, lambda at: self._denoiser.step([rows[i].latent for i in at]))
        return [replace(row, latent=latent, step=latent.step) for row, latent in zip(rows, latents, strict=True)]

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row[StreamState]]) -> list[Pixels]:
        pictures: list[Pixels] = grouped(rows, decodes_with, lambda at: self._decode_group([rows[i] for i in at]))
        return [picture[: row.frames] for picture, row in zip(pictures, rows, strict=True)]

    def close(self, state: StreamState) -> None:
        self._intake.close(state)

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
        for state in self._intake.streams:
            state.prompt.weights_changed()

    def _decode_group(self, rows: list[Row[StreamState]]) -> Iterable[Pixels]:
        """Rows of one size and age, of streams with the same codec."""
        latents = torch.cat([result_of(row, self._models.dit.geometry) for row in rows])
        codec = self._codecs[rows[0].state.params.vae]
        frames = to_pictures(codec.decode([row.state.codec for row in rows], latents))
        return [np.ascontiguousarray(picture) for picture in frames.cpu().numpy()]


def check_undone(rows: Sequence[Row[StreamState]]) -> None:
    """Raises ValueError where a row is done."""
    if any(row.done for row in rows):
        raise ValueError("a row that is done cannot be denoised further")


def size_of(row: Row[StreamState]) -> object:
    """Rows of the same share a pass."""
    return row.latent.latent.shape


def decodes_with(row: Row[StreamState]) -> object:
    """Rows of the same are decoded together."""
    return size_of(row), row.leading, row.state.params.vae


def result_of(row: Row[StreamState], geometry: DiTGeometry) -> Tensor:
    """The latent frame (1, C, 1, h, w) that is shown of a row that is done."""
    done: LatentRow = row.latent
    strength = strength_of(done, geometry)
    return done.latent if strength == 1.0 else torch.lerp(done.condition, done.latent, strength)


def strength_of(row: LatentRow, geometry: DiTGeometry) -> float:
    """How much of what the DiT made of a row is shown, 0..1; the rest is the source."""
    return min(row.noise / FULL_STRENGTH, 1.0) if geometry.cond_channels else 1.0


def to_pictures(frames: Tensor) -> Tensor:
    """Frames (B, T, 3, H, W), about -1..1, as pictures (B, T, H, W, 3), uint8."""
    return (frames.float() * 127.5 + 128.0).clamp_(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
