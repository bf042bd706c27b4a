from __future__ import annotations

from itertools import islice, pairwise
from random import Random

import pytest

from streamgen.core import Params
from streamgen.simulation.trace import CROWDS, Source

SOURCE = Source(16.0, jitter_s=0.015, stall_every_s=2.0, stall_s=0.2)


def test_frames_come_in_their_order_after_they_were_taken_at_the_cameras_rate() -> None:
    arrivals = list(islice(SOURCE.arrivals(5.0, Random(1)), 1600))
    assert all(a.media < b.media and a.at <= b.at for a, b in pairwise(arrivals))
    assert all(arrival.at >= arrival.media >= 4.9 for arrival in arrivals)
    assert arrivals[-1].media - arrivals[0].media == pytest.approx(100.0, rel=0.01)


def test_a_stalled_network_gives_its_frames_all_at_once() -> None:
    gaps = [b.at - a.at for a, b in pairwise(islice(SOURCE.arrivals(0.0, Random(1)), 1600))]
    assert max(gaps) > 0.2
    assert gaps.count(0.0) > 50
    even = [b.at - a.at for a, b in pairwise(islice(Source(16.0).arrivals(0.0, Random(1)), 1600))]
    assert max(even) < 0.1


def test_the_same_seed_gives_the_same_trace() -> None:
    first, again, other = (list(islice(SOURCE.arrivals(0.0, Random(seed)), 50)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", CROWDS)
def test_as_many_are_there_in_the_mean_as_are_wanted(name: str) -> None:
    visits = CROWDS[name]([Params()] * 40, 400.0, Random(3))
    assert all(0 <= visit.comes < visit.leaves <= 400.0 for visit in visits)
    assert len({visit.name for visit in visits}) == len(visits)
    present = sum(visit.leaves - visit.comes for visit in visits) / 400.0
    assert present == pytest.approx(40, rel=0.15)


def test_a_day_has_its_quiet_and_its_busy_hours() -> None:
    visits = CROWDS["diurnal"]([Params()] * 100, 200.0, Random(4))

    def present(at: float) -> int:
        return sum(visit.comes <= at < visit.leaves for visit in visits)

    assert present(105.0) > 2 * present(5.0)
