"""No model: frames come back as they went in. For measuring and debugging everything around a model by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.registry import Choices, Preset
from streamgen.core import Params, PipelineSpec, Pixels, Row
from streamgen.errors import ParamsError, PresetError


@dataclass(slots=True, eq=False)
class Stream:
    """What there is to know of one stream."""

    params: Params


class PassthroughPipeline:
    """Implements Pipeline[Stream]. Chunks of one frame, so that none waits for another; no step changes anything."""

    def __init__(self, spec: PipelineSpec) -> None:
        self._spec = spec

    @property
    def spec(self) -> PipelineSpec:
        """As given."""
        return self._spec

    def open(self, params: Params) -> Stream:
        """Raises ParamsError for a size that it does not take."""
        self._spec.check(params)
        return Stream(params)

    def update(self, state: Stream, params: Params) -> None:
        """Raises ParamsError for a new size."""
        if (params.width, params.height) != (state.params.width, state.params.height):
            raise ParamsError("width", "cannot change within a stream; open a new state")
        state.params = params

    def encode(self, chunks: Sequence[tuple[Stream, Pixels]]) -> list[Row[Stream]]:
        """Rows that carry the frames (T, H, W, 3) themselves."""
        return [
            Row(state, pixels, None, 0, state.params.steps, state.params.noise, len(pixels)) for state, pixels in chunks
        ]

    def denoise(self, rows: Sequence[Row[Stream]]) -> list[Row[Stream]]:
        """Counts steps."""
        return [
            Row(row.state, row.latent, row.condition, row.step + 1, row.steps, row.sigma, row.frames) for row in rows
        ]

    def decode(self, rows: Sequence[Row[Stream]]) -> list[Pixels]:
        """The frames again."""
        return [row.latent for row in rows]

    def close(self, state: Stream) -> None:
        """There is nothing to give back."""


def build_passthrough(preset: Preset, choices: Choices) -> PassthroughPipeline:
    """The preset. Raises PresetError for LoRA files, which there is no model to merge into."""
    if choices.loras:
        raise PresetError(f"{preset.name} has no model that a LoRA file could be merged into")
    return PassthroughPipeline(
        PipelineSpec(
            name=preset.name,
            chunk_frames=1,
            first_chunk_frames=1,
            size_multiple=2,
            max_pixels=preset.settings["max_pixels"],
            native_fps=preset.native_fps,
            bytes_per_session=0,
            defaults=preset.defaults,
        )
    )
