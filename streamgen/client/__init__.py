"""The Python client: frames in, restyled frames out, over WebRTC. Imports nothing of the server."""

from streamgen.client.client import Client
from streamgen.client.events import Closing, Event, Quality, Queue, Restarted, StateChanged, Stats
from streamgen.client.session import Frame, Session
from streamgen.errors import ConnectError, MediaFileError, ServiceError

__all__ = [
    "Client",
    "Closing",
    "ConnectError",
    "Event",
    "Frame",
    "MediaFileError",
    "Quality",
    "Queue",
    "Restarted",
    "ServiceError",
    "Session",
    "StateChanged",
    "Stats",
]
