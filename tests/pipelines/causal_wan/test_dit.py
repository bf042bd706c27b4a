import torch
from torch import Tensor, nn

from pipelines.causal_wan.cache import RollingKVCache
from pipelines.causal_wan.dit import CausalWanModel, sinusoid
from tests.support.models import CACHE, DIT

GRID = (3, 2)


def fresh() -> tuple[CausalWanModel, RollingKVCache]:
    torch.manual_seed(0)
    cache = RollingKVCache(DIT, CACHE, GRID, torch.device("cpu"), torch.float32)
    return CausalWanModel(DIT).eval().requires_grad_(False), cache


def latent(seed: int) -> torch.Tensor:
    return torch.randn(1, 8, 1, 6, 4, generator=torch.Generator().manual_seed(seed))


def run(
    model: CausalWanModel, cache: RollingKVCache, slots: list[int], x: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    sigma = torch.full((len(slots),), 0.5)
    return model(x, x.flip(-1), sigma, model.context(text), cache.begin(slots))


def test_the_result_has_the_latents_shape_and_depends_on_every_input() -> None:
    model, cache = fresh()
    x, text = latent(0), torch.randn(1, 6, 16)
    context = model.context(text)
    base = model(x, x, torch.tensor([0.5]), context, cache.begin([cache.take()]))
    assert base.shape == x.shape
    for other in (
        model(latent(1), x, torch.tensor([0.5]), context, cache.begin([cache.take()])),
        model(x, latent(1), torch.tensor([0.5]), context, cache.begin([cache.take()])),
        model(x, x, torch.tensor([0.6]), context, cache.begin([cache.take()])),
        model(x, x, torch.tensor([0.5]), model.context(torch.randn(1, 6, 16)), cache.begin([cache.take()])),
    ):
        assert (base - other).abs().max() > 1e-4


def test_the_past_matters_and_the_future_cannot() -> None:
    model, cache = fresh()
    text = torch.randn(1, 6, 16)
    with_past, without = cache.take(), cache.take()
    run(model, cache, [with_past], latent(0), text)
    a = run(model, cache, [with_past], latent(1), text)
    b = run(model, cache, [without], latent(1), text)
    assert (a - b).abs().max() > 1e-4


def test_rows_in_one_batch_get_what_they_get_alone() -> None:
    model, cache = fresh()
    text = torch.randn(2, 6, 16)
    together, alone = [cache.take(), cache.take()], [cache.take(), cache.take()]
    run(model, cache, together[:1], latent(0), text[:1])
    run(model, cache, alone[:1], latent(0), text[:1])
    batch = run(model, cache, together, torch.cat([latent(1), latent(2)]), text)
    for i in range(2):
        single = run(model, cache, [alone[i]], latent(1 + i), text[i : i + 1])
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-5, rtol=1e-4)


def test_patches_go_back_where_they_came_from() -> None:
    """With an identity in place of the head, predicting undoes the patch embedding."""

    class Same(nn.Module):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            del time
            return x

    model, _ = fresh()
    model.head = Same()
    x = latent(3)
    tokens = x.unfold(3, 2, 2).unfold(4, 2, 2)  # 1, 8, 1, 3, 2, 2, 2: rows and columns of patches, then within
    patches = tokens.permute(0, 2, 3, 4, 5, 6, 1).reshape(1, 6, 2 * 2 * 8)
    torch.testing.assert_close(model.predict(patches, torch.zeros(1), (1, 3, 2)), x)


def test_sinusoid_is_cosines_then_sines() -> None:
    table = sinusoid(torch.tensor([0.0, 3.0]), 8)
    torch.testing.assert_close(table[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(table[1, 0], torch.tensor(3.0).cos())
    torch.testing.assert_close(table[1, 5], torch.tensor(3.0 / 10).sin())
