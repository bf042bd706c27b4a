from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.causal_wan import weights
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.layouts import from_wan
from pipelines.causal_wan.lora import MergedLoRAs, load_lora
from streamgen.errors import WeightsError
from tests.support.wan_files import GEOMETRY, wan_state

RANK = 3
MODULES = {
    "blocks.0.self_attn.q": (24, 24), "blocks.0.self_attn.k": (24, 24), "blocks.1.self_attn.v": (24, 24),
    "blocks.1.self_attn.o": (24, 24), "blocks.1.cross_attn.k": (24, 24), "blocks.1.ffn.0": (40, 24),
    "head.head": (16, 24),
}  # fmt: skip
DIFFUSERS = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q", "blocks.0.self_attn.k": "blocks.0.attn1.to_k",
    "blocks.1.self_attn.v": "blocks.1.attn1.to_v", "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0",
    "blocks.1.cross_attn.k": "blocks.1.attn2.to_k", "blocks.1.ffn.0": "blocks.1.ffn.net.0.proj",
    "head.head": "proj_out",
}  # fmt: skip


def pairs(seed: int = 1) -> dict[str, tuple[Tensor, Tensor]]:
    """(up, down) of each module."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(rows, RANK, generator=g), torch.randn(RANK, columns, generator=g))
        for name, (rows, columns) in MODULES.items()
    }


def peft(prefix: str, names: dict[str, str] | None = None, adapter: str = "") -> dict[str, Tensor]:
    content = {}
    for module, (up, down) in pairs().items():
        name = f"{prefix}{names[module] if names else module}"
        content[f"{name}.lora_A{adapter}.weight"], content[f"{name}.lora_B{adapter}.weight"] = down, up
    return content


def kohya(prefix: str, alpha: float | None, *, flat: bool) -> dict[str, Tensor]:
    content = {}
    for module, (up, down) in pairs().items():
        name = prefix + (module.replace(".", "_") if flat else module)
        content[f"{name}.lora_down.weight"], content[f"{name}.lora_up.weight"] = down, up
        if alpha is not None:
            content[f"{name}.alpha"] = torch.tensor(alpha)
    return content


def saved(folder: Path, content: dict[str, Tensor], name: str = "style.safetensors") -> Path:
    path = folder / name
    save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
    return path


def model(dtype: torch.dtype = torch.float32, state: dict[str, Tensor] | None = None) -> CausalWanModel:
    with torch.device("meta"):
        made = CausalWanModel(GEOMETRY)
    wan = {name: tensor.to(dtype) for name, tensor in (state or wan_state()).items()}
    weights.fill(made, {name: tensor.clone() for name, tensor in from_wan(wan, GEOMETRY).items()})
    return made


def with_changes(scale: float, changes: dict[str, tuple[Tensor, Tensor]] | None = None) -> dict[str, Tensor]:
    """Wan's own weights after the LoRA, as its definition has it."""
    state = wan_state()
    for module, (up, down) in (changes or pairs()).items():
        state[f"{module}.weight"] = state[f"{module}.weight"] + scale * up @ down
    return state


def assert_same(a: CausalWanModel, b: CausalWanModel, atol: float = 1e-5) -> None:
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(
            tensor, b.state_dict()[name], atol=atol, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("content", "scale"),
    [
        (lambda: peft("diffusion_model."), 1.0),
        (lambda: peft("transformer.", DIFFUSERS), 1.0),
        (lambda: peft("base_model.model.", adapter=".default"), 1.0),
        (lambda: peft(""), 1.0),
        (lambda: kohya("diffusion_model.", 1.5, flat=False), 0.5),
        (lambda: kohya("lora_unet_", 6.0, flat=True), 2.0),
        (lambda: kohya("lora_unet_", None, flat=True), 1.0),
    ],
)
def test_every_naming_changes_the_weights_as_a_lora_is_defined(tmp_path: Path, content: Any, scale: float) -> None:
    target = model()
    MergedLoRAs(target).merge(load_lora(saved(tmp_path, content()), GEOMETRY), 0.8)
    assert_same(target, model(state=with_changes(0.8 * scale)))


def test_plain_differences_change_weights_biases_and_modulation(tmp_path: Path) -> None:
    content = {
        "diffusion_model.blocks.0.norm3.diff": torch.full((24,), 0.5),
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.arange(24.0),
        "diffusion_model.blocks.1.diff_m": torch.ones(1, 6, 24),
        "diffusion_model.patch_embedding.diff": torch.ones(24, 4, 1, 2, 2),
    }
    target, state = model(), wan_state()
    MergedLoRAs(target).merge(load_lora(saved(tmp_path, content), GEOMETRY), 2.0)
    state["blocks.0.norm3.weight"] += 1.0
    state["blocks.0.self_attn.q.bias"] += 2 * torch.arange(24.0)
    state["blocks.1.modulation"] += 2.0
    state["patch_embedding.weight"] += 2.0
    assert_same(target, model(state=state))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taken_out_again_nothing_is_left_of_it(tmp_path: Path, dtype: torch.dtype) -> None:
    target, untouched = model(dtype), model(dtype).state_dict()
    addresses = {name: parameter.data_ptr() for name, parameter in target.named_parameters()}
    merged, lora = MergedLoRAs(target), load_lora(saved(tmp_path, peft("")), GEOMETRY)
    for strength in (0.3, 1.0, -2.0):  # the same one again has another strength
        merged.merge(lora, strength)
    assert not torch.equal(
        target.state_dict()["blocks.0.self_attention.qkv.weight"], untouched["blocks.0.self_attention.qkv.weight"]
    )
    merged.unmerge(lora)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), untouched[name].view(torch.uint8)), name
    assert {name: parameter.data_ptr() for name, parameter in target.named_parameters()} == addresses
    assert merged.strengths == {}
    with pytest.raises(ValueError, match=r"style\.safetensors is not merged"):
        merged.unmerge(lora)


