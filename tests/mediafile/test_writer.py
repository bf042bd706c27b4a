from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from streamgen.errors import MediaFileError
from streamgen.mediafile import Picture, VideoReader, VideoWriter, check_writable
from tests.support.clips import MILLISECOND, make_clip

SIZE = (96, 64)


def picture(ms: int, colour: tuple[int, int, int] = (200, 40, 40), duration: int = 100) -> Picture:
    return Picture(np.full((SIZE[1], SIZE[0], 3), colour, np.uint8), ms, duration)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "h264"), ("a.mkv", "h264"), ("a.webm", "vp9"), ("A.MP4", "h264")]
)
def test_pictures_times_and_colours_are_kept(tmp_path: Path, name: str, codec: str) -> None:
    times = [0, 100, 130, 500, 900]
    with VideoWriter(tmp_path / name, SIZE, Fraction(10), MILLISECOND) as writer:
        for ms in times:
            writer.write(picture(ms))
    with av.open(tmp_path / name) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == (codec, "yuv420p")
        frames = list(container.decode(stream))
        assert [round(frame.time * 1000) for frame in frames] == times
        assert np.abs(frames[0].to_ndarray(format="rgb24").mean((0, 1)) - (200, 40, 40)).max() < 6
        assert container.duration is not None
        assert container.duration / 1000 == pytest.approx(1000, abs=2), "the last picture has its duration too"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("source", "encoder", "target", "codec"),
    [
        ("a.mp4", "aac", "out.mp4", "aac"),
        ("a.mp4", "aac", "out.mkv", "aac"),
        ("a.mp4", "aac", "out.webm", "opus"),
        ("a.mkv", "libopus", "out.webm", "opus"),
        ("a.mov", "pcm_alaw", "out.mp4", "aac"),
    ],
)
def test_sound_is_copied_or_encoded_anew(tmp_path: Path, source: str, encoder: str, target: str, codec: str) -> None:
    with VideoReader(make_clip(tmp_path / source, audio=encoder)) as reader:
        copied = reader.audio[0].codec_context.name == codec
        with VideoWriter(tmp_path / target, (80, 48), reader.rate, reader.time_base, reader.audio) as writer:
            for each in reader.pictures(80, 48, on_audio=writer.write_audio):
                writer.write(each)
    payloads = [_audio(tmp_path / name) for name in (source, target)]
    assert payloads[1][0].startswith(codec)
    if copied:
        assert payloads[0][1] == payloads[1][1], "the packets are the same, byte for byte"
    assert payloads[1][2] == pytest.approx(1.0, abs=0.1)


def _audio(path: Path) -> tuple[str, list[bytes], float]:
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    with av.open(path) as container:
        stream = container.streams.audio[0]
        seconds = sum(frame.samples for frame in container.decode(stream)) / stream.rate
        return stream.codec_context.name, packets, seconds


def test_an_interrupted_file_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "a.mp4", SIZE, Fraction(10), MILLISECOND) as writer,
    ):
        writer.write(picture(0))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_older_result_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    with VideoWriter(path, SIZE, Fraction(10), MILLISECOND) as writer:
        writer.write(picture(0))
        assert path.read_bytes() == b"older"
    assert path.read_bytes() != b"older"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("a.avi", "must end in .mp4"), ("a", "must end in"), ("no/a.mp4", "no folder"), (".", "end in")],
)
def test_a_name_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(MediaFileError, match=problem):
        check_writable(tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(MediaFileError, match="is a folder"):
        check_writable(tmp_path / "folder.mp4")
