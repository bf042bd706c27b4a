from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from pipelines.causal_wan.checkpoints import load_dit, to_diffusers, wan_shapes
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.tensorfile import TensorFile
from streamgen.errors import WeightsError
from tests.support.wan_files import GEOMETRY, wan_state

CPU = torch.device("cpu")


def loaded(path: Path, part: str | None = None, dtype: torch.dtype = torch.float32) -> tuple[str, CausalWanModel]:
    with torch.device("meta"):
        model = CausalWanModel(GEOMETRY)
    layout = load_dit(model, path, CPU, dtype, part)
    return layout, model


def saved(folder: Path, content: Any, name: str = "model.pt") -> Path:
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def diffusers_state() -> dict[str, Tensor]:
    return {to_diffusers(name): tensor for name, tensor in wan_state().items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The model's tensors when they are loaded from Wan's own layout."""
    return loaded(saved(tmp_path_factory.mktemp("wan"), wan_state(), "wan.safetensors"))[1].state_dict()


def test_the_names_and_shapes_are_those_of_the_published_checkpoints() -> None:
    assert wan_shapes(GEOMETRY) == {name: tuple(tensor.shape) for name, tensor in wan_state().items()}
    theirs = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12,
        freq_dim=16, ffn_dim=40, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    ours = {name: tuple(tensor.shape) for name, tensor in diffusers_state().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}


def test_every_tensor_of_wans_layout_has_its_place(expected: dict[str, Tensor]) -> None:
    wan, dim = wan_state(), GEOMETRY.dim
    assert torch.equal(expected["blocks.1.self_attention.qkv.weight"][2 * dim :], wan["blocks.1.self_attn.v.weight"])
    assert torch.equal(expected["blocks.1.cross_attention.kv.bias"][:dim], wan["blocks.1.cross_attn.k.bias"])
    assert torch.equal(expected["blocks.0.modulation"], wan["blocks.0.modulation"][0])
    q = wan["blocks.0.self_attn.q.weight"]
    order = [head * 12 + 2 * i + half for head in range(2) for half in range(2) for i in range(6)]
    assert torch.equal(expected["blocks.0.self_attention.qkv.weight"][:dim], q[order])
    assert torch.equal(
        expected["blocks.0.self_attention.norm_k.weight"], wan["blocks.0.self_attn.norm_k.weight"][order]
    )


def wrapped(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def fsdp(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a training checkpoint has it where every block was wrapped too."""
    wrapper = "_fsdp_wrapped_module."
    inside = {name: name.replace(".", f".{wrapper}", 2) if name.startswith("blocks") else name for name in state}
    return {f"model.{wrapper}{inside[name]}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (wan_state, "wan"),
        (diffusers_state, "diffusers"),
        (lambda: {"generator": wrapped("model.", wan_state())}, "wan"),  # StreamDiffusionV2
        (lambda: {"generator": wan_state()}, "wan"),
        (
            lambda: {"generator": wrapped("model.", wan_state()), "critic": wrapped("model.", wan_state(1))},
            "wan",
        ),  # CausVid
        (lambda: {"generator_ema": wrapped("model.", wan_state())}, "wan"),  # Self-Forcing
        (lambda: {"generator": fsdp(wan_state()), "step": 600}, "wan"),
        (lambda: {"state_dict": wan_state(), "epoch": 3}, "wan"),
        (lambda: wrapped("model.", wan_state()), "wan"),
        (lambda: wrapped("model.diffusion_model.", wan_state()), "wan"),
        (lambda: {"generator": wrapped("model.", diffusers_state())}, "diffusers"),
    ],
)
def test_every_layout_gives_the_same_model(
    tmp_path: Path, expected: dict[str, Tensor], content: Any, layout: str
) -> None:
    found, model = loaded(saved(tmp_path, content()))
    assert found == layout
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_our_own_layout_comes_back_as_it_was_saved(tmp_path: Path, expected: dict[str, Tensor]) -> None:
    layout, model = loaded(saved(tmp_path, dict(expected), "dit.safetensors"))
    assert layout == "streamgen"
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_part_can_be_chosen(tmp_path: Path, expected: dict[str, Tensor]) -> None:
    path = saved(tmp_path, {"generator": wan_state(1), "generator_ema": wrapped("model.", wan_state())})
    name = "blocks.0.ffn.0.weight"
    assert torch.equal(loaded(path, "generator_ema")[1].state_dict()[name], expected[name])
    assert not torch.equal(loaded(path)[1].state_dict()[name], expected[name])
    with pytest.raises(WeightsError, match=r"model\.pt has no part 'critic'.*it has generator, generator_ema"):
        loaded(path, "critic")


def test_weights_come_in_the_format_asked_for(tmp_path: Path) -> None:
    _, model = loaded(saved(tmp_path, wan_state()), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


SHAPE = r"\(24, 23\) instead of \(24, 24\)"


@pytest.mark.parametrize(
    ("state", "name", "prefix"),
    [
        (wan_state, "blocks.1.self_attn.q.weight", ""),
        (diffusers_state, "blocks.1.attn1.to_q.weight", ""),
        (wan_state, "blocks.1.self_attn.q.weight", "model."),
    ],
)
def test_what_does_not_fit_is_named_as_the_file_names_it(tmp_path: Path, state: Any, name: str, prefix: str) -> None:
    def content(change: Any) -> dict[str, Any]:
        tensors = state()
        change(tensors)
        return {"generator": wrapped(prefix, tensors)} if prefix else tensors

    for change, message in (
        (lambda t: t.pop(name), f"^model.pt does not fit the model: missing: {name}$"),
        (lambda t: t.update({name: torch.zeros(24, 23)}), f"^model.pt .* of another shape: {name} {SHAPE}$"),
        (lambda t: t.update({"img_emb.proj.0.weight": torch.zeros(3)}), "^model.pt .* unknown: img_emb.proj.0.weight$"),
    ):
        with pytest.raises(WeightsError, match=message):
            loaded(saved(tmp_path, content(change)))


def test_a_checkpoint_of_another_size_is_told_in_one_line(tmp_path: Path) -> None:
    deeper = {**wan_state(), "blocks.2.self_attn.q.weight": torch.zeros(24, 24)}
    with pytest.raises(WeightsError, match=r"unknown: blocks\.2\.self_attn\.q\.weight$"):
        loaded(saved(tmp_path, deeper))


def test_other_models_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"other.safetensors holds no Wan transformer: it has encoder.conv1.weight"):
        loaded(saved(tmp_path, {"encoder.conv1.weight": torch.zeros(2)}, "other.safetensors"))
    with pytest.raises(WeightsError, match="holds several transformers"):
        loaded(saved(tmp_path, {**wrapped("a.", wan_state()), **wrapped("b.", wan_state())}))
    with pytest.raises(WeightsError, match="in a layout known here"):
        loaded(saved(tmp_path, {"patch_embedding.weight": torch.zeros(2)}))


def test_no_tensor_is_held_longer_than_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors that are joined, the parts are gone before the next block's are read."""
    read, alive, most = TensorFile.read, [], 0

    def watched(self: TensorFile, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        nonlocal most
        tensor = read(self, name, device, dtype)
        if ".self_attn.q.weight" in name or ".self_attn.k.weight" in name:
            alive.append(weakref.ref(tensor))
            most = max(most, sum(reference() is not None for reference in alive))
        return tensor

    monkeypatch.setattr(TensorFile, "read", watched)
    loaded(saved(tmp_path, wan_state()), dtype=torch.bfloat16)
    assert len(alive) == 4
    assert most <= 2
