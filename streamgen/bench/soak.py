"""Sessions for a long time, and what they leave behind: memory and latency stay flat, and counts come back."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from streamgen.bench.footprint import Footprint, footprint
from streamgen.bench.latency import Outcome, Settings, measure
from streamgen.bench.measure import Figures
from streamgen.bench.server import Server
from streamgen.client import Client

WARM_UP_S, MOST_WARM_UPS = 4.0, 6
SETTLE_S = 30.0
"""The server gets so long to free what sessions took."""
GROWTH_MIB, GROWTH_SHARE = 16.0, 0.05
"""Memory may differ by that or by that share between a quarter of the run and its end; allocators are not exact."""
RECEIVED_SHARE = 0.9
"""Of the frames sent, results that have to come."""
SLOWER_MS, SLOWER_SHARE = 20.0, 0.2
"""And the median latency of 5 s by that."""


@dataclass(frozen=True, slots=True)
class Soak:
    """What was seen."""

    before: Footprint
    """With no session, after some had come and gone."""
    during: tuple[Footprint, ...]
    """At equal intervals."""
    after: Footprint
    """With no session again."""
    outcome: Outcome

    def faults(self) -> list[str]:
        """One line for everything that grew, leaked, or failed."""
        found = [*self.outcome.errors, *self.after.leaks(self.before)]
        early, late = self.memory()
        if late - early > max(GROWTH_MIB, GROWTH_SHARE * early):
            found.append(f"memory: {early:.1f} MiB after a quarter of the run, {late:.1f} MiB at its end")
        for number, it in enumerate(self.outcome.sessions, 1):
            if isinstance(it, Figures):
                found += [f"session {number}: {fault}" for fault in _faults(it)]
        return found

    def memory(self) -> tuple[float, float]:
        """Median MiB of the second quarter of the run, and of the last."""
        quarter = max(1, len(self.during) // 4)
        early, late = self.during[quarter : 2 * quarter] or self.during[:1], self.during[-quarter:]
        return statistics.median(f.mib for f in early), statistics.median(f.mib for f in late)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        early, late = self.memory()
        return {
            "memory_mib": {"second_quarter": early, "last_quarter": late},
            "before": asdict(self.before),
            "after": asdict(self.after),
            "most": {name: max(getattr(f, name) for f in self.during) for name in Footprint.__slots__},
            **self.outcome.as_dict(),
        }


def _faults(it: Figures) -> list[str]:
    found = []
    first, last = it.first_5s_p50, it.last_5s_p50
    if first is None or last is None:
        found.append("no result could be read")
    elif last - first > max(SLOWER_MS, SLOWER_SHARE * first):
        found.append(f"{first:.0f} ms at first, {last:.0f} at last")
    if it.frames_received < RECEIVED_SHARE * it.frames_sent:
        found.append(f"{it.frames_received} results of {it.frames_sent} frames")
    if it.foreign:
        found.append(f"{it.foreign} results were another session's")
    return found


async def soak(server: Server, settings: Settings, interval_s: float, on_sample: Callable[[Footprint], None]) -> Soak:
    """Runs sessions by `settings`; looks at the server every `interval_s`."""
    async with Client(server.url) as client:
        before = await _warmed_up(server, client, settings)
        running = asyncio.create_task(measure(client, settings))
        during: list[Footprint] = []
        while not running.done():
            await asyncio.wait([running], timeout=interval_s)
            if not running.done() or not during:
                during.append(footprint(server.pid))
                on_sample(during[-1])
        outcome = await running
        return Soak(before, tuple(during), await _settled(server, before), outcome)


async def _warmed_up(server: Server, client: Client, settings: Settings) -> Footprint:
    """The footprint without sessions, once those that come and go start no more threads of the server's pools."""
    seen = footprint(server.pid)
    for _ in range(MOST_WARM_UPS):
        before = seen
        await measure(client, replace(settings, seconds=WARM_UP_S))
        seen = await _settled(server, None)
        if seen.threads <= before.threads:
            break
    return seen


async def _settled(server: Server, wanted: Footprint | None) -> Footprint:
    """The footprint once it is as `wanted`, or has not changed for a while."""
    now, still = footprint(server.pid), 0
    for _ in range(round(SETTLE_S)):
        await asyncio.sleep(1.0)
        before, now = now, footprint(server.pid)
        still = still + 1 if not now.leaks(before) and not before.leaks(now) else 0
        if (wanted is not None and not now.leaks(wanted)) or (wanted is None and still >= 3):
            break
    return now
