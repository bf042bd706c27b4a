"""The HTTP routes of a fleet: they lead each request to the node that is to answer it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from streamgen import __version__
from streamgen.cluster.fleet import Fleet
from streamgen.cluster.gauges import Gauges
from streamgen.cluster.messages import State
from streamgen.cluster.node import Node
from streamgen.cluster.relay import Relay, UnreachableError, target
from streamgen.core import Clock
from streamgen.errors import BusyError, JobNotFoundError, ParamsError, SessionNotFoundError
from streamgen.gate import Gate
from streamgen.metrics import Metrics
from streamgen.web import ErrorReply, OpenRequest, PresetsReply, Status, add_error_handlers, add_pages
from streamgen.whip import is_name


class NodeReply(BaseModel):
    """A node as the gateway knows it."""

    name: str
    state: State
    url: str = Field(description="Where clients reach it; empty while it has none.")
    draining: bool = Field(description="Whether it is to be emptied.")
    sessions: int
    waiting: int = Field(description="Sessions that wait for room.")
    moving: int = Field(description="Sessions that were asked to go elsewhere, and are still there.")
    room: int = Field(description="Sessions that would be admitted now.")
    load: float = Field(description="Share of its device's time that is promised.")
    restarts: int = Field(description="Processes after the first that this gateway has seen.")
    problem: str = Field(description="Why it has failed or is lost; empty where it has not.")


class FleetReply(BaseModel):
    """All nodes."""

    preset: str
    state: str
    nodes: list[NodeReply]


class Gateway:
    """What the routes share."""

    def __init__(self, fleet: Fleet, gauges: Gauges, relay: Relay, clock: Clock, *, relays_all: bool) -> None:
        self.fleet = fleet
        self.gauges = gauges
        self._relay = relay
        self._clock = clock
        self._relays_all = relays_all

    @property
    def now(self) -> float:
        """In seconds."""
        return self._clock.now()

    async def lead(self, request: Request, node: Node, *, large: bool = False) -> Response:
        """The answer that sends the client to the node with its request; or the node's own, where it cannot go there.

        A page may not follow to another origin, and would lose its token on the way. `large` says that the answer is.
        """
        report = node.report
        assert report is not None, "only nodes that have reported are chosen"
        if self._relays_all or "origin" in request.headers or "relay" in request.headers.get("prefer", ""):
            self.gauges.led(node.name, "relay")
            return await self._relay.pass_on(request, report, large=large)
        self.gauges.led(node.name, "redirect")
        location = target(report.public, request)
        return JSONResponse({"location": location}, 307, {"Location": location})

    async def ask(self, request: Request, node: Node) -> Response:
        """The node's own answer. Raises BusyError where there is none."""
        assert node.report is not None, "only nodes that have reported are chosen"
        return await self._relay.pass_on(request, node.report)

    async def lead_new(self, request: Request, choose: Callable[[], Node]) -> Response:
        """The same, with a new session, to the node that `choose` gives, or the next where that does not answer.

        Raises BusyError.
        """
        while True:
            try:
                node = choose()
            except BusyError:
                self.gauges.refused()
                raise
            try:
                return await self.lead(request, node)
            except UnreachableError:
                node.fall_silent()

    def shown(self, node: Node) -> NodeReply:
        """What there is to know of a node."""
        now, report = self.now, node.report
        return NodeReply(
            name=node.name,
            state=node.state(now),
            url=report.public if report else "",
            draining=node.draining,
            sessions=node.sessions,
            waiting=report.waiting if report else 0,
            moving=node.moving,
            room=max(0, node.room(now)),
            load=report.load if report else 0.0,
            restarts=node.restarts,
            problem=node.problem,
        )


def create_gateway(
    gateway: Gateway,
    pages: Path,
    presets: Sequence[dict[str, Any]],
    preset: str,
    *,
    token: str | None = None,
    allowed_origins: tuple[str, ...] = (),
) -> FastAPI:
    """The ASGI application; `presets` is what GET /api/presets tells while no node is ready."""
    app = FastAPI(
        title="streamgen fleet",
        version=__version__,
        description="Live video restyled by video diffusion, on many machines. Answers 307 with the one to ask.",
        docs_url=None,
        redoc_url=None,
        responses={400: {"model": ErrorReply}, 422: {"model": ErrorReply}},
    )
    app.add_middleware(Gate, token=token, allowed_origins=allowed_origins, is_link=gateway.fleet.knows)
    add_error_handlers(app)
    _add_sessions(app, gateway)
    _add_streams(app, gateway)
    _add_jobs(app, gateway)
    _add_fleet(app, gateway, preset)
    _add_presets(app, gateway, presets, preset)
    _add_health(app, gateway)
    add_pages(app, pages)
    return app


Endpoint = Callable[..., Coroutine[Any, Any, Response]]


def leads(app: FastAPI, path: str, *methods: str, errors: Sequence[int] = ()) -> Callable[[Endpoint], Endpoint]:
    """A route that leads to a node: one for each of the methods, so that each is described by itself."""

    def add(endpoint: Endpoint) -> Endpoint:
        responses: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in errors}
        for method in methods:
            app.add_api_route(
                path, endpoint, methods=[method], response_class=Response, status_code=307, responses=responses
            )
        return endpoint

    return add


