"""What an operator can set: frozen, checked once at start, with errors that name the setting."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamgen.errors import ConfigError

_SECONDS = ("connect_timeout_s", "grace_s", "idle_timeout_s", "job_timeout_s", "keep_jobs_s", "start_timeout_s")


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of `streamgen serve`. Raises ConfigError where they cannot work."""

    preset: str = "tiny"
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes any free port."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    max_sessions: int = 32
    """Sessions at once at most; how many there is room for is decided by what they ask for."""
    max_queue: int = 8
    """Sessions that may wait for room; who comes then is refused."""
    token: str | None = None
    """Bearer token asked of every API request where set."""
    allowed_origins: tuple[str, ...] = ()
    """Origins other than the service's own that may use the API from a browser."""
    ice_servers: tuple[str, ...] = ()
    """STUN/TURN URLs handed to clients and used by the service."""
    turn_secret: str | None = None
    """Secret shared with the TURN servers, from which each client's credentials are made."""
    udp_ports: tuple[int, int] | None = None
    """First and last UDP port for media; any where None."""
    loopback: bool = False
    """Whether this machine's loopback addresses are offered for media too."""
    connect_timeout_s: float = 15.0
    """An offer whose media connection is not up by then is closed."""
    idle_timeout_s: float = 15.0
    """A session without a frame for this long, and not paused, is closed."""
    grace_s: float = 20.0
    """A client whose connection was lost may come back to its session for this long."""
    max_viewers: int = 16
    """Who may watch one session at once, beside its own client."""
    job_timeout_s: float = 20.0
    """A worker that is silent for this long on one piece of work counts as hung and is restarted."""
    start_timeout_s: float = 300.0
    """A worker that is not ready by then counts as failed."""
    threads: int = 0
    """CPU threads of the engine; 0 lets the engine choose."""
    attention: str = "auto"
    """Attention kernels, by the name of their backend."""
    compiled: bool = False
    """Whether the model is compiled."""
    loras: tuple[tuple[Path, float], ...] = ()
    """LoRA files to merge, each with its strength."""
    cost_folder: Path | None = None
    """Where measured costs are kept from one start to the next; nowhere where None."""
    max_jobs: int = 4
    """Video files that are received or restyled at once; 0: none are taken."""
    max_upload_mb: int = 512
    """Largest video file that a job may bring (MB)."""
    keep_jobs_s: float = 600.0
    """Results of jobs are kept for so long."""
    devices: tuple[str, ...] = ()
    """Devices that run the model together, in this order: each cpu or cuda:N. None: the one that `device` says."""
    blocks: tuple[int, ...] = ()
    """How many blocks of the transformer each of them has, for good. None: they move to where it is best."""
    node: str = ""
    """Name of this service in its fleet; empty where it is in none."""

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, "port", "must be from 0 to 65535")
        _require(1 <= self.max_sessions <= 1024, "max-sessions", "must be from 1 to 1024")
        _require(0 <= self.max_queue <= 1024, "max-queue", "must be from 0 to 1024")
        _require(self.token != "", "token", "must not be empty")
        _require(self.threads >= 0, "threads", "must not be negative")
        _require(0 <= self.max_viewers <= 1024, "max-viewers", "must be from 0 to 1024")
        _require(0 <= self.max_jobs <= 64, "max-jobs", "must be from 0 to 64")
        _require(1 <= self.max_upload_mb <= 1024 * 1024, "max-upload-mb", "must be from 1 to 1048576")
        for name in _SECONDS:
            _require(getattr(self, name) > 0, name.replace("_", "-"), "must be above 0")
        self._check_devices()
        for url in self.ice_servers:
            _require(url.startswith(("stun:", "turn:", "turns:")), "ice-server", f"{url!r} is no stun: or turn: URL")
        if self.udp_ports is not None:
            first, last = self.udp_ports
            _require(1024 <= first <= last <= 65535, "udp-ports", "must be FIRST-LAST, from 1024 to 65535")
            needed = self.max_sessions + self.max_queue
            _require(
                last - first + 1 >= needed, "udp-ports", f"must be {needed} (--max-sessions + --max-queue) at least"
            )

    def _check_devices(self) -> None:
        _require(not self.devices or self.device == "auto", "devices", "and --device exclude each other; give one")
        for name in self.devices:
            known = re.fullmatch(r"cpu|cuda:(0|[1-9][0-9]*)", name)
            _require(known is not None, "devices", f"takes cpu, N or cuda:N between commas, not {name[:40]!r}")
        gpus = [name for name in self.devices if name != "cpu"]
        twice = {name for name in gpus if gpus.count(name) > 1}
        _require(not twice, "devices", f"has {min(twice, default='')} twice")
        fits = len(self.blocks) == len(self.devices) and min(self.blocks[1:-1], default=1) > 0
        _require(not self.blocks or fits, "blocks", "is a number for each of --devices, above 0 between first and last")

    def new_id(self) -> str:
        """An id that nobody can guess. In a fleet it begins with the node's name and a point, and so leads there."""
        secret = secrets.token_urlsafe(16)
        return f"{self.node}.{secret}" if self.node else secret


def cost_folder(environ: Mapping[str, str]) -> Path | None:
    """Where measured costs are kept: in the user's cache; nowhere for a user who has no home, as in containers."""
    try:
        cache = Path(environ["XDG_CACHE_HOME"]) if environ.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "streamgen" / "costs"


def _require(holds: bool, name: str, problem: str) -> None:
    if not holds:
        raise ConfigError(f"--{name} {problem}")
