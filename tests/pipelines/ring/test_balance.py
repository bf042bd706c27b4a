from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from pipelines.ring.balance import Balancer, Cost, Move, Rules, Split, best, bottleneck, even
from pipelines.ring.split import distance

RULES = Rules(window=8)
ROW_S = 0.1


def spread(rng: random.Random) -> float:
    """Noise of +-10 %."""
    return rng.uniform(0.9, 1.1)


@dataclass
class Ring:
    """A ring in virtual time: a row goes through each `ROW_S`, and takes what `costs` says for that second."""

    balancer: Balancer
    costs: Callable[[float], Sequence[Cost]]
    noise: Callable[[random.Random], float] = spread
    now: float = 0.0
    moves: list[tuple[float, Move]] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def run(self, rows: int) -> Split:
        for _ in range(rows):
            self.now += ROW_S
            for rank, (cost, blocks) in enumerate(zip(self.costs(self.now), self.balancer.split, strict=True)):
                block_s = cost.block_s * self.noise(self.rng) if blocks else None
                self.balancer.observe(rank, block_s, cost.extra_s * self.noise(self.rng))
            before, move = self.balancer.split, self.balancer.next_move(self.now)
            if move is not None:
                self.moves.append((self.now, move))
                assert distance(before, self.balancer.split) == 1
                assert sum(self.balancer.split) == sum(before)
                assert min(self.balancer.split) >= 0
        return self.balancer.split

    @property
    def bottleneck(self) -> float:
        return bottleneck(self.costs(self.now), self.balancer.split)


def steady(*costs: Cost) -> Callable[[float], Sequence[Cost]]:
    return lambda now: costs


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("layers", [30, 40])
def test_a_ring_with_one_slow_rank_does_half_as_much_again_as_with_even_shares(ranks: int, layers: int) -> None:
    for slow in range(ranks):
        costs = [Cost(3.0 if rank == slow else 1.0, 0.2) for rank in range(ranks)]
        ring = Ring(Balancer(even(layers, ranks), rules=RULES), steady(*costs))
        ring.run(400)
        ideal = bottleneck(costs, best(costs, layers))
        assert bottleneck(costs, even(layers, ranks)) / ring.bottleneck >= 1.5
        assert ring.bottleneck <= ideal / (1 - RULES.gain)
        assert ring.balancer.goal is None


def test_what_the_ends_do_beside_their_blocks_counts() -> None:
    costs = [Cost(1.0, 5.0), Cost(1.0, 0.0), Cost(1.0, 0.0), Cost(1.0, 9.0)]
    ring = Ring(Balancer(even(40, 4), rules=RULES), steady(*costs), noise=lambda rng: 1.0)
    assert ring.run(400) == best(costs, 40, present=even(40, 4))
    assert ring.bottleneck == 14.0


def test_a_rank_that_is_busy_enough_gives_up_all_of_its_blocks() -> None:
    ring = Ring(Balancer((2, 2, 2), rules=RULES), steady(Cost(1.0, 0.0), Cost(1.0, 0.0), Cost(1.0, 20.0)))
    ring.run(20)
    assert ring.balancer.split == (2, 2, 2)  # whatever it does, the bottleneck stays nearly what it is
    ring = Ring(Balancer((2, 2, 2), rules=RULES), steady(Cost(1.0, 0.0), Cost(1.0, 0.0), Cost(1.0, 2.6)))
    assert ring.run(200) == (3, 3, 0)


def test_it_moves_one_block_at_a_time_and_leaves_time_between() -> None:
    ring = Ring(Balancer((20, 20), rules=RULES), steady(Cost(3.0, 0.0), Cost(1.0, 0.0)), noise=lambda rng: 1.0)
    ring.run(200)
    at, moves = zip(*ring.moves, strict=True)
    assert moves == tuple(Move(layer, 0, 1) for layer in range(19, 9, -1))
    assert all(after - before >= RULES.every_s - 1e-9 for before, after in itertools.pairwise(at))
    assert ring.balancer.split == (10, 30)


