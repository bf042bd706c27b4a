from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipelines.causal_wan.attention import BACKENDS
from pipelines.causal_wan.condensed import MULTIPLE, condensed
from pipelines.causal_wan.dit import CausalWanModel, TextContext, join_contexts
from tests.support.models import DIT

LENGTH = 4 * MULTIPLE
GEOMETRY = replace(DIT, text_len=LENGTH)


def embedding(words: int) -> Tensor:
    text = torch.zeros(1, LENGTH, GEOMETRY.text_dim)
    text[:, :words] = torch.randn(1, words, GEOMETRY.text_dim, generator=torch.Generator().manual_seed(words))
    return text


def attended(model: CausalWanModel, context: TextContext, rows: int = 1) -> Tensor:
    """What the last layer's cross-attention makes of a prompt."""
    x = torch.randn(1, 10, GEOMETRY.dim, generator=torch.Generator().manual_seed(3)).expand(rows, -1, -1)
    return model.blocks[-1].cross_attention(x, context[-1])


@pytest.fixture(params=["sdpa", "matmul", "by_head"])
def model(request: pytest.FixtureRequest) -> CausalWanModel:
    torch.manual_seed(0)
    return CausalWanModel(GEOMETRY, BACKENDS[request.param]).eval().requires_grad_(False)


@pytest.mark.parametrize("words", [0, 1, 40, MULTIPLE - 1, MULTIPLE, 3 * MULTIPLE - 1])
def test_the_dit_sees_no_difference(model: CausalWanModel, words: int) -> None:
    text, weights = condensed(embedding(words))
    assert text.shape[1] == (words // MULTIPLE + 1) * MULTIPLE
    whole = attended(model, model.context(embedding(words)))
    torch.testing.assert_close(attended(model, model.context(text, weights)), whole, atol=1e-5, rtol=1e-4)
    if words:
        unweighted = attended(model, model.context(text))
        assert (unweighted - whole).abs().max() > 1e-3, "the weights matter"


@pytest.mark.parametrize("words", [3 * MULTIPLE, LENGTH])
def test_a_prompt_that_fills_it_stays_as_it_is(words: int) -> None:
    text = embedding(words)
    same, weights = condensed(text)
    assert same is text
    assert weights is None


def test_prompts_of_different_lengths_share_a_pass(model: CausalWanModel) -> None:
    contexts = [model.context(*condensed(embedding(words))) for words in (5, 100, LENGTH)]
    together = attended(model, join_contexts(contexts), rows=3)
    for row, context in enumerate(contexts):
        torch.testing.assert_close(together[row], attended(model, context)[0], atol=1e-5, rtol=1e-4)


def test_rows_under_one_prompt_share_its_weights(model: CausalWanModel) -> None:
    context = model.context(*condensed(embedding(5)))
    together = attended(model, join_contexts([context, context]), rows=2)
    torch.testing.assert_close(together[1], attended(model, context)[0])
