"""The data channel `control` of one client, from the service's side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aiortc import RTCDataChannel

from streamgen.errors import StreamgenError
from streamgen.session import Session
from streamgen.wire import CHANNEL, Applied, ServerMessage, Stats, Update, WireError, decode_client, encode, rejection

MAX_WAITING = 16
"""Messages kept for a channel that is not open yet; the oldest go first."""

MAX_BUFFERED_BYTES = 64 * 1024
"""A client that does not take its messages gets no more of them than this."""

UNKNOWN_SEQ = -1
"""Answers a message that cannot be understood, and so has no known number."""


class Outgoing:
    """Server messages of a session to its client, from before there is a channel for them."""

    def __init__(self) -> None:
        self._channel: RTCDataChannel | None = None
        self._waiting: deque[ServerMessage] = deque(maxlen=MAX_WAITING)

    def __call__(self, message: ServerMessage) -> None:
        """Sends `message`, now or when the channel opens. Statistics never wait: the next are better."""
        channel = self._channel
        if channel is None:
            if not isinstance(message, Stats):
                self._waiting.append(message)
        elif channel.readyState == "open" and channel.bufferedAmount < MAX_BUFFERED_BYTES:
            channel.send(encode(message))

    def open(self, channel: RTCDataChannel) -> None:
        """From now on messages go over `channel`."""
        self._channel = channel
        while self._waiting:
            self(self._waiting.popleft())

    def hold(self) -> None:
        """There is no channel for now: messages wait for the next."""
        self._channel = None

    @property
    def is_open(self) -> bool:
        """Whether there is a channel."""
        return self._channel is not None

    async def flush(self, timeout_s: float) -> None:
        """Waits until everything is sent, or cannot be."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._channel is not None and self._channel.readyState == "open" and self._channel.bufferedAmount:
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.02)


class Control:
    """Takes a client's messages to its session."""

    def __init__(self, session: Session, outgoing: Outgoing) -> None:
        self._session = session
        self._send = outgoing
        self._verbs: dict[str, Callable[[], None]] = {
            "pause": session.pause,
            "resume": session.resume,
            "reset": session.reset,
        }

    def attach(self, channel: RTCDataChannel) -> None:
        """Uses the client's first channel of the right name; no other."""
        if channel.label == CHANNEL and not self._send.is_open:
            self._send.open(channel)
            channel.on("message", self.receive)

    def receive(self, text: str | bytes) -> None:
        """One message of the client. A bad one is answered, and changes nothing."""
        try:
            message = decode_client(text)
        except WireError as error:
            self._send(rejection(UNKNOWN_SEQ, error))
            return
        if isinstance(message, Update):
            self._update(message)
        else:
            self._verbs[message.type]()

    def _update(self, message: Update) -> None:
        try:
            applied = self._session.update(message.params)
        except StreamgenError as error:
            self._send(rejection(message.seq, error))
            return
        applied.add_done_callback(lambda future: self._answer(message.seq, future))

    def _answer(self, seq: int, applied: asyncio.Future[int]) -> None:
        if not applied.cancelled() and applied.exception() is None:
            self._send(Applied(seq, applied.result()))
