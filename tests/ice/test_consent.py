from __future__ import annotations

from typing import Any

import pytest
from aioice import stun
from aioice.ice import CandidatePair

from streamgen.ice.consent import Check, Consent
from streamgen.ice.settings import IceSettings

ADDRESS = ("192.0.2.1", 5000)
KEY = b"the other side's password"


class Protocol:
    """Where checks go."""

    def __init__(self) -> None:
        self.transactions: dict[bytes, stun.Transaction] = {}
        self.sent: list[stun.Message] = []

    def send_stun(self, message: stun.Message, addr: tuple[str, int]) -> None:
        assert addr == ADDRESS
        self.sent.append(message)


class Pair:
    def __init__(self) -> None:
        self.protocol = Protocol()
        self.remote_addr = ADDRESS


@pytest.fixture
def pair() -> Any:
    return Pair()


def request() -> stun.Message:
    return stun.Message(stun.Method.BINDING, stun.Class.REQUEST)


def test_the_time_between_checks_is_random_within_what_the_rfc_allows() -> None:
    consent, now, gaps = Consent(IceSettings(), 0.0), 0.0, []
    for _ in range(200):
        consent.granted(now)
        gap = consent.next_event - now
        assert not consent.due(now + gap - 0.001)
        now += gap
        assert consent.due(now)
        gaps.append(gap)
    assert min(gaps) >= 4.0
    assert max(gaps) <= 6.0
    assert len(set(gaps)) > 100


def test_silence_ends_it_in_ten_seconds() -> None:
    consent = Consent(IceSettings(), 100.0)
    assert consent.expires == 110.0
    consent.heard(105.0)
    assert consent.expires == 115.0


def test_packets_without_answers_do_not_keep_it_for_ever_for_who_gets_more_than_it_sends() -> None:
    consent = Consent(IceSettings(), 100.0)
    consent.granted(104.0)
    consent.sent(1000)
    consent.heard(133.0, 999)
    assert consent.expires == 134.0


def test_who_sends_more_than_it_gets_need_not_answer() -> None:
    consent = Consent(IceSettings(), 100.0)
    consent.sent(1000)
    consent.heard(128.0, 5000)
    assert consent.expires == 138.0
    consent.heard(200.0, 5000)
    assert consent.expires == 210.0
    consent.granted(205.0)  # what came before does not count for what is sent after
    consent.sent(1000)
    consent.heard(230.0, 900)
    assert consent.expires == 235.0


async def test_an_answer_to_an_earlier_check_counts_as_long_as_a_consent_lasts(pair: CandidatePair) -> None:
    consent, granted = Consent(IceSettings(), 0.0), []
    for number in range(20):
        consent.send(pair, Check(request(), pair, KEY, lambda number=number: granted.append(number)))
    assert len(pair.protocol.transactions) == 6
    for message in pair.protocol.sent:
        if check := pair.protocol.transactions.get(message.transaction_id):
            check.response_received(answer(KEY), ADDRESS)
    assert granted == list(range(14, 20))


def answer(key: bytes, kind: stun.Class = stun.Class.RESPONSE) -> stun.Message:
    message = stun.Message(stun.Method.BINDING, kind)
    message.add_message_integrity(key)
    return message


@pytest.mark.parametrize(
    ("message", "address"),
    [
        (answer(b"a guess"), ADDRESS),
        (stun.Message(stun.Method.BINDING, stun.Class.RESPONSE), ADDRESS),
        (answer(KEY, stun.Class.ERROR), ADDRESS),
        (answer(KEY), ("192.0.2.99", 5000)),
    ],
)
async def test_what_is_no_valid_answer_grants_nothing(
    pair: CandidatePair, message: stun.Message, address: tuple[str, int]
) -> None:
    granted: list[bool] = []
    check = Check(request(), pair, KEY, lambda: granted.append(True))
    check.response_received(message, address)
    assert granted == []
    check.response_received(answer(KEY), ADDRESS)
    assert granted == [True]
