"""A stream's prompt: encoded off the hot path, crossed over to chunk by chunk."""

from __future__ import annotations

from concurrent.futures import Executor, Future

from torch import Tensor

from pipelines.causal_wan.blend import PromptBlend
from pipelines.causal_wan.condensed import condensed
from pipelines.causal_wan.dit import CausalWanModel, TextContext
from pipelines.causal_wan.parts import TextEncoder


class StreamPrompt:
    """What the DiT is told of one stream's prompt.

    A new prompt is encoded at once, or by `executor`; then the chunks until it is ready still follow the old one.
    """

    def __init__(
        self, prompt: str, text: TextEncoder, dit: CausalWanModel, blend_chunks: int, executor: Executor | None
    ) -> None:
        self._text, self._dit, self._executor = text, dit, executor
        self._blend_chunks = blend_chunks
        self._blend = PromptBlend(text.encode(prompt))
        self._context = dit.context(*condensed(self._blend.next()))
        self._coming: Future[Tensor] | None = None
        self._stale = False

    def turn(self, prompt: str) -> None:
        """Another prompt from now on; one that is not ready yet is forgotten."""
        if self._executor is None:
            self._blend.turn(self._text.encode(prompt), self._blend_chunks)
        else:
            self._coming = self._executor.submit(self._text.encode, prompt)

    def weights_changed(self) -> None:
        """What the DiT makes of the prompt is to be computed anew."""
        self._stale = True

    def next(self) -> TextContext:
        """For the next chunk."""
        if self._coming is not None and self._coming.done():
            coming, self._coming = self._coming, None
            self._blend.turn(coming.result(), self._blend_chunks)
        if self._blend.moving or self._stale:
            self._context, self._stale = self._dit.context(*condensed(self._blend.next())), False
        return self._context
