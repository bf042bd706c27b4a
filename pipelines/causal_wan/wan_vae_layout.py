"""The names of the VAE's weights in Wan's own file (Wan2.1_VAE.pth), as against those of diffusers."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping

_MARK = "encoder.conv1.weight"
"""A key that only the original layout has."""

_RESIDUAL = {
    "norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}  # fmt: skip
_STEMS = {
    "quant_conv": "conv1", "post_quant_conv": "conv2",
    "conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2",
}  # fmt: skip


def names_in(tensors: Container[str], keys: Iterable[str], blocks: int) -> dict[str, str]:
    """Diffusers' names `keys` to the names in a file with these `tensors`, which is in Wan's layout or in diffusers'.

    blocks: `num_res_blocks` of the VAE.
    """
    if _MARK in tensors:
        return {key: original_name(key, blocks) for key in keys}
    return {key: key for key in keys}


def original_name(key: str, blocks: int) -> str:
    """Wan's name of the weight that diffusers calls `key`; `blocks` is `num_res_blocks` of the VAE.

    Wan counts a decoder's residual blocks and resampling steps in one list, diffusers by level.
    """
    per_level = blocks + 2
    rules = (
        (r"(\w+)\.mid_block\.resnets\.(\d)\.", lambda m: f"{m[1]}.middle.{2 * int(m[2])}."),
        (r"(\w+)\.mid_block\.attentions\.(\d)\.", lambda m: f"{m[1]}.middle.{2 * int(m[2]) + 1}."),
        (r"encoder\.down_blocks\.", lambda _: "encoder.downsamples."),
        (r"decoder\.up_blocks\.(\d)\.resnets\.(\d)\.",
         lambda m: f"decoder.upsamples.{int(m[1]) * per_level + int(m[2])}."),
        (r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.",
         lambda m: f"decoder.upsamples.{int(m[1]) * per_level + blocks + 1}."),
    )  # fmt: skip
    for pattern, place in rules:
        renamed, found = re.subn("^" + pattern, place, key)
        if found:
            return _with(_RESIDUAL, renamed)
    return _with(_STEMS, key)


def _with(names: Mapping[str, str], key: str) -> str:
    """The key with its last part but one, which names a layer, replaced."""
    *path, layer, kind = key.split(".")
    return ".".join([*path, names.get(layer, layer), kind])
