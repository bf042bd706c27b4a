from __future__ import annotations

import pytest

from streamgen.bench.measure import Sample
from streamgen.bench.media import Case, Side, back_to_normal, longest_freeze
from streamgen.errors import ConfigError, ConnectError

USUAL = 0.05


def samples(*times: float, late: dict[float, float] | None = None) -> list[Sample]:
    """Results at these times, `late` ones with another latency than the usual."""
    return [Sample(time, time, (late or {}).get(time, USUAL)) for time in times]


def steady(count: int, begin: float = 0.0) -> list[Sample]:
    return samples(*(begin + number / 30 for number in range(count)))


def test_a_case_is_read_and_written_as_it_is_named() -> None:
    assert Case.parse("832x480/H264") == Case(832, 480, "h264")
    assert str(Case(512, 288, "vp8")) == "512x288/vp8"
    for text in ("832/h264", "832x480", "832x480/av1", "x/vp8"):
        with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
            Case.parse(text)


def test_a_freeze_is_the_longest_time_without_a_result() -> None:
    assert longest_freeze(steady(10), (0.0, 0.3)) == pytest.approx(1 / 30)
    assert longest_freeze([*steady(10), *steady(10, begin=0.8)], (0.0, 1.1)) == pytest.approx(0.8 - 9 / 30)
    assert longest_freeze(steady(10), (0.0, 10.0)) == pytest.approx(9.7)  # and no more after a while is one too
    assert longest_freeze([], (0.0, 10.0)) == 10.0


def test_normal_is_where_latency_is_as_usual_after_a_freeze() -> None:
    before = steady(30)
    assert back_to_normal(before) == 0.0
    after = samples(1.5, 1.53, 1.56, 1.6, late={1.5: 0.5, 1.53: 0.4, 1.56: 0.3})
    assert back_to_normal([*before, *after]) == pytest.approx(0.1)
    never = samples(1.5, 1.6, 1.7, late={1.5: 0.5, 1.6: 0.5, 1.7: 0.5})
    assert back_to_normal([*before, *never]) == pytest.approx(0.2)


def test_figures_are_of_all_rounds_and_steadiness_of_the_worst() -> None:
    slower = [Sample(it.received, it.media_time, 0.1 if it.received > 0.7 else USUAL) for it in steady(30)]
    side = Side([steady(30), slower], [(0.0, 1.0)] * 2, cpu_s=1.0, seconds=2.0, sent=80)
    assert side.figures() == {"p50": 50.0, "p95": 100.0, "p99": 100.0, "cpu": 0.5, "fps": 30.0, "back": 0.75}
    worst = side.steadiness()
    assert (worst["first_quarter_p50"], worst["last_quarter_p50"]) == (50.0, 100.0)
    with pytest.raises(ConnectError, match="no result"):
        Side().figures()
