from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from streamgen import session as session_module
from streamgen.core import Params
from streamgen.engine import StageTimes
from streamgen.errors import BusyError, ParamsError, SessionNotFoundError
from streamgen.framing import SourceShape
from streamgen.scheduler.stream import Ran, Submission
from streamgen.session import HAND_OVER_S, MAX_FAILURES, MAX_UPDATES_WAITING, TRUSTED_AFTER, Session
from streamgen.wire import Quality, Queue, Restarted, ServerMessage, StateChanged
from tests.support.service import SMALL, IdleScheduler, ManualClock, feed, make_session, settled

RAN = Ran("sequential", 1, 0.1, {"noise": 0.5})


def run_chunk(session: Session) -> Submission:
    """What the scheduler would do with the oldest chunk."""
    view = session.view()
    assert view is not None
    work = session.submit([frame.id for frame in view.frames[: view.wanted]])
    session.deliver(work, np.stack([255 - frame.pixels for frame in work.frames]), RAN)
    return work


async def hand_over_all(session: Session) -> list[int]:
    out = []
    while len(session._outbox):
        finished = await session.finished()
        assert finished is not None
        assert session.hand_over(finished)
        out.append(finished.frame.id)
    return out


async def test_a_frame_goes_all_the_way() -> None:
    clock, scheduler, messages = ManualClock(), IdleScheduler(), list[ServerMessage]()
    session = make_session(scheduler, clock, messages=messages)
    session.connected()
    frames = feed(session, clock, 4)
    assert scheduler.woken == 4
    work = run_chunk(session)
    assert work.first
    assert work.frames == tuple(frames)
    clock.time += 0.3
    finished = await session.finished()
    assert finished is not None
    assert finished.frame.pts == frames[0].pts
    assert (finished.frame.pixels == 255).all()
    assert await hand_over_all(session) == [0, 1, 2, 3]
    assert messages == [StateChanged("warming"), StateChanged("live")]
    stats = session.stats()
    assert (stats.frames_in, stats.frames_out, stats.deadline_misses, stats.drops) == (4, 4, 0, {})
    assert stats.latency_ms == {"p50": 300.0, "p95": 300.0, "max": 300.0}
    running = {"steps": 2, "fps": 16.0, "width": 64, "height": 64, "vae": "full"}
    standing = {"rung": 0, "rungs": 4, "promised": True}
    ran = {"mode": "sequential", "batch": 1, "frames": 4, "service_ms": 100.0, "noise": 0.5}
    assert stats.plan == running | standing | ran
    feed(session, clock, 4)
    assert not run_chunk(session).first


async def test_handing_over_after_the_deadline_is_a_miss_per_frame() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    feed(session, clock, 4)
    run_chunk(session)
    clock.time += 1.001
    await hand_over_all(session)
    assert session.stats().deadline_misses == 4


async def test_the_newest_frames_win_and_the_rest_is_counted() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    feed(session, clock, 10)
    view = session.view()
    assert view is not None
    assert [frame.id for frame in view.frames] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert session.stats().drops == {"overload": 2}


async def test_results_that_nobody_takes_do_not_pile_up() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    for _ in range(8):
        feed(session, clock, 4)
        run_chunk(session)
    assert session.stats().drops == {"late": 8}
    assert await hand_over_all(session) == list(range(8, 32))


async def test_an_update_holds_from_the_first_frame_of_the_next_chunk() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    feed(session, clock, 4)
    run_chunk(session)
    feed(session, clock, 2)
    applied = session.update({"prompt": "ink"})
    feed(session, clock, 2)
    assert not applied.done()
    assert run_chunk(session).params.prompt == "ink"
    assert await applied == 4


async def test_an_update_is_answered_even_without_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "UPDATE_TIMEOUT_S", 0.01)
    session = make_session()
    session.connected()
    assert await session.update({"noise": 0.1}) == 0
    feed(session, ManualClock(), 3)
    session.pause()
    assert await session.update({"noise": 0.2}) == 3
    assert session.params.noise == 0.2


async def test_a_bad_update_changes_nothing() -> None:
    session = make_session()
    with pytest.raises(ParamsError, match="steps"):
        session.update({"prompt": "x", "steps": 9})
    with pytest.raises(ParamsError, match="multiple"):
        session.update({"width": 72})
    assert session.params == SMALL