def test_nothing_is_moved_before_every_rank_has_been_measured_enough() -> None:
    balancer = Balancer((20, 20), rules=RULES)
    for count in range(RULES.window):
        assert balancer.next_move(float(count)) is None
        balancer.observe(0, 3.0, 0.0)
        if count < RULES.window - 1:
            balancer.observe(1, 1.0, 0.0)
    assert balancer.next_move(100.0) is None
    balancer.observe(1, 1.0, 0.0)
    assert balancer.next_move(101.0) == Move(19, 0, 1)


def test_a_small_gain_is_not_worth_it() -> None:
    ring = Ring(Balancer((20, 20), rules=RULES), steady(Cost(1.1, 0.0), Cost(1.0, 0.0)), noise=lambda rng: 1.0)
    assert ring.run(200) == (20, 20)
    ring = Ring(Balancer((20, 20), rules=RULES), steady(Cost(1.3, 0.0), Cost(1.0, 0.0)), noise=lambda rng: 1.0)
    assert ring.run(200) == (17, 23) == best([Cost(1.3, 0.0), Cost(1.0, 0.0)], 40)


@pytest.mark.parametrize("layers", [6, 30, 40])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_noise_moves_nothing(layers: int, ranks: int) -> None:
    costs = [Cost(1.0, 0.5 * (rank in (0, ranks - 1))) for rank in range(ranks)]
    for seed in range(5):
        ring = Ring(Balancer(best(costs, layers)), steady(*costs), rng=random.Random(seed))
        ring.run(2000)
        assert ring.moves == []


@pytest.mark.parametrize("slow", [1.0, 1.15, 1.25, 3.0])
def test_noise_does_not_move_blocks_back_and_forth(slow: float) -> None:
    """Where the gain is near the least that counts, noise decides whether it is taken; once it is, that is that."""
    for seed in range(5):
        ring = Ring(Balancer(even(40, 4)), steady(Cost(slow, 0), *[Cost(1.0, 0.1)] * 3), rng=random.Random(seed))
        ring.run(4000)
        crossed = {(move.source, move.target) for _, move in ring.moves}
        assert not crossed & {(target, source) for source, target in crossed}


def test_one_hiccup_moves_nothing() -> None:
    ring = Ring(Balancer((20, 20), rules=RULES), steady(Cost(1.0, 0.0), Cost(1.0, 0.0)))
    for _ in range(20):
        ring.run(40)
        ring.balancer.observe(1, 50.0, 3.0)
    assert ring.moves == []


def test_a_rank_that_becomes_slow_and_fast_again_gives_blocks_and_gets_them_back() -> None:
    def costs(now: float) -> Sequence[Cost]:
        return [Cost(1.0, 0.1), Cost(3.0 if 30 < now < 90 else 1.0, 0.1), Cost(1.0, 0.1)]

    ring = Ring(Balancer((10, 10, 10), rules=RULES), costs)
    assert ring.run(290) == (10, 10, 10)
    during = ring.run(600)
    assert during[1] in (4, 5)
    assert bottleneck(costs(60), (10, 10, 10)) / bottleneck(costs(60), during) >= 1.5
    assert ring.run(300)[1] in (9, 10)
    assert ring.bottleneck <= 11.2


def test_measurements_that_change_on_the_way_change_the_goal() -> None:
    def costs(now: float) -> Sequence[Cost]:
        return [Cost(3.0 if now < 3 else 1.0, 0.0), Cost(1.0, 0.0)]

    slow = Rules(window=8, every_s=1.0)
    ring = Ring(Balancer((20, 20), rules=slow), costs, noise=lambda rng: 1.0)
    ring.run(30)
    assert ring.balancer.goal == (10, 30)
    assert 10 < ring.balancer.split[0] < 20
    ring.run(200)
    assert ring.balancer.goal is None
    assert ring.bottleneck <= 20 / (1 - slow.gain)


