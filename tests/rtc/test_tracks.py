from __future__ import annotations

import asyncio

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from streamgen.clock import MonotonicClock
from streamgen.rtc.tracks import OutputTrack
from streamgen.scheduler.stream import Ran
from streamgen.session import Session
from tests.support.service import ManualClock, feed, make_session, settled


def finish_chunk(session: Session, level: int) -> None:
    view = session.view()
    assert view is not None
    work = session.submit([frame.id for frame in view.frames])
    session.deliver(work, np.full((len(work.frames), 64, 64, 3), level, np.uint8), Ran("sequential", 1, 0.1))


async def test_results_carry_the_timestamps_of_their_sources() -> None:
    clock = MonotonicClock()
    session = make_session(clock=clock)  # type: ignore[arg-type]
    session.connected()
    track = OutputTrack(session, clock)
    sources = feed(session, clock, 4)  # type: ignore[arg-type]
    finish_chunk(session, 180)
    for source in sources:
        picture = await track.recv()
        assert (picture.pts, picture.time_base) == (source.pts, source.time_base)
        assert (picture.width, picture.height, picture.format.name) == (64, 64, "yuv420p")
        assert abs(int(picture.to_ndarray(format="rgb24").mean()) - 180) < 3
    assert session.stats().frames_out == 4


async def test_it_waits_for_results_and_ends_with_the_session() -> None:
    session = make_session()
    session.connected()
    track = OutputTrack(session, ManualClock())
    waiting = asyncio.create_task(track.recv())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    session.close()
    with pytest.raises(MediaStreamError):
        await waiting
    assert track.readyState == "ended"


async def test_what_a_reset_took_back_is_not_sent() -> None:
    clock = MonotonicClock()
    session = make_session(clock=clock)  # type: ignore[arg-type]
    session.connected()
    track = OutputTrack(session, clock)
    feed(session, clock, 4)  # type: ignore[arg-type]
    finish_chunk(session, 50)
    await track.recv()
    second = asyncio.create_task(track.recv())  # waits for its time
    await asyncio.sleep(0.01)
    session.reset()
    feed(session, clock, 4)  # type: ignore[arg-type]
    finish_chunk(session, 200)
    picture = await second
    assert abs(int(picture.to_ndarray(format="rgb24").mean()) - 200) < 3
    session.close()
    assert settled(session)
