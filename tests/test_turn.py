from __future__ import annotations

import base64
import hashlib
import hmac

from streamgen.turn import LIFETIME_S, IceServer, IceServers

URLS = ("stun:s.example", "turn:t.example:3478?transport=tcp", "turns:t.example")


def test_turn_servers_get_credentials_that_the_server_can_check() -> None:
    stun, *relays = IceServers(URLS, "shared", lambda: 1000.9).servers_for("a session's id")
    assert stun == IceServer(URLS[0])
    for url, relay in zip(URLS[1:], relays, strict=True):
        assert relay.urls == url
        assert relay.username is not None
        expiry, name = relay.username.split(":")
        assert int(expiry) == 1000 + LIFETIME_S
        assert name
        assert "session" not in name
        digest = hmac.new(b"shared", relay.username.encode(), hashlib.sha1).digest()
        assert relay.credential == base64.b64encode(digest).decode()


def test_each_client_has_its_own() -> None:
    servers = IceServers(URLS, "shared", lambda: 0.0)
    assert servers.servers_for("one")[1] != servers.servers_for("two")[1]


def test_without_a_secret_there_are_none() -> None:
    assert IceServers(URLS).servers_for("one") == [IceServer(url) for url in URLS]