async def test_a_flood_of_updates_is_refused() -> None:
    session = make_session()
    session.connected()
    waiting = [session.update({"seed": number}) for number in range(MAX_UPDATES_WAITING)]
    with pytest.raises(BusyError):
        session.update({"seed": 1000})
    session.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, SessionNotFoundError) for result in results)


async def test_a_new_size_begins_the_stream_anew() -> None:
    clock, scheduler = ManualClock(), IdleScheduler()
    session = make_session(scheduler, clock)
    session.connected()
    feed(session, clock, 4)
    run_chunk(session)
    feed(session, clock, 2)
    applied = session.update({"width": 128})
    assert scheduler.forgotten == ["restart"]
    feed(session, clock, 1)  # still of the old size: it was on its way
    assert session.stats().drops == {"restart": 3}
    feed(session, clock, 4, width=128)
    work = run_chunk(session)
    assert work.first
    assert work.params.width == 128
    assert await applied == 7


def size(session: Session) -> tuple[int, int]:
    return session.params.width, session.params.height


async def test_what_the_client_left_open_follows_the_source() -> None:
    clock, scheduler = ManualClock(), IdleScheduler()
    session = make_session(scheduler, clock, params=Params(), asked=())
    session.connected()
    assert size(session) == (320, 192)
    session.source_is((480, 640))
    assert size(session) == (208, 272)
    feed(session, clock, 4, *size(session))
    work = run_chunk(session)
    assert (work.first, work.params.width, work.params.height) == (True, 208, 272)


async def test_a_camera_turned_in_mid_stream_begins_the_stream_anew_once() -> None:
    clock, scheduler = ManualClock(), IdleScheduler()
    session = make_session(scheduler, clock, params=Params(), asked=())
    session.connected()
    session.source_is((640, 384))
    feed(session, clock, 4, 320, 192)
    run_chunk(session)
    for _ in range(SourceShape.SETTLED - 1):
        session.source_is((384, 640))
    assert (size(session), scheduler.forgotten) == ((320, 192), [])
    session.source_is((384, 640))
    assert (size(session), scheduler.forgotten) == ((192, 320), ["restart"])
    feed(session, clock, 1, 320, 192)  # was on its way
    assert session.stats().drops == {"restart": 1}
    feed(session, clock, 4, 192, 320)
    assert run_chunk(session).first
    for _ in range(2 * SourceShape.SETTLED):
        session.source_is((384, 640))
    assert scheduler.forgotten == ["restart"]


async def test_a_size_that_was_asked_for_stays_whatever_the_source_does() -> None:
    scheduler = IdleScheduler()
    session = make_session(scheduler)
    session.connected()
    session.source_is((480, 640))
    for _ in range(2 * SourceShape.SETTLED):
        session.source_is((1920, 400))
    assert (size(session), scheduler.forgotten) == ((64, 64), [])


async def test_one_side_that_was_asked_for_stays_and_the_other_follows() -> None:
    session = make_session(params=Params(width=128, height=80), asked=("width",))
    session.connected()
    session.source_is((640, 640))
    assert size(session) == (128, 128)


async def test_a_side_given_later_stays_from_then_on() -> None:
    session = make_session(params=Params(), asked=())
    session.connected()
    session.source_is((640, 640))
    session.update({"prompt": "ink"})
    assert size(session) == (240, 240)
    session.update({"height": 128})
    assert size(session) == (128, 128)
    with pytest.raises(ParamsError, match="width"):
        session.update({"width": 72})
    for _ in range(SourceShape.SETTLED):
        session.source_is((640, 320))
    assert size(session) == (256, 128)
    session.update({"width": 128, "height": 128})
    for _ in range(SourceShape.SETTLED):
        session.source_is((320, 640))
    assert size(session) == (128, 128)


async def test_pause_discards_and_resume_goes_on() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    feed(session, clock, 4)
    run_chunk(session)
    feed(session, clock, 4)
    view = session.view()
    assert view is not None
    flying = session.submit([frame.id for frame in view.frames])
    session.pause()
    feed(session, clock, 2)
    session.deliver(flying, np.zeros((4, 64, 64, 3), np.uint8), RAN)
    assert session.state == "paused"
    assert session.stats().drops == {"paused": 10}
    session.resume()
    assert session.state == "live"
    feed(session, clock, 4)
    assert not run_chunk(session).first
    assert await hand_over_all(session) == [10, 11, 12, 13]


