from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from itertools import pairwise

import numpy as np
import pytest
from aioice import ice
from aiortc.sdp import SessionDescription

from pipelines import fake
from streamgen import place
from streamgen.bench.link import Link, Quality
from streamgen.colours import ToRgb
from streamgen.errors import BusyError, OfferError, ParamsError, SessionNotFoundError
from streamgen.ice.sockets import bind
from streamgen.scheduler.cost import UNKNOWN, CostModel, Line, Shape
from tests.support.chart import chart, errors
from tests.support.service import settled
from tests.support.sockets import no_sockets_left
from tests.support.stage import PARAMS, Stage
from tests.support.webrtc import TONE_HZ, client, no_leaks, until


@pytest.fixture
async def stages() -> AsyncIterator[list[Stage]]:
    made: list[Stage] = []
    yield made
    for stage in made:
        await stage.stop()


@pytest.fixture
async def stage(stages: list[Stage]) -> Stage:
    stages.append(Stage())
    return stages[-1]


@pytest.mark.parametrize("split", [False, True])
async def test_pictures_go_round_and_nothing_is_left(stage: Stage, split: bool) -> None:
    async with no_leaks(), client(split=split) as peer:
        session = stage.service.session(await stage.open(peer))
        assert session.state == "connecting"
        await until(lambda: len(peer.frames) >= 12)
        assert session.state == "live"
        assert {(frame.width, frame.height) for frame in peer.frames} == {(64, 64)}
        gaps = [(b.pts or 0) - (a.pts or 0) for a, b in pairwise(peer.frames)]
        # Media timestamps of a 30 fps source, thinned (aiortc's VP8 encoder rounds them a little).
        assert all(gap > 0 and abs(gap - round(gap / 3000) * 3000) <= 4 for gap in gaps)
        await stage.service.close(session.id, "closed by request")
        assert settled(session)
        assert session.stats().drops["rate"] > 0
        await until(lambda: peer.heard("closing"))
        assert peer.heard("closing") == [{"reason": "closed by request", "type": "closing"}]
        assert [message["state"] for message in peer.heard("state")] == ["warming", "live"]
        with pytest.raises(SessionNotFoundError):
            stage.service.session(session.id)


async def test_a_picture_is_taken_with_its_last_packet(stage: Stage) -> None:
    """Not when the next one begins, which here never comes."""
    async with client() as peer:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: session.stats().frames_in > 10)
        peer.camera.blocked.set()
        await until(lambda: session.stats().frames_in == peer.camera.given)


async def test_a_session_goes_on_over_a_lossy_link_and_says_what_was_lost(stage: Stage) -> None:
    bad = Quality(loss=0.1, delay_s=0.01)
    async with no_leaks(), client(fps=60) as peer:
        await stage.open(peer)
        await until(lambda: peer.frames)
        async with Link(peer.connection, out=bad, into=bad):
            await until(lambda: any(message["network"]["recovered"] >= 5 for message in peer.heard("stats")))
            seen = len(peer.frames)
            await until(lambda: len(peer.frames) >= seen + 5)


async def test_the_control_channel(stage: Stage) -> None:
    async with client() as peer:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        peer.send(type="update", seq=1, params={"prompt": "ink"})
        peer.send(type="update", seq=2, params={"fps": 1000})
        await until(lambda: peer.heard("applied") and peer.heard("rejected"))
        assert peer.heard("applied")[0]["seq"] == 1
        assert peer.heard("rejected")[0]["error"]["field"] == "fps"
        await until(lambda: session.stats().frames_out > 8 and len(peer.heard("stats")) > 0)
        peer.send(type="pause")
        await until(lambda: session.state == "paused")
        seen = session.stats().frames_out
        await until(lambda: session.stats().drops.get("paused", 0) > 15)
        assert session.stats().frames_out == seen
        peer.send(type="resume")
        await until(lambda: session.stats().frames_out > seen + 4)
        peer.send(type="reset")
        await until(lambda: session.stats().drops.get("restart") and session.state == "live")


