from __future__ import annotations

import threading

import pytest

from streamgen.engine.line import Line

WAIT_S = 20.0


def test_things_go_through_every_stage_in_their_order() -> None:
    seen: list[tuple[str, int]] = []
    with Line[int]([lambda i: seen.append(("a", i)), lambda i: seen.append(("b", i))], pytest.fail) as line:
        for i in range(20):
            line.put(i)
    for stage in "ab":
        assert [i for name, i in seen if name == stage] == list(range(20))
    for i in range(20):
        assert seen.index(("a", i)) < seen.index(("b", i))


def test_stages_work_at_once() -> None:
    both = threading.Barrier(2, timeout=WAIT_S)

    def first(i: int) -> None:
        if i == 1:
            both.wait()

    def second(i: int) -> None:
        if i == 0:
            both.wait()

    with Line[int]([first, second], pytest.fail) as line:
        line.put(0)
        line.put(1)
    assert not both.broken


def test_who_is_faster_waits() -> None:
    free, put = threading.Event(), []

    def wait(_: int) -> None:
        free.wait(WAIT_S)

    with Line[int]([wait], pytest.fail) as line:

        def fill() -> None:
            for i in range(4):
                line.put(i)
                put.append(i)

        filling = threading.Thread(target=fill)
        filling.start()
        filling.join(0.1)
        assert len(put) <= 2  # one in the stage, one in the place before it
        free.set()
        filling.join()
    assert put == [0, 1, 2, 3]


@pytest.mark.parametrize("broken_stage", [0, 1])
def test_what_a_stage_raises_ends_the_line(broken_stage: int) -> None:
    broken = threading.Event()
    seen: list[int] = []

    def work(i: int) -> None:
        if i == 1:
            raise RuntimeError("stage")
        seen.append(i)

    stages = [lambda _: None, lambda _: None]
    stages[broken_stage] = work
    with pytest.raises(RuntimeError, match="stage"), Line[int](stages, broken.set) as line:
        for i in range(3):
            line.put(i)
        assert broken.wait(WAIT_S)
        for i in range(3, 10):
            line.put(i)
    assert seen == [0]


def test_the_end_raises_what_nobody_was_told_of() -> None:
    def work(_: int) -> None:
        raise RuntimeError("stage")

    with pytest.raises(RuntimeError, match="stage"), Line[int]([work], lambda: None) as line:
        line.put(0)


def test_an_error_of_the_owner_ends_the_threads_and_stays() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), Line[int]([lambda _: None], lambda: None):
        raise KeyError
    assert threading.active_count() == before
