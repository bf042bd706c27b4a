"""STUN and TURN servers for clients, with credentials that expire (draft-uberti-behave-turn-rest; coturn's
`use-auth-secret`)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LIFETIME_S = 600
"""A client has to have begun to use its credentials by then; a relay that is in use goes on."""


@dataclass(frozen=True, slots=True)
class IceServer:
    """As RTCPeerConnection takes it."""

    urls: str
    username: str | None = None
    credential: str | None = None


@dataclass(frozen=True, slots=True)
class IceServers:
    """What is handed out to a client: each gets TURN credentials of its own, where there is a secret to make them."""

    urls: Sequence[str]
    secret: str | None = None
    """Shared with the TURN server."""
    wall_clock: Callable[[], float] = time.time
    """Seconds since 1970."""

    def servers_for(self, client: str) -> list[IceServer]:
        """For the client of this id."""
        return [self._server(url, client) for url in self.urls]

    def _server(self, url: str, client: str) -> IceServer:
        if self.secret is None or not url.startswith(("turn:", "turns:")):
            return IceServer(url)
        name = hashlib.sha256(client.encode()).hexdigest()[:12]  # ids are secrets, and this goes over the network
        username = f"{int(self.wall_clock()) + LIFETIME_S}:{name}"
        digest = hmac.new(self.secret.encode(), username.encode(), hashlib.sha1).digest()
        return IceServer(url, username, base64.b64encode(digest).decode())
