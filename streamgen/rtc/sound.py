"""The way of a session's sound: past the model, to everybody who takes the pictures, as late as they are."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from fractions import Fraction

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamgen.core import Clock
from streamgen.rtc.pacing import Timeline

BUFFERED_S = 0.08
"""How much later than pictures sound comes out of aiortc's receiver, which waits for four packets of 20 ms."""
TOLERANCE_S = 0.1
"""Sound may be off by so much from its picture before it is moved: nobody notices, and every move is a gap."""
RATE = 48000
MOST_KEPT = 500
"""Pieces of sound, of 20 ms as a rule, that wait for their picture."""


class Sound:
    """Drains the client's track, and keeps for each listener what is not due yet."""

    def __init__(self, delay: Callable[[], float], clock: Clock) -> None:
        """delay: by how much later than they came pictures are shown at the moment (s)."""
        self._delay = delay
        self._clock = clock
        self._timeline = Timeline()
        self._listeners: set[SoundTrack] = set()

    def listener(self) -> SoundTrack:
        """A track for one more connection, to be stopped at its end."""
        track = SoundTrack(lambda: max(0.0, self._delay() - BUFFERED_S), self._clock)
        self._listeners.add(track)
        return track

    async def take(self, track: MediaStreamTrack) -> None:
        """Passes the client's track on until it ends, or until cancelled."""
        recv: Callable[[], Awaitable[object]] = track.recv
        # Of one kind and on one time line, whatever a client comes back with: encoders take no other half-way.
        resampler = av.AudioResampler(format="s16", layout="stereo", rate=RATE)
        while True:
            try:
                piece = await recv()
            except MediaStreamError:
                return
            if not isinstance(piece, av.AudioFrame):
                continue
            self._listeners = {listener for listener in self._listeners if listener.readyState == "live"}
            for even in resampler.resample(piece):
                time = self._timeline.place(Fraction(even.pts or 0, RATE), Fraction(even.samples, RATE))
                even.pts, even.time_base = round(time * RATE), Fraction(1, RATE)
                for listener in self._listeners:
                    listener.put(even)


class SoundTrack(MediaStreamTrack):
    """What one connection hears: each piece once it is as late as the pictures; never a growing queue."""

    kind = "audio"

    def __init__(self, delay: Callable[[], float], clock: Clock) -> None:
        super().__init__()
        self._delay = delay
        self._clock = clock
        self._held = delay()
        self._queued: deque[tuple[float, av.AudioFrame]] = deque(maxlen=MOST_KEPT)
        self._news = asyncio.Event()

    def put(self, piece: av.AudioFrame) -> None:
        """One more piece, that came now."""
        self._queued.append((self._clock.now(), piece))
        self._news.set()

    async def recv(self) -> av.AudioFrame:
        """The next piece when it is due. Raises MediaStreamError once the track is stopped."""
        while True:
            while not self._queued:
                if self.readyState != "live":
                    raise MediaStreamError
                self._news.clear()
                await self._news.wait()
            arrived, piece = self._queued.popleft()
            wanted = self._delay()
            if abs(wanted - self._held) > TOLERANCE_S:
                self._held = wanted
            wait = arrived + self._held - self._clock.now()
            if wait > 0:
                await asyncio.sleep(wait)
            if wait > -TOLERANCE_S:
                return piece

    def stop(self) -> None:
        """Ends the track."""
        super().stop()
        self._news.set()
