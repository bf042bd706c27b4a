from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamgen.errors import MediaFileError
from streamgen.mediafile import STRANGERS, Picture, VideoReader
from tests.support.clips import make_clip, turn_left


def read(path: Path, width: int = 80, height: int = 48) -> list[Picture]:
    with VideoReader(path) as reader:
        return list(reader.pictures(width, height, on_audio=lambda packet: None))


def test_every_picture_comes_scaled_and_in_order(tmp_path: Path) -> None:
    pictures = read(make_clip(tmp_path / "a.mp4"))
    assert len(pictures) == 10
    assert {p.pixels.shape for p in pictures} == {(48, 80, 3)}
    assert all(p.pixels[:20].mean() > 240 for p in pictures)
    brightness = [p.pixels[30:].mean() for p in pictures]
    assert brightness == sorted(brightness, reverse=True)


def test_uneven_timestamps_are_kept(tmp_path: Path) -> None:
    times = [0, 40, 50, 400, 410, 900]
    path = make_clip(tmp_path / "a.mkv", times)
    with VideoReader(path) as reader:
        pictures = list(reader.pictures(80, 48, on_audio=lambda packet: None))
        assert [p.pts * reader.time_base * 1000 for p in pictures] == times


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    with VideoReader(make_clip(tmp_path / "a.mp4")) as reader:
        assert reader.size == (160, 96)
        assert reader.rate == 10
        assert reader.length == 10
        assert not reader.audio


def test_a_length_is_estimated_where_the_container_has_none(tmp_path: Path) -> None:
    with VideoReader(make_clip(tmp_path / "a.mkv")) as reader:
        assert reader.length == 10


def test_pixels_that_are_not_square_widen_the_picture(tmp_path: Path) -> None:
    with VideoReader(make_clip(tmp_path / "a.mp4", aspect=Fraction(2))) as reader:
        assert reader.size == (320, 96)


def test_a_turned_video_comes_upright(tmp_path: Path) -> None:
    path = turn_left(make_clip(tmp_path / "a.mp4"))
    with VideoReader(path) as reader:
        assert reader.size == (96, 160)
    first = read(path, 48, 80)[0].pixels
    assert first.shape == (80, 48, 3)
    assert first[:, :20].mean() > 240, "what was at the top lies on the left"
    assert first[:, 30:].mean() < 140


def test_audio_packets_are_passed_on(tmp_path: Path) -> None:
    packets: list[Any] = []
    with VideoReader(make_clip(tmp_path / "a.mp4", audio="aac")) as reader:
        assert len(reader.audio) == 1
        assert len(list(reader.pictures(80, 48, on_audio=packets.append))) == 10
    assert sum(packet.duration or 0 for packet in packets) >= 48_000


@pytest.mark.parametrize("name", ["text.txt", "text.mp4"])
def test_text_is_no_video(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("no video\n" * 1000)
    with pytest.raises(MediaFileError, match=rf"{name} (cannot be read|has no video)"):
        VideoReader(path)


def test_an_empty_file_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.touch()
    with pytest.raises(MediaFileError, match="cannot be read as a video"):
        VideoReader(path)


def test_a_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24").save(path)
    with pytest.raises(MediaFileError, match="no video in it"):
        VideoReader(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaFileError, match="no video in it"):
        VideoReader(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaFileError, match="there is no file"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(MediaFileError, match="is a folder"):
        VideoReader(tmp_path)


def test_what_strangers_send_names_no_other_file(tmp_path: Path) -> None:
    make_clip(tmp_path / "secret.mkv")
    listing = tmp_path / "list"
    listing.write_text("ffconcat version 1.0\nfile secret.mkv\n")
    assert len(read(listing)) == 10, "which is what it takes to be refused"
    with pytest.raises(MediaFileError, match=r"^it cannot be read as a video"):
        VideoReader(listing, name="it", options=STRANGERS)
    for kind in ("mp4", "mkv", "avi", "ts", "flv", "mov", "webm"):
        codec = "libvpx-vp9" if kind == "webm" else "libx264"
        with VideoReader(make_clip(tmp_path / f"a.{kind}", codec=codec), options=STRANGERS) as reader:
            assert reader.size == (160, 96)


def test_pictures_that_take_all_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "a.mp4")
    monkeypatch.setattr("streamgen.mediafile.reader.MAX_PIXELS", 160 * 96 - 1)
    with pytest.raises(MediaFileError, match="pictures of 160x96, which is too large"):
        VideoReader(path)


def test_damage_is_counted_and_left_out(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", range(0, 3000, 100), codec="mpeg4")
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    data[third : third + third // 2] = bytes(third // 2)
    path.write_bytes(data)
    assert 1 <= len(read(path)) <= 30
