"""A stream's prompt: encoded off the hot path, crossed over to chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from torch import Tensor

from pipelines.causal_wan.blend import PromptBlend
from pipelines.causal_wan.condensed import condensed
from pipelines.causal_wan.parts import TextEncoder

C = TypeVar("C")
"""What the DiT makes of a prompt."""


class Prompts(Generic[C]):
    """How prompts become what the DiT is told, for all streams."""

    def __init__(
        self,
        text: TextEncoder,
        context: Callable[[Tensor, Tensor | None], C],
        blend_chunks: int,
        executor: Executor | None,
    ) -> None:
        """context: of an embedding and its tokens' weights, such as CausalWanModel.context; executor: encodes prompts
        if that takes long, at once if None."""
        self.text, self.context, self.blend_chunks, self.executor = text, context, blend_chunks, executor

    def begin(self, prompt: str) -> StreamPrompt[C]:
        """Of a stream that begins."""
        return StreamPrompt(self, prompt)


class StreamPrompt(Generic[C]):
    """What the DiT is told of one stream's prompt.

    A new prompt is encoded at once, or by the executor; then the chunks until it is ready still follow the old one.
    """

    def __init__(self, prompts: Prompts[C], prompt: str) -> None:
        self._prompts = prompts
        self._blend = PromptBlend(prompts.text.encode(prompt))
        self._context = prompts.context(*condensed(self._blend.next()))
        self._coming: Future[Tensor] | None = None
        self._stale = False

    def turn(self, prompt: str) -> None:
        """Another prompt from now on; one that is not ready yet is forgotten."""
        prompts = self._prompts
        if prompts.executor is None:
            self._blend.turn(prompts.text.encode(prompt), prompts.blend_chunks)
        else:
            self._coming = prompts.executor.submit(prompts.text.encode, prompt)

    def weights_changed(self) -> None:
        """What the DiT makes of the prompt is to be computed anew."""
        self._stale = True

    def next(self) -> C:
        """For the next chunk."""
        if self._coming is not None and self._coming.done():
            coming, self._coming = self._coming, None
            self._blend.turn(coming.result(), self._prompts.blend_chunks)
        if self._blend.moving or self._stale:
            self._context, self._stale = self._prompts.context(*condensed(self._blend.next())), False
        return self._context
