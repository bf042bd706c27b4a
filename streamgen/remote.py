"""`streamgen run --url`: a video file through a running service, beside its live sessions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from tqdm import tqdm

from streamgen.client.jobs import JobApi, JobState
from streamgen.errors import ConnectError, MediaFileError, ServiceError, StreamgenError
from streamgen.mediafile import unfinished

POLL_S = 0.5

TRIES = 10
"""A service that cannot be reached is asked as often before it is given up."""

TIMEOUT_S = 60.0
"""Of a request; the answer to an upload comes when the file was looked into."""

FAREWELL_S = 5.0
"""A job that is not wanted any more is cancelled within this time, or left to the service."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be done, and where."""

    url: str
    token: str | None
    source: Path
    target: Path
    asked: Mapping[str, object]
    """Parameters."""


def restyle(errand: Errand, transport: httpx.AsyncBaseTransport | None = None) -> None:
    """Sends the file, waits, writes the result. `transport` replaces HTTP in tests.

    Raises StreamgenError, KeyboardInterrupt; then the job is cancelled, and nothing is left of the result.
    """
    asyncio.run(_restyle(errand, transport))


async def _restyle(errand: Errand, transport: httpx.AsyncBaseTransport | None) -> None:
    if not errand.source.is_file():
        raise MediaFileError(f"there is no file {errand.source}")
    began = time.monotonic()
    api = JobApi(errand.url, errand.token, TIMEOUT_S, transport)
    try:
        with _explained():
            job = await _send(api, errand)
            try:
                job = await _follow(api, job, errand.source.name)
                await _fetch(api, job.id, errand.target)
            finally:
                with contextlib.suppress(StreamgenError, TimeoutError):
                    async with asyncio.timeout(FAREWELL_S):
                        await api.forget(job.id)
    finally:
        await api.close()
    took, count = time.monotonic() - began, job.frames_done
    size = f"{job.params['width']}x{job.params['height']}"
    print(f"{errand.target}: {count} frames, {size}, in {took:.1f} s ({count / took:.1f} frames/s)")
    if job.damaged:
        print(f"{job.damaged} damaged packets of {errand.source} were left out", file=sys.stderr)


async def _send(api: JobApi, errand: Errand) -> JobState:
    """Raises ServiceError where there is no room for it, before it is sent."""
    size, room = errand.source.stat().st_size, await api.room()
    if size > room.most_bytes:
        bound = f"{room.most_bytes / 1e6:g} MB at most; see its --max-upload-mb"
        raise ServiceError(f"{errand.source} has {size / 1e6:.0f} MB, and the service takes {bound}")
    if not room.free:
        raise ServiceError("the service has as many jobs as it takes; try again later")
    with tqdm(total=size, unit="B", unit_scale=True, desc="sending", disable=None, leave=False) as bar:
        return await api.submit(errand.source, errand.asked, errand.target.suffix.lower().lstrip("."), bar.update)


async def _follow(api: JobApi, job: JobState, name: str) -> JobState:
    """Until it is done. Raises ServiceError where it will not be."""
    with tqdm(total=job.frames_total, unit="frame", desc=name, disable=None, leave=False) as bar:
        while job.state in ("queued", "running"):
            bar.set_description_str(f"{name}: in the queue, position {job.position}" if job.position else name)
            bar.total = job.frames_total
            bar.update(job.frames_done - bar.n)
            await asyncio.sleep(POLL_S)
            job = await _patiently(api, job.id)
    if job.state != "done":
        raise ServiceError(f"the service could not restyle {name}: {job.error or f'the job was {job.state}'}")
    return job


async def _patiently(api: JobApi, job_id: str) -> JobState:
    """How far it is, over a network that may fail for a while."""
    for _ in range(TRIES - 1):
        try:
            return await api.job(job_id)
        except ConnectError:
            await asyncio.sleep(POLL_S)
    return await api.job(job_id)


async def _fetch(api: JobApi, job_id: str, target: Path) -> None:
    part = unfinished(target)
    try:
        await api.fetch(job_id, part)
        part.replace(target)
    except OSError as error:
        raise MediaFileError(f"{target} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Refusals in the words of the command line."""
    try:
        yield
    except ServiceError as error:
        if error.status == httpx.codes.UNAUTHORIZED:
            raise ServiceError("the service asks for its token: pass it with --token, or set STREAMGEN_TOKEN") from None
        if error.status == httpx.codes.NOT_FOUND and error.reason == "not_found":
            raise ServiceError("there is no service at this address that takes video files; see --max-jobs") from None
        raise


def token_of(given: str | None) -> str | None:
    """What was given, or else what the environment says."""
    return given or os.environ.get("STREAMGEN_TOKEN") or None
