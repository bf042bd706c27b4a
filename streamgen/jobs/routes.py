"""The HTTP routes of jobs.

GET    /api/jobs              what there is room for
POST   /api/jobs              a video file -> 201; its Location takes GET and DELETE
GET    /api/jobs/{id}         how far it is
GET    /api/jobs/{id}/result  the restyled file
DELETE /api/jobs/{id}         cancels and forgets
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from streamgen.core import Params
from streamgen.errors import ParamsError
from streamgen.jobs.job import Job
from streamgen.jobs.jobs import KINDS, Jobs
from streamgen.rendition import ASKED
from streamgen.whip import client_of, params_of

_TYPES = {"mp4": "video/mp4", "mkv": "video/x-matroska", "webm": "video/webm"}


Responses = dict[int | str, dict[str, Any]]
"""As FastAPI describes them: by status."""


class JobReply(BaseModel):
    """A job as it stands."""

    id: str
    state: str = Field(description="queued, running, done, failed or cancelled.")
    position: int | None = Field(description="In the queue, 1 being the next; null where it does not wait.")
    frames_done: int
    frames_total: int | None = Field(description="An estimate until the job is done; null where the file tells none.")
    damaged: int = Field(description="Packets of the file that could not be decoded and were left out.")
    error: str | None = Field(description="Why it failed.")
    params: dict[str, str | int | float | bool]


class RoomReply(BaseModel):
    """What there is room for: to be asked before a large file is sent in vain."""

    max_upload_bytes: int = Field(description="Largest file that is taken.")
    formats: list[str] = Field(description="Of results.")
    free: int = Field(description="Jobs that would be taken now.")


def add_jobs(app: FastAPI, jobs: Jobs, errors: Responses) -> None:
    """Adds the routes. `errors` describes, for the documentation, what they answer else: a key for every status."""
    one: Responses = {404: errors[404]}

    @app.post(
        "/api/jobs",
        status_code=201,
        openapi_extra=_post_description(),
        responses={status: errors[status] for status in (408, 413, 503)},
    )
    async def submit(request: Request, response: Response) -> JobReply:
        """Restyles a video file, which is the body, beside the live sessions: it gets what they leave of the engine.

        503 with Retry-After where there are as many jobs as the service takes, or the engine is not ready; 413 where
        the file is too large, 408 where it comes too slowly, 422 where it is no video.
        """
        query = dict(request.query_params)
        kind = query.pop("format", KINDS[0])
        asked = params_of(query)
        for name in query:
            if name not in asked:
                raise ParamsError(name[:40], f"unknown parameter; known are {', '.join((*ASKED, 'format'))}")
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isdecimal() and len(length) < 16 else None
        job = await jobs.submit(asked, kind, request.stream(), announced=announced, client=client_of(request))
        if await request.is_disconnected():
            await jobs.cancel(job.id)
        response.headers["Location"] = f"/api/jobs/{job.id}"
        return _reply(job)

    @app.get("/api/jobs")
    async def room() -> RoomReply:
        """What there is room for."""
        return RoomReply(max_upload_bytes=jobs.most_bytes, formats=list(KINDS), free=jobs.free)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody is there to read it

    @app.get("/api/jobs/{job_id}", responses=one)
    async def show(job_id: str) -> JobReply:
        """How far it is."""
        return _reply(jobs.job(job_id))

    @app.get(
        "/api/jobs/{job_id}/result",
        response_class=FileResponse,
        responses={200: {"content": {kind: {} for kind in _TYPES.values()}}, 409: errors[409], **one},
    )
    async def result(job_id: str) -> FileResponse:
        """The restyled file. 409 while the job is not done."""
        path = jobs.result(job_id)
        kind = path.suffix.removeprefix(".")
        return FileResponse(path, media_type=_TYPES[kind], filename=path.name)

    @app.delete("/api/jobs/{job_id}", status_code=204, responses=one)
    async def forget(job_id: str) -> None:
        """Cancels the job where it is not over, and forgets it with its result."""
        await jobs.cancel(job_id)


def _reply(job: Job) -> JobReply:
    return JobReply(
        id=job.id,
        state=job.state,
        position=job.position,
        frames_done=job.frames_done,
        frames_total=job.frames_total,
        damaged=job.damaged,
        error=job.error or None,
        params={name: value for name, value in job.params.as_dict().items() if name in ASKED},
    )


def _post_description() -> dict[str, Any]:
    """What a POST takes, for the documentation: its query is read by hand, as unknown names are errors."""
    schema: Any = Params().schema()["properties"]
    shown = {name: {key: value for key, value in schema[name].items() if key != "default"} for name in ASKED}
    shown["format"] = {"type": "string", "enum": list(KINDS), "default": KINDS[0], "description": "Of the result."}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": name == "prompt", "schema": its} for name, its in shown.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    }