def test_a_rank_without_blocks_is_tried_again_and_ever_less_often() -> None:
    """Nobody can measure its blocks while it has none; where it is as slow as before, it loses the one that it gets."""
    rules = Rules(window=8, trust_s=20.0, longest_trust_s=100.0)
    ring = Ring(Balancer((2, 2, 2), rules=rules), steady(Cost(1.0, 0.1), Cost(1.0, 0.1), Cost(9.0, 0.1)))
    ring.run(6000)
    given = [at for at, move in ring.moves if move.target == 2]
    waits = [after - before for before, after in itertools.pairwise(given)]
    assert 40 < waits[0] < 45
    assert 80 < waits[1] < 85
    assert all(100 < wait < 105 for wait in waits[2:])
    with_block = [b - a for (a, give), (b, take) in zip(ring.moves, ring.moves[1:], strict=False) if give.target == 2]
    assert all(span < 2.0 for span in with_block)
    assert ring.run(15)[2] == 0


def test_a_rank_that_was_empty_and_is_fast_again_gets_its_share() -> None:
    def costs(now: float) -> Sequence[Cost]:
        return [Cost(1.0, 0.1), Cost(1.0, 0.1), Cost(1.0 if now > 30 else 30.0, 0.1)]

    ring = Ring(Balancer((10, 10, 10), rules=RULES), costs)
    assert ring.run(250) == (15, 15, 0)
    ring.run(1500)
    assert ring.balancer.split[2] in (9, 10)


def test_blocks_that_were_never_measured_are_taken_for_like_the_others() -> None:
    ring = Ring(Balancer((3, 3, 0), rules=RULES), steady(*[Cost(1.0, 0.0)] * 3))
    assert ring.run(200) == (2, 2, 2)
    nothing = Balancer((0, 0), rules=RULES)
    for _ in range(20):
        nothing.observe(0, None, 1.0)
        nothing.observe(1, None, 1.0)
    assert nothing.costs(1.0) is None
    assert nothing.next_move(1.0) is None


def test_what_was_measured_before_a_move_does_not_count_after_it() -> None:
    balancer = Balancer((1, 1), rules=Rules(window=1))
    balancer.observe(0, 9.0, 0.0)
    balancer.observe(1, 1.0, 0.0)
    assert balancer.next_move(0.0) == Move(0, 0, 1)
    balancer.observe(0, 0.0, 0.0)  # still with its block
    assert balancer.costs(1.0) == [Cost(9.0, 0.0), Cost(1.0, 0.0)]


def test_no_rank_gets_more_than_its_memory_holds() -> None:
    ring = Ring(Balancer((10, 10, 10), [None, 12, 13], RULES), steady(Cost(3.0, 0.1), Cost(1.0, 0.1), Cost(1.0, 0.1)))
    for _ in range(300):
        split = ring.run(1)
        assert split[1] <= 12
        assert split[2] <= 13
    assert split == (5, 12, 13)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ([9, None, None], "rank 0 holds 10 blocks, and its memory 9"),
        ([None, None], "3 ranks and limits for 2"),
    ],
)
def test_limits_that_the_first_split_breaks_are_refused(limits: list[int | None], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Balancer((10, 10, 10), limits)


def test_a_rank_that_no_block_could_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 1 has memory for no block"):
        Balancer((10, 0, 10), [None, 0, None])
    assert Balancer((0, 10, 0), [0, None, 0]).split == (0, 10, 0)


def test_an_operator_can_hold_it() -> None:
    ring = Ring(Balancer((20, 20), rules=RULES), steady(Cost(3.0, 0.0), Cost(1.0, 0.0)))
    ring.run(25)
    held = ring.balancer.split
    assert held != (20, 20)
    ring.balancer.freeze()
    assert ring.balancer.frozen
    assert ring.run(200) == held
    ring.balancer.thaw()
    assert ring.run(200)[0] in (10, 11)


@pytest.mark.parametrize(("block_s", "extra_s"), [(-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf")), (None, -0.1)])
def test_what_is_no_time_is_refused(block_s: float | None, extra_s: float) -> None:
    with pytest.raises(ValueError, match="rank 1 took"):
        Balancer((2, 2)).observe(1, block_s, extra_s)


@pytest.mark.parametrize(
    "wrong", [{"gain": 0.0}, {"gain": 1.0}, {"window": 0}, {"every_s": -1.0}, {"trust_s": 0.0}, {"trust_s": 9999.0}]
)
def test_rules_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rules(**wrong)  # type: ignore[arg-type]
