"""Which codecs of Wan's latents a preset runs: a full one, and a light one where its settings name it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from streamgen.errors import PresetError


class Halves(NamedTuple):
    """What a codec encodes with and decodes with, by the role of the weight file."""

    encoder: str
    decoder: str


HALVES = {
    "taehv": Halves("taehv", "taehv"),
    "paired": Halves("wan_vae", "taehv"),
    "wan": Halves("wan_vae", "wan_vae"),
}
"""The codecs by name, the lightest first: 0.8, 8.6 and 21.6 TFLOP for 4 frames of 832x480, there and back.

As a light codec beside wan, `paired` gives up the decoder alone, and the DiT goes on with latents of the encoder that
it was trained with; `taehv` saves that encoder too, for one that shows the scene up to 3 frames late (see taehv).
"""

_ORDER = tuple(HALVES)


@dataclass(frozen=True)
class CodecChoice:
    """The names of a preset's codecs. Raises PresetError that names the setting."""

    full: str
    light: str | None = None
    """None where streams have no choice."""

    def __post_init__(self) -> None:
        _check("codec", self.full)
        if self.light is None:
            return
        _check("light_codec", self.light)
        if _ORDER.index(self.light) >= _ORDER.index(self.full):
            lighter = " or ".join(_ORDER[: _ORDER.index(self.full)])
            known = f"{lighter} is" if lighter else "nothing is"
            raise PresetError(f"light_codec {self.light} is not lighter than codec {self.full}; {known}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> CodecChoice:
        """What `codec` and `light_codec` say."""
        return cls(settings["codec"], settings.get("light_codec"))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the full codec, then of the light one if there is one."""
        return (self.full,) if self.light is None else (self.full, self.light)

    @property
    def roles(self) -> frozenset[str]:
        """The weight files that they take."""
        return frozenset(role for name in self.names for role in HALVES[name])


def _check(setting: str, name: object) -> None:
    if name not in _ORDER:
        raise PresetError(f"{setting} is taehv, paired or wan, not {name!r}")
