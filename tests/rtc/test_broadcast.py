from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from aiortc.codecs import depayload
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from streamgen.clock import MonotonicClock
from streamgen.core import Clock, Frame
from streamgen.rtc.broadcast import Broadcast
from streamgen.rtc.encoding import Encoded, Seat
from streamgen.scheduler.stream import Ran
from streamgen.session import Session
from tests.support.service import TIME_BASE, feed, make_session, settled
from tests.support.webrtc import until

CODECS = {"video/VP8": "vp8", "video/H264": "h264"}


def finish_chunk(session: Session, level: int) -> None:
    view = session.view()
    assert view is not None
    work = session.submit([frame.id for frame in view.frames])
    session.deliver(work, np.full((len(work.frames), 64, 64, 3), level, np.uint8), Ran("sequential", 1, 0.1))


def chunk(session: Session, clock: Clock, level: int) -> list[Frame]:
    frames = feed(session, clock, 4)  # type: ignore[arg-type]
    finish_chunk(session, level)
    return frames


@asynccontextmanager
async def shown() -> AsyncIterator[tuple[Session, Broadcast, Clock]]:
    """A live session whose results are shown."""
    clock = MonotonicClock()
    session = make_session(clock=clock)  # type: ignore[arg-type]
    session.connected()
    broadcast = Broadcast(session, clock)
    task = asyncio.create_task(broadcast.run())
    try:
        yield session, broadcast, clock
    finally:
        session.close()
        await task
        assert settled(session)


class Screen:
    """Decodes what is put on a seat."""

    def __init__(self, seat: Seat, codec: str) -> None:
        self._seat = seat
        self._decoder = av.CodecContext.create(CODECS[codec], "r")
        self._parameters = RTCRtpCodecParameters(mimeType=codec, clockRate=90000, payloadType=96)
        self.taken: list[Encoded] = []

    async def level(self) -> int:
        """Mean grey of the next picture."""
        encoded = await self._seat.next()
        self.taken.append(encoded)
        data = b"".join(depayload(self._parameters, payload) for payload in encoded.payloads)
        (picture,) = self._decoder.decode(av.Packet(data)) or self._decoder.decode(None)
        assert isinstance(picture, av.VideoFrame)
        return int(picture.to_ndarray(format="rgb24").mean())


def screen(broadcast: Broadcast, codec: str = "video/VP8") -> Screen:
    seat = broadcast.seat(codec)
    assert seat is not None
    seat.open()
    return Screen(seat, codec)


async def test_results_carry_the_timestamps_of_their_sources() -> None:
    async with shown() as (session, broadcast, clock):
        viewer = screen(broadcast)
        sources = chunk(session, clock, 180)
        assert all([abs(await viewer.level() - 180) < 3 for _ in sources])
        assert [encoded.timestamp for encoded in viewer.taken] == [source.pts for source in sources]
        assert session.stats().frames_out == 4


async def test_it_waits_for_results_and_ends_with_the_session() -> None:
    async with shown() as (session, broadcast, _):
        seat = broadcast.seat("video/h264")
        assert seat is not None
        waiting = asyncio.create_task(seat.next())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        session.close()
        with pytest.raises(MediaStreamError):
            await waiting


async def test_what_a_reset_took_back_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown() as (session, broadcast, clock):
        viewer = screen(broadcast)
        encoded, encode = list[Any](), broadcast._encode
        monkeypatch.setattr(broadcast, "_encode", lambda *args: encoded.append(encode(*args)) or encoded[-1])
        chunk(session, clock, 50)
        await viewer.level()
        await until(lambda: len(encoded) == 2)  # the second waits for its time now
        session.reset()
        chunk(session, clock, 200)
        assert abs(await viewer.level() - 200) < 3
        assert viewer.taken[-1].key  # what it would refer to was withheld


async def test_viewers_of_one_codec_share_one_encode_and_another_codec_has_its_own() -> None:
    async with shown() as (session, broadcast, clock):
        one, two, other = screen(broadcast), screen(broadcast), screen(broadcast, "video/H264")
        chunk(session, clock, 90)
        levels = [await viewer.level() for viewer in (one, two, other) for _ in range(2)]
        assert all(abs(level - 90) < 4 for level in levels)
        assert all(a is b for a, b in zip(one.taken, two.taken, strict=True))
        assert one.taken[0].payloads != other.taken[0].payloads
        assert session.stats().frames_out <= 4  # not once for each viewer


async def test_who_comes_later_begins_with_a_key_frame() -> None:
    async with shown() as (session, broadcast, clock):
        first = screen(broadcast)
        chunk(session, clock, 60)
        for _ in range(4):
            await first.level()
        late = screen(broadcast)
        chunk(session, clock, 120)
        assert abs(await late.level() - 120) < 4
        assert late.taken[0].key
        assert [encoded.key for encoded in first.taken] == [True, False, False, False]


