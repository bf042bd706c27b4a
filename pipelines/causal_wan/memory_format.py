"""How weights of convolutions lie in memory."""

from __future__ import annotations

import torch
from torch import nn

_FORMATS = {nn.Conv2d: torch.channels_last, nn.Conv3d: torch.channels_last_3d}


def lay_out_channels_last(model: nn.Module) -> None:
    """Lays out the weights of convolutions as kernels take them fastest; what they compute stays in that layout."""
    for module in model.modules():
        for kind, memory_format in _FORMATS.items():
            if isinstance(module, kind):
                module.weight.data = module.weight.data.contiguous(memory_format=memory_format)
