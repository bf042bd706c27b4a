"""The HTTP routes: sessions, presets, health, metrics and the live page."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from streamgen import __version__
from streamgen.errors import (
    BusyError,
    EngineError,
    IceRestartError,
    JobNotFoundError,
    MediaFileError,
    NameTakenError,
    NodeNotFoundError,
    NotDoneError,
    NotLiveError,
    OfferError,
    ParamsError,
    SessionNotFoundError,
    StreamgenError,
    TooLargeError,
    TooSlowError,
    UploadError,
)
from streamgen.gate import Gate, error_response
from streamgen.jobs import Jobs, add_jobs
from streamgen.metrics import Metrics
from streamgen.session import Session
from streamgen.turn import IceServer
from streamgen.whip import Streams, add_whip, client_of

ParamValues = dict[str, str | int | float | bool]

STATUSES: Mapping[type[StreamgenError], int] = {
    ParamsError: 422,
    OfferError: 400,
    SessionNotFoundError: 404,
    JobNotFoundError: 404,
    NodeNotFoundError: 404,
    NotDoneError: 409,
    MediaFileError: 422,
    TooLargeError: 413,
    TooSlowError: 408,
    IceRestartError: 422,
    NotLiveError: 409,
    NameTakenError: 409,
    BusyError: 503,
    EngineError: 503,
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was just opened."""

    session: Session
    sdp: str
    """The answer."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Those who watch a session beside its own client."""

    stream: str
    """What GET /watch/{stream} and POST /whep/{stream} take; only who was told it can know it."""
    viewers: int


class Backend(Streams, Protocol):
    """What the routes need of the service."""

    @property
    def state(self) -> str:
        """The engine's state; "ready" where sessions can be opened."""
        ...

    async def open(self, sdp: str, params: Mapping[str, object], client: str = "") -> Opened:
        """`client` tells whose it is. Raises OfferError, ParamsError, BusyError."""
        ...

    async def resume(self, session_id: str, sdp: str) -> Opened:
        """Goes on over another connection. Raises SessionNotFoundError, OfferError."""
        ...

    def session(self, session_id: str) -> Session:
        """Raises SessionNotFoundError."""
        ...

    def audience(self, session_id: str) -> Audience:
        """Who watches a session, and where. Raises SessionNotFoundError."""
        ...

    def is_link(self, stream: str) -> bool:
        """Whether what follows /whep/ is a secret of its own, that opens what it names without a token."""
        ...

    def presets(self) -> list[dict[str, object]]:
        """What can be run, as GET /api/presets shows it."""
        ...

    @property
    def preset(self) -> str:
        """The one that runs."""
        ...


class OpenRequest(BaseModel):
    """A client's offer."""

    sdp: str = Field(description="SDP offer with all its candidates, at most 128 KB.")
    type: Literal["offer"] = "offer"
    params: dict[str, Any] = Field(default_factory=dict, description="Session parameters; see /api/presets.")


class UpdateRequest(BaseModel):
    """Parameters to change."""

    params: dict[str, Any]


class ResumeRequest(BaseModel):
    """A client's offer of another connection for its session."""

    sdp: str = Field(description="SDP offer with all its candidates, at most 128 KB.")
    type: Literal["offer"] = "offer"


class OpenReply(BaseModel):
    """A new session."""

    id: str
    sdp: str
    type: Literal["answer"] = "answer"
    ice_servers: list[IceServer]
    state: str
    params: ParamValues
    frame_size: tuple[int, int] = Field(
        description="Width and height of the result. What was not asked for may change with the first frame, and later:"
        " it follows the source's shape. GET /api/sessions/{id} shows what holds."
    )


class Slo(BaseModel):
    """What the session is promised."""

    fps: float
    slo_ms: float


class SessionReply(BaseModel):
    """A session as it stands."""

    id: str
    state: str
    params: ParamValues
    slo: Slo
    watch: str = Field(description="Path of a page that shows the result; whoever has it needs no token.")
    viewers: int
    stats: dict[str, Any]


class UpdateReply(BaseModel):
    """Parameters, and the id of the frame from which they hold."""

    frame: int
    params: ParamValues


class PresetsReply(BaseModel):
    """What can be run, and what runs."""

    presets: list[dict[str, Any]]
    current: str


class Status(BaseModel):
    """ok, ready, or what it is doing instead."""

    status: str


class ErrorBody(BaseModel):
    """What went wrong: a stable code for programs, a line for people."""

    code: str
    message: str
    field: str | None = None


class ErrorReply(BaseModel):
    """Every error."""

    error: ErrorBody


def create_app(
    backend: Backend,
    metrics: Metrics,
    pages: Path,
    *,
    token: str | None = None,
    allowed_origins: tuple[str, ...] = (),
    jobs: Jobs | None = None,
) -> FastAPI:
    """The ASGI application; `pages` is the folder of the live page's files. Without `jobs` it takes no video files."""
    app = FastAPI(
        title="streamgen",
        version=__version__,
        description="Live video restyled by video diffusion. Media goes over WebRTC; this API opens and steers it.",
        docs_url=None,
        redoc_url=None,
        responses={400: {"model": ErrorReply}, 422: {"model": ErrorReply}},
    )
    app.add_middleware(Gate, token=token, allowed_origins=allowed_origins, is_link=backend.is_link)
    add_error_handlers(app)
    _add_sessions(app, backend)
    add_whip(app, backend)
    if jobs is not None:
        add_jobs(app, jobs, {status: {"model": ErrorReply} for status in (404, 408, 409, 413, 503)})
    _add_health(app, backend, metrics)
    add_pages(app, pages)
    return app


