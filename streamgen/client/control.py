"""The data channel `control`, seen from the client: numbered updates and their answers, verbs, events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from aiortc import RTCDataChannel

from streamgen.client.events import Event, Stats, parse_event
from streamgen.errors import ConnectError, ServiceError, StreamgenError

logger = logging.getLogger(__name__)

CHANNEL = "control"
MAX_MESSAGE_BYTES = 16 * 1024  # the service takes no larger ones

Verb = Literal["pause", "resume", "reset"]


class Pending(NamedTuple):
    """An update that is not answered yet."""

    params: Mapping[str, object]
    answer: asyncio.Future[int]


class Control:
    """Sends requests over `channel` and hands what the service says to `on_event` and `on_stats`.

    Every update is in `_pending` from when it is asked for until it is applied, rejected, timed out or failed. Those
    that come while the channel is held are sent over the next one.
    """

    def __init__(
        self, channel: RTCDataChannel, on_event: Callable[[Event], None], on_stats: Callable[[Stats], None]
    ) -> None:
        self._on_event = on_event
        self._on_stats = on_stats
        self._seq = 0
        self._pending: dict[int, Pending] = {}
        self._held = False
        self._channel = channel
        channel.on("message", self._receive)

    def hold(self) -> None:
        """There is to be another channel soon: updates wait for it."""
        self._held = True

    def use(self, channel: RTCDataChannel) -> None:
        """From now on over `channel`, and no other; updates wait until `go_on`."""
        self._held = True
        self._channel.remove_all_listeners("message")
        self._channel = channel
        channel.on("message", self._receive)

    def go_on(self) -> None:
        """The channel is open. Sends what is not answered yet: what went over another one may be lost.

        Raises ConnectError.
        """
        self._held = False
        for seq, update in self._pending.items():
            self._send_update(seq, update.params)

    async def update(self, params: Mapping[str, object], timeout_s: float) -> int:
        """Id of the frame from which `params` hold. Raises ServiceError (refused), ConnectError (no answer)."""
        self._seq += 1
        seq = self._seq
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending[seq] = Pending(dict(params), answer)
        try:
            if not self._held:
                self._send_update(seq, params)
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise ConnectError(f"the service did not answer the update within {timeout_s:g} s") from None
        finally:
            del self._pending[seq]

    def send(self, verb: Verb) -> None:
        """Raises ConnectError where the channel is closed."""
        self._send({"type": verb})

    def fail(self, error: StreamgenError) -> None:
        """No answers come any more: every update that waits for one raises `error`."""
        for update in self._pending.values():
            if not update.answer.done():
                update.answer.set_exception(error)

    def _send_update(self, seq: int, params: Mapping[str, object]) -> None:
        self._send({"type": "update", "seq": seq, "params": dict(params)})

    def _send(self, message: Mapping[str, object]) -> None:
        text = json.dumps(message)
        if len(text) > MAX_MESSAGE_BYTES:
            raise ServiceError(f"the parameters take {len(text)} bytes; at most {MAX_MESSAGE_BYTES} can be sent")
        if self._channel.readyState != "open":
            raise ConnectError("the session is closed, or its connection is being made anew")
        self._channel.send(text)

    def _receive(self, text: str | bytes) -> None:
        try:
            self._dispatch(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("control message of the service not understood (%r): %.200r", error, text)

    def _dispatch(self, message: Mapping[str, Any]) -> None:
        match message.get("type"):
            case "stats":
                self._on_stats(Stats.parse(message))
            case "applied":
                answer = self._waiting(message["seq"])
                if answer:
                    answer.set_result(int(message["frame"]))
            case "rejected":
                answer = self._waiting(message["seq"])
                if answer:
                    error = message["error"]
                    answer.set_exception(ServiceError(str(error["message"]), reason=str(error["code"])))
            case _:
                event = parse_event(message)
                if event is not None:
                    self._on_event(event)

    def _waiting(self, seq: int) -> asyncio.Future[int] | None:
        update = self._pending.get(seq)
        return update.answer if update and not update.answer.done() else None
