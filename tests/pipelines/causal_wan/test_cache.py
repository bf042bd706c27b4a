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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sink_rule": "swap"}, "sink_rule is one of copy, move"),
        ({"sink_positions": "far"}, "sink_positions is one of"),
        ({"memory": "all"}, "memory is one of own, last, first"),
        ({"start": "first"}, "start is one of"),
        ({"sink_positions": "absolute"}, "need sink_rule move"),
        ({"memory": "first"}, "need sink_rule move"),
    ],
)
def test_rules_that_do_not_exist_are_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CacheGeometry(4, 1, 0.2, **wrong)  # type: ignore[arg-type]


def test_several_frames_at_once_take_the_places_they_would_take_one_by_one() -> None:
    at_once, one_by_one = cache_of(5, 2), cache_of(5, 2)
    a, b = at_once.take(), one_by_one.take()
    step = at_once.begin([a], frames=3)
    keys = torch.cat([frame_of(i) for i in range(3)], dim=1)
    values = torch.cat([frame_of(i + 1000) for i in range(3)], dim=1)
    got = next(step.extend(layer, step.rotation(keys), values) for layer in range(DIT.layers))
    want = feed(one_by_one, b, range(3))
    torch.testing.assert_close(got, want)
    assert at_once.seen(a) == 3
    torch.testing.assert_close(feed(at_once, a, range(3, 9)), feed(one_by_one, b, range(3, 9)))
    with pytest.raises(ValueError, match="2 latent frames at once do not fit a window of 5 any more"):
        at_once.begin([a], frames=2)


def test_a_frame_given_again_takes_the_place_of_itself() -> None:
    cache, slot = cache_of(4, 1), 0
    slot = cache.take()
    with pytest.raises(ValueError, match="seen nothing"):
        cache.begin([slot], [True])
    feed(cache, slot, range(6))
    step = cache.begin([slot], [True])
    _, values = step.extend(0, step.rotation(frame_of(50)), frame_of(50))
    assert cache.seen(slot) == 6
    held = {i for i in (*range(6), 50) for v in values[0].split(4) if torch.equal(v, frame_of(i + 1000 * (i < 50))[0])}
    assert held == {0, 3, 4, 50}


def test_a_copied_slot_goes_on_like_the_original() -> None:
    cache = cache_of(4, 2, threshold=0.3)
    slot = cache.take()
    feed(cache, slot, range(6))
    other = cache.take()
    cache.copy(slot, other)
    assert cache.seen(other) == 6
    torch.testing.assert_close(feed(cache, other, range(6, 11)), feed(cache, slot, range(6, 11)))


def test_the_pool_is_no_larger_than_what_was_taken_at_once_and_counts_its_bytes() -> None:
    cache = cache_of(4, 1)
    slots = [cache.take() for _ in range(3)]
    cache.give_back(slots[0])
    assert cache.take() == slots[0]
    assert cache.slots == 3
    frame = 4 * DIT.heads * DIT.head_dim * 4
    assert cache.bytes >= 3 * DIT.layers * 2 * 4 * frame
    cache.reserve(8)
    assert cache.slots == 8
    assert cache.taken == 3


@pytest.mark.parametrize(
    "geometry",
    [
        CacheGeometry(4, 1, 0.2),
        CacheGeometry(4, 0, 0.2),
        CacheGeometry(6, 3, -1.0, "move", "absolute"),
        CacheGeometry(6, 3, 0.2, "move"),
    ],
    ids=str,
)
def test_a_slots_bytes_are_what_the_geometry_says(geometry: CacheGeometry) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        cache = RollingKVCache(DIT, geometry, GRID, CPU, dtype)
        cache.reserve(5)
        assert cache.bytes == 5 * geometry.slot_bytes(DIT, 4, dtype.itemsize)


def test_neighbouring_slots_are_attended_to_without_a_copy() -> None:
    cache = cache_of(3, 1)
    slots = [cache.take(), cache.take()]
    for i in range(4):
        step = cache.begin(slots)
        rows = torch.cat([frame_of(i), frame_of(i + 50)])
        for layer in range(DIT.layers):
            keys, values = step.extend(layer, step.rotation(rows), rows)
    assert keys.data_ptr() == cache.keys[DIT.layers - 1].data_ptr()
    assert values.data_ptr() == cache.values[DIT.layers - 1].data_ptr()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_slot_never_shows_another_streams_frames(data: st.DataObject) -> None:
    """Streams come, advance in any company, are copied, and go; each value tells whose it is."""
    rule = data.draw(st.sampled_from(["copy", "move"]))
    geometry = CacheGeometry(3, 1, data.draw(st.sampled_from([-1.0, 0.0, 2.0])), rule)
    cache = RollingKVCache(DIT, geometry, GRID, CPU, torch.float32)
    owners: dict[int, int] = {}
    for number in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["take", "go", "advance", "advance", "advance"]))
        if action == "take" or not owners:
            slot = cache.take()
            assert slot not in owners
            assert cache.seen(slot) == 0
            owners[slot] = number
        elif action == "go":
            slot = data.draw(st.sampled_from(sorted(owners)))
            cache.give_back(slot)
            del owners[slot]
        else:
            rows = data.draw(st.lists(st.sampled_from(sorted(owners)), min_size=1, unique=True))
            step = cache.begin(rows)
            mine = torch.tensor([float(owners[slot]) for slot in rows]).view(-1, 1, 1, 1)
            values = mine.expand(-1, 4, DIT.heads, DIT.head_dim)
            _, seen = step.extend(0, step.rotation(torch.randn(len(rows), 4, DIT.heads, DIT.head_dim)), values)
            for row, slot in enumerate(rows):
                shown = seen[row] if step.mask is None else seen[row][step.mask[row, 0, 0]]
                assert len(shown) == 4 * min(cache.seen(slot), 3)
                assert (shown == owners[slot]).all()
        assert cache.taken == len(owners)
        assert cache.slots >= cache.taken
