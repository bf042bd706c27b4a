"""What the DiT is told of prompts, known by a number on all ranks for as long as a row may need it."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from dataclasses import dataclass

from torch import Tensor

from pipelines.ring.group import Group
from pipelines.ring.operations import Context, Forget
from pipelines.ring.stage import Stage


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Prompt:
    """A prompt that all ranks know."""

    number: int


class Contexts:
    """Tells the ranks of prompts, and of those that nothing speaks of any more. For the first rank's thread."""

    def __init__(self, group: Group, stage: Stage) -> None:
        self._group, self._stage = group, stage
        self._numbers = itertools.count()
        self._dropped: deque[int] = deque()

    def tell(self, text: Tensor, weights: Tensor | None) -> Prompt:
        """A prompt's embedding (1, tokens, text_dim), and its tokens' weights (see condensed)."""
        prompt = Prompt(next(self._numbers))
        embedded = self._stage.model.text_embedding(text)
        self._stage.learn(prompt.number, embedded, weights)
        self._group.tell(Context(prompt.number, embedded.cpu(), None if weights is None else weights.cpu()))
        weakref.finalize(prompt, self._dropped.append, prompt.number)
        return prompt

    def sweep(self) -> None:
        """Forgets prompts that no stream and no row has any more."""
        while self._dropped:
            number = self._dropped.popleft()
            self._stage.forget(number)
            self._group.tell(Forget(number))
