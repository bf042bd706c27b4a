from __future__ import annotations

import os

import pytest

from streamgen.bench.link import Quality
from streamgen.bench.measure import Sample
from streamgen.bench.media import Case, Side, back_to_normal, longest_freeze, measure_ours, measure_stock
from streamgen.bench.server import Server
from streamgen.errors import ConfigError, ConnectError
from tests.support.echo_service import Behaviour, EchoService

SMALL = "192x64/vp8"
DELAY_S = 0.2


def samples(*seen: tuple[float, float]) -> list[Sample]:
    """Of (received, latency) in s."""
    return [Sample(received, received - latency, latency) for received, latency in seen]


def even(count: int, latency: float = 0.02) -> list[Sample]:
    """Results at 30 a second that all took as long."""
    return samples(*((n / 30, latency) for n in range(count)))


def test_a_case_is_read_as_it_is_written():
    for text in ("832x480/h264", "512x288/vp8"):
        assert str(Case.parse(text)) == text
    assert Case.parse("832X480/H264") == Case(832, 480, "h264")


@pytest.mark.parametrize(
    "text", ["", "832x480", "832x480/av1", "832/h264", "x480/h264", "-832x480/h264", "8e2x480/vp8"]
)
def test_what_is_no_case_is_said(text: str):
    with pytest.raises(ConfigError, match="a case is written"):
        Case.parse(text)


@pytest.mark.parametrize("size", ["190x64", "192x62", "833x480", "832x481"])
def test_a_size_that_no_barcode_or_codec_can_have(size: str):
    with pytest.raises(ConfigError, match=f"even size of 192x64 or more, not {size}"):
        Case.parse(f"{size}/h264")


def test_figures_pool_the_rounds():
    side = Side([even(100, 0.010), even(100, 0.030)], cpu_s=2.0, client_cpu_s=1.0, seconds=8.0)
    figures = side.figures()
    assert figures == {"p50": 20.0, "p95": 30.0, "p99": 30.0, "cpu": 0.25, "client_cpu": 0.125, "fps": 25.0}


def test_no_result_at_all_is_an_error_and_no_figure():
    with pytest.raises(ConnectError, match="no frame came back"):
        Side([[], []], seconds=8.0).figures()


def test_steadiness_is_of_the_worst_round():
    grows = samples(*((n / 30, 0.02 + 0.01 * (n >= 75)) for n in range(100)))
    steady = Side([even(100, 0.05), grows, even(100)], seconds=10).steadiness()
    assert (steady["first_quarter_p50"], steady["last_quarter_p50"]) == (20.0, 30.0)
    assert steady["longest_freeze"] == pytest.approx(1000 / 30, abs=0.1)
    assert steady["back_to_normal"] == 0.0


def test_a_freeze_and_the_time_until_latency_is_normal_again():
    early, late = even(30), [(2.0 + n / 30, max(0.02, 0.5 - n / 30)) for n in range(60)]
    seen = early + samples(*late)
    assert longest_freeze(seen) == pytest.approx(2.0 - 29 / 30)
    usual = 1.5 * 0.02 + 1 / 30
    caught_up = next(received for received, latency in late if latency <= usual)
    assert back_to_normal(seen) == pytest.approx(caught_up - 2.0)


def test_a_latency_that_never_gets_back_counts_to_the_end():
    seen = even(60) + samples(*((4.0 + n / 30, 0.8) for n in range(31)))
    assert back_to_normal(seen) == pytest.approx(1.0)


def test_results_that_never_stop_are_no_freeze():
    assert longest_freeze([]) == longest_freeze(even(1)) == back_to_normal(even(50)) == 0.0


async def test_our_round_measures_the_delay_of_the_service():
    with EchoService(Behaviour(delay_s=DELAY_S)) as service:
        side = Side()
        await measure_ours(Server(service.url, os.getpid()), Case.parse(SMALL), 1.0, side)
    (seen,) = side.samples
    assert len(seen) > 10
    assert min(sample.latency for sample in seen) >= DELAY_S
    assert side.seconds >= 1.0
    assert 0 < side.client_cpu_s <= side.cpu_s + 0.02  # this process is client and server; /proc counts in hundredths


async def test_our_round_goes_through_a_bad_link():
    with EchoService(Behaviour()) as service:
        side = Side()
        far = Quality(delay_s=DELAY_S / 2)
        await measure_ours(Server(service.url, os.getpid()), Case.parse(SMALL), 1.0, side, far)
    assert min(sample.latency for sample in side.samples[0]) >= DELAY_S


async def test_a_slow_reader_gets_fewer_results():
    with EchoService(Behaviour()) as service:
        side = Side()
        await measure_ours(Server(service.url, os.getpid()), Case.parse(SMALL), 1.0, side, reading_s=0.25)
    assert 1 <= len(side.samples[0]) <= 5


@pytest.mark.parametrize("codec", ["h264", "vp8"])
async def test_the_stock_round_reads_back_what_it_sent(codec: str):
    side = Side()
    await measure_stock(Case(320, 192, codec), 1.0, side)
    (seen,) = side.samples
    assert len(seen) > 10
    assert min(sample.latency for sample in seen) > 0
    assert side.cpu_s > 0
