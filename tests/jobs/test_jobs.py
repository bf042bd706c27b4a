from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.fake import FakePipeline, restyle
from streamgen import offline
from streamgen.errors import (
    BusyError,
    JobNotFoundError,
    MediaFileError,
    NotDoneError,
    ParamsError,
    StreamgenError,
    TooLargeError,
    TooSlowError,
)
from streamgen.jobs import jobs, upload
from streamgen.jobs.job import Job
from streamgen.mediafile import Picture
from streamgen.rendition import Rendition
from streamgen.scheduler.cost import CostModel, Line, Shape
from tests.support.clips import make_clip
from tests.support.jobs import ASKED, SPEC, Workshop, pieces
from tests.support.processes import until
from tests.support.service import feed

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
async def workshop() -> AsyncIterator[Callable[..., Workshop]]:
    made: list[Workshop] = []

    def make(**settings: Any) -> Workshop:
        made.append(Workshop(**settings))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Ten frames, with sound."""
    return make_clip(tmp_path_factory.mktemp("clips") / "in.mkv", audio="aac").read_bytes()


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Forty frames."""
    return make_clip(tmp_path_factory.mktemp("clips") / "in.mkv", range(0, 4000, 100)).read_bytes()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """Results before they are encoded."""
    pictures: list[Picture] = []
    write = Rendition.write

    def note(self: Rendition, picture: Picture) -> None:
        pictures.append(picture)
        write(self, picture)

    monkeypatch.setattr(Rendition, "write", note)
    return pictures


async def over(job: Job) -> Job:
    await until(lambda: job.over)
    return job


@pytest.mark.parametrize("options", [{}, {"fps": 5.0}, {"steps": 3, "seed": 7, "noise": 0.3}])
async def test_results_are_those_of_the_offline_run(
    workshop: Callable[..., Workshop], clip: bytes, tmp_path: Path, written: list[Picture], options: dict[str, Any]
) -> None:
    here = workshop()
    job = await over(await here.submit(clip, **options))
    assert (job.state, job.error) == ("done", "")
    assert here.engine.forgotten == [job.id]
    ours, written[:] = list(written), []

    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    source.write_bytes(clip)
    parser = argparse.ArgumentParser()
    offline.add_arguments(parser)
    words = [f"--{name}={value}" for name, value in (ASKED | options).items()]
    arguments = parser.parse_args([str(source), "-o", str(target), *words])
    await asyncio.to_thread(offline.run, arguments, lambda *_, **__: FakePipeline(SPEC))

    assert len(ours) == len(written) == (5 if "fps" in options else 10)
    for mine, theirs in zip(ours, written, strict=True):
        assert (mine.pts, mine.duration) == (theirs.pts, theirs.duration)
        assert np.array_equal(mine.pixels, theirs.pixels)


async def test_a_result_has_the_sound_of_its_source_and_nothing_else_is_kept(
    workshop: Callable[..., Workshop], clip: bytes
) -> None:
    here = workshop()
    job = await over(await here.submit(clip, "mp4"))
    result = here.jobs.result(job.id)
    with av.open(result) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert len(list(container.decode(video=0))) == job.frames_done == job.frames_total == 10
    assert here.left == [result.parent, result]
    assert result.parent.stat().st_mode & 0o777 == 0o700
    assert b"streamgen_job_frames_total 10.0" in here.metrics.exposition()


async def test_live_sessions_go_first(workshop: Callable[..., Workshop], long_clip: bytes) -> None:
    """Whatever waits when a live chunk comes, the next batch is the live one; the jobs get done all the same."""
    here = workshop()
    here.engine.one_by_one = True
    here.engine.gate.clear()
    session = here.session()
    batches = here.engine.batches
    both = {job.id: job for job in (await here.submit(long_clip), await here.submit(long_clip))}
    for served in range(6):
        await until(lambda: bool(batches) and batches[-1][0].session in both)
        other = next(job for job in both.values() if job.id != batches[-1][0].session)
        await until(lambda waits=other: waits.view() is not None)
        feed(session, here.clock, SPEC.frames_wanted(served == 0))
        number = len(batches)
        here.engine.gate.set()
        await until(lambda count=number: len(batches) > count)
        assert [work.session for work in batches[number]] == ["live"]
        here.engine.gate.set()
    here.engine.one_by_one = False
    here.engine.gate.set()
    for job in both.values():
        assert (await over(job)).state == "done"
    assert session.statistics.drops == {}


