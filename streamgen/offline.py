"""`streamgen run`: a video file through the pipeline, every frame in and every frame out."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

import pipelines
from pipelines.streaming import StreamBatch, sequential
from streamgen import choices
from streamgen.core import Params, Pipeline, PipelineSpec, Pixels
from streamgen.errors import MediaFileError, ParamsError
from streamgen.framing import fitted_size
from streamgen.mediafile import Picture, VideoReader, VideoWriter, check_writable

Builder = Callable[..., Pipeline[Any]]
"""(preset, **choices) -> the pipeline; `pipelines.build` but in tests."""

S = TypeVar("S")

_PARAMS = ("prompt", "negative_prompt", "steps", "noise", "seed", "width", "height", "fps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `streamgen run`."""
    parser.add_argument("input", type=Path, metavar="INPUT", help="the video to restyle")
    parser.add_argument("--prompt", required=True, help="what the result should look like")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="where the result goes: .mp4, .mkv or .webm"
    )
    parser.add_argument("--preset", default="tiny", help="the pipeline (default: tiny; see streamgen models list)")
    parser.add_argument("--negative-prompt", help="what it should not look like (presets with guidance only)")
    parser.add_argument("--steps", type=int, help="denoising steps per chunk, 1 to 4")
    parser.add_argument("--noise", type=float, help="strength, 0 (keeps the source) to 1 (leaves it)")
    parser.add_argument("--seed", type=int, help="same seed and input, same output")
    parser.add_argument("--width", type=int, help="width of the result (default: the preset's size, in INPUT's shape)")
    parser.add_argument("--height", type=int, help="height of the result")
    parser.add_argument("--fps", type=float, help="take at most so many frames a second (default: every frame)")
    choices.add_arguments(parser)
    parser.add_argument("--stream-batch", action="store_true", help="denoise neighbouring chunks as one batch")


def run(args: argparse.Namespace, build: Builder = pipelines.build) -> int:
    """Carries out `streamgen run`; the exit status. Raises StreamgenError; then nothing is left of the output."""
    try:
        _restyle_file(args, build)
    except KeyboardInterrupt:
        print(f"interrupted; {args.output} was not written", file=sys.stderr)
        return 130
    return 0


def _restyle_file(args: argparse.Namespace, build: Builder) -> None:
    changes = {name: value for name in _PARAMS if (value := getattr(args, name)) is not None}
    if not args.prompt.strip():
        raise ParamsError("prompt", "must not be empty")
    chosen = choices.of(args)
    Params.parse(changes)  # what is wrong in itself is said before anything is loaded
    check_writable(args.output)
    if args.output.exists() and args.input.exists() and args.output.samefile(args.input):
        raise MediaFileError(f"{args.output} is the input itself; give the result another name")

    with VideoReader(args.input) as reader:
        pipeline = build(args.preset, **chosen)
        width, height = fitted_size(reader.size, pipeline.spec, args.width, args.height)
        rate = min(reader.rate, Fraction(args.fps).limit_denominator(1001)) if args.fps else reader.rate
        fps = min(max(float(rate), 1.0), 60.0)
        params = pipeline.spec.defaults.updated({**changes, "width": width, "height": height, "fps": fps})
        pipeline.spec.check(params)

        began = time.monotonic()
        written = 0
        with (
            VideoWriter(args.output, (width, height), rate, reader.time_base, reader.audio) as writer,
            tqdm(total=_expected(reader, rate), unit="frame", desc=args.input.name, disable=None, leave=False) as bar,
        ):
            pictures = reader.pictures(width, height, on_audio=writer.write_audio)
            if args.fps:
                pictures = thinned(pictures, args.fps, reader.time_base)
            for picture in restyled(pipeline, params, pictures, stream_batch=args.stream_batch):
                writer.write(picture)
                bar.update()
                written += 1
        took = time.monotonic() - began
        print(f"{args.output}: {written} frames, {width}x{height}, in {took:.1f} s ({written / took:.1f} frames/s)")
        if reader.damaged:
            print(f"{reader.damaged} damaged packets of {args.input} were left out", file=sys.stderr)


def _expected(reader: VideoReader, rate: Fraction) -> int | None:
    return None if reader.length is None else round(reader.length * rate / reader.rate)


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


def restyled(
    pipeline: Pipeline[Any], params: Params, pictures: Iterable[Picture], *, stream_batch: bool = False
) -> Iterator[Picture]:
    """Every picture restyled, in the same order and at the same time."""
    waiting: deque[Picture] = deque()
    state = pipeline.open(params)
    try:
        for pixels in _results(pipeline, state, _chunks(pipeline.spec, pictures, waiting), stream_batch=stream_batch):
            for result in pixels:
                source = waiting.popleft()
                yield Picture(result, source.pts, source.duration)
    finally:
        pipeline.close(state)
    assert not waiting, "a frame went in that did not come out"


def _results(pipeline: Pipeline[S], state: S, chunks: Iterable[Pixels], *, stream_batch: bool) -> Iterator[Pixels]:
    """What becomes of the chunks, in their order."""
    if not stream_batch:
        for chunk in chunks:
            yield from sequential(pipeline, [(state, chunk)])
        return
    batch = StreamBatch(pipeline)
    for chunk in chunks:
        for row in batch.advance(pipeline.encode([(state, chunk)])):
            yield from pipeline.decode([row])
    for row in batch.drain([state]):
        yield from pipeline.decode([row])


def _chunks(spec: PipelineSpec, pictures: Iterable[Picture], waiting: deque[Picture]) -> Iterator[Pixels]:
    """The pictures in chunks (T, H, W, 3), the last one as short as it comes; each is noted in `waiting`."""
    chunk: list[Pixels] = []
    wanted = spec.frames_wanted(first=True)
    for picture in pictures:
        waiting.append(picture)
        chunk.append(picture.pixels)
        if len(chunk) == wanted:
            yield np.stack(chunk)
            chunk, wanted = [], spec.frames_wanted(first=False)
    if chunk:
        yield np.stack(chunk)
