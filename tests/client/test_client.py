"""The SDK against a service that keeps the contract: real WebRTC, real HTTP, on this machine's own address."""

import asyncio
import itertools
import re
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from streamgen.client import (
    Client,
    Closing,
    ConnectError,
    Moved,
    Moving,
    Quality,
    Queue,
    Restarted,
    ServiceError,
    Session,
    StateChanged,
)
from tests.support.clips import make_clip
from tests.support.echo_service import FRAME_ID_OF_UPDATES, REFUSED_PROMPT, SILENT_PROMPT, EchoService
from tests.support.webrtc import Camera

pytestmark = pytest.mark.usefixtures("clean")


def pictures(count: int | None = None) -> Iterator[np.ndarray]:
    """Grey (160, 96) pictures that grow brighter from 20 on, without end where `count` is None."""
    for number in itertools.count() if count is None else range(count):
        yield np.full((96, 160, 3), 20 + 5 * number % 200, np.uint8)


async def first_frame(session: Session):
    async for frame in session.frames():
        return frame
    raise AssertionError("no result came")


async def read_to_the_end(session: Session) -> int:
    count = 0
    async for _ in session.frames():
        count += 1
    return count


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_frames_go_out_and_come_back(service: EchoService):
    service.behaviour.delay_s = 0.2  # five frames are under way when the source ends
    async with Client(service.url) as client:
        session = await client.open(pictures(12), fps=25, buffer=50, tail_s=0.8, prompt="cat", steps=3)
        frames = [frame async for frame in session.frames()]
        assert session.sent == 12
        assert 9 <= len(frames) <= 12  # the echo's own receiver keeps the last one back
        assert session.received == len(frames)
        assert session.frame_size == (160, 96)  # not the 320x192 that the answer spoke of
        for frame in frames:
            assert frame.pixels.shape == (96, 160, 3)
            assert frame.pixels.dtype == np.uint8
        brightness = [float(frame.pixels.mean()) for frame in frames]
        assert abs(brightness[0] - 20) < 6
        assert brightness == sorted(brightness)
        assert [frame.received for frame in frames] == sorted(frame.received for frame in frames)
        intervals = np.diff([frame.media_time for frame in frames]) * 25
        assert np.allclose(intervals, intervals.round(), atol=0.01)
        assert intervals.min() > 0.99
        assert service.sessions[session.id].params == {"prompt": "cat", "steps": 3, "fps": 25}
        assert session.params == {"prompt": "cat", "steps": 3, "fps": 25}
        assert session.stats is not None
        assert session.stats.deadline_misses == 7
        assert (await session.fetch_stats()).frames_in >= len(frames)


