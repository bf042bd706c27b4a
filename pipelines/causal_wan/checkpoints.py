"""Published checkpoints of Wan2.1's DiT, in every layout they are found in, into our model.

| layout      | known by                                     | found at                                               |
|-------------|----------------------------------------------|--------------------------------------------------------|
| wan         | blocks.0.self_attn.q.weight                  | Wan-AI/Wan2.1-T2V-*; StreamDiffusionV2, CausVid and    |
|             |                                              | Self-Forcing, as a part of a training checkpoint       |
| diffusers   | blocks.0.attn1.to_q.weight                   | Wan-AI/Wan2.1-T2V-*-Diffusers                          |
| streamgen   | blocks.0.self_attention.qkv.weight           | ours                                                   |

What a file is shows in its tensors' names, never in its own. Training checkpoints hold the generator under a name of
its own, often with wrappers' names in between (`generator.model._fsdp_wrapped_module.blocks...`): these are taken off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pipelines.causal_wan import weights
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.layouts import from_wan
from pipelines.causal_wan.part import Part
from pipelines.causal_wan.tensorfile import Shape, TensorFile, open_tensors
from streamgen.errors import WeightsError

Layout = Literal["wan", "diffusers", "streamgen"]

PARTS = ("generator", "generator_ema", "state_dict")
"""Where training checkpoints hold the DiT, the first one first."""

_KNOWN_BY: Mapping[str, Layout] = {
    "blocks.0.self_attn.q.weight": "wan",
    "blocks.0.attn1.to_q.weight": "diffusers",
    "blocks.0.self_attention.qkv.weight": "streamgen",
}

_FIRST = "patch_embedding.weight"
"""The one name that all layouts share."""

_WRAPPERS = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")

_TO_DIFFUSERS = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}

_ATTENTIONS = {"self_attn": "attn1", "cross_attn": "attn2"}

_PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}


class OnDevice(Mapping[str, Tensor]):
    """A file's tensors on a device, each read whenever it is asked for: what is made of them is all that stays."""

    def __init__(self, file: TensorFile, device: torch.device, dtype: torch.dtype) -> None:
        self._file, self._device, self._dtype = file, device, dtype

    def __getitem__(self, name: str) -> Tensor:
        return self._file.read(name, self._device, self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.shapes)

    def __len__(self) -> int:
        return len(self._file.shapes)


def load_dit(
    model: CausalWanModel,
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    part: str | None = None,
    *,
    kept: Part | None = None,
) -> Layout:
    """Fills `model` (best made on torch's meta device) with the checkpoint at `path`; the layout it was found in.

    part: which part of a training checkpoint to take, such as generator_ema; the first of PARTS that is there if None.
    kept: which part of the model to fill; all of it if None.
    Raises WeightsError, naming the file and its tensors, for anything missing, unknown or of another shape.
    """
    file = unwrapped(open_tensors(path), part)
    layout, geometry = layout_of(file), model.geometry
    kept = kept or Part.whole(geometry)
    if layout == "streamgen":
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        weights.check_fit(file.name, file.shapes, expected)
        read = OnDevice(file, device, dtype)
        weights.fill(model, {name: read[name] for name in expected if kept.keeps(name)}, kept.keeps)
        return layout
    shapes = wan_shapes(geometry)
    names = {name: to_diffusers(name) if layout == "diffusers" else name for name in shapes}
    weights.check_fit(file.name, file.shapes, {names[name]: shape for name, shape in shapes.items()})
    ours = from_wan(OnDevice(file.renamed(names), device, dtype), geometry, kept.layers)
    weights.fill(model, {name: tensor for name, tensor in ours.items() if kept.keeps(name)}, kept.keeps)
    return layout


def layout_of(file: TensorFile) -> Layout:
    """The layout of a checkpoint's tensors. Raises WeightsError where it holds no Wan DiT."""
    for name, layout in _KNOWN_BY.items():
        if name in file.shapes:
            return layout
    raise WeightsError(f"{file.name} holds no Wan transformer in a layout known here: {_sample(file)}")


