import random

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.rtp import RtpPacket

from streamgen.jitter import MarkerJitterBuffer, release_on_marker


def packets(pictures: list[list[bytes]], start: int = 65530) -> list[RtpPacket]:
    made = []
    for number, parts in enumerate(pictures):
        for index, part in enumerate(parts):
            packet = RtpPacket(sequence_number=(start + len(made)) % 65536, timestamp=number * 3000)
            packet.marker = int(index == len(parts) - 1)
            packet._data = part  # type: ignore[attr-defined]
            made.append(packet)
    return made


def test_a_picture_comes_with_its_last_packet():
    buffer = MarkerJitterBuffer(16, is_video=True)
    first, second, third = packets([[b"a", b"b", b"c"]])
    assert buffer.add(first)[1] is None
    assert buffer.add(second)[1] is None
    frame = buffer.add(third)[1]
    assert frame is not None
    assert (frame.data, frame.timestamp) == (b"abc", 0)


def test_a_gap_is_waited_for():
    buffer = MarkerJitterBuffer(16, is_video=True)
    first, second, third = packets([[b"a", b"b", b"c"]])
    assert buffer.add(first)[1] is None
    assert buffer.add(third)[1] is None
    frame = buffer.add(second)[1]
    assert frame is not None
    assert frame.data == b"abc"


def test_padding_alone_is_no_picture_and_holds_up_nothing():
    buffer = MarkerJitterBuffer(16, is_video=True)
    given = packets([[b"a"], [b"", b""], [b"b"]])
    got = [buffer.add(packet)[1] for packet in given]
    assert [frame.data for frame in got if frame] == [b"a", b"b"]


@pytest.mark.parametrize("seed", range(5))
def test_pictures_stay_whole_and_in_order_when_packets_swap(seed):
    random_ = random.Random(seed)
    pictures = [[bytes([n, i]) for i in range(random_.randint(1, 4))] for n in range(40)]
    given = packets(pictures)
    for index in range(2, len(given), 3):
        given[index - 1], given[index] = given[index], given[index - 1]
    buffer = MarkerJitterBuffer(64, is_video=True)
    got = [frame for frame in (buffer.add(packet)[1] for packet in given) if frame]
    whole = [b"".join(parts) for parts in pictures]
    assert [frame.data for frame in got] == whole[: len(got)]
    assert len(got) >= len(whole) - 2


async def test_this_aiortc_keeps_its_buffer_where_we_look():
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    receiver = connection.addTransceiver("video").receiver
    assert release_on_marker(receiver)
    assert isinstance(receiver._RTCRtpReceiver__jitter_buffer, MarkerJitterBuffer)
    await connection.close()


def test_another_aiortc_is_left_alone():
    assert not release_on_marker(object())  # type: ignore[arg-type]
