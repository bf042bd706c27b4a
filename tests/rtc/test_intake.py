from __future__ import annotations

import asyncio
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamgen.core import Frame, Params
from streamgen.rtc.intake import Intake
from streamgen.session import Session
from tests.support.service import SMALL, ManualClock, make_session, settled
from tests.support.webrtc import until


class Camera(MediaStreamTrack):
    """Has a number of frames at hand at once, `fps` a second by their timestamps."""

    kind = "video"

    def __init__(self, count: int, fps: float = 16.0, size: tuple[int, int] = (64, 64)) -> None:
        super().__init__()
        self._numbers: Iterator[int] = iter(range(count))
        self._fps = fps
        self._size = size
        self.over = asyncio.Event()

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(0)
        number = next(self._numbers, None)
        if number is None:
            await self.over.wait()
            raise MediaStreamError
        return self.picture(number)

    def picture(self, number: int) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(np.full((*self._size, 3), 100, np.uint8), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts = round(number * 90000 / self._fps)
        frame.time_base = Fraction(1, 90000)
        return frame


async def drain(session: Session, camera: Camera, frames: int) -> None:
    """Runs the intake until all frames of the camera were sorted, and ends it."""
    intake = asyncio.create_task(Intake(camera, session, ManualClock()).run())
    await until(lambda: session.statistics.frames_in >= frames)
    while True:  # the last one may still be scaled
        before = (len(session._inbox), sum(session.statistics.drops.values()))
        await asyncio.sleep(0.05)
        if before == (len(session._inbox), sum(session.statistics.drops.values())):
            break
    camera.over.set()
    await intake


def connected_session() -> Session:
    session = make_session()
    session.connected()
    return session


async def test_a_frame_keeps_its_identity() -> None:
    session, camera = connected_session(), Camera(3)
    await drain(session, camera, 3)
    session_frames = list(session._inbox)
    assert session_frames
    for frame in session_frames:
        assert frame.pts == frame.id * 5625
        assert frame.time_base == Fraction(1, 90000)
        assert frame.deadline == frame.arrived + 1.0
        assert frame.pixels.shape == (64, 64, 3)
        assert abs(int(frame.pixels.mean()) - 100) < 3


async def test_a_faster_camera_is_thinned_and_everything_is_counted() -> None:
    session, camera = connected_session(), Camera(300, fps=30)
    await drain(session, camera, 300)
    drops = session.stats().drops
    assert abs(drops["rate"] - 140) <= 2
    assert drops.keys() <= {"rate", "burst", "overload"}
    session.close()
    assert session.stats().frames_in == 300
    assert settled(session)


async def test_a_paused_session_still_drains_the_track() -> None:
    session, camera = connected_session(), Camera(50)
    session.pause()
    await drain(session, camera, 50)
    assert session.stats().drops == {"paused": 50}


async def test_frames_are_scaled_to_the_parameters_of_now() -> None:
    session, camera = connected_session(), Camera(4, size=(480, 640))
    session.update({"width": 128})
    await drain(session, camera, 4)
    assert {frame.pixels.shape for frame in session._inbox} == {(64, 128, 3)}


async def test_what_was_not_asked_for_follows_the_camera() -> None:
    session, camera = make_session(params=Params(), asked=()), Camera(4, size=(640, 480))
    session.connected()
    await drain(session, camera, 4)
    assert {frame.pixels.shape for frame in session._inbox} == {(272, 208, 3)}
    assert session.statistics.drops.get("restart") is None


async def test_a_camera_that_is_turned_turns_the_result() -> None:
    class Turned(Camera):
        async def recv(self) -> av.VideoFrame:
            await asyncio.sleep(0.01)  # each is scaled before the next comes
            return await super().recv()

        def picture(self, number: int) -> av.VideoFrame:
            self._size = (480, 640) if number < 4 else (640, 480)
            return super().picture(number)

    session = make_session(params=Params(), asked=())
    session.connected()
    shapes = []
    put = session.put

    def noted(frame: Frame) -> None:
        shapes.append(frame.pixels.shape[:2])
        put(frame)

    session.put = noted  # type: ignore[method-assign]
    await drain(session, Turned(30), 30)
    assert (shapes[0], shapes[-1]) == ((208, 272), (272, 208))
    assert shapes == sorted(shapes)  # once, and not back
    assert (session.params.width, session.params.height) == (208, 272)
    session.close()
    assert settled(session)


async def test_the_whole_picture_is_kept_where_that_is_asked_for() -> None:
    session, camera = connected_session(), Camera(4, size=(64, 128))
    session.update({"fit": "contain"})
    await drain(session, camera, 4)
    for frame in session._inbox:
        assert not frame.pixels[:16].any()
        assert not frame.pixels[48:].any()
        assert frame.pixels[16:48].min() > 90


async def test_a_picture_that_cannot_be_scaled_is_dropped_and_the_next_is_taken() -> None:
    class Odd(Camera):
        def picture(self, number: int) -> av.VideoFrame:
            self._size = (2, 2) if number == 0 else (64, 64)
            return super().picture(number)

        async def recv(self) -> av.VideoFrame:
            await asyncio.sleep(0.02)
            return await super().recv()

    session = connected_session()
    session.update({"width": SMALL.width * 2})  # a crop to this shape leaves nothing of 2x2 pixels
    await drain(session, Odd(3), 3)
    assert session.stats().drops == {"error": 1}
    assert len(session._inbox) == 2


async def test_frames_without_a_timestamp_get_their_time_of_arrival() -> None:
    class Timeless(Camera):
        def picture(self, number: int) -> av.VideoFrame:
            frame = super().picture(number)
            frame.pts = None
            return frame

    session = connected_session()
    await drain(session, Timeless(1), 1)
    assert [frame.media_time for frame in session._inbox] == [pytest.approx(100.0)]


async def test_cancelling_in_the_middle_leaves_nothing_unaccounted() -> None:
    session, camera = connected_session(), Camera(20, size=(1080, 1920))
    intake = asyncio.create_task(Intake(camera, session, ManualClock()).run())
    await until(lambda: session.statistics.frames_in >= 20)
    intake.cancel()
    await asyncio.wait([intake])
    session.close()
    assert settled(session)
