from __future__ import annotations

import asyncio
from random import Random

import pytest

from streamgen.core import Params
from streamgen.engine import BatchDone, ChunkWork
from streamgen.engine.work import Mode
from streamgen.scheduler.cost import Shape
from streamgen.simulation import virtual
from streamgen.simulation.device import Device, Replayed, cost_model
from streamgen.simulation.engine import SimulatedEngine, blank
from streamgen.simulation.virtual import LoopClock

LINES = {"transfer": (0.0, 0.02), "encode": (0.1, 0.1), "denoise": (0.5, 0.5), "decode": (0.0, 0.3)}
EXACT = Device(cost_model(Shape(4, 64, 64), LINES), spread=0.0)


def work(tag: int, session: str = "a", mode: Mode = "sequential", frames: int = 4, first: bool = False) -> ChunkWork:
    params = Params(width=64, height=64, steps=2)
    return ChunkWork(session, params, first, tuple(blank(frames, 64, 64)), mode, tag)


def timed(device: Device, *batches: list[ChunkWork]) -> list[tuple[float, BatchDone]]:
    """When each came back, where all are submitted at 0, in their order."""

    async def all_of_them() -> list[tuple[float, BatchDone]]:
        clock = LoopClock(asyncio.get_running_loop())
        engine = SimulatedEngine(device, clock, Random(1))

        async def one(batch: list[ChunkWork]) -> tuple[float, BatchDone]:
            done = await engine.run(batch)
            return clock.now(), done

        return list(await asyncio.gather(*(one(batch) for batch in batches)))

    return virtual.run(all_of_them())


def test_a_batch_takes_what_its_lines_say() -> None:
    ((at, done),) = timed(EXACT, [work(1), work(2, "b")])
    assert at == pytest.approx(0.04 + 0.3 + 2 * 0.5 + 4 * 0.5 + 0.6)
    assert [(answer.session, answer.tag) for answer in done.chunks] == [("a", 1), ("b", 2)]
    assert done.chunks[0].pixels is not None
    assert done.chunks[0].pixels.shape == (4, 64, 64, 3)
    times = done.times
    assert times is not None
    assert (times.chunks, times.calls, times.rows, times.decoded) == (2, 2, 4, 2)


def test_batches_take_turns_and_copying_goes_on_beside_them() -> None:
    (first, _), (second, _) = timed(EXACT, [work(1)], [work(2, "b")])
    assert second - first == pytest.approx(0.2 + 2.0 + 0.3)


def test_where_stages_overlap_the_slowest_sets_the_pace() -> None:
    device = Device(EXACT.costs, spread=0.0, overlap=True)
    (first, _), (second, _) = timed(device, [work(1)], [work(2, "b")])
    assert second - first == pytest.approx(2.0)


def test_in_a_stream_batch_results_come_later_and_a_chunk_without_frames_brings_the_rest() -> None:
    batched = [work(tag, mode="stream_batch") for tag in (1, 2, 3)]
    came = timed(EXACT, *([chunk] for chunk in batched), [work(4, frames=0)])
    assert [[answer.tag for answer in done.chunks] for _, done in came] == [[], [1], [2], [3]]
    assert [(done.times.calls, done.times.rows) for _, done in came if done.times] == [(1, 1), (1, 2), (1, 2), (1, 1)]


def test_noise_keeps_the_mean_and_hiccups_add_to_it() -> None:
    def mean(device: Device) -> float:
        random = Random(5)
        return (
            sum(sum(device.times(0, Shape(4, 64, 64), 1, 2, 2, 1, random).stages.values()) for _ in range(4000)) / 4000
        )

    assert mean(Device(EXACT.costs, spread=0.3)) == pytest.approx(2.52, rel=0.02)
    assert mean(Device(EXACT.costs, spread=0.3, hiccups=0.5, hiccup_s=1.0)) == pytest.approx(3.02, rel=0.03)


def test_a_faster_device_is_faster_in_everything() -> None:
    ((slow, _),) = timed(EXACT, [work(1)])
    ((fast, _),) = timed(Device(EXACT.costs, speed=4.0, spread=0.0), [work(1)])
    assert fast == pytest.approx(slow / 4)


def test_what_warming_up_tells_is_what_the_device_takes() -> None:
    shape = Shape(4, 64, 64)
    known = EXACT.warmed_up([(shape, 2)])
    for chunks in (1, 2, 4):
        told, true = known.costs(shape, chunks, 2, 2 * chunks), EXACT.costs.costs(shape, chunks, 2, 2 * chunks)
        assert told.total == pytest.approx(true.total, rel=0.05)


def test_what_was_measured_is_replayed_in_its_order() -> None:
    replayed = (Replayed((1.0, 1.0, 1.0, 1.0), 0.5), Replayed((1.0, 1.0, 2.0, 1.0), -0.1))
    device = Device(EXACT.costs, spread=0.5, hiccups=1.0, replayed=replayed)
    (first, _), (second, done), (third, _) = timed(device, [work(1)], [work(2, "b")], [work(3, "c")])
    assert (first, second - first, third - second) == pytest.approx((2.5 + 0.5, 4.5 - 0.1, 2.5 + 0.5))
    assert done.times is not None
    assert done.times.denoise == pytest.approx(4.0)
