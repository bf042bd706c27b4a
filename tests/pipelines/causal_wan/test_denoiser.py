from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.causal_wan.denoiser import Denoiser, LatentRow, LatentStream
from pipelines.causal_wan.dit import CausalWanModel, TimeContexts, join_contexts
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry, SamplerGeometry
from tests.support.models import DIT

CPU = torch.device("cpu")
GRID = (2, 3)
WAN = replace(DIT, cond_channels=0, prediction="flow")
LIST = SamplerGeometry("list", (700, 500, 400, 200), noise="fresh")
MOVING = CacheGeometry(4, 2, 0.6, sink_rule="move", start="last")
RULES = [
    pytest.param(DIT, CacheGeometry(4, 1, 0.2), SamplerGeometry(), id="tiny"),
    pytest.param(WAN, MOVING, LIST, id="wan"),
    pytest.param(WAN, replace(MOVING, sink_threshold=-1.0), LIST, id="wan-fast"),
    pytest.param(WAN, replace(MOVING, memory="last", start="own"), LIST, id="shared"),
    pytest.param(DIT, CacheGeometry(4, 2, 0.9, memory="last"), SamplerGeometry(), id="copied-shared"),
]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.inference_mode():
        yield


def denoiser_of(dit: DiTGeometry, cache: CacheGeometry, sampler: SamplerGeometry) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(CausalWanModel(dit).eval(), cache, sampler, CPU, torch.float32)


def opened(denoiser: Denoiser, number: int) -> LatentStream:
    text = torch.randn(1, DIT.text_len, DIT.text_dim, generator=torch.Generator().manual_seed(number))
    return denoiser.open(GRID, denoiser.dit.context(text), number)


def clean(stream: int, chunk: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * stream + chunk)
    scene = torch.randn(1, 8, 1, 4, 6, generator=torch.Generator().manual_seed(stream + chunk // 6))
    return scene + 0.5 * torch.randn(1, 8, 1, 4, 6, generator=generator)


def finished(denoiser: Denoiser, rows: list[LatentRow]) -> list[Tensor]:
    """All steps of the rows, one after the other, in passes that the done ones leave."""
    while left := [i for i, row in enumerate(rows) if not row.done]:
        for i, row in zip(left, denoiser.step([rows[i] for i in left]), strict=True):
            rows[i] = row
    return [row.latent for row in rows]


def alone(rules: tuple[Any, ...], number: int, steps: int, chunks: int = 12) -> list[Tensor]:
    denoiser = denoiser_of(*rules)
    stream = opened(denoiser, number)
    return [finished(denoiser, [denoiser.start(stream, clean(number, i), steps, 0.75)])[0] for i in range(chunks)]


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).norm() / b.norm()) < 1e-4


@pytest.mark.parametrize(("dit", "cache", "sampler"), RULES)
def test_a_stream_gets_the_same_alone_and_beside_three_others(
    dit: DiTGeometry, cache: CacheGeometry, sampler: SamplerGeometry
) -> None:
    """Which are of other ages, prompts, seeds and numbers of steps, and come and go in an order that leaves gaps."""
    denoiser = denoiser_of(dit, cache, sampler)
    steps, begins, ends = [2, 1, 3, 2], [0, 1, 3, 5], [12, 7, 15, 17]
    streams: dict[int, LatentStream] = {}
    got: list[list[Tensor]] = [[], [], [], []]
    for tick in range(18):
        live = [n for n in (2, 0, 3, 1) if begins[n] <= tick < ends[n]]
        for n in live:
            if n not in streams:
                streams[n] = opened(denoiser, n)
        rows = [denoiser.start(streams[n], clean(n, tick - begins[n]), steps[n], 0.75) for n in live]
        for n, latent in zip(live, finished(denoiser, rows), strict=True):
            got[n].append(latent)
        for n in [n for n in streams if ends[n] == tick + 1]:
            denoiser.close(streams.pop(n))
    for n in range(4):
        want = alone((dit, cache, sampler), n, steps[n], ends[n] - begins[n])
        assert len(got[n]) == len(want)
        assert all(close(a, b) for a, b in zip(got[n], want, strict=True)), n


