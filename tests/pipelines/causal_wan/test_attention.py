import pytest
import torch

from pipelines.causal_wan.attention import BACKENDS, sdpa


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("masked", [False, True])
def test_every_backend_gives_the_definition(name: str, masked: bool) -> None:
    q, k, v = torch.randn(2, 5, 3, 8), torch.randn(2, 7, 3, 8), torch.randn(2, 7, 3, 8)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = not masked
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    weights = weights.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    want = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
    torch.testing.assert_close(BACKENDS[name](q, k, v, mask if masked else None), want)


def test_masked_keys_have_no_influence() -> None:
    q, k, v = torch.randn(1, 2, 1, 8), torch.randn(1, 4, 1, 8), torch.randn(1, 4, 1, 8)
    mask = torch.tensor([True, True, True, False]).view(1, 1, 1, 4)
    torch.testing.assert_close(sdpa(q, k, v, mask), sdpa(q, k[:, :3], v[:, :3], None))
