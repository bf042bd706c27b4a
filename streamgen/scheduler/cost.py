"""What the engine's work costs: for each stage and shape a fixed part and a part per row, fitted to what it took.

    seconds of a stage = fixed x calls + per row x rows

Pure values: an observation gives a new model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from streamgen.engine.work import StageTimes

Stage = Literal["transfer", "encode", "denoise", "decode"]

STAGES: tuple[Stage, ...] = ("transfer", "encode", "denoise", "decode")

MAX_SHAPES = 64
"""Shapes that are remembered; those seen longest ago are forgotten first."""

STEP = 0.15
"""Share of an observation's error that the fit takes over."""

ERROR_STEP = 0.1
"""Share of the newest error in the average that the model states of itself."""

OUTLIER = 4.0
"""Errors count up to so many times the usual one: a hiccup moves little, a lasting change all the same."""

UNSEEN_ERROR = 0.25
"""What is added to the stated error of a shape that was not seen yet: its costs come from another's."""

LEAST_ERROR = 0.02
SEEDING_ROUNDS = 200


class Shape(NamedTuple):
    """What the cost of a chunk's row depends on, beside its steps."""

    frames: int
    """Of the chunk."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    vae: str = "full"

    @property
    def work(self) -> int:
        """Pixels of the chunk: what costs grow with, from one shape to another."""
        return self.frames * self.width * self.height


@dataclass(frozen=True, slots=True)
class Line:
    """The cost of one stage at one shape."""

    fixed: float
    """Seconds per call."""
    row: float
    """Seconds per row."""
    error: float = UNSEEN_ERROR
    """Mean of |observed - estimated| / estimated, lately."""
    seen: int = 0

    def seconds(self, calls: int, rows: int) -> float:
        """What `rows` rows in `calls` calls take."""
        return self.fixed * calls + self.row * rows

    def observed(self, calls: int, rows: int, seconds: float) -> Line:
        """The line after one more observation.

        Moves along (calls, rows) alone, by normalised least mean squares: what the observations do not tell apart (the
        two parts, where every batch has the same size) stays as it was known.
        """
        expected = max(self.seconds(calls, rows), 1e-9)
        error = abs(seconds - expected) / expected
        usual = max(self.error, LEAST_ERROR)
        taken = min(error, OUTLIER * usual)
        signed = taken * expected * (1 if seconds > expected else -1)
        moved = self._moved(calls, rows, signed, max(STEP, 1 / (self.seen + 1)))
        return replace(moved, error=self.error + ERROR_STEP * (taken - self.error), seen=self.seen + 1)

    def _moved(self, calls: int, rows: int, error: float, step: float) -> Line:
        share = step * error / (calls * calls + rows * rows)
        return _line(self, self.fixed + share * calls, self.row + share * rows, calls, rows)

    def through(self, observations: Iterable[tuple[int, int, float]]) -> Line:
        """The line through (calls, rows, seconds) that were measured carefully; between them where they disagree."""
        known = list(observations)
        line = self
        for _ in range(SEEDING_ROUNDS):
            for calls, rows, seconds in known:
                line = line._moved(calls, rows, seconds - line.seconds(calls, rows), 1.0)
        return replace(line, error=max(LEAST_ERROR, 0.1), seen=len(known))


def _line(before: Line, fixed: float, row: float, calls: int, rows: int) -> Line:
    """Neither part is negative: what one would lack, the other gives."""
    if fixed < 0:
        fixed, row = 0.0, max(0.0, row + fixed * calls / rows)
    elif row < 0:
        fixed, row = max(0.0, fixed + row * rows / calls), 0.0
    return replace(before, fixed=fixed, row=row)


class Rates(NamedTuple):
    """The lines of a shape in the form that plans need: seconds, per batch (`call`) and per chunk (`row`)."""

    before_call: float
    """What comes before denoising: encoding, and the way there."""
    before_row: float
    step_call: float
    """Of one step: per call of the denoiser, per row in it."""
    step_row: float
    after_call: float
    """What comes after it: decoding, and the way back."""
    after_row: float
    error: float
    """Stated relative error."""

    def stages(self, chunks: int, calls: int, rows: int) -> tuple[float, float, float]:
        """A batch before, in, and after the denoiser."""
        return (
            self.before_call + self.before_row * chunks,
            self.step_call * calls + self.step_row * rows,
            self.after_call + self.after_row * chunks,
        )

    def batch(self, chunks: int, calls: int, rows: int) -> float:
        """A batch, all stages one after the other."""
        return sum(self.stages(chunks, calls, rows))

    def sequential(self, steps: int) -> float:
        """One chunk by itself, all its steps in a row."""
        return self.batch(1, steps, steps)


class Costs(NamedTuple):
    """Seconds of a batch by stage."""

    transfer: float
    encode: float
    denoise: float
    decode: float

    @property
    def total(self) -> float:
        """All stages, one after the other."""
        return self.transfer + self.encode + self.denoise + self.decode


Key = tuple[Stage, Shape]


@dataclass(frozen=True, slots=True)
class CostModel:
    """The lines of all stages and shapes seen."""

    lines: Mapping[Key, Line] = field(default_factory=dict)
    _rates: dict[Shape, Rates] = field(default_factory=dict, compare=False, repr=False)

    @property
    def error(self) -> float:
        """Mean relative error that is stated of all that was seen; 0 where nothing was."""
        seen = [line.error for line in self.lines.values()]
        return sum(seen) / len(seen) if seen else 0.0

    def line(self, stage: Stage, shape: Shape) -> Line:
        """Of a shape not seen yet: another's, rows in proportion to their pixels, with a larger error; 0 of none."""
        key = _key(stage, shape)
        known = self.lines.get(key)
        if known is not None:
            return known
        others = [(other, line) for (its, other), line in self.lines.items() if its == stage]
        if not others:
            return Line(0.0, 0.0)
        wanted = key[1]
        nearest, line = min(others, key=lambda it: (it[0].vae != wanted.vae, abs(it[0].work - wanted.work)))
        return Line(line.fixed, line.row * wanted.work / nearest.work, line.error + UNSEEN_ERROR)

    def rates(self, shape: Shape) -> Rates:
        """All lines of `shape` together."""
        known = self._rates.get(shape)
        if known is None:
            known = self._rates[shape] = self._rates_of(shape)
        return known

    def costs(self, shape: Shape, chunks: int, calls: int, rows: int) -> Costs:
        """A batch of `chunks` chunks, with `rows` rows in `calls` denoising calls."""
        work = {"transfer": (1, chunks), "encode": (1, chunks), "denoise": (calls, rows), "decode": (1, chunks)}
        return Costs(*(self.line(stage, shape).seconds(*work[stage]) for stage in STAGES))

    def observed(self, shape: Shape, times: StageTimes) -> CostModel:
        """The model after a batch of chunks of `shape`."""
        return self._with((stage, shape, work) for stage, work in _work(times).items())

    def seeded(self, measured: Iterable[tuple[Shape, StageTimes]]) -> CostModel:
        """The model with lines through what was `measured` by itself, in the place of what it knew of these shapes."""
        collected: dict[Key, list[tuple[int, int, float]]] = {}
        for shape, times in measured:
            for stage, work in _work(times).items():
                collected.setdefault(_key(stage, shape), []).append(work)
        seeds = {key: Line(0.0, 0.0).through(work) for key, work in collected.items()}
        return CostModel({**self.lines, **seeds})

    def _rates_of(self, shape: Shape) -> Rates:
        transfer, encode, denoise, decode = (self.line(stage, shape) for stage in STAGES)
        rest = (transfer, encode, decode)
        parts = [(line.seconds(1, 1), line.error) for line in rest] + [(denoise.seconds(2, 2), denoise.error)]
        whole = sum(seconds for seconds, _ in parts)
        error = sum(seconds * error for seconds, error in parts) / whole if whole else UNSEEN_ERROR
        return Rates(
            encode.fixed + transfer.fixed / 2,
            encode.row + transfer.row / 2,
            denoise.fixed,
            denoise.row,
            decode.fixed + transfer.fixed / 2,
            decode.row + transfer.row / 2,
            error,
        )

    def _with(self, observations: Iterable[tuple[Stage, Shape, tuple[int, int, float]]]) -> CostModel:
        lines = dict(self.lines)
        for stage, shape, (calls, rows, seconds) in observations:
            key = _key(stage, shape)
            line = lines.pop(key, None) or self._begun(stage, shape, calls, rows, seconds)
            lines[key] = line.observed(calls, rows, seconds)
        surplus = len(lines) - MAX_SHAPES * len(STAGES)
        return CostModel(dict(list(lines.items())[max(0, surplus) :]))

    def _begun(self, stage: Stage, shape: Shape, calls: int, rows: int, seconds: float) -> Line:
        """A first line: in the proportions of the nearest one, through what was seen now."""
        line = self.line(stage, shape)
        expected = line.seconds(calls, rows)
        if expected <= 0:
            return Line(0.0, seconds / rows)
        scale = seconds / expected
        return Line(line.fixed * scale, line.row * scale, max(line.error - UNSEEN_ERROR, LEAST_ERROR))


UNKNOWN = CostModel()
"""Before anything was seen: nothing costs anything."""


def _work(times: StageTimes) -> dict[Stage, tuple[int, int, float]]:
    """(calls, rows, seconds) of each stage that had something to do: of the others nothing was seen."""
    work: dict[Stage, tuple[int, int, float]] = {
        "transfer": (1, times.chunks, times.transfer),
        "encode": (1, times.chunks, times.encode),
        "denoise": (times.calls, times.rows, times.denoise),
        "decode": (1, times.decoded, times.decode),
    }
    return {stage: seen for stage, seen in work.items() if seen[1] > 0 and seen[2] > 0}


def _key(stage: Stage, shape: Shape) -> Key:
    """Denoising takes one latent frame whatever the chunk was, and whatever makes pictures of it."""
    return (stage, shape._replace(frames=1, vae="full")) if stage == "denoise" else (stage, shape)