@pytest.mark.parametrize(("dit", "cache", "sampler"), RULES)
def test_a_second_stream_after_a_first_gets_what_a_fresh_process_gives(
    dit: DiTGeometry, cache: CacheGeometry, sampler: SamplerGeometry
) -> None:
    denoiser = denoiser_of(dit, cache, sampler)
    keeper = opened(denoiser, 9)  # so that the pool stays
    finished(denoiser, [denoiser.start(keeper, clean(9, 0), 2, 0.75)])
    for number in (1, 2):
        stream = opened(denoiser, number)
        got = [finished(denoiser, [denoiser.start(stream, clean(number, i), 2, 0.75)])[0] for i in range(9)]
        denoiser.close(stream)
    assert all(torch.equal(a, b) for a, b in zip(got, alone((dit, cache, sampler), 2, 2, 9), strict=True))


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(("dit", "cache", "sampler"), RULES[:3])
def test_stream_batch_gives_what_steps_in_sequence_give(
    dit: DiTGeometry, cache: CacheGeometry, sampler: SamplerGeometry, steps: int
) -> None:
    denoiser = denoiser_of(dit, cache, sampler)
    stream, flying, got = opened(denoiser, 0), [], []
    for chunk in range(12 + steps):
        new = [denoiser.start(stream, clean(0, chunk), steps, 0.75)] if chunk < 12 else []
        flying = denoiser.step(flying + new) if flying + new else []
        got += [row.latent for row in flying if row.done]
        flying = [row for row in flying if not row.done]
    assert all(close(a, b) for a, b in zip(got, alone((dit, cache, sampler), 0, steps), strict=True))


def test_steps_that_share_a_cache_cannot_run_in_one_pass() -> None:
    denoiser = denoiser_of(WAN, replace(MOVING, memory="last", start="own"), LIST)
    stream = opened(denoiser, 0)
    (first,) = denoiser.step([denoiser.start(stream, clean(0, 0), 2, 0.75)])
    with pytest.raises(ValueError, match="different slots"):
        denoiser.step([first, denoiser.start(stream, clean(0, 1), 2, 0.75)])


def test_where_the_caches_start_alike_the_first_chunk_is_done_at_once_and_steps_that_come_later_know_the_past() -> None:
    denoiser = denoiser_of(WAN, MOVING, LIST)
    stream = opened(denoiser, 0)
    (row,) = denoiser.step([denoiser.start(stream, clean(0, 0), 3, 0.75)])
    assert row.done
    assert [stream.cache.seen(slot) for slot in stream.slots] == [1, 1, 1]
    first, *others = (stream.cache.keys[1][slot, 0] for slot in stream.slots)
    assert all(torch.equal(first, other) for other in others)
    finished(denoiser, [denoiser.start(stream, clean(0, 1), 4, 0.75)])
    assert [stream.cache.seen(slot) for slot in stream.slots] == [2, 2, 2, 2]


def test_where_the_caches_start_alike_a_first_chunk_may_be_dropped() -> None:
    denoiser = denoiser_of(WAN, MOVING, LIST)
    stream = opened(denoiser, 0)
    denoiser.start(stream, clean(0, 0), 2, 0.75)
    (row,) = denoiser.step([denoiser.start(stream, clean(0, 1), 2, 0.75)])
    assert row.done
    assert [stream.cache.seen(slot) for slot in stream.slots] == [1, 1]


@pytest.mark.parametrize(("cache", "slots"), [(MOVING, 3), (replace(MOVING, memory="last", start="own"), 1)])
def test_a_stream_holds_as_many_slots_as_its_geometry_says_and_gives_them_back(
    cache: CacheGeometry, slots: int
) -> None:
    denoiser = denoiser_of(WAN, cache, LIST)
    stream = opened(denoiser, 0)
    finished(denoiser, [denoiser.start(stream, clean(0, 0), 3, 0.75)])
    assert stream.cache.taken == len(stream.slots) == cache.slots(3) == slots
    pool = stream.cache
    denoiser.close(stream)
    denoiser.close(stream)
    assert pool.taken == 0
    assert opened(denoiser, 1).cache is not pool  # the last stream of a size takes its pool along
    with pytest.raises(ValueError, match="closed"):
        denoiser.step([denoiser.start(stream, clean(0, 1), 3, 0.75)])


