"""The restyled copy of a video file, on its way from file to file: what the offline run and a job have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamgen.core import Params, PipelineSpec
from streamgen.errors import ParamsError
from streamgen.framing import fitted_size
from streamgen.mediafile import Picture, VideoReader, VideoWriter

ASKED = ("prompt", "negative_prompt", "steps", "noise", "seed", "width", "height", "fps")
"""Parameters that a copy can be asked for; the others are a live session's."""

_FPS = Params.__dataclass_fields__["fps"].metadata


def check(asked: Mapping[str, Any]) -> None:
    """Raises ParamsError for what is wrong in itself, before anything is loaded or sent."""
    if not str(asked.get("prompt", "")).strip():
        raise ParamsError("prompt", "must not be empty")
    for name in asked:
        if name not in ASKED:
            raise ParamsError(name[:40], f"unknown parameter; known are {', '.join(ASKED)}")
    Params.parse(asked)


class Rendition:
    """The copy in the making: gives the pictures to be restyled, takes the results. A context manager.

    Sound is passed along. The file takes its name when the context ends well; otherwise nothing is left of it.
    """

    def __init__(
        self, reader: VideoReader, path: Path, spec: PipelineSpec, asked: Mapping[str, Any], *, name: str = ""
    ) -> None:
        """`asked` are parameters of ASKED; `name` is what errors call the copy, its path by default.

        Raises ParamsError where the pipeline cannot run what is asked, MediaFileError where nothing can be written.
        """
        width, height = fitted_size(reader.size, spec, asked.get("width"), asked.get("height"))
        wanted: float | None = asked.get("fps")
        self._reader = reader
        self._wanted_fps = wanted
        self._rate = min(reader.rate, Fraction(wanted).limit_denominator(1001)) if wanted else reader.rate
        fps = min(max(float(self._rate), _FPS["minimum"]), _FPS["maximum"])
        self.params = spec.defaults.updated({**asked, "width": width, "height": height, "fps": fps})
        """What its frames are run with."""
        spec.check(self.params)
        self.size = width, height
        self.time_base = reader.time_base
        """Unit of the pictures' timestamps in seconds."""
        self.written = 0
        """Pictures so far."""
        self._writer = VideoWriter(path, self.size, self._rate, reader.time_base, reader.audio, name=name)

    @property
    def expected(self) -> int | None:
        """Pictures in all, as far as can be told before they were read."""
        length = self._reader.length
        return None if length is None else round(length * self._rate / self._reader.rate)

    @property
    def damaged(self) -> int:
        """Packets of the source so far that could not be decoded and were left out."""
        return self._reader.damaged

    def pictures(self) -> Iterator[Picture]:
        """Every picture to be restyled, in the order of time. To be gone through once; sound goes by meanwhile."""
        pictures = self._reader.pictures(*self.size, on_audio=self._writer.write_audio)
        return thinned(pictures, self._wanted_fps, self.time_base) if self._wanted_fps else pictures

    def write(self, picture: Picture) -> None:
        """The next result. Raises MediaFileError."""
        self._writer.write(picture)
        self.written += 1

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)


def thinned(pictures: Iterable[Picture], fps: float, time_base: Fraction) -> Iterator[Picture]:
    """At most `fps` of the pictures a second; each stays for as long as those left out behind it."""
    interval = 1 / fps
    due, end = -math.inf, 0
    kept: Picture | None = None
    for picture in pictures:
        end = picture.pts + picture.duration
        seconds = float(picture.pts * time_base)
        if seconds < due - 1e-6:
            continue
        due = interval + (due if seconds - due < interval else seconds)
        if kept is not None:
            yield replace(kept, duration=picture.pts - kept.pts)
        kept = picture
    if kept is not None:
        yield replace(kept, duration=end - kept.pts)
