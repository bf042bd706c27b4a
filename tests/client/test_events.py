import json

import pytest

from streamgen import wire
from streamgen.client.events import Closing, Moving, Quality, Queue, Restarted, StateChanged, Stats, parse_event


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"type": "state", "state": "live"}, StateChanged("live")),
        ({"type": "queue", "position": 3, "estimate_s": 41.5}, Queue(3, 41.5)),
        ({"type": "queue", "position": 3, "estimate_s": None}, Queue(3, None)),
        ({"type": "restarted", "reason": "worker died"}, Restarted("worker died")),
        ({"type": "moving", "reason": "drained"}, Moving("drained")),
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
    plan: dict[str, object] = {
        "steps": 2,
        "fps": 8.0,
        "rung": 3,
        "rungs": 6,
        "width": 320,
        "height": 192,
        "vae": "full",
    }
    stages = {"fill": 120.0, "queue": 15.5, "denoise": 80.0}
    sent = wire.Stats(
        16.0, 15.5, {"p50": 1.0}, 10, 9, 1, {"late": 1}, plan, "live", network={"packets": 9}, stages_ms=stages
    )
    got = Stats.parse(json.loads(wire.encode(sent)))
    assert {name: getattr(got, name) for name in Stats.__slots__} == {
        name: getattr(sent, name) for name in wire.Stats.__slots__ if name != "type"
    }
    for message, event in [
        (wire.StateChanged("live"), StateChanged("live")),
        (wire.Queue(2, None), Queue(2, None)),
        (wire.Queue(1, 12.0), Queue(1, 12.0)),
        (wire.Quality(3, 6, 1, 8.0, 256, 144, "light", "load"), Quality(3, 6, 1, 8.0, 256, 144, "light", "load")),
        (wire.Restarted("why"), Restarted("why")),
        (wire.Moving("why"), Moving("why")),
        (wire.Closing("why"), Closing("why")),
    ]:
        assert parse_event(json.loads(wire.encode(message))) == event


def test_statistics_of_an_older_service_lack_what_was_added_later():
    stats = Stats.parse(
        {"fps_in": 16.0, "fps_out": 16.0, "latency_ms": {}, "frames_in": 1, "frames_out": 1, "deadline_misses": 0}
        | {"drops": {}, "plan": {}, "state": "live"}
    )
    assert (stats.network, stats.stages_ms) == ({}, {})