def _add_sessions(app: FastAPI, backend: Backend) -> None:
    @app.get("/api/presets")
    async def presets() -> PresetsReply:
        """What can be run, with the schemas of the parameters."""
        return PresetsReply(presets=backend.presets(), current=backend.preset)

    def reply(opened: Opened) -> OpenReply:
        session = opened.session
        return OpenReply(
            id=session.id,
            sdp=opened.sdp,
            ice_servers=list(backend.ice_servers_for(session.id)),
            state="queued" if session.waits else session.state,
            params=session.params.as_dict(),
            frame_size=(session.params.width, session.params.height),
        )

    created: dict[str, Any] = {"response_model_exclude_none": True, "responses": {503: {"model": ErrorReply}}}

    @app.post("/api/sessions", status_code=201, **created)
    async def open_session(request: OpenRequest, response: Response, http: Request) -> OpenReply:
        """Opens a session for an SDP offer. Where there is no room it waits: state "queued", and messages that say so.

        503 with Retry-After where too many wait, or the engine is not ready.
        """
        opened = await backend.open(request.sdp, request.params, client_of(http))
        response.headers["Location"] = f"/api/sessions/{opened.session.id}"
        return reply(opened)

    @app.post("/api/sessions/{session_id}", **created)
    async def resume_session(session_id: str, request: ResumeRequest) -> OpenReply:
        """The session goes on over another connection, for a client whose network has changed, in time."""
        return reply(await backend.resume(session_id, request.sdp))

    @app.get("/api/sessions/{session_id}", responses={404: {"model": ErrorReply}})
    async def show_session(session_id: str) -> SessionReply:
        """State, parameters, promise and live statistics."""
        session = backend.session(session_id)
        params = session.params
        stats = asdict(session.stats())
        audience = backend.audience(session_id)
        return SessionReply(
            id=session.id,
            state=session.state,
            params=params.as_dict(),
            slo=Slo(fps=params.fps, slo_ms=params.slo_ms),
            watch=f"/watch/{audience.stream}",
            viewers=audience.viewers,
            stats=stats,
        )

    @app.patch("/api/sessions/{session_id}", responses={404: {"model": ErrorReply}})
    async def update_session(session_id: str, request: UpdateRequest) -> UpdateReply:
        """Changes parameters; answers when they hold, with the id of the first frame they hold for."""
        session = backend.session(session_id)
        applied = session.update(request.params)
        params = session.params
        frame = await asyncio.shield(applied)
        return UpdateReply(frame=frame, params=params.as_dict())

    @app.delete("/api/sessions/{session_id}", status_code=204, responses={404: {"model": ErrorReply}})
    async def close_session(session_id: str) -> None:
        """Ends a session."""
        await backend.close(session_id, "closed by request")


def _add_health(app: FastAPI, backend: Backend, metrics: Metrics) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> Status:
        """200 while the process lives."""
        return Status(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={200: {"model": Status}, 503: {"model": Status}}, response_class=JSONResponse)
    async def readyz() -> JSONResponse:
        """200 where sessions can be opened, else 503 with what the engine is doing."""
        return JSONResponse({"status": backend.state}, 200 if backend.state == "ready" else 503)

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(metrics.exposition(), headers={"Content-Type": Metrics.CONTENT_TYPE})


def add_pages(app: FastAPI, pages: Path) -> None:
    """The live page, the viewers' page and the SDK, from the folder `pages`."""
    mimetypes.add_type("text/javascript", ".js")  # some systems say text/plain, and browsers refuse such modules

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return _file(pages / "index.html")

    @app.api_route("/watch/{stream}", methods=["GET", "HEAD"], include_in_schema=False)
    async def watch_page(stream: str) -> FileResponse:
        return _file(pages / "watch.html")

    @app.api_route("/sdk/streamgen.js", methods=["GET", "HEAD"], include_in_schema=False)
    async def sdk() -> FileResponse:
        return _file(pages / "streamgen.js")

    app.mount("/assets", StaticFiles(directory=pages, check_dir=False), name="assets")


def _file(path: Path) -> FileResponse:
    if not path.is_file():
        raise HTTPException(404, f"{path.name} is missing in this installation")
    return FileResponse(path)


def add_error_handlers(app: FastAPI) -> None:
    """Errors of all kinds, in the one form that they have."""

    @app.exception_handler(StreamgenError)
    async def streamgen_error(_: Request, error: StreamgenError) -> Response:
        status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
        headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, BusyError) else {}
        if isinstance(error, UploadError):
            headers["Connection"] = "close"  # what is left of the body is not waited for
        field = error.field if isinstance(error, ParamsError) else None
        return error_response(status, error.code, error.message, field, headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return error_response(400, "bad_json", "the request's body is not JSON")
        field = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return error_response(422, "bad_request", f"{field}: {first['msg']}", field)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}.get(error.status_code, "http_error")
        return error_response(error.status_code, code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def internal_error(_: Request, error: Exception) -> Response:
        return error_response(500, "internal", "internal error; the service's log says more")
