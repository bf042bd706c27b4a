from __future__ import annotations

from streamgen.engine.backoff import Backoff


def test_waits_double_up_to_the_longest_and_begin_again_after_a_success() -> None:
    backoff = Backoff(0.2, 1.0)
    assert [backoff.wait() for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert [backoff.wait() for _ in range(2)] == [0.2, 0.4]


def test_time_that_has_passed_is_not_waited_for_again() -> None:
    backoff = Backoff(0.5, 8.0)
    assert [backoff.wait(0.25), backoff.wait(60.0), backoff.wait()] == [0.25, 0.0, 2.0]
