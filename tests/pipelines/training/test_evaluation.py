from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.fake import FakePipeline
from pipelines.training.evaluation import Clip, drift, generated_clips, restyled, style_quality, summary
from pipelines.training.styles import STYLES
from streamgen.core import Params, PipelineSpec, Pixels, Row

SIZE = (64, 64)
BASE = Params(width=SIZE[0], height=SIZE[1])


@pytest.fixture(scope="module")
def clip() -> Clip:
    return generated_clips(1, 9, *SIZE)[0]


class Fading(FakePipeline):
    """Stripes, in every chunk a little darker than in the one before: that is drift. Steady where `rate` is 1."""

    def __init__(self, spec: PipelineSpec, rate: float) -> None:
        super().__init__(spec)
        self.rate, self.chunks = rate, 0

    def decode(self, rows: list[Row]) -> list[Pixels]:
        self.chunks += 1
        made = super().decode(rows)
        for picture in made:
            picture[:] = 0
            picture[..., ::2, :] = int(200 * self.rate**self.chunks)
        return made


def test_generated_clips_are_the_same_each_time_and_differ_from_each_other() -> None:
    (a, b), (again, _) = generated_clips(2, 5, *SIZE), generated_clips(2, 5, *SIZE)
    assert np.array_equal(a.frames, again.frames)
    assert not np.array_equal(a.frames, b.frames)


def test_a_clip_comes_out_as_long_as_it_went_in(clip: Clip) -> None:
    pipeline = FakePipeline(replace(FakePipeline().spec, first_chunk_frames=1))
    assert restyled(pipeline, clip.frames, BASE).shape == clip.frames.shape


def test_only_what_drifts_is_found_to(clip: Clip) -> None:
    spec = replace(FakePipeline().spec, first_chunk_frames=1)
    assert drift(Fading(spec, 1.0), clip, BASE, 40) == 0
    assert drift(Fading(spec, 0.998), clip, BASE, 40) == pytest.approx(1 - 0.998**32, abs=0.02)
    with pytest.raises(ValueError, match="3 chunks do not show a clip of 9 frames twice"):
        drift(FakePipeline(spec), clip, BASE, 3)


def test_every_style_is_measured_and_the_summary_names_the_worst(clip: Clip) -> None:
    spec = replace(FakePipeline().spec, first_chunk_frames=1)
    table = style_quality(FakePipeline(spec), clip, BASE)
    assert set(table) == set(STYLES)
    codec = {"one": {"psnr_db": 30.0, "gradient_energy": 0.9}, "two": {"psnr_db": 25.0, "gradient_energy": 1.0}}
    found = summary(codec, {"a": table, "b": table}, BASE.steps)
    assert (found["psnr_db"], found["gradient_energy"]) == (25.0, 0.9)
    assert found["ssim_worst"] == min(row["ssim_2"] for row in table.values())
    assert found["ssim_worst"] <= found["ssim_mean"] <= 1
    ratios = [row["warp_error"] / max(row["target_warp_error"], 1e-6) for row in table.values()]
    assert found["warp_ratio"] == pytest.approx(max(ratios))