async def test_two_clients_at_once_get_their_own_pictures(stage: Stage) -> None:
    async with client() as one, client() as two:
        await stage.open(one, prompt="one")
        await stage.open(two, prompt="two", width=128)
        await until(lambda: len(one.frames) > 8 and len(two.frames) > 8)
        assert {frame.width for frame in one.frames} == {64}
        assert {frame.width for frame in two.frames} == {128}


async def test_a_new_size_goes_through_to_the_client(stage: Stage) -> None:
    async with client() as peer:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        await session.update({"width": 128})
        await until(lambda: peer.frames[-1].width == 128)


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_a_chart_comes_back_in_its_colours_and_its_shape(
    stage: Stage, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model gives every picture back as it was; the client sends with aiortc's own encoders."""
    monkeypatch.setattr(fake, "restyle", lambda pixels, params, chunk: pixels)
    async with client(codec=codec, picture=chart(240, 320)) as peer:
        opened = await stage.service.open(await peer.offer(), {})
        await peer.accept(opened.sdp)
        await until(lambda: len(peer.frames) > 8)
        assert {(frame.width, frame.height) for frame in peer.frames} == {(208, 272)}
        params = opened.session.params
        assert (params.width, params.height) == (208, 272)
        off = errors(ToRgb()(peer.frames[-1]))
        assert max(off.values()) < 6, off
        peer.camera.picture = chart(320, 240)  # the phone is turned
        await until(lambda: (peer.frames[-1].width, peer.frames[-1].height) == (272, 208))
        seen = len(peer.frames)
        await until(lambda: len(peer.frames) > seen + 8)
        off = errors(ToRgb()(peer.frames[-1]))
        assert max(off.values()) < 6, off


async def test_one_side_that_is_asked_for_is_kept_and_what_cannot_be_is_refused(stage: Stage) -> None:
    async with client(picture=chart(240, 320)) as peer:
        sdp = await peer.offer()
        for bad in ({"height": 200}, {"width": 63}, {"width": "wide"}, {"fit": "stretch"}):
            with pytest.raises(ParamsError) as caught:
                await stage.service.open(sdp, bad)
            assert caught.value.field in bad
        opened = await stage.service.open(sdp, {"height": 1920})  # too much beside the preset's own width, but upright
        await peer.accept(opened.sdp)
        assert (opened.session.params.width, opened.session.params.height) == (480, 1920)
        await opened.session.update({"height": 128})
        await until(lambda: peer.frames and (peer.frames[-1].width, peer.frames[-1].height) == (96, 128))


async def test_a_killed_worker_is_survived(stage: Stage) -> None:
    async with client() as peer:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        stage.engine.dies = True
        await until(lambda: peer.heard("restarted"))
        seen = session.stats().frames_out
        await until(lambda: session.stats().frames_out > seen + 4)
        assert session.state == "live"


async def test_a_session_that_always_fails_is_closed_with_the_reason(stage: Stage) -> None:
    async with client() as peer:
        await stage.open(peer, prompt="bad")
        await until(lambda: peer.heard("closing"))
        assert "engine failed" in peer.heard("closing")[0]["reason"]


async def test_a_client_that_leaves_frees_everything(stage: Stage) -> None:
    async with no_leaks():
        async with client() as peer:
            session = stage.service.session(await stage.open(peer))
            await until(lambda: peer.frames)
        await until(lambda: session.state == "closed")
        assert settled(session)
        await until(lambda: stage.engine.forgotten == [session.id])
        await until(lambda: "streamgen_sessions 0.0" in stage.metrics.exposition().decode())


async def test_a_client_that_falls_silent_is_closed(stages: list[Stage]) -> None:
    stages.append(stage := Stage(idle_timeout_s=0.5))
    async with no_leaks(), client() as peer:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        peer.camera.blocked.set()
        await until(lambda: session.state == "closed")
        assert session.end_reason == "no frames came any more"


async def test_a_client_that_comes_back_goes_on_where_it_was(stage: Stage) -> None:
    async with no_leaks(), client() as peer, client() as back:
        session = stage.service.session(await stage.open(peer, prompt="ink"))
        await until(lambda: peer.frames)
        stage.lose(session.id)
        await until(lambda: session.state == "away")
        seen = session.stats().frames_in
        resumed = await stage.service.resume(session.id, await back.offer())
        assert resumed.session is session
        await back.accept(resumed.sdp)
        await until(lambda: back.frames and session.state == "live")
        assert session.stats().frames_in > seen  # its frames go on counting
        assert stage.engine.forgotten == []  # and its stream in the engine is the same
        back.send(type="update", seq=1, params={"prompt": "oil"})
        await until(lambda: back.heard("applied"))
        await stage.service.close(session.id, "enough")
        assert settled(session)


async def test_a_client_may_come_back_before_its_loss_is_noticed(stage: Stage) -> None:
    async with no_leaks(), client() as peer, client() as back:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        await back.accept((await stage.service.resume(session.id, await back.offer())).sdp)
        await until(lambda: back.frames and session.state == "live")
        await until(lambda: peer.connection.connectionState == "closed")
        assert session.end_reason == ""


async def test_a_pause_outlives_a_loss(stage: Stage) -> None:
    async with client() as peer, client() as back:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        session.pause()
        stage.lose(session.id)
        await until(lambda: session.state == "away")
        await back.accept((await stage.service.resume(session.id, await back.offer())).sdp)
        await until(lambda: session.state == "paused")
        session.resume()
        await until(lambda: session.state == "live")


async def test_a_client_that_does_not_come_back_is_closed(stages: list[Stage]) -> None:
    stages.append(stage := Stage(grace_s=0.3))
    async with no_leaks(), client() as peer, client() as late:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        stage.lose(session.id)
        await until(lambda: session.state == "closed")
        assert session.end_reason == "the connection was lost, and the client did not come back"
        with pytest.raises(SessionNotFoundError):
            await stage.service.resume(session.id, await late.offer())


async def test_a_bad_offer_to_come_back_with_changes_nothing(stage: Stage) -> None:
    async with client() as peer, client() as back:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        with pytest.raises(OfferError):
            await stage.service.resume(session.id, re.sub(r"(VP8|H264)/90000", "AV1/90000", await back.offer()))
        seen = len(peer.frames)
        await until(lambda: len(peer.frames) > seen + 5)


async def test_an_offer_that_never_connects_is_closed(stages: list[Stage], caplog: pytest.LogCaptureFixture) -> None:
    stages.append(stage := Stage(connect_timeout_s=0.5, max_sessions=1))
    async with no_leaks(), no_sockets_left(), client() as peer:
        sdp = re.sub(r"a=candidate.*\r\n", "", await peer.offer())
        session = (await stage.service.open(sdp, PARAMS)).session
        with pytest.raises(BusyError, match="no room"):
            await stage.service.open(sdp, PARAMS)
        await until(lambda: session.state == "closed")
        assert session.end_reason == "the media connection did not come up"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_sound_passes_by_the_model_to_the_client_and_to_who_watches(stage: Stage) -> None:
    async with no_leaks(), client(tone=True) as peer, client(audio=True) as viewer:
        session_id = await stage.open(peer)
        await until(lambda: peer.sounds and peer.frames)
        watching = await stage.service.watch(session_id, (await viewer.offer()).replace("a=sendrecv", "a=recvonly"))
        await viewer.accept(watching.sdp)
        for listener in (peer, viewer):
            await until(lambda listener=listener: len(listener.sounds) > 50)
            heard = np.concatenate([sound.to_ndarray().ravel() for sound in listener.sounds[20:]]).astype(float)
            spectrum = np.abs(np.fft.rfft(heard[::2]))  # stereo, one after the other
            assert abs(np.argmax(spectrum) * 48000 / len(heard[::2]) - TONE_HZ) < 5
        await stage.service.close(session_id, "enough")


async def test_media_keep_to_the_udp_ports_and_are_refused_without_one(stages: list[Stage]) -> None:
    with bind("127.0.0.1", None) as taken:
        port = taken.getsockname()[1]
        stages.append(stage := Stage(udp_ports=(port, port), max_sessions=1))
        async with no_leaks(), no_sockets_left(), client() as peer:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ice, "get_host_addresses", lambda **_: ["127.0.0.1"])
                with pytest.raises(BusyError, match=f"UDP ports {port}-{port} are all taken"):
                    await stage.service.open(await peer.offer(), PARAMS)
                taken.close()
                opened = await stage.service.open(peer.connection.localDescription.sdp, PARAMS)
            media = SessionDescription.parse(opened.sdp).media
            assert {(c.ip, c.port) for section in media for c in section.ice_candidates} == {("127.0.0.1", port)}
            await peer.accept(opened.sdp)
            await until(lambda: peer.frames)
            await stage.service.close(opened.session.id, "enough")


