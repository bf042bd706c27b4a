from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from aioice import Connection, ice
from aiortc.rtcicetransport import candidate_to_aioice
from aiortc.sdp import SessionDescription

from pipelines.fake import FakePipeline, Fault
from streamgen.clock import MonotonicClock
from streamgen.config import Config
from streamgen.errors import BusyError, OfferError, ParamsError, SessionNotFoundError
from streamgen.ice.sockets import bind
from streamgen.metrics import Metrics
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.loop import Loop
from streamgen.scheduler.policy import Limits
from streamgen.service import PresetInfo, Service
from tests.support.service import SMALL, InlineEngine, settled
from tests.support.sockets import no_sockets_left
from tests.support.webrtc import Client, client, no_leaks, until

PARAMS: dict[str, object] = {"width": 64, "height": 64}


class Stage:
    """A service with an engine in this process, and real WebRTC."""

    def __init__(self, **settings: Any) -> None:
        self.clock, self.metrics = MonotonicClock(), Metrics()
        self.engine = InlineEngine(FakePipeline(faults={"bad": Fault("encode")}))
        self.loop = Loop(self.engine, self.clock, self.metrics, Limits(CostModel(), max_batch=4))
        self.engine.on_restart = self.loop.restarted
        presets = [PresetInfo("tiny", "Tiny", "Small.", 16.0, SMALL, [{"name": "Ink", "prompt": "ink"}])]
        self.service = Service(Config(**settings), self.engine, self.loop, presets, self.clock, self.metrics)
        self.task = asyncio.create_task(self.loop.run())

    async def open(self, peer: Client, **params: object) -> str:
        opened = await self.service.open(await peer.offer(), PARAMS | params)
        await peer.accept(opened.sdp)
        return opened.session.id

    async def stop(self) -> None:
        await self.service.stop("the service is stopping")
        self.task.cancel()
        await asyncio.wait([self.task])


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
        assert "streamgen_sessions 0.0" in stage.metrics.exposition().decode()


async def test_a_client_that_falls_silent_is_closed(stages: list[Stage]) -> None:
    stages.append(stage := Stage(idle_timeout_s=0.5))
    async with no_leaks(), client() as peer:
        session = stage.service.session(await stage.open(peer))
        await until(lambda: peer.frames)
        peer.camera.blocked.set()
        await until(lambda: session.state == "closed")
        assert session.end_reason == "no frames came any more"


async def test_an_offer_that_never_connects_is_closed(stages: list[Stage], caplog: pytest.LogCaptureFixture) -> None:
    stages.append(stage := Stage(connect_timeout_s=0.5, max_sessions=1))
    async with no_leaks(), no_sockets_left(), client() as peer:
        sdp = re.sub(r"a=candidate.*\r\n", "", await peer.offer())
        session = (await stage.service.open(sdp, PARAMS)).session
        with pytest.raises(BusyError, match="all 1 places"):
            await stage.service.open(sdp, PARAMS)
        await until(lambda: session.state == "closed")
        assert session.end_reason == "the media connection did not come up"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_client_that_connects_but_never_encrypts_is_closed(stages: list[Stage]) -> None:
    stages.append(stage := Stage(connect_timeout_s=0.5, loopback=True))
    async with no_leaks(), no_sockets_left(), client() as peer:
        mute = Connection(ice_controlling=True)  # ICE and nothing else
        await mute.gather_candidates()
        sdp = re.sub(r"a=candidate.*\r\n", "", await peer.offer())
        sdp = re.sub(r"a=ice-ufrag:.*\r", f"a=ice-ufrag:{mute.local_username}\r", sdp)
        sdp = re.sub(r"a=ice-pwd:.*\r", f"a=ice-pwd:{mute.local_password}\r", sdp)
        opened = await stage.service.open(sdp, PARAMS)
        service = SessionDescription.parse(opened.sdp).media[0]
        mute.remote_username, mute.remote_password = service.ice.usernameFragment, service.ice.password
        for candidate in service.ice_candidates:
            await mute.add_remote_candidate(candidate_to_aioice(candidate))
        await mute.connect()
        await until(lambda: opened.session.state == "closed")
        assert opened.session.end_reason == "the media connection did not come up"
        await mute.close()


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


async def test_audio_beside_video_is_declined(stage: Stage) -> None:
    async with client(audio=True) as peer:
        opened = await stage.service.open(await peer.offer(), PARAMS)
        audio = opened.sdp.split("m=")[1]
        assert audio.startswith("audio")
        assert "a=inactive" in audio
        await peer.accept(opened.sdp)
        await until(lambda: peer.frames)


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
