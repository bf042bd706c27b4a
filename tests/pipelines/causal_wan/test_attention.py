import importlib.util
import math
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.causal_wan.attention import BACKENDS, sdpa
from streamgen.errors import PresetError


def usable(name: str) -> bool:
    return name != "xformers" or (importlib.util.find_spec("xformers") is not None and torch.cuda.is_available())


@pytest.mark.parametrize("name", [name for name in BACKENDS if usable(name)])
@pytest.mark.parametrize("masked", [False, True])
def test_every_backend_gives_the_definition(name: str, masked: bool) -> None:
    q, k, v = torch.randn(2, 5, 3, 8), torch.randn(2, 7, 3, 8), torch.randn(2, 7, 3, 8)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = not masked
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    weights = weights.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    want = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
    torch.testing.assert_close(BACKENDS[name](q, k, v, mask if masked else None), want)


@pytest.mark.parametrize("name", [name for name in BACKENDS if usable(name)])
def test_numbers_in_a_mask_are_added_to_the_scores(name: str) -> None:
    """A key that counts twice is a key that is there twice."""
    q, k, v = torch.randn(2, 300, 3, 8), torch.randn(2, 7, 3, 8), torch.randn(2, 7, 3, 8)
    twice = torch.tensor([0.0, math.log(2.0), 0.0, 0.0, 0.0, 0.0, -math.inf]).view(1, 1, 1, 7)
    at = [0, 1, 1, 2, 3, 4, 5]
    torch.testing.assert_close(BACKENDS[name](q, k, v, twice), sdpa(q, k[:, at], v[:, at], None))


def test_masked_keys_have_no_influence() -> None:
    q, k, v = torch.randn(1, 2, 1, 8), torch.randn(1, 4, 1, 8), torch.randn(1, 4, 1, 8)
    mask = torch.tensor([True, True, True, False]).view(1, 1, 1, 4)
    torch.testing.assert_close(sdpa(q, k, v, mask), sdpa(q, k[:, :3], v[:, :3], None))


def test_a_backend_that_is_not_there_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with pytest.raises(PresetError, match="needs the package xformers: pip install"):
        BACKENDS["xformers"]
    with pytest.raises(PresetError, match="no attention 'flash'; there are sdpa, matmul, by_head, xformers"):
        BACKENDS["flash"]


@pytest.mark.parametrize("masked", [False, True])
def test_xformers_is_given_what_it_takes(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its documented contract: (rows, n, heads, D) each, a bias (rows, heads, n, m) from memory in eights."""

    def memory_efficient_attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: Tensor | None) -> Tensor:
        if attn_bias is not None:
            assert attn_bias.shape == (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
            assert attn_bias.dtype == q.dtype
            assert attn_bias.stride(0) % 8 == 0
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_bias).transpose(1, 2)

    ops = ModuleType("xformers.ops")
    ops.memory_efficient_attention = memory_efficient_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    q, k, v = torch.randn(2, 5, 3, 8), torch.randn(2, 7, 3, 8), torch.randn(2, 7, 3, 8)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = False
    used = mask if masked else None
    torch.testing.assert_close(BACKENDS["xformers"](q, k, v, used), sdpa(q, k, v, used))
