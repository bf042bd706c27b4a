"""What a server's processes take of the machine, from /proc; Linux only."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of a process and all that it has started, at one moment."""

    processes: int
    threads: int
    files: int
    """Open file descriptors, sockets among them."""
    sockets: int
    shared: int
    """Mappings of memory that processes share by a file without a name."""
    mib: float
    """Memory of their own (anonymous pages)."""

    def leaks(self, before: Footprint) -> list[str]:
        """One line for each count that is higher than it was."""
        return [
            f"{name}: {getattr(before, name)} before, {getattr(self, name)} after"
            for name in ("processes", "threads", "files", "sockets", "shared")
            if getattr(self, name) > getattr(before, name)
        ]


def footprint(pid: int) -> Footprint:
    """Of process `pid` and its descendants. Raises ProcessLookupError where it has ended."""
    pids = tree(pid)
    if not (PROC / str(pid)).exists():
        raise ProcessLookupError(pid)
    files = [link for process in pids for link in _links(process)]
    return Footprint(
        processes=len(pids),
        threads=sum(_status(process, "Threads") for process in pids),
        files=len(files),
        sockets=sum(link.startswith("socket:") for link in files),
        shared=sum(_shared(process) for process in pids),
        mib=round(sum(_status(process, "RssAnon") for process in pids) / 1024, 1),
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of process `pid` and its descendants so far, in user and system mode."""
    ticks = 0
    for process in tree(pid):
        with contextlib.suppress(OSError):
            words = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])
    return ticks / 100  # the kernel tells user space of hundredths, whatever its own


def tree(pid: int) -> list[int]:
    """Process ids of `pid` and its descendants."""
    found, left = [], [pid]
    while left:
        process = left.pop()
        found.append(process)
        with contextlib.suppress(OSError):
            for thread in (PROC / str(process) / "task").iterdir():
                left += [int(child) for child in (thread / "children").read_text().split()]
    return found


def _status(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0])
    return 0


def _links(pid: int) -> list[str]:
    links = []
    with contextlib.suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                links.append(str(entry.readlink()))
    return links


def _shared(pid: int) -> int:
    with contextlib.suppress(OSError):
        lines = (PROC / str(pid) / "maps").read_text().splitlines()
        return sum(" rw-s " in line and "(deleted)" in line for line in lines)
    return 0