async def test_a_result_taken_back_by_a_pause_is_not_handed_over() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    feed(session, clock, 4)
    run_chunk(session)
    finished = await session.finished()
    assert finished is not None
    session.pause()
    assert not session.hand_over(finished)
    assert session.stats().frames_out == 0


async def test_reset_begins_anew_with_the_parameters_of_now() -> None:
    clock, scheduler = ManualClock(), IdleScheduler()
    session = make_session(scheduler, clock)
    session.connected()
    session.update({"prompt": "ink"})
    feed(session, clock, 4)
    run_chunk(session)
    feed(session, clock, 2)
    session.reset()
    assert scheduler.forgotten == ["restart"]
    assert session.state == "warming"
    assert session.stats().drops == {"restart": 6}
    feed(session, clock, 4)
    work = run_chunk(session)
    assert work.first
    assert work.params.prompt == "ink"
    assert session.state == "live"


async def test_an_engine_restart_is_told_and_the_stream_goes_on() -> None:
    clock, messages = ManualClock(), list[ServerMessage]()
    session = make_session(clock=clock, messages=messages)
    session.connected()
    feed(session, clock, 4)
    run_chunk(session)
    messages.clear()
    session.restarted("killed")
    assert messages == [Restarted("killed"), StateChanged("warming")]
    feed(session, clock, 4)
    assert run_chunk(session).first
    assert session.state == "live"


async def test_failures_are_survived_until_there_are_too_many_in_a_row() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    for number in range(2 * MAX_FAILURES):
        feed(session, clock, 4)
        view = session.view()
        assert view is not None
        work = session.submit([frame.id for frame in view.frames])
        if number == MAX_FAILURES - 1:
            session.deliver(work, np.zeros((4, 64, 64, 3), np.uint8), RAN)
        else:
            assert not session.ended.is_set()
            session.fail(work, "error", "no memory", state_lost=True)
            after = session.view()
            assert after is not None
            assert after.frames == ()
    assert session.ended.is_set()
    assert "no memory" in session.end_reason


async def test_what_is_lost_of_a_former_stream_does_not_end_the_present_one() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    feed(session, clock, 16)
    former = [session.submit(ids) for ids in ([8, 9], [10, 11])]  # the oldest were displaced
    session.fail(former[0], "error", "broken", state_lost=True)
    present = session.submit([12, 13])
    assert present.first
    session.lose(former[1], "restart", state_lost=True)
    later = session.submit([14, 15])
    assert not later.first
    session.lose(later, "restart", state_lost=True)
    feed(session, clock, 4)
    assert session.submit([16, 17, 18, 19]).first


async def test_closing_accounts_for_every_frame() -> None:
    clock, scheduler = ManualClock(), IdleScheduler()
    session = make_session(scheduler, clock)
    session.connected()
    feed(session, clock, 8)
    run_chunk(session)
    await session.finished()
    feed(session, clock, 3)
    session.close()
    session.close()
    assert await session.finished() is None
    feed(session, clock, 1)
    assert scheduler.streams == []
    assert settled(session)
    assert session.state == "closed"
    with pytest.raises(SessionNotFoundError):
        session.update({})


async def test_frames_before_the_connection_is_up_are_not_taken() -> None:
    session = make_session()
    feed(session, ManualClock(), 1)
    assert session.stats().drops == {"closed": 1}


async def test_a_size_that_the_pipeline_cannot_run_is_refused() -> None:
    with pytest.raises(ParamsError, match="width"):
        make_session(params=Params(width=72, height=64))


async def test_a_session_without_room_is_queued_and_told_so() -> None:
    clock, messages = ManualClock(), list[ServerMessage]()
    session = make_session(clock=clock, messages=messages)
    session.standing.admitted = False
    session.connected()
    session.waiting(2, 30.0)
    feed(session, clock, 4)
    assert session.state == "queued"
    assert session.view() is None
    assert session.stats().drops == {"queued": 4}
    session.disconnected()
    session.connected()
    assert session.state == "queued"
    session.admitted()
    feed(session, clock, 4)
    run_chunk(session)
    assert session.state == "live"
    states = [message.state for message in messages if isinstance(message, StateChanged)]
    assert states == ["queued", "away", "queued", "warming", "live"]
    assert Queue(2, 30.0) in messages


