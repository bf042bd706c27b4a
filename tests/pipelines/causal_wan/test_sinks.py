"""The sinks' rule `move`, and caches that steps share, against a model of them in plain Python."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pipelines.causal_wan.cache import RollingKVCache
from pipelines.causal_wan.geometry import CacheGeometry
from pipelines.causal_wan.rope import RoPE, Rotation
from tests.support.models import DIT

CPU = torch.device("cpu")
GRID = (1, 2)
TOKENS = 2
ROPE = RoPE(DIT.rope_pairs, CPU)


def contents(stream: int, frame: int, step: int, scene: int) -> tuple[Tensor, Tensor]:
    """Unturned key and value (tokens, heads, D) of a frame, alike within a scene."""

    def draw(*seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash(seed) % 2**31)
        return torch.randn(2, TOKENS, DIT.heads, DIT.head_dim, generator=generator)

    key, value = draw(1, scene) + 0.5 * draw(2, stream, frame) + 0.3 * draw(3, stream, frame, step)
    return key, value


def turned(key: Tensor, position: int) -> Tensor:
    return Rotation(ROPE.angles([position], *GRID), torch.float32)(key[None])[0]


class Model:
    """One slot of one layer, as the rules say it in words."""

    def __init__(self, g: CacheGeometry) -> None:
        self.g = g
        self.places: list[tuple[int, Tensor, Tensor] | None] = [None] * g.window
        self.ring = list(range(g.sinks, g.window))
        """Places in the ring, the one to be taken next first."""
        self.place: int | None = None
        self.frame = -1

    def position(self, place: int) -> int:
        entry = self.places[place]
        assert entry is not None
        if place >= self.g.sinks or self.g.sink_positions == "absolute":
            return entry[0]
        return max(entry[0], self.frame - self.g.window + 1 + place)

    def least_alike(self, key: Tensor, value: Tensor) -> tuple[float, int]:
        found = []
        for place in range(self.g.sinks):
            entry = self.places[place]
            assert entry is not None
            pairs = ((turned(entry[1], self.position(place)), turned(key, self.frame)), (entry[2], value))
            found.append((sum(float(F.cosine_similarity(a.mean(0).flatten(), b.mean(0).flatten(), dim=0)) / 2
                              for a, b in pairs), place))  # fmt: skip
        return min(found)

    def take(self, key: Tensor, value: Tensor, *, again: bool) -> float:
        """How close the decision was."""
        if not again:
            if self.place in self.ring:
                self.ring.append(self.ring.pop(0))
            self.frame += 1
        margin = 1.0
        if self.frame < self.g.window:
            place, self.place = self.frame, None
        else:
            place = self.place if again and self.place is not None else self.ring[0]
            if self.g.adaptive:
                least, which = self.least_alike(key, value)
                margin = abs(least - self.g.sink_threshold)
                place = which if least < self.g.sink_threshold else place
            self.place = place
        self.places[place] = (self.frame, key, value)
        return margin

    def attended(self) -> list[tuple[Tensor, Tensor]]:
        return [
            (turned(entry[1], self.position(place)), entry[2])
            for place, entry in enumerate(self.places)
            if entry is not None
        ]


@settings(max_examples=80, deadline=None)
@given(window=st.integers(2, 6), data=st.data())
def test_it_holds_what_the_rules_say(window: int, data: st.DataObject) -> None:
    """Two streams of different ages, in passes of their own and in common; each layer decides for itself."""
    g = CacheGeometry(
        window,
        sinks=data.draw(st.integers(0, window - 1), "sinks"),
        sink_threshold=data.draw(st.sampled_from([-1.0, 0.0, 0.4, 0.7, 2.0]), "threshold"),
        sink_rule="move",
        sink_positions=data.draw(st.sampled_from(["held", "absolute"]), "positions"),
        memory=data.draw(st.sampled_from(["own", "last"]), "memory"),
    )
    cache = RollingKVCache(DIT, g, GRID, CPU, torch.float32)
    steps = 2 if g.memory == "last" else 1
    slots = [cache.take(), cache.take()]
    models = [[Model(g) for _ in range(DIT.layers)] for _ in slots]
    done = [0, 0]
    for _ in range(data.draw(st.integers(1, 14), "passes")):
        rows = data.draw(st.sampled_from([[0], [1], [0, 1], [1, 0]]))
        frames, at = [done[row] // steps for row in rows], [done[row] % steps for row in rows]
        pass_ = cache.begin([slots[row] for row in rows], [step > 0 for step in at])
        for layer in range(DIT.layers):
            new = [contents(row, f, 10 * s + layer, f // 5) for row, f, s in zip(rows, frames, at, strict=True)]
            keys, values = torch.stack([k for k, _ in new]), torch.stack([v for _, v in new])
            got = pass_.extend(layer, pass_.rotation(keys), values)
            for i, row in enumerate(rows):
                margin = models[row][layer].take(keys[i], values[i], again=at[i] > 0)
                if margin < 1e-4:
                    return  # rounding decides
                check(models[row][layer], got[0][i], got[1][i], None if pass_.mask is None else pass_.mask[i, 0, 0])
        for row in rows:
            done[row] += 1


def check(model: Model, keys: Tensor, values: Tensor, mask: Tensor | None) -> None:
    if mask is not None:
        keys, values = keys[mask], values[mask]
    want = model.attended()
    assert len(keys) == TOKENS * len(want)
    for place, (key, value) in enumerate(want):
        at = slice(TOKENS * place, TOKENS * (place + 1))
        torch.testing.assert_close(values[at], value)
        torch.testing.assert_close(keys[at], key, atol=1e-4, rtol=0)


def test_a_shared_cache_that_remembers_the_first_step_lends_later_steps_the_oldest_place() -> None:
    g = CacheGeometry(4, 1, -1.0, sink_rule="move", sink_positions="absolute", memory="first")
    cache = RollingKVCache(DIT, g, GRID, CPU, torch.float32)
    slot, held = cache.take(), []
    for frame in range(7):
        for step in range(2):
            pass_ = cache.begin([slot], [step > 0])
            number = torch.full((1, TOKENS, DIT.heads, DIT.head_dim), 10.0 * frame + step)
            _, values = pass_.extend(0, number, number)
            held.append(sorted(int(value) for value in values[0, ::TOKENS, 0, 0]))
    assert held[-4:] == [[1, 30, 40, 50], [1, 40, 50, 51], [1, 40, 50, 60], [1, 50, 60, 61]]


def test_a_moved_sink_takes_no_place_in_the_ring() -> None:
    """With a threshold that every frame is below, the ring stands still."""
    g = CacheGeometry(4, 1, 2.0, sink_rule="move")
    cache = RollingKVCache(DIT, g, GRID, CPU, torch.float32)
    slot = cache.take()
    for frame in range(10):
        pass_ = cache.begin([slot])
        number = torch.full((1, TOKENS, DIT.heads, DIT.head_dim), float(frame))
        _, values = pass_.extend(0, torch.ones_like(number), number)
    assert values[0, ::TOKENS, 0, 0].tolist() == [9.0, 1.0, 2.0, 3.0]
