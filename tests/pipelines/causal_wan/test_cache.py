import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.causal_wan.cache import RollingKVCache
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.rope import RoPE, Rotation
from tests.support.models import DIT

CPU = torch.device("cpu")
GRID = (2, 2)


def cache_of(window: int, sinks: int, threshold: float = -2.0, geometry: DiTGeometry = DIT) -> RollingKVCache:
    """A threshold below -1 never replaces a sink."""
    return RollingKVCache(geometry, CacheGeometry(window, sinks, threshold), GRID, CPU, torch.float32)


def frame_of(i: int) -> torch.Tensor:
    """Unturned keys or values (1, 4, heads, D) that tell which frame they are of."""
    generator = torch.Generator().manual_seed(i)
    return torch.randn(1, 4, DIT.heads, DIT.head_dim, generator=generator)


def feed(cache: RollingKVCache, slot: int, frames: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives the frames to every layer; returns the last one's keys and values to attend to, in layer 0."""
    kept = None
    for i in frames:
        step = cache.begin([slot])
        for layer in range(DIT.layers):
            answer = step.extend(layer, step.rotation(frame_of(i)), frame_of(i + 1000))
            kept = answer if layer == 0 else kept
    assert kept is not None
    return kept


def expected(count: int, window: int, sinks: int) -> list[tuple[int, int]]:
    """(frame, position) that may be attended to after `count` frames, by the rule in the cache's own words."""
    newest = count - 1
    held = [(i, max(i, newest - window + 1 + i)) for i in range(min(sinks, count))]
    return held + [(i, i) for i in range(max(sinks, count - (window - sinks)), count)]


@settings(max_examples=60, deadline=None)
@given(window=st.integers(1, 7), data=st.data())
def test_it_holds_sinks_and_the_newest_frames_at_their_positions(window: int, data: st.DataObject) -> None:
    sinks = data.draw(st.integers(0, window - 1))
    count = data.draw(st.integers(1, 25))
    cache = cache_of(window, sinks)
    keys, values = feed(cache, cache.take(), range(count))
    rope = RoPE(DIT.rope_pairs, CPU)
    want = {
        (round(float(turned.sum()), 3), round(float(frame_of(i + 1000).sum()), 3))
        for i, position in expected(count, window, sinks)
        for turned in [Rotation(rope.angles([position], *GRID), torch.float32)(frame_of(i))]
    }
    got = {
        (round(float(k.sum()), 3), round(float(v.sum()), 3))
        for k, v in zip(keys[0].split(4), values[0].split(4), strict=True)
    }
    assert len(got) == min(count, window)
    for k, v in got:
        assert any(abs(k - a) < 0.02 and abs(v - b) < 0.02 for a, b in want), (got, want)


def test_attention_depends_on_distance_alone_however_long_the_stream() -> None:
    """The scores of frame n and of frame n + 100,000 with the same contents are the same: positions never run out."""
    scores = []
    for start in (0, 100_000):
        cache = cache_of(4, 0)
        slot = cache.take()
        cache._seen[slot] = start
        for i in range(4):
            step = cache.begin([slot])
            keys, _ = step.extend(0, step.rotation(frame_of(i)), frame_of(i))
        step_scores = torch.einsum("qhd,khd->hqk", step.rotation(frame_of(9))[0], keys[0])
        order = [4 * ((start + i) % 4) + t for i in range(4) for t in range(4)]
        scores.append(step_scores[..., order])
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=0)


def test_a_sink_that_no_longer_resembles_the_scene_is_replaced() -> None:
    """A threshold above 1 replaces it with every frame; below -1 never."""
    for threshold, held in ((2.0, 9), (-2.0, 0)):
        cache = cache_of(4, 1, threshold)
        slot = cache.take()
        _, values = feed(cache, slot, range(10))
        torch.testing.assert_close(values[0, :4], frame_of(held + 1000)[0])


def test_a_sink_is_kept_while_the_ring_first_fills() -> None:
    cache = cache_of(4, 1, threshold=2.0)
    _, values = feed(cache, cache.take(), range(3))
    torch.testing.assert_close(values[0, :4], frame_of(1000)[0])


def test_a_slot_taken_again_shows_nothing_of_its_former_owner() -> None:
    cache = cache_of(4, 1)
    first = cache.take()
    feed(cache, first, range(9))
    cache.give_back(first)
    second = cache.take()
    assert second == first
    assert cache.seen(second) == 0
    keys, values = feed(cache, second, range(50, 52))
    assert keys.shape[1] == 2 * 4
    torch.testing.assert_close(values[0, :4], frame_of(1050)[0])


def test_rows_of_different_age_share_a_pass_and_get_what_they_would_get_alone() -> None:
    together, apart = cache_of(4, 1), cache_of(4, 1)
    old, young = together.take(), together.take()
    alone = [apart.take(), apart.take()]
    for cache, slot in ((together, old), (apart, alone[0])):
        feed(cache, slot, range(7))
    for cache, slot in ((together, young), (apart, alone[1])):
        feed(cache, slot, range(20, 21))
    step = together.begin([old, young])
    rows = torch.cat([frame_of(7), frame_of(21)])
    keys, values = step.extend(0, step.rotation(rows), rows)
    assert step.mask is not None
    for row, (slot, frame) in enumerate(zip(alone, (7, 21), strict=True)):
        single = apart.begin([slot])
        k, v = single.extend(0, single.rotation(frame_of(frame)), frame_of(frame))
        seen = step.mask[row, 0, 0]
        torch.testing.assert_close(keys[row][seen], k[0])
        torch.testing.assert_close(values[row][seen], v[0])


def test_the_pool_grows_and_keeps_what_it_holds() -> None:
    cache = cache_of(4, 1)
    first = cache.take()
    feed(cache, first, range(3))
    others = [cache.take() for _ in range(20)]
    assert len({first, *others}) == 21
    assert cache.taken == 21
    _, values = feed(cache, first, range(3, 4))
    torch.testing.assert_close(values[0, :4], frame_of(1000)[0])


def test_wrong_use_is_refused() -> None:
    cache = cache_of(4, 1)
    slot = cache.take()
    with pytest.raises(ValueError, match="different slots"):
        cache.begin([slot, slot])
    cache.give_back(slot)
    with pytest.raises(ValueError, match="given back twice"):
        cache.give_back(slot)
    with pytest.raises(ValueError, match="do not fit a window"):
        CacheGeometry(window=2, sinks=2, sink_threshold=0.2)
