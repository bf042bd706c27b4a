from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC, FakeCost, FakeState, Fault, restyle
from pipelines.fake_flow import FakeFlow
from pipelines.streaming import sequential
from streamgen.core import Arrived, Params, Pixels
from streamgen.errors import DeviceLostError, ParamsError

PARAMS = Params(prompt="ink", width=64, height=64)
SPEC = replace(FAKE_SPEC, stages=3, flight=3)
WAIT_S = 20.0

Make = Callable[..., FakeFlow]


@pytest.fixture
def make() -> Iterator[Make]:
    flows: list[FakeFlow] = []

    def made(**options: Any) -> FakeFlow:
        flows.append(FakeFlow(**{"spec": SPEC, **options}))
        return flows[-1]

    yield made
    for flow in flows:
        flow.end()


def frames(value: int = 0, count: int = 4) -> Pixels:
    return np.full((count, 64, 64, 3), value, np.uint8) + np.arange(64, dtype=np.uint8)[:, None]


class Arrivals:
    """What arrived, in its order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[str, Arrived, str]] = queue.Queue()

    def note(self, name: str) -> Callable[[Arrived], None]:
        return lambda arrived: self._queue.put((name, arrived, threading.current_thread().name))

    def next(self) -> tuple[str, Arrived]:
        name, arrived, thread = self._queue.get(timeout=WAIT_S)
        assert thread.startswith("flow-")
        return name, arrived

    def some(self, count: int) -> dict[str, Arrived]:
        return dict(self.next() for _ in range(count))

    @property
    def empty(self) -> bool:
        return self._queue.empty()


def picture(arrived: Arrived, index: int = 0) -> Pixels:
    result = arrived.pictures[index]
    assert isinstance(result, np.ndarray), result
    return result


def failure(arrived: Arrived, index: int = 0) -> str:
    result = arrived.pictures[index]
    assert isinstance(result, Exception)
    return str(result)


class Gate:
    """A `sleep` that holds the threads of chosen stages until it is opened, and tells who waits."""

    def __init__(self, *held: str) -> None:
        self.open = threading.Event()
        self.there = threading.Semaphore(0)
        self._held = held

    def __call__(self, seconds: float) -> None:
        if threading.current_thread().name in self._held:
            self.there.release()
            assert self.open.wait(WAIT_S)

    def wait(self) -> None:
        """Until somebody waits."""
        assert self.there.acquire(timeout=WAIT_S)


def test_chunks_come_out_as_they_were_sent_and_restyled(make: Make) -> None:
    flow, arrivals = make(), Arrivals()
    one, two = flow.open(PARAMS), flow.open(replace(PARAMS, prompt="oil"))
    for i in range(3):
        flow.send([(one, frames(i)), (two, frames(10 + i))], arrivals.note(str(i)))
    for i in range(3):
        name, arrived = arrivals.next()
        assert name == str(i)
        assert np.array_equal(picture(arrived, 0), restyle(frames(i), PARAMS, i))
        assert np.array_equal(picture(arrived, 1), restyle(frames(10 + i), two.params, i))
        assert arrived.sigmas == [PARAMS.noise] * 2
        assert (arrived.calls, arrived.rows) == (2, 4)


def test_every_stage_works_while_the_others_do(make: Make) -> None:
    """Chunk 0 is on the last stage, 1 on the one before it and 2 on the first, at once: each waits for the others."""
    meeting = threading.Barrier(3, timeout=WAIT_S)
    seen = dict.fromkeys(("flow-0", "flow-1", "flow-2"), 0)

    def sleep(seconds: float) -> None:
        name = threading.current_thread().name
        stage, chunk = int(name[-1]), seen[name]
        seen[name] += 1
        if stage + chunk == 2:
            meeting.wait()

    flow, arrivals = make(cost=FakeCost(step_s=1.0), sleep=sleep), Arrivals()
    state = flow.open(replace(PARAMS, steps=1))
    for i in range(3):
        flow.send([(state, frames(i))], arrivals.note(str(i)))
    assert [arrivals.next()[0] for _ in range(3)] == ["0", "1", "2"]
    assert not meeting.broken


def test_a_chunk_goes_through_all_stages_for_each_step_and_costs_are_shared_between_them(make: Make) -> None:
    slept: list[tuple[str, float]] = []

    def sleep(seconds: float) -> None:
        slept.append((threading.current_thread().name, seconds))

    cost = FakeCost(encode_s=1, encode_call_s=10, call_s=3, step_s=6, decode_s=2, decode_call_s=20)
    flow, arrivals = make(cost=cost, sleep=sleep), Arrivals()
    flow.send([(flow.open(PARAMS), frames()), (flow.open(replace(PARAMS, steps=1)), frames())], arrivals.note(""))
    arrivals.next()
    both, one = pytest.approx(5.0), pytest.approx(3.0)
    through = [(f"flow-{stage}", seconds) for seconds in (both, one) for stage in range(3)]
    assert slept == [("flow-0", 12), *through, ("flow-2", 24)]


def test_the_times_of_arrival_are_those_of_the_work(make: Make) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    cost = FakeCost(encode_s=1, call_s=3, step_s=6, decode_s=2)
    flow, arrivals = make(cost=cost, sleep=sleep, clock=lambda: now), Arrivals()
    flow.send([(flow.open(PARAMS), frames())], arrivals.note(""))
    _, arrived = arrivals.next()
    assert (arrived.encode, arrived.denoise, arrived.decode) == pytest.approx((1, 18, 2))


def test_chunks_of_other_streams_overtake_and_those_of_one_stream_do_not(make: Make) -> None:
    gate, arrivals = Gate("flow-2"), Arrivals()
    flow = make(cost=FakeCost(step_s=1.0), sleep=gate)
    long, short = flow.open(replace(PARAMS, steps=4)), flow.open(replace(PARAMS, steps=1))
    flow.send([(long, frames(0))], arrivals.note("long 0"))
    flow.update(long, replace(PARAMS, steps=1))
    flow.send([(long, frames(1))], arrivals.note("long 1"))
    flow.send([(short, frames(2))], arrivals.note("short"))
    gate.open.set()
    assert [arrivals.next()[0] for _ in range(3)] == ["short", "long 0", "long 1"]


def test_new_parameters_hold_from_the_next_chunk_that_is_sent(make: Make) -> None:
    gate, arrivals = Gate("flow-0"), Arrivals()
    flow, oil = make(cost=FakeCost(encode_s=1.0), sleep=gate), replace(PARAMS, prompt="oil")
    state = flow.open(PARAMS)
    flow.send([(state, frames(0))], arrivals.note("ink"))
    gate.wait()
    flow.update(state, oil)
    flow.send([(state, frames(1))], arrivals.note("oil"))
    gate.open.set()
    came = arrivals.some(2)
    assert np.array_equal(picture(came["ink"]), restyle(frames(0), PARAMS, 0))
    assert np.array_equal(picture(came["oil"]), restyle(frames(1), oil, 1))


def test_frames_have_been_read_when_send_returns(make: Make) -> None:
    gate, arrivals, pixels = Gate("flow-0"), Arrivals(), frames()
    flow = make(cost=FakeCost(encode_s=1.0), sleep=gate)
    flow.send([(flow.open(PARAMS), pixels)], arrivals.note(""))
    pixels[:] = 0
    gate.open.set()
    assert np.array_equal(picture(arrivals.next()[1]), restyle(frames(), PARAMS, 0))


def test_what_is_wrong_is_said_before_anything_is_sent(make: Make) -> None:
    gate, arrivals = Gate("flow-0"), Arrivals()
    flow = make(cost=FakeCost(encode_s=1.0), sleep=gate, faults={"bad": Fault("send")})
    good, bad = flow.open(PARAMS), flow.open(replace(PARAMS, prompt="bad"))
    for wrong in ((bad, frames()), (good, frames()), (flow.open(PARAMS), frames(count=5))):
        with pytest.raises((RuntimeError, ValueError)):
            flow.send([(good, frames()), wrong], arrivals.note("wrong"))
    for i in range(3):
        flow.send([(good, frames(i))], arrivals.note(str(i)))
    with pytest.raises(ValueError, match="3 chunks under way"):
        flow.send([(good, frames())], arrivals.note("one too many"))
    gate.open.set()
    came = arrivals.some(3)
    assert all(np.array_equal(picture(came[str(i)]), restyle(frames(i), PARAMS, i)) for i in range(3))
    flow.send([(good, frames(3))], arrivals.note("3"))
    assert np.array_equal(picture(arrivals.next()[1]), restyle(frames(3), PARAMS, 3))


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_a_chunk_that_fails_takes_those_behind_it_along_and_no_others(make: Make, stage: Any) -> None:
    gate, arrivals = Gate("flow-0"), Arrivals()
    flow = make(cost=FakeCost(encode_s=1.0), sleep=gate, faults={"bad": Fault(stage)})
    failing, other = flow.open(PARAMS), flow.open(PARAMS)
    for i, prompt in enumerate(("ink", "bad", "ink")):
        flow.update(failing, replace(PARAMS, prompt=prompt))
        flow.send([(failing, frames(i)), (other, frames(i))], arrivals.note(str(i)))
    gate.open.set()
    came = arrivals.some(3)
    assert list(came) == ["0", "1", "2"]
    assert np.array_equal(picture(came["0"]), restyle(frames(0), PARAMS, 0))
    assert failure(came["1"]).startswith(f"programmed fault in {stage}")
    assert "before this one has failed" in failure(came["2"])
    for i in range(3):
        assert np.array_equal(picture(came[str(i)], 1), restyle(frames(i), PARAMS, i))
    with pytest.raises(ValueError, match="has failed"):
        flow.send([(failing, frames())], arrivals.note("more"))
    flow.close(failing)


def test_what_is_under_way_of_a_closed_stream_arrives_without_pictures(make: Make) -> None:
    gate, arrivals = Gate("flow-0"), Arrivals()
    flow = make(cost=FakeCost(encode_s=1.0), sleep=gate)
    closed, other = flow.open(PARAMS), flow.open(PARAMS)
    for i in range(2):
        flow.send([(closed, frames(i)), (other, frames(i))], arrivals.note(str(i)))
    flow.close(closed)
    flow.close(closed)
    gate.open.set()
    came = arrivals.some(2)
    assert [failure(came[str(i)]) for i in range(2)] == ["the state is closed"] * 2
    assert np.array_equal(picture(came["1"], 1), restyle(frames(1), PARAMS, 1))
    with pytest.raises(ValueError, match="closed"):
        flow.send([(closed, frames())], arrivals.note("more"))


def test_a_lost_device_ends_everything(make: Make) -> None:
    gate, arrivals = Gate("flow-1"), Arrivals()
    flow = make(cost=FakeCost(step_s=1.0), sleep=gate)
    one, two = flow.open(PARAMS), flow.open(PARAMS)
    flow.send([(one, frames())], arrivals.note("one"))
    flow.send([(one, frames()), (two, frames())], arrivals.note("two"))
    gate.wait()
    lost = threading.Thread(target=flow.lose, args=("device 1 is gone",), name="flow-x")
    lost.start()
    lost.join(WAIT_S)
    came = arrivals.some(2)
    for arrived, count in ((came["one"], 1), (came["two"], 2)):
        assert [str(picture) for picture in arrived.pictures] == ["device 1 is gone"] * count
        assert all(isinstance(picture, DeviceLostError) for picture in arrived.pictures)
    gate.open.set()
    for call in (lambda: flow.send([(two, frames())], arrivals.note("")), lambda: flow.encode([(two, frames())])):
        with pytest.raises(DeviceLostError, match="device 1"):
            call()
    assert arrivals.empty


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_a_device_can_be_lost_in_every_stage(make: Make, stage: Any) -> None:
    flow, arrivals = make(faults={"lost": Fault(stage, "lose")}), Arrivals()
    flow.send([(flow.open(replace(PARAMS, prompt="lost")), frames())], arrivals.note(""))
    assert failure(arrivals.next()[1]) == f"programmed loss in {stage}"
    with pytest.raises(DeviceLostError):
        flow.send([(flow.open(PARAMS), frames())], arrivals.note(""))
    again = make(faults={"lost": Fault(stage, "lose")})
    with pytest.raises(DeviceLostError):
        sequential(again, [(again.open(replace(PARAMS, prompt="lost")), frames())])
    with pytest.raises(DeviceLostError):
        again.send([(again.open(PARAMS), frames())], arrivals.note(""))


def test_it_can_be_asked_for_one_thing_after_the_other_beside_what_flows(make: Make) -> None:
    slept: list[tuple[str, float]] = []
    cost = FakeCost(encode_s=1, step_s=3, decode_s=2)
    flow = make(cost=cost, sleep=lambda seconds: slept.append((threading.current_thread().name, seconds)))
    arrivals = Arrivals()
    state = flow.open(PARAMS)
    for i in range(2):
        (pixels,) = sequential(flow, [(state, frames(i))])
        assert np.array_equal(pixels, restyle(frames(i), PARAMS, i))
    once = [
        ("flow-0", 1),
        *[(f"flow-{stage}", pytest.approx(1.0)) for _ in range(2) for stage in range(3)],
        ("flow-2", 2),
    ]
    assert slept == once * 2
    flow.send([(state, frames(2))], arrivals.note(""))
    other = flow.open(PARAMS)
    (pixels,) = sequential(flow, [(other, frames())])
    assert np.array_equal(pixels, restyle(frames(), PARAMS, 0))
    assert np.array_equal(picture(arrivals.next()[1]), restyle(frames(2), PARAMS, 2))


def test_what_fails_on_a_stage_is_raised_where_it_was_asked_for(make: Make) -> None:
    flow = make(faults={"bad": Fault("encode", "params")})
    with pytest.raises(ParamsError, match="refusal in encode"):
        flow.encode([(flow.open(replace(PARAMS, prompt="bad")), frames())])
    rows = flow.encode([(flow.open(PARAMS), frames())])
    with pytest.raises(ValueError, match="done"):
        flow.decode(rows)


def test_calls_from_two_threads_are_an_error(make: Make) -> None:
    flow, outcomes = make(), list[object]()
    state: FakeState = flow.open(PARAMS)

    def call() -> None:
        try:
            flow.close(state)
        except ValueError as error:
            outcomes.append(str(error))

    other = threading.Thread(target=call)
    other.start()
    other.join(WAIT_S)
    assert outcomes == ["a flow was called from two threads"]
    flow.close(state)
