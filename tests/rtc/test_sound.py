from __future__ import annotations

import asyncio
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamgen.rtc import sound as sounds
from streamgen.rtc.sound import BUFFERED_S, MOST_KEPT, TOLERANCE_S, Sound
from tests.support.service import ManualClock
from tests.support.webrtc import no_leaks


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """Sleeping moves it on."""
    clock = ManualClock()
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        clock.time += seconds
        await real(0)

    monkeypatch.setattr(sounds.asyncio, "sleep", sleep)
    return clock


def piece(number: int) -> av.AudioFrame:
    made = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), format="s16", layout="mono")
    made.sample_rate, made.pts, made.time_base = 48000, 960 * number, Fraction(1, 48000)
    return made


class Source(MediaStreamTrack):
    """Pieces 20 ms apart on the clock, then the end."""

    kind = "audio"

    def __init__(self, clock: ManualClock, count: int) -> None:
        super().__init__()
        self._clock = clock
        self._left = [piece(number) for number in range(count)]

    async def recv(self) -> av.AudioFrame:
        if not self._left:
            raise MediaStreamError
        self._clock.time += 0.02
        return self._left.pop(0)


async def test_pieces_come_as_late_as_pictures_do(clock: ManualClock) -> None:
    sound = Sound(lambda: 0.4, clock)
    track = sound.listener()
    began = clock.now()
    await sound.take(Source(clock, 10))
    for number in range(10):
        heard = await track.recv()
        assert heard.pts == 960 * number
        arrived = began + 0.02 * (number + 1)
        assert clock.now() - arrived == pytest.approx(0.4 - BUFFERED_S)


async def test_a_small_change_of_the_delay_moves_nothing_and_a_large_one_does(clock: ManualClock) -> None:
    delay = 0.4
    sound = Sound(lambda: delay, clock)
    track = sound.listener()
    held = []
    for change in (0.0, 0.9 * TOLERANCE_S, 3 * TOLERANCE_S):
        delay = 0.4 + change
        arrived = clock.now() + 0.02
        await sound.take(Source(clock, 1))
        await track.recv()
        held.append(clock.now() - arrived + BUFFERED_S)
    assert held == pytest.approx([0.4, 0.4, 0.4 + 3 * TOLERANCE_S])


async def test_what_is_too_late_is_skipped(clock: ManualClock) -> None:
    delay = 2.0
    sound = Sound(lambda: delay, clock)
    track = sound.listener()
    await sound.take(Source(clock, 50))
    delay = 0.2  # pictures are shown much sooner now
    heard = await track.recv()
    assert heard.pts is not None
    assert heard.pts // 960 > 30


async def test_each_listener_hears_everything_and_keeps_little(clock: ManualClock) -> None:
    sound = Sound(lambda: 1000.0, clock)
    one, two = sound.listener(), sound.listener()
    await sound.take(Source(clock, MOST_KEPT + 20))
    for track in (one, two):
        assert (await track.recv()).pts == 960 * 20
    two.stop()
    await sound.take(Source(clock, 1))
    assert sound._listeners == {one}


async def test_a_stopped_track_ends(clock: ManualClock) -> None:
    async with no_leaks():
        track = Sound(lambda: 0.0, clock).listener()
        waiting = asyncio.create_task(track.recv())
        await asyncio.sleep(0)
        track.stop()
        with pytest.raises(MediaStreamError):
            await waiting
