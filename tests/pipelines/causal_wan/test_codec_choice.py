from __future__ import annotations

from typing import Any

import pytest

from pipelines.causal_wan.codec_choice import CodecChoice
from streamgen.errors import PresetError


@pytest.mark.parametrize(
    ("settings", "names", "roles"),
    [
        ({"codec": "taehv"}, ("taehv",), {"taehv"}),
        ({"codec": "wan", "light_codec": None}, ("wan",), {"wan_vae"}),
        ({"codec": "paired"}, ("paired",), {"taehv", "wan_vae"}),
        ({"codec": "paired", "light_codec": "taehv"}, ("paired", "taehv"), {"taehv", "wan_vae"}),
        ({"codec": "wan", "light_codec": "paired"}, ("wan", "paired"), {"taehv", "wan_vae"}),
        ({"codec": "wan", "light_codec": "taehv"}, ("wan", "taehv"), {"taehv", "wan_vae"}),
    ],
)
def test_settings_name_the_codecs_and_these_their_files(
    settings: dict[str, Any], names: tuple[str, ...], roles: set[str]
) -> None:
    choice = CodecChoice.from_settings(settings)
    assert (choice.names, choice.roles) == (names, roles)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"codec": "jpeg"}, "codec is taehv, paired or wan, not 'jpeg'"),
        ({"codec": ["wan", "taehv"]}, r"codec is taehv, paired or wan, not \['wan', 'taehv'\]"),
        ({"codec": "wan", "light_codec": "jpeg"}, "light_codec is taehv, paired or wan, not 'jpeg'"),
        ({"codec": "wan", "light_codec": "wan"}, "wan is not lighter than codec wan; taehv or paired is"),
        ({"codec": "paired", "light_codec": "wan"}, "wan is not lighter than codec paired; taehv is"),
        ({"codec": "taehv", "light_codec": "taehv"}, "taehv is not lighter than codec taehv; nothing is"),
        ({"codec": "taehv", "light_codec": "paired"}, "paired is not lighter than codec taehv; nothing is"),
    ],
)
def test_what_is_no_choice_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(PresetError, match=said):
        CodecChoice.from_settings(settings)
