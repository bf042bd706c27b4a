"""A service that keeps streamgen's contract and echoes every frame after a known delay: the SDK's other side.

Also a program: `python echo_service.py --port 0 --delay 0.1` prints `ready: URL` as `streamgen serve` does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

import uvicorn
from aiortc import MediaStreamTrack, RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

FRAME_ID_OF_UPDATES = 42
REFUSED_PROMPT = "refuse me"
SILENT_PROMPT = "never answer me"


@dataclass
class Behaviour:
    """What a test wants of the service; may be changed while it runs."""

    delay_s: float = 0.0
    token: str | None = None
    busy: bool = False
    refuse_offers: int = 0
    """How often a new client is refused for want of room, beside `busy`."""
    retry_after: str = "7"
    queued: bool = False
    """New sessions wait for room until `EchoService.admit`; their frames are dropped meanwhile."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Parameters that a new session has where it asks for no other."""
    scale: float = 1.0
    """Width and height of what comes back, as a share of what was sent."""
    garbage: bool = False
    """Answers with a page instead of JSON."""
    dead_media: bool = False
    """Answers the offer, but its media connection never comes up."""
    drop_every: int = 0
    """Loses every n-th frame."""
    forgetful: bool = False
    """Has closed a session by the time its client comes back."""
    refuse_returns: int = 0
    """How often a client that comes back is refused first."""
    mix_up: bool = False
    """Sends every session the frames of the session before it: the fault that must be noticed."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """What the statistics say about where time goes."""


class EchoTrack(MediaStreamTrack):
    """Frames of `track`, each `delay_s` after it came."""

    kind = "video"

    def __init__(self, session: EchoSession, track: MediaStreamTrack) -> None:
        super().__init__()
        self._session = session
        self._queue: deque[tuple[float, Any]] = deque()
        self._some = asyncio.Event()
        self._task = asyncio.ensure_future(self._fill(track))

    async def _fill(self, track: MediaStreamTrack) -> None:
        loop = asyncio.get_running_loop()
        session = self._session
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            session.frames_in += 1
            every = session.behaviour.drop_every
            lost = every and session.frames_in % every == 0
            if session.queued or session.paused or lost:
                reason = "queued" if session.queued else "echo"
                session.drops[reason] = session.drops.get(reason, 0) + 1
                continue
            target = session.neighbour.echo if session.behaviour.mix_up and session.neighbour else self
            if target is not None:
                target._queue.append((loop.time() + session.behaviour.delay_s, frame))
                target._some.set()

    async def recv(self) -> Any:
        while not self._queue:
            self._some.clear()
            await self._some.wait()
        due, frame = self._queue.popleft()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        self._session.frames_out += 1
        scale = self._session.behaviour.scale
        if scale == 1:
            return frame
        smaller = frame.reformat(width=int(frame.width * scale) & ~1, height=int(frame.height * scale) & ~1)
        smaller.pts, smaller.time_base = frame.pts, frame.time_base
        return smaller

    def stop(self) -> None:
        self._task.cancel()
        super().stop()


@dataclass
class EchoSession:
    """One client's connection."""

    behaviour: Behaviour
    pc: RTCPeerConnection
    params: dict[str, Any]
    neighbour: EchoSession | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    channel: RTCDataChannel | None = None
    echo: EchoTrack | None = None
    paused: bool = False
    queued: bool = False
    frames_in: int = 0
    frames_out: int = 0
    drops: dict[str, int] = field(default_factory=dict)

    async def answer(self, sdp: str) -> str:
        @self.pc.on("datachannel")
        def on_datachannel(channel: RTCDataChannel) -> None:
            self.channel = channel
            channel.on("message", self.on_message)
            if self.queued:
                self.say({"type": "state", "state": "queued"})
                self.say({"type": "queue", "position": 2, "estimate_s": 40.0})
            else:
                self.say({"type": "state", "state": "warming"})
            self.say({"type": "stats", **self.stats()})

        @self.pc.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            self.echo = EchoTrack(self, track)
            self.pc.addTrack(self.echo)

        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        return self.pc.localDescription.sdp

    def on_message(self, text: str) -> None:
        message = json.loads(text)
        match message["type"]:
            case "update" if message["params"].get("prompt") == REFUSED_PROMPT:
                error = {"code": "bad_params", "message": "prompt: is refused here", "field": "prompt"}
                self.say({"type": "rejected", "seq": message["seq"], "error": error})
            case "update" if message["params"].get("prompt") != SILENT_PROMPT:
                self.params |= message["params"]
                self.say({"type": "applied", "seq": message["seq"], "frame": FRAME_ID_OF_UPDATES})
            case "pause" | "resume" as verb:
                self.paused = verb == "pause"
                self.say({"type": "state", "state": "paused" if self.paused else "live"})
            case "reset":
                self.say({"type": "restarted", "reason": "reset"})

    def say(self, message: dict[str, Any]) -> None:
        assert self.channel is not None
        self.channel.send(json.dumps(message))

    def stats(self) -> dict[str, Any]:
        return {
            "fps_in": 16.0,
            "fps_out": 16.0,
            "latency_ms": {"p50": 1.0, "p95": 2.0, "max": 3.0},
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "deadline_misses": 7,
            "drops": self.drops,
            "plan": {"steps": 2},
            "state": "live",
            "stages_ms": self.behaviour.stages_ms,
            "not_yet_known": True,
        }

    async def close(self, reason: str | None = None) -> None:
        if reason is not None:
            self.say({"type": "closing", "reason": reason})
            await asyncio.sleep(0.05)
        await self.pc.close()


