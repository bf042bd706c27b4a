from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.engine.frames import FrameMemory, FramePool, slot_bytes
from tests.support.processes import open_files


def invert(memory: FrameMemory, size: tuple[int, int], slot: int, shape: tuple[int, ...]) -> None:
    memory.attach(*size)
    view = memory.view(slot, shape)
    view[:] = 255 - view


def test_another_process_sees_the_same_pixels() -> None:
    size, shape = (slot_bytes(64 * 64, 4), 3), (4, 64, 64, 3)
    memory = FrameMemory()
    memory.resize(*size)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    for slot in range(3):
        memory.view(slot, shape)[:] = pixels[slot]
    process = multiprocessing.get_context("spawn").Process(target=invert, args=(memory, size, 1, shape))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert np.array_equal(memory.view(0, shape), pixels[0])
    assert np.array_equal(memory.view(1, shape), 255 - pixels[1])
    assert np.array_equal(memory.view(2, shape), pixels[2])
    memory.close()


def test_a_view_over_the_end_of_its_slot_is_refused() -> None:
    memory = FrameMemory()
    memory.resize(slot_bytes(64 * 64, 4), 2)
    with pytest.raises(ValueError, match="slot of"):
        memory.view(0, (5, 64, 64, 3))
    memory.close()


def test_closing_gives_the_file_back() -> None:
    before = open_files()
    memory = FrameMemory()
    memory.resize(4096, 1)
    memory.close()
    memory.close()
    assert open_files() == before


def test_slots_are_whole_pages() -> None:
    assert slot_bytes(1, 1) == slot_bytes(100, 4)
    assert slot_bytes(64 * 64, 4) % 4096 == 0
    assert slot_bytes(64 * 64, 4) >= 64 * 64 * 3 * 4


def test_pool_gives_no_slot_twice() -> None:
    pool = FramePool(4)
    first, second = pool.take(1, 2), pool.take(2, 2)
    assert sorted(first + second) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="0 free"):
        pool.take(3, 1)
    pool.give_back(1)
    with pytest.raises(ValueError, match="job 2"):
        pool.take(2, 1)
    assert pool.take(3, 2) == first
    with pytest.raises(KeyError):
        pool.give_back(1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5))))
def test_pool_is_whole_when_all_is_given_back(requests: list[tuple[int, int]]) -> None:
    pool = FramePool(8)
    owned: dict[int, tuple[int, ...]] = {}
    for job, count in requests:
        if job in owned:
            pool.give_back(job)
            del owned[job]
        elif count <= pool.free:
            owned[job] = pool.take(job, count)
        taken = [slot for slots in owned.values() for slot in slots]
        assert len(set(taken)) == len(taken) == 8 - pool.free
    for job in owned:
        pool.give_back(job)
    assert pool.free == 8
