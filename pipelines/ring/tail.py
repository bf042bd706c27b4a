"""What the last rank does beside its blocks: it predicts, and decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.causal_wan.geometry import CHUNK, Prediction
from pipelines.causal_wan.grouping import grouped
from pipelines.causal_wan.intake import SPACE
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.pipeline import to_pictures
from pipelines.causal_wan.sampler import clean_from
from pipelines.ring.operations import Decode, Final, Rows
from pipelines.ring.watch import Watch


class Tail:
    """Takes clean latents out of predictions, and decodes; keeps what each stream's decoder carries along."""

    def __init__(self, codecs: Mapping[str, Codec], prediction: Prediction, watch: Watch) -> None:
        """codecs: by what `Params.vae` calls them; prediction: what the DiT's output is."""
        self._codecs, self._prediction, self._watch = codecs, prediction, watch
        self._states: dict[int, Any] = {}

    def pictures(self, rows: Rows, predictions: Tensor, sent: Tensor) -> list[Tensor]:
        """Pictures (T, H, W, 3), uint8, of each final row, in the order of rows.

        predictions: (rows, C, frames, h, w) of all rows; sent: what the first rank sent of the final ones.
        """
        finals = [(i, final) for i, final in enumerate(rows.finals) if final is not None]
        latents, conditions = sent
        sigma = torch.tensor([final.sigma for _, final in finals], device=sent.device)
        at = torch.tensor([i for i, _ in finals], device=sent.device)
        clean = clean_from(predictions.index_select(0, at), latents, conditions, sigma, self._prediction)
        shown = [
            clean[j] if final.strength == 1.0 else torch.lerp(conditions[j], clean[j], final.strength)
            for j, (_, final) in enumerate(finals)
        ]
        streams = [rows.streams[i] for i, _ in finals]

        def decoded(which: list[int]) -> Tensor:
            vae = finals[which[0]][1].vae
            return self._decode([streams[j] for j in which], vae, torch.stack([shown[j] for j in which]))

        return grouped(finals, lambda item: (item[1].vae, item[1].leading), decoded)

    def decode(self, operation: Decode, latents: Tensor) -> Tensor:
        """Pictures (B, T, H, W, 3), uint8."""
        return self._decode(operation.streams, operation.vae, latents)

    def _decode(self, streams: Sequence[int], vae: str, latents: Tensor) -> Tensor:
        codec = self._codecs[vae]
        for stream in streams:
            if stream not in self._states:
                self._states[stream] = codec.open()
        with self._watch.span("decode", len(streams)):
            return to_pictures(codec.decode([self._states[stream] for stream in streams], latents))

    def close(self, stream: int) -> None:
        """The stream is over."""
        self._states.pop(stream, None)


def picture_shape(operation: Decode) -> tuple[int, ...]:
    """Of what `decode` gives."""
    rows, _, _, height, width = operation.shape
    return rows, operation.frames, height * SPACE, width * SPACE, 3


def final_shape(final: Final, prediction: Sequence[int]) -> tuple[int, ...]:
    """Of the pictures of a final row, as (1, T, H, W, 3); prediction: the shape of all rows' predictions."""
    _, _, _, height, width = prediction
    return 1, 1 if final.leading else CHUNK, height * SPACE, width * SPACE, 3