def test_several_add_up_in_any_order_and_leave_one_by_one(tmp_path: Path) -> None:
    first = load_lora(saved(tmp_path, peft("")), GEOMETRY)
    up, down = pairs(2)["blocks.0.self_attn.q"]
    second_file = {"blocks.0.self_attn.q.lora_A.weight": down, "blocks.0.self_attn.q.lora_B.weight": up}
    second = load_lora(saved(tmp_path, second_file, "second.safetensors"), GEOMETRY)
    one, other = model(torch.bfloat16), model(torch.bfloat16)
    merged = MergedLoRAs(one)
    merged.merge(first)
    merged.merge(second, 0.5)
    assert merged.strengths == {"style.safetensors": 1.0, "second.safetensors": 0.5}
    reverse = MergedLoRAs(other)
    reverse.merge(second, 0.5)
    reverse.merge(first)
    assert_same(one, other, atol=2e-2)
    merged.unmerge(first)
    alone = model(torch.bfloat16)
    MergedLoRAs(alone).merge(second, 0.5)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, alone.state_dict()[name]), name


def test_a_merge_that_fails_half_way_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = model()
    merged = MergedLoRAs(target)
    merged.merge(load_lora(saved(tmp_path, peft("")), GEOMETRY), 0.5)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    other = load_lora(saved(tmp_path, kohya("", None, flat=False), "other.safetensors"), GEOMETRY)
    whole, failing = MergedLoRAs._sums, [True]

    def interrupted(self: MergedLoRAs) -> Any:
        for number, change in enumerate(whole(self)):
            if failing and number == 2:
                failing.clear()
                raise MemoryError
            yield change

    monkeypatch.setattr(MergedLoRAs, "_sums", interrupted)
    with pytest.raises(MemoryError):
        merged.merge(other, 3.0)
    assert merged.strengths == {"style.safetensors": 0.5}
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_lora_that_adds_nothing_touches_nothing(tmp_path: Path) -> None:
    target, untouched = model(torch.bfloat16), model(torch.bfloat16)
    content = {key: torch.zeros_like(tensor) if "lora_B" in key else tensor for key, tensor in peft("").items()}
    MergedLoRAs(target).merge(load_lora(saved(tmp_path, content), GEOMETRY))
    assert all(torch.equal(tensor, untouched.state_dict()[name]) for name, tensor in target.state_dict().items())


BLOCK = "diffusion_model.blocks.0"
Q = f"{BLOCK}.self_attn.q"
Q_SHAPE = r"of another shape: blocks\.0\.self_attn\.q\.weight"


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("diffusion_model.blocks.9.ffn.0.lora_A.weight", torch.zeros(3, 24), r"unknown: .*blocks\.9\.ffn\.0\.lora_A"),
        ("text_encoder.layer.lora_A.weight", torch.zeros(3, 24), r"unknown: text_encoder\.layer\.lora_A\.weight"),
        (f"{Q}.dora_scale", torch.zeros(24), r"unknown: .*q\.dora_scale"),
        (f"{Q}.alpha", torch.zeros(2), r"unknown: .*q\.alpha"),
        (f"{Q}.lora_A.weight", torch.zeros(3), r"unknown: .*q\.lora_A\.weight"),
        (f"{BLOCK}.norm3.diff_m", torch.zeros(7), r"unknown: .*norm3\.diff_m"),
        (f"{BLOCK}.ffn.2.alpha", torch.ones(()), r"without their other half: .*ffn\.2\.alpha"),
        (f"{Q}.lora_B.weight", None, r"without their other half: .*q\.lora_A\.weight"),
        (f"{Q}.lora_A.weight", torch.zeros(3, 25), rf"{Q_SHAPE} \(24, 3\) x \(3, 25\) instead of \(24, rank\) x"),
        (f"{Q}.lora_A.weight", torch.zeros(2, 24), rf"{Q_SHAPE} \(24, 3\) x \(2, 24\)"),
        (f"{BLOCK}.norm3.diff", torch.zeros(7), r"blocks\.0\.norm3\.weight \(7,\) instead of \(24,\)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, key: str, tensor: Tensor | None, message: str) -> None:
    content = {**peft("diffusion_model."), key: tensor}
    path = saved(tmp_path, {name: value for name, value in content.items() if value is not None})
    with pytest.raises(WeightsError, match=rf"^style\.safetensors does not fit the model: .*{message}") as caught:
        load_lora(path, GEOMETRY)
    assert "\n" not in caught.value.message
