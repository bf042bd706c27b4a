from __future__ import annotations

import json

import pytest

from streamgen.errors import ParamsError
from streamgen.wire import (
    MAX_MESSAGE_BYTES,
    Applied,
    Closing,
    Restarted,
    StateChanged,
    Stats,
    Update,
    Verb,
    WireError,
    decode_client,
    encode,
    rejection,
)


def test_client_messages() -> None:
    assert decode_client('{"type": "update", "seq": 3, "params": {"noise": 1}}') == Update(3, {"noise": 1})
    assert decode_client(b'{"type": "pause", "extra": 1}') == Verb("pause")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        b"\xff",
        '{"type": ["pause"]}',
        '{"type": "update"}',
        '{"type": "update", "seq": true, "params": {}}',
        '{"type": "update", "seq": 1, "params": []}',
        "[" * 10_000,
        " " * (MAX_MESSAGE_BYTES + 1),
    ],
)
def test_what_cannot_be_understood_is_an_error(text: str | bytes) -> None:
    with pytest.raises(WireError):
        decode_client(text)


def test_server_messages_are_json_with_their_type() -> None:
    stats = Stats(16.0, 15.5, {"p50": 300.0}, 10, 9, 0, {"rate": 1}, {"steps": 2}, "live")
    for message, kind in (
        (Applied(1, 5), "applied"),
        (StateChanged("live"), "state"),
        (Restarted("killed"), "restarted"),
        (Closing("over"), "closing"),
        (stats, "stats"),
        (rejection(1, ParamsError("steps", "is bad")), "rejected"),
    ):
        assert json.loads(encode(message))["type"] == kind
    assert json.loads(encode(stats))["latency_ms"] == {"p50": 300.0}


def test_a_rejection_names_the_field() -> None:
    assert rejection(7, ParamsError("steps", "is bad")).error == {
        "code": "bad_params",
        "message": "steps: is bad",
        "field": "steps",
    }
    assert "field" not in rejection(7, WireError("what?")).error
