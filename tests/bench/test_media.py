from __future__ import annotations

import os

import pytest

from streamgen.bench.link import Quality
from streamgen.bench.measure import Sample
from streamgen.bench.media import Case, Side, back_to_normal, longest_freeze, measure_ours, measure_stock
from streamgen.bench.server import Server
from streamgen.errors import ConfigError, ConnectError
from tests.support.echo_service import Behaviour, EchoService

USUAL = 0.05
SMALL = Case(192, 64, "vp8")
DELAY_S = 0.2


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


@pytest.mark.parametrize("size", ["190x64", "192x62", "833x480", "832x481"])
def test_a_size_that_no_barcode_or_codec_can_have(size: str) -> None:
    with pytest.raises(ConfigError, match=f"even size of 192x64 or more, not {size}"):
        Case.parse(f"{size}/h264")


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
    side = Side([steady(30), slower], [(0.0, 1.0)] * 2, cpu_s=1.0, client_cpu_s=0.5, seconds=2.0, sent=80)
    shares = {"cpu": 0.5, "client_cpu": 0.25, "fps": 30.0, "back": 0.75}
    assert side.figures() == {"p50": 50.0, "p95": 100.0, "p99": 100.0, **shares}
    worst = side.steadiness()
    assert (worst["first_quarter_p50"], worst["last_quarter_p50"]) == (50.0, 100.0)


def test_no_result_at_all_is_an_error_and_no_figure() -> None:
    with pytest.raises(ConnectError, match="no frame came back"):
        Side([[], []], seconds=8.0).figures()


async def test_our_round_measures_the_delay_of_the_service() -> None:
    with EchoService(Behaviour(delay_s=DELAY_S)) as service:
        side = Side()
        await measure_ours(Server(service.url, os.getpid()), SMALL, 1.0, side)
    (seen,) = side.samples
    assert len(seen) > 10
    assert min(sample.latency for sample in seen) >= DELAY_S
    assert side.seconds >= 1.0
    assert 0 < side.client_cpu_s <= side.cpu_s + 0.02  # this process is client and server; /proc counts in hundredths


async def test_our_round_goes_through_a_bad_link() -> None:
    with EchoService(Behaviour()) as service:
        side = Side()
        far = Quality(delay_s=DELAY_S / 2)
        await measure_ours(Server(service.url, os.getpid()), SMALL, 1.0, side, far)
    assert min(sample.latency for sample in side.samples[0]) >= DELAY_S


async def test_a_slow_reader_gets_fewer_results() -> None:
    with EchoService(Behaviour()) as service:
        side = Side()
        await measure_ours(Server(service.url, os.getpid()), SMALL, 1.0, side, reading_s=0.25)
    assert 1 <= len(side.samples[0]) <= 5


@pytest.mark.parametrize("codec", ["h264", "vp8"])
async def test_the_stock_round_reads_back_what_it_sent(codec: str) -> None:
    side = Side()
    await measure_stock(Case(320, 192, codec), 1.0, side)
    (seen,) = side.samples
    assert len(seen) > 10
    assert min(sample.latency for sample in seen) > 0
    assert side.cpu_s > 0