async def test_a_lower_rung_takes_effect_with_the_next_chunk_and_is_told() -> None:
    clock, scheduler, messages = ManualClock(), IdleScheduler(), list[ServerMessage]()
    session = make_session(scheduler, clock, Params(), messages)
    session.connected()
    feed(session, clock, 4, 320, 192)
    run_chunk(session)
    session.run_at(1, "load", promised=True)
    session.run_at(1, "load", promised=True)
    feed(session, clock, 4, 320, 192)
    work = run_chunk(session)
    assert (work.params.steps, work.first) == (1, False)
    assert (session.params.steps, session.running.steps) == (2, 1)
    told = [message for message in messages if isinstance(message, Quality)]
    assert told == [Quality(1, 6, 1, 16.0, 320, 192, "full", "load")]
    assert scheduler.forgotten == []


async def test_a_rung_of_another_size_begins_the_stream_anew_and_comes_back() -> None:
    clock, scheduler = ManualClock(), IdleScheduler()
    session = make_session(scheduler, clock, Params())
    session.connected()
    feed(session, clock, 4, 320, 192)
    run_chunk(session)
    session.run_at(5, "load", promised=True)
    assert scheduler.forgotten == ["restart"]
    feed(session, clock, 1, 320, 192)  # was on its way
    feed(session, clock, 4, 160, 96)
    work = run_chunk(session)
    assert (work.first, work.params.width, work.params.fps) == (True, 160, 8.0)
    session.run_at(0, "room", promised=True)
    feed(session, clock, 4, 320, 192)
    assert run_chunk(session).params == session.params
    assert session.stats().drops == {"restart": 1}


async def test_new_wishes_keep_the_rung_and_what_comes_of_it_is_told() -> None:
    messages = list[ServerMessage]()
    session = make_session(params=Params(), messages=messages)
    session.connected()
    session.run_at(3, "load", promised=True)
    session.update({"fps": 30.0})
    assert session.running.fps == 15.0
    assert messages[-1] == Quality(3, 6, 1, 15.0, 320, 192, "full", "asked")
    session.update({"keep": "fps,size"})
    assert session.standing.rungs[session.standing.rung].fps == 30.0
    assert session.stats().plan["rungs"] == 2


async def test_wishes_that_there_is_no_room_for_are_refused_and_change_nothing() -> None:
    scheduler = IdleScheduler()
    session = make_session(scheduler)
    scheduler.most_steps = 2
    with pytest.raises(BusyError):
        session.update({"steps": 3})
    assert session.params == SMALL
    session.update({"prompt": "ink", "steps": 1})
    assert session.params.steps == 1


async def test_a_short_chunk_is_filled_up_and_gives_as_many_results_as_it_had_frames() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    frames = feed(session, clock, 2)
    work = session.submit([0, 1])
    assert [int(pixels[0, 0, 0]) for pixels in work.pixels] == [0, 1, 1, 1]
    session.deliver(work, np.stack([255 - pixels for pixels in work.pixels]), RAN)
    assert await hand_over_all(session) == [frame.id for frame in frames]
    assert settled(session)


async def test_what_the_stream_batch_holds_has_a_deadline() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    (frame, *_) = feed(session, clock, 4)
    held = session.submit([0, 1, 2, 3], "stream_batch")
    view = session.view()
    assert view is not None
    assert (view.frames, view.held_due, view.mode) == ((), frame.deadline, "stream_batch")
    flush = session.submit([], "sequential")
    assert (flush.frames, flush.pixels, flush.first) == ((), (), False)
    session.lose(held, "restart")
    view = session.view()
    assert view is not None
    assert view.held_due is None


async def test_a_batch_session_has_no_deadlines() -> None:
    clock = ManualClock()
    session = make_session(clock=clock, params=SMALL.updated({"priority": "batch"}))
    session.connected()
    feed(session, clock, 4)
    view = session.view()
    assert view is not None
    assert view.batch
    run_chunk(session)
    clock.time += 60.0
    await hand_over_all(session)
    assert session.stats().deadline_misses == 0
    assert session.tally() == (0, 0)


