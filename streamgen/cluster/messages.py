"""What passes between a node's process and its host over a pipe, and between host and gateway over Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamgen.config import Config

KEY_HEADER, CLIENT_HEADER = "X-Streamgen-Gateway", "X-Streamgen-Client"
"""With its key a node takes a gateway's word for whose a request is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the nodes of a fleet run."""

    config: Config
    """Its host, port and node are the gateway's to say of itself; each node has its own."""
    ports: tuple[int, int] | None = None
    """First and last TCP port for a node's HTTP; any free one where None."""


@dataclass(frozen=True, slots=True)
class Birth:
    """To the process: what it is to be."""

    settings: Settings
    name: str
    address: str
    """Of the machine: what it listens on."""
    public: str
    """Where clients reach it, with {port} in the place of its port; at its address where empty."""


@dataclass(frozen=True, slots=True)
class Drain:
    """To the process: whether it is to take no more sessions."""

    on: bool


@dataclass(frozen=True, slots=True)
class Move:
    """To the process: so many of its sessions are to go elsewhere."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """To the process: it is over. Sessions are closed in order."""


Order = Drain | Move | Stop


@dataclass(frozen=True, slots=True)
class Report:
    """From the process, twice a second: how it stands."""

    state: str
    """ready, draining, or what its engine does instead."""
    url: str
    """Where the gateway reaches it."""
    public: str
    """Where clients do."""
    key: str
    """What a gateway shows with the requests that it passes on."""
    draining: bool
    sessions: int
    waiting: int
    """Of them, for room."""
    moving: int
    """Of them, asked to go elsewhere."""
    opened: int
    """Sessions since its start."""
    room: int
    """How many more would be admitted now."""
    places: int
    """Left in its queue."""
    jobs: int
    """Video files that it would take."""
    working: int
    """Video files that it has not done yet."""
    load: float
    """Share of its device's time that is promised."""
    names: tuple[str, ...] = ()
    """Under which sessions are published."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From the process: it cannot go on, and why."""

    message: str


FromMember = Report | Failed


@dataclass(frozen=True, slots=True)
class Told:
    """From the host to the gateway."""

    life: str
    """Of the process: another one has another."""
    report: Report | None
    """Its newest, if any."""
    age_s: float
    """Of the report."""
    problem: str
    """Why the process has ended; empty while it runs."""


State = Literal["starting", "restarting", "ready", "draining", "drained", "silent", "failed", "lost"]
"""Of a node, for the gateway. Silent: nothing was heard of it lately. Failed: its process ended, and is started anew
soon. Lost: its host is gone, and Ray looks for another place."""
