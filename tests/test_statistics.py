from __future__ import annotations

from streamgen.statistics import WINDOW_S, Latencies, Rate, Statistics, percentile


def test_rate_counts_the_last_seconds_only() -> None:
    rate = Rate()
    assert rate.per_second(0.0) == 0.0
    for number in range(200):
        rate.add(number / 20)
    assert abs(rate.per_second(10.0) - 20.0) < 0.3
    assert rate.per_second(10.0 + 2 * WINDOW_S) == 0.0


def test_latencies_summary() -> None:
    latencies = Latencies()
    assert latencies.summary_ms(0.0) == {}
    for number in range(1, 101):
        latencies.add(1.0, number / 1000)
    assert latencies.summary_ms(2.0) == {"p50": 50.0, "p95": 95.0, "max": 100.0}
    assert latencies.summary_ms(2.0 + WINDOW_S) == {}


def test_percentile_of_few() -> None:
    assert percentile([3.0], 0.95) == 3.0
    assert percentile([1.0, 2.0], 0.5) == 1.0
    assert percentile([1.0, 2.0], 0.95) == 2.0


def test_memory_does_not_grow_with_time() -> None:
    rate, latencies = Rate(), Latencies()
    for number in range(5000):
        rate.add(number / 1000)
        latencies.add(number / 1000, 0.1)
    assert len(rate._times) == len(latencies._samples) == 1024


def test_counters() -> None:
    statistics = Statistics()
    statistics.came_in(0.0)
    statistics.came_in(0.1)
    statistics.went_out(0.2, 0.2, missed=True)
    statistics.dropped("late", 1)
    assert (statistics.frames_in, statistics.frames_out, statistics.deadline_misses) == (2, 1, 1)
    assert statistics.drops == {"late": 1}
