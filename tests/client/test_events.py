import json

import pytest

from streamgen import wire
from streamgen.client.events import Closing, Queued, Restarted, StateChanged, Stats, parse_event


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"type": "state", "state": "live"}, StateChanged("live")),
        ({"type": "queue", "position": 3}, Queued(3)),
        ({"type": "restarted", "reason": "worker died"}, Restarted("worker died")),
        ({"type": "closing", "reason": "idle"}, Closing("idle")),
        ({"type": "from a later version"}, None),
    ],
)
def test_messages_become_events(message, event):
    assert parse_event(message) == event


def test_a_message_without_its_field_is_an_error():
    with pytest.raises(KeyError):
        parse_event({"type": "state"})


def test_the_client_understands_what_the_service_sends():
    """The SDK has its own types, for it imports nothing of the service: here the two are held against each other."""
    sent = wire.Stats(16.0, 15.5, {"p50": 1.0}, 10, 9, 1, {"late": 1}, {"steps": 2}, "live")
    got = Stats.parse(json.loads(wire.encode(sent)))
    assert {name: getattr(got, name) for name in Stats.__slots__} == {
        name: getattr(sent, name) for name in wire.Stats.__slots__ if name != "type"
    }
    for message, event in [
        (wire.StateChanged("live"), StateChanged("live")),
        (wire.Restarted("why"), Restarted("why")),
        (wire.Closing("why"), Closing("why")),
    ]:
        assert parse_event(json.loads(wire.encode(message))) == event
