from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC, FakePipeline, Fault
from pipelines.fake import restyle as fake_restyle
from streamgen.cli import main
from streamgen.core import Params, Pipeline
from streamgen.errors import StreamgenError, WeightsError
from streamgen.mediafile import Picture
from streamgen.offline import add_arguments, restyled, run
from tests.support.clips import make_clip


def build_fake(*_: object, **__: object) -> Pipeline[Any]:
    return FakePipeline(replace(FAKE_SPEC, first_chunk_frames=1))


def streamgen_run(*argv: str | Path, build: Any = build_fake) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(arg) for arg in argv]), build)


def pictures(times: range, size: tuple[int, int] = (64, 64)) -> Iterator[Picture]:
    for ms in times:
        yield Picture(np.full((size[1], size[0], 3), ms % 251, np.uint8), ms, times.step)


def test_every_frame_in_is_a_frame_out_at_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = [0, 40, 50, 400, 410, 900, 1000, 1100, 1150, 1200]
    clip, out = make_clip(tmp_path / "in.mkv", times, audio="aac"), tmp_path / "out.mkv"
    assert streamgen_run(clip, "--prompt", "ink", "-o", out) == 0
    with av.open(out) as container:
        assert [round(frame.time * 1000) for frame in container.decode(video=0)] == times
        assert container.streams.audio[0].codec_context.name == "aac"
    captured = capsys.readouterr()
    assert f"{out}: 10 frames, " in captured.out
    assert captured.err == ""


def test_options_reach_the_pipeline(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Watched(FakePipeline):
        def open(self, params: Params) -> Any:
            seen.append(params)
            return super().open(params)

    def build(*args: object, **choices: object) -> Pipeline[Any]:
        seen.append((*args, choices["device"], choices["threads"], choices["attention"]))
        return Watched()

    clip = make_clip(tmp_path / "in.mp4")
    options = "--attention sdpa --preset other --steps 3 --seed 7 --noise 0.3 --width 128 --height 96"
    options += " --device cpu --threads 2"
    assert streamgen_run(clip, "--prompt", "ink", "-o", tmp_path / "out.mp4", *options.split(), build=build) == 0
    assert seen[0] == ("other", "cpu", 2, "sdpa")
    assert seen[1] == Params(prompt="ink", steps=3, seed=7, noise=0.3, width=128, height=96, fps=10.0)


@pytest.mark.parametrize("stream_batch", [False, True])
@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_results_come_in_order_and_are_those_of_the_pipeline(count: int, stream_batch: bool) -> None:
    params = Params(prompt="ink", steps=3, width=64, height=64)
    source = list(pictures(range(0, count * 10, 10)))
    results = list(restyled(build_fake("", "", 0), params, source, stream_batch=stream_batch))
    assert [(p.pts, p.duration) for p in results] == [(p.pts, p.duration) for p in source]
    for index, (before, after) in enumerate(zip(source, results, strict=True)):
        chunk = (index + 3) // 4  # a first chunk of one frame, then of four
        assert np.array_equal(after.pixels, fake_restyle(before.pixels, params, chunk))


def test_the_stream_state_is_closed_when_the_run_is_cut_short() -> None:
    closed: list[object] = []

    class Watched(FakePipeline):
        def close(self, state: Any) -> None:
            closed.append(state)
            super().close(state)

    results = restyled(Watched(), Params(width=64, height=64), pictures(range(0, 100, 10)))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(closed) == 1


def refused(tmp_path: Path, *argv: str | Path, build: Any = build_fake) -> str:
    """The message of the error; nothing must be left in the folder but what was there."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StreamgenError) as caught:
        streamgen_run(*argv, build=build)
    assert sorted(tmp_path.iterdir()) == before
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "prompt: must not be empty"),
        (["--prompt", "  "], "prompt: must not be empty"),
        (["--prompt", "a" * 100_000], "prompt: is 100000 characters long; at most 2000"),
        (["--prompt", "ink", "--steps", "9"], "steps: must be from 1 to 4"),
        (["--prompt", "ink", "--noise", "nan"], "noise: must be from 0"),
        (["--prompt", "ink", "--width", "100"], "width: must be a multiple of 16"),
        (["--prompt", "ink", "--width", "1920", "--height", "1920"], "over this preset's"),
        (["--prompt", "ink", "--fps", "0"], "fps: must be from 1.0"),
        (["--prompt", "ink", "--threads", "-1"], "--threads must not be negative"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    assert message in refused(tmp_path, clip, "-o", tmp_path / "out.mp4", *options)


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    clip, text = make_clip(tmp_path / "in.mp4"), tmp_path / "text.mp4"
    text.write_text("no video")
    prompt = ("--prompt", "ink")
    out = tmp_path / "out.mp4"
    assert "cannot be read as a video" in refused(tmp_path, text, *prompt, "-o", out)
    assert "there is no file" in refused(tmp_path, tmp_path / "none.mp4", *prompt, "-o", out)
    assert "is the input itself" in refused(tmp_path, clip, *prompt, "-o", clip)
    assert "no folder" in refused(tmp_path, clip, *prompt, "-o", tmp_path / "no" / "out.mp4")
    assert "must end in .mp4" in refused(tmp_path, clip, *prompt, "-o", tmp_path / "out.avi")


def test_a_link_to_the_input_is_the_input(tmp_path: Path) -> None:
    clip, link = make_clip(tmp_path / "in.mp4"), tmp_path / "link.mp4"
    link.hardlink_to(clip)
    assert "is the input itself" in refused(tmp_path, clip, "--prompt", "ink", "-o", link)


def test_weights_that_do_not_load_are_one_line(tmp_path: Path) -> None:
    def build(*args: object, **choices: object) -> Pipeline[Any]:
        raise WeightsError("dit.safetensors: missing key blocks.0.norm")

    clip = make_clip(tmp_path / "in.mp4")
    line = refused(tmp_path, clip, "--prompt", "ink", "-o", tmp_path / "out.mp4", build=build)
    assert "missing key" in line


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(FakePipeline):
        def decode(self, rows: Any) -> Any:
            raise KeyboardInterrupt

    clip = make_clip(tmp_path / "in.mp4")
    status = streamgen_run(clip, "--prompt", "ink", "-o", tmp_path / "out.mp4", build=lambda *_, **__: Interrupted())
    assert status == 130
    assert capsys.readouterr().err.strip() == f"interrupted; {tmp_path / 'out.mp4'} was not written"
    assert list(tmp_path.iterdir()) == [clip]


def test_a_refusal_of_the_pipeline_leaves_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    faulty = FakePipeline(faults={"ink": Fault("open", "params")})
    line = refused(tmp_path, clip, "--prompt", "ink", "-o", tmp_path / "out.mp4", build=lambda *_, **__: faulty)
    assert "programmed refusal" in line


def test_on_the_command_line_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", str(tmp_path / "none.mp4"), "--prompt", "ink", "-o", str(tmp_path / "out.mp4")]
    assert main(argv) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: there is no file {tmp_path / 'none.mp4'}\n"


def test_a_missing_prompt_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["run", "in.mp4", "-o", "out.mp4"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