def test_kept_noise_is_the_same_for_every_chunk_and_fresh_noise_is_not() -> None:
    for sampler, same in ((SamplerGeometry(), True), (SamplerGeometry(noise="fresh"), False)):
        denoiser = denoiser_of(DIT, CacheGeometry(4, 1, 0.2), sampler)
        stream = opened(denoiser, 0)
        a, b = (denoiser.start(stream, clean(0, 0), 2, 1.0).latent for _ in range(2))
        assert torch.equal(a, b) == same
        stream.reseed(0)
        assert torch.equal(denoiser.start(stream, clean(0, 0), 2, 1.0).latent, a) == same
        stream.reseed(5)
        assert not torch.equal(denoiser.start(stream, clean(0, 0), 2, 1.0).latent, a)


class NoWaiting(TorchDispatchMode):
    """Refuses what on a GPU would have the host wait for a number that decides how to go on."""

    refused = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.refused, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("dit", "cache", "sampler"), RULES)
def test_nothing_in_a_step_waits_for_the_device(
    dit: DiTGeometry, cache: CacheGeometry, sampler: SamplerGeometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.causal_wan.sinks._surely_none", lambda _: False)  # the CPU's short cut
    denoiser = denoiser_of(dit, cache, sampler)
    streams = [opened(denoiser, 0), opened(denoiser, 1)]
    for chunk in range(7):
        rows = [denoiser.start(stream, clean(i, chunk), 2, 0.75) for i, stream in enumerate(streams[: 1 + chunk % 3])]
        with NoWaiting():
            finished(denoiser, rows)


def test_waiting_would_be_seen() -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        bool((torch.ones(2) > 0).any())


@pytest.mark.filterwarnings("ignore")  # torch's own, about what it deprecates in itself
@pytest.mark.parametrize(("dit", "cache", "sampler"), RULES)
def test_a_step_is_one_graph_that_is_compiled_once(
    dit: DiTGeometry, cache: CacheGeometry, sampler: SamplerGeometry
) -> None:
    """From the first full window on no frame needs another graph; what it gives is what it gives without."""
    torch.compiler.reset()
    want = alone((dit, cache, sampler), 0, 1, 14)
    denoiser = denoiser_of(dit, cache, sampler)
    stream, got = opened(denoiser, 0), []
    for chunk in range(14):
        if chunk == 5:
            denoiser.dit.compile(backend="eager", fullgraph=True, dynamic=False)
        with torch._dynamo.config.patch(error_on_recompile=chunk > 5):
            got += finished(denoiser, [denoiser.start(stream, clean(0, chunk), 1, 0.75)])
    assert all(close(a, b) for a, b in zip(got, want, strict=True))


def test_noise_levels_are_computed_once_and_the_oldest_forgotten() -> None:
    model = CausalWanModel(DIT)
    times = TimeContexts(model, CPU, most=2)
    rows = times([0.5, 0.25, 0.5])
    want = model.times(torch.tensor([0.5, 0.25, 0.5]))
    for a, b in zip(rows, want, strict=True):
        torch.testing.assert_close(a, b)
    kept = times([0.25])[0]
    assert times([0.25])[0] is kept
    times([0.75, 0.125])
    assert times([0.25])[0] is not kept
    kept = times([0.25])[0]
    times.forget()
    assert times([0.25])[0] is not kept


def test_rows_under_one_prompt_share_its_memory() -> None:
    model = CausalWanModel(DIT)
    one, other = (model.context(torch.randn(1, DIT.text_len, DIT.text_dim)) for _ in range(2))
    assert join_contexts([one]) is one
    same = join_contexts([one, one, one])
    assert same[0][0].shape[0] == 3
    assert same[0][0].data_ptr() == one[0][0].data_ptr()
    mixed = join_contexts([one, other])
    for layer in range(DIT.layers):
        for part in range(2):
            torch.testing.assert_close(mixed[layer][part], torch.cat([one[layer][part], other[layer][part]]))


def test_a_stream_that_has_not_begun_shares_its_caches_with_those_that_come_after_the_others_have_gone() -> None:
    denoiser = denoiser_of(DIT, CacheGeometry(4, 1, 0.2), SamplerGeometry())
    first = opened(denoiser, 0)
    finished(denoiser, [denoiser.start(first, clean(0, 0), 2, 0.6)])
    waiting = opened(denoiser, 1)
    denoiser.close(first)
    late = opened(denoiser, 2)
    rows = [denoiser.start(stream, clean(number, 0), 2, 0.6) for number, stream in ((1, waiting), (2, late))]
    assert waiting.cache is late.cache
    finished(denoiser, rows)
    denoiser.close(waiting)
    denoiser.close(late)
    assert opened(denoiser, 0).cache is not late.cache
