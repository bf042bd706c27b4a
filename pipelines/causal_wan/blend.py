"""From one prompt to the next without a cut: the embedding moves over a number of chunks. Arithmetic, per stream."""

from __future__ import annotations

import torch
from torch import Tensor


class PromptBlend:
    """What a stream's DiT is told, chunk by chunk."""

    def __init__(self, embedding: Tensor) -> None:
        """embedding: (1, text_len, text_dim), the stream's first prompt."""
        self._shown = self._start = self._goal = embedding
        self._done = self._chunks = 0

    @property
    def moving(self) -> bool:
        """Whether the next chunk's embedding differs from the last one's."""
        return self._shown is not self._goal

    def turn(self, embedding: Tensor, chunks: int) -> None:
        """From the next chunk on toward `embedding`, from whatever is shown now; there with chunk number `chunks`.

        0 and 1 chunks both mean at once.
        """
        if chunks < 0:
            raise ValueError(f"a blend cannot take {chunks} chunks")
        self._start, self._goal = self._shown, embedding
        self._done, self._chunks = 0, chunks

    def next(self) -> Tensor:
        """The embedding for the next chunk. It is the very tensor given to `turn` once the blend has arrived."""
        if self.moving:
            self._done += 1
            arrived = self._done >= self._chunks
            share = 1.0 if arrived else self._done / self._chunks
            self._shown = self._goal if arrived else torch.lerp(self._start, self._goal, share)
        return self._shown
