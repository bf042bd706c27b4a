"""The Python client: frames in, restyled frames out, over WebRTC. Imports nothing of the server."""

from streamgen.client.client import Client
from streamgen.client.events import Closing, Event, Moved, Moving, Quality, Queue, Restarted, StateChanged, Stats
from streamgen.client.results import Frame
from streamgen.client.session import Session
from streamgen.errors import ConnectError, MediaFileError, ServiceError

__all__ = [
    "Client",
    "Closing",
    "ConnectError",
    "Event",
    "Frame",
    "MediaFileError",
    "Moved",
    "Moving",
    "Quality",
    "Queue",
    "Restarted",
    "ServiceError",
    "Session",
    "StateChanged",
    "Stats",
]