async def test_a_file_as_source(service: EchoService, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    async with Client(service.url) as client, await client.open(clip, looped=True) as session:
        frame = await first_frame(session)
    assert frame.pixels.shape == (96, 160, 3)
    assert frame.pixels[:40].mean() > 230
    assert frame.pixels[60:].mean() < 150


@pytest.mark.parametrize("codec", ["h264", "vp8"])
async def test_one_codec_alone_can_be_asked_for(service: EchoService, codec: str):
    async with Client(service.url) as client:
        session = await client.open(pictures(), codec=codec)
        await first_frame(session)
        offered = set(re.findall(r"a=rtpmap:\d+ (VP8|H264)/90000", service.offers[-1]))
        assert offered == {codec.upper()}
        with pytest.raises(ConnectError, match="codec must be one of h264, vp8, not 'av1'"):
            await client.open(pictures(), codec="av1")


async def test_a_slow_reader_gets_the_newest(service: EchoService):
    async with Client(service.url) as client, await client.open(pictures(), fps=50) as session:
        first = await first_frame(session)
        received = session.received
        await until(lambda: session.received >= received + 5)
        assert session.skipped >= 4
        newest = await first_frame(session)
        assert newest.media_time >= first.media_time + 5 / 50 - 0.001


async def test_updates_are_acknowledged_or_refused(service: EchoService):
    async with Client(service.url) as client, await client.open(pictures(), prompt="a") as session:
        assert await session.update(prompt="b", noise=0.5) == FRAME_ID_OF_UPDATES
        assert session.params["prompt"] == "b"
        with pytest.raises(ServiceError, match="prompt: is refused here") as caught:
            await session.update(prompt=REFUSED_PROMPT)
        assert (caught.value.reason, caught.value.status) == ("bad_params", None)
        assert session.params["prompt"] == "b"
        answers = await asyncio.gather(*(session.update(seed=seed) for seed in range(5)))
        assert answers == [FRAME_ID_OF_UPDATES] * 5
        with pytest.raises(ServiceError, match="at most 16384"):
            await session.update(prompt="x" * 100_000)


async def test_an_update_without_an_answer_ends_with_the_session(service: EchoService):
    async with Client(service.url) as client:
        session = await client.open(pictures())
        waiting = asyncio.create_task(session.update(prompt=SILENT_PROMPT))
        await asyncio.sleep(0.05)
        await session.close()
        with pytest.raises(ConnectError, match="closed"):
            await waiting
        for request in (session.update(prompt="late"), session.pause()):
            with pytest.raises(ConnectError, match="closed"):
                await request


async def test_states_and_events(service: EchoService):
    heard = []
    async with Client(service.url) as client:
        session = await client.open(pictures(), on_event=heard.append)
        await session.pause()
        await until(lambda: session.state == "paused")
        await session.resume()
        await until(lambda: session.state == "live")
        await session.reset()
        await until(lambda: Restarted("reset") in heard)
        await session.close()
        wanted = [StateChanged("warming"), StateChanged("paused"), StateChanged("live"), Restarted("reset")]
        assert heard == wanted
        assert [event async for event in session.events()] == wanted
        assert session.state == "closed"


async def test_what_the_client_does_not_understand_harms_nothing(service: EchoService, caplog):
    def fail(event):
        raise RuntimeError("a mistake of the user's")

    async with Client(service.url) as client, await client.open(pictures(), on_event=fail) as session:
        for message in ("no json", "[]", '"text"', {"type": "of tomorrow"}, {"type": "applied"}, {"type": "stats"}):
            service.say(session.id, message)
        service.say(session.id, {"type": "applied", "seq": 99, "frame": 1})
        service.say(session.id, {"type": "state", "state": "live"})
        await until(lambda: session.state == "live")
        assert await session.update(prompt="still here") == FRAME_ID_OF_UPDATES
    assert "not understood" in caplog.text
    assert "a mistake of the user's" in caplog.text


async def test_the_service_says_why_it_closes(service: EchoService):
    async with Client(service.url) as client:
        session = await client.open(pictures())
        await first_frame(session)
        await asyncio.to_thread(service.end, session.id, "idle for 15 s")
        with pytest.raises(ServiceError, match="the service closed the session: idle for 15 s"):
            await read_to_the_end(session)
        assert Closing("idle for 15 s") in [event async for event in session.events()]
        assert session.closed


async def test_the_service_goes_without_a_word(service: EchoService):
    async with Client(service.url) as client:
        session = await client.open(pictures(), reconnect_s=0)
        await first_frame(session)
        await asyncio.to_thread(service.end, session.id, None)
        with pytest.raises(ConnectError, match="closed the connection"):
            await read_to_the_end(session)
    assert service.resumed == []


async def test_a_lost_connection_is_made_anew_and_the_source_goes_on(service: EchoService):
    service.behaviour.refuse_returns = 2
    async with Client(service.url) as client:
        session = await client.open(pictures(), fps=25)
        reading = asyncio.create_task(read_to_the_end(session))
        await until(lambda: session.received > 2)
        sent = session.sent
        await asyncio.to_thread(service.end, session.id, None)
        await until(lambda: session.state == "reconnecting")
        seen = session.received
        await until(lambda: session.state != "reconnecting" and session.received > seen + 3)
        assert service.resumed == [session.id] * 3
        assert session.sent > sent
        assert await session.update(prompt="oil") == FRAME_ID_OF_UPDATES
        await session.close()
        assert await reading > 5
    assert service.deleted == [session.id]


async def test_a_session_that_is_gone_meanwhile_is_opened_anew_as_it_was(service: EchoService):
    service.behaviour.forgetful = True
    heard = []
    async with Client(service.url) as client:
        session = await client.open(pictures(), fps=25, prompt="cat", steps=3, on_event=heard.append)
        await first_frame(session)
        await session.update(prompt="oil", noise=0.5)
        with pytest.raises(ServiceError):
            await session.update(prompt=REFUSED_PROMPT)
        await session.pause()
        before = session.id
        await asyncio.to_thread(service.end, before, None)
        await until(lambda: session.id != before and session.state == "paused")
        assert service.resumed == [before]
        again = service.sessions[session.id]
        assert again.params == session.params == {"prompt": "oil", "steps": 3, "noise": 0.5, "fps": 25}
        assert [event for event in heard if isinstance(event, Moved)] == [Moved("the service closed the connection")]
        seen = session.received
        await session.resume()
        await until(lambda: session.received > seen + 3)
    assert service.deleted == [session.id]


async def test_a_session_that_is_asked_to_leave_stays_until_another_takes_it(service: EchoService):
    async with Client(service.url) as client:
        session = await client.open(pictures(), fps=25, prompt="cat")
        await first_frame(session)
        service.behaviour.refuse_offers = 2
        before, seen, offers = session.id, session.received, len(service.offers)
        service.say(before, {"type": "moving", "reason": "repair"})
        await until(lambda: session.state == "reconnecting" and service.refused == 1)
        await until(lambda: session.received > seen + 3 or session.id != before)
        assert session.id == before  # what has it goes on meanwhile
        service.say(before, {"type": "closing", "reason": "it took too long"})
        updating = asyncio.create_task(session.update(prompt="oil"))
        await until(lambda: session.id != before)
        assert await updating == FRAME_ID_OF_UPDATES  # held until there was somebody to take it
        seen = session.received
        await until(lambda: session.state != "reconnecting" and session.received > seen + 3)
        assert service.sessions[session.id].params == {"prompt": "oil", "fps": 25}
        assert service.sessions[before].params == {"prompt": "cat", "fps": 25}
        await until(lambda: service.sessions[before].pc.connectionState == "closed")
        assert (service.resumed, len(service.offers)) == ([], offers + 1)
        await session.close()
        events = [event async for event in session.events()]
        assert [event for event in events if isinstance(event, Moving | Moved)] == [
            Moving("repair"),
            Moved("repair"),
        ]


async def test_a_session_that_nobody_takes_in_time_ends_with_the_reason(service: EchoService):
    async with Client(service.url) as client:
        session = await client.open(pictures(), reconnect_s=0.5)
        await first_frame(session)
        service.behaviour.busy = True
        service.say(session.id, {"type": "moving", "reason": "repair"})
        with pytest.raises(ServiceError, match="repair"):
            await read_to_the_end(session)


async def test_a_refusal_for_good_ends_the_coming_back_at_once(service: EchoService):
    service.behaviour.forgetful = True
    async with Client(service.url, token="right") as client:
        session = await client.open(pictures(), reconnect_s=3600.0)
        await first_frame(session)
        service.behaviour.token = "another"
        await asyncio.to_thread(service.end, session.id, None)
        with pytest.raises(ServiceError, match="a token is asked for"):
            await read_to_the_end(session)


async def test_who_does_not_want_to_come_back_is_left_where_it_is(service: EchoService):
    async with Client(service.url) as client:
        session = await client.open(pictures(), fps=25, reconnect_s=0)
        await first_frame(session)
        service.say(session.id, {"type": "moving", "reason": "repair"})
        assert isinstance(await anext(aiter(session.events())), StateChanged)
        await asyncio.to_thread(service.end, session.id, "repaired")
        with pytest.raises(ServiceError, match="closed the session: repaired"):
            await read_to_the_end(session)
    assert len(service.offers) == 1


async def test_leaving_while_another_place_is_looked_for(service: EchoService):
    async with Client(service.url) as client:
        session = await client.open(pictures())
        await first_frame(session)
        service.behaviour.busy = True
        service.say(session.id, {"type": "moving", "reason": "repair"})
        await until(lambda: service.refused)
        await session.close()
        await read_to_the_end(session)
    assert service.deleted == [session.id]


async def test_coming_back_is_given_up_in_time(service: EchoService):
    service.behaviour.refuse_returns = 1000
    async with Client(service.url) as client:
        session = await client.open(pictures(), reconnect_s=0.5)
        await first_frame(session)
        await asyncio.to_thread(service.end, session.id, None)
        with pytest.raises(ConnectError, match="closed the connection"):
            await read_to_the_end(session)
        assert session.closed


async def test_closing_while_a_connection_is_made_anew(service: EchoService):
    service.behaviour.refuse_returns = 1000
    async with Client(service.url) as client:
        session = await client.open(pictures())
        await first_frame(session)
        await asyncio.to_thread(service.end, session.id, None)
        await until(lambda: session.state == "reconnecting" and service.resumed)
        await session.close()
        await read_to_the_end(session)


async def test_the_error_of_a_source_reaches_the_reader(service: EchoService):
    def unplugged():
        yield from pictures(5)
        raise OSError("camera unplugged")

    async with Client(service.url) as client:
        session = await client.open(unplugged(), fps=25)
        with pytest.raises(OSError, match="camera unplugged"):
            await read_to_the_end(session)
    assert service.deleted == [session.id]


async def test_closing_ends_the_session_and_its_reader(service: EchoService):
    async with Client(service.url) as client:
        session = await client.open(pictures())
        reading = asyncio.create_task(read_to_the_end(session))
        await until(lambda: session.received > 2)
        await asyncio.gather(session.close(), session.close())
        assert await reading >= 1
        await session.close()
        await until(lambda: not [it for it in threading.enumerate() if it.name.startswith("streamgen-")])
    assert service.deleted == [session.id]


async def test_a_client_that_leaves_takes_its_sessions_along(service: EchoService):
    async with Client(service.url) as client:
        sessions = await asyncio.gather(client.open(pictures()), client.open(pictures()))
        await asyncio.gather(*(first_frame(session) for session in sessions))
    assert sorted(service.deleted) == sorted(session.id for session in sessions)


async def test_no_token_a_wrong_one_and_the_right_one(service: EchoService):
    service.behaviour.token = "right"
    for token in (None, "wrong"):
        async with Client(service.url, token=token) as client:
            with pytest.raises(ServiceError, match="a token is asked for") as caught:
                await client.open(pictures())
        assert caught.value.status == 401
    async with Client(service.url, token="right") as client:
        await first_frame(await client.open(pictures()))


async def test_a_service_that_is_full(service: EchoService):
    service.behaviour.busy = True
    async with Client(service.url) as client:
        with pytest.raises(ServiceError, match="all places are taken") as caught:
            await client.open(pictures())
    assert (caught.value.status, caught.value.retry_after_s, caught.value.reason) == (503, 7, "busy")


async def test_patience_lasts_until_there_is_room(service: EchoService):
    service.behaviour.refuse_offers, service.behaviour.retry_after = 2, "0"
    drawn = []

    def chance() -> float:
        drawn.append(0.5)
        return 0.5

    async with Client(service.url, chance=chance) as client:
        await first_frame(await client.open(pictures(), patience_s=60.0))
    assert (service.refused, len(service.offers), len(drawn)) == (2, 1, 2)


async def test_patience_comes_to_an_end(service: EchoService):
    service.behaviour.busy = True
    async with Client(service.url) as client:
        with pytest.raises(ServiceError, match="all places are taken"):
            await client.open(pictures(), patience_s=0.4)
    assert service.refused == 2  # at once, and when the patience was over: long before Retry-After


async def test_patience_is_for_want_of_room_only(service: EchoService):
    service.behaviour.token = "right"
    async with Client(service.url) as client:
        with pytest.raises(ServiceError, match="a token is asked for"):
            await client.open(pictures(), patience_s=3600.0)


async def test_waiting_for_room_can_be_cancelled_and_gives_the_source_back(service: EchoService):
    service.behaviour.busy = True
    async with Client(service.url) as client:
        opening = asyncio.create_task(client.open(pictures(), patience_s=3600.0))
        await until(lambda: service.refused)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await until(lambda: not [it for it in threading.enumerate() if it.name.startswith("streamgen-")])


async def test_a_session_may_wait_in_the_queue_for_longer_than_a_connection_may_take(service: EchoService):
    service.behaviour.queued = True
    async with Client(service.url) as client:
        session = await client.open(pictures(), fps=25, connect_timeout_s=2.0, tail_s=0.2)
        reading = asyncio.create_task(first_frame(session))
        await until(lambda: session.queue_position == 2)
        assert session.state == "queued"
        await asyncio.sleep(2.2)
        assert not reading.done()
        service.say(session.id, {"type": "queue", "position": 1, "estimate_s": None})
        await until(lambda: session.queue_position == 1)
        service.admit(session.id)
        await reading
        assert (session.state, session.queue_position) == ("warming", None)
        await session.close()
        events = [event async for event in session.events()]
        assert events[:3] == [StateChanged("queued"), Queue(2, 40.0), Queue(1, None)]
        assert service.sessions[session.id].drops == {}


async def test_a_source_waits_with_its_session_and_loses_nothing(service: EchoService):
    service.behaviour.queued = True
    given = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal given
        for picture in pictures(12):
            given += 1
            yield picture

    async with Client(service.url) as client:
        session = await client.open(counted(), fps=25, tail_s=0.5)
        await asyncio.sleep(0.5)
        assert (given, session.sent) == (0, 0)
        service.admit(session.id)
        seen = [frame async for frame in session.frames()]
        assert (given, session.sent) == (12, 12)
        assert seen


async def test_a_camera_goes_on_while_its_session_waits_and_then_gives_what_is_new(service: EchoService):
    service.behaviour.queued = True
    camera = Camera(fps=25)
    async with Client(service.url) as client:
        session = await client.open(camera)
        await until(lambda: camera.given > 8)
        assert session.sent == 0
        service.admit(session.id)
        await first_frame(session)
        assert camera.given - session.sent > 8


async def test_a_lower_quality_is_told_and_its_smaller_pictures_come_as_they_are(service: EchoService):
    async with Client(service.url) as client, await client.open(pictures(), fps=25, buffer=5) as session:
        assert session.quality is None
        assert (await first_frame(session)).pixels.shape == (96, 160, 3)
        lower = Quality(3, 6, 1, 8.0, 80, 48, "full", "load")
        service.behaviour.scale = 0.5
        service.say(session.id, {"type": "quality"} | {name: getattr(lower, name) for name in Quality.__slots__})
        async for frame in session.frames():
            if frame.pixels.shape == (48, 80, 3):
                break
        assert session.quality == lower
        assert session.frame_size == (80, 48)
        service.behaviour.scale = 1.0
        async for frame in session.frames():
            if frame.pixels.shape == (96, 160, 3):
                break


async def test_media_that_never_comes_up(service: EchoService):
    service.behaviour.dead_media = True
    async with Client(service.url) as client:
        with pytest.raises(ConnectError, match=r"not up within 0\.5 s"):
            await client.open(pictures(), connect_timeout_s=0.5)
    assert len(service.deleted) == 1


async def test_opening_can_be_cancelled(service: EchoService):
    service.behaviour.dead_media = True
    async with Client(service.url) as client:
        opening = asyncio.create_task(client.open(pictures()))
        await until(lambda: service.offers)
        await asyncio.sleep(0.05)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening


async def test_nobody_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        async with Client(f"http://127.0.0.1:{taken.getsockname()[1]}") as client:
            with pytest.raises(ConnectError, match="connection refused"):
                await client.open(pictures())


async def test_a_bad_file_costs_no_connection(service: EchoService, tmp_path):
    async with Client(service.url) as client:
        with pytest.raises(Exception, match="No such file"):
            await client.open(tmp_path / "none.mp4")
    assert service.offers == []


async def test_the_offer_asks_no_stranger_for_addresses(service: EchoService):
    async with Client(service.url) as client, await client.open(pictures()):
        pass
    (offer,) = service.offers
    assert "a=candidate:" in offer
    assert "srflx" not in offer
    assert offer.count("m=video") == 1
    assert offer.count("m=application") == 1
