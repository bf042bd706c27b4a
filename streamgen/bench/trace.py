"""Which sessions come when: a constant load, a ramp, or a trace from a file.

A trace is CSV with a header, or a JSON list of objects; one session each, in any order:

    start_s,seconds,fps,width,height,slo_ms,prompt
    0,30,16,320,192,800,a pencil drawing
    2.5,20,12,256,144,,neon

start_s is when the session comes (s, from the run's start), seconds how long it sends from then on. Every further
column is a session parameter. What is empty or has no column is as the command line says.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from streamgen.bench.barcode import MIN_WIDTH
from streamgen.core import Params
from streamgen.errors import ConfigError, ParamsError

MIN_HEIGHT = 64
MOST_SESSIONS = 1000

_TIMES = ("start_s", "seconds")
_OURS = frozenset({"stamp"})
"""Parameters that the benchmark sets itself."""
_KINDS: dict[str, type] = {f.name: type(f.default) for f in fields(Params) if f.name not in _OURS}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One session of a run."""

    seconds: float
    """How long frames are sent."""
    fps: float
    width: int
    height: int
    start_s: float = 0.0
    """When it comes, since the run's start."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Further session parameters: prompt, steps, noise, slo_ms, ..."""

    @property
    def slo_ms(self) -> float | None:
        """Its latency budget; None where none was asked for, and for batches, which have none."""
        return None if self.params.get("priority") == "batch" else self.params.get("slo_ms")

    def with_values(self, values: Mapping[str, Any]) -> Arrival:
        """This one with `values` of a trace. Raises ConfigError, ParamsError."""
        own = {name: getattr(self, name) for name in ("seconds", "fps", "width", "height", "start_s")}
        own |= {name: value for name, value in values.items() if name in own}
        if not 0 <= own["start_s"] < math.inf:
            raise ConfigError(f"start_s must be at least 0, not {own['start_s']:g}")
        if not 0 < own["seconds"] < math.inf:
            raise ConfigError(f"seconds must be above 0, not {own['seconds']:g}")
        check_size(own["width"], own["height"])
        further = {name: value for name, value in values.items() if name not in own}
        Params.parse({name: value for name, value in values.items() if name not in _TIMES})
        return Arrival(**own, params={**self.params, **further})


def check_size(width: int, height: int) -> None:
    """Raises ConfigError where a stamp would not fit."""
    if width < MIN_WIDTH:
        raise ConfigError(f"width must be at least {MIN_WIDTH}, not {width}: the barcode needs the room")
    if height < MIN_HEIGHT:
        raise ConfigError(f"height must be at least {MIN_HEIGHT}, not {height}")


def constant(like: Arrival, sessions: int) -> tuple[Arrival, ...]:
    """All at once."""
    return (like,) * sessions


def ramp(like: Arrival, sessions: int, apart_s: float | None = None) -> tuple[Arrival, ...]:
    """One after the other, `apart_s` apart, and in the same order they end, all within `like.seconds`.

    Without `apart_s` they come spread over the first half, and go over the second. Raises ConfigError where the last
    would come when the first is to go.
    """
    if apart_s is None:
        apart_s = like.seconds / 2 / max(1, sessions - 1)
    stay = like.seconds - apart_s * (sessions - 1)
    if stay <= 0:
        raise ConfigError(f"{sessions} sessions {apart_s:g} s apart do not fit into {like.seconds:g} s")
    return tuple(
        Arrival(stay, like.fps, like.width, like.height, apart_s * number, like.params) for number in range(sessions)
    )


def read_trace(file: Path, like: Arrival) -> tuple[Arrival, ...]:
    """The sessions of a trace; what it leaves open is as in `like`. Raises ConfigError that names file and line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is no text in UTF-8") from None
    entries = _json_entries(file, text) if text.lstrip()[:1] in ("[", "{") else _csv_entries(file, text)
    arrivals = []
    for line, entry in entries:
        try:
            arrivals.append(like.with_values(_typed(entry)))
        except (ConfigError, ParamsError) as error:
            raise ConfigError(f"{file}:{line}: {error}") from None
    if not 1 <= len(arrivals) <= MOST_SESSIONS:
        raise ConfigError(f"{file} holds {len(arrivals)} sessions; from 1 to {MOST_SESSIONS} can be replayed")
    return tuple(arrivals)


def _typed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one session with the types of their parameters; empty ones are left out. Raises ConfigError."""
    values = {}
    for name, value in entry.items():
        kind = float if name in _TIMES else _KINDS.get(name)
        if kind is None:
            raise ConfigError(f"unknown column {str(name)[:40]!r}; known are {', '.join([*_TIMES, *_KINDS])}")
        if value is None or value == "":
            continue
        try:
            values[name] = _CONVERSIONS[kind](value)
        except (TypeError, ValueError):
            raise ConfigError(f"{name}: {str(value)[:40]!r} is no {_CALLED[kind]}") from None
    return values


def _number(value: object) -> float:
    """Raises ValueError, also for True and False."""
    return float(str(value))


def _whole(value: object) -> int:
    """Raises ValueError."""
    number = _number(value)
    if not number.is_integer():
        raise ValueError(value)
    return int(number)


def _text(value: object) -> str:
    """Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError
    return value


_CONVERSIONS: dict[type, Callable[[object], Any]] = {float: _number, int: _whole, str: _text}
_CALLED = {float: "number", int: "whole number", str: "text"}


def _csv_entries(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.reader(io.StringIO(text), strict=True, skipinitialspace=True)
    header: list[str] = []
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
                if len(set(header)) < len(header):
                    raise ConfigError(f"{file}:{rows.line_num}: a column comes twice")
                continue
            if len(row) != len(header):
                raise ConfigError(f"{file}:{rows.line_num}: {len(row)} cells under a header of {len(header)}")
            yield rows.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))
    except csv.Error as error:
        raise ConfigError(f"{file}:{rows.line_num}: {error}") from None


def _json_entries(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each with the line it begins in."""
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: no JSON ({error.msg})") from None
    except RecursionError:
        raise ConfigError(f"{file}:1: no list of sessions") from None
    if not isinstance(entries, list):
        raise ConfigError(f"{file}:1: the trace must be a list of objects")
    decoder, place = json.JSONDecoder(), text.index("[") + 1
    for entry in entries:
        while text[place] in " \t\r\n,":
            place += 1
        line = text.count("\n", 0, place) + 1
        place = decoder.raw_decode(text, place)[1]
        if not isinstance(entry, dict):
            raise ConfigError(f"{file}:{line}: a session must be an object")
        yield line, entry
