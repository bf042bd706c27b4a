"""`streamgen run`: a video file through the pipeline, every frame in and every frame out."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

import pipelines
from pipelines.streaming import StreamBatch, sequential
from streamgen import choices, remote
from streamgen.core import Params, Pipeline, PipelineSpec, Pixels
from streamgen.errors import ConfigError, MediaFileError
from streamgen.mediafile import Picture, VideoReader, check_writable
from streamgen.rendition import ASKED, Rendition, check

Builder = Callable[..., Pipeline[Any]]
"""(preset, **choices) -> the pipeline; `pipelines.build` but in tests."""

S = TypeVar("S")

DEFAULT_PRESET = "tiny"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `streamgen run`."""
    parser.add_argument("input", type=Path, metavar="INPUT", help="the video to restyle")
    parser.add_argument("--prompt", required=True, help="what the result should look like")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="where the result goes: .mp4, .mkv or .webm"
    )
    parser.add_argument("--preset", help=f"the pipeline (default: {DEFAULT_PRESET}; see streamgen models list)")
    parser.add_argument("--negative-prompt", help="what it should not look like (presets with guidance only)")
    parser.add_argument("--steps", type=int, help="denoising steps per chunk, 1 to 4")
    parser.add_argument("--noise", type=float, help="strength, 0 (keeps the source) to 1 (leaves it)")
    parser.add_argument("--seed", type=int, help="same seed and input, same output")
    parser.add_argument("--width", type=int, help="width of the result (default: the preset's size, in INPUT's shape)")
    parser.add_argument("--height", type=int, help="height of the result")
    parser.add_argument("--fps", type=float, help="take at most so many frames a second (default: every frame)")
    choices.add_arguments(parser)
    parser.add_argument("--stream-batch", action="store_true", help="denoise neighbouring chunks as one batch")
    parser.add_argument("--url", help="have a running service do it, beside its live sessions, with its own preset")
    parser.add_argument("--token", help="the service's bearer token (default: $STREAMGEN_TOKEN)")


def run(args: argparse.Namespace, build: Builder = pipelines.build) -> int:
    """Carries out `streamgen run`; the exit status. Raises StreamgenError; then nothing is left of the output."""
    try:
        asked = _asked(args)
        if args.url is None:
            _restyle_file(args, asked, build)
        else:
            remote.restyle(remote.Errand(args.url, remote.token_of(args.token), args.input, args.output, asked))
    except KeyboardInterrupt:
        print(f"interrupted; {args.output} was not written", file=sys.stderr)
        return 130
    return 0


def _restyle_file(args: argparse.Namespace, asked: dict[str, Any], build: Builder) -> None:
    chosen = choices.of(args)
    with VideoReader(args.input) as reader:
        pipeline = build(args.preset or DEFAULT_PRESET, **chosen)
        began = time.monotonic()
        with (
            Rendition(reader, args.output, pipeline.spec, asked) as copy,
            tqdm(total=copy.expected, unit="frame", desc=args.input.name, disable=None, leave=False) as bar,
        ):
            for picture in restyled(pipeline, copy.params, copy.pictures(), stream_batch=args.stream_batch):
                copy.write(picture)
                bar.update()
        took = time.monotonic() - began
        count, (width, height) = copy.written, copy.size
        print(f"{args.output}: {count} frames, {width}x{height}, in {took:.1f} s ({count / took:.1f} frames/s)")
        if copy.damaged:
            print(f"{copy.damaged} damaged packets of {args.input} were left out", file=sys.stderr)


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters that were asked for. Raises StreamgenError where they, the files or the options cannot be."""
    if args.url is not None:
        there = ["--preset"] * (args.preset is not None) + choices.chosen(args) + ["--stream-batch"] * args.stream_batch
        if there:
            raise ConfigError(f"{', '.join(there)} cannot go with --url: the service has a preset and a device already")
    elif args.token is not None:
        raise ConfigError("--token goes with --url")
    asked = {name: value for name in ASKED if (value := getattr(args, name)) is not None}
    check(asked)
    check_writable(args.output)
    if args.output.exists() and args.input.exists() and args.output.samefile(args.input):
        raise MediaFileError(f"{args.output} is the input itself; give the result another name")
    return asked


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