async def test_who_comes_while_nothing_new_is_shown_gets_the_last_picture() -> None:
    async with shown() as (session, broadcast, clock):
        first = screen(broadcast)
        sources = chunk(session, clock, 60)
        for _ in range(4):
            await first.level()
        session.pause()
        late = screen(broadcast)
        assert abs(await late.level() - 60) < 4
        assert late.taken[0].timestamp > sources[-1].pts
        session.resume()
        chunk(session, clock, 140)
        assert abs(await late.level() - 140) < 4


async def test_what_nobody_watches_is_counted_as_that() -> None:
    async with shown() as (session, broadcast, clock):
        chunk(session, clock, 60)
        await until(lambda: session.stats().drops.get("unwatched", 0) == 4)
        viewer = screen(broadcast)
        seat = broadcast.seat("video/h264")
        assert seat is not None
        assert broadcast.viewers == 2
        seat.leave()
        assert broadcast.viewers == 1
        chunk(session, clock, 160)
        assert abs(await viewer.level() - 160) < 4


async def test_what_is_late_is_shown_or_dropped_as_the_session_likes() -> None:
    async with shown() as (session, broadcast, clock):
        viewer = screen(broadcast)
        await session.update({"slo_ms": 50.0, "late": "drop"})
        late = feed(session, clock, 4)  # type: ignore[arg-type]
        await asyncio.sleep(0.06)
        finish_chunk(session, 50)
        await until(lambda: session.stats().drops.get("late") == len(late))
        await session.update({"late": "show"})
        feed(session, clock, 4)  # type: ignore[arg-type]
        await asyncio.sleep(0.06)
        finish_chunk(session, 210)
        assert abs(await viewer.level() - 210) < 4
        assert session.stats().deadline_misses == 1


async def test_a_seat_whose_viewer_is_not_there_yet_burdens_nobody() -> None:
    async with shown() as (session, broadcast, clock):
        first, early = screen(broadcast), broadcast.seat("video/vp8")
        assert early is not None
        early._encoding._key_frames._interval_s = 0.0
        for level in (60, 90, 120, 150):
            chunk(session, clock, level)
            for _ in range(4):
                await first.level()
        assert [encoded.key for encoded in first.taken] == [True] + [False] * 15
        assert len(early._queue) == 0
        early._encoding.follow_estimates()
        first._seat.estimated(4_000_000)
        assert early._encoding._encoder.target_bitrate == 4_000_000


@pytest.mark.parametrize("codec", CODECS)
async def test_the_time_line_goes_on_where_a_client_comes_back(codec: str) -> None:
    """aiortc counts from 0 with every connection, and libvpx takes no time before its first."""
    async with shown() as (session, broadcast, clock):
        viewer = screen(broadcast, codec)
        for begin, level in ((5_000_000, 60), (0, 200)):  # of the media timestamps
            for number in range(4):
                pixels = np.zeros((64, 64, 3), np.uint8)
                now = clock.now()
                session.put(Frame(session.came_in(), begin + 5625 * number, TIME_BASE, now, now + 1, pixels))
            finish_chunk(session, level)
            assert all([abs(await viewer.level() - level) < 4 for _ in range(4)])
        times = [encoded.timestamp for encoded in viewer.taken]
        assert times == sorted(set(times))


async def test_a_codec_that_cannot_be_encoded_has_no_seats() -> None:
    async with shown() as (_, broadcast, _clock):
        assert broadcast.seat("video/AV1") is None
        assert broadcast.viewers == 0


async def test_the_bitrate_is_what_the_narrowest_way_takes() -> None:
    async with shown() as (_, broadcast, _clock):
        one, two = broadcast.seat("video/vp8"), broadcast.seat("video/vp8")
        assert one is not None
        assert two is not None
        encoder = one._encoding._encoder
        one.estimated(4_000_000)
        two.estimated(1_000_000)
        assert encoder.target_bitrate == 1_000_000
        two.leave()
        assert encoder.target_bitrate == 4_000_000


def picture(key: bool) -> Encoded:
    return Encoded([b"x"], 0, key)


async def test_a_viewer_that_takes_nothing_loses_whole_runs_up_to_a_key_frame() -> None:
    async with shown() as (_, broadcast, _clock):
        seat = broadcast.seat("video/vp8")
        assert seat is not None
        seat.open()
        encoding = seat._encoding
        encoding._key_frames.pending = False
        given = [picture(key=number == 1) for number in range(40)]
        for encoded in given:
            seat.put(encoded)
        assert encoding.waited_for
        assert len(seat._queue) == 0  # and not a picture of which the one before is missing
        again = [picture(key=True), picture(key=False)]
        for encoded in again:
            seat.put(encoded)
        assert [await seat.next(), await seat.next()] == again
        assert all(not later.key for _, later in pairwise(again))