async def test_a_client_may_send_no_sound(stage: Stage) -> None:
    async with client(audio=True) as peer:
        await stage.open(peer)
        await until(lambda: peer.frames)
        assert peer.sounds == []


async def test_a_client_that_only_sends_is_served(stage: Stage) -> None:
    async with client() as peer:
        opened = await stage.service.open((await peer.offer()).replace("a=sendrecv", "a=sendonly"), PARAMS)
        assert "a=recvonly" in opened.sdp


async def test_bad_requests_leave_nothing_behind(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with no_leaks(), client() as peer:
        sdp = await peer.offer()
        with pytest.raises(OfferError):
            await stage.service.open("v=0", PARAMS)
        with pytest.raises(ParamsError):
            await stage.service.open(sdp, {"width": 65})
        no_codec = re.sub(r"(VP8|H264)/90000", "AV1/90000", sdp)
        with pytest.raises(OfferError, match="H264 or VP8"):
            await stage.service.open(no_codec, PARAMS)
        with pytest.raises(SessionNotFoundError):
            await stage.service.close("nobody", "")
    assert caplog.records == []


async def test_damaged_offers_get_an_error_or_an_answer_and_leave_nothing(
    stages: list[Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stages.append(stage := Stage(max_sessions=1000))
    async with no_leaks(), client() as peer:
        lines = (await peer.offer()).splitlines(keepends=True)
        for i in range(0, len(lines), 2):
            try:
                opened = await stage.service.open("".join(lines[:i] + lines[i + 1 :]), PARAMS)
            except OfferError:
                continue
            opened.session.end("enough")
        await stage.service.stop("enough")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_nobody_is_admitted_before_the_engine_is_ready_or_after_the_end(stage: Stage) -> None:
    stage.engine.state = "restarting"
    with pytest.raises(BusyError, match="restarting"):
        await stage.service.open("", {})
    stage.engine.state = "ready"
    await stage.service.stop("the service is stopping")
    assert stage.service.state == "stopping"
    with pytest.raises(BusyError, match="stopping"):
        await stage.service.open("", {})


async def test_stopping_tells_the_clients(stage: Stage) -> None:
    async with no_leaks(), client() as peer:
        await stage.open(peer)
        await until(lambda: peer.frames)
        await stage.service.stop("the service is stopping")
        await until(lambda: peer.heard("closing"))
        assert peer.heard("closing")[0]["reason"] == "the service is stopping"


async def test_presets_show_what_is_loaded(stage: Stage) -> None:
    (preset,) = stage.service.presets()
    assert (preset["name"], preset["loaded"], preset["native_fps"]) == ("tiny", True, 16.0)
    assert (preset["width"], preset["height"]) == (320, 192)
    assert preset["styles"] == [{"name": "Ink", "prompt": "ink"}]
    stage.engine.state = "starting"
    (preset,) = stage.service.presets()
    assert (preset["loaded"], preset["width"]) == (False, 64)


async def test_who_finds_no_room_waits_is_told_and_gets_in(stages: list[Stage]) -> None:
    stages.append(stage := Stage(max_sessions=1, max_queue=1))
    async with no_leaks(), client() as one, client() as two, client() as three:
        first = stage.service.session(await stage.open(one))
        second = stage.service.session(await stage.open(two))
        with pytest.raises(BusyError):
            await stage.open(three)
        await until(lambda: two.heard("queue") and second.state == "queued" and second.stats().drops.get("queued"))
        assert two.heard("queue")[0] == {"type": "queue", "position": 1, "estimate_s": None}
        assert second.stats().drops.keys() == {"queued"}
        assert two.frames == []
        await stage.service.close(first.id, "enough")
        await until(lambda: two.frames and second.state == "live")
        assert [message["state"] for message in two.heard("state")] == ["queued", "warming", "live"]
        await stage.service.close(second.id, "enough")
        assert settled(second)


async def test_who_gives_up_waiting_leaves_nothing(stages: list[Stage]) -> None:
    stages.append(stage := Stage(max_sessions=1, max_queue=1))
    async with no_leaks(), client() as one, client() as two:
        await stage.open(one)
        second = stage.service.session(await stage.open(two))
        await until(lambda: second.state == "queued")
        await two.close()
        await until(lambda: second.state == "closed")
        assert stage.loop.roster.waiting == 0
        await stage.stop()


async def test_a_lower_rung_reaches_the_client_as_smaller_pictures_and_goes_again(stage: Stage) -> None:
    async with client() as peer:
        await stage.open(peer, width=128, height=128)
        await until(lambda: peer.frames)
        # half a second for a step of that size: four chunks a second are too much at any number of steps
        stage.loop.cost = CostModel({("denoise", Shape(1, 128, 128)): Line(0.0, 0.5, 0.0)})
        await until(lambda: peer.frames[-1].width == 96)
        stage.loop.cost = UNKNOWN
        await until(lambda: peer.frames[-1].width == 128)
        assert [(told["rung"], told["reason"]) for told in peer.heard("quality")] == [(4, "load"), (0, "room")]


async def test_a_drained_service_takes_nobody_and_asks_those_it_has_to_go(stages: list[Stage]) -> None:
    stage = Stage(node="n7")
    stages.append(stage)
    async with no_leaks(), client() as one, client() as two, client() as late:
        ids = [await stage.open(one), await stage.open(two)]
        assert all(re.fullmatch(r"n7\.[\w-]{22}", session) for session in ids)
        assert stage.service.audience(ids[0]).stream.startswith("n7.")
        await until(lambda: one.frames and two.frames)
        stage.service.draining = True
        assert stage.service.state == "draining"
        with pytest.raises(BusyError, match="this machine is draining"):
            await stage.open(late)
        stage.service.move(1, "room is made")
        await until(lambda: one.heard("moving"))
        assert one.heard("moving") == [{"reason": "room is made", "type": "moving"}]
        assert (stage.service.moving, stage.service.sessions, two.heard("moving")) == (1, 2, [])
        stage.service.move(5, "room is made")
        await until(lambda: two.heard("moving"))
        assert len(one.heard("moving")) == 1
        seen = len(two.frames)
        await until(lambda: len(two.frames) > seen + 3)  # until they go, they are served
        await stage.service.close(ids[0], "gone elsewhere")
        assert (stage.service.moving, stage.service.sessions, stage.service.opened) == (1, 1, 2)
        stage.service.draining = False
        assert stage.service.state == "ready"


async def test_who_is_asked_to_go_and_stays_is_closed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "MOVE_S", 0.05)
    async with no_leaks(), client() as peer:
        await stage.open(peer)
        await until(lambda: peer.frames)
        stage.service.move(1, "room is made")
        await until(lambda: peer.heard("closing"))
        assert [message["type"] for message in peer.messages if message["type"] in ("moving", "closing")] == [
            "moving",
            "closing",
        ]
        await until(lambda: stage.service.sessions == 0)


async def test_a_client_that_is_away_finds_its_session_gone_when_it_comes_back(stage: Stage) -> None:
    async with no_leaks(), client() as peer, client() as again:
        session = await stage.open(peer)
        await until(lambda: peer.frames)
        stage.lose(session)
        await until(lambda: stage.service.session(session).state == "away")
        stage.service.move(1, "room is made")
        await until(lambda: stage.service.sessions == 0)
        with pytest.raises(SessionNotFoundError):
            await stage.service.resume(session, await again.offer())


async def test_who_is_only_just_connecting_is_not_asked_yet(stage: Stage) -> None:
    async with no_leaks(), client() as peer:
        opened = await stage.service.open(await peer.offer(), PARAMS)
        stage.service.move(1, "room is made")
        assert stage.service.moving == 0
        await peer.accept(opened.sdp)
        await until(lambda: peer.frames)
