from __future__ import annotations

from streamgen.core import Params
from streamgen.engine.jobs import Jobs
from streamgen.engine.messages import Chunk, Close, Run, Stop, ToWorker


def run(job: int, *sessions: str) -> Run:
    chunks = (Chunk(session, Params(), False, slot, 4, "sequential", 0) for slot, session in enumerate(sessions))
    return Run(job, tuple(chunks), tuple(range(len(sessions))))


def filled(*messages: ToWorker) -> Jobs:
    jobs = Jobs()
    for message in messages:
        jobs.put(message)
    return jobs


def begun(jobs: Jobs, job: Run) -> list[str]:
    return [chunk.session for chunk in jobs.begin(job)]


def test_messages_keep_their_order() -> None:
    messages: list[ToWorker] = [run(0, "a"), Close("a"), run(1, "a"), Stop()]
    jobs = filled(*messages)
    assert [jobs.get() for _ in messages] == messages


def test_a_job_loses_the_chunks_of_sessions_closed_before_it_begins() -> None:
    first, second = run(0, "a", "b"), run(1, "a", "c")
    jobs = filled(first, second, Close("a"))
    assert begun(jobs, first) == ["b"]
    jobs.put(Close("c"))
    jobs.put(Close("nobody"))
    assert begun(jobs, second) == []


def test_a_session_that_comes_back_after_its_close_keeps_its_chunk() -> None:
    first, second = run(0, "a", "b"), run(1, "a")
    jobs = filled(first, Close("a"), second)
    assert begun(jobs, first) == ["b"]
    assert begun(jobs, second) == ["a"]


def test_a_close_is_too_late_for_a_job_that_has_begun() -> None:
    first, second = run(0, "a"), run(1, "b")
    jobs = filled(first, second)
    assert begun(jobs, first) == ["a"]
    jobs.put(Close("a"))
    assert begun(jobs, second) == ["b"]
