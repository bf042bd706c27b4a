"""Video files that a service restyles: the HTTP interface of its jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamgen.client.api import Api, refusal
from streamgen.errors import MediaFileError

BLOCK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class JobState:
    """How far a job is."""

    id: str
    state: str
    """queued, running, done, failed or cancelled."""
    position: int | None
    """In the queue, 1 being the next."""
    frames_done: int
    frames_total: int | None
    """An estimate until the job is done; None where the file tells none."""
    damaged: int
    """Packets of the file that could not be decoded and were left out."""
    error: str
    """Why it failed."""
    params: Mapping[str, object]
    """What its frames are run with."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a service has room for."""

    most_bytes: int
    """Of a file."""
    free: int
    """Jobs that it would take now."""


class JobApi(Api):
    """As Api. Everything raises ConnectError and ServiceError."""

    _jobs = "/api/jobs"
    """Where they are: at the machine that told of its room, where that is one of several."""

    async def room(self) -> Room:
        """To be asked before a large file is sent in vain, or to a machine that only leads to others."""
        response = await self._send("GET", "/api/jobs")
        body = self._json(response)
        self._jobs = str(response.url)
        try:
            return Room(int(body["max_upload_bytes"]), int(body["free"]))
        except (KeyError, ValueError, TypeError) as error:
            raise self._no_streamgen(error) from None

    async def submit(
        self, path: Path, params: Mapping[str, object], kind: str, sent: Callable[[int], object] = lambda count: None
    ) -> JobState:
        """Sends a video file; `kind` is the result's format: mp4, mkv or webm. `sent` is told of bytes on their way.

        Raises MediaFileError where the file cannot be read.
        """
        size = (await asyncio.to_thread(path.stat)).st_size
        with self._reported():
            response = await self._http.post(
                self._jobs,
                params={**{name: str(value) for name, value in params.items()}, "format": kind},
                headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
                content=_content(path, sent),
            )
        return self._state(self._json(response))

    async def job(self, job_id: str) -> JobState:
        """How far it is."""
        return self._state(await self._request("GET", f"{self._jobs}/{job_id}"))

    async def fetch(self, job_id: str, path: Path) -> None:
        """Writes the result to `path`. Raises OSError where that cannot be."""
        with await asyncio.to_thread(path.open, "wb") as file, self._reported():
            async with self._http.stream("GET", f"{self._jobs}/{job_id}/result") as response:
                if not response.is_success:
                    await response.aread()
                    raise refusal(response)
                async for block in response.aiter_raw(BLOCK_BYTES):
                    await asyncio.to_thread(file.write, block)

    async def forget(self, job_id: str) -> None:
        """Cancels the job where it is not over; its result is deleted there."""
        await self._request("DELETE", f"{self._jobs}/{job_id}")

    def _state(self, body: Any) -> JobState:
        try:
            return JobState(
                str(body["id"]),
                str(body["state"]),
                body["position"],
                int(body["frames_done"]),
                body["frames_total"],
                int(body["damaged"]),
                body["error"] or "",
                dict(body["params"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise self._no_streamgen(error) from None


async def _content(path: Path, sent: Callable[[int], object]) -> AsyncIterator[bytes]:
    try:
        with await asyncio.to_thread(path.open, "rb") as file:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                yield block
                sent(len(block))
    except OSError as error:
        raise MediaFileError(f"{path} cannot be read: {error.strerror}") from None
