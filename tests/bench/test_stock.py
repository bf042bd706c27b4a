"""The echo that the media plane is held against: what its client offers, and that it leaves nothing behind."""

import asyncio
import itertools

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from streamgen.bench import stock
from streamgen.errors import ConnectError
from tests.support.webrtc import no_leaks

GREY = np.full((64, 192, 3), 128, np.uint8)


async def test_pictures_end_with_their_source():
    track = stock.Pictures(iter([GREY, GREY]))
    first, second = await track.recv(), await track.recv()
    assert (first.width, first.height, first.format.name) == (192, 64, "rgb24")
    assert float(second.time - first.time) == pytest.approx(1 / 30)
    with pytest.raises(MediaStreamError):
        await track.recv()
    assert track.readyState == "ended"


@pytest.mark.parametrize("codec", ["h264", "vp8"])
async def test_frames_come_back_from_another_process(codec: str):
    seen: list[tuple[av.VideoFrame, float]] = []
    enough = asyncio.Event()

    def read(frame: av.VideoFrame, received: float) -> None:
        seen.append((frame, received))
        if len(seen) > 5:
            enough.set()

    async with no_leaks(), stock.echo(itertools.repeat(GREY), codec, read):
        await asyncio.wait_for(enough.wait(), 30)
    frame, _ = seen[-1]
    assert (frame.width, frame.height) == (192, 64)
    assert abs(float(frame.to_ndarray(format="rgb24").mean()) - 128) < 6
    assert [received for _, received in seen] == sorted(received for _, received in seen)


async def test_the_client_offers_the_codec_alone(monkeypatch: pytest.MonkeyPatch):
    offers: list[str] = []
    create = stock.RTCPeerConnection.createOffer

    async def created(self: stock.RTCPeerConnection) -> object:
        offers.append((offer := await create(self)).sdp)
        return offer

    monkeypatch.setattr(stock.RTCPeerConnection, "createOffer", created)
    for codec in ("h264", "vp8"):
        async with stock.echo(itertools.repeat(GREY), codec, lambda *_: None):
            pass
    assert ["VP8/90000" in offer for offer in offers] == [False, True]
    assert ["H264/90000" in offer for offer in offers] == [True, False]


async def test_a_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stock.sys, "executable", "/bin/true")
    async with no_leaks():
        with pytest.raises(ConnectError, match="the stock echo did not answer"):
            async with stock.echo(itertools.repeat(GREY), "vp8", lambda *_: None):
                pass
