import pytest

from streamgen.client.patience import JITTER, SHORTEST_WAIT_S, USUAL_WAIT_S, Patience
from streamgen.errors import ServiceError


def full(retry_after_s: float | None) -> ServiceError:
    return ServiceError("all places are taken", 503, retry_after_s, "busy")


def test_retry_after_is_kept_to_and_spread_out():
    for chance in (0.0, 0.5, 1.0):
        patience = Patience(60.0, 100.0, lambda chance=chance: chance)
        assert patience.wait_s(full(7.0), 100.0) == pytest.approx(7.0 * (1 + JITTER * chance))


def test_the_last_attempt_is_when_the_patience_is_over():
    patience = Patience(10.0, 100.0, lambda: 0.0)
    assert patience.wait_s(full(7.0), 100.0) == 7.0
    assert patience.wait_s(full(7.0), 107.5) == 2.5
    assert patience.wait_s(full(7.0), 110.0) is None


def test_without_patience_there_is_no_second_attempt():
    assert Patience(0.0, 100.0, lambda: 0.0).wait_s(full(0.0), 100.0) is None


def test_a_service_that_names_no_time_or_none_worth_the_name():
    patience = Patience(60.0, 0.0, lambda: 0.0)
    assert patience.wait_s(full(None), 0.0) == USUAL_WAIT_S
    assert patience.wait_s(full(0.0), 0.0) == SHORTEST_WAIT_S


@pytest.mark.parametrize("status", [401, 404, 422, 500, None])
def test_only_a_lack_of_room_is_waited_out(status):
    assert Patience(60.0, 0.0, lambda: 0.0).wait_s(ServiceError("no", status, 1.0), 0.0) is None