async def test_a_live_session_does_not_wait_for_more_than_the_chunk_that_runs(
    workshop: Callable[..., Workshop], long_clip: bytes
) -> None:
    here = workshop()
    session = here.session()
    job = await here.submit(long_clip)
    await until(lambda: len(here.engine.batches) > 2)
    feed(session, here.clock, 1)
    running = len(here.engine.batches)
    await until(lambda: any(work.session == "live" for batch in here.engine.batches for work in batch))
    number = next(n for n, batch in enumerate(here.engine.batches) if batch[0].session == "live")
    assert number <= running
    assert (await over(job)).state == "done"


def ready(*all_of: Job) -> Callable[[], Awaitable[None]]:
    """Waits until each has a chunk to run, or has none left."""

    async def wait() -> None:
        await until(lambda: all(job._left or (job.view() is not None and not job._results) for job in all_of))

    return wait


async def two_jobs(here: Workshop, clip: bytes) -> tuple[Job, Job]:
    """Both ready, and each whenever the engine asks what comes next."""
    here.engine.gate.clear()
    both = await here.submit(clip, prompt="one"), await here.submit(clip, prompt="two")
    here.engine.after = ready(*both)
    here.engine.gate.set()
    return both


async def test_two_jobs_share_fairly(workshop: Callable[..., Workshop], long_clip: bytes) -> None:
    here = workshop()
    both = await two_jobs(here, long_clip)
    for job in both:
        assert (await over(job)).state == "done"
    order = [work.session for (work,) in here.engine.batches]
    assert len(order) == 22
    both_last = order[order.index(next(it for it in order if it != order[0])) :][:-4]
    turns = [a != b for a, b in pairwise(both_last)]
    assert sum(turns) >= 0.8 * len(turns), "once both are there they take turns, while both last"


async def test_jobs_of_one_shape_run_in_one_batch_each_with_its_own_frames(
    workshop: Callable[..., Workshop], long_clip: bytes
) -> None:
    here = workshop(max_batch=4)
    for job in await two_jobs(here, long_clip):
        assert (await over(job)).state == "done"
        with av.open(here.jobs.result(job.id)) as container:
            shown = [frame.to_ndarray(format="rgb24")[40:].mean() for frame in container.decode(video=0)]
        alone = [work for batch in here.engine.batches for work in batch if work.session == job.id]
        wanted = [
            restyle(pixels, job.params, chunk)[40:].mean() for chunk, work in enumerate(alone) for pixels in work.pixels
        ]
        assert shown == pytest.approx(wanted, abs=4)
    assert any(len(batch) == 2 for batch in here.engine.batches)


async def test_a_stream_batch_gives_every_frame_and_in_order(
    workshop: Callable[..., Workshop], clip: bytes, written: list[Picture]
) -> None:
    memory_bound = CostModel({("denoise", Shape(1, 128, 64)): Line(0.05, 0.001, 0.0)})
    here = workshop(cost=memory_bound)
    job = await over(await here.submit(clip, steps=3))
    assert (job.state, job.error) == ("done", "")
    works = [work for (work,) in here.engine.batches]
    assert [(work.mode, len(work.pixels)) for work in works[:-1]] == [("stream_batch", n) for n in (1, 4, 4, 1)]
    assert works[-1].flushes
    assert [picture.pts for picture in written] == list(range(0, 1000, 100))
    sources = [(pixels, chunk) for chunk, work in enumerate(works) for pixels in work.pixels]
    for picture, (pixels, chunk) in zip(written, sources, strict=True):
        assert np.array_equal(picture.pixels, restyle(pixels, job.params, chunk))


async def test_a_restart_of_the_worker_costs_no_frame(
    workshop: Callable[..., Workshop], long_clip: bytes, written: list[Picture]
) -> None:
    here = workshop()
    job = await here.submit(long_clip)
    await until(lambda: job.frames_done >= 9)
    here.engine.dies = True
    assert (await over(job)).state == "done"
    assert [picture.pts for picture in written] == list(range(0, 4000, 100))
    works = [work for (work,) in here.engine.batches]
    assert any(work.first for work in works[1:])
    sources, chunk = [], 0
    for work, after in pairwise([*works, None]):
        chunk = 0 if work.first else chunk + 1
        if after is None or not after.first:  # else it was lost
            sources += [(pixels, chunk) for pixels in work.pixels]
    for picture, (pixels, number) in zip(written, sources, strict=True):
        assert np.array_equal(picture.pixels, restyle(pixels, job.params, number))


