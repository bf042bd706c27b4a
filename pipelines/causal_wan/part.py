"""A part of a causal Wan pipeline: some of the DiT's blocks, and what belongs to its beginning or its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.causal_wan.geometry import DiTGeometry

_FIRST = ("patch_embedding.", "text_embedding.", "time_embedding.", "time_projection.")
_LAST = ("head.",)


@dataclass(frozen=True)
class Part:
    """Which tensors of a CausalWanModel are wanted."""

    layers: Sequence[int]
    first: bool
    """Whether latents, prompts and noise levels come in here."""
    last: bool
    """Whether predictions come out here."""

    def keeps(self, name: str) -> bool:
        """Whether the tensor of this name belongs to it."""
        module, _, rest = name.partition(".")
        if module == "blocks":
            return int(rest.partition(".")[0]) in self.layers
        return self.last if name.startswith(_LAST) else self.first and name.startswith(_FIRST)

    @classmethod
    def whole(cls, geometry: DiTGeometry) -> Part:
        """All of it."""
        return cls(range(geometry.layers), first=True, last=True)