def unwrapped(file: TensorFile, part: str | None = None) -> TensorFile:
    """The file's DiT alone, its tensors named as they are in the DiT. Raises WeightsError where there is none."""
    plain = {_WRAPPERS.sub("", name): name for name in file.shapes}
    prefixes = [name.removesuffix(_FIRST) for name in plain if f".{name}".endswith(f".{_FIRST}")]
    if not prefixes:
        raise WeightsError(f"{file.name} holds no Wan transformer: {_sample(file)}")
    parts = {prefix.split(".")[0]: prefix for prefix in prefixes if prefix.split(".")[0] in (*PARTS, part)}
    if part is not None and part not in parts:
        raise WeightsError(
            f"{file.name} has no part {part!r} with a Wan transformer; it has {', '.join(parts) or 'none'}"
        )
    chosen = part or next((name for name in PARTS if name in parts), None)
    if chosen is None and len(prefixes) > 1:
        raise WeightsError(f"{file.name} holds several transformers: {', '.join(prefixes)}; name one with part")
    prefix = parts[chosen] if chosen else prefixes[0]
    within = f"{chosen}." if chosen else ""
    return file.renamed({name.removeprefix(prefix): own for name, own in plain.items() if name.startswith(within)})


def wan_shapes(geometry: DiTGeometry) -> dict[str, Shape]:
    """Names and shapes of the tensors of Wan's own DiT (Wan2.1, `wan/modules/model.py`) at a geometry."""
    g = geometry
    shapes: dict[str, Shape] = {
        _FIRST: (g.dim, g.latent_channels + g.cond_channels, *g.patch),
        "patch_embedding.bias": (g.dim,),
        "head.modulation": (1, 2, g.dim),
    }
    patch = g.patch[0] * g.patch[1] * g.patch[2]
    for name, (rows, columns) in {
        "text_embedding.0": (g.dim, g.text_dim),
        "text_embedding.2": (g.dim, g.dim),
        "time_embedding.0": (g.dim, g.freq_dim),
        "time_embedding.2": (g.dim, g.dim),
        "time_projection.1": (6 * g.dim, g.dim),
        "head.head": (patch * g.latent_channels, g.dim),
    }.items():
        shapes |= _linear(name, rows, columns)
    for layer in range(g.layers):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in _block_shapes(g).items()}
    return shapes


def _block_shapes(g: DiTGeometry) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"modulation": (1, 6, g.dim), "norm3.weight": (g.dim,), "norm3.bias": (g.dim,)}
    for attention in _ATTENTIONS:
        for projection in ("q", "k", "v", "o"):
            shapes |= _linear(f"{attention}.{projection}", g.dim, g.dim)
        shapes |= {f"{attention}.norm_q.weight": (g.dim,), f"{attention}.norm_k.weight": (g.dim,)}
    return shapes | _linear("ffn.0", g.ffn_dim, g.dim) | _linear("ffn.2", g.dim, g.ffn_dim)


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def to_diffusers(name: str) -> str:
    """Diffusers' name (WanTransformer3DModel) of a tensor of Wan's own layout."""
    if name.endswith("modulation"):
        return f"{name.removesuffix('modulation').removeprefix('head.')}scale_shift_table"
    block = re.match(r"blocks\.\d+\.", name)
    prefix = block[0] if block else ""
    module, _, kind = name.removeprefix(prefix).rpartition(".")
    attention, _, projection = module.partition(".")
    if attention in _ATTENTIONS:
        return f"{prefix}{_ATTENTIONS[attention]}.{_PROJECTIONS[projection]}.{kind}"
    return f"{prefix}{_TO_DIFFUSERS.get(module, module)}.{kind}"


def _sample(file: TensorFile) -> str:
    names = list(file.shapes)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"it has {', '.join(names[:3])}{more}"
