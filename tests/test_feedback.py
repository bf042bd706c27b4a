from __future__ import annotations

import asyncio
import itertools
import math
import time
from dataclasses import dataclass

import pytest
from aiortc import RTCPeerConnection
from hypothesis import given
from hypothesis import strategies as st

from streamgen.feedback import (
    CREDIT_BYTES,
    KEY_FRAME_INTERVAL_S,
    REPETITIONS,
    SHARE,
    KeyFrameLimiter,
    RetransmissionLimiter,
    limit_key_frames,
    limit_retransmissions,
)
from tests.support.pair import pair
from tests.support.webrtc import OFFLINE, Camera, no_leaks, until


def test_the_first_request_is_answered_at_once_and_no_request_twice():
    limiter = KeyFrameLimiter()
    assert not limiter.allow(0)
    limiter.ask()
    assert limiter.allow(0)
    assert not limiter.allow(10)
    assert (limiter.asked, limiter.made) == (1, 1)


def test_requests_within_the_interval_are_answered_by_one_after_it():
    limiter = KeyFrameLimiter(interval_s=0.5)
    limiter.ask()
    assert limiter.allow(1.0)
    limiter.ask()
    assert not limiter.allow(1.1)
    limiter.ask()
    assert not limiter.allow(1.49)
    assert limiter.pending
    assert limiter.allow(1.5)
    assert not limiter.pending
    assert not limiter.allow(3)


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=200))
def test_key_frames_are_bounded_and_no_request_is_lost(steps: list[tuple[int, bool]]):
    """Pictures up to 100 ms apart, each asked for or not."""
    limiter, now, made, unanswered = KeyFrameLimiter(), 0.0, [], False
    for wait_ms, asked in steps:
        now += wait_ms / 1000
        if asked:
            limiter.ask()
            unanswered = True
        if limiter.allow(now):
            assert unanswered
            made.append(now)
            unanswered = False
        assert limiter.pending == unanswered
    assert all(after - before > KEY_FRAME_INTERVAL_S - 1e-9 for before, after in itertools.pairwise(made))
    if unanswered:
        assert limiter.allow(now + KEY_FRAME_INTERVAL_S)


def test_a_packet_goes_out_again_a_few_times_only():
    limiter = RetransmissionLimiter(repetitions=3)
    assert [limiter.allow(7, 100, 0) for _ in range(5)] == [True, True, True, False, False]
    assert limiter.allow(8, 100, 0)
    assert limiter.allow(7 + 128, 100, 0)  # another packet in the same place of the history
    assert (limiter.asked, limiter.sent, limiter.sent_bytes) == (7, 5, 500)


def test_repetitions_are_a_share_of_what_is_sent():
    limiter = RetransmissionLimiter(share=0.5, credit_bytes=1000)
    assert limiter.allow(1, 1000, 0)
    assert not limiter.allow(2, 500, 999)
    assert limiter.allow(2, 500, 1000)
    assert not limiter.allow(3, 1, 1000)
    assert not limiter.allow(4, 1001, 10**9)  # no more is saved up


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 1500), st.integers(0, 20_000)), max_size=200))
def test_repetitions_stay_within_the_budget(steps: list[tuple[int, int, int]]):
    limiter, total, times = RetransmissionLimiter(), 0, dict[int, int]()
    for number, size, sent in steps:
        total += sent
        if limiter.allow(number % 128, size, total):
            times[number % 128] = times.get(number % 128, 0) + 1
        assert limiter.sent_bytes <= CREDIT_BYTES + SHARE * total
    assert max(times.values(), default=0) <= REPETITIONS


@dataclass
class Limited:
    """Hooks both limiters into a sender that a test starts."""

    key_frames: KeyFrameLimiter | None = None
    repetitions: RetransmissionLimiter | None = None

    def __call__(self, sender, receiver: object) -> None:
        self.key_frames = limit_key_frames(sender)
        self.repetitions = limit_retransmissions(sender)


async def test_a_flood_of_requests_for_key_frames():
    it = Limited()
    async with no_leaks(), pair(Camera(fps=60), codec="h264", prepare=it) as run:
        limiter = it.key_frames
        assert limiter is not None
        await until(lambda: run.seen)
        began = time.monotonic()
        for _ in range(200):
            await run.receiver._send_rtcp_pli(run.sender._ssrc)
            await asyncio.sleep(0.002)
        await until(lambda: limiter.asked == 200 and not limiter.pending, "an answer to the last request")
        allowed = math.ceil((time.monotonic() - began) / KEY_FRAME_INTERVAL_S) + 1
        assert 2 <= limiter.made <= allowed
        seen = len(run.seen)
        await until(lambda: len(run.seen) >= seen + 10)
        assert 2 <= sum(frame.key_frame for frame in run.seen) <= limiter.made + 1  # the first is one anyway


@pytest.mark.parametrize("rtx", [True, False])
async def test_a_flood_of_requests_for_packets(rtx: bool):
    it = Limited()
    async with no_leaks(), pair(Camera(fps=60), rtx=rtx, prepare=it) as run:
        limiter = it.repetitions
        assert limiter is not None
        await until(lambda: len(run.seen) >= 20)
        history = run.sender._RTCRtpSender__rtp_history
        numbers = sorted(packet.sequence_number for packet in history.values())
        for _ in range(200):
            await run.receiver._send_rtcp_nack(run.sender._ssrc, numbers)
        await until(lambda: limiter.asked >= 200 * len(numbers))
        assert len(numbers) <= limiter.sent <= REPETITIONS * len(numbers)
        sent = run.sender._RTCRtpSender__packet_count
        reports = 20  # RTCP
        assert limiter.sent + sent <= run.links[0].out.carried <= limiter.sent + sent + reports


async def test_what_a_sender_does_not_have_is_no_concern():
    it = Limited()
    async with no_leaks(), pair(Camera(fps=60), prepare=it) as run:
        limiter = it.repetitions
        assert limiter is not None
        await until(lambda: len(run.seen) >= 5)
        history = run.sender._RTCRtpSender__rtp_history
        (number, *_) = sorted(packet.sequence_number for packet in history.values())
        await run.sender._retransmit((number + 128) % 65536)
        assert limiter.asked == 0
        await run.sender._retransmit(number + 65536)  # from a bit mask that ran past the end
        assert (limiter.asked, limiter.sent) == (1, 1)


async def test_another_aiortc_is_left_alone():
    connection = RTCPeerConnection(OFFLINE)
    sender = connection.addTransceiver("video").sender
    sender.__dict__["moved"] = sender.__dict__.pop("_RTCRtpSender__rtp_history")
    before = dict(sender.__dict__)
    assert limit_retransmissions(sender) is None
    assert limit_key_frames(object()) is None  # type: ignore[arg-type]
    assert sender.__dict__ == before
    await connection.close()
