"""What processes there are, and what this one holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether this process runs: one that nobody has waited for yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    """Processes that this one has started, and not waited for yet."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for child in " ".join(lists).split()]


def workers(service: int) -> list[int]:
    """Processes of the engine of a service: they are forked from a process that the service has started for that."""
    return [worker for child in children(service) for worker in children(child)]


def open_files() -> int:
    """Files, pipes and the like that this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def until(condition: Callable[[], bool]) -> None:
    """Waits for `condition`, at most half a minute."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - of what other processes do there are no events
            await asyncio.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """A process, and those that it and they have started, as far as their parents live."""
    found = [pid]
    for one in found:  # grows on the way
        lists = (path for path in Path(f"/proc/{one}/task").glob("*/children"))
        for path in lists:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found += map(int, path.read_text().split())
    return found


def holders(folder: Path) -> list[int]:
    """Processes that have a file in this folder open: whoever their parents are, and whatever they call themselves."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            links = (str(link.readlink()) for link in (process / "fd").iterdir())
            if process.name.isdecimal() and any(link.startswith(f"{folder}/") for link in links):
                found.append(int(process.name))
    return found