class EchoService:
    """Runs in a thread with a loop of its own, so that a test's loop holds the client's tasks only."""

    def __init__(self, behaviour: Behaviour, port: int = 0) -> None:
        self.behaviour = behaviour
        self.sessions: dict[str, EchoSession] = {}
        self.deleted: list[str] = []
        self.offers: list[str] = []
        self.resumed: list[str] = []
        self.refused = 0
        self.loop = asyncio.new_event_loop()
        config = uvicorn.Config(self._app(), port=port, log_level="error", ws="none", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            threading.Event().wait(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def end(self, session: str, reason: str | None) -> None:
        """Closes a session as the service would: with a reason, or without a word."""
        asyncio.run_coroutine_threadsafe(self.sessions[session].close(reason), self.loop).result(5)

    def say(self, session: str, message: dict[str, Any] | str) -> None:
        """Sends `message` on the session's control channel."""

        async def send() -> None:
            channel = self.sessions[session].channel
            assert channel is not None
            channel.send(message if isinstance(message, str) else json.dumps(message))

        asyncio.run_coroutine_threadsafe(send(), self.loop).result(5)

    def admit(self, session: str) -> None:
        """There is room for a session that was queued."""
        self.sessions[session].queued = False
        self.say(session, {"type": "state", "state": "warming"})

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        await self._server.serve()
        for session in self.sessions.values():
            await session.close()
        await asyncio.sleep(0)

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def check_token(request: Request, call_next: Any) -> Response:
            token = self.behaviour.token
            if token and request.headers.get("Authorization") != f"Bearer {token}":
                return _error(401, "unauthorized", "a token is asked for")
            return await call_next(request)

        @app.post("/api/sessions", status_code=201, response_model=None)
        async def create(body: dict[str, Any]) -> Response | dict[str, Any]:
            if self.behaviour.garbage:
                return Response("<html>hello</html>", media_type="text/html")
            if self.behaviour.busy or self.behaviour.refuse_offers:
                self.behaviour.refuse_offers = max(0, self.behaviour.refuse_offers - 1)
                self.refused += 1
                return _error(503, "busy", "all places are taken", {"Retry-After": self.behaviour.retry_after})
            self.offers.append(body["sdp"])
            neighbour = next(reversed(self.sessions.values()), None)
            pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
            params = self.behaviour.defaults | body["params"]
            session = EchoSession(self.behaviour, pc, params, neighbour, queued=self.behaviour.queued)
            self.sessions[session.id] = session
            sdp = await session.answer(body["sdp"])
            if self.behaviour.dead_media:
                await session.close()
            size = [body["params"].get("width", 320), body["params"].get("height", 192)]
            return {
                "id": session.id,
                "sdp": sdp,
                "type": "answer",
                "ice_servers": [],
                "state": "queued" if session.queued else "connecting",
                "params": session.params,
                "frame_size": size,
            }

        app.post("/api/sessions/{session}", response_model=None)(self._resume)

        @app.get("/api/sessions/{session}")
        async def get(session: str) -> dict[str, Any]:
            found = self.sessions[session]
            return {"id": session, "state": "live", "params": found.params, "stats": found.stats()}

        @app.delete("/api/sessions/{session}", status_code=204)
        async def delete(session: str) -> None:
            self.deleted.append(session)
            await self.sessions[session].close()

        return app

    async def _resume(self, session: str, body: dict[str, Any]) -> Response | dict[str, Any]:
        self.resumed.append(session)
        if self.behaviour.refuse_returns:
            self.behaviour.refuse_returns -= 1
            return _error(503, "busy", "not yet")
        if self.behaviour.forgetful or session not in self.sessions:
            return _error(404, "no_such_session", "it has ended")
        found = self.sessions[session]
        found.pc, found.echo = RTCPeerConnection(RTCConfiguration(iceServers=[])), None
        sdp = await found.answer(body["sdp"])
        return {"id": session, "sdp": sdp, "state": "live", "params": found.params, "frame_size": [320, 192]}


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0)
    args = parser.parse_args()
    with EchoService(Behaviour(delay_s=args.delay), args.port) as service:
        print("loading the model", flush=True)
        print(f"ready: {service.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