def _add_sessions(app: FastAPI, gateway: Gateway) -> None:
    fleet = gateway.fleet

    @leads(app, "/api/sessions", "POST", errors=[503])
    async def open_session(offer: OpenRequest, request: Request) -> Response:
        """To the node that is filled least. 503 with Retry-After where none has room, or is ready."""
        return await gateway.lead_new(request, lambda: fleet.choose(gateway.now))

    @leads(app, "/api/sessions/{session_id}", "GET", "POST", "PATCH", "DELETE", errors=[404])
    async def session(session_id: str, request: Request) -> Response:
        """To the node that has the session. 404 where that is gone; or silent, for who would go on with it."""
        gone = SessionNotFoundError("no session has this id; it may have ended, or its machine is gone")
        node = fleet.holder(gateway.now, session_id, gone, answering=request.method == "POST")
        return await gateway.lead(request, node)


def _add_streams(app: FastAPI, gateway: Gateway) -> None:
    fleet = gateway.fleet

    @leads(app, "/whip", "POST", errors=[503])
    async def publish(request: Request) -> Response:
        """To the node that is filled least, or has the stream of this name."""
        name = request.query_params.get("name", "")
        if name and not is_name(name):
            raise ParamsError("name", "takes up to 20 letters, digits, - and _")
        return await gateway.lead_new(request, lambda: fleet.publisher(gateway.now, name))

    @leads(app, "/whep/{stream}", "POST", errors=[404, 409])
    async def watch(stream: str, request: Request) -> Response:
        """To the node that has the stream. 409 with Retry-After where nothing is published under this name."""
        return await gateway.lead(request, fleet.watched(gateway.now, stream))

    @leads(app, "/whip/{connection_id}", "PATCH", "DELETE", errors=[404])
    @leads(app, "/whep/{connection_id}", "PATCH", "DELETE", errors=[404])
    async def connection(connection_id: str, request: Request) -> Response:
        """To the node that has the connection."""
        gone = SessionNotFoundError("no session has this id; it may have ended, or its machine is gone")
        return await gateway.lead(request, fleet.holder(gateway.now, connection_id, gone))


def _add_jobs(app: FastAPI, gateway: Gateway) -> None:
    fleet = gateway.fleet

    @leads(app, "/api/jobs", "GET", "POST", errors=[503])
    async def jobs(request: Request) -> Response:
        """To the node that would take most video files. Ask for its room first, and send the file straight to it."""
        return await gateway.lead(request, fleet.choose_for_job(gateway.now), large=True)

    def holder(job_id: str) -> Node:
        gone = JobNotFoundError("no job has this id; its time may be over, or its machine is gone")
        return fleet.holder(gateway.now, job_id, gone)

    @leads(app, "/api/jobs/{job_id}", "GET", "DELETE", errors=[404])
    async def job(job_id: str, request: Request) -> Response:
        """To the node that has the job."""
        return await gateway.lead(request, holder(job_id))

    @leads(app, "/api/jobs/{job_id}/result", "GET", errors=[404])
    async def result(job_id: str, request: Request) -> Response:
        """To the node that has the job, and so the restyled file."""
        return await gateway.lead(request, holder(job_id), large=True)


def _add_fleet(app: FastAPI, gateway: Gateway, preset: str) -> None:
    fleet = gateway.fleet

    @app.get("/api/cluster")
    async def show() -> FleetReply:
        """All nodes, with state and load."""
        nodes = [gateway.shown(node) for node in fleet.nodes.values()]
        return FleetReply(preset=preset, state=fleet.state(gateway.now), nodes=nodes)

    @app.post("/api/cluster/{name}/drain", status_code=202, responses={404: {"model": ErrorReply}})
    async def drain(name: str) -> NodeReply:
        """The node gets no more sessions; those that it has go elsewhere, as far as there is room for them."""
        node = fleet.node(name)
        node.draining = True
        return gateway.shown(node)

    @app.delete("/api/cluster/{name}/drain", responses={404: {"model": ErrorReply}})
    async def fill(name: str) -> NodeReply:
        """The node takes sessions again."""
        node = fleet.node(name)
        node.draining = False
        return gateway.shown(node)


def _add_presets(app: FastAPI, gateway: Gateway, presets: Sequence[dict[str, Any]], preset: str) -> None:
    @app.get("/api/presets", response_model=PresetsReply)
    async def show(request: Request) -> Response | PresetsReply:
        """What can be run, with the schemas of the parameters: as a node says, where one is ready."""
        try:
            return await gateway.ask(request, gateway.fleet.any_ready(gateway.now))
        except BusyError:
            return PresetsReply(presets=list(presets), current=preset)


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> Status:
        """200 while the process lives."""
        return Status(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={200: {"model": Status}, 503: {"model": Status}}, response_class=JSONResponse)
    async def readyz() -> JSONResponse:
        """200 where a node can open sessions, else 503 with what most is to be hoped for."""
        state = gateway.fleet.state(gateway.now)
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """For Prometheus: of the fleet. Each node has its own."""
        text = gateway.gauges.exposition(gateway.now, list(gateway.fleet.nodes.values()))
        return Response(text, headers={"Content-Type": Metrics.CONTENT_TYPE})
