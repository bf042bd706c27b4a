"""The files of one job, and the one thread that touches them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from streamgen.core import PipelineSpec
from streamgen.errors import BusyError
from streamgen.mediafile import STRANGERS, Picture, VideoReader
from streamgen.rendition import Rendition

P = ParamSpec("P")
T = TypeVar("T")

NICENESS = 10
"""Decoding and encoding of jobs give way to everything live, as their chunks do in the engine."""


RETRY_DISK_S = 60


class _GivenUpError(Exception):
    """The copy is not to be finished."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenFiles:
    """A source that is read, and its copy that is written."""

    copy: Rendition
    pictures: Iterator[Picture]


class JobFiles:
    """A private folder with the source and the copy. What blocks runs in one thread, one thing after the other.

    Raises MediaFileError, and BusyError where the disk takes no more. Names of files have nothing of the client's.
    """

    def __init__(self, kind: str, parent: Path | None = None) -> None:
        """`kind` is the copy's format: mp4, mkv or webm; `parent` is where the folder is made, by default where the
        system has temporary files.
        """
        with _stored():
            self._folder = Path(tempfile.mkdtemp(prefix="streamgen-job-", dir=parent))
        self.source = self._folder / "source"
        self.result = self._folder / f"result.{kind}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="job", initializer=_give_way)
        self._open = contextlib.ExitStack()
        self._closed = False

    async def append(self, content: bytes) -> None:
        """More of the source."""
        await self._in_thread(self._append, content)

    async def open(self, spec: PipelineSpec, asked: Mapping[str, Any]) -> OpenFiles:
        """The source is whole. Raises MediaFileError where it is no video, ParamsError."""
        return await self._in_thread(self._opened, spec, asked)

    async def read(self, files: OpenFiles, count: int) -> list[Picture]:
        """The next pictures, fewer at the end only."""
        return await self._in_thread(lambda: list(islice(files.pictures, count)))

    async def write(self, files: OpenFiles, pictures: Sequence[Picture]) -> None:
        """The next results."""
        await self._in_thread(_write, files.copy, pictures)

    async def finish(self) -> None:
        """All was written: the copy is whole afterwards, and the source is gone."""
        await self._in_thread(self._finish)

    async def close(self) -> None:
        """Nothing is left afterwards. May be called more than once."""
        if not self._closed:
            self._closed = True
            gone = self._thread.submit(self._close)
            self._thread.shutdown(wait=False)
            await asyncio.shield(asyncio.wrap_future(gone))

    def _append(self, content: bytes) -> None:
        with _stored(), self.source.open("ab") as file:
            file.write(content)

    def _opened(self, spec: PipelineSpec, asked: Mapping[str, Any]) -> OpenFiles:
        reader = self._open.enter_context(VideoReader(self.source, name="the file", options=STRANGERS))
        copy = self._open.enter_context(Rendition(reader, self.result, spec, asked, name="the result"))
        return OpenFiles(copy, copy.pictures())

    def _finish(self) -> None:
        self._open.close()
        self.source.unlink(missing_ok=True)

    def _close(self) -> None:
        with contextlib.suppress(_GivenUpError), self._open:
            raise _GivenUpError
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._thread.submit(call, *args, **kwargs))


def _write(copy: Rendition, pictures: Sequence[Picture]) -> None:
    for picture in pictures:
        copy.write(picture)


@contextlib.contextmanager
def _stored() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BusyError(f"the service cannot store the file: {error.strerror}", RETRY_DISK_S) from None


def _give_way() -> None:
    """Of this thread, and of the codecs' threads that it starts: elsewhere than on Linux it would be the process."""
    if sys.platform == "linux":
        os.nice(NICENESS)
