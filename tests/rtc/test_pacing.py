from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.rtc.pacing import Decimator, Pacer


def taken(source_fps: float, fps: float, seconds: float = 20.0, tremble: float = 0.0) -> int:
    decimator, noise = Decimator(), random.Random(1)
    times = [number / source_fps + noise.uniform(-tremble, tremble) for number in range(round(seconds * source_fps))]
    return sum(decimator.take(time, fps) for time in times)


@pytest.mark.parametrize(("source", "fps", "expected"), [(30, 16, 16), (60, 16, 16), (30, 30, 30), (24, 16, 16)])
def test_a_faster_source_is_thinned_to_the_wanted_rate(source: float, fps: float, expected: float) -> None:
    assert taken(source, fps) / 20 == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("source", "fps"), [(16, 16), (15, 16), (10, 30), (16, 16.2)])
def test_of_a_slower_source_every_frame_is_taken(source: float, fps: float) -> None:
    assert taken(source, fps, tremble=0.002) == 20 * source


def test_taken_frames_lie_evenly() -> None:
    decimator = Decimator()
    times = [number / 30 for number in range(600) if decimator.take(number / 30, 16)]
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) < 0.101
    assert min(gaps) > 0.03


def test_a_pause_is_not_followed_by_a_burst() -> None:
    decimator = Decimator()
    assert decimator.take(0.0, 10)
    burst = [decimator.take(5.0 + number / 60, 10) for number in range(12)]
    assert sum(burst) <= 4


def test_timestamps_that_jump_back_begin_anew() -> None:
    decimator = Decimator()
    assert decimator.take(1000.0, 10)
    assert not decimator.take(999.99, 10)
    assert decimator.take(3.0, 10)
    assert decimator.take(3.1, 10)


@given(st.lists(st.floats(0, 0.5), min_size=2, max_size=200), st.floats(1, 60))
def test_never_more_than_the_wanted_rate_and_never_none(gaps: list[float], fps: float) -> None:
    decimator, time, times = Decimator(), 0.0, []
    for gap in gaps:
        time += gap
        if decimator.take(time, fps):
            times.append(time)
    assert times
    assert len(times) <= (times[-1] - times[0]) * fps + 3


def chunked(
    pacer: Pacer, chunks: int, service: float = 0.2, interval: float = 1 / 16, start: float = 0.0
) -> list[float]:
    """Show times of a stream in chunks of four, whose media clock is 1000 s ahead of the local one."""
    shown = []
    for chunk in range(chunks):
        frames = [start + (4 * chunk + i) * interval for i in range(4)]
        finished = frames[-1] + service
        shown += [pacer.schedule(1000 + frame, finished) for frame in frames]
    return shown


def test_frames_of_a_chunk_come_out_evenly() -> None:
    shown = chunked(Pacer(), 20)
    gaps = [b - a for a, b in pairwise(shown)]
    assert min(gaps) > 0.9 / 16
    assert max(gaps) < 1.1 / 16


def test_the_delay_is_what_was_measured_and_no_more() -> None:
    shown = chunked(Pacer(), 20)
    assert shown[-1] - (79 / 16) == pytest.approx(3 / 16 + 0.2, abs=0.01)


def test_the_delay_rises_at_once_and_falls_gently() -> None:
    pacer = Pacer()
    chunked(pacer, 10, service=0.1)
    slow = chunked(pacer, 20, service=0.3, start=2.5)
    assert slow[-1] - (2.5 + 79 / 16) == pytest.approx(3 / 16 + 0.3, abs=0.01)
    fast = chunked(pacer, 60, service=0.1, start=7.5)
    gaps = [b - a for a, b in pairwise(fast)]
    assert min(gaps) > 0.8 / 16
    assert fast[-1] - (7.5 + 239 / 16) == pytest.approx(3 / 16 + 0.1, abs=0.01)


def test_a_much_faster_engine_is_followed_at_once() -> None:
    pacer = Pacer()
    chunked(pacer, 20, service=0.8)
    fast = chunked(pacer, 4, service=0.1, start=5.0)
    assert fast[-1] - (5.0 + 15 / 16) == pytest.approx(3 / 16 + 0.1, abs=0.02)


def test_one_hiccup_does_not_delay_what_comes_after() -> None:
    pacer = Pacer()
    chunked(pacer, 20)
    late = chunked(pacer, 1, service=0.9, start=5.0)
    assert late == [pytest.approx(5 + 3 / 16 + 0.9)] * 4
    after = chunked(pacer, 1, start=5.25)
    assert after[-1] - (5.25 + 3 / 16) == pytest.approx(3 / 16 + 0.2, abs=0.02)


def test_a_source_that_makes_up_for_a_stall_is_not_held_back() -> None:
    pacer = Pacer()
    media = 0.0
    for chunk in range(8):  # two seconds of frames, all at once
        finished = 10.0 + chunk * 0.05
        for _ in range(4):
            shown = pacer.schedule(media, finished)
            assert shown - finished < 3 / 16 + Pacer.SLACK_S + 1 / 16
            media += 1 / 16
    steady = chunked(pacer, 40, start=2.0)
    assert steady[-1] - (2.0 + 159 / 16) == pytest.approx(3 / 16 + 0.2, abs=0.01)


def test_a_new_time_line_is_taken_up() -> None:
    pacer = Pacer()
    pacer.schedule(50.0, 10.0)
    assert pacer.schedule(0.0, 11.0) == 11.0
    assert pacer.schedule(0.1, 11.1) == pytest.approx(11.1)
    assert pacer.schedule(40_000.0, 12.0) == 12.0


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 1), st.integers(1, 5)), min_size=1, max_size=50))
def test_never_before_it_is_finished_and_never_held_longer_than_a_chunk_needs(
    chunks: list[tuple[float, float, int]],
) -> None:
    pacer, media, finished, span = Pacer(), 0.0, 0.0, 0.0
    for gap, service, count in chunks:
        frames = [media + i * gap for i in range(count)]
        media = frames[-1] + gap
        finished = max(finished + 1e-3, frames[-1] + service)
        span = max(span, frames[-1] - frames[0])
        for frame in frames:
            shown = pacer.schedule(frame, finished)
            assert finished <= shown <= finished + span + Pacer.SLACK_S + 1e-6


def test_a_result_that_came_in_time_is_not_held_until_it_is_late() -> None:
    pacer = Pacer()
    pacer.schedule(0.0, 0.5)
    assert pacer.schedule(0.1, 0.51, latest=0.55) == 0.55
    assert 0.6 < pacer.schedule(0.2, 0.6, latest=0.9) < 0.9
    assert pacer.schedule(0.3, 0.7, latest=0.65) > 0.7  # late in any case, so at its distance
