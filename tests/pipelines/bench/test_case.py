import pytest

from pipelines.bench.case import SMALL, WAN, Case, Model
from streamgen.errors import PresetError


def test_a_presets_geometry_whole() -> None:
    model = Model.of_preset("wan-14b", {})
    assert (model.name, model.dit.dim, model.dit.heads, model.dit.layers) == ("wan-14b", 5120, 40, 40)
    assert model.cache.window == 6


def test_a_presets_geometry_shrunk() -> None:
    model = Model.of_preset("wan-14b", {"layers": 2})
    assert (model.name, model.dit.dim, model.dit.layers) == ("wan-14b-layers2", 5120, 2)


def test_a_width_of_ones_own_brings_heads_of_128_channels() -> None:
    dit = Model.of_preset(WAN, SMALL).dit
    assert (dit.dim, dit.heads, dit.head_dim, dit.ffn_dim, dit.layers) == (256, 2, 128, 1024, 8)
    assert Model.of_preset(WAN, {"dim": 256, "heads": 4, "ffn_dim": 512}).dit.ffn_dim == 512


@pytest.mark.parametrize(
    ("preset", "changes", "said"),
    [
        ("wan-9b", {}, "no preset 'wan-9b'; there are"),
        ("tiny", {}, "has a codec and a condition of its own"),
        (WAN, {"dim": 100, "heads": 3}, "does not part into 3 heads"),
    ],
)
def test_what_cannot_be_measured_is_refused(preset: str, changes: dict[str, int], said: str) -> None:
    with pytest.raises(PresetError, match=said):
        Model.of_preset(preset, changes)


def test_a_case_knows_its_tokens_and_rows() -> None:
    model = Model.of_preset(WAN, {})
    case = Case(model, 832, 480, 2, "taehv", "batch")
    assert case.tokens == 1560  # of a latent frame at 480p, as the paper has it
    assert case.rows == 2
    assert case.name == "wan-1.3b 832x480 2-step taehv batch"
