"""What the last rank does beside its blocks: it predicts, and decodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipelines.causal_wan.intake import SPACE
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.pipeline import to_pictures
from pipelines.ring.operations import Decode
from pipelines.ring.watch import Watch


class Tail:
    """The decoders, and what each stream's carries from chunk to chunk."""

    def __init__(self, codecs: Mapping[str, Codec], watch: Watch) -> None:
        """codecs: by what `Params.vae` calls them."""
        self._codecs, self._watch = codecs, watch
        self._states: dict[int, Any] = {}

    def decode(self, operation: Decode, latents: Tensor) -> Tensor:
        """Pictures (B, T, H, W, 3), uint8."""
        codec = self._codecs[operation.vae]
        for stream in operation.streams:
            if stream not in self._states:
                self._states[stream] = codec.open()
        with self._watch.span("decode", len(operation.streams)):
            frames = codec.decode([self._states[stream] for stream in operation.streams], latents)
            return to_pictures(frames).contiguous()

    def close(self, stream: int) -> None:
        """The stream is over."""
        self._states.pop(stream, None)


def picture_shape(operation: Decode) -> tuple[int, ...]:
    """Of what `decode` gives."""
    rows, _, _, height, width = operation.shape
    return rows, operation.frames, height * SPACE, width * SPACE, 3
