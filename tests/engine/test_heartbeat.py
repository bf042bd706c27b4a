from __future__ import annotations

import multiprocessing

import pytest

from streamgen.engine.heartbeat import BEAT_S, LATE_S, SILENT_S, Pulse, Watch


def beat_often(pulse: Pulse, rank: int, times: int) -> None:
    for _ in range(times):
        pulse.beat(rank)


def test_beats_cross_to_another_process_and_begin_again_after_255() -> None:
    pulse = Pulse(3)
    process = multiprocessing.get_context("spawn").Process(target=beat_often, args=(pulse, 1, 258))
    process.start()
    process.join()
    pulse.beat(0)
    assert process.exitcode == 0
    assert pulse.counts == [1, 2, 0]
    pulse.close()
    pulse.close()


def looks(
    watch: Watch, seconds: float, beats: dict[int, float], *, at: float = 0.0, every: float = BEAT_S
) -> int | None:
    """Looks at two processes from `at` on. Each that is in `beats` beats once in so many seconds."""
    for i in range(1, round(seconds / every) + 1):
        now = at + i * every
        counts = [int(now / beats[rank]) % 256 if rank in beats else 0 for rank in range(2)]
        if (silent := watch.look(now, counts)) is not None:
            return silent
    return None


def test_who_beats_is_heard() -> None:
    assert looks(Watch(0.0, [0, 0]), 60.0, {0: BEAT_S, 1: BEAT_S}) is None


def test_a_beat_may_be_late() -> None:
    assert looks(Watch(0.0, [0, 0]), 60.0, {0: BEAT_S, 1: 0.9 * SILENT_S}) is None


@pytest.mark.parametrize("rank", [0, 1])
def test_who_never_beats_is_found_in_time(rank: int) -> None:
    watch = Watch(0.0, [0, 0])
    beats = {1 - rank: BEAT_S}
    assert looks(watch, SILENT_S - BEAT_S, beats) is None
    assert looks(watch, 2 * BEAT_S, beats, at=SILENT_S - BEAT_S) == rank


def test_in_all_it_takes_less_than_a_second() -> None:
    assert BEAT_S + SILENT_S + BEAT_S < 1.0


def test_a_watcher_that_was_late_holds_nothing_against_anybody() -> None:
    watch = Watch(0.0, [0, 0])
    assert looks(watch, SILENT_S - BEAT_S, {}) is None
    assert watch.look(3600.0, [0, 0]) is None
    assert looks(watch, SILENT_S - BEAT_S, {}, at=3600.0) is None
    assert looks(watch, 2 * BEAT_S, {}, at=3600.0 + SILENT_S - BEAT_S) == 0


def test_a_watcher_that_is_always_late_finds_nobody() -> None:
    assert looks(Watch(0.0, [0, 0]), 60.0, {}, every=1.1 * LATE_S) is None
    assert looks(Watch(0.0, [0, 0]), 60.0, {}, every=0.9 * LATE_S) == 0
