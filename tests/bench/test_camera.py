from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from streamgen.bench import camera as module
from streamgen.bench.barcode import STRIP_ROWS, Stamp
from streamgen.bench.camera import Camera, Reel, reel
from streamgen.bench.measure import Log
from streamgen.bench.scenes import PERIOD, synthetic
from streamgen.colours import ToRgb
from streamgen.errors import MediaFileError
from tests.support.clips import make_clip


class Time:
    """Passes only where somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.asyncio, "sleep", self.sleep)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


@pytest.fixture(scope="module")
def pictures() -> Reel:
    return reel(None, 192, 96, 1)


def log(source: int = 0) -> Log:
    return Log(source, started=100.0)


async def filmed(camera: Camera) -> list[tuple[float, Stamp | None]]:
    """(media time in s, stamp) of all frames."""
    frames, to_rgb = [], ToRgb()
    while True:
        try:
            frame = await camera.recv()
        except MediaStreamError:
            return frames
        assert frame.pts is not None
        frames.append((frame.pts / 90000, camera._reel.barcode.read(to_rgb(frame))))


@pytest.mark.parametrize("size", [(320, 192), (321, 193), (128, 64)])
def test_pictures_are_what_the_scene_draws(size: tuple[int, int]):
    width, height = size
    it = reel(None, width, height, 1)
    assert len(it) == PERIOD
    assert it[0].shape == (height // 2 * 3, width // 2 * 2)
    assert it[PERIOD + 3] is it[3]
    drawn = next(itertools.islice(synthetic(width, height), 3, None))[: it.height, : width & ~1]
    shown = ToRgb()(module.VideoFrame.from_ndarray(it[3], format="yuv420p"))
    assert np.abs(shown[STRIP_ROWS:].astype(int) - drawn[STRIP_ROWS:]).mean() < 6


def test_the_scene_has_no_seam():
    first, last, again = next(synthetic(96, 96)), *itertools.islice(synthetic(96, 96), PERIOD - 1, PERIOD + 1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, last)


def test_of_a_video_as_many_pictures_are_kept_as_are_sent_and_fit(tmp_path: Path, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4")
    assert len(reel(clip, 192, 96, 7)) == 7
    monkeypatch.setattr(module, "MOST_BYTES", 192 * 96 * 3 // 2 * 3)
    assert len(reel(clip, 192, 96, 7)) == 3
    monkeypatch.setattr(module, "MOST_BYTES", 1)
    assert len(reel(clip, 192, 96, 7)) == 1
    with pytest.raises(MediaFileError):
        reel(tmp_path / "none.mp4", 192, 96, 7)


async def test_frames_come_evenly_each_with_its_stamp(time: Time, pictures: Reel):
    it = log()
    frames = await filmed(Camera(pictures, it, 16, 1.0, clock=time))
    assert [at for at, _ in frames] == pytest.approx([n / 16 for n in range(16)], abs=1e-4)
    assert [stamp.counter if stamp else None for _, stamp in frames] == list(range(16))
    assert it.sent == pytest.approx([100 + n / 16 for n in range(16)])


async def test_cameras_share_a_reel_and_each_draws_its_own(time: Time, pictures: Reel):
    cameras = [Camera(pictures, log(source), 16, 1.0, clock=time) for source in (3, 5)]
    to_rgb = ToRgb()
    for _ in range(3):
        frames = [await camera.recv() for camera in cameras]
        stamps = [pictures.barcode.read(to_rgb(frame)) for frame in frames]
        assert [stamp.source if stamp else None for stamp in stamps] == [3, 5]
    assert not np.array_equal(to_rgb(frames[0])[STRIP_ROWS:], to_rgb(frames[1])[STRIP_ROWS:])


async def test_places_that_were_missed_are_left_out(time: Time, pictures: Reel):
    camera = Camera(pictures, log(), 10, 1.0, clock=time)
    await camera.recv()
    time.now += 0.35
    frame = await camera.recv()
    assert frame.pts == 27000


async def test_uneven_frames_come_in_order_and_the_same_for_the_same_seed(time: Time, pictures: Reel):
    frames = await filmed(Camera(pictures, log(7), 16, 2.0, 0.2, time))
    times = [at for at, _ in frames]
    gaps = np.diff(times)
    assert len(frames) == 32
    assert gaps.min() >= module.LEAST_GAP_S - 1e-4
    assert gaps.std() > 0.02
    assert all(0 <= at - n / 16 <= 0.2 + 0.01 for n, at in enumerate(times))
    assert [at for at, _ in await filmed(Camera(pictures, log(7), 16, 2.0, 0.2, time))] == pytest.approx(
        times, abs=1e-4
    )
    assert [at for at, _ in await filmed(Camera(pictures, log(8), 16, 2.0, 0.2, time))] != pytest.approx(
        times, abs=1e-4
    )
