"""Two real peers over a lossy link."""

from __future__ import annotations

import asyncio
import dataclasses

import av
import numpy as np
import pytest
from aiortc import RTCPeerConnection
from aiortc.jitterbuffer import JitterBuffer

from streamgen.bench.link import Quality
from streamgen.jitter import Losses
from streamgen.recovery import recover_losses
from tests.support.pair import Pair, pair
from tests.support.webrtc import OFFLINE, Camera, no_leaks, until

POOR, DREADFUL = Quality(0.05, delay_s=0.02), Quality(0.3, delay_s=0.02)


class Noise(Camera):
    """Pictures that take several packets."""

    async def recv(self) -> av.VideoFrame:
        blank = await super().recv()
        pixels = np.random.default_rng(self.given).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = blank.pts, blank.time_base
        return frame


class Recovering:
    def __init__(self) -> None:
        self.losses = Losses()

    def __call__(self, sender: object, receiver) -> None:
        losses = recover_losses(receiver)
        assert losses is not None
        self.losses = losses


def in_order(run: Pair) -> bool:
    times = [frame.pts for frame in run.seen]
    return times == sorted(set(times))


@pytest.mark.parametrize(("codec", "rtx"), [("vp8", True), ("vp8", False), ("h264", True)])
async def test_pictures_keep_coming_over_a_lossy_link(codec: str, rtx: bool):
    it = Recovering()
    async with no_leaks(), pair(Noise(), POOR, codec=codec, rtx=rtx, prepare=it) as run:
        await until(lambda: it.losses.recovered >= 6 and len(run.seen) >= 60)
        losses = dataclasses.replace(it.losses)
        assert losses.missing <= losses.recovered + losses.given_up + 10
        assert losses.requests >= 6
        assert run.lost >= 6
        assert in_order(run)


async def test_stock_receivers_lose_what_this_link_loses():
    async with no_leaks(), pair(Noise(), POOR) as run:
        assert isinstance(run.receiver._RTCRtpReceiver__jitter_buffer, JitterBuffer)
        await until(lambda: run.links[0].out.lost >= 6)
        (ssrc,) = (s for s in run.receiver._RTCRtpReceiver__remote_streams if s == run.sender._ssrc)
        statistics = run.receiver._RTCRtpReceiver__remote_streams[ssrc]
        await until(lambda: statistics.packets_lost > 0)


async def test_what_asking_again_does_not_bring_a_key_frame_makes_good():
    it = Recovering()
    async with no_leaks(), pair(Noise(), DREADFUL, prepare=it) as run:
        await until(lambda: it.losses.flushes >= 2)
        seen = len(run.seen)
        await until(lambda: len(run.seen) >= seen + 30)
        assert it.losses.key_frame_requests >= 2
        assert it.losses.pictures_dropped > 0
        assert it.losses.given_up >= 2
        assert in_order(run)


async def test_over_a_good_link_there_is_nothing_to_do():
    it = Recovering()
    camera = Camera(fps=60)
    async with no_leaks(), pair(camera, prepare=it) as run:
        await until(lambda: len(run.seen) >= 60)
        assert it.losses.missing == it.losses.requests == it.losses.flushes == 0
        assert it.losses.key_frame_requests == 0
        assert it.losses.packets >= 60
        assert np.abs(np.diff([frame.to_ndarray(format="gray").mean() for frame in run.seen[:30]])).max() < 4


async def test_its_task_ends_with_the_receiver_also_while_it_asks():
    it = Recovering()
    async with no_leaks(), pair(Camera(fps=60), prepare=it) as run:
        await until(lambda: len(run.seen) >= 5)
        (asking,) = (task for task in asyncio.all_tasks() if task.get_name() == "recover-losses")
        for link in run.links:
            link.out._quality = Quality(loss=1.0)
        await run.receiver.stop()
        await until(asking.done)
        assert asking.cancelled()


async def test_a_receiver_that_never_starts_has_no_task():
    async with no_leaks():
        connection = RTCPeerConnection(OFFLINE)
        assert recover_losses(connection.addTransceiver("video").receiver) == Losses()
        await connection.close()
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "recover-losses"]


async def test_another_aiortc_is_left_alone():
    connection = RTCPeerConnection(OFFLINE)
    receiver = connection.addTransceiver("video").receiver
    receiver.__dict__["moved"] = receiver.__dict__.pop("_RTCRtpReceiver__timestamp_mapper")
    before = dict(receiver.__dict__)
    assert recover_losses(receiver) is None
    assert receiver.__dict__ == before
    await connection.close()