async def test_a_result_has_to_be_handed_over_before_its_deadline_if_it_has_one() -> None:
    clock = ManualClock()
    for priority, latest in (("live", clock.now() + 1.0 - HAND_OVER_S), ("batch", math.inf)):
        session = make_session(clock=clock, params=SMALL.updated({"priority": priority}))
        session.connected()
        feed(session, clock, 4)
        run_chunk(session)
        finished = await session.finished()
        assert finished is not None
        assert session.latest(finished) == pytest.approx(latest)


async def test_late_results_count_as_lost_in_the_order_of_sessions() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    for age in (0.0, 2.0):
        before = session.statistics.lost
        feed(session, clock, 4)
        clock.time += age
        run_chunk(session)
        assert (session.statistics.lost > before) == (age > 1.0)


async def test_a_batch_session_may_be_sent_back_to_the_queue() -> None:
    clock, scheduler = ManualClock(), IdleScheduler()
    session = make_session(scheduler, clock, params=SMALL.updated({"priority": "batch"}))
    session.connected()
    feed(session, clock, 4)
    run_chunk(session)
    session.waiting(1, None)
    assert session.state == "queued"
    assert scheduler.forgotten == ["restart"]
    feed(session, clock, 4)
    session.admitted()
    feed(session, clock, 4)
    assert run_chunk(session).first
    assert session.state == "live"


async def test_what_was_late_or_lost_for_want_of_time_is_tallied() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    feed(session, clock, 9)  # one too many for the queue
    session.drop([1], "late")
    run_chunk(session)
    clock.time += 2.0
    await hand_over_all(session)
    assert session.tally() == (6, 6)
    assert session.tally() == (0, 0)
    assert 0 < session.statistics.lost < 1


async def test_the_time_of_a_frame_is_told_by_stage() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    for _ in range(4):
        feed(session, clock, 1)
        clock.time += 0.1
    work = session.submit([0, 1, 2, 3])
    clock.time += 0.3
    times = StageTimes(0.01, 0.02, 0.1, 0.05, 1, 2, 2, 1)
    session.deliver(work, np.stack(work.pixels), replace(RAN, times=times))
    clock.time += 0.05
    await hand_over_all(session)
    stats = session.stats()
    assert stats.stages_ms == {
        "fill": 150.0,
        "queue": 220.0,  # 0.1 from the last frame's coming to the submission, 0.12 unexplained by the stages
        "transfer": 10.0,
        "encode": 20.0,
        "denoise": 100.0,
        "decode": 50.0,
        "pace": 50.0,
    }
    assert sum(stats.stages_ms.values()) == pytest.approx(600.0)  # which is the mean of 750, 650, 550 and 450


async def test_a_source_that_is_slower_than_it_was_asked_to_be_is_taken_for_what_it_is() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    for _ in range(40):
        feed(session, clock, 1)
        clock.time += 0.2
    view = session.view()
    assert view is not None
    assert view.interval == pytest.approx(0.2, rel=0.01)


async def test_between_chunks_the_next_frame_is_expected_until_the_source_falls_silent() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    assert session.view() is None
    feed(session, clock, 4)
    run_chunk(session)
    view = session.view()
    assert view is not None
    assert view.frames == ()
    assert view.due == pytest.approx(clock.now() + 1 / 16 + 1.0)
    clock.time += 2.0
    assert session.view() is None


async def test_a_shape_that_there_is_no_room_for_is_cut_to_the_one_of_before() -> None:
    scheduler = IdleScheduler()
    session = make_session(scheduler, params=Params(), asked=())
    session.connected()
    scheduler.most_steps = 1
    session.source_is((480, 640))
    assert size(session) == (320, 192)


async def test_a_session_that_failed_in_company_may_join_others_again_after_a_while() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    feed(session, clock, 4)
    session.fail(session.submit([0, 1, 2, 3]), "error", "no memory", state_lost=True)
    alone = []
    for _ in range(TRUSTED_AFTER + 1):
        feed(session, clock, 4)
        view = session.view()
        assert view is not None
        alone.append(view.alone)
        run_chunk(session)
        await hand_over_all(session)
    assert alone == [True] * TRUSTED_AFTER + [False]


async def test_failures_are_counted_across_resets() -> None:
    clock = ManualClock()
    session = make_session(clock=clock)
    session.connected()
    for _ in range(MAX_FAILURES):
        feed(session, clock, 4)
        view = session.view()
        assert view is not None
        session.fail(session.submit([frame.id for frame in view.frames]), "error", "no memory", state_lost=True)
        session.reset()
    assert session.ended.is_set()