async def test_a_chunk_that_fails_ends_its_job_and_no_other(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop(max_batch=4)
    session = here.session()
    here.engine.gate.clear()
    bad, good = await here.submit(clip, prompt="bad"), await here.submit(clip)
    feed(session, here.clock, 1)
    here.engine.gate.set()
    assert (await over(good)).state == "done"
    assert (await over(bad)).state == "failed"
    assert "failed 3 times at frame 0: RuntimeError: programmed fault in encode" in bad.error
    assert not session.ended.is_set()
    with pytest.raises(NotDoneError, match="failed"):
        here.jobs.result(bad.id)
    await until(lambda: here.left == [here.jobs.result(good.id).parent, here.jobs.result(good.id)])
    assert (here.shown("failed"), here.shown("done"), here.shown("running")) == (1, 1, 0)


async def test_an_engine_that_failed_for_good_fails_the_jobs(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop()
    here.engine.gate.clear()
    job = await here.submit(clip)
    here.engine.failure = "no device"
    here.engine.gate.set()
    await over(job)
    assert (job.state, job.error) == ("failed", "the engine failed: no device")
    await until(lambda: here.left == [])


async def test_a_result_that_cannot_be_written_fails_its_job(
    workshop: Callable[..., Workshop], clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Rendition, picture: Picture) -> None:
        raise MediaFileError("the result cannot be written: No space left on device")

    monkeypatch.setattr(Rendition, "write", full)
    here = workshop()
    job = await over(await here.submit(clip))
    assert (job.state, job.error) == ("failed", "the result cannot be written: No space left on device")
    await until(lambda: here.left == [])
    assert here.engine.forgotten == [job.id]


async def test_a_queued_job_can_be_cancelled(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop(sessions=1)
    session = here.session()
    first, second = await here.submit(clip), await here.submit(clip)
    here.loop._govern()
    assert [(job.state, job.position) for job in (first, second)] == [("queued", 1), ("queued", 2)]
    await here.jobs.cancel(first.id)
    here.loop._govern()
    assert (second.state, second.position) == ("queued", 1)
    assert first.state == "cancelled"
    session.close()
    assert (await over(second)).state == "done"


async def test_a_running_job_can_be_cancelled(workshop: Callable[..., Workshop], long_clip: bytes) -> None:
    here = workshop()
    here.engine.one_by_one = True
    job = await here.submit(long_clip)
    await until(lambda: job.frames_done and here.loop._running)
    await here.jobs.cancel(job.id)
    assert here.engine.forgotten == [job.id]
    assert here.left == []
    assert job.state == "cancelled"
    with pytest.raises(JobNotFoundError):
        here.jobs.job(job.id)
    here.engine.one_by_one = False
    here.engine.gate.set()
    assert (await over(await here.submit(long_clip))).state == "done"


@pytest.mark.parametrize("prompt", ["ink", "bad"])
async def test_a_job_that_is_over_can_be_forgotten(workshop: Callable[..., Workshop], clip: bytes, prompt: str) -> None:
    here = workshop()
    job = await over(await here.submit(clip, prompt=prompt))
    state = job.state
    await here.jobs.cancel(job.id)
    assert (here.left, here.shown(state), here.engine.forgotten) == ([], 0, [job.id] * len(here.engine.forgotten))
    with pytest.raises(JobNotFoundError):
        await here.jobs.cancel(job.id)


async def test_results_are_deleted_when_their_time_is_over(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop(keep_jobs_s=0.01)
    job = await here.submit(clip)
    await until(lambda: job.id not in here.jobs._held)
    assert job.state == "done"
    assert here.left == []


async def test_the_end_of_the_service_deletes_everything(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop()
    done = await over(await here.submit(clip))
    here.engine.gate.clear()
    running = await here.submit(clip)
    await here.jobs.stop()
    assert (done.state, running.state) == ("done", "cancelled")
    assert here.left == []
    with pytest.raises(BusyError, match="stopping"):
        await here.submit(clip)


async def test_the_end_of_the_service_ends_what_is_sent(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop()

    async def stands() -> AsyncIterator[bytes]:
        yield clip
        await asyncio.Event().wait()

    sending = asyncio.create_task(here.jobs.submit(ASKED, "mp4", stands()))
    await until(lambda: here.left != [])
    await here.jobs.stop()
    with pytest.raises(BusyError, match="stopping"):
        await sending
    assert here.left == []


async def test_there_is_a_bound_of_jobs_at_once(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop(max_jobs=2)
    here.engine.gate.clear()
    running = await here.submit(clip)
    sending = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield clip[:100]
        await sending.wait()
        yield clip[100:]

    arriving = asyncio.create_task(here.jobs.submit(ASKED, "mp4", slowly()))
    await until(lambda: len(here.left) > 2)
    with pytest.raises(BusyError, match="as many jobs"):
        await here.submit(clip)
    sending.set()
    await arriving
    here.engine.gate.set()
    await over(running)
    await over(await arriving)
    await here.submit(clip)


async def test_there_is_a_bound_of_results_that_are_kept(
    workshop: Callable[..., Workshop], clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "KEPT", 1)
    here = workshop()
    job = await over(await here.submit(clip))
    with pytest.raises(BusyError, match="fetched"):
        await here.submit(clip)
    await here.jobs.cancel(job.id)
    await here.submit(clip)


async def test_nothing_is_taken_while_the_engine_is_not_ready(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop()
    here.engine.state = "restarting"
    with pytest.raises(BusyError, match="restarting"):
        await here.submit(clip)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no video at all\n" * 100,
        b"#EXTM3U\n#EXTINF:9,\nfile:///x\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
    ],
    ids=["nothing", "text", "playlist", "list"],
)
async def test_what_is_no_video_is_refused_and_leaves_nothing(
    workshop: Callable[..., Workshop], content: bytes
) -> None:
    here = workshop()
    with pytest.raises(MediaFileError) as caught:
        await here.submit(content)
    assert str(here.folder) not in caught.value.message, "paths here are nobody's business"
    assert here.left == []
    assert here.jobs._held == {}


async def test_a_file_that_was_cut_short_is_restyled_as_far_as_it_goes(
    workshop: Callable[..., Workshop], long_clip: bytes
) -> None:
    here = workshop()
    job = await over(await here.submit(long_clip[: len(long_clip) - 600]))
    assert job.state == "done"
    assert 0 < job.frames_done < 40


async def test_a_file_whose_index_is_cut_off_is_refused(workshop: Callable[..., Workshop], tmp_path: Path) -> None:
    content = make_clip(tmp_path / "in.mp4").read_bytes()
    here = workshop()
    with pytest.raises(MediaFileError, match=r"^the file cannot be read as a video"):
        await here.submit(content[: len(content) // 2])
    assert here.left == []


@pytest.mark.parametrize(
    ("asked", "kind", "error"),
    [
        ({"prompt": ""}, "mp4", ParamsError),
        ({"steps": 9}, "mp4", ParamsError),
        ({"width": 100}, "mp4", ParamsError),
        ({"priority": "live"}, "mp4", ParamsError),
        ({}, "avi", ParamsError),
        ({}, "../../x", ParamsError),
    ],
)
async def test_what_cannot_be_asked_for_leaves_nothing(
    workshop: Callable[..., Workshop], clip: bytes, asked: dict[str, Any], kind: str, error: type[StreamgenError]
) -> None:
    here = workshop()
    with pytest.raises(error):
        await here.submit(clip, kind, **asked)
    assert here.left == []


async def test_a_file_that_is_too_large_is_refused_while_it_comes(
    workshop: Callable[..., Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MB", 1000)
    here = workshop(max_upload_mb=50)
    sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 10_000
            yield b"x" * 10_000

    with pytest.raises(TooLargeError, match="max-upload-mb"):
        await here.jobs.submit(ASKED, "mp4", flood())
    assert sent == 60_000
    with pytest.raises(TooLargeError):
        await here.jobs.submit(ASKED, "mp4", flood(), announced=50_001)
    assert sent == 60_000
    assert here.left == []


async def test_a_client_that_goes_or_stands_still_leaves_nothing(
    workshop: Callable[..., Workshop], clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = workshop()

    class GoneError(Exception):
        pass

    async def goes() -> AsyncIterator[bytes]:
        yield clip[:1000]
        raise GoneError

    async def stands() -> AsyncIterator[bytes]:
        yield clip[:1000]
        await asyncio.Event().wait()

    with pytest.raises(GoneError):
        await here.jobs.submit(ASKED, "mp4", goes())
    monkeypatch.setattr(upload, "PATIENCE_S", 0.02)
    with pytest.raises(TooSlowError):
        await here.jobs.submit(ASKED, "mp4", stands())
    assert (here.left, here.jobs._arriving) == ([], set())


async def test_an_upload_that_is_cancelled_leaves_nothing(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop()

    async def stands() -> AsyncIterator[bytes]:
        yield clip
        await asyncio.Event().wait()

    task = asyncio.create_task(here.jobs.submit(ASKED, "mp4", stands()))
    await until(lambda: here.left != [])
    task.cancel()
    await asyncio.wait([task])
    assert (here.left, here.jobs._arriving) == ([], set())


async def test_a_refusal_of_the_scheduler_leaves_nothing(workshop: Callable[..., Workshop], clip: bytes) -> None:
    here = workshop(sessions=1)
    here.loop.roster._max_waiting = 0
    here.session()
    with pytest.raises(BusyError):
        await here.submit(clip)
    assert (here.left, here.shown("queued")) == ([], 0)


async def test_what_is_read_block_by_block_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "BLOCK_BYTES", 25_000)
    content = np.random.default_rng(1).bytes(100_001)
    blocks: list[bytes] = []

    async def append(block: bytes) -> None:
        blocks.append(block)

    assert await upload.receive(pieces(content), len(content), 200_000, append) == len(content)
    assert b"".join(blocks) == content
    assert max(map(len, blocks)) < 40_000
