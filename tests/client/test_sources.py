import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from aiortc import AudioStreamTrack, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.video.frame import PictureType, VideoFrame

from streamgen.client.sources import FileReader, FileSource, Pace, SourceTrack, open_source, video_frame
from streamgen.errors import MediaFileError
from tests.support.clips import make_clip

GREY = np.full((64, 64, 3), 99, np.uint8)


def times_of(reader: FileReader, count: int) -> list[int]:
    """Media times in ms of the next `count` pictures."""
    items = (reader.read() for _ in range(count))
    return [round(item[0] * 1000) for item in items if item is not None]


def test_a_file_is_read_to_its_end(tmp_path: Path):
    reader = FileReader(str(make_clip(tmp_path / "clip.mp4", times_ms=range(500, 900, 100))), looped=False)
    assert times_of(reader, 9) == [0, 100, 200, 300]
    reader.close()


def test_a_looped_file_begins_again_and_time_goes_on(tmp_path: Path):
    reader = FileReader(str(make_clip(tmp_path / "clip.mp4", times_ms=range(0, 300, 100))), looped=True)
    assert times_of(reader, 7) == [0, 100, 200, 300, 400, 500, 600]
    reader.close()


def test_a_reader_that_is_late_gets_what_is_due(tmp_path: Path):
    reader = FileReader(str(make_clip(tmp_path / "clip.mp4", times_ms=range(0, 1000, 100))), looped=False)
    item = reader.read(not_before=0.55)
    assert item is not None
    assert round(item[0] * 1000) == 500
    assert reader.read(not_before=30) is None
    reader.close()


def test_the_files_own_picture_types_are_forgotten(tmp_path: Path):
    reader = FileReader(str(make_clip(tmp_path / "clip.mp4")), looped=False)
    item = reader.read()
    assert item is not None
    assert item[1].pict_type == PictureType.NONE
    reader.close()


@pytest.mark.parametrize("looped", [False, True])
def test_what_is_no_video_is_said_in_one_line(tmp_path: Path, looped: bool):
    text = tmp_path / "notes.txt"
    text.write_text("not a video " * 100)
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(range(256)) * 20)
    for name, says in [
        (text, "notes.txt holds no video stream"),
        (noise, "cannot read noise.mp4 as video"),
        (tmp_path / "none.mp4", "No such file"),
    ]:
        with pytest.raises(MediaFileError, match=says) as caught:
            FileReader(str(name), looped)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_a_file_that_is_cut_off_ends_there(tmp_path: Path):
    whole = make_clip(tmp_path / "clip.mkv", times_ms=range(0, 3000, 100))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])
    reader = FileReader(str(cut), looped=False)
    assert 0 < len(times_of(reader, 50)) < 30
    reader.close()


async def test_a_file_plays_in_real_time(tmp_path: Path):
    source = await FileSource.open(str(make_clip(tmp_path / "clip.mp4", times_ms=range(0, 300, 100))), looped=False)
    started = time.monotonic()
    frames = [await source.next() for _ in range(4)]
    assert time.monotonic() - started >= 0.2  # never too early; how late depends on the machine
    assert [frame.pts if frame else None for frame in frames] == [0, 9000, 18000, None]
    await source.close()


async def test_arrays_are_asked_for_when_they_are_due_in_a_thread_of_their_own():
    threads, asked = set(), []

    def frames():
        for _ in range(3):
            threads.add(threading.current_thread())
            asked.append(time.monotonic())
            yield GREY

    began = time.monotonic()
    source = await open_source(frames(), fps=20, looped=False)
    got = [await source.next() for _ in range(4)]
    await source.close()
    assert isinstance(got[0], VideoFrame)
    assert got[-1] is None
    assert asked[2] - began >= 0.099  # from the start on: the first may be late on a busy machine
    assert len(threads) == 1
    assert threading.main_thread() not in threads


async def test_arrays_of_an_async_iterator():
    async def frames():
        yield GREY
        yield GREY

    source = await open_source(frames(), fps=50, looped=False)
    got = [await source.next() for _ in range(3)]
    assert [isinstance(frame, VideoFrame) for frame in got] == [True, True, False]


async def test_a_source_that_falls_behind_leaves_places_out():
    now = 0.0
    pace = Pace(fps=10, clock=lambda: now)
    stamps = [await pace.wait()]
    now = 0.35  # the frame took 3.5 intervals
    stamps.append(await pace.wait())
    assert stamps == [0, 27000]


async def test_a_track_is_passed_on_and_stays_the_callers():
    theirs = VideoStreamTrack()
    source = await open_source(theirs, fps=16, looped=False)
    assert isinstance(await source.next(), VideoFrame)
    await source.close()
    assert theirs.readyState == "live"
    theirs.stop()
    assert await source.next() is None


@pytest.mark.parametrize("wrong", [3, None, GREY, AudioStreamTrack()])
async def test_what_can_be_no_source(wrong):
    with pytest.raises(TypeError, match="source must be"):
        await open_source(wrong, fps=16, looped=False)


@pytest.mark.parametrize(
    "wrong", [GREY[:, :, 0], GREY.astype(np.float32), np.zeros((4, 4, 4), np.uint8), "frame", [[0, 0, 0]]]
)
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="must be a uint8 array"):
        video_frame(wrong, 0)


def test_odd_sizes_are_made_even():
    frame = video_frame(np.zeros((65, 67, 3), np.uint8), 5)
    assert (frame.width, frame.height, frame.pts) == (66, 64, 5)


async def test_the_error_of_a_source_is_kept_and_ends_the_track():
    def frames():
        yield GREY
        raise OSError("camera unplugged")

    source = await open_source(frames(), fps=100, looped=False)
    track = SourceTrack(source)
    await track.recv()
    for _ in range(2):
        with pytest.raises(MediaStreamError):
            await track.recv()
    assert (track.sent, track.readyState, str(track.error)) == (1, "ended", "camera unplugged")
    await source.close()


async def test_closing_does_not_wait_for_a_read_that_hangs():
    hangs = threading.Event()

    def frames():
        hangs.wait(30)
        yield GREY

    source = await open_source(frames(), fps=16, looped=False)
    reading = asyncio.create_task(source.next())
    await asyncio.sleep(0.05)
    await asyncio.wait_for(source.close(), 5)
    hangs.set()
    await reading
