from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from streamgen.rtc.control import MAX_WAITING, UNKNOWN_SEQ, Control, Outgoing
from streamgen.wire import Closing, StateChanged
from tests.support.service import ManualClock, feed, make_session


class FakeChannel:
    """What Outgoing and Control use of an RTCDataChannel."""

    def __init__(self, label: str = "control") -> None:
        self.label = label
        self.readyState = "open"
        self.bufferedAmount = 0
        self.sent: list[dict[str, Any]] = []
        self.handlers: dict[str, Callable[..., None]] = {}

    def send(self, text: str) -> None:
        self.sent.append(json.loads(text))

    def on(self, event: str, handler: Callable[..., None]) -> None:
        self.handlers[event] = handler


def join() -> tuple[Any, FakeChannel, Control]:
    outgoing, channel = Outgoing(), FakeChannel()
    session = make_session()
    session.connected()
    control = Control(session, outgoing)
    control.attach(channel)  # type: ignore[arg-type]
    return session, channel, control


async def test_messages_wait_for_the_channel_but_statistics_do_not() -> None:
    outgoing, channel = Outgoing(), FakeChannel()
    outgoing(make_session().stats())
    for number in range(MAX_WAITING + 3):
        outgoing(StateChanged(str(number)))
    outgoing.open(channel)  # type: ignore[arg-type]
    assert [message["state"] for message in channel.sent] == [str(n) for n in range(3, MAX_WAITING + 3)]
    outgoing(Closing("over"))
    assert channel.sent[-1] == {"reason": "over", "type": "closing"}


async def test_a_client_that_takes_nothing_gets_no_more() -> None:
    outgoing, channel = Outgoing(), FakeChannel()
    outgoing.open(channel)  # type: ignore[arg-type]
    channel.bufferedAmount = 1 << 20
    outgoing(StateChanged("live"))
    channel.bufferedAmount, channel.readyState = 0, "closed"
    outgoing(StateChanged("live"))
    assert channel.sent == []


async def test_flush_waits_for_what_is_buffered_but_not_for_ever() -> None:
    outgoing, channel = Outgoing(), FakeChannel()
    await outgoing.flush(10.0)
    outgoing.open(channel)  # type: ignore[arg-type]
    channel.bufferedAmount = 1
    await outgoing.flush(0.05)
    asyncio.get_running_loop().call_later(0.03, setattr, channel, "bufferedAmount", 0)
    await outgoing.flush(10.0)
    assert channel.bufferedAmount == 0


async def test_an_update_is_answered_when_it_holds() -> None:
    session, channel, control = join()
    feed(session, ManualClock(), 4)
    control.receive('{"type": "update", "seq": 5, "params": {"prompt": "ink"}}')
    await asyncio.sleep(0)
    assert channel.sent == []
    session.submit([0, 1, 2, 3])
    await asyncio.sleep(0)
    assert channel.sent == [{"seq": 5, "frame": 0, "type": "applied"}]


async def test_a_bad_update_is_rejected_by_number_and_field() -> None:
    session, channel, control = join()
    control.receive('{"type": "update", "seq": 6, "params": {"steps": 99}}')
    (answer,) = channel.sent
    assert (answer["type"], answer["seq"]) == ("rejected", 6)
    assert (answer["error"]["code"], answer["error"]["field"]) == ("bad_params", "steps")
    assert session.params.steps == 2


async def test_nonsense_is_answered_and_changes_nothing() -> None:
    _, channel, control = join()
    for text in ("", "{", "[]", '{"type": "fly"}', b"\xff\xfe", "[" * 15_000, "x" * 100_000):
        control.receive(text)
    assert {(answer["type"], answer["seq"]) for answer in channel.sent} == {("rejected", UNKNOWN_SEQ)}
    assert len(channel.sent) == 7


async def test_verbs() -> None:
    session, _, control = join()
    control.receive('{"type": "pause"}')
    assert session.state == "paused"
    control.receive('{"type": "resume"}')
    assert session.state == "warming"
    control.receive('{"type": "reset"}')
    assert session.state == "warming"


async def test_only_the_first_channel_named_control_counts() -> None:
    _, _, control = join()
    for other in (FakeChannel("chat"), FakeChannel()):
        control.attach(other)  # type: ignore[arg-type]
        assert other.handlers == {}


async def test_answers_to_a_closed_session_are_not_sent() -> None:
    session, channel, control = join()
    control.receive('{"type": "update", "seq": 1, "params": {}}')
    session.close()
    await asyncio.sleep(0)
    assert channel.sent == []
    control.receive('{"type": "update", "seq": 2, "params": {}}')
    assert channel.sent[-1]["error"]["code"] == "no_such_session"
